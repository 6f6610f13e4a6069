"""Numbers as text, for commands and views alike."""

from __future__ import annotations

from configs.intervals import CONFIDENCE

LEVEL = f"{CONFIDENCE:.0%}"
"""The level of an interval, as it is printed beside one."""


def number(value: float | None) -> str:
    """Return a number with four significant digits; NULL where it is unknown."""
    return "NULL" if value is None else f"{value:.4g}"


def signed(value: float | None) -> str:
    """Return a number with four significant digits and its sign; NULL where it is unknown."""
    return "NULL" if value is None else f"{value:+.4g}" if value else "0"


def fixed(value: float | None, places: int, unknown: str = "NULL") -> str:
    """Return a number with so many decimal places; `unknown` where it is None."""
    return unknown if value is None else f"{value:.{places}f}"


def signed_fixed(value: float | None, places: int) -> str:
    """Return a number with so many decimal places and its sign; 0 where it rounds to that, NULL where it is unknown."""
    return "NULL" if value is None else f"{value:+.{places}f}" if round(value, places) else "0"


def share(value: float | None) -> str:
    """Return a share, 0 to 1, as a whole percentage; NULL where it is unknown."""
    return "NULL" if value is None else f"{value:.0%}"


def thousands(count: int) -> str:
    """Return a count with a comma every three digits."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """Return a count with what it counts, in the plural unless it is one."""
    return f"{thousands(count)} {noun}{'' if count == 1 else 's'}"
