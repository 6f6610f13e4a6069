"""As a user runs it: caps, --until, --from, other draws, variants and workers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.load import build_config, load_config
from pipeline.commands.verify import verify
from store.artifacts.artifact import load_manifest
from store.disk.layout import Layout
from store.runs.records import RoundRecord, RoundRef, StepRecord
from tests.conftest import ROOT, Answer, run_c3
from tests.support.kill import on_import
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.stores import NO_LOO, stored_files

Played = Callable[[str, str], PlayedRound]


STEPS = ["problems", "rollout", "freeze", "sample", "replay", "grade", "advantages", "update"]


class Story:
    """Commands one after the other in one store, reporting to one server; what each left on the terminal."""

    def __init__(self, folder: Path, server: str) -> None:
        self.store = folder / "store"
        self._environment = {"PREFECT_API_URL": server, "PREFECT_HOME": str(folder / "prefect-home")}
        self._folder = folder
        self.steps: dict[str, dict[str, StepRecord]] = {}
        """What the round referred to after each command that succeeded."""

    def tell(self, name: str, *arguments: str, store: Path | None = None) -> Answer:
        """Run `c3 run iteration` of round 1, or what is said."""
        command = arguments if arguments[:1] == ("run",) else ("run", "iteration", "--round", "1", *arguments)
        answer = run_c3(
            self._folder, *command, "--run", "told", "--store", str(store or self.store), env=self._environment
        )
        self.steps[name] = RoundRecord.load(Layout(store or self.store), RoundRef("told", 1)).steps
        return answer


@pytest.fixture(scope="module")
def story(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A round that was stopped by caps, ended, made again beside, drawn anew, and branched."""
    told = Story(tmp_path_factory.mktemp("story"), prefect_server)
    return SimpleNamespace(
        told=told,
        until=told.tell("until", "--config", "scripted-duo", "--until", "freeze"),
        capped=told.tell("capped", "--max-evaluations", "32"),
        late=told.tell("late", "--max-seconds", "0"),
        whole=told.tell("whole"),
        beside=told.tell("beside", "--from", "replay"),
        redrawn=told.tell("redrawn", "--draw-set", "1"),
        branched=told.tell(
            "branched", "run", "stage", "advantages", "--round", "1", "--variant", "no-loo", "--set", *NO_LOO
        ),
        refused=told.tell("refused", "--variant", "no-loo", "--set", "advantages.group_by=context"),
        workers=told.tell("workers", "--config", "scripted-duo", "--workers", "2", store=told.store / "side"),
    )


def _receipt(answer: Answer) -> dict[str, dict[str, str]]:
    """The receipt's lines by step."""
    lines = [line.split() for line in answer.out.splitlines()]
    [headings] = [line for line in lines if line[:2] == ["step", "made"]]
    return {
        line[0]: dict(zip(headings, [*line[:6], " ".join(line[6:])], strict=True))
        for line in lines
        if line and line[0] in STEPS
    }


@pytest.mark.slow
def test_until_stops_after_that_stage(story: SimpleNamespace) -> None:
    assert story.until.code == 0, story.until.err
    assert list(_receipt(story.until)) == sorted(story.told.steps["until"], key=STEPS.index) == STEPS[:3]


@pytest.mark.slow
def test_a_cap_stops_at_the_end_of_a_part_and_the_same_command_goes_on(story: SimpleNamespace) -> None:
    go_on = "what is finished is kept, and the same command goes on from there\n"
    assert story.capped.code == story.late.code == 7
    assert story.capped.err == f"c3: stopped after 32 terminal evaluations, as --max-evaluations 32 asks; {go_on}"
    assert re.fullmatch(rf"c3: stopped after \d+ s, as --max-seconds 0 asks; {go_on}", story.late.err)
    assert (
        list(story.told.steps["late"]) == sorted(story.told.steps["capped"]) and "grade" not in story.told.steps["late"]
    )
    assert story.whole.code == 0, story.whole.err
    grade = _receipt(story.whole)["grade"]
    # 8 problems in parts of 4, fanout 2,4: two parts of 32 evaluations, of which the cap let one through
    assert (grade["made"], grade["reused"], grade["evals"]) == ("1", "1", "32")


