"""The summary of a training."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from pipeline.commands.run import LaterStale
from pipeline.commands.training import TrainingResult
from pipeline.views.training import show_training
from store.artifacts.artifact import Row
from store.runs.records import RoundRef


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"problems": 40, "change": 0.25, "half_interval": 0.125},
            "change: +0.250, 95% interval +0.125 to +0.375 (paired over 40 problems)",
        ),
        # one problem has no spread, so its interval is NULL; none scored on both sides has no change either
        ({"problems": 1, "change": 1.0, "half_interval": None}, "change: +1.000, no interval (paired over 1 problem)"),
        ({"problems": 0, "change": None, "half_interval": None}, "change: NULL (paired over 0 problems)"),
    ],
)
def test_the_change_of_accuracy_has_its_interval_where_there_is_one(change: Row, line: str) -> None:
    console = Console(file=StringIO(), record=True, width=80)
    show_training(console, TrainingResult([], [], change, LaterStale(RoundRef("test", 1, "main"), ())))
    assert console.export_text().splitlines()[-1] == line
