"""The error tree: as it is drawn, with the exit codes that are documented."""

from __future__ import annotations

import inspect
import re

from configs import errors
from configs.errors import C3Error


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, tuple[str, int | None]] = {}
    above = {0: "C3Error"}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│ ]*)[├└]── (\w+) .*\(exit (\d)\)$", line)
        if found:
            depth = len(found[1]) // 4 + 1
            drawn[found[2]] = above[depth - 1], int(found[3])
            above[depth] = found[2]
    classes = [entry for _, entry in inspect.getmembers(errors, inspect.isclass) if entry is not C3Error]
    assert drawn == {entry.__name__: (entry.__base__.__name__, entry.exit_code) for entry in classes}


def test_every_error_is_called_one() -> None:
    assert all(name.endswith("Error") for name, _ in inspect.getmembers(errors, inspect.isclass))
