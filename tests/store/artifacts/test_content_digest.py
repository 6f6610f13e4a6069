"""Content digests: of rows in their order, whatever their parts, chunks and compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.artifacts.content_digest import TableDigest

SCHEMA = pa.schema(
    [
        ("number", pa.float64()),
        ("count", pa.int32()),
        ("text", pa.string()),
        ("flag", pa.bool_()),
        ("list", pa.list_(pa.int32())),
        ("said", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ]
)
ROW = {"number": 1.0, "count": 1, "text": "a", "flag": True, "list": [1], "said": [{"role": "r", "text": "t"}]}
EMPTY = {"number": 0.0, "count": 0, "text": "", "flag": False, "list": [], "said": []}
NOTHING = dict.fromkeys(ROW)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.none() | st.floats(allow_nan=False, width=32),
            "count": st.none() | st.integers(-9, 9),
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
            "flag": st.none() | st.booleans(),
            "list": st.none() | st.lists(st.none() | st.integers(0, 3), max_size=3),
            "said": st.none()
            | st.lists(
                st.none()
                | st.fixed_dictionaries(
                    {"role": st.none() | st.just("r"), "text": st.none() | st.text("ab", max_size=2)}
                ),
                max_size=2,
            ),
        }
    ),
    max_size=9,
)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def _digest(*parts: pa.Table) -> str:
    running = TableDigest(SCHEMA)
    for part in parts:
        running.update(part)
    return running.hexdigest()


def _canonical(rows: list[dict[str, Any]]) -> str:
    """Equal exactly for equal rows: a NaN is itself, and -0.0 is 0.0."""
    numbers = [{**row, "number": None if row["number"] is None else row["number"] + 0.0} for row in rows]
    return repr([sorted(row.items()) for row in numbers])


@given(ROWS, st.integers(0, 9))
def test_a_digest_does_not_see_how_rows_are_chunked(rows: list[dict[str, Any]], at: int) -> None:
    whole = _table(rows)
    chunked = pa.concat_tables([whole.slice(0, at), whole.slice(at)])
    assert _digest(chunked) == _digest(whole)


@given(ROWS, st.integers(0, 9))
def test_a_digest_does_not_see_how_rows_are_cut_into_parts(rows: list[dict[str, Any]], at: int) -> None:
    whole = _table(rows)
    assert _digest(_table(rows[:at]), _table(rows[at:])) == _digest(whole)


@given(ROWS, ROWS)
def test_two_tables_share_a_digest_exactly_when_their_rows_are_equal(
    some: list[dict[str, Any]], others: list[dict[str, Any]]
) -> None:
    assert (_digest(_table(some)) == _digest(_table(others))) == (_canonical(some) == _canonical(others))


@pytest.mark.parametrize("column", ROW)
def test_null_empty_and_something_are_three_things(column: str) -> None:
    digests = {_digest(_table([{**ROW, column: cell[column]}])) for cell in (ROW, EMPTY, NOTHING)}
    assert len(digests) == 3


def test_a_cell_does_not_run_over_into_the_next() -> None:
    def said(*texts: str | None) -> str:
        return _digest(_table([{**ROW, "text": text} for text in texts]))

    assert len({said("ab", "c"), said("a", "bc"), said("abc", ""), said("abc", None), said("c", "ab")}) == 5
    lists = [[[1], [2]], [[1, 2], []], [[], [1, 2]], [[1, 2], None], [[1], [2], []]]
    assert len({_digest(_table([{**ROW, "list": item} for item in rows])) for rows in lists}) == 5


def test_minus_zero_is_zero_and_every_nan_is_one() -> None:
    assert _digest(_table([{**ROW, "number": -0.0}])) == _digest(_table([{**ROW, "number": 0.0}]))
    assert _digest(_table([{**ROW, "number": float("nan")}])) == _digest(_table([{**ROW, "number": -float("nan")}]))


def test_a_digest_does_not_see_compression(tmp_path: Path) -> None:
    table = _table([ROW, EMPTY, NOTHING] * 50)
    for kind in ("zstd", "none"):
        pq.write_table(table, tmp_path / kind, compression=kind, row_group_size=7, store_schema=False)
    read = [pq.read_table(tmp_path / kind).cast(SCHEMA) for kind in ("zstd", "none")]
    assert {_digest(table) for table in read} == {_digest(table)}
