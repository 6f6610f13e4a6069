"""How evaluators quote what they read: short, and storable whatever it holds."""

from __future__ import annotations

_LONGEST = 60


def storable(text: str) -> str:
    """The same text, lone surrogates spelled out: Parquet stores UTF-8, and those have none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def quote(text: str) -> str:
    """`text` for a one-line reason: control characters escaped, cut when long."""
    shown = ascii(text)[1:-1] if not text.isprintable() else text
    return storable(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}...")
