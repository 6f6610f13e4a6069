"""What a configuration means that its reader may not expect: lines to print, never a reason to refuse it."""

from __future__ import annotations

from configs.schema import Config

_CANCELLED = ("c3", "full_mean")
"""Estimators that differ by the factor n/(n-1) alone."""


def config_notes(config: Config) -> list[str]:
    """One line per trap that the configuration is in; empty for most."""
    notes = []
    chosen = config.advantages
    if chosen.normalisation == "group_std" and chosen.estimator in _CANCELLED:
        notes.append(
            "advantages.normalisation=group_std: where replay counts are equal, as every plan makes them, the group z-score "
            "cancels the factor n/(n-1), so c3 and full_mean become the same numbers; and two alternatives get +1 and -1 "
            'whatever their returns were. Compare the two with "none" or "batch_std"'
        )
    if chosen.estimator == "ccpo":
        notes.append(
            "advantages.estimator=ccpo: the last role gets no advantage (without its message nothing is graded), and "
            f"update.undefined_advantage = {config.update.undefined_advantage} says what becomes of it; its solo replays come "
            "on top of plan.budget"
        )
    if config.update.kl.coefficient and config.update.kl.estimator == "k1":
        notes.append(
            "update.kl.estimator=k1: in a loss its gradient is that of the log-probs alone, which is zero on average over "
            "what the policy itself says: it holds nothing near the reference and adds noise. k2 has the gradient of the KL; "
            "k1 measures well where update.kl.coefficient is 0"
        )
    return notes
