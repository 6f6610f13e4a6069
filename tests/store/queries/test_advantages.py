"""Advantages: the formula against an oracle in plain Python, and the estimator against enumerated worlds."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import fsum, sqrt
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.credit import AdvantagesConfig
from configs.errors import StoreError
from configs.plan import ReplayPlan, RoleReplays
from configs.problems import JsonlProblems
from configs.schema import Config, PartsConfig, RoundConfig
from pipeline.rounds.stored import stored_artifacts
from pipeline.rounds.warnings import config_warnings
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Row, StageOutput, provisional
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries import advantages as credit
from store.queries.advantages import advantages, open_returns, write_advantages
from store.queries.connection import shared_tables
from store.queries.estimators import estimator as find_estimator
from store.queries.estimators import estimators
from tests.support.rounds import PLAYED, PlayedRound, config_of, drive
from tests.support.stored_rounds import solo_samples, valued
from tests.support.worlds import Truth, diamond, duo, trio

Played = Callable[[str, str], PlayedRound]
Rewards = Sequence[Sequence[float | None]]
"""Of one group: per alternative the rewards of its replays."""


def _credit(tmp_path: Path, groups: Mapping[str, Rewards], backwards: bool = False, **columns: Any) -> list[Row]:
    """The advantages of hand-made groups, in the order given. `columns` overrides columns of every decision."""
    decisions, replays, rewards = [], [], []
    for state, group in groups.items():
        for draw, returned in enumerate(group):
            name = f"{state}/{draw}"
            made = {"decision_id": name, "state_id": state, "context_id": f"context of {state}", "problem_id": "p"}
            made |= {"role": "actor", "depth": 1, "path": [len(decisions)], "draw": draw, "policy_version": "frozen"}
            decisions.append({**made, **columns})
            for place, reward in enumerate(returned):
                episode = f"{name}/{place}"
                replays.append({"episode_id": episode, "alternative_id": name, "credited": [name]})
                graded = {"reward": reward, "error": None if reward is not None else "?"}
                rewards.append({"episode_id": episode, "credited": [name], **graded})
    tables = {"decisions": decisions, "replays": replays, "rewards": rewards, "transcripts": []}
    turn = -1 if backwards else 1
    with open_writer(Layout(tmp_path), "hand", "made") as writer:
        record = writer.write(0, StageOutput({name: rows[::turn] for name, rows in tables.items()}), 0.0)
        artifact = provisional("hand", "made", writer.path, [record])
    write_advantages(
        [artifact], "c3", "none", "context" if "context_id" in columns else "state", tmp_path / "advantages.parquet"
    )
    return pq.read_table(tmp_path / "advantages.parquet").to_pylist()


def _advantages(tmp_path: Path, group: Rewards) -> list[float | None]:
    return [row["advantage"] for row in _credit(tmp_path, {"h": group})]


def test_figure_one_of_the_paper(tmp_path: Path) -> None:
    # .63 - (.80 + .73) / 2 = -.135;  .80 - (.63 + .73) / 2 = .120;  .73 - (.63 + .80) / 2 = .015
    assert _advantages(tmp_path, [[0.63], [0.80], [0.73]]) == pytest.approx([-0.135, 0.120, 0.015], abs=1e-15)


def test_the_baseline_weighs_an_alternative_by_its_replays(tmp_path: Path) -> None:
    # Q = 1/2, 1, 1/4 with c = 2, 1, 4, so C = 7
    # b_1 = (1 + 4/4) / 5 = 2/5;  b_2 = (2/2 + 4/4) / 6 = 1/3;  b_3 = (2/2 + 1) / 3 = 2/3
    rows = _credit(tmp_path, {"h": [[1.0, 0.0], [1.0], [0.0, 0.0, 0.0, 1.0]]})
    assert [row["replay_count"] for row in rows] == [2, 1, 4]
    assert [row["baseline"] for row in rows] == pytest.approx([2 / 5, 1 / 3, 2 / 3], abs=1e-15)
    assert [row["advantage"] for row in rows] == pytest.approx([1 / 10, 2 / 3, -5 / 12], abs=1e-15)


@pytest.mark.parametrize(
    "estimator", [name for name in estimators() if "critic_values" not in find_estimator(name).reads]
)
def test_few_rows_and_many_are_credited_alike(estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # few on the connection that the process shares, many on one of their own that may spill: the same bytes
    samples = stored_artifacts(drive(tmp_path / "store", duo(), until="grade").resolver)
    for name, small in (("few", 2**30), ("many", 0)):
        monkeypatch.setattr(credit, "_SMALL", small)
        write_advantages(samples, estimator, "none", "state", tmp_path / name)
    assert (tmp_path / "few").read_bytes() == (tmp_path / "many").read_bytes()
    assert not (tmp_path / credit.SPILL).exists()


@pytest.mark.parametrize("small", [0, 2**30])
def test_an_estimator_sees_no_table_but_those_it_is_given(
    small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    round = drive(tmp_path / "store", duo(), until="grade")
    with shared_tables([round.artifacts["problems"]], ["problems"]) as connection:  # as a check leaves it
        assert connection.execute("select count(*) from problems").fetchone() != (0,)
    (tmp_path / "c3.sql").write_text(
        "-- grain: one alternative\n-- reads: returns\n-- baseline: none\n--\nselect * from problems"
    )
    monkeypatch.setattr("store.queries.estimators.FOLDER", tmp_path)
    monkeypatch.setattr(credit, "_SMALL", small)
    for _ in range(2):  # and one that fails leaves nothing in the way of the next
        with pytest.raises(StoreError, match="problems does not exist"):
            write_advantages(stored_artifacts(round.resolver), "c3", "none", "state", tmp_path / "out")
    monkeypatch.undo()
    write_advantages(stored_artifacts(round.resolver), "c3", "none", "state", tmp_path / "out")


def test_a_group_of_one_has_no_advantage(tmp_path: Path) -> None:
    [row] = _credit(tmp_path, {"h": [[1.0, 0.0]]})
    assert (row["mean_return"], row["baseline"], row["advantage"], row["group_size"]) == (0.5, None, None, 1)


def test_an_unscored_replay_is_left_out_of_the_mean(tmp_path: Path) -> None:
    first, second = _credit(tmp_path, {"h": [[1.0, None], [0.0, 0.0]]})
    # not (1 + 0) / 2: the unscored replay is no zero. b_1 = 0, b_2 = 1
    assert (first["mean_return"], first["replay_count"], first["unscored_count"]) == (1.0, 1, 1)
    assert (first["advantage"], second["advantage"]) == (1.0, -1.0)


def test_an_alternative_without_a_score_is_in_nobodys_baseline(tmp_path: Path) -> None:
    rows = _credit(tmp_path, {"h": [[None, None], [1.0], [0.0]]})
    assert [row["advantage"] for row in rows] == [None, 1.0, -1.0]
    assert [row["group_size"] for row in rows] == [2, 2, 2]


def test_one_scored_alternative_among_unscored_ones_has_no_advantage(tmp_path: Path) -> None:
    rows = _credit(tmp_path, {"h": [[None], [1.0]]})
    assert [(row["mean_return"], row["baseline"], row["advantage"]) for row in rows] == [
        (None, None, None),
        (1.0, None, None),
    ]


def test_a_tie_is_exactly_zero(tmp_path: Path) -> None:
    # in floating point (4 x .1) - .1 is not 3 x .1
    assert _advantages(tmp_path, [[0.1]] * 4) == [0.0] * 4


def test_the_same_rewards_in_another_order_are_a_tie(tmp_path: Path) -> None:
    # in floating point (.1 + .2) + .3 is not (.3 + .2) + .1
    assert _advantages(tmp_path, [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.1, 0.3]]) == [0.0] * 3


def test_groups_do_not_mix(tmp_path: Path) -> None:
    rows = _credit(tmp_path, {"h": [[1.0], [0.0]], "g": [[5.0], [7.0]]})
    assert [row["advantage"] for row in rows] == [1.0, -1.0, -2.0, 2.0]


def test_grouped_by_context_states_that_show_the_same_are_one_group(tmp_path: Path) -> None:
    # 1 - (0 + 5 + 7) / 3 = -3;  0 - 13/3;  5 - 8/3 = 7/3;  7 - 6/3 = 5
    rows = _credit(tmp_path, {"h": [[1.0], [0.0]], "g": [[5.0], [7.0]]}, context_id="same")
    assert [row["advantage"] for row in rows] == pytest.approx([-3, -13 / 3, 7 / 3, 5], abs=1e-14)
    assert {row["group_id"] for row in rows} == {"p/same"}


def test_the_order_of_rows_does_not_touch_the_last_bit(tmp_path: Path) -> None:
    groups = {"h": [[0.1, 0.7, 0.3], [0.2, 0.9], [1e-17, 1.0, 1e17]], "g": [[0.1 * i, 0.7] for i in range(9)]}
    assert _credit(tmp_path / "a", groups) == _credit(tmp_path / "b", groups, backwards=True)


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_advantages_equal_the_formula_in_plain_python(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    rows = round.rows("advantages")
    expected = _oracle(round)
    assert {row["decision_id"] for row in rows} == set(expected)
    for row in rows:
        mean_return, advantage = expected[row["decision_id"]]
        assert row["mean_return"] == pytest.approx(mean_return, abs=1e-12)
        assert (row["advantage"] is None) == (advantage is None)
        if advantage is not None:
            assert row["advantage"] == pytest.approx(advantage, abs=1e-12)


def _oracle(round: PlayedRound) -> dict[str, tuple[float, float | None]]:
    """decision -> (Q, A), by docs/method.md, section 2, from the stored episodes alone."""
    reward = {row["episode_id"]: row["reward"] for row in round.rows("rewards")}
    state = {row["decision_id"]: row["state_id"] for row in round.rows("decisions")}
    returns: dict[str, list[float]] = defaultdict(list)
    for episode in [*round.rows("transcripts"), *round.rows("replays")]:
        for decision in episode["credited"]:
            returns[decision].append(reward[episode["episode_id"]])
    found = {}
    for j, returned in returns.items():
        others = [returns[k] for k in returns if state[k] == state[j] and k != j]
        q = fsum(returned) / len(returned)
        # sum c_k Q_k is the sum of all their rewards
        baseline = fsum(map(fsum, others)) / sum(map(len, others)) if others else None
        found[j] = (q, None if baseline is None else q - baseline)
    return found


def _copies(store: Path, config: Config, count: int) -> Config:
    """The configuration over `count` problems that differ in nothing but their ids, and so in all their draws."""
    store.mkdir(parents=True)
    problem = {"question": "what now", "answer": json.dumps({"ant": 0.0, "bee": 1.0, "cat": 0.4})}
    path = store / "copies.jsonl"
    path.write_text((json.dumps(problem) + "\n") * count)
    changes = {
        "problems": JsonlProblems(path=str(path)),
        "rounds": RoundConfig(problems_per_round=count),
        "parts": PartsConfig(problems_per_part=count),
    }
    return config.model_copy(update=changes)


def _groups(round: PlayedRound) -> Iterator[tuple[Problem, dict[str, str], list[tuple[Row, str]]]]:
    """Every credited group: its problem, what was said before it, and its alternatives with their words."""
    problems = {row["problem_id"]: Problem(**row) for row in round.rows("problems")}
    same = next(iter(problems.values()))
    upstream = {row["state_id"]: {m["role"]: m["text"] for m in row["upstream"]} for row in round.rows("contexts")}
    word = {row["decision_id"]: row["text"] for row in round.rows("decisions")}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in round.rows("advantages"):
        if row["advantage"] is not None:
            groups[row["state_id"]].append(row)
    for state, rows in groups.items():
        yield same, upstream[state], [(row, word[row["decision_id"]]) for row in rows]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    mean = fsum(values) / len(values)
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


@pytest.mark.parametrize(
    "config",
    [
        # worlds in which what each role says makes a difference to the end
        duo((2, 4), world_seed=91, spread=2.0),
        trio((2, 2, 2), world_seed=105, spread=4.0),
        diamond((2, 2, 1, 2), world_seed=31, spread=2.0),
        duo(
            world_seed=91,
            spread=2.0,
            plan=ReplayPlan(transcripts=1, roles={"reasoner": RoleReplays(alternatives=3, replays=3)}, budget=9),
        ),
    ],
    ids=["duo", "trio", "diamond", "duo by replays"],
)
def test_the_advantage_is_unbiased(config: Config, store: Path) -> None:
    """Alternatives resampled 600 times: the slope of A on the enumerated t = Q - V is 1, over all roles and for each.

    Copy i gives r_i = sum_j (A_j - t_j) t_j; unbiased means E r_i = 0, and slope - 1 = sum r_i / sum t^2. With an error
    under 1/35 a bias of 10% lies 3.5 errors off: at a bound of 2.6 errors it is found in 81 of 100 draws, a bias of 15%
    in 99, and the (n - 1)/n of a plain mean, 25% and more here, always.
    """
    round = drive(store, _copies(store, config, 600), until="advantages")
    truth = Truth(config)
    residual: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    square: dict[str, float] = defaultdict(float)
    for problem, upstream, alternatives in _groups(round):
        t = dict(zip(truth.words, truth.advantage(problem, upstream), strict=True))
        for row, word in alternatives:
            for role in (row["role"], "all"):
                residual[role][row["problem_id"]] += (row["advantage"] - t[word]) * t[word]
                square[role] += t[word] ** 2
    errors = {}
    for role, by_copy in residual.items():
        mean, error = _mean_and_error(list(by_copy.values()))
        errors[role] = error * len(by_copy) / square[role]
        assert abs(mean) < 2.6 * error, f"{role}: slope {1 + mean * len(by_copy) / square[role]} +- {errors[role]}"
    assert errors["all"] < 1 / 35


def _squared_errors(round: PlayedRound, config: Config, role: str) -> list[float]:
    """Per copy the mean over its alternatives of (A_j - E A_j)^2 / Var A_j, the alternatives held fixed."""
    truth = Truth(config)
    by_copy: dict[str, list[float]] = defaultdict(list)
    for problem, upstream, alternatives in _groups(round):
        if alternatives[0][0]["role"] != role:
            continue
        rewards = dict(zip(truth.words, truth.rewards(problem), strict=True))
        q, s2, c = [], [], [row["replay_count"] for row, _ in alternatives]
        for _, word in alternatives:
            outcomes = truth.outcomes(problem, {**upstream, role: word})
            q.append(sum(share * rewards[last] for last, share in outcomes.items()))
            s2.append(sum(share * (rewards[last] - q[-1]) ** 2 for last, share in outcomes.items()))
        for j, (row, _) in enumerate(alternatives):
            rest, others = sum(c) - c[j], [k for k in range(len(c)) if k != j]
            mean = q[j] - sum(c[k] * q[k] for k in others) / rest
            # docs/method.md, section 2: Var(A_j) = s_j^2 / c_j + sum_{k != j} c_k s_k^2 / (C - c_j)^2
            law = s2[j] / c[j] + sum(c[k] * s2[k] for k in others) / rest**2
            by_copy[row["problem_id"]].append((row["advantage"] - mean) ** 2 / law)
    return [fsum(values) / len(values) for values in by_copy.values()]


def test_the_noise_of_an_advantage_follows_the_law_where_nothing_branches_below(store: Path) -> None:
    # given the words of its alternatives a copy's replays are independent, so conditioning holds the alternatives fixed
    plan = ReplayPlan(transcripts=1, roles={"reasoner": RoleReplays(alternatives=3, replays=3)}, budget=9)
    config = duo(world_seed=91, spread=2.0, plan=plan)
    ratio, error = _squared_error_ratio(config, 1000, "reasoner", store)
    # n s^2 / (c (n - 1)) is 1.5 s^2/c here: without its second term the law would give 1.5 for 1, ten errors away
    assert error < 0.05
    assert abs(ratio - 1) < 2.6 * error


def test_branching_below_a_message_makes_its_advantage_noisier_than_the_law(store: Path) -> None:
    # 8 leaves under each of 2 messages, but only 2 draws of the role in between, and those decide
    ratio, error = _squared_error_ratio(trio((2, 2, 4), world_seed=105, spread=4.0), 300, "reasoner", store)
    assert ratio > 1 + 4 * error


def _squared_error_ratio(config: Config, count: int, role: str, store: Path) -> tuple[float, float]:
    round = drive(store, _copies(store, config, count), until="advantages")
    return _mean_and_error(_squared_errors(round, config, role))


@pytest.mark.parametrize("plan", ["tree", "replay"])  # of episodes alone few states have siblings
def test_a_group_z_score_brings_its_note_exactly_where_it_makes_estimators_the_same(
    plan: str, played: Played, tmp_path: Path
) -> None:
    scores = _z_scores(played("duo", plan), tmp_path)
    assert _equal(scores["c3"], scores["full_mean"])  # docs/method.md, section 4
    for name, own in scores.items():
        told = set(re.findall(r"\w+", _note(plan, name, "group_std").partition(" become the same numbers")[0]))
        found = {other for other in scores if other != name and _equal(own, scores[other])}
        assert told & scores.keys() - {name} == found, name
        assert not _note(plan, name, "none") and not _note(plan, name, "batch_std")


def _note(plan: str, estimator: str, normalisation: str) -> str:
    """The note on what a normalisation makes of an estimator; empty where there is none."""
    chosen = AdvantagesConfig.model_validate({"estimator": estimator, "normalisation": normalisation})
    notes = config_warnings(config_of("duo", plan, advantages=chosen))
    return next((note for note in notes if note.startswith("advantages.normalisation")), "")


def _z_scores(round: PlayedRound, folder: Path) -> dict[str, dict[str, float]]:
    """Estimator -> what it credits each message with, of a round's samples; values and solo replays are any numbers."""
    dice = Random(3)
    states = {row["state_id"]: dice.random() for row in round.rows("decisions")}
    told = {row["decision_id"]: (states[row["state_id"]], dice.random()) for row in round.rows("decisions")}
    solo = solo_samples(folder, {state: [value] for state, value in states.items()})
    connection = open_returns([*stored_artifacts(round.resolver), valued(folder, told)], "state", [solo])
    found = {}
    for name in estimators():
        rows = advantages(connection, name, "group_std").to_arrow_table().to_pylist()
        found[name] = {row["decision_id"]: row["advantage"] for row in rows if row["advantage"] is not None}
    return found


def _equal(ours: Mapping[str, float], others: Mapping[str, float]) -> bool:
    both = ours.keys() & others.keys()  # a message that is compared with nothing by one is left out
    return bool(both) and all(ours[name] == pytest.approx(others[name], abs=1e-9) for name in both)
