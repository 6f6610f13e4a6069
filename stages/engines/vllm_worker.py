"""What runs inside vLLM's own process: it must not outlive the command that started it, however that ends.

vLLM ends its process when the parent shuts it down in good order; a parent that is killed, or leaves at once on Ctrl-C,
cannot. A signal on the parent's death would come when the thread that loaded the model ends, so the parent is watched.
"""

from __future__ import annotations

import os
import threading
import time

_LOOK_SECONDS = 0.5


class EndsWithParent:
    """Mixed into vLLM's worker by its `worker_extension_cls`."""

    def end_with_parent(self) -> None:
        """Begin to watch."""
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
