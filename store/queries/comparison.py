"""Compare all estimators on the same stored rows. Nothing is generated and nothing is stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from store.artifacts.artifact import Artifact, Row
from store.queries.advantages import advantages, open_returns
from store.queries.connection import SQL
from store.queries.estimators import estimator, estimators

_COLUMNS = ["estimator", "role", "depth", "state_id", "decision_id", "advantage"]


@dataclass(frozen=True)
class Comparison:
    """Hold how the estimators differ on one round."""

    by_estimator: Sequence[Row]
    """Mean, variance, undefined and zero per role (schema: compare/by_estimator.sql)."""
    by_pair: Sequence[Row]
    """Sign agreement and correlation (schema: compare/by_pair.sql)."""
    fidelity: Sequence[Row]
    """Against an independent half of the replays (schema: compare/fidelity.sql); empty where no role has two halves."""
    absent: Sequence[str] = ()
    """Estimators left out, because the round has no rows of a view that they read."""


def compare_estimators(artifacts: Sequence[Artifact], group_by: str, ablated: Sequence[Artifact] = ()) -> Comparison:
    """Compare every estimator, unnormalised, over one round's transcripts, replays, rewards and decisions.

    `ablated`: the round's replays without a message, if it has any; estimators that ask for them are left out where it has none.
    """
    connection = open_returns(artifacts, group_by, ablated)
    names = comparable(_missing_views(artifacts, ablated))
    try:
        _keep(connection, "episodes")
        _keep(connection, "returns")
        _keep(connection, "ablated_replay")
        _keep(connection, "critic_values")
        compared = _all_estimators(connection, names)
        connection.from_arrow(compared).create_view("compared")
        by_estimator, by_pair = _rows(connection, "by_estimator"), _rows(connection, "by_pair")
        connection.from_arrow(_halves(connection, compared, names)).create_view("halved")
        absent = [name for name in estimators() if name not in names]
        return Comparison(by_estimator, by_pair, _rows(connection, "fidelity"), absent)
    finally:
        connection.close()


def credit_of_all(
    artifacts: Sequence[Artifact], group_by: str, ablated: Sequence[Artifact] = ()
) -> dict[str, dict[str, float | None]]:
    """Return estimator -> decision -> advantage, unnormalised, over those rows."""
    connection = open_returns(artifacts, group_by, ablated)
    names = comparable(_missing_views(artifacts, ablated))
    try:
        for view in ("episodes", "returns", "ablated_replay", "critic_values"):
            _keep(connection, view)
        columns = _all_estimators(connection, names).select(["estimator", "decision_id", "advantage"]).to_pydict()
    finally:
        connection.close()
    found: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for name, decision, value in zip(*columns.values(), strict=True):
        found[name][decision] = value
    return found


def comparable(missing: Collection[str]) -> list[str]:
    """Return the estimators that a round's rows suffice for. `missing`: views that the round has no rows for."""
    return [name for name in estimators() if not set(estimator(name).reads) & set(missing)]


def _missing_views(artifacts: Sequence[Artifact], ablated: Sequence[Artifact]) -> list[str]:
    there = {
        "ablated_replay": bool(ablated),
        "critic_values": any(artifact.files("critic_values") for artifact in artifacts),
    }
    return [view for view, found in there.items() if not found]


def _all_estimators(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> pa.Table:
    return pa.concat_tables(advantages(connection, name, "none").to_arrow_table().select(_COLUMNS) for name in names)


def _halves(connection: duckdb.DuckDBPyConnection, compared: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the estimators on each half of the replays below a role's messages, role by role; the last role has no halves."""
    connection.from_arrow(connection.table("episodes").to_arrow_table()).create_view("all_episodes")
    found = [compared.append_column("half", pa.nulls(len(compared), pa.int32())).slice(0, 0)]
    for depth in sorted(pc.unique(compared["depth"]).to_pylist())[:-1]:
        connection.execute("SET VARIABLE split_depth = ?", [depth])
        for half in (0, 1):
            connection.execute("SET VARIABLE split_half = ?", [half])
            for name, file in (("episodes", "compare/half.sql"), ("returns", "returns.sql")):
                connection.sql((SQL / file).read_text()).create_view(name)
                _keep(connection, name)
            rows = _all_estimators(connection, names).filter(pc.field("depth") == depth)
            found.append(rows.append_column("half", pa.array([half] * len(rows), pa.int32())))
    return pa.concat_tables(found)


def _keep(connection: duckdb.DuckDBPyConnection, view: str) -> None:
    """Compute a view once instead of whenever an estimator reads it."""
    connection.from_arrow(connection.table(view).to_arrow_table()).create_view(view)


def _rows(connection: duckdb.DuckDBPyConnection, name: str) -> list[Row]:
    rows: list[Row] = connection.sql((SQL / "compare" / f"{name}.sql").read_text()).to_arrow_table().to_pylist()
    return rows
