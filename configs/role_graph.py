"""The role graph: one topological order, one notion of ancestors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

Graph = Mapping[str, Sequence[str]]
"""Role name -> the roles it depends on, in config order."""


def check_graph(graph: Graph) -> list[str]:
    """Return the topological order of a valid role graph; ValueError naming role and cure otherwise.

    A graph is valid when every dependency exists, nothing depends on itself, and every role leads to one last role:
    only the last message is scored, so a role that does not reach it could earn nothing but noise.
    """
    for role, parents in graph.items():
        for parent in parents:
            if parent == role:
                raise ValueError(f"roles.{role}.depends_on: '{role}' depends on itself; remove it from the list")
            if parent not in graph:
                known = ", ".join(graph)
                raise ValueError(f"roles.{role}.depends_on: no role named '{parent}'; the roles are {known}")
        if len(set(parents)) < len(parents):
            raise ValueError(f"roles.{role}.depends_on: names a role twice")
    order = topological_order(graph)
    sinks = [role for role in order if not any(role in parents for parents in graph.values())]
    if len(sinks) > 1:
        raise ValueError(
            f"roles: {' and '.join(sinks)} both end the graph, but only one last message can be scored; "
            f"make one of them depend on the other"
        )
    return order


def topological_order(graph: Graph) -> list[str]:
    """Return the roles in the order in which they speak: dependencies first, ties by config order."""
    rank = {role: position for position, role in enumerate(graph)}
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ValueError(f"roles: {cycle} is a circle; unroll turns into roles of their own") from None
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready.extend(sorter.get_ready())
        ready.sort(key=rank.__getitem__)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return order


def ancestors(graph: Graph, role: str) -> set[str]:
    """Return every role whose message this one may be shown: its dependencies and theirs."""
    found: set[str] = set()
    waiting = list(graph[role])
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting.extend(graph[parent])
    return found
