"""What a configuration means that its reader may not expect: lines to print, never a reason to refuse it."""

from __future__ import annotations

from configs.schema import Config

_ALIKE = (("c3", "ccpo", "full_mean", "global_mean", "mappo"), ("magrpo", "no_replay", "rloo"))
"""Estimators whose advantages differ, within a group, by a number that is the same for all of it and the factor n/(n-1)."""


def config_warnings(config: Config) -> list[str]:
    """One line per trap that the configuration is in; empty for most."""
    notes = []
    chosen = config.advantages
    alike = _same_z_score(config)
    if chosen.normalisation == "group_std" and alike:
        notes.append(
            "advantages.normalisation=group_std: where replay counts are equal, as every plan makes them, the group z-score "
            "cancels the factor n/(n-1) and whatever is the same for a whole group, so "
            f"{', '.join(alike[:-1])} and {alike[-1]} become the same numbers; and two alternatives get +1 and -1 "
            'whatever their returns were. Compare them with "none" or "batch_std"'
        )
    if chosen.estimator == "ccpo":
        notes.append(
            "advantages.estimator=ccpo: the last role gets no advantage (without its message nothing is graded), and "
            f"update.undefined_advantage = {config.update.undefined_advantage} says what becomes of it; its ablated replays come "
            "on top of plan.budget"
        )
    if config.update.kl.coefficient and config.update.kl.estimator == "k1":
        notes.append(
            "update.kl.estimator=k1: in a loss its gradient is that of the log-probs alone, which is zero on average over "
            "what the policy itself says: it holds nothing near the reference and adds noise. k2 has the gradient of the KL; "
            "k1 measures well where update.kl.coefficient is 0"
        )
    return notes


def _same_z_score(config: Config) -> list[str]:
    """The estimators that a group z-score makes the same as the chosen one, itself among them; empty where there are none."""
    for names in _ALIKE:
        # under the replay plan it leaves out other episodes for each message of a group
        alike = [name for name in names if name != "rloo" or config.plan.kind != "replay"]
        if config.advantages.estimator in alike:
            return alike
    return []
