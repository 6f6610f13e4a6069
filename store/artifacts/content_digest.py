"""Content digests: over canonical rows, not over compressed bytes.

Two tables have the same digest exactly when they have the same columns and the same rows in the same order, however
the rows are cut into parts and whatever the Parquet writer's version or compression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.disk.hashing import digest

_BATCH_BYTES = 2**20
"""Bytes of rows that are digested together: the overhead of a small part is more than its rows cost."""


class TableDigest:
    """Digests one table, part by part."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._leaves: dict[str, hashlib._Hash] = {}
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self.rows = 0

    def update(self, table: pa.Table) -> None:
        """Add the next rows."""
        self.rows += table.num_rows
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes > _BATCH_BYTES:
            self._digest_waiting()

    def _digest_waiting(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        for field in self._schema:
            for name, chunk in _leaves(field.name, table.column(field.name).combine_chunks()):
                self._leaves.setdefault(name, hashlib.sha256()).update(chunk)
        self._waiting, self._waiting_bytes = [], 0

    def hexdigest(self) -> str:
        """Return the digest of all rows added so far, as 64 hexadecimal characters."""
        self._digest_waiting()
        columns = [[field.name, str(field.type)] for field in self._schema]
        leaves = {name: running.hexdigest() for name, running in self._leaves.items()}
        return digest({"columns": columns, "rows": self.rows, "leaves": leaves})


def _leaves(name: str, array: pa.Array) -> Iterator[tuple[str, bytes]]:
    """Yield each flat stream of bytes that an array consists of, independent of chunking, offsets and padding."""
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    # a byte a row, not a bit: bits would be padded where a part ends, and the digest would show where that was
    yield f"{name}?", array.is_null().cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes()
    kind = array.type
    if pa.types.is_list(kind):
        yield f"{name}#", _numbers(pc.list_value_length(array))
        yield from _leaves(f"{name}[]", array.flatten())
    elif pa.types.is_struct(kind):
        for position, field in enumerate(kind):
            yield from _leaves(f"{name}.{field.name}", array.field(position))
    elif pa.types.is_string(kind):
        raw = array.fill_null("").cast(pa.binary())
        yield f"{name}#", _numbers(pc.binary_length(raw))
        yield f"{name}=", _joined(raw)
    else:
        yield f"{name}=", _numbers(array)


def _joined(array: pa.Array) -> bytes:
    """Return the bytes of all strings, end to end, as they lie in memory."""
    _, offsets, data = array.buffers()
    if data is None:
        return b""
    bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return bytes(memoryview(data)[bounds[0] : bounds[-1]]) if len(bounds) else b""


def _numbers(array: pa.Array) -> bytes:
    """Return values as little-endian bytes, NULL slots zeroed, every NaN alike."""
    if pa.types.is_boolean(array.type):
        return bytes(array.fill_null(False).cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values) + 0.0  # one NaN, and no minus zero
        values = values.astype(array.type.to_pandas_dtype())
    return bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
