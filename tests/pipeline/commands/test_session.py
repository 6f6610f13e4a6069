"""A variant is a branch of a run that shares all before it; another set of draws is asked for by number."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from configs.errors import ConfigError
from store.runs.records import RoundRef, edit_round
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.stores import NO_LOO, query_rows, variant_of

Played = Callable[[str, str], PlayedRound]


def test_a_variant_generates_nothing_and_is_a_row_in_every_table_by_its_name(duo: PlayedRound) -> None:
    branch = drive_on(variant_of(duo, "no-loo", NO_LOO, "advantages"), until="advantages")
    assert branch.made == ["advantages"]
    assert {name: branch.artifacts[name].key for name in branch.artifacts if name != "advantages"} == {
        name: duo.artifacts[name].key for name in branch.artifacts if name != "advantages"
    }
    assert all(not report.usage.get("messages") for report in branch.reports.values())
    for table in ("problems", "transcripts", "decisions", "contexts", "replays", "rewards", "episodes", "advantages"):
        counts = {
            row["variant"]: row["n"]
            for row in query_rows(duo.store, f"SELECT variant, count(*) AS n FROM {table} GROUP BY variant")
        }
        assert counts["no-loo"] == counts["main"] > 0
    # fanout 2,4: groups of 2 and of 4, and full_mean is (n - 1)/n of c3 where replay counts are equal
    pairs = query_rows(
        duo.store,
        "SELECT a.advantage AS whole, b.advantage AS full_mean, a.group_size AS n FROM advantages a "
        "JOIN advantages b USING (decision_id) WHERE a.variant = 'main' AND b.variant = 'no-loo'",
    )
    assert len(pairs) == 40
    assert [p["full_mean"] for p in pairs] == pytest.approx([p["whole"] * (p["n"] - 1) / p["n"] for p in pairs])


def test_a_variant_goes_on_to_an_update_and_rounds_of_its_own(duo: PlayedRound) -> None:
    config = config_of("duo", "tree")
    main = [duo, drive(duo.store, config, round=2)]
    branch = drive_on(variant_of(duo, "no-loo", NO_LOO, "advantages"))
    assert branch.made == ["advantages", "update"]
    second = drive_on(variant_of(duo, "no-loo", [], number=2))
    assert second.made == [name for name in second.reports if name != "problems"]
    assert (
        second.resolver.policy_before.version
        == branch.resolver.policy_after.version
        != main[1].resolver.policy_before.version
    )
    assert {row["estimator"] for row in second.rows("advantages")} == {"full_mean"}
    assert drive(duo.store, config, round=2).made == []  # the main line is as it was


def test_a_variant_can_branch_at_an_earlier_stage(duo: PlayedRound) -> None:
    branch = drive_on(variant_of(duo, "hot", ["sampling.temperature=2.0"]))
    assert branch.made == [name for name in branch.reports if name != "problems"]
    with pytest.raises(ConfigError, match="already changes rollout, which comes before advantages"):
        variant_of(duo, "hotter", ["sampling.temperature=3.0"], "advantages")


def test_a_variant_of_the_same_name_with_other_overrides_is_refused(duo: PlayedRound) -> None:
    variant_of(duo, "no-loo", NO_LOO, "advantages")
    variant_of(duo, "no-loo", NO_LOO, "advantages")
    variant_of(duo, "no-loo", [])
    with pytest.raises(ConfigError, match="--variant no-loo: is already the branch of main at advantages of round 1"):
        variant_of(duo, "no-loo", ["advantages.group_by=context"], "advantages")


def test_a_variant_shares_draws_that_the_main_line_was_told_to_use(duo: PlayedRound) -> None:
    with edit_round(duo.layout, RoundRef("test", 1)) as record:
        record.draw_set = 1
    again = drive_on(resolver_of(duo.store, "test", 1))
    branch = drive_on(variant_of(duo, "no-loo", NO_LOO, "advantages"), until="advantages")
    assert branch.made == ["advantages"]
    assert branch.artifacts["rollout"].key == again.artifacts["rollout"].key != duo.artifacts["rollout"].key


def test_another_draw_set_draws_anew_and_the_first_draws_are_still_there(duo: PlayedRound) -> None:
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
