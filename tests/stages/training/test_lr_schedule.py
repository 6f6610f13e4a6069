"""Learning-rate schedules: shares of the rate worked by hand."""

from __future__ import annotations

import pytest

from configs.training import ScheduleConfig
from stages.training.lr_schedule import rate_share


def _shares(schedule: ScheduleConfig, rounds: int, steps: int) -> list[float]:
    return [rate_share(schedule, round, step, steps) for round in range(1, rounds + 1) for step in range(1, steps + 1)]


def test_without_rounds_the_rate_stays() -> None:
    assert _shares(ScheduleConfig(), 3, 2) == [1.0] * 6


def test_linear_falls_step_by_step_over_the_whole_run_and_stays_at_its_end() -> None:
    schedule = ScheduleConfig(kind="linear", rounds=2)
    assert _shares(schedule, 3, 2) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_every_round_holds_the_rate_within_a_round() -> None:
    schedule = ScheduleConfig(kind="linear", rounds=4, every="round")
    assert _shares(schedule, 5, 2) == pytest.approx([1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0])


def test_cosine_is_half_way_down_at_half_time() -> None:
    schedule = ScheduleConfig(kind="cosine", rounds=4, min_lr_ratio=0.1)
    # p = 0, 1/4, 1/2, 3/4, 1: (1 + cos pi p) / 2 = 1, .853553, .5, .146447, 0, times .9, plus .1
    assert _shares(schedule, 5, 1) == pytest.approx([1.0, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


def test_a_warm_up_rises_from_its_first_step_and_then_the_rest_of_the_run_falls() -> None:
    # 10 steps, 40% warm-up: 1/4, 2/4, 3/4, 4/4; then q = 0, 1/6, ..., 5/6
    shares = _shares(ScheduleConfig(kind="linear", rounds=5, warmup_ratio=0.4), 5, 2)
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_warm_up_shorter_than_a_step_is_over_with_it() -> None:
    assert _shares(ScheduleConfig(rounds=8, warmup_ratio=0.001), 1, 2) == [1.0, 1.0]
