"""What runs inside vLLM's own processes: they must not outlive the command that started them.

vLLM ends its processes when the command shuts it down in good order; a command that is killed, or leaves at once on
Ctrl-C, cannot. vLLM's worker may be a child of its engine core, which nothing would end: so the worker watches the
command itself, and takes the core along.
"""

from __future__ import annotations

import os

from stages.runtime.parent_watch import exit_with_parent


class ExitWithParent:
    """Mixed into vLLM's worker by its `worker_extension_cls`."""

    def exit_with_parent(self, command: int) -> None:
        """Begin to watch the process of that number."""
        core = os.getppid()
        exit_with_parent(command, also=core if core != command else None)
