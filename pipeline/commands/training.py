"""`c3 run training`: round after round, with greedy evaluations where configured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from configs.errors import ConfigError
from configs.schema import Config
from pipeline.commands.run import EvaluationResult, LaterStale, RoundResult, later_stale, run_evaluation, run_iteration
from pipeline.commands.session import RoundOptions, Session, open_session, record_options
from pipeline.execution.context import ExecutionContext, Progress
from pipeline.rounds.plan import heldout_overlap
from store.artifacts.artifact import Row
from store.queries.summaries import accuracy_change


@dataclass(frozen=True)
class TrainingResult:
    """Hold what a training's rounds and evaluations came to."""

    rounds: Sequence[RoundResult]
    evaluations: Sequence[EvaluationResult]
    change: Row | None
    """Schema of accuracy_change.sql, from the first evaluation to the last; None with fewer than two."""
    stale: LaterStale
    """Rounds after the last one that were made from a policy which that one no longer ends with."""


class Training:
    """Run a training of one seed, from whatever of it is there."""

    def __init__(
        self,
        options: RoundOptions,
        rounds: int,
        seed: int | None = None,
        progress: Progress | None = None,
        context: ExecutionContext | None = None,
    ) -> None:
        """Record the configuration. `seed`: of a sweep, whose runs have names of their own; `context`: of one under way."""
        if seed is not None:
            options = replace(options, run=f"{options.run}-seed{seed}", overrides=(*options.overrides, f"seed={seed}"))
        record_options(options)
        self._options, self._last = replace(options, config=None, overrides=()), rounds
        session = open_session(self._options, progress, context)
        self.config: Config = session.round.config
        self.context = session.context
        self.overlap = heldout_overlap(self.config)
        """Held-out problems that are trained on too, and all of them; None without held-out ones."""
        self._rounds: list[RoundResult] = []
        self._evaluations: list[EvaluationResult] = []

    def run(self) -> Iterator[RoundResult | EvaluationResult]:
        """Yield each round and each evaluation when it is done."""
        for number in range(self._last + 1):
            session = self._session(number)
            if number:
                self._rounds.append(run_iteration(session))
                yield self._rounds[-1]
            if self._evaluates(number):
                self._evaluations.append(run_evaluation(session))
                yield self._evaluations[-1]

    def summary(self) -> TrainingResult:
        """Return what has been run so far."""
        change = None
        if len(self._evaluations) >= 2:
            change = accuracy_change(self._evaluations[0].artifact, self._evaluations[-1].artifact)
        return TrainingResult(self._rounds, self._evaluations, change, later_stale(self._session(self._last)))

    def _session(self, number: int) -> Session:
        return open_session(replace(self._options, round=number), context=self.context)

    def _evaluates(self, number: int) -> bool:
        """Return whether to evaluate after this round: first and last always, and every so many by configuration."""
        config = self.config.evaluate
        if config.problems is None:
            return False
        return number in (0, self._last) or bool(config.every and number % config.every == 0)


def seeds_of(text: str | None) -> list[int | None]:
    """Return the seeds of a sweep, as in "0,1,2"; [None]: no sweep. ConfigError when they are no whole numbers."""
    if text is None:
        return [None]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text}: wants whole numbers with commas between them, as in 0,1,2") from None
