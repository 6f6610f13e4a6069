"""Integrity: whatever file of a store is corrupt is noticed, named, and alone made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from configs.errors import ConfigError, StoreError
from configs.load import load_config
from configs.problems import ScriptedProblems
from configs.schema import Config, EvaluateConfig
from configs.training import UpdateConfig
from pipeline.commands.import_transcripts import import_transcripts
from pipeline.commands.session import RoundOptions
from pipeline.commands.verify import Finding, look_through, problem_of, verify
from pipeline.steps import EVALUATION, ROUND
from stages.base.resources import Resources
from store.artifacts.integrity import load_verified
from store.disk.layout import Layout
from store.disk.records import read_record, write_record
from store.runs.garbage import garbage
from store.runs.records import Reference, RoundRecord, RoundRef, edit_round, record_config
from store.runs.variants import Variant, find_variant, record_variant
from tests.conftest import Answer
from tests.support import worlds
from tests.support.kill import contents
from tests.support.rounds import PlayedRound, config_of, drive, resolver_of

Harm = Callable[[Path], object]
Command = Callable[..., Answer]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_digit(path: Path) -> None:
    """A record that still reads well and says something else."""
    text = path.read_text()
    place = next(index for index, letter in enumerate(text) if letter.isdigit())
    path.write_text(f"{text[:place]}{'1' if text[place] != '1' else '2'}{text[place + 1 :]}")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS: tuple[Harm, ...] = (flip_a_bit, truncate, empty, Path.unlink)
RECORD_HARMS: tuple[Harm, ...] = (*HARMS, flip_a_digit)
NOT_GONE = tuple(harm for harm in RECORD_HARMS if harm is not Path.unlink)

PARTS = {  # step -> the files of its first part
    "problems": ("problems.parquet",),
    "rollout": ("transcripts.parquet", "decisions.parquet"),
    "freeze": ("contexts.parquet",),
    "sample": ("decisions.parquet",),
    "replay": ("replays.parquet", "decisions.parquet", "contexts.parquet"),
    "grade": ("rewards.parquet",),
    "advantages": ("advantages.parquet",),
    "update": (
        "steps.parquet",
        "update_rows.parquet",
        "weights/team/table.safetensors",
        "optimizer/team.safetensors",
        "optimizer/optimizer.json",
    ),
    "heldout": ("problems.parquet",),
    "answer": ("transcripts.parquet", "decisions.parquet"),
    "answer_grade": ("rewards.parquet",),
    "evaluate": ("evaluations.parquet",),
}
FILES = [(step, f"part-00000/{file}") for step, files in PARTS.items() for file in files]
RECORDS = [(step, file) for step in ("grade", "update") for file in ("part-00000/part.json", "manifest.json")]


def _config() -> Config:
    """Two roles, two parts per stage, two parts of the update, and something held out."""
    return worlds.duo(
        update=UpdateConfig(minibatches=2, checkpoint_steps=1),
        evaluate=EvaluateConfig(problems=ScriptedProblems(count=3, seed=1)),
    )


def _drive_all(store: Path) -> dict[str, PlayedRound]:
    """Two rounds and the evaluation after the second, in order."""
    rounds = {f"round {number}": drive(store, _config(), number) for number in (1, 2)}
    return {**rounds, "evaluation": drive(store, _config(), 2, steps=EVALUATION)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two rounds and an evaluation. For reading only."""
    store = tmp_path_factory.mktemp("whole") / "store"
    _drive_all(store)
    return store


@pytest.fixture(scope="module")
def whole_contents(whole: Path) -> dict[str, object]:
    """Its files."""
    return contents(whole)


@pytest.fixture
def corrupt(whole: Path, store: Path) -> Path:
    """A copy of it, to be corrupted."""
    copytree(whole, store)
    return store


def _findings(store: Path) -> list[Finding]:
    """What `c3 verify` finds wrong with the run's records."""
    return [found for found in look_through(Layout(store), "test") if isinstance(found, Finding)]


def _problem(store: Path, step: str) -> str | None:
    """What `c3 verify` finds wrong with the artifact of a step of the second round."""
    entry = RoundRecord.load(Layout(store), RoundRef("test", 2)).steps[step]
    return problem_of(Layout(store), Reference("test", 2, "main", step, entry.stage, entry.key))


def _folder(store: Path, step: str, round: int) -> Path:
    """The artifact that a round's step refers to."""
    entry = RoundRecord.load(Layout(store), RoundRef("test", round)).steps[step]
    return Layout(store).artifact(entry.stage, entry.key)


