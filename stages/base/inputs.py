"""The artifacts that a job reads, their rows, and the parts that its work is cut into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from store.artifacts.artifact import Artifact, Row


@dataclass(frozen=True, slots=True)
class Part:
    """One shard of a stage's work, fixed by the configuration."""

    index: int
    problem_ids: tuple[str, ...] = ()
    """The problems it covers; empty for stages that are not cut by problem."""


class Inputs(Mapping[str, Artifact]):
    """Hold artifacts by the name of the step that made each, and read every table at most once."""

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        self._artifacts = dict(artifacts)
        self._rows: dict[str, list[Row]] = {}
        self._places: dict[str, dict[str, list[int]]] = {}

    def __getitem__(self, step: str) -> Artifact:
        return self._artifacts[step]

    def __iter__(self) -> Iterator[str]:
        return iter(self._artifacts)

    def __len__(self) -> int:
        return len(self._artifacts)

    def __reduce__(self) -> tuple[type[Inputs], tuple[dict[str, Artifact]]]:
        """Travel without rows: a worker reads them from the store."""
        return Inputs, (self._artifacts,)

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table over all inputs that hold it, in the inputs' order."""
        if table not in self._rows:
            self._rows[table] = [row for artifact in self._artifacts.values() for row in artifact.rows(table)]
        return self._rows[table]

    def rows_of(self, table: str, part: Part) -> list[Row]:
        """Return the rows of a table that belong to the part's problems, in the inputs' order."""
        rows = self.rows(table)
        if table not in self._places:  # found once, because a stage of many parts would search all rows for each
            places: defaultdict[str, list[int]] = defaultdict(list)
            for place, row in enumerate(rows):
                places[row["problem_id"]].append(place)
            self._places[table] = dict(places)
        found = self._places[table]
        return [
            rows[place] for place in sorted(p for problem_id in part.problem_ids for p in found.get(problem_id, ()))
        ]
