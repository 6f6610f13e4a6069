"""The process's threads, made once: to start one takes as long as to digest a small part."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache(maxsize=1)
def thread_pool() -> ThreadPoolExecutor:
    """Return this process's threads. What runs on them must not wait for them."""
    return ThreadPoolExecutor(4, thread_name_prefix="c3")


os.register_at_fork(after_in_child=thread_pool.cache_clear)  # a fork has none of its parent's threads
