"""How often the engine is asked: once per role and part, with every alternative and replay of a state in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from configs.engines import ScriptedEngineConfig
from configs.role_graph import topological_order
from configs.schema import PartsConfig
from stages.base import resources as stage_tools
from stages.base.resources import Resources
from stages.engines.protocol import Completion, Engine, Request
from stages.engines.scripted.engine import ScriptedEngine
from store.artifacts.artifact import Row, read_part
from tests.support.rounds import PLANS, config_of, drive

STEPS = ("rollout", "sample", "replay")


class Counting(ScriptedEngine):
    """Keeps what each call asked of it."""

    def __init__(self, config: ScriptedEngineConfig) -> None:
        super().__init__(config)
        self.calls: list[list[Request]] = []

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        self.calls.append(list(requests))
        return super().generate(requests, on_message)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("world", ["duo", "trio", "diamond"])
def test_one_call_per_role_and_part_asks_for_all_that_a_state_needs(
    world: str, plan: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Counting] = []

    def make(config: ScriptedEngineConfig) -> Engine:
        made.append(Counting(config))
        return made[-1]

    monkeypatch.setattr(stage_tools, "make_engine", make)
    config = config_of(world, plan, parts=PartsConfig(problems_per_part=2), problems=6)
    roles = topological_order({role.name: role.depends_on for role in config.roles})
    resources = Resources()
    for step in STEPS:
        before = sum(len(engine.calls) for engine in made)
        round = drive(store, config, until=step, resources=resources)
        calls = [call for engine in made for call in engine.calls][before:]
        # part by part and role by role: of every state the seeds of all its messages, in one request
        wanted = [
            sorted(_seeds_by_state(row for row in read_part(part, "decisions") if row["role"] == role))
            for part in round.artifacts[step].parts()
            for role in roles
        ]
        assert [sorted(sorted(request.seeds) for request in call) for call in calls if call] == [w for w in wanted if w]
    assert sum(len(request.seeds) for engine in made for call in engine.calls for request in call) == len(
        round.rows("decisions", *STEPS)
    )


def _seeds_by_state(rows: Iterable[Row]) -> list[list[int]]:
    states: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        states[row["state_id"]].append(row["seed"])
    return [sorted(seeds) for seeds in states.values()]
