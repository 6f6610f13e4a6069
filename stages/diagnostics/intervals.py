"""The interval of a handful of independent draws. What resamples problems is in statistics.py."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy import stats

CONFIDENCE = 0.95


def of_draws(draws: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval of the mean of independent draws; None of fewer than two."""
    if len(draws) < 2:
        return None
    mean = fmean(draws)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(draws) - 1)) * stdev(draws) / sqrt(len(draws))
    return mean - half, mean + half
