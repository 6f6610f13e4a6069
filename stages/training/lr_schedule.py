"""Learning-rate schedules over a whole run: the share of the configured rate that a step uses. Pure functions.

    p = (round - 1 + (step - 1) / steps) / rounds          how much of the run is over, 0 at its first step
    warm-up    (p + 1 / (rounds steps)) / warmup_ratio      while p < warmup_ratio: the first step moves already
    constant   1
    linear     final + (1 - final) (1 - q)                  q = (p - warmup_ratio) / (1 - warmup_ratio)
    cosine     final + (1 - final) (1 + cos(pi q)) / 2      (arXiv 1608.03983, equation 5, without restarts)

Past its end a schedule stays at its final share.
"""

from __future__ import annotations

from math import cos, pi

from configs.training import ScheduleConfig


def rate_share(schedule: ScheduleConfig, round: int, step: int, steps: int) -> float:
    """Return the share of the learning rate in optimiser step `step` (from 1) of the `steps` of a round (from 1)."""
    if schedule.rounds is None:
        return 1.0
    if schedule.every == "round":
        step, steps = 1, 1
    passed = (round - 1 + (step - 1) / steps) / schedule.rounds
    if passed < schedule.warmup_ratio:
        return min(1.0, (passed + 1 / (schedule.rounds * steps)) / schedule.warmup_ratio)
    if schedule.kind == "constant":
        return 1.0
    over = min(1.0, (passed - schedule.warmup_ratio) / (1.0 - schedule.warmup_ratio))
    left = 1.0 - over if schedule.kind == "linear" else (1.0 + cos(pi * over)) / 2
    return schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * left
