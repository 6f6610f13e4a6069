"""Ctrl-C and SIGTERM: one line on how to go on, and gone within two seconds.

Prefect is given a moment to mark the run as crashed. Nothing else has to be put in order: parts are in place whole or
not at all, and locks go with the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import NoReturn

_GRACE_SECONDS = 1.2
INTERRUPTED = 130


def arm() -> None:
    """Take over both signals. Again inside a flow, because Prefect takes SIGTERM for itself when one starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)


def leave(code: int) -> NoReturn:
    """End at once. Threads that load a model or wait for a server would otherwise hold the process for seconds."""
    server = sys.modules.get("pipeline.server")  # not imported here: `c3 --help` must not pay for it
    if server is not None:
        server.stop_temporary()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop(number: int, frame: object) -> NoReturn:
    print("\nc3: stopped; run the same command again to go on where it was", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    watch = threading.Timer(_GRACE_SECONDS, leave, (INTERRUPTED,))
    watch.daemon = True
    watch.start()
    raise KeyboardInterrupt
