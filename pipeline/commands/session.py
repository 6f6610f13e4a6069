"""What most commands begin with: the round that was named, its configuration recorded, and what it is run with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.errors import ConfigError, StoreError
from configs.load import build_config
from pipeline.execution.context import ExecutionContext, Progress
from pipeline.execution.limits import Limits
from pipeline.rounds.plan import first_changed, wanted_config
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import Round, load_round
from pipeline.steps import ORDER, ROUND
from pipeline.trackers.report import check_trackers
from store.disk.layout import MAIN, Layout, checked_name
from store.runs.records import RoundRef, record_config, rounds
from store.runs.variants import Variant, find_variant, record_variant, steps_of


@dataclass(frozen=True)
class RoundOptions:
    """Hold the options that name a round and say how it is run, as a command line gives them."""

    store: Path
    run: str = "default"
    round: int = 1
    variant: str = MAIN
    config: str | None = None
    """A TOML file or a preset; None: the run's own configuration, else c3.toml."""
    overrides: Sequence[str] = field(default_factory=tuple)
    """As written after --set."""
    max_seconds: float | None = None
    max_evaluations: int | None = None
    workers: int | None = None
    """Parts made side by side; None: as configured."""

    @property
    def layout(self) -> Layout:
        """The store's paths."""
        return Layout(self.store)

    @property
    def ref(self) -> RoundRef:
        """The round's name. ConfigError when the run's or the variant's could leave its folder or confuse a shell."""
        return RoundRef(checked_name(self.run, "--run"), self.round, checked_name(self.variant, "--variant"))


class Session:
    """Hold one round and what one command works with."""

    def __init__(self, round: Round, context: ExecutionContext) -> None:
        self.round = round
        self.context = context
        self.resolver = StepResolver(round)


def open_session(
    options: RoundOptions, progress: Progress | None = None, context: ExecutionContext | None = None
) -> Session:
    """Open a round under its recorded configuration. ConfigError when the run has none.

    `context`: of a command that opens several rounds; its caps and its workers hold for all of them.
    """
    round = load_round(options.layout, options.ref)
    if context is None:
        workers = round.config.workers
        if options.workers is not None:
            workers = workers.model_copy(update={"count": options.workers})
        context = ExecutionContext(progress, Limits(options.max_seconds, options.max_evaluations), workers)
    return Session(round, context)


def configure_session(options: RoundOptions, progress: Progress | None = None, stage: str | None = None) -> Session:
    """Record what holds from this round on, then open it: a configuration for the main line, a branch for a variant.

    `stage`: where a new variant branches; None: at the first stage that its overrides change.
    """
    record_options(options, stage)
    return open_session(options, progress)


def planned_round(options: RoundOptions) -> Round:
    """Return the round as it would be under the options' configuration, nothing recorded."""
    layout, ref = options.layout, options.ref
    return Round(layout, ref, wanted_config(layout, ref, options.config, options.overrides))


def record_options(options: RoundOptions, stage: str | None = None) -> None:
    """Record what holds from this round on. ConfigError when it cannot hold; then nothing is recorded."""
    layout, ref = options.layout, options.ref
    if ref.variant != MAIN:
        _record_variant(options, stage)
        return
    config = wanted_config(layout, ref, options.config, options.overrides)
    check_trackers(config)
    record_config(layout, ref.run, ref.round, config.model_dump(mode="json"))


def _record_variant(options: RoundOptions, stage: str | None) -> None:
    """Branch off, or go on with, a variant. ConfigError when its name stands for something else."""
    layout, ref = options.layout, options.ref
    if options.config is not None:
        raise ConfigError(f"--variant {ref.variant}: a variant overrides its run with --set; --config is for the run")
    found = find_variant(layout, ref.run, ref.variant)
    if found is not None and (not options.overrides or tuple(options.overrides) == found.overrides):
        return
    parent = load_round(layout, replace(ref, variant=MAIN))
    config = build_config(parent.config.model_dump(mode="json"), options.overrides, where=f"variant '{ref.variant}'")
    check_trackers(config)
    changed = first_changed(parent, config)
    if stage is not None and changed is not None and ORDER.index(changed) < ORDER.index(stage):
        raise ConfigError(
            f"--variant {ref.variant}: {' '.join(options.overrides)} already changes {changed}, which comes before {stage}; "
            f"branch there: c3 run stage {changed} --round {ref.round} --variant {ref.variant} ..."
        )
    branch = Variant(MAIN, ref.round, stage or changed or ROUND.names[-1], tuple(options.overrides))
    record_variant(layout, ref.run, ref.variant, branch)


def credited_session(options: RoundOptions, named: bool, progress: Progress | None = None) -> Session:
    """Open the round that was named, else the latest credited one. StoreError when there is none."""
    return open_session(options if named else latest_options(options, "advantages"), progress)


def latest_options(options: RoundOptions, step: str) -> RoundOptions:
    """Return the options with the latest round in which a step is recorded. StoreError when there is none."""
    layout, ref = options.layout, options.ref
    for number in reversed(rounds(layout, ref.run, ref.variant)):
        if step in steps_of(layout, replace(ref, round=number)):
            return replace(options, round=number)
    raise StoreError(f"run '{ref.run}' ({ref.variant}) has no {step} in any round; `c3 status` shows what there is")
