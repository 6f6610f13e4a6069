"""The tables as a user queries them: labelled, joined without thought, read-only."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

import cli
from configs.credit import AdvantagesConfig
from configs.errors import ConfigError
from configs.problems import ScriptedProblems
from configs.schema import EvaluateConfig
from pipeline.steps import EVALUATION
from store.disk.layout import Layout
from store.queries.catalog_views import fetch, query, write_parquet
from tests.support.rounds import PlayedRound, config_of, drive

Played = Callable[[str, str], PlayedRound]


def _rows(store: Path, text: str) -> list[dict[str, Any]]:
    relation = query(Layout(store), text)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


@pytest.fixture(scope="session")
def two_runs(played: Played, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of run `test` (a round), and run `other` (two rounds, evaluated), which shares its first round's samples."""
    store = tmp_path_factory.mktemp("sql") / "store"
    copytree(played("duo", "tree").store, store)
    config = config_of(
        "duo",
        "tree",
        advantages=AdvantagesConfig(group_by="context"),
        evaluate=EvaluateConfig(problems=ScriptedProblems(count=3, seed=9)),
    )
    drive(store, config, run="other")
    drive(store, config, run="other", round=2)
    drive(store, config, run="other", round=2, steps=EVALUATION)
    return store


@pytest.mark.parametrize(("world", "plan"), [("duo", "tree"), ("trio", "replay"), ("four_turns", "episodes")])
def test_every_table_has_its_rows_once(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    tables = [
        "problems",
        "transcripts",
        "decisions",
        "contexts",
        "replays",
        "rewards",
        "advantages",
        "steps",
        "update_rows",
    ]
    counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
    [found] = _rows(round.store, f"SELECT {counts}, (SELECT count(DISTINCT episode_id) FROM episodes) AS episodes")
    assert found == {**{table: len(round.rows(table)) for table in tables}, "episodes": len(round.rows("rewards"))}


def test_advantages_by_role_and_round(two_runs: Path) -> None:
    found = _rows(
        two_runs,
        "SELECT run, round, role, count(*) AS n, avg(advantage) AS mean FROM advantages GROUP BY ALL ORDER BY ALL",
    )
    # fanout 2,4 on four problems: 8 messages of the reasoner and 32 of the actor, each round
    assert [(row["run"], row["round"], row["role"], row["n"]) for row in found] == [
        ("other", 1, "actor", 32),
        ("other", 1, "reasoner", 8),
        ("other", 2, "actor", 32),
        ("other", 2, "reasoner", 8),
        ("test", 1, "actor", 32),
        ("test", 1, "reasoner", 8),
    ]
    # inside a group of equal replay counts leave-one-out advantages sum to zero, and so do all groups together
    assert [row["mean"] for row in found] == pytest.approx([0.0] * 6, abs=1e-12)


def test_an_advantage_joins_its_problem_its_context_its_text_and_its_replays(played: Played) -> None:
    round = played("duo", "tree")
    found = _rows(
        round.store,
        """
        SELECT a.decision_id, a.text, a.mean_return, p.question, c.upstream, c.token_ids,
               list(e.reward ORDER BY e.episode_id) AS rewards
        FROM advantages AS a
        JOIN problems AS p USING (run, round, variant, problem_id)
        JOIN contexts AS c USING (run, round, variant, state_id)
        JOIN episodes AS e ON e.run = a.run AND e.round = a.round AND e.variant = a.variant
                          AND list_contains(e.decision_ids, a.decision_id)
        WHERE a.role = 'reasoner'
        GROUP BY ALL
        """,
    )
    decisions = round.by_id("decisions", "decision_id")
    assert len(found) == 8
    for row in found:
        assert row["text"] == decisions[row["decision_id"]]["text"]
        assert bytes(row["token_ids"][1:-2]).decode() == f"reasoner. {row['question']}."
        assert row["upstream"] == []
        assert len(row["rewards"]) == 4
        assert row["mean_return"] == pytest.approx(fmean(row["rewards"]), abs=1e-12)


def test_the_ten_best_messages_with_their_text(played: Played) -> None:
    round = played("duo", "tree")
    found = _rows(
        round.store,
        "SELECT role, advantage, text, source FROM advantages ORDER BY advantage DESC, decision_id LIMIT 10",
    )
    best = sorted((row["advantage"] for row in round.rows("advantages")), reverse=True)[:10]
    assert [row["advantage"] for row in found] == best
    assert all(row["text"] in ("ant", "bee", "cat") and row["source"] in ("rollout", "sample") for row in found)


def test_the_share_of_groups_that_tie(played: Played) -> None:
    round = played("duo", "tree")
    found = _rows(
        round.store,
        """
        SELECT role, avg(CAST(tied AS INTEGER)) AS share FROM (
            SELECT role, group_id, min(mean_return) = max(mean_return) AS tied FROM advantages GROUP BY ALL
        ) GROUP BY role
        """,
    )
    returns: dict[tuple[str, str], set[float]] = defaultdict(set)
    for row in round.rows("advantages"):
        returns[row["role"], row["group_id"]].add(row["mean_return"])
    expected = {
        role: fmean(len(values) == 1 for (of, _), values in returns.items() if of == role)
        for role in ("reasoner", "actor")
    }
    assert {row["role"]: row["share"] for row in found} == pytest.approx(expected, abs=1e-15)


def test_an_alternative_is_a_message_with_siblings(played: Played) -> None:
    # fanouts 2,2,2 on four problems: 2 + 4 + 8 messages, each with a sibling; alone, only first messages have any
    [found] = _rows(played("trio", "tree").store, "SELECT count(*) AS n FROM alternatives")
    assert found["n"] == 4 * (2 + 4 + 8)
    [found] = _rows(played("trio", "episodes").store, "SELECT list(DISTINCT role) AS roles FROM alternatives")
    assert found["roles"] == ["reasoner"]


def test_shared_artifacts_are_labelled_with_every_run_that_refers_to_them(two_runs: Path) -> None:
    found = _rows(two_runs, "SELECT run, count(*) AS n FROM decisions WHERE round = 1 GROUP BY run ORDER BY run")
    assert found == [{"run": "other", "n": 40}, {"run": "test", "n": 40}]


def test_held_out_answers_are_not_mixed_with_training(two_runs: Path) -> None:
    assert _rows(two_runs, "SELECT run, round, count(*) AS n FROM evaluations GROUP BY ALL") == [
        {"run": "other", "round": 2, "n": 3}
    ]
    assert _rows(two_runs, "SELECT count(*) AS n FROM heldout_problems") == [{"n": 3}]
    # the answer_grade's rewards and the answers' decisions are not those of a round
    assert _rows(two_runs, "SELECT count(*) AS n FROM rewards WHERE run = 'other' AND round = 2") == [{"n": 32}]
    assert _rows(two_runs, "SELECT count(*) AS n FROM decisions WHERE run = 'other' AND round = 2") == [{"n": 40}]


def test_an_empty_store_has_every_table(tmp_path: Path) -> None:
    for table in (
        "problems",
        "decisions",
        "alternatives",
        "episodes",
        "advantages",
        "evaluations",
        "update_rows",
        "steps",
    ):
        assert _rows(tmp_path, f"SELECT * FROM {table}") == []


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM advantages",
        "DROP VIEW advantages",
        "CREATE TABLE mine (a INT)",
        "INSERT INTO labels VALUES ('a', 'b', 'c', 'd', 1)",
        "UPDATE labels SET run = 'x'",
        "COPY (SELECT 1) TO 'out.csv'",
        "COPY (SELECT 1) TO '{store}/artifacts/out.csv'",
        "ATTACH '{store}/artifacts/new.duckdb'",
        "EXPORT DATABASE '{store}/artifacts/all'",
        "SET memory_limit = '1GB'",
        "INSTALL httpfs",
        "SELECT 1; DROP VIEW advantages",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('{store}/runs/test/run.json')",
        "SELECT * FROM glob('/etc/*')",
        "WITH gone AS (SELECT 1) DELETE FROM labels",
    ],
)
def test_a_query_reads_the_store_and_does_nothing_else(
    played: Played, text: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    store = played("duo", "tree").store
    before = sorted(store.rglob("*"))
    with pytest.raises(ConfigError, match=r"^c3 sql: "):
        query(Layout(store), text.format(store=store)).fetchall()
    assert sorted(store.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sql(played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`c3 sql ARGUMENTS` over the duo's round; what it prints."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["c3", "sql", *arguments, "--store", str(played("duo", "tree").store)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    return run


AWKWARD = """SELECT 1.5 AS number, NULL AS nothing, 'a "b", ünï' || chr(10) || 'c' AS text, [1, 2] AS list"""


def test_json_comes_back_as_it_was(sql: Callable[..., str]) -> None:
    assert json.loads(sql(AWKWARD, "--format", "json")) == [
        {"number": 1.5, "nothing": None, "text": 'a "b", ünï\nc', "list": [1, 2]}
    ]


def test_json_has_no_numbers_that_json_does_not_have(sql: Callable[..., str]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = sql("SELECT 'nan'::DOUBLE AS a, '-inf'::DOUBLE AS b", "--format", "json")
    assert json.loads(text, parse_constant=refuse) == [{"a": None, "b": None}]


def test_a_value_that_cannot_be_worked_with_is_an_error_of_one_line(played: Played, tmp_path: Path) -> None:
    relation = query(Layout(played("duo", "tree").store), "SELECT CAST(role AS INTEGER) AS a FROM advantages")
    with pytest.raises(ConfigError, match=r"^c3 sql: Conversion Error: "):
        fetch(relation)
    with pytest.raises(ConfigError, match=r"^c3 sql: Conversion Error: "):
        write_parquet(relation, tmp_path / "a.parquet")


def test_csv_comes_back_as_it_was(sql: Callable[..., str]) -> None:
    rows = list(csv.DictReader(io.StringIO(sql(AWKWARD, "--format", "csv"), newline="")))
    assert rows == [{"number": "1.5", "nothing": "", "text": 'a "b", ünï\nc', "list": "[1, 2]"}]


def test_parquet_comes_back_with_its_types(sql: Callable[..., str], tmp_path: Path) -> None:
    assert (
        sql(
            "SELECT * FROM advantages ORDER BY decision_id",
            "--format",
            "parquet",
            "--output",
            str(tmp_path / "a.parquet"),
        )
        == ""
    )
    rows = pq.read_table(tmp_path / "a.parquet")
    assert rows.num_rows == 40
    assert str(rows.schema.field("advantage").type) == "double"


def test_a_table_shows_null_as_null(sql: Callable[..., str]) -> None:
    text = sql("SELECT NULL AS nothing, '' AS empty, 0 AS zero")
    assert text.splitlines()[0].split() == ["nothing", "empty", "zero"]
    assert text.splitlines()[1].split() == ["NULL", "0"]
    assert text.splitlines()[-1] == "(1 row)"
