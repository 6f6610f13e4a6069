"""`c3 verify`: every artifact that a run refers to, byte by byte, row by row, and back along its lineage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from configs.errors import C3Error, CheckError, StoreError
from pipeline.execution.runner import check
from pipeline.rounds.round import Round, load_round
from pipeline.rounds.state import StepState
from pipeline.steps import Step, list_with, step_named
from stages.base.inputs import Inputs
from stages.base.job import Job
from store.artifacts.artifact import Artifact, load_manifest
from store.artifacts.integrity import content_corruption, corruption, corruption_at
from store.artifacts.policy_version import PolicyVersion, version_after
from store.disk.hashing import digest
from store.disk.layout import IMPORTED, Layout
from store.queries.checks import run_lineage
from store.runs.records import Reference, RoundRef, RunRecord, references_of, rounds, run_folders, variants
from store.runs.staleness import base_of
from store.runs.variants import find_variant, steps_of

_UNCHECKED = "cannot be checked: "


@dataclass(frozen=True)
class Finding:
    """Hold something that is not as it should be, and what to do about it."""

    place: str
    """Which run, and where in it."""
    problem: str
    cure: str


@dataclass(frozen=True)
class Verification:
    """Hold what verification came to."""

    artifacts: int
    """Artifacts that were checked, each once."""
    findings: Sequence[Finding]
    """What is wrong, each once, in the order in which it was found; empty: nothing."""


def summary(results: Iterable[tuple[Reference | None, Finding | None]]) -> Verification:
    """Return what the results of `verify` come to. An artifact that several rounds refer to counts once."""
    artifacts: set[tuple[str, str]] = set()
    findings: dict[Finding, None] = {}
    for reference, finding in results:
        if reference is not None:
            artifacts.add((reference.stage, reference.key))
        if finding is not None:
            findings[finding] = None
    return Verification(len(artifacts), list(findings))


def verify(layout: Layout, run: str | None = None) -> Iterator[tuple[Reference | None, Finding | None]]:
    """Check every record of the runs and everything they refer to.

    Yields each reference with what is wrong with it, or None; what is wrong with a record has no reference.
    """
    seen: dict[tuple[str, str], str | None] = {}
    for name in run_folders(layout) if run is None else [run]:
        for found in look_through(layout, name):
            if isinstance(found, Finding):
                yield None, found
                continue
            artifact = (found.stage, found.key)
            problem = seen[artifact] if artifact in seen else problem_of(layout, found)
            if problem is None or not problem.startswith(_UNCHECKED):  # that may be this run's alone
                seen[artifact] = problem
            yield found, None if problem is None else Finding(_place(found), problem, _cure(found))


def look_through(layout: Layout, run: str) -> Iterator[Reference | Finding]:
    """Yield what a run's records refer to, and those of them that are corrupt or gone."""
    try:
        if RunRecord.load(layout, run) is None:
            problem = f"{layout.run_record(run)}: is missing"
            yield Finding(f"run {run}", problem, f"put back a copy, or c3 run iteration --run {run} --config ...")
    except StoreError as error:
        yield Finding(f"run {run}", *_problem_and_cure(error))
    for variant in variants(layout, run):
        first = 1
        try:
            branch = find_variant(layout, run, variant)
            first = branch.round if branch else 1
        except StoreError as error:
            yield Finding(f"run {run} {variant}", *_problem_and_cure(error))
        begun = rounds(layout, run, variant)
        for round in sorted({*begun, *range(first, max(begun, default=0) + 1)}):
            place = f"run {run} round {round} {variant}"
            if round not in begun:
                cure = f"c3 run iteration --run {run} --round {round} finds what it referred to"
                yield Finding(place, f"{layout.round(run, variant, round)}: is missing", cure)
                continue
            try:
                yield from references_of(layout, RoundRef(run, round, variant))
            except StoreError as error:
                yield Finding(place, *_problem_and_cure(error))


def _problem_and_cure(error: StoreError) -> tuple[str, str]:
    """Split an error's line into what is wrong and the cure."""
    problem, _, cure = str(error).partition("; ")
    return problem, cure


def _place(reference: Reference) -> str:
    return f"run {reference.run} round {reference.round} {reference.variant} {reference.step}"


def _cure(reference: Reference) -> str:
    if reference.key.startswith(IMPORTED):
        return f"c3 import FILE --run {reference.run} --round {reference.round} takes the same transcripts again"
    variant = "" if reference.variant == "main" else f" --variant {reference.variant}"
    steps = list_with(reference.step)
    if steps.recorded_as == "interventions":
        return f"the same c3 what-if --run {reference.run} --round {reference.round}{variant} makes it again"
    return f"c3 {steps.command} --run {reference.run} --round {reference.round}{variant} makes it again"


