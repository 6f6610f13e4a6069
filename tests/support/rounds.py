"""Rounds of the worlds, driven without Prefect by the pipeline's own driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.plan import EpisodesPlan, ReplayPlan, RoleReplays
from configs.role_graph import topological_order
from configs.schema import Config
from pipeline.commands.session import RoundOptions, Session, configure_session, open_session
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import RoundRunner, StepReport
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import load_round
from pipeline.steps import ROUND, StepList
from stages.base.resources import Resources
from store.artifacts.artifact import Artifact, Row
from store.disk.layout import MAIN, Layout
from store.runs.records import RoundRef, record_config
from tests.support import worlds


@dataclass
class PlayedRound:
    """A round that ran: its artifacts and reports by step."""

    resolver: StepResolver
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    reports: dict[str, StepReport] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        """What a command that looks at it begins with."""
        return Session(self.resolver.round, ExecutionContext())

    @property
    def config(self) -> Config:
        """The configuration it ran under."""
        return self.resolver.round.config

    @property
    def layout(self) -> Layout:
        """Its store's paths."""
        return self.resolver.round.layout

    @property
    def store(self) -> Path:
        """Its store's root."""
        return self.layout.root

    @property
    def made(self) -> list[str]:
        """Steps of which at least one part was made now."""
        return [name for name, report in self.reports.items() if not report.reused]

    def rows(self, table: str, *steps: str) -> list[Row]:
        """A table's rows, of the named steps or of all."""
        wanted = steps or tuple(self.artifacts)
        return [row for step in wanted for row in self.artifacts[step].rows(table)]

    def by_id(self, table: str, column: str) -> Mapping[str, Row]:
        """A table's rows by an id that is unique."""
        rows = self.rows(table)
        found = {row[column]: row for row in rows}
        assert len(found) == len(rows)
        return found


def resolver_of(store: Path, run: str = "test", number: int = 1, variant: str = MAIN) -> StepResolver:
    """A round under what is recorded for it."""
    return StepResolver(load_round(Layout(store), RoundRef(run, number, variant)))


def under(resolver: StepResolver, config: Config) -> StepResolver:
    """The same round under another configuration, nothing recorded."""
    return StepResolver(replace(resolver.round, config=config))


def session_of(store: Path, run: str = "test", number: int = 1, variant: str = MAIN) -> Session:
    """What a command begins with, for a round whose configuration is recorded."""
    return open_session(RoundOptions(store, run, number, variant))


def configured(store: Path, run: str, number: int, config: str | None, *overrides: str) -> Session:
    """What a command begins with that is given a configuration."""
    return configure_session(RoundOptions(store, run, number, config=config, overrides=overrides))


def drive(
    store: Path,
    config: Config,
    round: int = 1,
    run: str = "test",
    until: str | None = None,
    steps: StepList = ROUND,
    resources: Resources | None = None,
) -> PlayedRound:
    """Record a configuration and run a round under it, with no Prefect.

    `resources` that drove before have their model loaded; without them everything is begun anew.
    """
    record_config(Layout(store), run, round, config.model_dump(mode="json"))
    return drive_on(resolver_of(store, run, round), until, steps, resources)


def drive_on(
    resolver: StepResolver, until: str | None = None, steps: StepList = ROUND, resources: Resources | None = None
) -> PlayedRound:
    """Run what is recorded for the round already: its configuration, variant, draw set or retry."""
    resolver.reload()
    steps = resolver.steps if steps is ROUND else steps
    runner = RoundRunner(resolver, ExecutionContext(resources=resources or Resources()), resolver.inputs_of(steps))
    for step in steps.until(until) if until else steps:
        runner.run(step)
    return PlayedRound(resolver, runner.artifacts, {report.name: report for report in runner.reports})


WORLDS: Mapping[str, Callable[..., Config]] = {
    "solo": worlds.solo,
    "duo": worlds.duo,
    "trio": worlds.trio,
    "diamond": worlds.diamond,
    "four_turns": worlds.four_turns,
    "chain_of_ten": worlds.chain_of_ten,
}
PLANS = ("tree", "replay", "episodes")
PLAYED = [(world, plan) for world in WORLDS for plan in PLANS]


def config_of(world: str, plan: str, **changes: Any) -> Config:
    """One of the worlds under one of the plans."""
    tree = WORLDS[world]()
    order = topological_order({role.name: role.depends_on for role in tree.roles})
    if plan == "tree":
        return WORLDS[world](**changes)
    if plan == "episodes":
        return WORLDS[world](plan=EpisodesPlan(budget=6), **changes)
    # the first role and the last: N (1 + (3 x 2 - 1) + (2 x 1 - 1)) = 2 x 7; a role alone: 2 x (1 + (3 x 1 - 1))
    last = {order[-1]: RoleReplays(alternatives=3 if len(order) == 1 else 2)}
    first = {order[0]: RoleReplays(alternatives=3, replays=2)} if len(order) > 1 else {}
    budget = 14 if first else 6
    return WORLDS[world](plan=ReplayPlan(transcripts=2, roles={**first, **last}, budget=budget), **changes)
