"""The page of `c3 what-if` as a person reads it: plain text that fits 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pipeline.commands.what_if import Page
from pipeline.formatting import LEVEL, counted, number, signed
from pipeline.views.text import WIDTH, one_line, replay_lines, wrapped

_SHOWN = 10
"""States of a role that are listed: those where the message makes most difference."""


def cost_line(cost: dict[str, int], spent: bool) -> str:
    """Return what the question costs, before it is spent."""
    there = " (there already)" if spent else ""
    names = ("state", "evaluation", "message")
    states, evaluations, messages = (counted(cost[f"{name}s"], name) for name in names)
    line = f"{states}: {evaluations}, {messages}, {counted(cost['tokens_at_most'], 'new token')} at most{there}"
    return "\n".join(wrapped(line))


def page_lines(page: Page) -> Iterator[str]:
    """Yield the whole page, line by line; no line is longer than 80 characters."""
    yield f"run {page['run']}, round {page['round']}, {page['variant']}: what if"
    yield from wrapped(f"{page['role']} said: {_said(page)}", "", "  ")
    yield ""
    yield from _state_lines(page) if page["requested"]["state_id"] else _role_lines(page)


def _said(page: Page) -> str:
    return one_line(page["text"]) or "nothing (the empty message)"


def _state_lines(page: Page) -> Iterator[str]:
    [row] = page["states"]
    yield from wrapped(f"at state {row['state_id']}, problem {row['problem_id']}")
    yield from wrapped(f"question: {row['question']}")
    yield from wrapped(f"answer:   {row['answer']}")
    yield ""
    yield f"{'':2}{'message':<14}{'Q':>9}{'replays':>9}  text"
    for other in page["alternatives"]:
        yield _message_line("* " if other["is_logged"] else "  ", other["decision_id"], other, other["text"])
    yield _message_line("? ", row["intervention_id"], row, row["text"] or "(empty)")
    marks = "? the given message"
    if any(other["is_logged"] for other in page["alternatives"]):
        marks += ", * taken by the rollout's own transcript"
    yield f"  {marks}"
    yield ""
    yield from wrapped(_intervention_line(page, row))
    if row["value"] is not None:
        yield from wrapped(
            f"the alternatives: V = {number(row['value'])} over {row['value_replays']} evaluations of {row['alternatives']} "
            f"messages; V less the given message's return: {signed(row['difference'])}"
        )
    for index, replay in enumerate(page["replays"], start=1):
        yield from replay_lines(index, replay)


def _message_line(mark: str, name: str, row: dict[str, Any], text: str) -> str:
    unscored = f"+{row['unscored_count']}?" if row["unscored_count"] else ""
    head = f"{mark}{name:<14}{number(row['mean_return']):>9}{str(row['replay_count']) + unscored:>9}  "
    return (head + textwrap.shorten(one_line(text), WIDTH - len(head), placeholder="..")).rstrip()


def _intervention_line(page: Page, row: dict[str, Any]) -> str:
    if row["mean_return"] is None:
        return "the given message: no replay of it was scored, so its return is unknown (NULL)"
    line = f"the given message: mean return {number(row['mean_return'])} over {row['replay_count']}"
    if page["interval"] is None:
        nothing = (
            " (nothing follows this role, so it is graded once)"
            if page["requested"]["replays"] > row["replays"]
            else ""
        )
        return f"{line}{nothing}; one scored evaluation has no standard error"
    interval = f"{number(page['interval']['low'])} to {number(page['interval']['high'])}"
    return f"{line}, standard error {number(row['standard_error'])} ({LEVEL}: {interval})"


def _role_lines(page: Page) -> Iterator[str]:
    difference = page["difference"]
    yield from wrapped(f"mean return with that message: {_figure(page['mean'])}")
    yield from wrapped(f"V of the alternatives less that: {_figure(difference, signed)}")
    if page["left_out"]:
        yield from wrapped(
            f"{counted(page['left_out'], 'state')} left out: nothing scored, or no alternative credited there"
        )
    if difference is None:
        return
    known = [row for row in page["states"] if row["difference"] is not None]
    most = sorted(known, key=lambda row: (-abs(row["difference"]), row["state_id"]))[:_SHOWN]
    yield ""
    yield f"the {len(most)} states of {len(known)} where it differs most"
    yield f"  {'state':<14}{'V':>9}{'with it':>9}{'V less it':>11}  question"
    for row in most:
        head = f"  {row['state_id']:<14}{number(row['value']):>9}{number(row['mean_return']):>9}{signed(row['difference']):>11}  "
        yield (head + textwrap.shorten(one_line(row["question"]), WIDTH - len(head), placeholder="..")).rstrip()


def _figure(figure: dict[str, Any] | None, write: Any = number) -> str:
    if figure is None:
        return "unknown (NULL)"
    interval = (
        "" if figure["low"] is None else f" ({LEVEL}: {write(figure['low'])} to {write(figure['high'])}, over problems)"
    )
    return f"{write(figure['value'])}{interval}, {figure['states']} states"
