"""What the evaluator failed on is graded again, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import ConfigError, EvaluatorError
from configs.schema import Config
from pipeline.commands import run as commands
from pipeline.commands.verify import verify
from pipeline.steps import EVALUATION
from pipeline.views.receipt import retrying
from store.disk.layout import Layout
from store.runs.garbage import garbage
from tests.support.rounds import PlayedRound, drive, drive_on, resolver_of, session_of
from tests.support.stores import NO_LOO, query_rows, variant_of

Played = Callable[[str, str], PlayedRound]


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
    unscored = query_rows(store, "SELECT count(*) - count(reward) AS n, count(*) AS all FROM rewards")
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
    variant_of(main, "full", NO_LOO, "advantages")
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
