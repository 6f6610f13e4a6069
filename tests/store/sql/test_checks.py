"""Every SQL check can fail: each is fed a round with one thing wrong, and must name itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from configs.credit import AdvantagesConfig
from configs.errors import CheckError, EvaluatorError
from configs.evaluators import GradeConfig, TableEvaluator
from configs.problems import ScriptedProblems
from configs.schema import EvaluateConfig
from pipeline.rounds.resolve import StepResolver
from pipeline.steps import ABLATED_REPLAYS, DIAGNOSIS, EVALUATION, INTERVENTIONS, VALUES, list_with, step_named
from stages.base.job import Intervention, Job
from stages.base.resources import Resources
from stages.evaluators.protocol import Grade
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Artifact, Row, StageOutput, provisional
from store.artifacts.schemas import TABLES
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries.checks import checks_of, run_checks
from store.queries.connection import SQL
from store.runs.records import RoundRef, edit_round
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of

Damage = Callable[[list[Row]], list[Row]]
Played = Callable[[str, str], PlayedRound]


def _drop(rows: list[Row]) -> list[Row]:
    return rows[1:]


def _repeat(rows: list[Row]) -> list[Row]:
    return [rows[0], *rows]


def _change(**columns: Any) -> Damage:
    """Other values in the first row."""
    return lambda rows: [{**rows[0], **columns}, *rows[1:]]


def _same_id(rows: list[Row]) -> list[Row]:
    return [{**rows[0], "decision_id": rows[1]["decision_id"]}, *rows[1:]]


def _same_seed(rows: list[Row]) -> list[Row]:
    return [{**rows[0], "seed": rows[1]["seed"]}, *rows[1:]]


def _same_group(rows: list[Row]) -> list[Row]:
    """The first row in the group of the last, which is another state's and another role's."""
    return [{**rows[0], "group_id": rows[-1]["group_id"]}, *rows[1:]]


def _joined_states(rows: list[Row]) -> list[Row]:
    """Two states of one role in one group."""
    last = [row for row in rows if row["depth"] == rows[-1]["depth"]]
    assert last[0]["state_id"] != last[-1]["state_id"]
    return [
        {**row, "group_id": last[0]["group_id"]} if row["group_id"] == last[-1]["group_id"] else row for row in rows
    ]


def _one_more_replay(rows: list[Row]) -> list[Row]:
    return _change(replay_count=rows[0]["replay_count"] + 1)(rows)


WHOLE = [
    ("every_decision_is_whole", "decisions", _change(behaviour_logprobs=[-0.5])),
    ("every_decision_is_whole", "decisions", _change(token_ids=[], behaviour_logprobs=[])),
    ("every_decision_is_whole", "decisions", _change(behaviour_logprobs=[0.5, 0.0])),
    ("every_decision_is_whole", "decisions", _change(behaviour_logprobs=[float("nan"), 0.0])),
    ("every_decision_is_whole", "decisions", _change(behaviour_logprobs=[float("-inf"), 0.0])),
    ("every_decision_is_whole", "decisions", _change(behaviour_logprobs=[None, 0.0])),
    ("every_decision_is_whole", "decisions", _change(behaviour_logprobs=None)),
    ("every_decision_is_whole", "decisions", _change(finish_reason="tired")),
    ("every_decision_is_whole", "decisions", _change(finish_reason=None)),
]
GRADED = [
    ("every_episode_is_graded_once", "rewards", _drop),
    ("every_episode_is_graded_once", "rewards", _repeat),
    ("every_episode_is_graded_once", "rewards", _change(reward=None)),
    ("every_episode_is_graded_once", "rewards", _change(error="ValueError: no")),
    ("every_episode_is_graded_once", "rewards", _change(reward=float("nan"))),
]
CASES = [
    *[("rollout", *case) for case in WHOLE],
    ("rollout", "every_problem_has_its_messages", "decisions", _drop),
    ("rollout", "every_problem_has_its_messages", "decisions", _repeat),
    ("freeze", "every_state_is_frozen_once", "contexts", _drop),
    ("freeze", "every_state_is_frozen_once", "contexts", _repeat),
    ("freeze", "every_state_is_frozen_once", "contexts", _change(context_id="another")),
    *[("sample", *case) for case in WHOLE[:1]],
    ("sample", "every_state_has_its_siblings", "decisions", _drop),
    ("sample", "every_state_has_its_siblings", "decisions", _repeat),
    ("sample", "siblings_saw_the_frozen_context", "decisions", _change(context_id="another")),
    ("sample", "siblings_saw_the_frozen_context", "decisions", _change(state_id="nowhere")),
    *[("replay", *case) for case in WHOLE[:1]],
    ("replay", "ids_are_unique", "decisions", _same_id),
    ("replay", "the_budget_is_spent_exactly", "replays", _drop),
    ("replay", "the_budget_is_spent_exactly", "replays", _repeat),
    ("replay", "the_budget_is_spent_exactly", "decisions", _drop),
    *[("grade", *case) for case in GRADED],
    ("grade", "a_reward_counts_where_its_episode_does", "rewards", _change(credited=[])),
    ("grade", "a_reward_counts_where_its_episode_does", "rewards", _change(decision_ids=None)),
    ("advantages", "a_group_is_one_state_and_one_team", "advantages", _change(policy_version="another")),
    ("advantages", "a_group_is_one_state_and_one_team", "advantages", _same_group),
    ("advantages", "a_group_is_one_state_and_one_team", "advantages", _joined_states),
    ("advantages", "advantages_are_finite_or_null", "advantages", _change(advantage=float("nan"))),
    ("advantages", "advantages_are_finite_or_null", "advantages", _change(advantage=float("inf"))),
    ("advantages", "advantages_are_finite_or_null", "advantages", _change(advantage=None)),
    ("advantages", "advantages_are_finite_or_null", "advantages", _change(baseline=None)),
    ("advantages", "every_alternative_has_its_replays", "advantages", _one_more_replay),
    ("advantages", "every_credited_message_is_there", "advantages", _drop),
    ("update", "every_alternative_is_accounted_for", "update_rows", _drop),
    ("update", "every_alternative_is_accounted_for", "update_rows", _repeat),
    *[("answer", *case) for case in WHOLE[:1]],
    ("answer", "every_problem_is_answered_once", "transcripts", _drop),
    ("answer", "every_problem_is_answered_once", "transcripts", _repeat),
    *[("answer_grade", *case) for case in GRADED],
    *[("independent_replay", *case) for case in WHOLE[:1]],
    ("independent_replay", "ids_are_unique", "decisions", _same_id),
    ("independent_replay", "no_seed_is_used_twice", "decisions", _same_seed),
    ("independent_replay", "every_alternative_is_continued_alike", "replays", _drop),
    ("independent_replay", "every_alternative_is_continued_alike", "replays", _repeat),
    ("independent_replay", "every_alternative_is_continued_alike", "replays", _change(alternative_id="nobody's")),
    *[("independent_grade", *case) for case in GRADED],
    *[("intervention", *case) for case in WHOLE[:1]],
    ("intervention", "every_intervention_has_its_replays", "replays", _drop),
    ("intervention", "every_intervention_has_its_replays", "replays", _repeat),
    ("intervention", "every_intervention_has_its_replays", "interventions", _drop),
    ("intervention", "every_intervention_is_at_a_frozen_state", "interventions", _repeat),
    ("intervention", "every_intervention_is_at_a_frozen_state", "interventions", _change(state_id="nowhere")),
    ("intervention", "every_intervention_is_at_a_frozen_state", "interventions", _change(role="verifier")),
    ("intervention", "ids_are_unique", "decisions", _same_id),
    ("intervention", "seeds_are_unique", "decisions", _same_seed),
    *[("intervention_grade", *case) for case in GRADED],
    *[("ablated_replay", *case) for case in WHOLE[:1]],
    ("ablated_replay", "every_intervention_has_its_replays", "interventions", _drop),
    ("ablated_replay", "every_intervention_has_its_replays", "replays", _drop),
    ("ablated_replay", "every_intervention_is_at_a_frozen_state", "interventions", _change(role="verifier")),
    ("ablated_replay", "ids_are_unique", "decisions", _same_id),
    ("ablated_replay", "seeds_are_unique", "decisions", _same_seed),
    ("ablated_replay", "the_budget_is_spent_exactly", "decisions", _drop),
    *[("ablated_grade", *case) for case in GRADED],
    ("critic", "every_alternative_is_told_once", "critic_values", _drop),
    ("critic", "every_alternative_is_told_once", "critic_values", _repeat),
    ("critic", "every_alternative_is_told_once", "critic_values", _change(decision_id="nobody's")),
    ("diagnose", "a_figure_is_there_once", "diagnostics", _repeat),
    ("diagnose", "a_figure_has_a_value_or_a_reason", "diagnostics", _change(value=None)),
    ("diagnose", "a_figure_has_a_value_or_a_reason", "diagnostics", _change(reason="none")),
    ("diagnose", "a_figure_has_a_value_or_a_reason", "diagnostics", _change(value=float("nan"))),
    ("diagnose", "a_figure_has_a_value_or_a_reason", "diagnostics", _change(high=None)),
    ("diagnose", "a_figure_has_a_value_or_a_reason", "diagnostics", _change(low=2.0, high=1.0)),
]


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The untrained duo's answers to two held-out problems."""
    config = config_of("duo", "tree", evaluate=EvaluateConfig(problems=ScriptedProblems(count=2, seed=9)))
    return drive(tmp_path_factory.mktemp("evaluated"), config, round=0, steps=EVALUATION)


