"""Loading without progress bars: they would break up the terminal of whoever runs a round."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def no_bars() -> Iterator[None]:
    """Yield transformers draws no progress bar; its warnings are still heard. Its own setting is back afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def silence() -> Iterator[None]:
    """Yield neither bars nor advice, and nothing on stderr: for a conversion whose outcome is checked."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_bars(), redirect_stderr(io.StringIO()):  # the GGUF reader draws its bar whatever it is told
            yield
    finally:
        logging.set_verbosity(verbosity)
