"""Ids and seeds: functions of what is requested."""

from __future__ import annotations

from store.disk.ids import Draws, decision_id, short_id


def test_a_short_id_tells_its_parts_apart() -> None:
    ids = {short_id("ab", "c"), short_id("a", "bc"), short_id("abc"), short_id(["ab", "c"]), short_id("ab", "c", None)}
    assert len(ids) == 5
    assert all(len(item) == 12 and item == item.lower() for item in ids)


def test_a_seed_excludes_the_policy_version_so_two_policies_share_random_numbers() -> None:
    one, other = Draws(7, 1, "before"), Draws(7, 1, "after")
    assert one.seed_of("p", (0, 1), "actor") == other.seed_of("p", (0, 1), "actor")
    assert decision_id(one, "p", (0, 1)) != decision_id(other, "p", (0, 1))


def test_a_seed_depends_on_everything_else_that_is_requested() -> None:
    changes = [
        Draws(8, 1, "v").seed_of("p", (0,), "actor"),
        Draws(7, 2, "v").seed_of("p", (0,), "actor"),
        Draws(7, 1, "v", draw_set=1).seed_of("p", (0,), "actor"),
        Draws(7, 1, "v", purpose="independent").seed_of("p", (0,), "actor"),
        Draws(7, 1, "v").seed_of("q", (0,), "actor"),
        Draws(7, 1, "v").seed_of("p", (1,), "actor"),
        Draws(7, 1, "v").seed_of("p", (0,), "reasoner"),
        Draws(7, 1, "v").seed_of("p", (0,), "actor"),
    ]
    assert len(set(changes)) == len(changes)
    assert all(0 <= seed < 2**63 for seed in changes)