@pytest.fixture(scope="session")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The trio's round, diagnosed with two independent replays of each alternative."""
    resolver = drive(tmp_path_factory.mktemp("diagnosed"), config_of("trio", "tree"), until="advantages").resolver
    with edit_round(resolver.round.layout, RoundRef(resolver.round.ref.run, 1)) as record:
        record.independent_replays = 2
    return drive_on(resolver_of(resolver.round.layout.root, resolver.round.ref.run, 1), steps=DIAGNOSIS)


@pytest.fixture(scope="session")
def intervene(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The trio's round, asked what follows when its first role says nothing."""
    resolver = drive(tmp_path_factory.mktemp("intervene"), config_of("trio", "tree"), until="replay").resolver
    return drive_on(
        StepResolver(replace(resolver.round, intervention=Intervention("", 2, role="reasoner"))), steps=INTERVENTIONS
    )


@pytest.fixture(scope="session")
def without(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The trio's round under ccpo."""
    config = config_of("trio", "tree", advantages=AdvantagesConfig(estimator="ccpo", ablated_replays=2))
    return drive(tmp_path_factory.mktemp("without"), config, until="advantages")


@pytest.fixture(scope="session")
def valued(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The trio's round under mappo."""
    config = config_of("trio", "tree", advantages=AdvantagesConfig(estimator="mappo"))
    return drive(tmp_path_factory.mktemp("valued"), config, until="advantages")


def _check(step: str, round: PlayedRound, artifact: Artifact) -> None:
    stage = step_named(step).stage
    spending = stage.spending(Job(round.config, round.resolver.round.ref.round))
    run_checks(step, stage.tables, [*(round.artifacts[name] for name in step_named(step).inputs), artifact], spending)


def _with(artifact: Artifact, table: str, corruption: Damage, folder: Path) -> Artifact:
    """The artifact with one table's rows corrupt."""
    tables = _tables(artifact)
    return _put({**tables, table: corruption(tables[table])}, folder)


def _tables(artifact: Artifact) -> dict[str, list[Row]]:
    return {path.stem: artifact.rows(path.stem) for part in artifact.parts() for path in part.glob("*.parquet")}


def _put(tables: dict[str, list[Row]], folder: Path) -> Artifact:
    with open_writer(Layout(folder), "corrupt", "key") as writer:
        return provisional("corrupt", "key", writer.path, [writer.write(0, StageOutput(tables), 0.0)])


@pytest.mark.parametrize(("step", "check", "table", "corruption"), CASES)
def test_a_check_finds_what_it_looks_for(
    played: Played,
    request: pytest.FixtureRequest,
    step: str,
    check: str,
    table: str,
    corruption: Damage,
    tmp_path: Path,
) -> None:
    lists = {
        EVALUATION: "evaluated",
        DIAGNOSIS: "diagnosed",
        INTERVENTIONS: "intervene",
        ABLATED_REPLAYS: "without",
        VALUES: "valued",
    }
    beside = lists.get(list_with(step))
    round = request.getfixturevalue(beside) if beside else played("trio", "tree")
    artifact = round.artifacts[step]
    _check(step, round, artifact)  # it passes before
    [file] = [path for path in checks_of(step, step_named(step).stage.tables) if path.stem == check]
    claim = file.read_text().splitlines()[0].removeprefix("-- ")
    with pytest.raises(CheckError) as found:
        _check(step, round, _with(artifact, table, corruption, tmp_path))
    assert str(found.value).startswith(f"check {step}/{check} failed: {claim}; first offence: ")


def test_a_table_that_was_not_written_at_all_escapes_none_of_its_checks(played: Played, tmp_path: Path) -> None:
    round = played("trio", "tree")
    with pytest.raises(CheckError, match="check grade/every_episode_is_graded_once failed"):
        _check("grade", round, _put({}, tmp_path))


@pytest.mark.parametrize("lists", ["evaluated", "diagnosed", "intervene", "without", "valued", None])
def test_every_stage_writes_the_tables_that_it_declares(
    lists: str | None, played: Played, request: pytest.FixtureRequest
) -> None:
    round = request.getfixturevalue(lists) if lists else played("trio", "tree")
    for step, artifact in round.artifacts.items():
        assert set(_tables(artifact)) == set(step_named(step).stage.tables), step


class _Broken:
    """An evaluator that breaks, each time in another way."""

    def __init__(self) -> None:
        self._ways = cycle([float("nan"), float("inf"), None, "one", ValueError("half a \ud800 pair")])

    def grade(self, output: str, problem: Problem) -> Grade:
        way = next(self._ways)
        if isinstance(way, Exception):
            raise way
        return Grade(way, "", None)  # type: ignore[arg-type]


def test_whatever_breaks_in_an_evaluator_is_no_reward_and_no_crash(
    played: Played, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setattr(Resources, "evaluator", lambda self, config: _Broken())
    config = config_of("solo", "tree", grade=GradeConfig(evaluator=TableEvaluator(), max_unscored_share=1.0))
    rewards = drive(store, config, until="advantages").rows("rewards")
    assert {row["reward"] for row in rewards} == {None}
    assert {row["error"] for row in rewards} == {
        "ValueError: the reward is nan, which is no finite number",
        "ValueError: the reward is inf, which is no finite number",
        "TypeError: must be real number, not NoneType",
        "TypeError: must be real number, not str",
        "ValueError: half a \\ud800 pair",
    }


def test_grading_stops_where_too_many_answers_cannot_be_graded(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setattr(Resources, "evaluator", lambda self, config: _Broken())
    with pytest.raises(EvaluatorError, match="the table evaluator failed on 16 of 16 answers"):
        drive(store, config_of("solo", "tree"), until="grade")


def test_every_check_is_tried_here() -> None:
    tried = {check for _, check, _, _ in CASES}
    of_steps = {(path.parent.name, path.stem) for path in (SQL / "checks").glob("*/*.sql")}
    of_tables = {path.stem for path in (SQL / "checks").glob("tables/*/*.sql")}
    assert of_steps <= {(step, check) for step, check, _, _ in CASES}
    assert {check for _, check in of_steps} | of_tables == tried


def test_a_check_is_one_file_that_serves_every_step_which_writes_its_table() -> None:
    files = list((SQL / "checks").glob("**/*.sql"))
    assert len({path.read_text() for path in files}) == len(files)
    assert {path.name for path in (SQL / "checks/tables").iterdir()} <= set(TABLES)
    tried: dict[str, set[str]] = {}
    for step, check, _, _ in CASES:
        tried.setdefault(check, set()).add(step)
    sampling = {"rollout", "sample", "replay", "answer", "independent_replay", "intervention", "ablated_replay"}
    assert tried["every_decision_is_whole"] == sampling
    assert tried["every_episode_is_graded_once"] == {
        "grade",
        "answer_grade",
        "independent_grade",
        "intervention_grade",
        "ablated_grade",
    }
    assert tried["ids_are_unique"] == {"replay", "independent_replay", "intervention", "ablated_replay"}
