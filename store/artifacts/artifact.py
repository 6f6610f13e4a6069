"""Artifacts: what a stage made, in parts; finished once the manifest is there.

A part is a folder with one Parquet file per table (and, for a policy, its weight files). It is made under a temporary
name, synced to disk and renamed, so that a part is there whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import StoreError
from store.disk.atomic import writing
from store.disk.cache import cached_table
from store.disk.layout import Layout
from store.disk.records import read_record

if TYPE_CHECKING:  # a finished round is recognised without pyarrow: it is imported where rows are read or written
    import pyarrow as pa
    import pyarrow.parquet as pq


Row = dict[str, Any]
MANIFEST = "manifest.json"
PART_RECORD = "part.json"


@dataclass(frozen=True)
class StageOutput:
    """What a stage returns for one part: rows by table, and a writer of further files."""

    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    write_files: Callable[[Path], None] | None = None
    """Called with the part's folder; writes weight files, or tables too large to pass as rows. None: there are none."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """What this part spent: messages, prompt_tokens, new_tokens, evaluations."""
    step_timing: Sequence[Row] = ()
    """Seconds of each optimiser step (step, seconds). Time is in no digest, so this goes into the part's record."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact."""

    stage: str
    key: str
    path: Path
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """Return its content digest: what downstream keys hold."""
        return str(self.manifest["digest"])

    @property
    def usage(self) -> dict[str, int]:
        """Return the messages, tokens and evaluations spent in making it."""
        return dict(self.manifest["usage"])

    def parts(self) -> list[Path]:
        """Return its part folders, in order."""
        return [self.path / part["name"] for part in self.manifest["parts"]]

    def files(self, table: str) -> list[Path]:
        """Return the Parquet files of one table, in order; none where no part has it."""
        name = f"{table}.parquet"
        return [self.path / part["name"] / name for part in self.manifest["parts"] if name in part["files"]]

    def rows(self, table: str, columns: Sequence[str] | None = None) -> list[Row]:
        """Return all rows of one table, as plain data, in their canonical order. StoreError on an unreadable file."""
        return [row for path in self.files(table) for row in _read(path, columns).to_pylist()]


def provisional(stage: str, key: str, path: Path, records: Sequence[Mapping[str, Any]]) -> Artifact:
    """Return an artifact whose parts are all there and whose manifest is not written yet: for the checks before it."""
    return Artifact(stage, key, path, {"parts": list(records), "usage": {}})


def load_manifest(layout: Layout, stage: str, key: str) -> Artifact | None:
    """Return the artifact as its manifest describes it, its files not looked at. None without a readable manifest."""
    path = layout.artifact(stage, key)
    try:
        manifest = read_record(path / MANIFEST)
    except StoreError:
        return None
    if manifest is None or (manifest["stage"], manifest["key"]) != (stage, key):
        return None
    return Artifact(stage, key, path, manifest)


def remove(artifact: Artifact) -> None:
    """Remove an artifact, its manifest first, so that it is never there in part. StoreError when the disk refuses."""
    with writing(artifact.path):
        (artifact.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(artifact.path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file. Equal rows give equal bytes with one version of pyarrow."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", store_schema=False)


def read_part(folder: Path, table: str) -> list[Row]:
    """Return the rows of one table of one part, of an artifact that is not finished yet."""
    rows: list[Row] = _read(folder / f"{table}.parquet").to_pylist()
    return rows


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa

    from store.artifacts.schemas import TABLES

    known = cached_table(path)
    if known is not None:
        return known if columns is None else known.select(list(columns))
    with _opened(path) as file:
        # most parts are small: threads and a data set around one file cost more than reading it
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    schema = TABLES[path.stem]
    return _cast(table, schema if columns is None else pa.schema([schema.field(name) for name in columns]), path)


def _cast(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    try:
        return table.cast(schema)
    except ValueError as error:
        raise StoreError(
            f"{path}: its columns are not those that this version of C3 reads; use the version that wrote it, or run the "
            f"round again in another store"
        ) from error


def read_row_groups(path: Path) -> Iterator[pa.Table]:
    """Yield a table file's rows, row group by row group: advantages can be too many to hold."""
    from store.artifacts.schemas import TABLES

    known = cached_table(path)
    if known is not None:
        yield known
        return
    with _opened(path) as file:
        for index in range(file.num_row_groups):
            yield _cast(file.read_row_group(index, use_threads=False), TABLES[path.stem], path)
        if not file.num_row_groups:
            yield TABLES[path.stem].empty_table()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path}: cannot be read ({error}); run the round again, it will be made again") from error
