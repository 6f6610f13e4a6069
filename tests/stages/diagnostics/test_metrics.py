"""The diagnostics: each figure by hand, what it is NULL for, and a round that is diagnosed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import StringIO
from math import log, nan, sqrt
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from configs.errors import StoreError
from pipeline.commands.verify import verify
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import make_part
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.status import round_statuses
from pipeline.steps import DIAGNOSIS, ROUND
from pipeline.views.diagnose import show_figures
from stages.base.resources import Resources
from stages.diagnostics.groups import Alternative, Group, groups_of
from stages.diagnostics.metrics import (
    ASK_FOR_ONE,
    ASK_FOR_TWO,
    LAST_ROLE,
    NO_GROUP,
    ONE_EACH,
    OTHER_ESTIMATOR,
    RoleGroups,
    role_figures,
)
from stages.diagnostics.statistics import information, leave_one_out, noise_law, permuted_information, spearman_brown
from store.artifacts.artifact import Artifact, Row, StageOutput, provisional
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries.catalog_views import fetch, query
from store.queries.diagnostics import diagnosed_rows
from store.runs.garbage import garbage
from store.runs.records import RoundRef, edit_round
from store.runs.variants import Variant, record_variant
from tests.conftest import Answer
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.stored_rounds import Ending, credit, samples

Played = Callable[[str, str], PlayedRound]
NEEDS_REPLAYS = {"variance_confirmed", "fidelity", "fidelity_ceiling", "pooled_rank", "pooled_slope", "pooled_rmse"}


def _group(
    problem: str, replays: Sequence[Sequence[float]], independent_replays: Sequence[Sequence[float]] = ()
) -> Group:
    """Return a group as c3 credits it; every replay unbranched."""
    means = np.array([np.mean(each) for each in replays])
    credit = leave_one_out(np.array([len(each) for each in replays], float)) @ means
    again = list(independent_replays) or [()] * len(replays)
    return Group(
        problem,
        tuple(
            Alternative(a, q, len(own), tuple(own), tuple(more), tuple((r, str(r)) for r in (*own, *more)))
            for a, q, own, more in zip(credit, means, replays, again, strict=True)
        ),
    )


def _figures(groups: Sequence[Group], last: bool = False, lawful: bool = True) -> dict[str, Row]:
    of = RoleGroups("speaker", groups, last, lawful, seed=0)
    return {figure.name: figure.row() for figure in role_figures(of)}


def test_leave_one_out_is_the_worked_example_of_the_paper() -> None:
    # figure 1: mean returns .63, .80, .73 give -.135, +.120, +.015
    assert leave_one_out(np.ones(3)) @ [0.63, 0.80, 0.73] == pytest.approx([-0.135, 0.120, 0.015])
    # by replay count: b_{-1} = (2 x .5 + 1 x 0) / 3
    assert (leave_one_out(np.array([1.0, 2.0, 1.0])) @ [1.0, 0.5, 0.0])[0] == pytest.approx(1 - 1 / 3)


def test_the_noise_law_is_that_of_the_method() -> None:
    # one s^2 = .2, c = 4, n = 5: s^2 n / (c (n - 1)) = .2 x 5 / 16, for each and inside the group
    each, inside = noise_law(np.full(5, 4.0), np.full(5, 0.2 / 4))
    assert each == pytest.approx([0.0625] * 5)
    assert inside == pytest.approx(0.0625)
    # s^2/c = .25 and 0, n = 2: A = (d, -d), d = Q_1 - Q_2, so .25 for each
    assert noise_law(np.full(2, 2.0), np.array([0.25, 0.0]))[1] == pytest.approx(0.25)


def test_the_noise_inside_a_group_is_what_redrawn_replays_show() -> None:
    counts, spread = np.array([1.0, 2.0, 5.0]), np.array([0.4, 0.1, 0.9])
    returns = np.random.default_rng(0).normal(size=(200_000, 3)) * np.sqrt(spread)
    credit = returns @ leave_one_out(counts).T
    each, inside = noise_law(counts, spread)
    assert credit.var(axis=0) == pytest.approx(each, rel=0.02)
    assert credit.var(axis=1).mean() == pytest.approx(inside, rel=0.02)


def test_information_is_miller_and_madows() -> None:
    # each alternative has an outcome of its own: log 2, and + (2 + 2 - 2 - 1) / (2 x 8)
    assert information(np.array([[4, 0], [0, 4]])) == pytest.approx(log(2) + 1 / 16)
    # the same outcomes for both: 0, and + (2 + 2 - 4 - 1) / (2 x 8)
    assert information(np.array([[2, 2], [2, 2]])) == pytest.approx(-1 / 16)
    assert information(np.array([[3], [5]])) == pytest.approx(0)  # one outcome tells nothing


def test_permuted_tables_keep_what_was_said_and_what_came_of_it() -> None:
    # one outcome each of two alternatives: they differ or they do not; dealt at random they always differ
    assert permuted_information(np.array([[1, 0], [0, 1]]), np.random.default_rng(0)) == pytest.approx(log(2) + 1 / 4)
    # two each: 2 of 6 deals separate them
    drawn = permuted_information(np.array([[2, 0], [0, 2]]), np.random.default_rng(0))
    assert np.mean(drawn > 0) == pytest.approx(1 / 3, abs=0.05)


def test_halves_are_stepped_up_to_the_whole() -> None:
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert (spearman_brown(1.0), spearman_brown(-0.3)) == (1.0, 0.0)


def test_fidelity_is_the_mean_rank_correlation_and_a_tied_group_counts_as_none() -> None:
    again = [[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]]  # means .25, .5, .75
    groups = [
        _group("p", [[0.0], [1.0], [0.5]], again),  # ranks 1 3 2 against 1 2 3: +.5
        _group("p", [[1.0], [0.0], [0.0]], again),  # 3 1.5 1.5 against 1 2 3: -sqrt(3)/2
        _group("q", [[0.0], [0.5], [1.0]], again),  # +1
        _group("q", [[0.5], [0.5], [0.5]], again),  # the estimate ties
        _group("r", [[0.0], [0.5], [1.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),  # the target ties
    ]
    figures = _figures(groups)
    fidelity = figures["fidelity"]
    assert spearmanr([0, 1, 0.5], [0, 0.5, 1]).statistic == pytest.approx(0.5)
    assert fidelity["value"] == pytest.approx((0.5 - sqrt(3) / 2 + 1 + 0 + 0) / 5)
    assert (fidelity["count"], fidelity["tied"], fidelity["problems"], fidelity["replays_from"]) == (5, 2, 3, "both")
    assert fidelity["low"] < fidelity["value"] < fidelity["high"]
    # halves: 0 .5 1 and .5 .5 .5 tie four times; in the last one 1 0 1 and 0 1 0 are opposite: mean -1/5, so no ceiling
    assert figures["fidelity_ceiling"]["value"] == 0
    assert (fidelity["bound"], figures["fidelity_ceiling"]["tied"]) == (0, 4)


def test_the_ceiling_is_the_root_of_the_targets_reliability() -> None:
    groups = [_group(f"p{i}", [[0.0], [1.0]], [[0.0] * 4, [1.0] * 4]) for i in range(3)]
    groups += [_group("odd", [[0.0], [1.0]], [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])]  # its halves are opposite
    ceiling = _figures(groups)["fidelity_ceiling"]
    assert ceiling["value"] == pytest.approx(sqrt(2 * 0.5 / 1.5))  # (3 - 1) / 4, stepped up
    assert _figures(groups)["fidelity"]["bound"] == ceiling["value"]


def test_variance_is_split_into_noise_and_signal() -> None:
    groups = [
        _group("p", [[1.0, 0.0], [0.0, 0.0]]),  # A = +-.5: .25; s^2 = .5, 0: noise .25
        _group("q", [[1.0, 1.0], [0.0, 0.0]]),  # A = +-1: 1, no noise
    ]
    figures = _figures(groups)
    found = [figures[name]["value"] for name in ("variance", "variance_noise", "variance_signal")]
    assert found == pytest.approx([(0.25 + 1) / 2, 0.25 / 2, (0 + 1) / 2])
    assert _figures(groups, lawful=False)["variance_noise"]["reason"] == OTHER_ESTIMATOR
    assert _figures(groups, last=True)["variance_noise"]["value"] == 0


def test_what_is_there_again_in_independent_replays_is_signal() -> None:
    # A = +-1 and +-.5, fresh Q_j - b_{-j} = +-.5 and -+.5: covariances .5 and -.25
    groups = [
        _group("p", [[1.0], [0.0]], [[1.0, 0.0], [0.0, 0.0]]),
        _group("q", [[0.5], [0.0]], [[0.0, 0.0], [1.0, 0.0]]),
    ]
    figures = _figures(groups)
    assert figures["variance_confirmed"]["value"] == pytest.approx((0.5 - 0.25) / 2)
    # slope of (.5 -.5 -.5 .5) on (1 -1 .5 -.5): 4 products (.5 .5 -.25 -.25) over squares (1 1 .25 .25)
    assert figures["pooled_slope"]["value"] == pytest.approx(0.5 / 2.5)
    assert figures["pooled_rank"]["value"] == pytest.approx(
        spearmanr([1, -1, 0.5, -0.5], [0.5, -0.5, -0.5, 0.5]).statistic
    )
    # errors .5 -.5 1 -1; saying 0 would be off by .5
    assert figures["pooled_rmse"]["value"] == pytest.approx(sqrt(2.5 / 4))
    assert figures["pooled_rmse"]["null_value"] == pytest.approx(0.5)
    # s^2 = .5 and 0, two replays each: noise of the target .25 in both groups
    assert figures["pooled_rmse"]["bound"] == pytest.approx(sqrt(0.25))


def test_wasted_replays_are_the_share_of_tied_groups() -> None:
    groups = [_group("p", [[1.0, 0.0], [0.0, 1.0]]), _group("p", [[1.0], [0.0]]), _group("q", [[0.0], [0.0]])]
    wasted = _figures(groups)["wasted_replays"]
    assert (wasted["value"], wasted["count"], wasted["problems"]) == (pytest.approx(2 / 3), 3, 2)


def test_a_message_that_decides_the_outcome_has_influence_and_an_ignored_one_has_none() -> None:
    deciding = [_group(f"p{i}", [[1.0] * 6, [0.0] * 6]) for i in range(8)]
    figures = _figures(deciding)
    assert figures["influence"]["value"] > 0.6  # log 2 is .69
    assert figures["influence"]["null_p"] == 1 / 1000
    assert figures["influence_miller_madow"]["value"] == pytest.approx(log(2) + 1 / 24)
    ignored = [_group(f"p{i}", [[1.0, 0.0, 1.0, 0.0]] * 2) for i in range(8)]
    figures = _figures(ignored)
    assert figures["influence"]["value"] < 0
    assert figures["influence"]["null_p"] == 1.0


def test_one_problem_has_a_value_and_no_interval() -> None:
    figures = _figures([_group("p", [[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]])] * 3)
    for row in figures.values():
        assert row["value"] is not None
        assert (row["low"], row["high"]) == (None, None)


def test_what_cannot_be_told_is_null_and_says_why() -> None:
    once = [_group("p", [[1.0], [0.0]]), _group("q", [[0.0], [0.5]])]
    reasons = {name: row["reason"] for name, row in _figures(once).items()}
    assert {name for name, reason in reasons.items() if reason == ASK_FOR_ONE} == NEEDS_REPLAYS
    assert {name for name, reason in reasons.items() if reason == ONE_EACH} == {
        *("variance_noise", "variance_signal", "reliability"),
        *("influence", "influence_answer", "influence_miller_madow"),
    }
    assert {name for name, reason in reasons.items() if reason is None} == {"wasted_replays", "variance"}
    one_more = [_group(group.problem_id, [[1.0], [0.0]], [[1.0], [0.0]]) for group in once]
    assert _figures(one_more)["fidelity_ceiling"]["reason"] == ASK_FOR_TWO
    assert _figures(one_more)["fidelity"]["value"] == pytest.approx(1)
    assert _figures(one_more)["fidelity"]["bound"] is None
    last = {row["reason"] for name, row in _figures(once, last=True).items() if name.startswith(("fid", "pool", "inf"))}
    assert last == {LAST_ROLE}
    assert {row["reason"] for row in _figures([]).values()} == {NO_GROUP}
    for row in (row for rows in (_figures(once), _figures([])) for row in rows.values() if row["reason"]):
        assert (row["value"], row["low"], row["replays_from"], row["count"]) == (None, None, None, 0)


def test_a_group_with_an_undefined_advantage_is_left_out() -> None:
    undefined = Group("p", tuple(Alternative(nan, 1.0, 1, (1.0,)) for _ in range(2)))
    figures = _figures([undefined, _group("q", [[1.0], [0.0]])])
    assert (figures["variance"]["count"], figures["variance"]["left_out"]) == (1, 1)
    assert figures["wasted_replays"]["count"] == 2


def _ending(path: str, reward: float | None) -> Ending:
    draws = path.split(".")
    messages = tuple(f"p:{'.'.join(draws[: end + 1])}" for end in range(len(draws)))
    return Ending(messages[-1], messages, messages, reward)


def test_leaves_below_one_message_are_one_replay_of_those_above_it(tmp_path: Path) -> None:
    rewards = {"0.0.0": 1.0, "0.0.1": 0.0, "0.1.0": 1.0, "0.1.1": 1.0, "1.0.0": 0.0, "1.0.1": None, "1.1.0": 0.25}
    endings = [_ending(path, reward) for path, reward in rewards.items()]
    artifact = samples(tmp_path / "round", [endings])
    with open_writer(Layout(tmp_path), "hand", "credit") as writer:
        rows = credit(tmp_path, [endings], "c3")
        record = writer.write(0, StageOutput({"advantages": rows}), 0.0)
        advantages = provisional("hand", "credit", writer.path, [record])
    again = samples(tmp_path / "again", [[Ending("x", ("p:0", "p:0.9", "p:0.9.0"), ("p:0",), 0.5)]])
    found = diagnosed_rows([artifact, advantages], [again])
    groups = groups_of(found["alternatives"], found["units"])
    [first] = groups["first"]
    assert [each.replays for each in first.alternatives] == [(0.5, 1.0), (0.0, 0.25)]  # what is not scored is not there
    assert [each.replay_count for each in first.alternatives] == [4, 2]
    assert [each.independent_replays for each in first.alternatives] == [(0.5,), ()]
    assert [each.branches for each in first.alternatives] == [True, False]
    assert [outcome for outcome, _ in first.alternatives[0].outcomes] == [1.0, 1.0, 0.5]  # one leaf of each
    assert [len(group.alternatives) for group in groups["second"]] == [2, 2]
    # the third role's messages end the episode: each is its own replay; one of them has no return, so is not there
    assert [[each.replays for each in group.alternatives] for group in groups["third"]] == [
        [(1.0,), (0.0,)],
        [(1.0,), (1.0,)],
        [(0.0,)],
    ]


def _diagnosed(resolver: StepResolver, replays: int) -> PlayedRound:
    line = resolver.line("independent_replay")
    with edit_round(resolver.round.layout, line) as record:
        record.independent_replays = replays
    return drive_on(
        resolver,
        steps=DIAGNOSIS,
    )


@pytest.mark.parametrize(("world", "plan"), [("trio", "tree"), ("trio", "replay"), ("diamond", "tree")])
def test_every_alternative_is_replayed_alike_by_the_policy_of_its_round(world: str, plan: str, store: Path) -> None:
    round = drive(store, config_of(world, plan), until="advantages")
    extra = _diagnosed(round.resolver, 3)
    decisions = round.by_id("decisions", "decision_id")
    last = max(row["depth"] for row in decisions.values())
    groups = {row["group_id"] for row in round.rows("advantages") if row["group_size"] >= 2 and row["depth"] < last}
    asked = [row["decision_id"] for row in round.rows("advantages") if row["group_id"] in groups]
    replays = extra.rows("replays", "independent_replay")
    assert sorted(row["alternative_id"] for row in replays) == sorted(asked * 3)
    made = {row["decision_id"]: row for row in extra.rows("decisions", "independent_replay")}
    for replay in replays:
        alternative = decisions[replay["alternative_id"]]
        assert replay["credited"] == [replay["alternative_id"]]
        assert replay["decision_ids"][alternative["depth"] - 1] == replay["alternative_id"]
        followed = [made[name] for name in replay["decision_ids"][alternative["depth"] :]]
        assert [row["depth"] for row in followed] == list(range(alternative["depth"] + 1, last + 1))
    assert {row["policy_version"] for row in made.values()} == {row["policy_version"] for row in decisions.values()}
    assert not any(row["is_logged"] for row in made.values())
    assert not made.keys() & decisions.keys()
    assert not {row["seed"] for row in made.values()} & {row["seed"] for row in decisions.values()}


@pytest.fixture(scope="session")
def round_to_diagnose(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """A finished round of the duo with a variant of another estimator."""
    round = drive(tmp_path_factory.mktemp("diagnosed"), config_of("duo", "tree"))
    branch = Variant("main", 1, "advantages", ("advantages.estimator=full_mean",))
    record_variant(round.layout, "test", "mean", branch)
    drive_on(resolver_of(round.store, "test", 1, "mean"))
    return round


def test_a_diagnosis_is_made_once_and_changes_nothing_of_the_round(round_to_diagnose: PlayedRound) -> None:
    resolver = round_to_diagnose.resolver
    before = [look.key for look in resolver.resolve_steps().steps]
    without = _diagnosed(resolver, 0)
    assert without.reports["independent_replay"].usage["messages"] == 0
    assert {
        row["name"] for row in without.rows("diagnostics", "diagnose") if row["reason"] == ASK_FOR_ONE
    } == NEEDS_REPLAYS
    first, second = _diagnosed(resolver, 4), _diagnosed(resolver, 4)
    assert first.reports["independent_replay"].usage["evaluations"] == 4 * 8  # two Reasoner messages of four problems
    assert set(first.made) == {"independent_replay", "independent_grade", "diagnose"}
    assert second.made == []
    assert {row["replays_from"] for row in first.rows("diagnostics", "diagnose") if row["name"] == "fidelity"} == {
        "both",
        None,
    }
    # the variant credits the same samples: its diagnosis generates nothing
    variant = _diagnosed(resolver_of(resolver.round.layout.root, "test", 1, "mean"), 4)
    assert variant.made == ["diagnose"]
    assert [look.key for look in resolver_of(resolver.round.layout.root, "test", 1).resolve_steps().steps] == before
    read = {name for step in ROUND for name in step.inputs}
    assert not read & {step.name for step in DIAGNOSIS}


def test_a_diagnosis_is_kept_verified_shown_and_queried(round_to_diagnose: PlayedRound) -> None:
    resolver = round_to_diagnose.resolver
    found = _diagnosed(resolver, 4)
    kept = {(artifact.stage, artifact.key) for artifact in found.artifacts.values()}
    assert not kept & {(entry.stage, entry.key) for entry in garbage(resolver.round.layout)}
    assert [finding for _, finding in verify(resolver.round.layout) if finding] == []
    states = {entry.variant: entry.states for entry in round_statuses(resolver.round.layout)}["main"]
    assert [states[step.name] for step in DIAGNOSIS] == ["made"] * 3
    rows = fetch(
        query(resolver.round.layout, "SELECT role, value FROM diagnostics WHERE variant = 'main' AND name = 'variance'")
    )
    assert [role for role, _ in rows] == ["reasoner", "actor"]
    counted = "SELECT count(*), count(reward) FROM independent_replays WHERE variant = 'main'"
    assert fetch(query(resolver.round.layout, counted)) == [(32, 32)]
    ours = "SELECT count(*) FROM replays WHERE variant = 'main'"
    assert fetch(query(resolver.round.layout, ours)) == [(len(round_to_diagnose.rows("replays", "replay")),)]


def test_a_diagnosis_that_was_stopped_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    config = config_of("duo", "tree")
    whole, stopped = (drive(tmp_path / name, config, until="advantages").resolver for name in ("whole", "stopped"))
    expected = _diagnosed(whole, 2)
    with edit_round(stopped.round.layout, RoundRef("test", 1)) as record:
        record.independent_replays = 2
    look = resolver_of(stopped.round.layout.root, "test", 1).resolve(DIAGNOSIS.steps[0], stopped.inputs_of(DIAGNOSIS))
    parts = look.step.stage.cut(look.job)
    assert len(parts) == 2
    with open_writer(stopped.round.layout, "independent_replay", look.key) as writer:
        make_part(writer, look, parts[1], ExecutionContext(resources=Resources()))
    states = round_statuses(stopped.round.layout)[0].states
    assert (states["independent_replay"], states["diagnose"]) == ("partial", "missing")
    resumed = _diagnosed(stopped, 2)
    report = resumed.reports["independent_replay"]
    assert (report.parts_made, report.parts_reused) == (1, 1)
    assert [_bytes(resumed.artifacts[step.name]) for step in DIAGNOSIS] == [
        _bytes(expected.artifacts[step.name]) for step in DIAGNOSIS
    ]


def _bytes(artifact: Artifact) -> dict[str, bytes]:
    return {str(path.relative_to(artifact.path)): path.read_bytes() for path in artifact.path.glob("part-*/*.parquet")}


def test_the_roles_advantages_are_described(round_to_diagnose: PlayedRound) -> None:
    rows = {
        row["name"]: row["value"]
        for row in _diagnosed(round_to_diagnose.resolver, 0).rows("diagnostics", "diagnose")
        if row["role"] == "actor"
    }
    credited = [row["advantage"] for row in round_to_diagnose.rows("advantages") if row["role"] == "actor"]
    assert rows["advantage_mean"] == pytest.approx(np.mean(credited), abs=1e-12)
    assert rows["advantage_spread"] == pytest.approx(np.std(credited))
    quantiles = [rows[f"advantage_{name}"] for name in ("smallest", "p05", "p25", "median", "p75", "p95", "largest")]
    assert quantiles == pytest.approx(np.quantile(credited, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]))
    assert (rows["advantage_undefined"], rows["advantage_zero"]) == (0, np.mean(np.array(credited) == 0))


def test_a_round_that_has_no_credit_yet_cannot_be_diagnosed(store: Path) -> None:
    resolver = drive(store, config_of("duo", "tree"), until="grade").resolver
    with pytest.raises(StoreError, match=r"diagnose of round 1 needs advantages, .* `c3 run iteration .* --round 1`"):
        resolver.inputs_of(DIAGNOSIS)


@pytest.mark.parametrize(("problems", "warned"), [(59, True), (60, False)])
def test_whoever_reads_variances_of_few_problems_is_told_that_their_intervals_are_too_short(
    problems: int, warned: bool, round_to_diagnose: PlayedRound
) -> None:
    artifact = _diagnosed(round_to_diagnose.resolver, 4).artifacts["diagnose"]
    rows = [{**row, "problems": problems} for row in artifact.rows("diagnostics")]
    lines = _shown(rows)
    assert any(line.startswith(f"note: with fewer than some 60 problems (here {problems})") for line in lines) is warned
    assert max(map(len, lines)) <= 80
    # where no interval of a variance is shown there is nothing to say
    others = [row for row in rows if not row["name"].startswith("variance")]
    assert not any(line.startswith("note") for line in _shown(others))


def _shown(rows: list[Row]) -> list[str]:
    console = Console(file=StringIO(), record=True, width=80)
    show_figures(console, rows)
    return console.export_text().splitlines()


@pytest.mark.slow
def test_the_command_says_what_it_will_spend_and_spends_it_once(c3: Callable[..., Answer]) -> None:
    refused = c3("diagnose", "--round", "1")
    assert (refused.code, "not in c3-store" in refused.err) == (2, True)
    assert c3("run", "iteration", "--round", "1", "--config", "scripted-duo").code == 0
    first = c3("diagnose", "--round", "1", "--replays", "4")
    assert "4 independent replays of each of 16 alternatives: 64 evaluations, 64 messages" in first.out
    assert "there already" not in first.out
    again = c3("diagnose", "--round", "1")
    assert "(there already)" in again.out
    assert [
        line.split()[-1]
        for line in again.out.splitlines()
        if line.startswith(("independent_replay", "independent_grade"))
    ] == ["reused"] * 2
    narrow = c3("diagnose", "--round", "1", env={"COLUMNS": "80"})
    assert max(map(len, narrow.out.splitlines())) <= 80
    found = json.loads(c3("diagnose", "--round", "1", "--json").out)
    assert (found["round"], found["independent_replays"]) == (1, 4)
    assert {row["name"] for row in found["figures"]} >= NEEDS_REPLAYS
