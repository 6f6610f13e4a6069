"""Find artifacts that are whole, and say what is wrong with those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import StoreError
from store.artifacts.artifact import MANIFEST, PART_RECORD, Artifact, _pieces, load_manifest
from store.disk.cache import cached_digest
from store.disk.layout import Layout
from store.disk.records import read_record

if TYPE_CHECKING:
    pass


def find(layout: Layout, stage: str, key: str) -> Artifact | None:
    """The finished artifact of that key, every byte checked, or None. A corrupt one is not there."""
    artifact = load_manifest(layout, stage, key)
    return None if artifact is None or corruption(artifact) else artifact


def corruption(artifact: Artifact) -> str | None:
    """What is wrong with an artifact's files, as one line; None when every byte is as the manifest says."""
    for part in artifact.manifest["parts"]:
        found = _part_corruption(artifact.path / part["name"], part)
        if found:
            return f"{artifact.stage} {artifact.key[:12]}: {found}"
    return None


def corruption_at(layout: Layout, stage: str, key: str) -> str | None:
    """What is wrong with the artifact of that key, as one line, whether anything of it is there or not; None: nothing."""
    artifact = load_manifest(layout, stage, key)
    if artifact is None:
        return f"{stage} {key[:12]}: {MANIFEST} is missing or not what was written"
    return corruption(artifact)


def is_whole(artifact: Artifact) -> bool:
    """Whether every byte is as the manifest says."""
    return corruption(artifact) is None


def content_corruption(artifact: Artifact) -> str | None:
    """What is wrong with an artifact's rows: their number or their digest. None when both are as the manifest says."""
    from store.artifacts.content_digest import TableDigest
    from store.artifacts.schemas import TABLES

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


def _part_corruption(folder: Path, record: Mapping[str, Any]) -> str | None:
    """What is wrong with one part's files, its own record among them, by the record in the manifest."""
    own, found = _part_record(folder)
    if found is None and own != record:
        found = f"{folder.name}/{PART_RECORD} is not the one that the manifest was made from"
    return found or _file_corruption(folder, record["files"])


def _part_record(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A part's own record, or what is wrong with it."""
    try:
        record = read_record(folder / PART_RECORD)
    except StoreError:
        return None, f"{folder.name}/{PART_RECORD} has changed since it was written"
    return record, f"{folder.name}/{PART_RECORD} is missing" if record is None else None


def _file_corruption(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, entry in files.items():
        path = folder / name
        try:
            status = path.stat()
            if status.st_size != entry["bytes"]:
                return f"{folder.name}/{name} has {status.st_size} bytes, not {entry['bytes']}"
            if cached_digest(path, status) != entry["sha256"]:
                return f"{folder.name}/{name} has changed since it was written (sha256)"
        except FileNotFoundError:
            return f"{folder.name}/{name} is missing"
        except OSError as error:
            return f"{folder.name}/{name} cannot be read: {error.strerror}"
    return None
