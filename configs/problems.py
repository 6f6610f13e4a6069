"""Problem sections: where a run's questions and reference answers come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section


class ArithmeticProblems(Section):
    """One- and two-step arithmetic word problems, generated from a seed: no download."""

    source: Literal["arithmetic"] = "arithmetic"
    count: int = Field(256, ge=1)
    seed: int = 0
    two_step_share: float = Field(0.25, ge=0, le=1)
    largest: int = Field(20, ge=2)
    """Largest number in a question."""
    split: Literal["train", "heldout"] = "train"
    """A calculation belongs to one of the two by its hash (a fifth is held out), so that whatever their seeds and sizes no
    question of a "heldout" set occurs in a "train" set, reworded or not."""


class JsonlProblems(Section):
    """Problems from a JSONL file (or a JSON array), one object each."""

    source: Literal["jsonl"] = "jsonl"
    path: str
    """Relative paths are relative to the current directory."""
    suite: str | None = None
    """Name of the suite in the tables; the file's stem by default."""
    question_field: str | tuple[str, ...] = "question"
    """Dots enter nested objects ("item.text"). Several fields are joined by a space."""
    answer_field: str = "answer"
    id_field: str | None = None
    """Without one, a problem's id is the hash of its question (and of how often the file asked it before)."""
    answer_after: str | None = None
    """Keep only what follows the last of these marks in the answer, "#### " for GSM8K."""
    empty_answers: Literal["refuse", "skip"] = "refuse"
    """A row without a reference answer cannot be graded: an error naming the line, or left out."""
    limit: int | None = Field(None, ge=1)
    """Take the first N problems; None: all."""


class ScriptedProblems(Section):
    """Problems of a tabular world: each has a random reward for every word."""

    source: Literal["scripted"] = "scripted"
    count: int = Field(8, ge=1)
    seed: int = 0
    words: tuple[str, ...] = ("ant", "bee", "cat")


ProblemsConfig = Annotated[ArithmeticProblems | JsonlProblems | ScriptedProblems, Field(discriminator="source")]
