"""`c3 verify`: every artifact that a run refers to, byte by byte, row by row, and back along its lineage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import C3Error, CheckError
from pipeline.runner import check
from pipeline.scope import Look, Scope
from pipeline.steps import step_named
from stages.stage import Job
from store import catalog
from store.artifacts import Artifact, content_damage, damage, described
from store.catalog import Reference
from store.layout import Layout
from store.policies import PolicyVersion
from store.query import run_lineage


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    reference: Reference
    problem: str
    cure: str


def verify(store: Path, run: str | None = None) -> Iterator[tuple[Reference, Finding | None]]:
    """Look at everything that the runs refer to; each reference with what is wrong with it, or None."""
    layout = Layout(store)
    seen: dict[tuple[str, str], str | None] = {}
    for reference in catalog.references(layout):
        if run is not None and reference.run != run:
            continue
        name = (reference.stage, reference.key)
        if name not in seen:
            seen[name] = _problem(layout, reference)
        problem = seen[name]
        yield reference, None if problem is None else Finding(reference, problem, _cure(reference))


def _cure(reference: Reference) -> str:
    variant = "" if reference.variant == "main" else f" --variant {reference.variant}"
    command = "evaluation" if reference.step in ("heldout", "answer", "verdict", "evaluate") else "iteration"
    return f"c3 run {command} --run {reference.run} --round {reference.round}{variant} makes it again"


def _problem(layout: Layout, reference: Reference) -> str | None:
    """What is wrong with one artifact, as one line."""
    artifact = described(layout, reference.stage, reference.key)
    if artifact is None:
        return "its manifest is missing or damaged"
    found = damage(artifact) or content_damage(artifact)
    if found:
        return found
    inputs = {}
    for name, entry in artifact.manifest["inputs"].items():
        given = described(layout, entry["stage"], entry["key"])
        if given is None:
            return f"its input {name} ({entry['stage']} {entry['key'][:12]}) is gone, so its lineage cannot be followed"
        if given.digest != entry["digest"]:
            return f"its input {name} now has other rows than it was made from"
        inputs[name] = given
    return _broken_rule(layout, reference, artifact, inputs)


def _broken_rule(layout: Layout, reference: Reference, artifact: Artifact, inputs: dict[str, Artifact]) -> str | None:
    """The first SQL check, or step of the lineage, that does not hold."""
    scope = Scope(layout.root, reference.run, reference.round, reference.variant)
    try:
        job = replace(Job(scope.config, reference.round, inputs), policy=_of_no_weights())
        check(Look(step_named(reference.step), job, reference.key, {}, None), artifact)
        if reference.step == "advantages":
            run_lineage([*inputs.values(), *_upstream(layout, inputs.values()), artifact])
    except CheckError as error:
        return str(error)
    except C3Error as error:
        return f"cannot be checked: {error}"
    return None


def _of_no_weights() -> PolicyVersion:
    """A stand-in for jobs that are only looked at."""
    return PolicyVersion("unread", "unread", {}, None)


def _upstream(layout: Layout, artifacts: object) -> list[Artifact]:
    """Everything that these were made from, and that from, each once."""
    found: dict[tuple[str, str], Artifact] = {}
    waiting = list(artifacts)  # type: ignore[call-overload]
    while waiting:
        for entry in waiting.pop().manifest["inputs"].values():
            name = (entry["stage"], entry["key"])
            given = described(layout, *name)
            if given is not None and name not in found:
                found[name] = given
                waiting.append(given)
    return list(found.values())
