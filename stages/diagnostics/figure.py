"""A figure of the diagnostics table: a value with its interval, and what it is held against."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from store.artifacts.artifact import Row


@dataclass(frozen=True)
class Figure:
    """Hold one row of the diagnostics table. Columns and what NULL means: store/artifacts/schemas.py, DIAGNOSTICS."""

    name: str
    role: str
    count: int
    """Groups (of single alternatives: alternatives) that the value is over."""
    left_out: int
    """Groups (alternatives) for which the figure is not defined."""
    problems: int
    """Problems that those in `count` belong to: the clusters of the interval."""
    value: float | None = None
    """None: there is none, see `reason`."""
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    """No estimate shows better, even one that knew Q - V, because the target is noisy; None: not known."""
    null_value: float | None = None
    """What an estimate, or a message, that says nothing would show; None: not known."""
    null_p: float | None = None
    """How often one that says nothing shows as much, by permutation; None: not tested."""
    tied: int | None = None
    """Groups that count as 0 because one side ties; None: no such thing here."""
    replays_from: str | None = None
    """round | independent | both: whose replays it was computed from; None without a value."""
    reason: str | None = None
    """Why there is no value; None: there is one."""

    def row(self) -> Row:
        """Return it as a row of the table."""
        return asdict(self)
