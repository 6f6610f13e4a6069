"""Overlap of two problem sets, by normalised text: whether what is evaluated on is also trained on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from stages.problem_sources.protocol import Problem

# between two digits a mark is part of the number or an operation: 7 - 5, 3/4, 1.5
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s*[-\u2212\u2013/*.,:]\s*(?=\d)")


def overlap(train: Sequence[Problem], heldout: Sequence[Problem]) -> list[tuple[str, str]]:
    """Return pairs (id in `train`, id in `heldout`) that ask one question, in the order of `heldout`.

    Questions are one when they are equal after `normalised`. Every pair is listed, so a question that stands twice on
    one side counts twice.
    """
    asked: dict[str, list[str]] = {}
    for problem in train:
        asked.setdefault(normalised(problem.question), []).append(problem.problem_id)
    return [
        (train_id, problem.problem_id)
        for problem in heldout
        for train_id in asked.get(normalised(problem.question), [])
    ]


def normalised(question: str) -> str:
    """Return text in NFKC, case folded, without invisible characters; punctuation (but between digits) and white space
    become one space.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", question).casefold())
    visible = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    pieces: list[str] = []
    end = 0
    for mark in _BETWEEN_DIGITS.finditer(visible):
        pieces += [_without_punctuation(visible[end : mark.start()]), mark.group().strip()]
        end = mark.end()
    pieces.append(_without_punctuation(visible[end:]))
    return " ".join("".join(pieces).split())


def _without_punctuation(text: str) -> str:
    return "".join(" " if unicodedata.category(character).startswith("P") else character for character in text)
