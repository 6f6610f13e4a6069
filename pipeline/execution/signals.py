"""Ctrl-C and SIGTERM: one line on how to go on, and gone within two seconds.

Python hears of a signal between two of its own instructions, and a matrix product or a backward pass can be one
instruction for longer than that. So a thread of its own hears of it too, through the descriptor that the system's
handler writes to. Prefect is given a moment to mark the run as crashed; then the process ends, wherever it is. Nothing
else has to be put in order: parts are in place whole or not at all, and locks go with the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

_GRACE_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130


def install_handlers() -> None:
    """Take over both signals. Again inside a flow, because Prefect takes SIGTERM for itself when one starts."""
    if threading.current_thread() is not threading.main_thread():
        return
    if not _listening:  # first, so that no handler can raise while the thread starts
        listen, tell = os.pipe()
        os.set_blocking(tell, False)
        _listening.append(threading.Thread(target=_watch, args=(listen,), daemon=True))
        _listening[0].start()
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        sys.unraisablehook = _unraisable
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _unraisable(unraised: sys.UnraisableHookArgs) -> None:
    """An interrupt that comes while an object is cleared away cannot be raised there; the words are said all the same."""
    if not (was_interrupted() and issubclass(unraised.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(unraised)


_listening: list[threading.Thread] = []
"""The thread that hears of signals: there is at most one per process."""


def was_interrupted() -> bool:
    """Return whether one of the signals was heard, and the words said."""
    return _said.is_set()


def exit_now(code: int) -> NoReturn:
    """End at once. Threads that load a model or wait for a server would otherwise hold the process for seconds."""
    server = sys.modules.get("pipeline.flows.server")  # not imported here: `c3 --help` must not pay for it
    if server is not None:
        server.stop_temporary()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _watch(listen: int) -> NoReturn:
    """Wait for the first of the signals, say so, and end the process when the main thread has not done it."""
    while not any(number in _SIGNALS for number in os.read(listen, 64)):
        pass
    _say_how_to_go_on()
    time.sleep(_GRACE_SECONDS)
    exit_now(INTERRUPTED)


def _say_how_to_go_on() -> None:
    """Once, by whichever thread hears of the signal first: the other may end the process at any time."""
    with _saying:
        if _said.is_set():
            return
        _said.set()
        message = "\nc3: stopped; run the same command again to go on where it was\n"
        with suppress(OSError, ValueError):  # nobody reads it any more
            os.write(sys.stderr.fileno(), message.encode())  # not print: the main thread may hold the stream's lock


_saying, _said = threading.Lock(), threading.Event()


def _stop(number: int, frame: object) -> NoReturn:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _say_how_to_go_on()
    raise KeyboardInterrupt
