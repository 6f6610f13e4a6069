"""What a round will do before it does it: its cost, and which steps are there, to be made, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.load import DEFAULT_FILE, build_config, load_config
from configs.schema import Config
from pipeline.rounds.cost import round_cost
from pipeline.rounds.round import Scope
from pipeline.rounds.state import Look
from stages.problem_sources.overlap import overlap
from stages.problem_sources.registry import load_problems
from store.artifacts.artifact import load_manifest
from store.disk.layout import MAIN
from store.runs.records import StepRecord, config_at
from store.runs.variants import find_variant, steps_of

__all__ = ["heldout_overlap", "plan_steps", "round_cost", "wanted_config"]

Planned = tuple[str, str, str]
"""Step, what will become of it, why."""


def wanted_config(scope: Scope, source: str | None, overrides: Sequence[str]) -> Config:
    """The configuration a command would use, nothing recorded: a file, else the run's own, else c3.toml."""
    recorded = config_at(scope.layout, scope.run, scope.round)
    if scope.variant != MAIN and recorded is not None:
        return build_config(scope.config.model_dump(mode="json"), overrides, where=f"variant '{scope.variant}'")
    if source is None and recorded is None and Path(DEFAULT_FILE).exists():
        source = DEFAULT_FILE
    if source is not None:
        return load_config(source, overrides)
    if recorded is not None:
        return build_config(recorded, overrides, where=f"run '{scope.run}'")
    raise ConfigError(
        f"run '{scope.run}' has no configuration yet: give --config FILE_OR_PRESET, or write {DEFAULT_FILE} with `c3 init`"
    )


def heldout_overlap(config: Config) -> tuple[int, int] | None:
    """Held-out problems that are trained on too (equal by normalised text), and all of them; None without held-out ones."""
    if config.evaluate.problems is None:
        return None
    heldout = load_problems(config.evaluate.problems)
    shared = {heldout_id for _, heldout_id in overlap(load_problems(config.problems), heldout)}
    return len(shared), len(heldout)


def plan_steps(scope: Scope, config: Config) -> list[Planned]:
    """Per step of the round: reused, made, or depending on what comes before."""
    if (
        find_variant(scope.layout, scope.run, scope.variant) is None
    ):  # a variant that is only thought of is the main line
        scope = Scope(scope.store, scope.run, scope.round)
    scope = scope.under(config)
    if scope.round > 1 and not scope.has_predecessor():
        return [(step.name, "made", f"once round {scope.round - 1} has run") for step in scope.steps]
    recorded = _recorded(scope)
    walk = scope.walk()
    rows: list[Planned] = []
    for look in walk.looks:
        rows.append(_planned(scope, look, recorded.get(look.step.name)))
    rows += [(step.name, "made", "follows what is made above") for step in walk.unknown]
    return rows


def _recorded(scope: Scope) -> dict[str, StepRecord]:
    """What the round's steps were when they last ran; of a variant that has not got so far, its parent's."""
    variant = find_variant(scope.layout, scope.run, scope.variant)
    before = {} if variant is None else steps_of(scope.layout, replace(scope.ref, variant=variant.parent))
    return {**before, **steps_of(scope.layout, scope.ref)}


def first_changed(scope: Scope, config: Config) -> str | None:
    """The first step of a finished or begun round whose key another configuration changes; None when none does."""
    here, there = scope.walk(), scope.under(config).walk()
    for look, other in zip(here.looks, there.looks, strict=False):
        if look.key != other.key:
            return other.step.name  # of two rounds of other steps the one that is asked for
    return None


def _planned(scope: Scope, look: Look, entry: StepRecord | None) -> Planned:
    if look.artifact is not None:
        return look.step.name, "reused", look.key[:12]
    if entry is None:
        return look.step.name, "made", "not there yet"
    before = load_manifest(scope.layout, entry.stage, entry.key)
    if before is None or entry.key == look.key:
        return look.step.name, "made", "missing or corrupt"
    return (
        look.step.name,
        "made",
        "; ".join(differences(before.manifest["cache_key_inputs"], look.cache_key_inputs)) or "changed",
    )


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two keys' parts differ, as "a.b: old -> new"."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted({*before, *after}):
            found += differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            line for i, pair in enumerate(zip(before, after, strict=True)) for line in differences(*pair, f"{path}.{i}")
        ]
    return [] if before == after else [f"{path}: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
