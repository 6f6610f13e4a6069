"""Value heads: what a return is expected to be, read off hidden states, each told by a head that never saw its problem.

    head = argmin_w  sum_i c_i (Q_i - w . x_i)^2 + alpha |w|^2        fitted on the other folds' problems

x is the backbone's last hidden state, standardised; alpha is chosen on problems held out inside the fitted folds (messages of
one problem share too much to stand for new ones). A head that had seen a message's own return would hand it back as its
baseline and take the credit away: so nothing is scored by a head fitted on its problem (cross-fitting, Chernozhukov et al.
2018, section 3).

Axes: N alternatives, D features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Vector = npt.NDArray[np.float64]
_PENALTIES = tuple(10.0**power for power in range(-1, 7, 2))
_INNER_FOLDS = 4


def cross_fitted(
    feature_ND: npt.NDArray[np.float32], return_N: Vector, replays_N: Vector, problem_N: list[str], folds: int
) -> Vector:
    """Return the expected return of each row, [N], by a head fitted on other problems only.

    `return_N`: mean return of each; NaN where nothing was scored: such a row is told but not fitted on. `replays_N`: its
    weight, how many replays the mean is over. NaN where no other problem has a scored row.
    """
    expected_N = np.full(len(return_N), np.nan)
    numbers = {problem: number for number, problem in enumerate(sorted(set(problem_N)))}
    number_N = np.array([numbers[problem] for problem in problem_N])
    if len(numbers) < 2:
        return expected_N
    for others, mine in GroupKFold(min(folds, len(numbers))).split(feature_ND, groups=number_N):
        known = others[~np.isnan(return_N[others])]
        if len(known):
            inside = len(set(number_N[known]))
            splits = (
                list(GroupKFold(min(_INNER_FOLDS, inside)).split(known, groups=number_N[known])) if inside > 1 else None
            )
            head = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES, cv=splits))
            with threadpool_limits(limits=1):  # the last bit of a product depends on how many threads share it
                head.fit(feature_ND[known], return_N[known], ridgecv__sample_weight=replays_N[known])
                told_N = head.predict(feature_ND[mine])
            # no return lies beyond those that were seen: a head that says so has been asked too far from what it knows
            expected_N[mine] = np.clip(told_N, return_N[known].min(), return_N[known].max())
    return expected_N
