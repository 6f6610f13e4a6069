"""What a configuration means that its reader may not expect: lines to print, never a reason to refuse it."""

from __future__ import annotations

from configs.schema import Config
from pipeline.steps import ABLATED_REPLAYS
from store.queries.estimators import estimator, estimators


def config_warnings(config: Config) -> list[str]:
    """Return one line per surprise in the configuration; empty for most."""
    lines = []
    chosen = config.advantages
    alike = _same_z_score(config)
    if chosen.normalisation == "group_std" and alike:
        lines.append(
            "advantages.normalisation=group_std: where replay counts are equal, as every plan makes them, the group z-score "
            "cancels the factor n/(n-1) and whatever is the same for a whole group, so "
            f"{', '.join(alike[:-1])} and {alike[-1]} become the same numbers; and two alternatives get +1 and -1 "
            'whatever their returns were. Compare them with "none" or "batch_std"'
        )
    if estimator(chosen.estimator).last_role == "undefined":
        lines.append(
            f"advantages.estimator={chosen.estimator}: the last role gets no advantage (without its message nothing is graded), "
            f"and update.undefined_advantage = {config.update.undefined_advantage} says what becomes of it"
        )
    if ABLATED_REPLAYS.makes in estimator(chosen.estimator).reads:
        lines.append(f"advantages.estimator={chosen.estimator}: its ablated replays come on top of plan.budget")
    if config.update.kl.coefficient and config.update.kl.estimator == "k1":
        lines.append(
            "update.kl.estimator=k1: in a loss its gradient is that of the log-probs alone, which is zero on average over "
            "what the policy itself says: it holds nothing near the reference and adds noise. k2 has the gradient of the KL; "
            "k1 measures well where update.kl.coefficient is 0"
        )
    return lines


def _same_z_score(config: Config) -> list[str]:
    """Return the estimators that a group z-score makes the same as the chosen one, itself among them; else an empty list."""
    chosen, plan = estimator(config.advantages.estimator), config.plan.kind
    if not chosen.is_constant_in_group(plan):
        return []
    others = (estimator(name) for name in estimators())
    return [other.name for other in others if other.groups == chosen.groups and other.is_constant_in_group(plan)]
