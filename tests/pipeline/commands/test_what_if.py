"""`c3 what-if`: another message at a frozen state, continued by the frozen policy, held against enumerated truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from configs.errors import ConfigError
from pipeline.commands.verify import verify
from pipeline.commands.what_if import ask, cost
from pipeline.steps import INTERVENTIONS
from pipeline.views.what_if import page_lines
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Row
from store.disk.layout import Layout
from store.queries.catalog_views import query
from store.runs.garbage import garbage
from store.runs.records import references
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.worlds import WORDS, Truth

Played = Callable[[str, str], PlayedRound]


def _ask(
    round: PlayedRound, name: str | None = None, role: str | None = None, text: str = "", replays: int = 4
) -> PlayedRound:
    """The question driven without Prefect."""
    session = ask(round.session, name, role, text or None, not text, replays)
    return drive_on(session.resolver, steps=INTERVENTIONS)


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """A round that questions may be recorded in."""
    return drive(tmp_path_factory.mktemp("what-if"), config_of("duo", "tree"))


def _problem(round: PlayedRound, row: Row) -> Problem:
    [found] = [given for given in round.rows("problems") if given["problem_id"] == row["problem_id"]]
    return Problem(**found)


def _rewards(answer: PlayedRound) -> dict[str, list[float]]:
    reward = {row["episode_id"]: row["reward"] for row in answer.rows("rewards", "intervention_grade")}
    found: dict[str, list[float]] = {}
    for row in answer.rows("replays", "intervention"):
        found.setdefault(row["alternative_id"], []).append(reward[row["episode_id"]])
    return found


@pytest.mark.parametrize("text", ["", WORDS[0]])
def test_a_probe_earns_what_the_world_says_it_does(duo: PlayedRound, text: str) -> None:
    world = Truth(duo.config)
    answer = _ask(duo, role="reasoner", text=text, replays=400)
    rewards = _rewards(answer)
    interventions = answer.rows("interventions", "intervention")
    assert {row["state_id"] for row in interventions} == {
        row["state_id"] for row in duo.rows("contexts") if row["role"] == "reasoner"
    }
    for row in interventions:
        problem = _problem(duo, row)
        truth = world.v(problem, {"reasoner": text})
        drawn = np.array(rewards[row["intervention_id"]])
        assert len(drawn) == 400
        assert abs(drawn.mean() - truth) < 4 * drawn.std(ddof=1) / 20 + 1e-9  # four standard errors


def test_the_last_roles_probe_is_graded_once_and_draws_nothing(duo: PlayedRound) -> None:
    state = next(row for row in duo.rows("contexts") if row["role"] == "actor")
    answer = _ask(duo, state["state_id"], text=WORDS[1])
    assert answer.rows("decisions", "intervention") == []
    [replay], [reward] = answer.rows("replays", "intervention"), answer.rows("rewards", "intervention_grade")
    assert replay["output"] == WORDS[1]
    world = Truth(duo.config)
    assert reward["reward"] == world.rewards(_problem(duo, state))[WORDS.index(WORDS[1])]


def test_a_probe_draws_with_seeds_and_ids_of_its_own(duo: PlayedRound) -> None:
    state = next(row for row in duo.rows("contexts") if row["role"] == "reasoner")
    first, second = _ask(duo, state["state_id"]), _ask(duo, state["state_id"], replays=5)
    for column in ("seed", "decision_id"):
        seen = [row[column] for row in duo.rows("decisions")]
        drawn = [row[column] for answer in (first, second) for row in answer.rows("decisions", "intervention")]
        assert len(drawn) == 9
        assert len({*seen, *drawn}) == len(seen) + len(drawn)


def test_what_was_asked_is_not_made_again_and_the_round_never_reads_it(duo: PlayedRound) -> None:
    before = {look.step.name: look.key for look in duo.resolver.resolve_steps().steps}
    answer = _ask(duo, role="reasoner", text=WORDS[2])
    again = _ask(duo, role="reasoner", text=WORDS[2])
    assert answer.made == ["intervention", "intervention_grade"]
    assert again.made == []
    assert {look.step.name: look.key for look in resolver_of(duo.store, "test", 1).resolve_steps().steps} == before
    interventions = {row["intervention_id"] for row in answer.rows("interventions", "intervention")}
    assert not interventions & {row["decision_id"] for row in duo.rows("advantages")}
    tokens = 16 * duo.config.sampling.max_new_tokens
    assert cost(answer.session) == ({"states": 4, "evaluations": 16, "messages": 16, "tokens_at_most": tokens}, True)


def test_questions_are_kept_verified_and_queried(tmp_path: Path) -> None:
    round = drive(tmp_path, config_of("duo", "tree"))
    answers = [_ask(round, role="reasoner"), _ask(round, role="reasoner", replays=6), _ask(round, role="actor")]
    layout = Layout(tmp_path)
    assert list(garbage(layout)) == []
    assert [finding for _, finding in verify(Layout(tmp_path)) if finding] == []
    asked = [reference for reference in references(layout) if reference.step in ("intervention", "intervention_grade")]
    assert len(asked) == 6
    counts = query(
        layout, "select role, replays, count(*), sum(replay_count) from interventions group by all order by all"
    )
    states = sum(row["role"] == "actor" for row in round.rows("contexts"))
    assert counts.fetchall() == [("actor", 1, states, states), ("reasoner", 4, 4, 16), ("reasoner", 6, 4, 24)]
    [[mean]] = query(
        layout,
        "select avg(reward) from intervention_replays "
        "where intervention_id in (select intervention_id from interventions where replays = 6)",
    ).fetchall()
    assert mean == pytest.approx(np.mean([value for values in _rewards(answers[1]).values() for value in values]))
    [[replays]] = query(layout, "select count(*) from replays").fetchall()  # the round's own alone
    assert replays == len(round.rows("replays"))


@pytest.mark.slow
def test_a_corrupt_answer_is_found_and_made_again(tmp_path: Path) -> None:
    round = drive(tmp_path, config_of("duo", "tree"))
    answer = _ask(round, role="reasoner")
    answer.artifacts["intervention"].files("replays")[0].write_bytes(b"")
    [finding] = [
        finding
        for reference, finding in verify(Layout(tmp_path))
        if finding and reference and reference.step == "intervention"
    ]
    assert "what-if" in finding.cure
    again = _ask(PlayedRound(resolver_of(tmp_path, "test", 1)), role="reasoner")
    assert again.made == ["intervention"]
    assert again.artifacts["intervention"].digest == answer.artifacts["intervention"].digest


def test_the_page_sets_the_probe_beside_the_alternatives(duo: PlayedRound, capsys: pytest.CaptureFixture[str]) -> None:
    decision = next(row for row in duo.rows("advantages") if row["role"] == "reasoner")
    answer = _ask(duo, decision["decision_id"])
    command = ["what-if", decision["decision_id"], "--empty", "--run", "test", "--store", str(duo.store)]
    page = json.loads(_run([*command, "--json"], capsys))
    group = [row for row in duo.rows("advantages") if row["state_id"] == decision["state_id"]]
    assert {row["decision_id"]: row["mean_return"] for row in page["alternatives"]} == {
        row["decision_id"]: row["mean_return"] for row in group
    }
    [rewards] = _rewards(answer).values()
    [row] = page["states"]
    assert sorted(replay["reward"] for replay in page["replays"]) == sorted(rewards)
    assert row["mean_return"] == pytest.approx(np.mean(rewards))
    assert row["standard_error"] == pytest.approx(np.std(rewards, ddof=1) / 2)
    value = np.average([r["mean_return"] for r in group], weights=[r["replay_count"] for r in group])
    assert row["value"] == pytest.approx(value)
    assert row["difference"] == pytest.approx(value - np.mean(rewards))
    out = _run(command, capsys)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert f"{row['mean_return']:.4g}" in out and "(there already)" in out
    assert all(other["decision_id"] in out for other in group)


def test_a_role_is_summed_up_over_its_states(duo: PlayedRound, capsys: pytest.CaptureFixture[str]) -> None:
    answer = _ask(duo, role="reasoner", replays=3)
    command = [
        "what-if",
        "--role",
        "reasoner",
        "--empty",
        "--replays",
        "3",
        "--run",
        "test",
        "--store",
        str(duo.store),
    ]
    page = json.loads(_run([*command, "--json"], capsys))
    rewards = _rewards(answer)
    for row in page["states"]:
        assert row["mean_return"] == pytest.approx(np.mean(rewards[row["intervention_id"]]))
    expected = np.mean([row["value"] - row["mean_return"] for row in page["states"]])
    assert page["difference"]["value"] == pytest.approx(expected)
    assert page["difference"]["low"] <= page["difference"]["value"] <= page["difference"]["high"]
    out = _run(command, capsys)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert f"{page['difference']['value']:+.4g}" in out


def test_a_long_message_and_a_single_replay_still_fit_the_page(duo: PlayedRound) -> None:
    from pipeline.commands.what_if import what_if

    class Quiet:
        def start(self, step: str, total: int) -> None: ...
        def advance(self, count: int) -> None: ...
        def finish(self) -> None: ...

    state = next(row for row in duo.rows("contexts") if row["role"] == "reasoner")
    answer = _ask(duo, state["state_id"], replays=1)
    page, _ = what_if(answer.session)
    assert (
        page["states"][0]["standard_error"] is None and page["interval"] is None and page["difference"]["low"] is None
    )
    page["text"] = page["states"][0]["text"] = "\x1b[2J" + "a word " * 60
    lines = list(page_lines(page))
    assert all(len(line) <= 80 and line.isprintable() for line in lines)
    assert "no standard error" in " ".join(line.strip() for line in lines)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("nothing", None, "ant", False), "no frozen state"),
        ((None, "nobody", "ant", False), "no such role"),
        ((None, None, "ant", False), "say where"),
        (("x", "reasoner", "ant", False), "say where"),
        ((None, "reasoner", None, False), "say what"),
        ((None, "reasoner", "ant", True), "say what"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(duo: PlayedRound, asked: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ask(duo.session, *asked, 4)


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    cli.app(arguments, standalone_mode=False)
    return capsys.readouterr().out