@pytest.mark.slow
def test_the_receipt_is_what_the_tables_hold(story: SimpleNamespace) -> None:
    receipt, layout = _receipt(story.whole), Layout(story.told.store)
    found = {name: load_manifest(layout, entry.stage, entry.key) for name, entry in story.told.steps["whole"].items()}
    until, generated = _receipt(story.until), found["rollout"].rows("decisions")
    assert until["rollout"]["messages"] == str(len(generated))
    tokens = sum(row["prompt_tokens"] + len(row["token_ids"]) for row in generated)
    assert until["rollout"]["tokens"] == f"{tokens:,}"
    assert {name: line["reused"] for name, line in receipt.items()} == {
        **{name: str(len(found[name].parts())) for name in STEPS[:5]},
        "grade": "1",
        "advantages": "0",
        "update": "0",
    }
    assert {line["messages"] for line in receipt.values()} == {"0"}
    saved = [row for name in ("rollout", "sample", "replay") for row in found[name].rows("decisions")]
    tokens = sum(row["prompt_tokens"] + row["new_tokens"] for row in saved)
    reused = [part for name in STEPS[:5] for part in found[name].manifest["parts"]] + found["grade"].manifest["parts"][
        :1
    ]
    seconds = sum(part["seconds"] for part in reused)
    (line,) = (line for line in story.whole.out.splitlines() if line.startswith("reused"))
    told = re.fullmatch(rf"reused {len(reused)} parts: {tokens:,} tokens and ([\d.]+) s not spent again", line)
    assert told is not None and float(told[1]) == pytest.approx(seconds, abs=0.051)  # printed to a tenth


@pytest.mark.slow
def test_a_stage_made_again_beside_says_whether_its_rows_are_equal(story: SimpleNamespace) -> None:
    assert story.beside.code == 0, story.beside.err
    receipt = _receipt(story.beside)
    assert {name for name, line in receipt.items() if line["seconds"] == "reused"} == set(STEPS[:4])
    assert {line["seconds"].split()[-1] for line in receipt.values() if line["seconds"] != "reused"} == {"equal"}
    assert story.told.steps["beside"] == story.told.steps["whole"]
    assert list((story.told.store / "artifacts").glob("*/*~*")) == []


FICKLE = """
from stages.evaluators.table import Grade, TableGrader

grade = TableGrader.grade
TableGrader.grade = lambda self, *given: Grade(1 - grade(self, *given).reward, "another day", None)
"""
"""Put before a command's flows: its evaluator gives each word the opposite of what it got."""


def test_a_stage_made_again_to_other_rows_says_so_and_is_the_one_that_the_round_goes_on_with(
    store: Path, tmp_path: Path, prefect_server: str
) -> None:
    first = drive(store, load_config("scripted-duo"), run="told")
    (tmp_path / "sitecustomize.py").write_text(on_import("pipeline.flows.round_flows", FICKLE))
    command = ("run", "iteration", "--round", "1", "--run", "told", "--store", str(store))
    fickle = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PREFECT_API_URL": prefect_server}
    answer = run_c3(tmp_path, *command, "--from", "grade", env=fickle)
    assert answer.code == 0, answer.err
    receipt = _receipt(answer)
    assert receipt["grade"]["seconds"].split()[1:] == ["DIFFERS"]
    # what follows has other inputs than before, so there is nothing of its own to hold it against
    assert {name: line["seconds"].split()[1:] for name, line in receipt.items() if line["made"] != "0"} == {
        "grade": ["DIFFERS"],
        "advantages": [],
        "update": [],
    }
    assert {name for name, line in receipt.items() if line["seconds"] == "reused"} == set(STEPS[:5])

    layout, steps = Layout(store), RoundRecord.load(Layout(store), RoundRef("told", 1)).steps
    before, again = (load_manifest(layout, "grade", key) for key in (first.artifacts["grade"].key, steps["grade"].key))
    assert before is not None and again is not None
    assert again.key == f"{before.key}~2"
    assert again.digest == steps["grade"].digest != before.digest
    earned = [{row["episode_id"]: row["reward"] for row in made.rows("rewards")} for made in (before, again)]
    assert earned[1] == {episode: 1 - reward for episode, reward in earned[0].items()}
    for name in ("advantages", "update"):
        remade = load_manifest(layout, name, steps[name].key)
        assert remade is not None and remade.digest != first.artifacts[name].digest
        given = {"advantages": "grade", "update": "advantages"}[name]
        assert remade.manifest["inputs"][given]["key"] == steps[given].key

    # the copy is the round's from now on, for a command like any other too
    settled = drive_on(resolver_of(store, "told", 1))
    assert settled.made == []
    assert settled.artifacts["grade"].key == again.key
    assert [finding for _, finding in verify(Layout(store)) if finding] == []


