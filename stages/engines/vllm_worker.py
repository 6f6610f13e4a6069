"""What runs inside vLLM's own processes: they must not outlive the command that started them, however that ends.

vLLM ends its processes when the command shuts it down in good order; a command that is killed, or leaves at once on
Ctrl-C, cannot. vLLM's worker may be a child of its engine core, which nothing would end: so the worker watches the
command itself, and takes the core along.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import suppress


class EndsWithCommand:
    """Mixed into vLLM's worker by its `worker_extension_cls`."""

    def end_with(self, command: int) -> None:
        """Begin to watch the process of that number."""
        ended = os.pidfd_open(command)  # unlike its number, it cannot come to mean another process
        core = os.getppid()
        threading.Thread(target=_watch, args=(ended, core if core != command else None), daemon=True).start()


def _watch(ended: int, core: int | None) -> None:
    watched = select.poll()
    watched.register(ended, select.POLLIN)
    watched.poll()
    if core is not None:
        with suppress(ProcessLookupError):
            os.kill(core, signal.SIGKILL)
    os._exit(1)
