"""`c3 export`: a round's rows as JSONL for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.stored import CREDITED_STEPS, stored_artifacts
from stages.models.identity import make_codec
from store.artifacts.artifact import Row
from store.disk.atomic import writing
from store.queries.export import exported


def preference_pairs(resolver: StepResolver, role: str | None) -> Iterator[Row]:
    """Yield the best against the worst alternative of every state whose returns differ, as TRL's DPO trainer loads it.

    `prompt` is the text of exactly the stored context, chat template and all: the model's tokenizer, called as it comes, makes
    those token ids of it. `chosen` and `rejected` are the messages without their end token, which TRL adds (also to one that
    was cut: `chosen_truncated`, `rejected_truncated`).
    """
    codec = make_codec(resolver.round.config.engine)
    artifacts = stored_artifacts(resolver, ("problems", "freeze", *CREDITED_STEPS, "advantages"))
    for row in exported(artifacts, "pairs", {"role": role}):
        yield {
            "prompt": codec.prompt_text(row.pop("context_ids")),
            "chosen": row.pop("chosen"),
            "rejected": row.pop("rejected"),
        } | row


def episodes(resolver: StepResolver, source: str | None) -> Iterator[Row]:
    """Yield every terminal evaluation with its messages by role: the form that `c3 import` reads."""
    for row in exported(stored_artifacts(resolver, ("problems", *CREDITED_STEPS)), "episodes", {"source": source}):
        messages = row.pop("messages")
        row["messages"] = {
            message["role"]: {name: value for name, value in message.items() if name != "role" and value is not None}
            for message in messages
        }
        yield row


def write_lines(rows: Iterable[Row], output: Path | None) -> int:
    """Write one JSON object a line, in a file or on standard output; return how many."""
    count = 0
    with writing(output or Path("standard output")):
        opened = output.open("w", encoding="utf-8") if output else nullcontext(sys.stdout)
        with opened as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
    return count