@pytest.mark.slow
def test_other_draws_are_asked_for_by_number(story: SimpleNamespace) -> None:
    assert story.redrawn.code == 0, story.redrawn.err
    assert [name for name, line in _receipt(story.redrawn).items() if line["seconds"] == "reused"] == ["problems"]
    before, after = story.told.steps["whole"], story.told.steps["redrawn"]
    assert [name for name in STEPS if before[name].key == after[name].key] == ["problems"]


@pytest.mark.slow
def test_a_variant_is_one_command_that_generates_nothing(story: SimpleNamespace) -> None:
    assert story.branched.code == 0, story.branched.err
    assert {name: (line["made"], line["messages"]) for name, line in _receipt(story.branched).items()} == {
        "advantages": ("1", "0")
    }
    main, branch = (
        story.told.steps["redrawn"],
        RoundRecord.load(Layout(story.told.store), RoundRef("told", 1, "no-loo")).steps,
    )
    assert [name for name in branch if branch[name] != main[name]] == ["advantages"]
    assert story.refused.code == 2
    assert story.refused.err.startswith("c3: --variant no-loo: is already the branch of main at advantages of round 1")


@pytest.mark.slow
def test_parts_made_by_two_workers_have_the_same_bytes(story: SimpleNamespace) -> None:
    assert story.workers.code == 0, story.workers.err
    side = story.told.store / "side"
    assert story.told.steps["workers"] == story.told.steps["whole"]
    for entry in story.told.steps["workers"].values():
        folder = f"artifacts/{entry.stage}/{entry.key}"
        assert stored_files(side, folder) == stored_files(story.told.store, folder)


@pytest.mark.slow
def test_two_workers_of_the_real_model_give_the_same_bytes(prefect_server: str, store: Path, tmp_path: Path) -> None:
    # the engine serves one request at a time, and a part's batches are its own: who comes first makes no difference
    apart = ["policies={plans={},answers={}}", "roles.reasoner.policy=plans", "roles.actor.policy=answers"]
    overrides = [*apart, "rounds.problems_per_round=4", "parts.problems_per_part=1"]
    config = load_config("arithmetic-duo", overrides)
    one = [drive(store, config, 1, run="told"), drive(store, config, 2, run="told", until="replay")]
    told = Story(tmp_path, prefect_server)
    chosen = [argument for override in overrides for argument in ("--set", override)]
    for number, until in (("1", "update"), ("2", "replay")):
        command = ("run", "iteration", "--round", number, "--until", until, "--workers", "2")
        answer = told.tell(number, *command, "--config", "arithmetic-duo", *chosen)
        assert answer.code == 0, answer.err
    for round in one:
        for artifact in round.artifacts.values():
            folder = f"artifacts/{artifact.stage}/{artifact.key}"
            assert stored_files(store, folder) == stored_files(told.store, folder)


def test_the_table_of_parts_and_tokens_is_what_the_tables_hold(store: Path) -> None:
    config = build_config(config_of("trio", "tree").model_dump(mode="json"), ["parts.problems_per_part=1"])
    half = drive(store, config, until="sample")
    shutil.rmtree(half.artifacts["sample"].path / "part-00003")
    shutil.rmtree(half.artifacts["sample"].path / "part-00001")
    round = drive_on(resolver_of(store, "test", 1))
    report = round.reports["sample"]
    assert (report.parts_made, report.parts_reused) == (2, 2)
    parts = list(dict.fromkeys(row["problem_id"] for row in round.rows("contexts", "freeze")))
    rows = round.rows("decisions", "sample")
    made = [row for row in rows if row["problem_id"] in (parts[1], parts[3])]
    for usage, counted in ((report.usage, made), (report.saved, [row for row in rows if row not in made])):
        assert usage["messages"] == len(counted)
        assert usage["prompt_tokens"] == sum(row["prompt_tokens"] for row in counted)
        assert usage["new_tokens"] == sum(row["new_tokens"] for row in counted)
    records = {part["name"]: part for part in round.artifacts["sample"].manifest["parts"]}
    assert report.saved_seconds == records["part-00000"]["seconds"] + records["part-00002"]["seconds"]
    everything = drive_on(resolver_of(store, "test", 1))
    for name in ("rollout", "sample", "replay"):
        rows = everything.rows("decisions", name)
        assert everything.reports[name].saved["messages"] == len(rows)
        assert everything.reports[name].saved["new_tokens"] == sum(len(row["token_ids"]) for row in rows)
        assert everything.reports[name].saved_seconds == everything.artifacts[name].manifest["seconds"]