@pytest.mark.parametrize(
    "harm", [flip_a_bit, Path.unlink, *(pytest.param(harm, marks=pytest.mark.slow) for harm in (truncate, empty))]
)
@pytest.mark.parametrize(("step", "file"), FILES, ids=[f"{step}/{file}" for step, file in FILES])
def test_a_corrupt_file_is_named_and_only_its_part_is_made_again(
    corrupt: Path, whole_contents: dict[str, object], step: str, file: str, harm: Harm
) -> None:
    _is_named_and_healed(corrupt, whole_contents, step, file, harm, parts_made=1)


@pytest.mark.parametrize("harm", RECORD_HARMS)
@pytest.mark.parametrize(("step", "file"), RECORDS, ids=[f"{step}/{file}" for step, file in RECORDS])
def test_a_corrupt_record_of_a_part_or_an_artifact_is_named_and_made_again(
    corrupt: Path, whole_contents: dict[str, object], step: str, file: str, harm: Harm
) -> None:
    parts_made = 0 if file == "manifest.json" else 1  # without its manifest an artifact still has its parts
    _is_named_and_healed(corrupt, whole_contents, step, file, harm, parts_made)


def _is_named_and_healed(
    store: Path, whole: dict[str, object], step: str, file: str, harm: Harm, parts_made: int
) -> None:
    folder = _folder(store, step, 2)
    harm(folder / file)
    assert file in str(_problem(store, step))
    if step == "update":  # what is evaluated is its policy
        with pytest.raises(StoreError, match="c3 run iteration --run test --round 2` to make it again"):
            drive(store, _config(), 2, steps=EVALUATION)
    made = {
        (when, name): report
        for when, round in _drive_all(store).items()
        for name, report in round.reports.items()
        if not report.reused
    }
    # the problems of the set are one artifact for both rounds, so the first round meets the corruption
    when = "round 1" if step == "problems" else "evaluation" if step in PARTS and step in EVALUATED else "round 2"
    assert list(made) == [(when, step)]
    report = made[when, step]
    assert report.parts_made == parts_made
    if not (harm is Path.unlink and file == "manifest.json"):  # then it never was finished, as far as one can tell
        [line] = report.corruption
        assert line.startswith(f"{folder.parent.name} {folder.name[:12]}: {file} ")
    assert contents(store) == whole


EVALUATED = [step.name for step in EVALUATION]


def test_verify_accepts_a_whole_store(whole: Path) -> None:
    assert [finding for _, finding in verify(Layout(whole)) if finding is not None] == []


def test_verify_names_a_corrupt_file_and_everything_that_cannot_be_checked_without_it(corrupt: Path) -> None:
    flip_a_bit(_folder(corrupt, "grade", 2) / "part-00000/rewards.parquet")
    findings = {finding.place: finding.problem for _, finding in verify(Layout(corrupt)) if finding is not None}
    key = _folder(corrupt, "grade", 2).name[:12]
    file = f"grade {key}: part-00000/rewards.parquet has changed since it was written (sha256)"
    assert findings.pop("run test round 2 main grade") == file
    unchecked = f"cannot be checked against grade {key}, which is corrupt"
    assert findings == dict.fromkeys((f"run test round 2 main {step}" for step in ("advantages", "update")), unchecked)


def test_a_part_that_is_gone_whole_is_named_and_made_again(corrupt: Path, whole_contents: dict[str, object]) -> None:
    rmtree(_folder(corrupt, "sample", 1) / "part-00001")
    report = _drive_all(corrupt)["round 1"].reports["sample"]
    assert (report.parts_made, report.parts_reused) == (1, 1)
    assert "part-00001/part.json is missing" in report.corruption[0]
    assert contents(corrupt) == whole_contents


@pytest.mark.parametrize("harm", HARMS)
def test_a_part_corrupt_before_its_artifact_was_finished_is_named_and_made_again(
    corrupt: Path, whole_contents: dict[str, object], harm: Harm
) -> None:
    folder = _folder(corrupt, "grade", 2)
    (folder / "manifest.json").unlink()
    harm(folder / "part-00001/rewards.parquet")
    report = _drive_all(corrupt)["round 2"].reports["grade"]
    assert (report.parts_made, report.parts_reused) == (1, 1)
    assert "part-00001/rewards.parquet" in report.corruption[0]
    assert contents(corrupt) == whole_contents


@pytest.mark.parametrize(
    ("needed", "step"),
    [(needed, step.name) for step in (*ROUND, *EVALUATION) for needed in step.inputs],
    ids=lambda value: str(value),
)
def test_a_corrupt_artifact_is_never_read_by_a_later_stage(corrupt: Path, needed: str, step: str) -> None:
    part = _folder(corrupt, needed, 2) / "part-00000"
    flip_a_bit(next(part.glob("*.parquet")))
    resolver = resolver_of(corrupt, "test", 2)
    with pytest.raises(StoreError, match=f"{step} of round 2 needs {needed}, which"):
        resolver.artifacts_before(step)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", ["part.json", "weights/team/table.safetensors", "optimizer/team.safetensors"])
