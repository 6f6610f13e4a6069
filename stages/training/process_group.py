"""The crew of an update: one process, or several that share every step's rows and add up their gradients.

    g = sum over the processes of the gradient of their own rows' losses

A row's weight in the loss counts the rows of all processes (stages/losses/reductions.py), so the sum is the gradient of one
process over all rows, up to the order in which floats are added. Every process then takes the same optimiser step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

from stages.learners.protocol import TrainRow

_NUMBERS = 2**25
"""After so many a message is sent: a large model's gradients are not copied all at once."""


class ProcessGroup(Protocol):
    """The processes of one update, as one of them sees it."""

    def share(self, rows: Sequence[TrainRow]) -> list[TrainRow]:
        """Return the rows that are this process's to compute, in their order; each row is exactly one process's."""
        ...

    def gather(self, found: Any) -> list[Any]:
        """Return what every process found, the first one's first; the same list in each."""
        ...

    def all_reduce(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by the sum over the processes; one that no process has stays None."""
        ...


class SingleProcess:
    """A crew of one. Implements Crew."""

    def share(self, rows: Sequence[TrainRow]) -> list[TrainRow]:
        """Return all of them."""
        return list(rows)

    def gather(self, found: Any) -> list[Any]:
        """Return this process's."""
        return [found]

    def all_reduce(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Do nothing: there is nothing to add."""


class Distributed:
    """One process of several, started by stages/training/launch.py. Implements Crew."""

    def __init__(self, device: str) -> None:
        self._state = PartialState(cpu=device == "cpu")  # of a GPU it also makes this process's own the current one
        self.index: int = self._state.process_index

    def share(self, rows: Sequence[TrainRow]) -> list[TrainRow]:
        """Return this process's rows: whole contexts, as `shares` deals them."""
        return shares(rows, self._state.num_processes)[self.index]

    def gather(self, found: Any) -> list[Any]:
        """Return what all processes found, by gathering it."""
        return list(gather_object([found]))

    def all_reduce(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up in messages of bounded size."""
        waiting: list[torch.nn.Parameter] = []
        for parameter in parameters:
            waiting.append(parameter)
            if sum(each.numel() for each in waiting) >= _NUMBERS:
                self._add_up(waiting)
                waiting = []
        if waiting:
            self._add_up(waiting)

    def leave(self) -> None:
        """End the connection to the others."""
        self._state.destroy_process_group()

    def _add_up(self, trained: Sequence[torch.nn.Parameter]) -> None:
        """One message holds these gradients and, behind them, which of them there are."""
        there = torch.tensor([float(each.grad is not None) for each in trained]).to(trained[0])
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        total = reduce(torch.cat([*(gradient.flatten() for gradient in own), there]), "sum")
        *sums, found = total.split([*(each.numel() for each in trained), len(trained)])
        for each, summed, count in zip(trained, sums, found.tolist(), strict=True):
            each.grad = summed.view_as(each).clone() if count else None


def shares(rows: Sequence[TrainRow], count: int) -> list[list[TrainRow]]:
    """Return the rows for each of `count` processes. Contexts stay whole, so that what siblings share is computed once.

    The longest context (its own tokens and its messages') goes first, each to whoever has least to do.
    """
    cost: dict[tuple[int, ...], int] = {}
    for row in rows:
        cost[row.context_ids] = cost.get(row.context_ids, len(row.context_ids)) + len(row.token_ids)
    load, whose = [0] * count, dict[tuple[int, ...], int]()
    for context in sorted(cost, key=lambda context: (-cost[context], context)):
        whose[context] = load.index(min(load))
        load[whose[context]] += cost[context]
    return [[row for row in rows if whose[row.context_ids] == process] for process in range(count)]
