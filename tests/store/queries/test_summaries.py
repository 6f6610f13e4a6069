"""What a command says at its end has the same digits in whatever order the rows lie."""

from __future__ import annotations

from pathlib import Path
from random import Random

from store.artifacts.artifact import Artifact, StageOutput, provisional
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries.summaries import accuracy_change, round_summary
from tests.support.stored_rounds import Ending, samples

REWARDS = [Random(seed).random() / 3 for seed in range(400)]


def _orders() -> list[list[int]]:
    return [Random(seed).sample(range(len(REWARDS)), len(REWARDS)) for seed in range(6)]


def test_a_rounds_mean_reward_and_spread_do_not_depend_on_the_order_of_rows_or_parts(tmp_path: Path) -> None:
    endings = [Ending(f"e{i}", (f"p{i}:0",), (f"p{i}:0",), reward) for i, reward in enumerate(REWARDS)]
    found = set()
    for number, order in enumerate(_orders()):
        shuffled = [endings[i] for i in order]
        cut = 50 * (number + 1)
        figures, _ = round_summary([samples(tmp_path / str(number), [shuffled[:cut], shuffled[cut:]])])
        found.add((figures["mean_reward"], figures["reward_spread"]))
    assert len(found) == 1


def _evaluated(folder: Path, order: list[int], rewards: list[float]) -> Artifact:
    rows = [{"problem_id": f"p{i}", "reward": rewards[i]} for i in order]
    with open_writer(Layout(folder), "hand", "evaluated") as writer:
        record = writer.write(0, StageOutput({"evaluations": rows}), 0.0)
        return provisional("hand", "evaluated", writer.path, [record])


def test_a_change_in_accuracy_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    found = set()
    for number, order in enumerate(_orders()):
        before = _evaluated(tmp_path / f"{number}-before", order, REWARDS)
        after = _evaluated(tmp_path / f"{number}-after", order[::-1], [reward**2 for reward in REWARDS])
        found.add(tuple(accuracy_change(before, after).values()))
    assert len(found) == 1
