"""`c3 why`: an advantage down to its tokens, the same numbers in text and JSON, in 80 columns."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
from configs.credit import AdvantagesConfig
from configs.errors import ConfigError
from pipeline.commands.why import NEEDED, arithmetic, explain, question_of
from pipeline.views.why import page_lines
from stages.models.scripted_codec import ScriptedCodec
from tests.support.rounds import PlayedRound, config_of, drive
from tests.support.worlds import WORDS

Played = Callable[[str, str], PlayedRound]


def _page(round: PlayedRound, *arguments: Any, **options: Any) -> dict[str, Any]:
    names = ("id", "role", "worst", "best", "tied")
    asked = {**dict.fromkeys(names), **dict(zip(names, arguments, strict=False)), **options}
    return explain(round.resolver, *question_of(**asked))


def test_every_number_is_the_stored_one(played: Played) -> None:
    round = played("trio", "tree")
    credit, decisions = round.by_id("advantages", "decision_id"), round.by_id("decisions", "decision_id")
    contexts = {row["state_id"]: row for row in round.rows("contexts")}
    episodes = {row["episode_id"]: row for row in [*round.rows("transcripts"), *round.rows("replays")]}
    rewards, trained = round.by_id("rewards", "episode_id"), round.by_id("update_rows", "decision_id")
    for problem in {row["problem_id"] for row in credit.values()}:
        for group in _page(round, problem)["groups"]:
            state = contexts[group["state_id"]]
            assert group["context"] == ScriptedCodec(WORDS).decode(state["token_ids"])
            assert group["upstream"] == state["upstream"]
            siblings = {name for name, row in credit.items() if row["state_id"] == group["state_id"]}
            assert {row["decision_id"] for row in group["alternatives"]} == siblings
            for row in group["alternatives"]:
                name = row["decision_id"]
                for column in ("mean_return", "replay_count", "baseline", "advantage", "group_size"):
                    assert row[column] == credit[name][column]
                assert row["text"] == decisions[name]["text"]
                assert row["update_rows"]["advantage"] == trained[name]["advantage"]
                own = {key for key, episode in episodes.items() if name in episode["credited"]}
                assert {replay["episode_id"] for replay in row["replays"]} == own
                for replay in row["replays"]:
                    ids = episodes[replay["episode_id"]]["decision_ids"]
                    after = ids[ids.index(name) + 1 :]
                    assert [m["text"] for m in replay["messages"]] == [decisions[key]["text"] for key in after]
                    graded = rewards[replay["episode_id"]]
                    assert (replay["reward"], replay["reason"]) == (graded["reward"], graded["reason"])


def test_a_decision_is_asked_about_with_its_siblings_beside_it(played: Played) -> None:
    round = played("duo", "tree")
    row = round.rows("advantages")[5]
    [group] = _page(round, row["decision_id"])["groups"]
    assert [entry["decision_id"] for entry in group["alternatives"] if entry["requested"]] == [row["decision_id"]]
    assert len(group["alternatives"]) == row["group_size"]
    [same] = _page(round, row["state_id"])["groups"]
    assert all(entry["requested"] for entry in same["alternatives"])


@pytest.mark.parametrize("role", ["reasoner", "verifier", None])
def test_worst_best_and_tied_pick_what_they_say(played: Played, role: str | None) -> None:
    round = played("trio", "tree")
    rows = [row for row in round.rows("advantages") if role in (None, row["role"])]
    values = sorted(row["advantage"] for row in rows)
    for options, expected in (({"worst": 3}, values[:3]), ({"best": 3}, values[-3:])):
        page = _page(round, role=role, **options)
        found = [
            entry["advantage"] for group in page["groups"] for entry in group["alternatives"] if entry["requested"]
        ]
        assert sorted(found) == expected
    tied = _page(round, role="verifier", tied=100)["groups"]
    returns: dict[str, set[float]] = {}
    for row in round.rows("advantages"):
        if row["role"] == "verifier":
            returns.setdefault(row["group_id"], set()).add(row["mean_return"])
    assert {group["group_id"] for group in tied} == {group for group, found in returns.items() if len(found) == 1}
    assert all(entry["advantage"] == 0 for group in tied for entry in group["alternatives"])


def _row(**columns: Any) -> dict[str, Any]:
    return {"estimator": "c3", "normalisation": "none", "replay_count": 1, "mean_return": 0.0} | columns


def test_the_arithmetic_is_written_out() -> None:
    # Q = 1/2, 1, 1/4 with c = 2, 1, 4: b_1 = (1 x 1 + 4 x 1/4) / 5 = 2/5
    first = _row(mean_return=0.5, replay_count=2, baseline=0.4, advantage=0.1)
    group = [first, _row(mean_return=1.0), _row(mean_return=0.25, replay_count=4), _row(mean_return=None)]
    assert arithmetic(first, group) == [
        "b = (1 x 1 + 4 x 0.25) / (1 + 4) = 0.4, the others' mean return by replays",
        "A = Q - b = 0.5 - 0.4 = +0.1",
    ]
    scored = first | {"normalisation": "group_std", "advantage": 0.75}
    assert arithmetic(scored, [scored, *group[1:]])[-1] == "group_std: +0.75"
    assert arithmetic(group[3] | {"baseline": None}, group)[0].startswith("no replay of it was scored")
    assert arithmetic(first | {"baseline": None}, group[:1])[0].startswith("there is nothing to compare it with")


@pytest.mark.parametrize("estimator", ["c3", "no_replay"])
def test_the_arithmetic_comes_to_the_stored_baseline(estimator: str, store: Path) -> None:
    round = drive(store, config_of("trio", "replay", advantages=AdvantagesConfig(estimator=estimator)))
    seen = 0
    for row in round.rows("advantages"):
        [group] = _page(round, row["decision_id"])["groups"]
        [entry] = [entry for entry in group["alternatives"] if entry["requested"]]
        written = re.match(r"b = \((.*)\) / \((.*)\) = ", entry["arithmetic"][0])
        if written:
            seen += 1
            above = sum(int(c) * float(q) for c, q in (term.split(" x ") for term in written[1].split(" + ")))
            assert above / sum(map(int, written[2].split(" + "))) == pytest.approx(row["baseline"], rel=1e-3)
    assert seen > 5


@pytest.mark.parametrize(("world", "plan"), [("duo", "tree"), ("trio", "replay"), ("four_turns", "tree")])
def test_the_page_fits_80_columns(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    page = _page(round, round.rows("advantages")[0]["problem_id"])
    lines = list(page_lines(page))
    assert max(map(len, lines)) == 80
    text = "\n".join(lines)
    for group in page["groups"]:
        for row in group["alternatives"]:
            assert row["decision_id"] in text


def test_a_message_cannot_move_the_readers_cursor(played: Played) -> None:
    page = _page(played("duo", "tree"), best=1)
    page["groups"][0]["alternatives"][0]["text"] = "a\x1b[2Jb\tc" + "x" * 200
    page["groups"][0]["context"] = "line\n\n\x07" + "long " * 60
    lines = list(page_lines(page))
    assert "\x1b" not in "".join(lines) and "\x07" not in "".join(lines)
    assert max(map(len, lines)) == 80


@pytest.mark.parametrize("asked", [(), ("x", None, 3), (None, None, 1, 1), ("x", "actor")])
def test_one_thing_is_asked_for(asked: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="ask for one thing"):
        question_of(*asked, *[None] * (5 - len(asked)))


def test_an_id_that_is_nowhere_is_an_error_that_says_where_to_look(played: Played) -> None:
    with pytest.raises(ConfigError, match=r"answers to id nowhere; `c3 sql .*` lists what is there"):
        _page(played("duo", "tree"), "nowhere")


def test_before_the_update_the_page_says_that_it_has_not_run(store: Path) -> None:
    round = drive(store, config_of("duo", "tree"), until=NEEDED[-1])
    assert "  update: has not run" in list(page_lines(_page(round, best=1)))


def test_the_command_prints_a_page_and_json_of_the_latest_round(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    round = played("duo", "tree")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["c3", *arguments, "--run", "test", "--store", str(round.store)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    page = _page(round, role="actor", worst=2)
    assert json.loads(run("why", "--role", "actor", "--worst", "2", "--json")) == page
    assert run("why", "--role", "actor", "--worst", "2") == "\n".join(page_lines(page)) + "\n"
    compared = json.loads(run("compare", "--round", "1", "--json"))
    assert {row["estimator"] for row in compared["by_estimator"]} >= {"c3", "magrpo", "rloo"}
    assert "estimators on the same samples" in run("compare", "--round", "1")