def test_a_round_that_starts_from_a_corrupt_policy_says_which_file_and_what_to_run(
    corrupt: Path, whole_contents: dict[str, object], file: str, harm: Harm
) -> None:
    harm(_folder(corrupt, "update", 1) / "part-00001" / file)
    with pytest.raises(StoreError) as refusal:
        drive(corrupt, _config(), 2)
    words = str(refusal.value)
    assert words.startswith("run 'test': the policy of round 1 ")
    assert f"part-00001/{file} " in words
    assert words.endswith("run `c3 run iteration --run test --round 1` to make it again")
    assert drive(corrupt, _config(), 1).made == ["update"]
    assert drive(corrupt, _config(), 2).made == []
    assert contents(corrupt) == whole_contents


def test_a_policy_whose_parents_are_gone_leads_back_to_the_first_round_that_can_run(
    corrupt: Path, whole_contents: dict[str, object]
) -> None:
    for round in (1, 2):
        rmtree(_folder(corrupt, "update", round))
    for round, missing in ((3, 2), (2, 1)):
        with pytest.raises(StoreError, match=f"the policy of round {missing} .* --round {missing}` to make it again"):
            drive(corrupt, _config(), round)
    rounds = _drive_all(corrupt)
    assert [round.made for round in rounds.values()] == [["update"], ["update"], []]


@pytest.mark.parametrize("harm", NOT_GONE)
def test_a_corrupt_record_of_a_run_is_refused_in_one_line_and_named(corrupt: Path, harm: Harm) -> None:
    layout = Layout(corrupt)
    harm(layout.run("test") / "run.json")
    with pytest.raises(StoreError, match=r"run\.json: corrupt .*put back a copy"):
        drive(corrupt, _config(), 2)
    [finding] = _findings(corrupt)
    assert "run.json: corrupt" in finding.problem


def test_a_run_without_its_record_is_named_kept_and_goes_on_with_its_configuration(
    corrupt: Path, whole_contents: dict[str, object]
) -> None:
    (Layout(corrupt).run("test") / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"run 'test': not in .* start it with --config"):
        resolver_of(corrupt, "test", 2)
    assert ["run.json: is missing" in finding.problem for finding in _findings(corrupt)][:1] == [True]
    assert list(garbage(Layout(corrupt))) == []  # what it refers to is not garbage
    assert [round.made for round in _drive_all(corrupt).values()] == [[], [], []]
    assert contents(corrupt) == whole_contents


@pytest.mark.parametrize("harm", NOT_GONE)
def test_a_corrupt_record_of_a_round_is_refused_in_one_line_and_written_again_once_deleted(
    corrupt: Path, whole_contents: dict[str, object], harm: Harm
) -> None:
    path = Layout(corrupt).round("test", "main", 1)
    harm(path)
    for round in (1, 2):  # the second starts from its policy
        with pytest.raises(StoreError, match=r"round-00001\.json: corrupt .*delete it"):
            drive(corrupt, _config(), round)
    assert any("round-00001.json: corrupt" in finding.problem for finding in _findings(corrupt))
    path.unlink()
    assert any("round-00001.json: is missing" in finding.problem for finding in _findings(corrupt))
    assert [round.made for round in _drive_all(corrupt).values()] == [[], [], []]
    assert contents(corrupt) == whole_contents


@pytest.mark.parametrize("harm", RECORD_HARMS)
def test_a_variant_without_a_whole_record_is_not_taken_for_the_main_line(corrupt: Path, harm: Harm) -> None:
    layout = Layout(corrupt)
    record_variant(layout, "test", "other", Variant("main", 2, "grade", ("grade.max_unscored_share=0.5",)))
    entry = RoundRecord.load(layout, RoundRef("test", 2)).steps["grade"]
    with edit_round(layout, RoundRef("test", 2, "other")) as record:
        record.steps["grade"] = entry
    harm(layout.variant("test", "other"))
    with pytest.raises(StoreError, match=r"variant\.json: (corrupt|is missing)"):
        find_variant(layout, "test", "other")
    with pytest.raises(StoreError, match=r"variant\.json: (corrupt|is missing)"):
        resolver_of(corrupt, "test", 2, "other")
    assert any("variant.json: " in finding.problem for finding in _findings(corrupt))


