"""Hand-made samples for the credit tests: a decision is named by its problem and path of draws, as in `p:0.1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from store.artifacts import Artifact, Product, Row, open_writer, provisional
from store.credit import write_advantages
from store.layout import Layout

ROLES = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Ending:
    """A terminal evaluation: its messages in speaking order, those it counts towards, and its reward."""

    episode_id: str
    messages: tuple[str, ...]
    credited: tuple[str, ...]
    reward: float | None


def state_of(decision: str) -> str:
    """The state a decision was made at: its problem and the draws before its own."""
    problem, _, draws = decision.partition(":")
    return f"{problem}:{draws.rpartition('.')[0]}"


def role_of(decision: str) -> str:
    """The role that speaks at a decision's depth."""
    return ROLES[decision.count(".")]


def samples(folder: Path, parts: Sequence[Sequence[Ending]]) -> Artifact:
    """The stored tables of these evaluations, a part for each list, rows in the order given."""
    decisions = list(dict.fromkeys(name for part in parts for ending in part for name in ending.messages))
    with open_writer(Layout(folder), "hand", "made") as writer:
        records = []
        for index, part in enumerate(parts):
            tables = {
                "transcripts": [],
                "decisions": [_decision(name) for name in decisions[index :: len(parts)]],
                "replays": [_replay(ending) for ending in part],
                "rewards": [_reward(ending) for ending in reversed(part)],
            }
            records.append(writer.write(index, Product(tables), 0.0))
        return provisional("hand", "made", writer.path, records)


def credit(
    folder: Path,
    parts: Sequence[Sequence[Ending]],
    estimator: str,
    normalisation: str = "none",
    group_by: str = "state",
) -> list[Row]:
    """The advantages table of hand-made samples."""
    target = folder / "advantages.parquet"
    write_advantages([samples(folder, parts)], estimator, normalisation, group_by, target)
    return list(pq.read_table(target).to_pylist())


def _decision(name: str) -> Row:
    problem, _, draws = name.partition(":")
    path = [int(draw) for draw in draws.split(".")]
    row = {"decision_id": name, "state_id": state_of(name), "context_id": f"seen at depth {len(path)}"}
    row |= {"problem_id": problem, "role": role_of(name), "depth": len(path), "path": path, "draw": path[-1]}
    return row | {"is_logged": False, "policy_version": "frozen"}


def _replay(ending: Ending) -> Row:
    row = {"episode_id": ending.episode_id, "problem_id": ending.messages[0].partition(":")[0]}
    return row | {"decision_ids": list(ending.messages), "credited": list(ending.credited)}


def _reward(ending: Ending) -> Row:
    return {"episode_id": ending.episode_id, "reward": ending.reward}
