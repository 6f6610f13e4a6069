"""Records: small JSON files written by the program, in place whole or not at all, with a checksum.

Each holds the sha256 of its own text (with the checksum's place left blank), so that any byte that is not as it was
written is noticed: a seed or a key with one flipped bit would otherwise be believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import StoreError
from store.disk.atomic import TEMPORARY, replace_file
from store.disk.hashing import bytes_digest

_CHECKSUM = "checksum"
_BLANK = "0" * 64


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Put a record in place, and remove what killed writers of it have left. OSError when the disk refuses."""
    for left_over in path.parent.glob(f"{TEMPORARY}{path.name}-*"):
        left_over.unlink(missing_ok=True)
    replace_file(path, record_text(value))


def record_text(value: Mapping[str, Any]) -> str:
    """Return a record as it is written, its checksum in it."""
    content = {**value, _CHECKSUM: _BLANK}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return text.replace(f'"{_CHECKSUM}": "{_BLANK}"', f'"{_CHECKSUM}": "{_digest(text)}"')


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a record, or None when there is none. StoreError naming it when it is not as it was written."""
    try:
        text = path.read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(text)
        checksum = record.pop(_CHECKSUM)
        intact = _digest(text.replace(checksum, _BLANK)) == checksum
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise StoreError(f"{path}: corrupt (not what was written)")
    return record


def _digest(text: str) -> str:
    return bytes_digest([text.encode()])
