"""Load artifacts that are intact, and say what is corrupt in those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import StoreError
from store.artifacts.artifact import MANIFEST, PART_RECORD, Artifact, load_manifest, read_row_groups
from store.disk.cache import cached_digest
from store.disk.layout import Layout
from store.disk.records import read_record


def load_verified(layout: Layout, stage: str, key: str) -> Artifact | None:
    """Return the finished artifact of that key, every byte checked. None where there is none, or it is corrupt."""
    artifact = load_manifest(layout, stage, key)
    return None if artifact is None or corruption(artifact) else artifact


def corruption(artifact: Artifact) -> str | None:
    """Return what is corrupt in an artifact's files, as one line; None when every byte is as the manifest says."""
    for part in artifact.manifest["parts"]:
        found = _part_corruption(artifact.path / part["name"], part)
        if found:
            return f"{artifact.stage} {artifact.key[:12]}: {found}"
    return None


def corruption_at(layout: Layout, stage: str, key: str) -> str | None:
    """Return what is corrupt in the artifact of that key, as one line; to have no manifest counts. None: nothing."""
    artifact = load_manifest(layout, stage, key)
    if artifact is None:
        return f"{stage} {key[:12]}: {MANIFEST} is missing or not what was written"
    return corruption(artifact)


def content_corruption(artifact: Artifact) -> str | None:
    """Return what is corrupt in an artifact's rows, their number or their digest. None: both are as recorded."""
    from store.artifacts.content_digest import TableDigest
    from store.artifacts.schemas import TABLES

    for table, entry in artifact.manifest["tables"].items():
        running = TableDigest(TABLES[table])
        for path in artifact.files(table):
            for rows in read_row_groups(path):
                running.update(rows)
        if running.rows != entry["rows"]:
            return f"{table} holds {running.rows} rows, not {entry['rows']}"
        if running.hexdigest() != entry["digest"]:
            return f"the rows of {table} are not those that were written (content digest)"
    return None


def read_part_record(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Return a part's own record and None, or None and what is wrong with it."""
    try:
        record = read_record(folder / PART_RECORD)
    except StoreError:
        return None, f"{folder.name}/{PART_RECORD} has changed since it was written"
    return record, f"{folder.name}/{PART_RECORD} is missing" if record is None else None


def files_corruption(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is corrupt in a part's files, as one line; None when each has the size and sha256 recorded of it."""
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


def _part_corruption(folder: Path, record: Mapping[str, Any]) -> str | None:
    """Return what is corrupt in one part, its own record among its files. `record`: what the manifest says of it."""
    own, found = read_part_record(folder)
    if found is None and own != record:
        found = f"{folder.name}/{PART_RECORD} is not the one that the manifest was made from"
    return found or files_corruption(folder, record["files"])
