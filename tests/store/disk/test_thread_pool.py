"""The process's threads."""

from __future__ import annotations

import subprocess
import sys

from store.disk.thread_pool import thread_pool
from tests.conftest import ROOT

FORK = """
import os
from store.disk.thread_pool import thread_pool
assert thread_pool().submit(lambda: 1).result() == 1
child = os.fork()
if not child:  # its parent's threads are not there: what is given to them would never be done
    os._exit(thread_pool().submit(lambda: 7).result())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_threads_are_made_once_and_a_fork_makes_its_own() -> None:
    assert thread_pool() is thread_pool()
    subprocess.run([sys.executable, "-c", FORK], cwd=ROOT, check=True, timeout=60)
