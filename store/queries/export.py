"""Read rows for export: preference pairs and episodes, batch by batch from one round's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from store.artifacts.artifact import Artifact, Row
from store.queries.connection import SQL, open_tables

_TABLES = ("problems", "contexts", "decisions", "transcripts", "replays", "rewards", "advantages")
_BATCH_ROWS = 1024


def exported(artifacts: Sequence[Artifact], name: str, parameters: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of store/sql/export/<name>.sql, in its order."""
    connection = open_tables(artifacts, _TABLES)
    try:
        found = connection.sql((SQL / "export" / f"{name}.sql").read_text(), params=dict(parameters))
        for batch in found.to_arrow_reader(_BATCH_ROWS):
            yield from batch.to_pylist()
    finally:
        connection.close()