def problem_of(layout: Layout, reference: Reference) -> str | None:
    """Return what is wrong with one artifact, as one line."""
    artifact = load_manifest(layout, reference.stage, reference.key)
    if artifact is None:
        return corruption_at(layout, reference.stage, reference.key)
    found = corruption(artifact) or content_corruption(artifact)
    if found:
        return found
    inputs = {}
    for name, entry in artifact.manifest["inputs"].items():
        given = load_manifest(layout, entry["stage"], entry["key"])
        if given is None:
            return f"its input {name} ({entry['stage']} {entry['key'][:12]}) is gone, so its lineage cannot be followed"
        if given.digest != entry["digest"]:
            return f"its input {name} now has other rows than it was made from"
        inputs[name] = given
    for given in _upstream(layout, [artifact]):
        if corruption(given):
            return f"cannot be checked against {given.stage} {given.key[:12]}, which is corrupt"
    return _broken_rule(layout, reference, artifact, inputs)


def _broken_rule(layout: Layout, reference: Reference, artifact: Artifact, inputs: dict[str, Artifact]) -> str | None:
    """Return the first SQL check, or step of the lineage, that does not hold."""
    step = step_named(reference.step)
    try:
        round = load_round(layout, RoundRef(reference.run, reference.round, reference.variant))
        job = step.stage.job_type(round.config, reference.round, Inputs(inputs), _of_no_weights())
        state = StepState(step, job, reference.key, {}, None)
        try:
            check(state, artifact)
        except CheckError:
            if not _made_otherwise(job, list_with(reference.step), [artifact, *_upstream(layout, [artifact])]):
                raise
            # a configuration recorded since plans something else: `c3 status` calls such a round stale
            check(state, artifact, planned=False)
        if reference.step == "advantages":
            run_lineage([*inputs.values(), *_upstream(layout, inputs.values()), artifact])
            return _lost_policy(round, inputs.values())
    except CheckError as error:
        return str(error)
    except C3Error as error:
        return f"{_UNCHECKED}{error}"
    return None


def _made_otherwise(job: Job, steps: Iterable[Step], artifacts: Iterable[Artifact]) -> bool:
    """Return whether some of these were made under another configuration than the round's now."""
    stages = {step.stage.name: step.stage for step in steps}
    for artifact in artifacts:
        made_under = artifact.manifest.get("cache_key_inputs", {}).get("config")
        if made_under is None or artifact.stage not in stages:
            continue
        with suppress(
            C3Error
        ):  # what the configuration names is not there any more, so there is nothing to compare with
            stage = stages[artifact.stage]
            requested = stage.job_type(job.config, job.round, job.inputs, job.policy)
            if digest(stage.config_slice(requested)) != digest(made_under):
                return True
    return False


def _lost_policy(round: Round, artifacts: Iterable[Artifact]) -> str | None:
    """Return why the policy that these were sampled by cannot be followed to the update that made it; None: it can.

    No update made an untrained policy. Where the round before has been drawn or made again since, that is no corruption:
    `c3 status` calls the round stale.
    """
    sampled = [each for each in artifacts if "policy" in each.manifest.get("cache_key_inputs", {})]
    if round.ref.round <= 1 or not sampled:
        return None
    version, before = sampled[0].manifest["cache_key_inputs"]["policy"], round.ref.round - 1
    lost = f"the policy {version} it was sampled by cannot be followed: "
    entry = steps_of(round.layout, replace(round.ref, round=before)).get("update")
    if entry is None:
        return f"{lost}no update is recorded in round {before}"
    lost += f"update {entry.key[:12]} of round {before}"
    update = load_manifest(round.layout, entry.stage, entry.key)
    if update is None:
        return f"{lost} is gone"
    if corruption(update):
        return f"{lost} is corrupt"
    recorded = update.digest == entry.digest
    if not recorded and version_after(update, base_of(sampled[0]), round.config.policies) != version:
        return f"{lost} now has other weights"
    return None


def _of_no_weights() -> PolicyVersion:
    """Return a stand-in for jobs that are only looked at."""
    return PolicyVersion("unread", "unread", {}, None)


def _upstream(layout: Layout, artifacts: object) -> list[Artifact]:
    """Return everything that these were made from, and that from, each once."""
    found: dict[tuple[str, str], Artifact] = {}
    waiting = list(artifacts)  # type: ignore[call-overload]
    while waiting:
        for entry in waiting.pop().manifest["inputs"].values():
            name = (entry["stage"], entry["key"])
            given = load_manifest(layout, *name)
            if given is not None and name not in found:
                found[name] = given
                waiting.append(given)
    return list(found.values())
