"""Policy versions: which weights a team samples with, by digest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import StoreError
from store.artifacts.artifact import PART_RECORD, Artifact
from store.disk.hashing import digest
from store.disk.records import read_record

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
UNTRAINED = "untrained"


@dataclass(frozen=True, slots=True)
class Adapter:
    """One policy's weights on top of the base model.

    `digest` is over the tensors. `directory` is where they lie, or None for the untouched base model.
    """

    digest: str
    directory: Path | None


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The frozen team: base model and every policy's adapter. `version` is the digest that groups and guards use."""

    version: str
    base: str
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    optimizer: Path | None = None
    """Directory of the optimiser's state after the update that made this version; None before the first."""
    earlier: tuple[str, ...] = ()
    """Versions before this one in its run, the latest first, as far back as an update may learn from."""


def initial_policy(base: str, names: Iterable[str]) -> PolicyVersion:
    """Return the untrained team: every policy is the base model itself."""
    return _version(base, {name: Adapter(UNTRAINED, None) for name in names}, None)


def policy_of(update: Artifact, base: str, names: Iterable[str]) -> PolicyVersion:
    """Return the policy version that an update ends with: the weights of its last part. StoreError: see `policy_in`."""
    return policy_in(update.parts()[-1], base, names)


def policy_in(part: Path, base: str, names: Iterable[str]) -> PolicyVersion:
    """Return the policy version in one part of an update. StoreError when a policy of the team has no weights there."""
    record = read_record(part / PART_RECORD)
    if record is None:
        raise StoreError(f"{part / PART_RECORD}: is missing; run the round again, its update will be made again")
    files = record["files"]
    adapters = {}
    for name in names:
        found = _weights_of(name, files)
        if not found:
            raise StoreError(
                f"update {part.parent.name[:12]}: holds no weights for policy '{name}'; policies can only be added or "
                f"renamed from round 1 on: start another run with --run NAME"
            )
        adapters[name] = Adapter(digest(found), part / WEIGHTS / name)
    return _version(base, adapters, part / OPTIMIZER)


def version_after(update: Artifact, base: str, policies: Collection[str] | None = None) -> str:
    """Return the version of the team that an update ended with on that base, by its manifest alone, reading no weights.

    `policies`: those of the team that goes on from it, which may have dropped some; None: all that were trained.
    """
    files = update.manifest["parts"][-1]["files"]
    names = {file.split("/")[1] for file in files if file.startswith(f"{WEIGHTS}/")}
    names = names if policies is None else names & set(policies)
    return _version(base, {name: Adapter(digest(_weights_of(name, files)), None) for name in names}, None).version


def _weights_of(name: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return one policy's weight files and their digests."""
    prefix = f"{WEIGHTS}/{name}/"
    return {file.removeprefix(prefix): entry["sha256"] for file, entry in files.items() if file.startswith(prefix)}


def _version(base: str, adapters: dict[str, Adapter], optimizer: Path | None) -> PolicyVersion:
    identity = {"base": base, "adapters": {name: adapter.digest for name, adapter in adapters.items()}}
    return PolicyVersion(digest(identity)[:16], base, adapters, optimizer)
