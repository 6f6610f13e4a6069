"""Hand-made samples for the credit tests: a decision is named by its problem and path of draws, as in `p:0.1`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from store.artifacts.artifact import Artifact, Row, StageOutput, provisional
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries.advantages import write_advantages

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
            records.append(writer.write(index, StageOutput(tables), 0.0))
        return provisional("hand", "made", writer.path, records)


def solo_samples(folder: Path, rewards: Mapping[str, Sequence[float | None]]) -> Artifact:
    """The stored tables of replays without a message: by state, what each of them earned."""
    found = [(state, f"{state}/{i}", reward) for state, earned in rewards.items() for i, reward in enumerate(earned)]
    tables = {
        "interventions": [{"intervention_id": f"{state}~", "state_id": state} for state in rewards],
        "replays": [{"episode_id": name, "alternative_id": f"{state}~"} for state, name, _ in found],
        "rewards": [{"episode_id": name, "reward": reward} for _, name, reward in found],
    }
    with open_writer(Layout(folder), "hand", "ablated_replay") as writer:
        return provisional("hand", "ablated_replay", writer.path, [writer.write(0, StageOutput(tables), 0.0)])


Values = Mapping[str, tuple[float | None, float | None]]
"""Decision -> what value heads expected: V(h) and Q(h, a)."""


def valued(folder: Path, values: Values) -> Artifact:
    """The stored table of a critic that expected these."""
    rows = [{"decision_id": name, "state_value": v, "action_value": q} for name, (v, q) in values.items()]
    with open_writer(Layout(folder), "hand", "valued") as writer:
        record = writer.write(0, StageOutput({"critic_values": rows}), 0.0)
        return provisional("hand", "valued", writer.path, [record])


def credit(
    folder: Path,
    parts: Sequence[Sequence[Ending]],
    estimator: str,
    normalisation: str = "none",
    group_by: str = "state",
    solo: Mapping[str, Sequence[float | None]] | None = None,
    values: Values | None = None,
) -> list[Row]:
    """The advantages table of hand-made samples."""
    target = folder / "advantages.parquet"
    alone = [solo_samples(folder, solo)] if solo else []
    told = [valued(folder, values)] if values else []
    write_advantages([samples(folder, parts), *told], estimator, normalisation, group_by, target, alone)
    return list(pq.read_table(target).to_pylist())


def _decision(name: str) -> Row:
    problem, path = name.partition(":")[0], _path(name)
    row = {"decision_id": name, "state_id": state_of(name), "context_id": f"seen at depth {len(path)}"}
    row |= {"problem_id": problem, "role": role_of(name), "depth": len(path), "path": path, "draw": path[-1]}
    return row | {"is_logged": False, "policy_version": "frozen"}


def _replay(ending: Ending) -> Row:
    row = {"episode_id": ending.episode_id, "problem_id": ending.messages[0].partition(":")[0]}
    row |= {"path": _path(ending.messages[-1])}
    return row | {"decision_ids": list(ending.messages), "credited": list(ending.credited)}


def _path(name: str) -> list[int]:
    return [int(draw) for draw in name.partition(":")[2].split(".")]


def _reward(ending: Ending) -> Row:
    row = {"episode_id": ending.episode_id, "problem_id": ending.messages[0].partition(":")[0], "reward": ending.reward}
    return row | {"decision_ids": list(ending.messages), "credited": list(ending.credited)}
