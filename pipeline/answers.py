"""Writing a query's rows for a person or a program."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import rich.console

from configs.errors import ConfigError
from pipeline.terminal import show_rows
from store.artifacts import writing
from store.layout import Layout
from store.tables import query, write_parquet


def write_answer(store: Path, text: str, form: str, output: Path | None, console: rich.console.Console) -> None:
    """Run one query and write its rows as a table, CSV, JSON or Parquet."""
    if form == "parquet" and output is None:
        raise ConfigError("c3 sql --format parquet: name the file with --output FILE.parquet")
    relation = query(Layout(store), text)
    columns = list(relation.columns)
    if form == "parquet" and output is not None:
        write_parquet(relation, output)
        return
    rows = relation.fetchall()
    if form == "table":
        show_rows(console, columns, rows)
        return
    with writing(output or Path("standard output")):
        opened = output.open("w", encoding="utf-8", newline="") if output else nullcontext(sys.stdout)
        with opened as file:
            if form == "csv":
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(rows)
            else:
                json.dump([dict(zip(columns, row, strict=True)) for row in rows], file, ensure_ascii=False, default=str)
                file.write("\n")
