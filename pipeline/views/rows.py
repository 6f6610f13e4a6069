"""Writing a query's rows for a person or a program."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.errors import ConfigError
from store.disk.atomic import writing
from store.disk.layout import Layout
from store.queries.catalog_views import fetch, query, write_parquet


def write_answer(store: Path, text: str, form: str, output: Path | None, console: Console) -> None:
    """Run one query and write its rows as a table, CSV, JSON or Parquet."""
    if form == "parquet" and output is None:
        raise ConfigError("c3 sql --format parquet: name the file with --output FILE.parquet")
    relation = query(Layout(store), text)
    columns = list(relation.columns)
    if form == "parquet" and output is not None:
        write_parquet(relation, output)
        return
    rows = fetch(relation)
    if form == "table":
        show_rows(console, columns, rows)
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
    """Plain data on standard output, NaN as null."""
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


def show_rows(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A query's result."""
    table = Table(box=None, pad_edge=False)
    numeric = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(columns))]
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)
    console.print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})", style="dim")


def _cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.6g}")
    return Text(str(value))
