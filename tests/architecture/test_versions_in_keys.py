"""What runs while a stage makes its rows is guarded, and the versions of the components that ran are in the stage's key.

Rounds of a scripted world are made while every function that is called and every .sql file that is opened is noted.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from configs.credit import AdvantagesConfig
from configs.problems import ScriptedProblems
from configs.schema import EvaluateConfig
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import RoundRunner
from pipeline.rounds.resolve import StepResolver
from pipeline.steps import DIAGNOSIS, EVALUATION, INTERVENTIONS, Step, StepList
from stages.advantages import ADVANTAGES
from stages.base.job import Intervention, Job
from stages.base.keys import stage_key
from stages.base.resources import Resources
from store.artifacts.artifact import Artifact, StageOutput
from store.queries.estimators import FOLDER, estimators
from store.runs.records import edit_round
from tests.support.rounds import drive, resolver_of
from tests.support.row_sources import module_name
from tests.support.version_guard import EXCLUDED, IN_THE_KEY, ROOT, STEPS, matches, sources
from tests.support.worlds import trio

ESTIMATORS = ("c3", "ccpo", "value_assisted")
"""The plain round, one with ablated replays, one with learned values."""


@dataclass
class Trace:
    """Note which files of this repository work for a stage."""

    files: set[str] = field(default_factory=set)
    active: bool = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Note what runs meanwhile, in threads that begin meanwhile too."""
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        self.active = True
        try:
            yield
        finally:
            self.active = False
            sys.setprofile(None)
            threading.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self.note(frame.f_code.co_filename)

    def note(self, file: str) -> None:
        """Note one file."""
        if self.active:
            self.files.add(file)


TRACES: dict[str, Trace] = {}
"""By the stage's module."""


def _opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith(".sql"):
        for trace in TRACES.values():
            trace.note(str(arguments[0]))


@dataclass
class Made:
    """A step that was made, with what its key is computed from."""

    resolver: StepResolver
    step: Step
    inputs: dict[str, Artifact]

    @property
    def key(self) -> str:
        """The step's key as the code is now."""
        return self.resolver.resolve(self.step, self.inputs).key


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """Every step there is, made once under a trace."""
    sys.addaudithook(_opened)
    found = []
    for estimator in ESTIMATORS:
        config = trio(
            advantages=AdvantagesConfig(estimator=estimator, ablated_replays=1),
            evaluate=EvaluateConfig(problems=ScriptedProblems(count=2, seed=5)),
            problems=2,
        )
        store = tmp_path_factory.mktemp(estimator)
        drive(store, config, until="problems")  # records the configuration
        resolver = resolver_of(store)
        found += _make(resolver, resolver.steps if estimator == ESTIMATORS[-1] else resolver.steps.until("advantages"))
    with edit_round(resolver.round.layout, resolver.round.ref) as record:
        record.independent_replays = 1
    resolver.reload()
    found += _make(resolver, EVALUATION) + _make(resolver, DIAGNOSIS)
    question = Intervention("ant", replays=1, role="reasoner")
    found += _make(StepResolver(replace(resolver.round, intervention=question)), INTERVENTIONS)
    assert {one.step.name for one in found} == {step.name for step in STEPS}
    return found


def _make(resolver: StepResolver, steps: StepList) -> list[Made]:
    runner = RoundRunner(resolver, ExecutionContext(), resolver.inputs_of(steps))
    found = []
    for step in steps:
        runner.context = ExecutionContext(resources=Resources())  # an engine of another step is not this one's
        found.append(Made(resolver, step, dict(runner.artifacts)))
        runner.run(replace(step, stage=_traced(step.stage)))
    return found


def _traced(stage: Any) -> Any:
    trace = TRACES.setdefault(stage.make.__module__, Trace())

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with trace.on():
                return function(*arguments)

        return call

    def make(*arguments: Any) -> StageOutput:
        output: StageOutput = noting(stage.make)(*arguments)
        return replace(output, write_files=noting(output.write_files)) if output.write_files else output

    return replace(stage, make=make, cut=noting(stage.cut))


def _ran(stage: str) -> set[str]:
    """Paths of the repository's files that worked for a stage."""
    return {path for file in TRACES[stage].files if (path := _path(file)) is not None}


def _path(file: str) -> str | None:
    path = Path(file)
    found = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    return found if found in sources().text and sources().runs_code(found) else None


def _components_used(stage: str) -> set[str]:
    return {own for path in _ran(stage) if (own := sources().component.get(module_name(path))) is not None}


def test_all_that_ran_for_a_stage_is_guarded_by_it_or_by_a_component_that_ran(made: list[Made]) -> None:
    owners = sources().owners
    for stage in TRACES:
        assert sources().modules[stage] in _ran(stage), "the trace saw the stage itself"
        answering = [owners[stage], *(owners[name] for name in _components_used(stage))]
        guarded = {path for owner in answering for path in owner.files}
        unguarded = {
            path
            for path in _ran(stage) - guarded
            if module_name(path) not in EXCLUDED and not matches(path, IN_THE_KEY)
        }
        assert unguarded == set(), stage


COMPONENTS = [name for name in sources().owners if name in sources().component]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_raised_version_changes_the_keys_of_the_stages_that_ran_the_component_and_no_others(
    component: str, made: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [one.key for one in made]
    module = import_module(component)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    _forget_identities()
    changed = [one.step.name for one, key in zip(made, before, strict=True) if one.key != key]
    monkeypatch.undo()
    _forget_identities()
    assert changed == [one.step.name for one in made if component in _components_used(one.step.stage.make.__module__)]


def _forget_identities() -> None:
    """Forget what was computed of identities: a version never changes while a process lives."""
    for name, module in list(sys.modules.items()):
        if name.startswith("stages."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def test_every_component_of_the_scripted_world_ran(made: list[Made]) -> None:
    used = {stage: _components_used(stage) for stage in TRACES}
    assert "stages.problem_sources.scripted" in used["stages.problems"]
    assert "stages.evaluators.table" in used["stages.grade"]


@pytest.mark.parametrize("estimator", estimators())
def test_any_change_of_an_estimators_file_changes_the_key_of_its_advantages(
    estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(trio(advantages=AdvantagesConfig(estimator=estimator)), 1)
    before = stage_key(ADVANTAGES, job, None)
    own = FOLDER.joinpath(f"{estimator}.sql").read_text()
    (tmp_path / f"{estimator}.sql").write_text(f"{own}-- {estimator}\n")
    monkeypatch.setattr("store.queries.estimators.FOLDER", tmp_path)
    assert stage_key(ADVANTAGES, job, None) != before
