"""Threads for what can be done beside something else. Made once: to start one takes as long as to digest a small part."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache(maxsize=1)
def thread_pool() -> ThreadPoolExecutor:
    """This process's threads. What is given to them must not wait for them."""
    return ThreadPoolExecutor(4, thread_name_prefix="beside")


os.register_at_fork(after_in_child=thread_pool.cache_clear)  # a fork has none of its parent's threads
