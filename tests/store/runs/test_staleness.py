"""Rounds made from a policy which their run no longer holds are marked: in SQL, in `c3 status`, after another draw set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from rich.console import Console

from configs.errors import StoreError
from pipeline.commands.run import later_stale
from pipeline.rounds.status import round_statuses
from pipeline.views.status import show_stale
from store.disk.layout import Layout
from store.queries.catalog_views import query
from store.runs.records import RoundRef, edit_round
from store.runs.staleness import RunStaleness
from store.runs.variants import Variant, record_variant
from tests.support.rounds import config_of, drive, drive_on, resolver_of, session_of


@pytest.fixture(scope="module")
def three_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose run `test` has three rounds; for copying."""
    store = tmp_path_factory.mktemp("three") / "store"
    for round in (1, 2, 3):
        drive(store, config_of("duo", "tree"), round=round)
    return store


@pytest.fixture
def redrawn(three_rounds: Path, store: Path) -> Path:
    """The same, the first round drawn again to its end."""
    copytree(three_rounds, store)
    with edit_round(Layout(store), RoundRef("test", 1)) as record:
        record.draw_set = 1
    drive_on(resolver_of(store, "test", 1))
    return store


def _stale(store: Path) -> list[bool | None]:
    return [row[0] for row in query(Layout(store), "SELECT stale FROM rounds ORDER BY variant, round").fetchall()]


def _said(store: Path, round: int) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        show_stale(console, later_stale(session_of(store, "test", round)))
    return captured.get()


def test_each_round_is_made_from_the_policy_that_the_one_before_ended_with(three_rounds: Path) -> None:
    rounds = query(Layout(three_rounds), "SELECT * FROM rounds ORDER BY round").fetchall()
    scopes = [resolver_of(three_rounds, "test", round) for round in (1, 2, 3)]
    assert rounds == [
        ("test", resolver.round.ref.round, "main", resolver.policy_before.version, resolver.policy_after.version, False)
        for resolver in scopes
    ]
    assert all(rounds[i][4] == rounds[i + 1][3] for i in (0, 1))
    assert _said(three_rounds, 1) == ""


def test_what_follows_another_draw_set_is_stale_until_it_is_made_again(redrawn: Path) -> None:
    assert _stale(redrawn) == [False, True, True]  # the third fits the second, which is stale
    assert _said(redrawn, 1) == (
        "stale now, made from a policy that the run no longer holds: round 2, 3; "
        "`c3 run training --run test --rounds 3` makes them again\n"
    )
    drive_on(resolver_of(redrawn, "test", 2))
    assert _stale(redrawn) == [False, False, True]
    drive_on(resolver_of(redrawn, "test", 3))
    assert _stale(redrawn) == [False, False, False]
    with edit_round(Layout(redrawn), RoundRef("test", 1)) as record:
        record.draw_set = 0
    assert drive_on(resolver_of(redrawn, "test", 1)).made == []
    assert _stale(redrawn) == [False, True, True]  # the first draws again, which rounds 2 and 3 no longer follow


def test_a_round_that_is_half_made_again_is_stale_as_long_as_one_step_is(redrawn: Path) -> None:
    drive_on(resolver_of(redrawn, "test", 2), until="rollout")
    assert _stale(redrawn) == [False, True, True]


def test_status_marks_every_step_that_a_policy_no_longer_held_has_made(redrawn: Path) -> None:
    first, *later = [entry.states for entry in round_statuses(Layout(redrawn), "test")]
    assert {first[step] for step in ("problems", "rollout", "advantages", "update")} == {"made"}
    for states in later:
        assert states["problems"] in ("made", "reused")
        assert {states[step] for step in ("rollout", "freeze", "replay", "advantages", "update")} == {"stale"}
        assert states["evaluate"] == "missing"


def test_a_round_without_an_update_before_it_is_neither(three_rounds: Path, store: Path) -> None:
    copytree(three_rounds, store)
    Layout(store).round("test", "main", 2).unlink()
    rows = query(Layout(store), "SELECT round, stale FROM rounds ORDER BY round").fetchall()
    assert rows == [(1, False), (3, None)]


def test_a_variant_follows_the_line_it_branched_off(three_rounds: Path, store: Path) -> None:
    copytree(three_rounds, store)
    overrides = ("advantages.estimator=full_mean",)
    record_variant(Layout(store), "test", "plain", Variant("main", 2, "advantages", overrides))
    drive_on(resolver_of(store, "test", 2, "plain"))
    assert _stale(store) == [False, False, False, False]
    with edit_round(Layout(store), RoundRef("test", 1)) as record:
        record.draw_set = 1
    drive_on(resolver_of(store, "test", 1))
    assert _stale(store) == [False, True, True, True]
    assert _said(store, 1).endswith(
        "round 2, 3, 2 of plain; `c3 run training --run test --rounds 3` and "
        "`c3 run training --run test --variant plain --rounds 2` make them again\n"
    )
    assert (
        RunStaleness(Layout(store), "test").later_stale(RoundRef("test", 1, "plain")) == []
    )  # round 1 is the main line's


def test_the_rounds_before_a_variant_branched_off_are_rows_of_it_too(three_rounds: Path, store: Path) -> None:
    copytree(three_rounds, store)
    record_variant(
        Layout(store), "test", "plain", Variant("main", 2, "advantages", ("advantages.estimator=full_mean",))
    )
    for round in (1, 2):
        drive_on(resolver_of(store, "test", round, "plain"))
    rows = query(Layout(store), "SELECT variant, round FROM rounds ORDER BY ALL").fetchall()
    assert rows == [("main", 1), ("main", 2), ("main", 3), ("plain", 1), ("plain", 2)]
    with edit_round(Layout(store), RoundRef("test", 1)) as record:
        record.draw_set = 1
    drive_on(resolver_of(store, "test", 1))
    assert "round 2, 3, 2 of plain;" in _said(store, 1)  # each once


def test_a_variant_whose_record_is_lost_can_still_be_queried(three_rounds: Path, store: Path) -> None:
    copytree(three_rounds, store)
    record_variant(
        Layout(store), "test", "plain", Variant("main", 2, "advantages", ("advantages.estimator=full_mean",))
    )
    drive_on(resolver_of(store, "test", 2, "plain"))
    Layout(store).variant("test", "plain").unlink()
    with pytest.raises(StoreError):
        resolver_of(store, "test", 2, "plain")
    assert _stale(store) == [False, False, False, None]


def test_another_model_from_a_round_on_is_no_stale_policy(three_rounds: Path, store: Path) -> None:
    copytree(three_rounds, store)
    drive(store, config_of("duo", "tree", world_seed=5), round=3)
    assert _stale(store) == [False, False, False]


@pytest.mark.slow
def test_the_command_says_it_once_the_round_was_drawn_again(
    three_rounds: Path, store: Path, c3: Callable[..., object]
) -> None:
    copytree(three_rounds, store)
    equal = c3("run", "iteration", "--run", "test", "--round", "1", "--from", "rollout", "--store", str(store))
    assert equal.code == 0 and "stale" not in equal.out, equal.err  # type: ignore[attr-defined]
    other = c3("run", "iteration", "--run", "test", "--round", "1", "--draw-set", "1", "--store", str(store))
    assert "stale now, made from a policy that the run no longer holds: round 2, 3;" in other.out  # type: ignore[attr-defined]
