"""Versions are raised by hand; these notice when the source behind one changed and nobody decided.

    python tests/architecture/test_stage_versions.py      record the source as it is, once you have decided

A stage's `version` and a component's `VERSION` (an engine, codec, evaluator, learner or problem source) are in the keys of
stored rows. Raise one when rows would come out otherwise: they are made again then. Record without raising it when they
would not: a refactoring must not throw away hours of generation. tests/support/row_sources.py derives who answers for what.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from stages.evaluators.registry import EVALUATORS, EvaluatorModule
from stages.problem_sources.registry import SOURCES, SourceModule
from tests.support.version_guard import STEPS, recorded, sources, undecided, write_record


@pytest.mark.parametrize("name", sources().owners)
def test_a_changed_stage_or_component_was_considered(name: str) -> None:
    message = undecided(sources().owners[name], recorded())
    assert message is None, message


def test_the_record_names_what_there_is_and_nothing_else() -> None:
    assert recorded()["owners"].keys() == sources().owners.keys()
    assert recorded()["files"].keys() == {path for owner in sources().owners.values() for path in owner.files}


def test_every_stage_is_an_owner_under_its_version() -> None:
    versions = {name: owner.version for name, owner in sources().owners.items()}
    assert {step.stage.make.__module__: step.stage.version for step in STEPS}.items() <= versions.items()


def test_every_evaluator_and_problem_source_is_an_owner_under_its_version() -> None:
    versions = {name: owner.version for name, owner in sources().owners.items()}
    modules: list[EvaluatorModule | SourceModule] = [*EVALUATORS.values(), *SOURCES.values()]
    assert {str(vars(module)["__name__"]): module.VERSION for module in modules}.items() <= versions.items()


if __name__ == "__main__":
    write_record()
