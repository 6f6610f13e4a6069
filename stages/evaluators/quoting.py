"""Quoting of messages in reasons: short, and storable whatever they hold."""

from __future__ import annotations

_LONGEST = 60


def storable(text: str) -> str:
    """Return the text with lone surrogates spelled out: Parquet stores UTF-8, which cannot hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def quote(text: str) -> str:
    """Return `text` for a one-line reason: control characters escaped, cut when long."""
    shown = ascii(text)[1:-1] if not text.isprintable() else text
    return storable(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}...")
