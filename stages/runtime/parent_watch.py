"""A process ends when the one that it works for does, however that ends: killed, too, and with signals ignored."""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import suppress


def exit_with_parent(command: int, also: int | None = None) -> None:
    """Watch the process of that number, from a thread; when it is gone, end this one and kill `also`."""
    try:
        ended = os.pidfd_open(command)  # unlike its number, it cannot come to mean another process
    except ProcessLookupError:
        _end(also)
        return
    threading.Thread(target=_watch, args=(ended, also), daemon=True).start()


def _watch(ended: int, also: int | None) -> None:
    watched = select.poll()
    watched.register(ended, select.POLLIN)
    watched.poll()
    _end(also)


def _end(also: int | None) -> None:
    if also is not None:
        with suppress(ProcessLookupError):
            os.kill(also, signal.SIGKILL)
    os._exit(1)
