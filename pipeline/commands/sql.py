"""`c3 sql`: run one query over the store, and write its rows for a person or a program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from store.disk.atomic import writing
from store.disk.layout import Layout
from store.queries.catalog_views import fetch, query, write_parquet

ShowRows = Callable[[Sequence[str], Sequence[Sequence[Any]]], None]
"""Shows columns and rows as a table."""


def write_answer(layout: Layout, text: str, form: str, output: Path | None, show: ShowRows) -> None:
    """Run one query and write its rows as CSV, JSON or Parquet, or `show` them as a table.

    ConfigError when the query is not one SELECT, or Parquet has no file to go to.
    """
    if form == "parquet" and output is None:
        raise ConfigError("c3 sql --format parquet: name the file with --output FILE.parquet")
    relation = query(layout, text)
    columns = list(relation.columns)
    if form == "parquet" and output is not None:
        write_parquet(relation, output)
        return
    rows = fetch(relation)
    if form == "table":
        show(columns, rows)
        return
    with writing(output or Path("standard output")):
        opened = output.open("w", encoding="utf-8", newline="") if output else nullcontext(sys.stdout)
        with opened as file:
            if form == "csv":
                # for a shell a carriage return would be part of the last value
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(rows)
            else:
                found = [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in rows]
                json.dump(found, file, ensure_ascii=False, allow_nan=False)
                file.write("\n")


def write_json(value: Any) -> None:
    """Write plain data as JSON to standard output, NaN as null."""
    json.dump(_plain(value), sys.stdout, ensure_ascii=False, allow_nan=False, indent=1)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it: decimals are numbers, NaN and infinity are null, what it has no word for is text."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
