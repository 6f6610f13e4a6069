"""Provenance: are the weights that train the ones that sampled? Told by versions, then by log-probs.

    gap_t = log pi_engine(a_t) - log pi_trainer(a_t)        both of the same weights, so 0 but for arithmetic
    w     = exp(- sum_t gap_t) per message                  effective sample share = (sum w)^2 / (n sum w^2)

Truncated sampling (top_p, top_k) that the configuration states explains a positive gap: what is left of the distribution is
renormalised, by at most -log top_p. Only what it cannot explain counts against the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log
from typing import TYPE_CHECKING

from configs.errors import UpdateError
from configs.schema import Config
from stages.base.job import Job
from stages.training.examples import TrainingExample
from store.artifacts.artifact import Row

if TYPE_CHECKING:
    import numpy as np

_BOUND = {"float32": 0.002, "bfloat16": 0.2}
"""update.max_logprob_mismatch = "auto". Measured on the demo: 0.05 in bfloat16, 1e-6 in float32."""


def reject_off_policy_rows(job: Job) -> None:
    """Raise UpdateError when a row was sampled by a policy version that this update may not learn from."""
    lag = job.config.update.max_version_lag
    known = (job.weights.version, *job.weights.earlier[:lag])
    strangers = [row for row in job.rows("advantages") if row["policy_version"] not in known]
    if strangers:
        behind = f" or the {lag} before it" if lag else ""
        raise UpdateError(
            f"update: {len(strangers)} rows were sampled by policy {strangers[0]['policy_version']}, but this update "
            f"learns from {job.weights.version}{behind} (first: decision {strangers[0]['decision_id']}); run the round "
            f"from rollout with the present policy, or raise update.max_version_lag"
        )


def logprob_mismatch(examples: Sequence[TrainingExample], trainer: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return, per role and policy version that sampled, how far engine and trainer are apart (schema: LOGPROB_MISMATCH).

    `trainer`: its log-probs per token by decision, before the first step. Rows without one of the two are not measured.
    """
    import numpy as np  # a finished round is recognised without it

    found = []
    for role, version in dict.fromkeys((example.role, example.policy_version) for example in examples):
        asked = [example for example in examples if (example.role, example.policy_version) == (role, version)]
        pairs = [
            (np.array(example.behaviour_logprobs), np.array(trainer[example.row.decision_id]))
            for example in asked
            if example.behaviour_logprobs is not None and example.row.decision_id in trainer
        ]
        row: Row = {"role": role, "policy": asked[0].row.policy, "policy_version": version, "rows": len(pairs)}
        found.append({**row, "unmeasured": len(asked) - len(pairs), **_figures(pairs)})
    return found


def _figures(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Row:
    import numpy as np

    if not pairs:
        names = (
            "tokens",
            "mean_mismatch",
            "signed_mismatch",
            "p99_mismatch",
            "largest_mismatch",
            "effective_sample_share",
        )
        return {**dict.fromkeys(names), "tokens": 0}
    gap_N = np.concatenate([engine - trainer for engine, trainer in pairs])
    log_weight_A = np.array([float((trainer - engine).sum()) for engine, trainer in pairs])
    weight_A = np.exp(log_weight_A - log_weight_A.max())
    return {
        "tokens": len(gap_N),
        "mean_mismatch": float(np.abs(gap_N).mean()),
        "signed_mismatch": float(gap_N.mean()),
        "p99_mismatch": float(np.quantile(np.abs(gap_N), 0.99)),
        "largest_mismatch": float(np.abs(gap_N).max()),
        "effective_sample_share": float(weight_A.sum() ** 2 / (len(weight_A) * (weight_A**2).sum())),
    }


def mismatch_bound(config: Config, dtype: str) -> float:
    """Return how many nats per token engine and trainer may be apart on average. `dtype`: the coarser of the two."""
    asked = config.update.max_logprob_mismatch
    return _BOUND[dtype] if asked == "auto" else asked


def check_mismatch(
    config: Config,
    version: str,
    dtype: str,
    examples: Sequence[TrainingExample],
    trainer: Mapping[str, Sequence[float]],
) -> None:
    """Raise UpdateError, naming the likely causes, when a role's mean gap is past the bound.

    `version`: of the policy that the update starts from; rows of earlier ones differ by right. `dtype`: the coarser of the
    engine's and the trainer's.
    """
    bound = mismatch_bound(config, dtype)
    explained = inf if config.sampling.top_k else -log(config.sampling.top_p)
    per_role: dict[str, list[float]] = {}
    for example in examples:
        ours = trainer.get(example.row.decision_id)
        if example.policy_version == version and ours is not None and example.behaviour_logprobs is not None:
            gap = (theirs - own for theirs, own in zip(example.behaviour_logprobs, ours, strict=True))
            per_role.setdefault(example.role, []).extend(_unexplained(value, explained) for value in gap)
    for role, left in per_role.items():
        mean = sum(map(abs, left)) / len(left)
        if not mean <= bound:
            raise UpdateError(
                f"update: role '{role}': log-probs as sampled and as recomputed differ by {mean:.3g} a token on average, past "
                f"update.max_logprob_mismatch = {bound:g}; no policy version was written. Likely: {_causes(left)}"
            )


def _unexplained(gap: float, explained: float) -> float:
    """Return what is left of a gap after truncation that was stated."""
    return gap - min(max(gap, 0.0), explained)


def _causes(gap: Sequence[float]) -> str:
    """Return the likely causes, the likeliest first: truncation only ever makes what is sampled look likelier."""
    truncated = "the engine truncated its sampling (top_p, top_k) without saying so"
    others = (
        "the rows were sampled with another adapter or base model, or engine and trainer compute in different dtypes"
    )
    if all(value > -1e-3 for value in gap):
        return f"{truncated}; else {others}"
    return f"{others}; else {truncated}"
