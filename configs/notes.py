"""What a configuration means that its reader may not expect: lines to print, never a reason to refuse it."""

from __future__ import annotations

from configs.schema import Config

_CANCELLED = ("c3", "full_mean")
"""Estimators that differ by the factor n/(n-1) alone."""


def config_notes(config: Config) -> list[str]:
    """One line per trap that the configuration is in; empty for most."""
    chosen = config.advantages
    if chosen.normalisation == "group_std" and chosen.estimator in _CANCELLED:
        return [
            "advantages.normalisation=group_std: where replay counts are equal, as every plan makes them, the group z-score "
            "cancels the factor n/(n-1), so c3 and full_mean become the same numbers; and two alternatives get +1 and -1 "
            'whatever their returns were. Compare the two with "none" or "batch_std"'
        ]
    return []