def test_corrupt_imported_transcripts_are_never_replaced_by_sampled_ones(
    corrupt: Path, store: Path, tmp_path: Path
) -> None:
    rollout = drive(corrupt, _config(), 1)
    role_and_text = {row["decision_id"]: (row["role"], row["text"]) for row in rollout.rows("decisions", "rollout")}
    file = tmp_path / "theirs.jsonl"
    with file.open("w") as lines:
        for row in rollout.rows("transcripts", "rollout"):
            messages = dict(role_and_text[decision] for decision in row["decision_ids"])
            lines.write(json.dumps({"problem_id": row["problem_id"], "messages": messages}) + "\n")
    record_config(Layout(store), "taken", 1, _config().model_dump(mode="json"))
    key = import_transcripts(RoundOptions(store, "taken"), file).key
    flip_a_bit(Layout(store).artifact("rollout", key) / "part-00000/decisions.parquet")
    with pytest.raises(StoreError, match=r"imported transcripts .* corrupt .*: c3 import FILE --run taken --round 1$"):
        drive(store, _config(), 1, run="taken")
    assert import_transcripts(RoundOptions(store, "taken"), file).key == key
    assert "rollout" not in drive(store, _config(), 1, run="taken").made


def test_a_corrupt_copy_that_a_round_chose_is_made_again_in_its_place(corrupt: Path) -> None:
    layout = Layout(corrupt)
    grade = _folder(corrupt, "grade", 2)
    copy = f"{grade.name}~2"
    copytree(grade, layout.artifact("grade", copy))
    manifest = read_record(grade / "manifest.json")
    assert manifest is not None
    write_record(layout.artifact("grade", copy) / "manifest.json", {**manifest, "key": copy})
    entry = RoundRecord.load(layout, RoundRef("test", 2)).steps["grade"]
    with edit_round(layout, RoundRef("test", 2)) as record:
        record.steps["grade"] = replace(entry, key=copy)
    flip_a_bit(layout.artifact("grade", copy) / "part-00001/rewards.parquet")
    round = drive(corrupt, _config(), 2)
    assert round.made == ["grade"]
    assert (round.artifacts["grade"].key, round.reports["grade"].parts_made) == (copy, 1)


def test_a_command_says_what_it_found_corrupt_and_verify_ends_with_code_3(
    corrupt: Path, c3: Command, prefect_server: str
) -> None:
    folder = _folder(corrupt, "grade", 2)
    flip_a_bit(folder / "part-00001/rewards.parquet")
    line = f"grade {folder.name[:12]}: part-00001/rewards.parquet has changed since it was written (sha256)"
    options = ("--run", "test", "--store", str(corrupt))
    verified = c3("verify", *options)
    assert verified.code == 3
    assert line in verified.out
    answer = c3("run", "iteration", "--round", "2", *options, env={"PREFECT_API_URL": prefect_server})
    assert answer.code == 0, answer.err
    assert f"made again: {line}" in answer.out.splitlines()
    assert c3("verify", *options).code == 0


@pytest.mark.slow
def test_a_corrupt_adapter_or_optimiser_state_is_made_again_to_the_same_bytes(store: Path) -> None:
    small = ["rounds.problems_per_round=2", "plan.fanout=[2,2]", "plan.budget=4", "update.minibatches=2"]
    config = load_config("arithmetic-duo", [*small, "update.checkpoint_steps=1", "sampling.max_new_tokens=4"])
    resources = Resources()
    drive(store, config, resources=resources)
    whole = contents(store)
    part = _folder(store, "update", 1) / "part-00001"
    files = [path for path in sorted(part.rglob("*")) if path.is_file()]
    assert {"adapter_model.safetensors", "adapter_config.json", "team.safetensors"} <= {path.name for path in files}
    for path, harm in product(files, (flip_a_bit, Path.unlink)):
        harm(path)
        with pytest.raises(StoreError, match=f"part-00001/{path.relative_to(part)} .*--round 1` to make it again"):
            _ = resolver_of(store, "test", 2).policy_before
        again = drive(store, config, resources=resources)
        assert (again.made, again.reports["update"].parts_made) == (["update"], 1)
        assert {name: file for name, file in contents(store).items() if name in whole} == whole


@pytest.mark.parametrize("harm", [flip_a_bit, truncate, Path.unlink, lambda path: rmtree(path.parent)])
def test_corruption_is_noticed_and_only_the_corrupt_part_is_made_again(
    played: Callable[[str, str], PlayedRound], store: Path, harm: Harm
) -> None:
    whole = played("duo", "tree")
    copytree(whole.store, store)
    artifact = load_verified(Layout(store), "rollout", whole.artifacts["rollout"].key)
    assert artifact is not None and len(artifact.parts()) == 2
    kept = artifact.parts()[0] / "decisions.parquet"
    written = kept.stat().st_mtime_ns
    harm(artifact.parts()[1] / "decisions.parquet")
    assert load_verified(Layout(store), "rollout", artifact.key) is None
    again = drive(store, config_of("duo", "tree"))
    assert again.made == ["rollout"]
    assert (again.reports["rollout"].parts_made, again.reports["rollout"].parts_reused) == (1, 1)
    assert kept.stat().st_mtime_ns == written
    assert again.artifacts["rollout"].digest == artifact.digest
