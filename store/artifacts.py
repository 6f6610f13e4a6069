"""Artifacts: what a stage made, in parts, complete when the manifest is there.

A part is a folder with one Parquet file per table (and, for a policy, its weight files). It is made under a temporary
name, synced to disk and renamed, so that a part is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import StoreError
from store.files import TEMPORARY, sync, sync_tree, writing
from store.identity import digest, file_digest
from store.layout import Layout, part_name
from store.locks import holding
from store.records import read_record, record_text, write_record
from store.remembered import digest_once, remember_digest, remember_table, remembered_table
from store.threads import beside

if TYPE_CHECKING:  # a finished round is recognised without pyarrow: it is imported where rows are read or written
    import pyarrow as pa
    import pyarrow.parquet as pq

    from store.content import TableDigest

Row = dict[str, Any]
MANIFEST = "manifest.json"
PART_RECORD = "part.json"


@dataclass(frozen=True)
class Product:
    """What a stage hands over for one part: rows by table, and a writer of further files."""

    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    write_files: Callable[[Path], None] | None = None
    """Called with the part's folder; writes weight files, or tables too large to pass as rows."""
    ledger: Mapping[str, int] = field(default_factory=dict)
    """What this part spent: messages, prompt_tokens, new_tokens, evaluations."""
    pace: Sequence[Row] = ()
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
        """Its content digest: what downstream keys hold."""
        return str(self.manifest["digest"])

    @property
    def ledger(self) -> dict[str, int]:
        """Messages, tokens and evaluations spent in making it."""
        return dict(self.manifest["ledger"])

    def parts(self) -> list[Path]:
        """Its part folders, in order."""
        return [self.path / part["name"] for part in self.manifest["parts"]]

    def files(self, table: str) -> list[Path]:
        """The Parquet files of one table, in order."""
        name = f"{table}.parquet"
        return [self.path / part["name"] / name for part in self.manifest["parts"] if name in part["files"]]

    def rows(self, table: str, columns: Sequence[str] | None = None) -> list[Row]:
        """All rows of one table, as plain data, in their canonical order."""
        return [row for path in self.files(table) for row in _read(path, columns).to_pylist()]


def provisional(stage: str, key: str, path: Path, records: Sequence[Mapping[str, Any]]) -> Artifact:
    """An artifact whose parts are all there but whose manifest is not written yet: for the checks before it is."""
    return Artifact(stage, key, path, {"parts": list(records), "ledger": {}})


def find(layout: Layout, stage: str, key: str) -> Artifact | None:
    """The finished artifact of that key, every byte checked, or None. A damaged one is not there."""
    artifact = described(layout, stage, key)
    return None if artifact is None or damage(artifact) else artifact


def described(layout: Layout, stage: str, key: str) -> Artifact | None:
    """The artifact as its manifest describes it, its files not looked at. None without a readable manifest."""
    path = layout.artifact(stage, key)
    try:
        manifest = read_record(path / MANIFEST)
    except StoreError:
        return None
    if manifest is None or (manifest["stage"], manifest["key"]) != (stage, key):
        return None
    return Artifact(stage, key, path, manifest)


def damage(artifact: Artifact) -> str | None:
    """What is wrong with an artifact's files, as one line; None when every byte is as the manifest says."""
    for part in artifact.manifest["parts"]:
        found = _part_damage(artifact.path / part["name"], part)
        if found:
            return f"{artifact.stage} {artifact.key[:12]}: {found}"
    return None


def damage_at(layout: Layout, stage: str, key: str) -> str | None:
    """What is wrong with the artifact of that key, as one line, whether anything of it is there or not; None: nothing."""
    artifact = described(layout, stage, key)
    if artifact is None:
        return f"{stage} {key[:12]}: {MANIFEST} is missing or not what was written"
    return damage(artifact)


def is_whole(artifact: Artifact) -> bool:
    """Whether every byte is as the manifest says."""
    return damage(artifact) is None


