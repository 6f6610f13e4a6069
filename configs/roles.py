"""Roles: the seats of a team, what each is told, and the check that prompts name only what a role can see."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from configs.prompts import placeholders
from configs.role_graph import ancestors
from configs.section import Section


class FewShotTurn(Section):
    """One worked exchange shown before the real prompt."""

    user: str
    assistant: str


class Role(Section):
    """A seat of the team."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    depends_on: tuple[str, ...] = ()
    """Roles whose messages it waits for. It may be shown any of its transitive ancestors and nothing else."""
    policy: str = "team"
    """Which policy answers; roles that name the same one share its weights."""
    system: str | None = None
    few_shot: tuple[FewShotTurn, ...] = ()
    user: str
    """Template; {question} and {role} are replaced by the problem and by that ancestor's message."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Overrides sampling.max_new_tokens for this role."""


def check_prompts(roles: Sequence[Role]) -> None:
    """Raise ValueError when a template shows what its role may not see, or hides what it depends on."""
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
