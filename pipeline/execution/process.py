"""How this process spends its time besides the work: threads that wait, and memory that is searched for what is unused."""

from __future__ import annotations

import gc

from configs.environment import prepare_threads


def prepare_process() -> None:
    """Prepare the process; call it before anything large is imported."""
    prepare_threads()
    # imports make half a million objects that stay: to look through them as often as usual takes a fifth of the start,
    # and a third of a second every few rounds
    gc.set_threshold(50_000, 10, 10)
