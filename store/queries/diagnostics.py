"""What the diagnostics are computed from: a round's rows and its independent replays, by SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.artifacts.artifact import Artifact, Row
from store.queries.connection import SQL, add_table, open_tables

_ROUND = ("transcripts", "replays", "rewards", "decisions", "advantages")


def diagnosed_rows(round: Sequence[Artifact], independent_replays: Sequence[Artifact]) -> Mapping[str, list[Row]]:
    """Return the rows of each file in sql/diagnose, by its name: alternatives, units and distribution.

    `round`: the artifacts with its transcripts, replays, rewards, decisions and advantages. `independent_replays`: those
    with the independent replays and their rewards.
    """
    connection = open_tables(round, _ROUND)
    try:
        for table in ("replays", "rewards"):
            add_table(connection, f"independent_{table}", table, independent_replays)
        files = sorted((SQL / "diagnose").glob("*.sql"))
        return {path.stem: connection.sql(path.read_text()).to_arrow_table().to_pylist() for path in files}
    finally:
        connection.close()
