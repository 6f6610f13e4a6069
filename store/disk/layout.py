"""Where everything lies. The only file that joins paths below the store's root.

<root>/artifacts/<stage>/<key>/part-00000/<table>.parquet    a part: its tables, files and part.json
<root>/artifacts/<stage>/<key>/manifest.json                 written last; without it the artifact is not there
<root>/runs/<run>/run.json                                   the configuration, from which round on
<root>/runs/<run>/<variant>/round-00003.json                 step -> key of that round
<root>/runs/<run>/<variant>/variant.json                     where a variant branches, and its overrides
<root>/runs/<run>/<variant>/tracked.json                     which figures trackers were told
<root>/tensorboard/<run>/<variant>/                          TensorBoard's files, where that is asked for
<root>/locks/                                                one writer per artifact and per run
<root>/prefect/                                              Prefect's results: small JSON references
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError

MAIN = "main"
"""The name of a run's main line, where no variant is asked for."""

COPY = "~"
"""Between a key and the number of a copy made again beside it."""

IMPORTED = "import-"
"""Before the digest of transcripts that another system made."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one store."""

    root: Path

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def server_record(self) -> Path:
        return self.root / "prefect" / "server.json"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    def artifact(self, stage: str, key: str) -> Path:
        return self.artifacts / stage / key

    def part(self, stage: str, key: str, index: int) -> Path:
        return self.artifact(stage, key) / part_name(index)

    def lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def run(self, run: str) -> Path:
        return self.runs / checked_name(run, "--run")

    def variant(self, run: str, variant: str) -> Path:
        return self.run(run) / checked_name(variant, "--variant") / "variant.json"

    def tracked(self, run: str, variant: str) -> Path:
        return self.run(run) / checked_name(variant, "--variant") / "tracked.json"

    def round(self, run: str, variant: str, round: int) -> Path:
        return self.run(run) / checked_name(variant, "--variant") / f"round-{round:05d}.json"


def part_name(index: int) -> str:
    """The folder name of a part."""
    return f"part-{index:05d}"


def checked_name(name: str, option: str) -> str:
    """A run's or variant's name, refused when it could leave its folder or confuse a shell."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{option} {name!r}: use lower-case letters, digits, '.', '_' and '-', starting with a letter"
        )
    return name
