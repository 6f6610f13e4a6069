"""The page of `c3 why` as a person reads it: plain text that fits 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pipeline.commands.why import Page
from pipeline.formatting import number, signed
from pipeline.views.text import WIDTH, one_line, replay_lines, wrapped


def page_lines(page: Page) -> Iterator[str]:
    """Yield the whole page, line by line; no line is longer than 80 characters."""
    normalised = "" if page["normalisation"] == "none" else f", {page['normalisation']}"
    yield f"run {page['run']}, round {page['round']}, {page['variant']}: {page['estimator']}{normalised}"
    for group in page["groups"]:
        yield ""
        yield from _group_lines(group)


def _group_lines(group: Page) -> Iterator[str]:
    yield "=" * WIDTH
    yield from wrapped(f"{group['role']} at state {group['state_id']}, problem {group['problem_id']}")
    yield from wrapped(f"question: {group['question']}")
    yield from wrapped(f"answer:   {group['answer']}")
    yield ""
    if group["context"] is None:
        yield "what it saw was not frozen: it has no siblings"
    else:
        yield f"what it saw ({group['context_tokens']} tokens)"
        yield from wrapped(group["context"], "  | ")
    yield ""
    yield f"{'':2}{'decision':<14}{'Q':>9}{'replays':>9}{'b':>9}{'A':>10}  message"
    for row in group["alternatives"]:
        yield from _alternative_lines(row)
    if any(row["is_logged"] for row in group["alternatives"]):
        yield "  * taken by the rollout's own transcript"
    for row in group["alternatives"]:
        if row["requested"]:
            yield ""
            yield from _detail_lines(row)


def _alternative_lines(row: Page) -> Iterator[str]:
    unscored = f"+{row['unscored_count']}?" if row["unscored_count"] else ""
    head = (
        f"{'* ' if row['is_logged'] else '  '}{row['decision_id']:<14}{number(row['mean_return']):>9}"
        f"{str(row['replay_count']) + unscored:>9}{number(row['baseline']):>9}{signed(row['advantage']):>10}  "
    )
    text = one_line(row["text"])
    yield head + textwrap.shorten(text, WIDTH - len(head), placeholder="..") if text else head.rstrip()


def _detail_lines(row: Page) -> Iterator[str]:
    cut = ", cut at its token limit" if row["finish_reason"] == "length" else ""
    yield from wrapped(f"decision {row['decision_id']} ({row['new_tokens']} tokens{cut})")
    yield from wrapped(row["text"], "  > ")
    for line in row["arithmetic"]:
        yield from wrapped(line, "  ")
    yield from wrapped(_update_line(row["update_rows"]), "  ")
    for index, replay in enumerate(row["replays"], start=1):
        yield from replay_lines(index, replay)


def _update_line(update: Page | None) -> str:
    if update is None:
        return "update: has not run"
    if update["skipped"] is not None:
        return f"update: left out, {update['skipped']}"
    logprobs = f"log-prob when sampled {number(update['behaviour_logprob'])}"
    if update["policy_logprob"] is not None:
        logprobs += f", the trainer's {number(update['policy_logprob'])}"
    return f"update: weighed {signed(update['advantage'])}; {logprobs}"
