"""How a stage's work is cut into parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from configs.errors import ConfigError
from stages.base.inputs import Part
from stages.base.job import Job
from store.disk.ids import seed_from


def selected_problems(job: Job) -> list[str]:
    """Return the problems of the job's round: a permutation per epoch, dealt out in rounds of `rounds.problems_per_round`.

    Every problem comes once per epoch; an epoch's last round takes what is left. Only the seed decides the order.
    """
    everything = sorted(job.problems)
    size = job.config.rounds.problems_per_round
    if size > len(everything):
        raise ConfigError(
            f"rounds.problems_per_round: {size} problems a round, but the set has {len(everything)}; lower it or add problems"
        )
    epoch, index = divmod(job.round - 1, ceil(len(everything) / size))
    order = sorted(everything, key=lambda problem_id: seed_from("epoch", job.config.seed, epoch, problem_id))
    return order[index * size : (index + 1) * size]


def cut_problems(problem_ids: Sequence[str], size: int) -> list[Part]:
    """Cut problems into shards of `size` problems each."""
    starts = range(0, len(problem_ids), size)
    return [Part(index, tuple(problem_ids[start : start + size])) for index, start in enumerate(starts)]


def cut_by_problem_of(*tables: str) -> Callable[[Job], list[Part]]:
    """Return a function that cuts by the problems that tables hold, in the tables' order."""

    def cut(job: Job) -> list[Part]:
        problem_ids = dict.fromkeys(row["problem_id"] for table in tables for row in job.rows(table))
        return cut_problems(list(problem_ids), job.config.parts.problems_per_part)

    return cut


def one_part(job: Job) -> list[Part]:
    """Return one part: the work is not cut."""
    return [Part(0)]
