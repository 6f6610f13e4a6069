"""What a round will do before it does it: its cost, and which steps are there, to be made, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.load import DEFAULT_FILE, build_config, load_config
from configs.schema import Config
from pipeline.rounds.policy import has_predecessor
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import Round, load_round
from pipeline.rounds.state import StepState
from stages.problem_sources.overlap import overlap
from stages.problem_sources.registry import load_problems
from store.artifacts.artifact import load_manifest
from store.disk.layout import MAIN, Layout
from store.runs.records import RoundRef, RunRecord, StepRecord
from store.runs.variants import find_variant, steps_of

Planned = tuple[str, str, str]
"""Step, what will become of it, why."""


def wanted_config(layout: Layout, ref: RoundRef, source: str | None, overrides: Sequence[str]) -> Config:
    """Return the configuration a command would use, nothing recorded: a file, else the run's own, else c3.toml.

    ConfigError when there is none of these.
    """
    record = RunRecord.load(layout, ref.run)
    recorded = record.config_at(ref.round) if record else None
    if ref.variant != MAIN and recorded is not None:
        own = load_round(layout, ref).config
        return build_config(own.model_dump(mode="json"), overrides, where=f"variant '{ref.variant}'")
    if source is None and recorded is None and Path(DEFAULT_FILE).exists():
        source = DEFAULT_FILE
    if source is not None:
        return load_config(source, overrides)
    if recorded is not None:
        return build_config(recorded, overrides, where=f"run '{ref.run}'")
    raise ConfigError(
        f"run '{ref.run}' has no configuration yet: give --config FILE_OR_PRESET, or write {DEFAULT_FILE} with `c3 init`"
    )


def heldout_overlap(config: Config) -> tuple[int, int] | None:
    """Return how many held-out problems are trained on too (by normalised text), and of how many; None without any."""
    if config.evaluate.problems is None:
        return None
    heldout = load_problems(config.evaluate.problems)
    shared = {heldout_id for _, heldout_id in overlap(load_problems(config.problems), heldout)}
    return len(shared), len(heldout)


def plan_steps(round: Round) -> list[Planned]:
    """Return per step of the round: reused, made, or depending on what comes before."""
    layout, ref = round.layout, round.ref
    if find_variant(layout, ref.run, ref.variant) is None:  # a variant that is only thought of is the main line
        round = replace(round, ref=replace(ref, variant=MAIN))
    resolver = StepResolver(round)
    if not has_predecessor(round):
        return [(step.name, "made", f"once round {ref.round - 1} has run") for step in resolver.steps]
    recorded = _recorded(round)
    state = resolver.resolve_steps()
    rows = [_planned(layout, found, recorded.get(found.step.name)) for found in state.steps]
    return rows + [(step.name, "made", "follows what is made above") for step in state.unknown]


def _recorded(round: Round) -> dict[str, StepRecord]:
    """Return what the round's steps were when they last ran; of a variant that has not got so far, its parent's."""
    layout, ref = round.layout, round.ref
    variant = find_variant(layout, ref.run, ref.variant)
    before = steps_of(layout, replace(ref, variant=variant.parent)) if variant is not None else {}
    return {**before, **steps_of(layout, ref)}


def first_changed(round: Round, config: Config) -> str | None:
    """Return the first step of a begun round whose key another configuration changes; None when none does."""
    here = StepResolver(round).resolve_steps()
    there = StepResolver(replace(round, config=config)).resolve_steps()
    for state, other in zip(here.steps, there.steps, strict=False):
        if state.key != other.key:
            return other.step.name  # of two rounds of other steps the one that is asked for
    return None


def _planned(layout: Layout, state: StepState, entry: StepRecord | None) -> Planned:
    name = state.step.name
    if state.artifact is not None:
        return name, "reused", state.key[:12]
    if entry is None:
        return name, "made", "not there yet"
    before = load_manifest(layout, entry.stage, entry.key)
    if before is None or entry.key == state.key:
        return name, "made", "missing or corrupt"
    changed = differences(before.manifest["cache_key_inputs"], state.cache_key_inputs)
    return name, "made", "; ".join(changed) or "changed"


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Return where two keys' parts differ, as "a.b: old -> new"."""
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