def content_damage(artifact: Artifact) -> str | None:
    """What is wrong with an artifact's rows: their number or their digest. None when both are as the manifest says."""
    from store.content import TableDigest
    from store.schemas import TABLES

    for table, entry in artifact.manifest["tables"].items():
        running = TableDigest(TABLES[table])
        for path in artifact.files(table):
            for rows in _pieces(path):
                running.update(rows)
        if running.rows != entry["rows"]:
            return f"{table} holds {running.rows} rows, not {entry['rows']}"
        if running.hexdigest() != entry["digest"]:
            return f"the rows of {table} are not those that were written (content digest)"
    return None


def remove(artifact: Artifact) -> None:
    """Take an artifact away, its manifest first, so that it is never there in part."""
    with writing(artifact.path):
        (artifact.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(artifact.path)


class ArtifactWriter:
    """The one writer of an artifact: finds the parts that are there, adds the missing ones, closes it."""

    def __init__(self, layout: Layout, stage: str, key: str) -> None:
        self._stage = stage
        self._key = key
        self.path = layout.artifact(stage, key)
        self.damage: list[str] = self._damage_of_finished()
        """What is not as it was written and is made again, a line each."""

    def _damage_of_finished(self) -> list[str]:
        """What is wrong with an artifact that was finished once; nothing when it never was."""
        try:
            manifest = read_record(self.path / MANIFEST)
        except StoreError:
            return [f"{self._stage} {self._key[:12]}: {MANIFEST} has changed since it was written"]
        found = None if manifest is None else damage(Artifact(self._stage, self._key, self.path, manifest))
        return [] if found is None else [found]

    def part(self, index: int) -> dict[str, Any] | None:
        """The record of a part that is there and whole; None otherwise. A damaged part is removed."""
        folder = self.path / part_name(index)
        record, found = _part_record(folder)
        found = found or (_file_damage(folder, record["files"]) if record else None)
        if found is None:
            return record
        if folder.exists():
            line = f"{self._stage} {self._key[:12]}: {found}"
            if line not in self.damage:
                self.damage.append(line)
            with writing(folder):
                shutil.rmtree(folder)
        return None

    def clear_left_over(self) -> None:
        """Remove what a process that died left half written."""
        with writing(self.path):
            for left_over in self.path.glob(f"{TEMPORARY}*"):
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                else:
                    left_over.unlink()

    def write(self, index: int, product: Product, seconds: float) -> dict[str, Any]:
        """Put one part in place, whole, and return its record."""
        import pyarrow as pa

        from store.schemas import TABLES

        name = part_name(index)
        temporary = self.path / f"{TEMPORARY}{name}-{os.getpid()}"
        with writing(self.path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                tables = {name: pa.Table.from_pylist(list(rows), TABLES[name]) for name, rows in product.tables.items()}
                for table, content in tables.items():
                    write_table(temporary / f"{table}.parquet", content)
                if product.write_files:
                    product.write_files(temporary)
                rows = {f"{table}.parquet": content.num_rows for table, content in tables.items()}
                record = {
                    "name": name,
                    "files": _settled(temporary, rows),
                    "ledger": dict(product.ledger),
                    "seconds": round(seconds, 3),
                    **({"pace": list(product.pace)} if product.pace else {}),
                }
                (temporary / PART_RECORD).write_text(record_text(record), encoding="utf-8")
                sync(temporary / PART_RECORD)
                sync(temporary)
                shutil.rmtree(self.path / name, ignore_errors=True)
                temporary.rename(self.path / name)
                sync(self.path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        for table, content in tables.items():
            remember_table(self.path / name / f"{table}.parquet", content)
        return record

    def finish(
        self,
        records: Sequence[Mapping[str, Any]],
        description: Mapping[str, Any],
        insist: Callable[[], None] = lambda: None,
    ) -> Artifact:
        """Write the manifest, unless `insist` raises: the artifact is complete from here on."""
        tables, files = self._content(records)
        insist()
        ledger: dict[str, int] = {}
        for record in records:
            for name, spent in record["ledger"].items():
                ledger[name] = ledger.get(name, 0) + spent
        manifest = {
            "stage": self._stage,
            "key": self._key,
            "digest": digest({"tables": {name: entry["digest"] for name, entry in tables.items()}, "files": files}),
            "tables": tables,
            "parts": list(records),
            "ledger": ledger,
            "seconds": round(sum(record["seconds"] for record in records), 3),
            **description,
        }
        with writing(self.path):
            write_record(self.path / MANIFEST, manifest)
        return Artifact(self._stage, self._key, self.path, manifest)

    def _content(self, records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
        """Rows and digest per table over all parts, and the digests of the other files."""
        from store.content import TableDigest
        from store.schemas import TABLES

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
                for rows in _pieces(path):
                    running[table].update(rows)
        tables = {name: {"rows": entry.rows, "digest": entry.hexdigest()} for name, entry in running.items()}
        return tables, files


@contextmanager
def open_writer(layout: Layout, stage: str, key: str) -> Iterator[ArtifactWriter]:
    """The artifact's writer, while its lock is held. StoreError naming the holder when another process has it."""
    path = layout.artifact(stage, key)
    with holding(layout, f"{stage}-{key}", f"{stage} {key[:12]}"):
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        writer = ArtifactWriter(layout, stage, key)
        writer.clear_left_over()
        yield writer


def write_table(path: Path, table: pa.Table) -> None:
    """One Parquet file. The same rows give the same bytes with one version of pyarrow."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", store_schema=False)


def read_part(folder: Path, table: str) -> list[Row]:
    """The rows of one table of one part, of an artifact still in the making."""
    rows: list[Row] = _read(folder / f"{table}.parquet").to_pylist()
    return rows


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa

    from store.schemas import TABLES

    known = remembered_table(path)
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


def _pieces(path: Path) -> Iterator[pa.Table]:
    """The same, row group by row group: advantages can be too many to hold."""
    from store.schemas import TABLES

    known = remembered_table(path)
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


def _part_damage(folder: Path, record: Mapping[str, Any]) -> str | None:
    """What is wrong with one part's files, its own record among them, by the record in the manifest."""
    own, found = _part_record(folder)
    if found is None and own != record:
        found = f"{folder.name}/{PART_RECORD} is not the one that the manifest was made from"
    return found or _file_damage(folder, record["files"])


def _part_record(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A part's own record, or what is wrong with it."""
    try:
        record = read_record(folder / PART_RECORD)
    except StoreError:
        return None, f"{folder.name}/{PART_RECORD} has changed since it was written"
    return record, f"{folder.name}/{PART_RECORD} is missing" if record is None else None


def _file_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, entry in files.items():
        path = folder / name
        try:
            status = path.stat()
            if status.st_size != entry["bytes"]:
                return f"{folder.name}/{name} has {status.st_size} bytes, not {entry['bytes']}"
            if digest_once(path, status) != entry["sha256"]:
                return f"{folder.name}/{name} has changed since it was written (sha256)"
        except FileNotFoundError:
            return f"{folder.name}/{name} is missing"
        except OSError as error:
            return f"{folder.name}/{name} cannot be read: {error.strerror}"
    return None


def _settled(folder: Path, rows: Mapping[str, int]) -> dict[str, Any]:
    """What a part's record says of each file; all of them are on the disk by then.

    `rows`: of the tables whose number of rows is known without asking the file.
    """
    import pyarrow.parquet as pq

    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    synced = beside().submit(sync_tree, folder)  # the disk writes while the processor reads
    try:
        # read, never remembered: what is recorded here must not rest on a clock
        digests = list(beside().map(file_digest, paths))
    finally:
        wait([synced])
    synced.result()
    records = {}
    for path, sha256 in zip(paths, digests, strict=True):
        status = path.stat()
        entry: dict[str, Any] = {"sha256": sha256, "bytes": status.st_size}
        remember_digest(status, sha256)
        name = path.relative_to(folder).as_posix()
        if name in rows:
            entry["rows"] = rows[name]
        elif path.suffix == ".parquet":
            entry["rows"] = pq.read_metadata(path).num_rows
        records[name] = entry
    return records
