"""Prompt templates: which placeholders they hold, and filling them."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def placeholders(template: str) -> list[str]:
    """Return the names in braces, in order. ValueError on a lone brace or a placeholder that is not a plain name."""
    names = []
    try:
        fields = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for literal braces") from None
    for _, name, form, conversion in fields:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ValueError(f"'{{{name}}}' is no plain placeholder; write {{{{ and }}}} for literal braces")
        names.append(name)
    return names


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each placeholder once. What is put in is never read for placeholders itself."""
    filled = []
    for text, name, _, _ in Formatter().parse(template):
        filled.append(text)
        if name is not None:
            filled.append(values[name])
    return "".join(filled)
