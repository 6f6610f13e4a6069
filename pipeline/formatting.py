"""Numbers as text, for views and notes alike."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Return a number with four significant digits; NULL where it is unknown."""
    return "NULL" if value is None else f"{value:.4g}"


def signed(value: float | None) -> str:
    """Return a number with four significant digits and its sign; NULL where it is unknown."""
    return "NULL" if value is None else f"{value:+.4g}" if value else "0"
