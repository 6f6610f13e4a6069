"""Every estimator against rows worked by hand: tests/store/sql/estimators/given.csv and, by its name, what is expected of it.

The given rows hold unequal replay counts, an unscored evaluation, states of one alternative, and (problem r) evaluations
that count towards some of their messages only, as in the `replay` plan. tests/store/sql/estimators/ablated_replay.csv holds,
by state, what was earned without its role's message; only ccpo reads it.
critic_values.csv holds what value heads expected; the last three read it.
"""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from shutil import copytree

import pytest

from configs.credit import AdvantagesConfig
from configs.errors import ConfigError
from store.queries.estimators import FOLDER, estimators
from tests.support.rounds import config_of, drive
from tests.support.stored_rounds import Ending, credit

ROWS = Path(__file__).parent / "estimators"


def _number(text: str) -> float | None:
    return float(Fraction(text)) if text else None


def _given() -> list[Ending]:
    with (ROWS / "given.csv").open() as file:
        return [
            Ending(
                row["episode"], tuple(row["messages"].split()), tuple(row["credited"].split()), _number(row["reward"])
            )
            for row in csv.DictReader(file)
        ]


def _solo() -> dict[str, list[float | None]]:
    """By state, what replays without its role's message earned."""
    found: dict[str, list[float | None]] = {}
    with (ROWS / "ablated_replay.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["state"], []).append(_number(row["reward"]))
    return found


def _values() -> dict[str, tuple[float | None, float | None]]:
    """By decision, what value heads expected of its state and of itself."""
    with (ROWS / "critic_values.csv").open() as file:
        return {
            row["decision"]: (_number(row["state_value"]), _number(row["action_value"])) for row in csv.DictReader(file)
        }


def _hold(folder: Path, estimator: str, expected: Path) -> None:
    """Assert that the estimator makes the expected rows of the given ones, and no other."""
    found = {row["decision_id"]: row for row in credit(folder, [_given()], estimator, solo=_solo(), values=_values())}
    with expected.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["decision"] for row in rows} == set(found)
    for row in rows:
        made = found[row["decision"]]
        assert (made["estimator"], made["normalisation"]) == (estimator, "none")
        assert made["group_size"] == int(row["group_size"])
        for column in ("mean_return", "baseline", "advantage"):
            wanted = _number(row[column])
            assert made[column] == (None if wanted is None else pytest.approx(wanted, abs=1e-14)), (row, column)


def test_every_estimator_has_its_rows() -> None:
    assert {path.stem for path in ROWS.glob("*.csv")} == {*estimators(), "given", "ablated_replay", "critic_values"}


@pytest.mark.parametrize("estimator", estimators())
def test_an_estimator_makes_of_the_given_rows_what_was_worked_by_hand(estimator: str, tmp_path: Path) -> None:
    _hold(tmp_path, estimator, ROWS / f"{estimator}.csv")


HALF_MARK = """-- grain: one alternative
-- reads: returns
-- baseline: half of the highest return
--
-- A return above one half is good, the rest is bad.
select
    returns.*,
    count(mean_return) over (partition by group_id) as group_size,
    case when mean_return is not null then 0.5 end as baseline,
    mean_return - baseline as advantage
from returns
"""


def test_adding_an_estimator_is_adding_its_file_and_its_rows(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "estimators"
    copytree(FOLDER, folder)
    monkeypatch.setattr("store.queries.estimators.FOLDER", folder)
    (folder / "half_mark.sql").write_text(HALF_MARK)
    with (ROWS / "c3.csv").open() as file:
        rows = [row | {"baseline": "1/2"} for row in csv.DictReader(file)]
    expected = tmp_path / "half_mark.csv"
    with expected.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            if not row["mean_return"]:
                writer.writerow(row | {"baseline": ""})
            else:
                writer.writerow(row | {"advantage": str(Fraction(row["mean_return"]) - Fraction(1, 2))})
    assert "half_mark" in estimators()
    _hold(tmp_path, "half_mark", expected)
    # and a round can be credited by it, checks and update included
    round = drive(store, config_of("duo", "tree", advantages=AdvantagesConfig(estimator="half_mark")))
    assert all(row["advantage"] == row["mean_return"] - 0.5 for row in round.rows("advantages"))
    assert len(round.rows("update_rows")) == len(round.rows("advantages"))


def test_an_unknown_estimator_is_refused_with_the_known_ones(store: Path) -> None:
    with pytest.raises(
        ConfigError,
        match="no estimator named 'c33'; there is c3, ccpo, full_mean, global_mean, magrpo, mappo, no_replay, ",
    ):
        drive(store, config_of("duo", "tree", advantages=AdvantagesConfig(estimator="c33")))
