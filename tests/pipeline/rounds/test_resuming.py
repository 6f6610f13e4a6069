"""Going on from anywhere: variants, retries, copies, caps. Nothing is made twice, nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from configs.errors import ConfigError, EvaluatorError
from configs.evaluators import MathEvaluator
from configs.load import build_config, load_config
from configs.problems import JsonlProblems
from configs.schema import Config, PartsConfig, RoundConfig
from pipeline.commands import run as commands
from pipeline.commands.import_transcripts import import_transcripts
from pipeline.commands.session import RoundOptions, configure_session
from pipeline.commands.verify import verify
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import make_part
from pipeline.rounds.recording import record_failure
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.status import RoundStatus, round_statuses
from pipeline.steps import DIAGNOSIS, EVALUATION, ROUND, step_named
from pipeline.views.receipt import retrying
from pipeline.views.status import show_status
from stages.base.resources import Resources
from store.artifacts.artifact import load_manifest
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
from store.queries.catalog_views import query
from store.runs.garbage import garbage, sweep
from store.runs.records import RoundRecord, RoundRef, StepRecord, edit_round, record_config
from tests.conftest import ROOT, Answer, run_c3
from tests.support.kill import on_import
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of, session_of
from tests.support.worlds import solo

Played = Callable[[str, str], PlayedRound]
NO_LOO = ["advantages.estimator=full_mean"]


def _rows(store: Path, text: str) -> list[dict[str, Any]]:
    relation = query(Layout(store), text)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def _files(store: Path, *folders: str) -> dict[str, bytes]:
    """Every part's files by their path, and the manifests without their times."""
    found = {}
    for path in sorted(path for folder in folders for path in (store / folder).rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name in ("manifest.json", "part.json"):
            content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
        found[path.relative_to(store).as_posix()] = content
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_times(item)
            for name, item in value.items()
            if name not in ("seconds", "created_at", "checksum")
        }
    return [_without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def duo(played: Played, store: Path) -> PlayedRound:
    """The duo's first round, in a store that may be written to."""
    copytree(played("duo", "tree").store, store)
    return drive_on(resolver_of(store, "test", 1))


def _variant(
    round: PlayedRound, name: str, overrides: list[str], stage: str | None = None, number: int = 1
) -> StepResolver:
    options = RoundOptions(round.store, round.resolver.round.ref.run, number, name, overrides=overrides)
    return configure_session(options, stage=stage).resolver


# ---- variants


def test_a_variant_generates_nothing_and_is_a_row_in_every_table_by_its_name(duo: PlayedRound) -> None:
    branch = drive_on(_variant(duo, "no-loo", NO_LOO, "advantages"), until="advantages")
    assert branch.made == ["advantages"]
    assert {name: branch.artifacts[name].key for name in branch.artifacts if name != "advantages"} == {
        name: duo.artifacts[name].key for name in branch.artifacts if name != "advantages"
    }
    assert all(not report.usage.get("messages") for report in branch.reports.values())
    for table in ("problems", "transcripts", "decisions", "contexts", "replays", "rewards", "episodes", "advantages"):
        counts = {
            row["variant"]: row["n"]
            for row in _rows(duo.store, f"SELECT variant, count(*) AS n FROM {table} GROUP BY variant")
        }
        assert counts["no-loo"] == counts["main"] > 0
    # fanout 2,4: groups of 2 and of 4, and full_mean is (n - 1)/n of c3 where replay counts are equal
    pairs = _rows(
        duo.store,
        "SELECT a.advantage AS whole, b.advantage AS full_mean, a.group_size AS n FROM advantages a "
        "JOIN advantages b USING (decision_id) WHERE a.variant = 'main' AND b.variant = 'no-loo'",
    )
    assert len(pairs) == 40
    assert [p["full_mean"] for p in pairs] == pytest.approx([p["whole"] * (p["n"] - 1) / p["n"] for p in pairs])


def test_a_variant_goes_on_to_an_update_and_rounds_of_its_own(duo: PlayedRound) -> None:
    config = config_of("duo", "tree")
    main = [duo, drive(duo.store, config, round=2)]
    branch = drive_on(_variant(duo, "no-loo", NO_LOO, "advantages"))
    assert branch.made == ["advantages", "update"]
    second = drive_on(_variant(duo, "no-loo", [], number=2))
    assert second.made == [name for name in second.reports if name != "problems"]
    assert (
        second.resolver.policy_before.version
        == branch.resolver.policy_after.version
        != main[1].resolver.policy_before.version
    )
    assert {row["estimator"] for row in second.rows("advantages")} == {"full_mean"}
    assert drive(duo.store, config, round=2).made == []  # the main line is as it was


def test_a_variant_can_branch_at_an_earlier_stage(duo: PlayedRound) -> None:
    branch = drive_on(_variant(duo, "hot", ["sampling.temperature=2.0"]))
    assert branch.made == [name for name in branch.reports if name != "problems"]
    with pytest.raises(ConfigError, match="already changes rollout, which comes before advantages"):
        _variant(duo, "hotter", ["sampling.temperature=3.0"], "advantages")


def test_a_variant_of_the_same_name_with_other_overrides_is_refused(duo: PlayedRound) -> None:
    _variant(duo, "no-loo", NO_LOO, "advantages")
    _variant(duo, "no-loo", NO_LOO, "advantages")
    _variant(duo, "no-loo", [])
    with pytest.raises(ConfigError, match="--variant no-loo: is already the branch of main at advantages of round 1"):
        _variant(duo, "no-loo", ["advantages.group_by=context"], "advantages")


def test_a_variant_shares_draws_that_the_main_line_was_told_to_use(duo: PlayedRound) -> None:
    with edit_round(duo.layout, RoundRef("test", 1)) as record:
        record.draw_set = 1
    again = drive_on(resolver_of(duo.store, "test", 1))
    branch = drive_on(_variant(duo, "no-loo", NO_LOO, "advantages"), until="advantages")
    assert branch.made == ["advantages"]
    assert branch.artifacts["rollout"].key == again.artifacts["rollout"].key != duo.artifacts["rollout"].key


# ---- other draws


def test_a_redraw_draws_anew_and_the_first_draws_are_still_there(duo: PlayedRound) -> None:
    store = duo.store
    with edit_round(duo.layout, RoundRef("test", 1)) as record:
        record.draw_set = 1
    again = drive_on(resolver_of(store, "test", 1))
    assert again.made == [name for name in again.reports if name != "problems"]
    drawn = {row["decision_id"] for row in duo.rows("decisions")}
    assert drawn.isdisjoint(row["decision_id"] for row in again.rows("decisions"))
    assert {row["seed"] for row in duo.rows("decisions")}.isdisjoint(row["seed"] for row in again.rows("decisions"))
    with edit_round(duo.layout, RoundRef("test", 1)) as record:
        record.draw_set = 0
    assert drive_on(resolver_of(store, "test", 1)).made == []


# ---- graded again: only what the evaluator failed on


@pytest.fixture
def out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names, line by line, answers at which the math evaluator's library breaks down for now.

    In place of math-verify, which takes seconds to come up again, a package of its name that compares texts.
    """
    folder = tmp_path / "library"
    (folder / "math_verify").mkdir(parents=True)
    (folder / "math_verify/__init__.py").write_text(
        "import pathlib, sys\n"
        "class ExprExtractionConfig: pass\n"
        "class LatexExtractionConfig:\n"
        "    def __init__(self, **options): pass\n"
        "def parse(text, **options):\n"
        "    return [text.removeprefix('\\\\boxed{').removesuffix('}')]\n"
        "def verify(answer, output, **options):\n"
        "    broken = pathlib.Path(__file__).parents[1] / 'out-of-order'\n"
        "    if output[0] in broken.read_text().splitlines():\n"
        "        sys.exit('out of order')\n"
        "    return answer == output\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder / "out-of-order"


@pytest.fixture
def sums(tmp_path: Path) -> Config:
    """A team of one that says 1, 2 or 3, graded by math-verify; at most two thirds may stay unscored."""
    problems = tmp_path / "sums.jsonl"
    problems.write_text("".join(f'{{"question": "q {i}", "answer": "{1 + i % 3}"}}\n' for i in range(4)))
    world = solo(
        (3,),
        words=("1", "2", "3"),
        problems=4,
        parts=PartsConfig(problems_per_part=2),
        rounds=RoundConfig(problems_per_round=4),
    )
    grade = world.grade.model_copy(update={"evaluator": MathEvaluator(), "max_unscored_share": 1.0})
    return world.model_copy(update={"problems": JsonlProblems(path=str(problems)), "grade": grade})


def _by_output(round: PlayedRound) -> dict[str, set[float | None]]:
    said = {row["episode_id"]: row["output"] for row in round.rows("transcripts")}
    found: dict[str, set[float | None]] = {}
    for row in round.rows("rewards"):
        found.setdefault(said[row["episode_id"]], set()).add(row["reward"])
    return found


def test_only_missing_rewards_are_graded_again(store: Path, sums: Config, out_of_order: Path) -> None:
    out_of_order.write_text("2\n3\n")
    first = drive(store, sums)
    said = [row["output"] for row in first.rows("transcripts")]
    assert set(said) == {"1", "2", "3"}
    assert _by_output(first)["2"] == _by_output(first)["3"] == {None}
    assert None not in _by_output(first)["1"]
    assert drive(store, sums).made == []  # what failed is not asked for again by itself

    out_of_order.write_text("1\n3\n")  # 1 would now fail, but it has its reward
    assert commands.request_retry(session_of(store, "test", 1))
    second = drive_on(resolver_of(store, "test", 1))
    missing = said.count("2") + said.count("3")
    assert second.reports["grade"].usage == {"evaluations": missing, "retried": missing, "now_scored": said.count("2")}
    assert retrying(second.reports["grade"]) == (
        f"grade: {missing} missing rewards graded again; {said.count('2')} of them are there now, "
        f"{said.count('3')} are still missing"
    )
    assert second.made == ["grade", "advantages", "update"]
    kept = {row["episode_id"]: row for row in first.rows("rewards") if row["error"] is None}
    assert {row["episode_id"]: row for row in second.rows("rewards") if row["episode_id"] in kept} == kept
    assert _by_output(second)["3"] == {None} and None not in _by_output(second)["2"]
    assert first.artifacts["grade"].path.exists() and second.artifacts["grade"].key != first.artifacts["grade"].key

    out_of_order.write_text("")
    assert commands.request_retry(session_of(store, "test", 1))
    third = drive_on(resolver_of(store, "test", 1))
    assert third.reports["grade"].usage["now_scored"] == said.count("3")
    assert None not in set().union(*_by_output(third).values())
    assert not commands.request_retry(session_of(store, "test", 1))  # nothing is missing any more
    assert drive_on(resolver_of(store, "test", 1)).made == []
    assert [finding for _, finding in verify(Layout(store)) if finding] == []
    assert list(garbage(Layout(store))) == [g for g in garbage(Layout(store)) if g.stage in ("advantages", "update")]
    unscored = _rows(store, "SELECT count(*) - count(reward) AS n, count(*) AS all FROM rewards")
    assert unscored == [{"n": 0, "all": len(said)}]

    # where nothing ever failed the same rewards come out
    whole = drive(store.with_name("another"), sums)
    assert {name: artifact.digest for name, artifact in whole.artifacts.items()} == {
        name: artifact.digest for name, artifact in third.artifacts.items()
    }


def test_a_retry_that_fails_as_before_leaves_what_follows_as_it_is(
    store: Path, sums: Config, out_of_order: Path
) -> None:
    out_of_order.write_text("3\n")
    drive(store, sums)
    assert commands.request_retry(session_of(store, "test", 1))
    assert drive_on(resolver_of(store, "test", 1)).made == ["grade"]
    # asked again, it is tried again: another attempt is another artifact
    assert commands.request_retry(session_of(store, "test", 1))
    assert drive_on(resolver_of(store, "test", 1)).made == ["grade"]


def test_retried_rewards_that_are_corrupt_are_made_again_from_those_before(
    store: Path, sums: Config, out_of_order: Path
) -> None:
    out_of_order.write_text("3\n")
    first = drive(store, sums)
    out_of_order.write_text("")
    commands.request_retry(session_of(store, "test", 1))
    retried = drive_on(resolver_of(store, "test", 1)).artifacts["grade"]
    (retried.path / "part-00000/rewards.parquet").write_bytes(b"")
    again = drive_on(resolver_of(store, "test", 1))
    assert again.made == ["grade"]
    assert (again.reports["grade"].parts_made, again.reports["grade"].parts_reused) == (1, 1)
    assert again.artifacts["grade"].digest == retried.digest != first.artifacts["grade"].digest


def test_a_retry_is_asked_of_the_line_that_holds_the_rewards(store: Path, sums: Config, out_of_order: Path) -> None:
    out_of_order.write_text("3\n")
    main = drive(store, sums)
    _variant(main, "full", NO_LOO, "advantages")
    with pytest.raises(ConfigError, match="takes its grade of round 1 from 'main'; retry it there: c3 run stage grade"):
        commands.request_retry(session_of(store, "test", 1, "full"))
    with pytest.raises(ConfigError, match="freeze gives no rewards"):
        commands.request_retry(main.session, "freeze")
    out_of_order.write_text("")
    commands.request_retry(main.session)
    retried = drive_on(resolver_of(store, "test", 1))
    shared = drive_on(resolver_of(store, "test", 1, "full"), until="advantages")
    assert shared.artifacts["grade"].key == retried.artifacts["grade"].key
    assert shared.made == ["advantages"]


def test_too_many_failures_are_no_artifact_and_need_no_retry(store: Path, sums: Config, out_of_order: Path) -> None:
    strict = sums.model_copy(update={"grade": sums.grade.model_copy(update={"max_unscored_share": 0.0})})
    out_of_order.write_text("1\n2\n3\n")
    with pytest.raises(EvaluatorError, match=r"RuntimeError: math-verify: .*out of order"):
        drive(store, strict)
    out_of_order.write_text("")
    assert commands.request_retry(session_of(store, "test", 1))  # it goes on: there is nothing to retry yet
    round = drive_on(resolver_of(store, "test", 1))
    assert round.made == ["grade", "advantages", "update"]
    assert "retried" not in round.reports["grade"].usage


def test_the_missing_rewards_of_an_evaluation_are_graded_again(store: Path, sums: Config, out_of_order: Path) -> None:
    held = sums.evaluate.model_copy(update={"problems": sums.problems})
    config = sums.model_copy(update={"evaluate": held})
    out_of_order.write_text("1\n2\n3\n")
    first = drive(store, config, round=0, steps=EVALUATION)
    assert {row["reward"] for row in first.rows("rewards")} == {None}
    out_of_order.write_text("")
    resolver = resolver_of(store, "test", 0)
    assert commands.request_retry(session_of(store, "test", 0), "answer_grade")
    second = drive_on(resolver, steps=EVALUATION)
    assert second.made == ["answer_grade", "evaluate"]
    assert None not in {row["reward"] for row in second.rows("rewards")}
    assert drive_on(resolver, steps=EVALUATION).made == []


# ---- elsewhere


def test_a_store_copied_elsewhere_goes_on_with_nothing_made_again(store: Path, tmp_path: Path) -> None:
    config = config_of("four_turns", "tree")
    first = drive(store, config)
    drive_on(_variant(first, "no-loo", NO_LOO, "advantages"))
    elsewhere = tmp_path / "somewhere" / "else"
    for folder in ("runs", "artifacts"):
        copytree(store / folder, elsewhere / folder)
    shutil.rmtree(store)
    assert drive_on(resolver_of(elsewhere, "test", 1)).made == []
    assert drive_on(resolver_of(elsewhere, "test", 1, "no-loo")).made == []
    assert [finding for _, finding in verify(Layout(elsewhere)) if finding] == []
    assert drive_on(resolver_of(elsewhere, "test", 2)).made[:1] == ["rollout"]


def test_a_run_goes_on_without_the_problem_files_that_it_has_read(
    store: Path, sums: Config, out_of_order: Path, tmp_path: Path
) -> None:
    out_of_order.write_text("")
    held = sums.evaluate.model_copy(update={"problems": sums.problems})
    config = sums.model_copy(update={"evaluate": held})
    drive(store, config)
    drive(store, config, steps=EVALUATION)
    (tmp_path / "sums.jsonl").unlink()
    assert drive_on(resolver_of(store, "test", 1)).made == []
    assert drive_on(resolver_of(store, "test", 1), steps=EVALUATION).made == []
    assert drive_on(resolver_of(store, "test", 2)).made == ROUND.names[1:]
    assert [finding for _, finding in verify(Layout(store)) if finding] == []
    # what was never read cannot be known: another run, or the same file read in another way
    with pytest.raises(ConfigError, match=r"sums\.jsonl: cannot be read"):
        drive(store, config, run="other")
    limited = config.model_copy(update={"problems": config.problems.model_copy(update={"limit": 2})})
    with pytest.raises(ConfigError, match=r"sums\.jsonl: cannot be read"):
        drive(store, limited, round=3)


def test_no_file_says_where_it_lies(duo: PlayedRound) -> None:
    drive_on(_variant(duo, "no-loo", NO_LOO))
    files = [path for folder in ("runs", "artifacts") for path in (duo.store / folder).rglob("*") if path.is_file()]
    assert len(files) > 50
    places = [str(duo.store).encode(), str(Path.home()).encode() + b"/", os.getcwd().encode()]
    assert [path for path in files for place in places if place in path.read_bytes()] == []


# ---- garbage


def test_garbage_is_shown_first_and_only_what_nothing_refers_to_is_removed(duo: PlayedRound) -> None:
    store, layout = duo.store, duo.layout
    branch = drive_on(_variant(duo, "no-loo", NO_LOO))
    drive(store, config_of("duo", "tree", seed=7), run="gone")
    shutil.rmtree(store / "runs/gone")
    before = _files(store, "artifacts")
    found = {(entry.stage, entry.key) for entry in garbage(layout)}
    assert _files(store, "artifacts") == before  # looking removes nothing
    used = {(artifact.stage, artifact.key) for round in (duo, branch) for artifact in round.artifacts.values()}
    everything = {(path.parent.name, path.name) for path in layout.artifacts.glob("*/*")}
    assert found == everything - used
    assert {stage for stage, _ in found} == {"rollout", "freeze", "sample", "replay", "grade", "advantages", "update"}
    assert all(sweep(layout, entry) for entry in list(garbage(layout)))
    assert {(path.parent.name, path.name) for path in layout.artifacts.glob("*/*")} == used
    assert drive_on(resolver_of(store, "test", 1)).made == drive_on(resolver_of(store, "test", 1, "no-loo")).made == []


def test_garbage_that_a_live_writer_holds_is_left(duo: PlayedRound) -> None:
    with open_writer(duo.layout, "rollout", "in-the-making") as writer:
        (writer.path / "part-00000").mkdir()
        [entry] = garbage(duo.layout)
        assert not entry.finished
        assert not sweep(duo.layout, entry)
        assert (writer.path / "part-00000").exists()
    assert sweep(duo.layout, entry)
    assert not writer.path.exists()


# ---- transcripts of another system


def _transcripts(round: PlayedRound, path: Path, tokens: bool) -> None:
    decisions = round.by_id("decisions", "decision_id")
    lines = []
    for row in round.rows("transcripts"):
        said = [decisions[decision_id] for decision_id in row["decision_ids"]]
        messages = {
            message["role"]: {
                "text": message["text"],
                "token_ids": message["token_ids"],
                "logprobs": message["behaviour_logprobs"],
            }
            if tokens
            else message["text"]
            for message in said
        }
        lines.append(json.dumps({"problem_id": row["problem_id"], "messages": messages}))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("tokens", [True, False], ids=["with tokens", "text alone"])
def test_imported_transcripts_are_credited_from_freeze_on(
    played: Played, store: Path, tmp_path: Path, tokens: bool
) -> None:
    other = played("duo", "tree")
    _transcripts(other, tmp_path / "theirs.jsonl", tokens)
    config = config_of("duo", "tree")
    record_config(Layout(store), "taken", 1, config.model_dump(mode="json"))
    rollout = import_transcripts(RoundOptions(store, "taken"), tmp_path / "theirs.jsonl")
    assert rollout.key.startswith("import-")
    round = drive_on(resolver_of(store, "taken", 1))
    assert round.made == ["freeze", "sample", "replay", "grade", "advantages", "update"]
    assert round.artifacts["rollout"].key == rollout.key
    resolver = resolver_of(store, "taken", 1)
    look = resolver.resolve(step_named("rollout"), {"problems": round.artifacts["problems"]})
    with pytest.raises(ConfigError, match="--from rollout: the transcripts of round 1 were imported"):
        resolver.copy(look)
    assert [row["text"] for row in round.rows("decisions", "rollout")] == [
        row["text"] for row in other.rows("decisions", "rollout")
    ]
    measured = {row["behaviour_logprobs"] is None for row in round.rows("decisions", "rollout")}
    assert measured == {not tokens}
    assert [finding for _, finding in verify(Layout(store)) if finding] == []
    # a variant branches after the import as after any rollout
    branch = drive_on(_variant(round, "no-loo", NO_LOO, "advantages"), until="advantages")
    assert branch.made == ["advantages"]
    assert branch.artifacts["rollout"].key == rollout.key


def test_a_file_that_does_not_fit_the_plan_is_refused_with_its_line(
    played: Played, store: Path, tmp_path: Path
) -> None:
    record_config(Layout(store), "taken", 1, config_of("duo", "tree").model_dump(mode="json"))
    path = tmp_path / "theirs.jsonl"
    for text, complaint in [
        ('{"problem_id": "x", "messages": {}}\n', "line 1: problem_id 'x' is not in the run's problem set"),
        ("{\n", "line 1: not JSON"),
        (
            '{"problem_id": "scripted-000000", "messages": {"reasoner": "ant"}}\n',
            "line 1: no message of role 'actor'",
        ),
        (
            '{"problem_id": "scripted-000000", "messages": {"reasoner": "ant", "actor": "bee"}}\n',
            "problem scripted-000000 has 1 episodes, the plan wants 2 transcripts",
        ),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=complaint):
            import_transcripts(RoundOptions(store, "taken"), path)
    assert list((store / "artifacts").glob("rollout/*/manifest.json")) == []


# ---- status


def _status_of(store: Path, round: int = 1, variant: str = "main", run: str = "test") -> RoundStatus:
    for entry in round_statuses(Layout(store), run):
        if (entry.round, entry.variant) == (round, variant):
            return entry
    raise AssertionError("not there")


def test_status_tells_what_was_made_reused_and_is_missing(duo: PlayedRound) -> None:
    store = duo.store
    drive_on(_variant(duo, "no-loo", NO_LOO), until="advantages")
    main, branch = _status_of(store), _status_of(store, variant="no-loo")
    round = ["problems", "rollout", "freeze", "sample", "replay", "grade", "advantages", "update"]
    assert [main.states[name] for name in round] == ["made"] * 8
    assert [branch.states[name] for name in round] == ["reused"] * 6 + ["made", "missing"]
    assert main.states["evaluate"] == "missing"


def test_status_tells_partial_running_failed_and_corrupt_and_why(duo: PlayedRound) -> None:
    store, layout = duo.store, duo.layout
    grade, rollout = duo.artifacts["grade"], duo.artifacts["rollout"]
    (grade.path / "manifest.json").unlink()
    shutil.rmtree(grade.path / "part-00001")
    assert _status_of(store).states["grade"] == "corrupt"  # it was whole once
    drive(store, config_of("duo", "tree", seed=5), run="begun", until="replay")
    begun = resolver_of(store, "begun", 1)
    look = next(look for look in begun.resolve_steps().steps if look.step.name == "grade")
    with open_writer(layout, "grade", look.key) as writer:
        copytree(grade.path / "part-00000", writer.path / "part-00000")
        status = _status_of(store, run="begun")
        assert status.states["grade"] == "running"
        assert status.notes[0].startswith(f"begun round 1 main grade: process {os.getpid()} on ")
    assert _status_of(store, run="begun").states["grade"] == "partial"
    record_failure(begun, look.step, "the grader fell over")
    status = _status_of(store, run="begun")
    assert status.states["grade"] == "failed"
    assert status.notes == ["begun round 1 main grade: the grader fell over"]
    with exclusive_lock(layout, f"rollout-{rollout.key}", "it"):
        assert _status_of(store).states["rollout"] == "made"  # held by a reader of the same key, but it is there
    shutil.rmtree(rollout.path)
    assert _status_of(store).states["rollout"] == "corrupt"


def _status(store: Path, width: int = 80) -> list[dict[str, str]]:
    """The table of `c3 status`, by its headings, which stand where their column begins."""
    console = Console(file=StringIO(), record=True, width=width)
    show_status(console, round_statuses(Layout(store)))
    headings, *lines = [line for line in console.export_text().splitlines() if line.strip()]
    places = [(found[0], found.start()) for found in re.finditer(r"\S+", headings)]
    ends = [start for _, start in places[1:]] + [width]
    return [{name: line[start:end].strip() for (name, start), end in zip(places, ends, strict=True)} for line in lines]


USUAL = ["run", "variant", "round", "roll", "frz", "samp", "repl", "grade", "adv", "upd", "eval", "diag"]


def test_status_has_columns_for_the_steps_that_only_some_rounds_have_where_one_has_them(duo: PlayedRound) -> None:
    store = duo.store
    [main] = _status(store)
    assert list(main) == USUAL
    drive_on(duo.resolver, steps=DIAGNOSIS)  # without a replay of its own
    [main] = _status(store)
    assert (list(main), main["diag"]) == (USUAL, "ok")

    solo = drive_on(_variant(duo, "ccpo", ["advantages.estimator=ccpo"]), until="ablated_replay")
    main, branch = _status(store)
    assert list(branch) == [*USUAL[:8], "abl", "ablgr", *USUAL[8:]]
    assert (main["abl"], main["ablgr"], branch["abl"], branch["ablgr"]) == ("", "", "ok", ".")
    (solo.artifacts["ablated_replay"].path / "manifest.json").unlink()
    shutil.rmtree(solo.artifacts["ablated_replay"].path / "part-00001")
    assert _status(store)[1]["abl"] == "BROKEN"
    record_failure(solo.resolver, step_named("ablated_grade"), "the grader fell over")
    assert _status(store)[1]["ablgr"] == "FAILED"


def test_status_has_a_column_for_learned_values_and_for_replays_that_were_bought(duo: PlayedRound) -> None:
    store = duo.store
    drive_on(_variant(duo, "mappo", ["advantages.estimator=mappo"]))
    main, branch = _status(store, 100)
    assert list(branch) == [*USUAL[:8], "crit", *USUAL[8:]]
    assert (main["crit"], branch["crit"]) == ("", "ok")
    with edit_round(duo.layout, RoundRef("test", 1)) as record:
        record.independent_replays = 2
    resolver = resolver_of(store, "test", 1)
    look = resolver.resolve(step_named("independent_replay"), resolver.inputs_of(DIAGNOSIS))
    with open_writer(duo.layout, "independent_replay", look.key) as writer:
        make_part(writer, look, look.step.stage.cut(look.job)[1], ExecutionContext(resources=Resources()))
    main, branch = _status(store, 100)
    assert list(main) == [*USUAL[:8], "crit", *USUAL[8:11], "indep", "indgr", "diag"]
    assert [(line["indep"], line["indgr"]) for line in (main, branch)] == [("part", "."), ("", "")]
    drive_on(resolver_of(store, "test", 1), steps=DIAGNOSIS)
    assert [(line["indep"], line["indgr"], line["diag"]) for line in _status(store, 100)] == [
        ("ok", "ok", "ok"),
        ("", "", "."),
    ]


# ---- as a user runs it


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
    assert [name for name in STEPS if before[name]["key"] == after[name]["key"]] == ["problems"]


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
        assert _files(side, folder) == _files(story.told.store, folder)


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
            assert _files(store, folder) == _files(told.store, folder)


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
