"""Write an artifact part by part; its manifest comes last and makes it finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import StoreError
from store.artifacts.artifact import MANIFEST, PART_RECORD, Artifact, StageOutput, read_row_groups, write_table
from store.artifacts.integrity import corruption, files_corruption, read_part_record
from store.disk.atomic import TEMPORARY, sync, sync_tree, writing
from store.disk.cache import cache_digest, cache_table
from store.disk.hashing import digest, file_digest
from store.disk.layout import Layout, part_name
from store.disk.locks import exclusive_lock
from store.disk.records import read_record, record_text, write_record
from store.disk.thread_pool import thread_pool

if TYPE_CHECKING:
    from store.artifacts.content_digest import TableDigest


class ArtifactWriter:
    """Writes an artifact, one writer at a time: finds the parts that are there, adds the missing ones, finishes it."""

    def __init__(self, layout: Layout, stage: str, key: str) -> None:
        self._stage = stage
        self._key = key
        self.path = layout.artifact(stage, key)
        self.corruption: list[str] = self._corruption_of_finished()
        """What is corrupt and made again, a line each."""

    def _corruption_of_finished(self) -> list[str]:
        """Return what is corrupt in an artifact that was finished once; nothing when it never was."""
        try:
            manifest = read_record(self.path / MANIFEST)
        except StoreError:
            return [f"{self._stage} {self._key[:12]}: {MANIFEST} has changed since it was written"]
        found = None if manifest is None else corruption(Artifact(self._stage, self._key, self.path, manifest))
        return [] if found is None else [found]

    def part(self, index: int) -> dict[str, Any] | None:
        """Return the record of a part that is there and intact; None otherwise. A corrupt part is removed."""
        folder = self.path / part_name(index)
        record, found = read_part_record(folder)
        found = found or (files_corruption(folder, record["files"]) if record else None)
        if found is None:
            return record
        if folder.exists():
            line = f"{self._stage} {self._key[:12]}: {found}"
            if line not in self.corruption:
                self.corruption.append(line)
            with writing(folder):
                shutil.rmtree(folder)
        return None

    def clear_left_over(self) -> None:
        """Remove what a process that died has left half written."""
        with writing(self.path):
            for left_over in self.path.glob(f"{TEMPORARY}*"):
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                else:
                    left_over.unlink()

    def write(self, index: int, output: StageOutput, seconds: float) -> dict[str, Any]:
        """Put one part in place, whole, and return its record. StoreError when the disk refuses."""
        import pyarrow as pa

        from store.artifacts.schemas import TABLES

        name = part_name(index)
        tables = {table: pa.Table.from_pylist(list(rows), TABLES[table]) for table, rows in output.tables.items()}
        with writing(self.path), _put_in_place(self.path / name) as temporary:
            for table, content in tables.items():
                write_table(temporary / f"{table}.parquet", content)
            if output.write_files:
                output.write_files(temporary)
            rows = {f"{table}.parquet": content.num_rows for table, content in tables.items()}
            record = {
                "name": name,
                "files": sync_and_describe(temporary, rows),
                "usage": dict(output.usage),
                "seconds": round(seconds, 3),
                **({"step_timing": list(output.step_timing)} if output.step_timing else {}),
            }
            (temporary / PART_RECORD).write_text(record_text(record), encoding="utf-8")
            sync(temporary / PART_RECORD)
            sync(temporary)
        for table, content in tables.items():
            cache_table(self.path / name / f"{table}.parquet", content)
        return record

    def finish(
        self,
        records: Sequence[Mapping[str, Any]],
        description: Mapping[str, Any],
        ensure: Callable[[], None] = lambda: None,
    ) -> Artifact:
        """Write the manifest, unless `ensure` raises: the artifact is finished from here on.

        `records`: those of its parts, in order. `description`: what else the manifest says, of how it was made.
        """
        tables, files = self._content(records)
        ensure()
        usage: dict[str, int] = {}
        for record in records:
            for name, spent in record["usage"].items():
                usage[name] = usage.get(name, 0) + spent
        manifest = {
            "stage": self._stage,
            "key": self._key,
            "digest": digest({"tables": {name: entry["digest"] for name, entry in tables.items()}, "files": files}),
            "tables": tables,
            "parts": list(records),
            "usage": usage,
            "seconds": round(sum(record["seconds"] for record in records), 3),
            **description,
        }
        with writing(self.path):
            write_record(self.path / MANIFEST, manifest)
        return Artifact(self._stage, self._key, self.path, manifest)

    def _content(self, records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return rows and digest per table over all parts, and the digests of the other files."""
        from store.artifacts.content_digest import TableDigest
        from store.artifacts.schemas import TABLES

        running: dict[str, TableDigest] = {}
        files: dict[str, str] = {}
        for record in records:
            for name, entry in record["files"].items():
                if not name.endswith(".parquet"):
                    files[f"{record['name']}/{name}"] = entry["sha256"]
                    continue
                table = name.removesuffix(".parquet")
                path = self.path / record["name"] / name
                running.setdefault(table, TableDigest(TABLES[table]))
                for rows in read_row_groups(path):
                    running[table].update(rows)
        tables = {name: {"rows": entry.rows, "digest": entry.hexdigest()} for name, entry in running.items()}
        return tables, files


@contextmanager
def open_writer(layout: Layout, stage: str, key: str) -> Iterator[ArtifactWriter]:
    """Yield an artifact's writer, under its lock. StoreError naming the lock's owner when another process has it."""
    path = layout.artifact(stage, key)
    with exclusive_lock(layout, f"{stage}-{key}", f"{stage} {key[:12]}"):
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        writer = ArtifactWriter(layout, stage, key)
        writer.clear_left_over()
        yield writer


@contextmanager
def _put_in_place(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which gets the name of `folder` when the block ends well and is removed otherwise."""
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync_and_describe(folder: Path, rows: Mapping[str, int]) -> dict[str, Any]:
    """Sync a part's files to disk and return what its record says of each: sha256, bytes and, of a table, rows.

    `rows`: by file, of the tables whose number of rows is known without reading the file.
    """
    import pyarrow.parquet as pq

    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    synced = thread_pool().submit(sync_tree, folder)  # the disk writes while the processor reads
    try:
        # read, not from the cache: what is recorded here must not rest on a clock
        digests = list(thread_pool().map(file_digest, paths))
    finally:
        wait([synced])
    synced.result()
    records = {}
    for path, sha256 in zip(paths, digests, strict=True):
        status = path.stat()
        entry: dict[str, Any] = {"sha256": sha256, "bytes": status.st_size}
        cache_digest(status, sha256)
        name = path.relative_to(folder).as_posix()
        if name in rows:
            entry["rows"] = rows[name]
        elif path.suffix == ".parquet":
            entry["rows"] = pq.read_metadata(path).num_rows
        records[name] = entry
    return records
