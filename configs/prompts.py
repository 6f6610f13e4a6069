"""Prompt templates: which placeholders they hold, and filling them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING

from configs.role_graph import ancestors

if TYPE_CHECKING:
    from configs.schema import Role


def placeholders(template: str) -> list[str]:
    """Names in braces, in order. ValueError on a lone brace or a placeholder that is not a plain name."""
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


def check_prompts(roles: Sequence[Role]) -> None:
    """ValueError when a template shows what its role may not see, or hides what it depends on."""
    graph = {role.name: role.depends_on for role in roles}
    if len(graph) < len(roles):
        names = [role.name for role in roles]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"roles: two roles are named '{twice}'; names are unique")
    if "question" in graph:
        raise ValueError("roles.question: this name is the problem's placeholder; choose another")
    for role in roles:
        missing = [parent for parent in role.depends_on if parent not in graph]
        if missing:
            continue  # check_graph says it better
        try:
            shown = placeholders(role.user)
        except ValueError as error:
            raise ValueError(f"roles.{role.name}.user: {error}") from None
        visible = ancestors(graph, role.name) | {"question"}
        for name in shown:
            if name not in visible:
                raise ValueError(
                    f"roles.{role.name}.user: {{{name}}} is not visible to '{role.name}', which sees "
                    f"{', '.join('{' + item + '}' for item in sorted(visible))}; "
                    f"add it to depends_on or drop the placeholder"
                )
        needed = [*role.depends_on] or ["question"]
        for name in needed:
            if name not in shown:
                raise ValueError(f"roles.{role.name}.user: the placeholder {{{name}}} is missing from the template")
