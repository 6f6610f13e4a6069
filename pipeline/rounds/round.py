"""A round of a run: where it is, and the configuration that holds for it.

Nothing in this folder needs torch or Prefect, so that a finished round is recognised at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError
from configs.load import build_config
from configs.schema import Config
from stages.base.job import Intervention
from store.artifacts.policy_version import PolicyVersion
from store.disk.layout import MAIN, Layout
from store.runs.records import RoundRef, RunRecord, runs
from store.runs.variants import overrides_of


@dataclass(frozen=True)
class Round:
    """Name a round of a run, with the configuration that holds for it. A value: it is never changed."""

    layout: Layout
    ref: RoundRef
    config: Config
    policy: PolicyVersion | None = None
    """Used instead of the one that the records say, before the round and after it; None: the recorded one."""
    intervention: Intervention | None = None
    """What `c3 what-if` asks of it; None everywhere else."""

    @property
    def label(self) -> dict[str, Any]:
        """run, round and variant, as manifests and JSON name them."""
        return {"run": self.ref.run, "round": self.ref.round, "variant": self.ref.variant}

    @property
    def options(self) -> str:
        """The command-line options that name this round."""
        variant = "" if self.ref.variant == MAIN else f" --variant {self.ref.variant}"
        return f"--run {self.ref.run} --round {self.ref.round}{variant}"


def load_round(layout: Layout, ref: RoundRef) -> Round:
    """Return a round with its recorded configuration. ConfigError when the run has none; StoreError when it is corrupt."""
    record = RunRecord.load(layout, ref.run)
    raw = record.config_at(ref.round) if record else None
    if raw is None:
        known = ", ".join(runs(layout)) or "none"
        raise ConfigError(
            f"run '{ref.run}': not in {layout.root} (there is {known}); start it with --config FILE_OR_PRESET"
        )
    return Round(layout, ref, build_config(raw, overrides_of(layout, ref), where=f"run '{ref.run}'"))
