"""Plain text for an 80-column terminal: wrapping, and making stored text safe to print."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pipeline.commands.why import Page
from pipeline.formatting import number

WIDTH = 80


def replay_lines(index: int, replay: Page) -> Iterator[str]:
    """Yield how one continuation went on and what it earned."""
    reward = f"no reward ({replay['error']})" if replay["reward"] is None else f"reward {number(replay['reward'])}"
    reason = f": {one_line(replay['reason'])}" if replay["reason"] else ""
    cut = " (cut at its token limit)" if replay["truncated"] else ""
    own = " of the rollout" if replay["source"] == "rollout" else ""
    yield from wrapped(f"{index}. evaluation{own}: {reward}{reason}{cut}", "  ", "     ")
    for message in replay["messages"]:
        yield from wrapped(f"{message['role']}: {message['text']}", "     ", "       ")


def one_line(text: str | None) -> str:
    """Return a message on one line, its control characters visible."""
    return _printable(" ".join((text or "").split()))


def wrapped(text: Any, indent: str = "", later: str | None = None) -> Iterator[str]:
    """Yield a text wrapped to the width, line by line; an empty line stays one."""
    first = indent
    for line in str(text).splitlines() or [""]:
        options: dict[str, Any] = {"subsequent_indent": indent if later is None else later}
        yield from textwrap.wrap(_printable(line), WIDTH, initial_indent=first, **options) or [first.rstrip()]
        first = indent if later is None else later


def _printable(line: str) -> str:
    """Return a text with its control characters made visible: a message must not move the reader's cursor."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line.expandtabs(4))
