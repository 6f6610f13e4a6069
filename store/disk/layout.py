"""Where everything lies: the only module that joins paths below the store's root.

<root>/artifacts/<stage>/<key>/part-00000/<table>.parquet    a part: its tables, files and part.json
<root>/artifacts/<stage>/<key>/manifest.json                 written last; without it the artifact is not there
<root>/runs/<run>/run.json                                   the configuration, from which round on
<root>/runs/<run>/<variant>/round-00003.json                 step -> key of that round
<root>/runs/<run>/<variant>/variant.json                     where a variant branches, and its overrides
<root>/runs/<run>/<variant>/tracked.json                     which figures were logged to trackers
<root>/tensorboard/<run>/<variant>/                          TensorBoard's files, where they are configured
<root>/locks/                                                one writer per artifact and per run
<root>/prefect/                                              Prefect's results: small JSON references
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError

MAIN = "main"
"""The variant that stands for the run itself, where none is named."""

COPY = "~"
"""Between a key and the number of a copy: the result of making an artifact again without replacing the first."""

IMPORTED = "import-"
"""Begins the key of transcripts that another system made; their digest follows."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one store."""

    root: Path

    @property
    def artifacts(self) -> Path:
        """Return the folder of all artifacts."""
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        """Return the folder of all runs' records."""
        return self.root / "runs"

    @property
    def prefect(self) -> Path:
        """Return the folder of Prefect's results."""
        return self.root / "prefect"

    @property
    def server_record(self) -> Path:
        """Return the file that names the store's Prefect server."""
        return self.root / "prefect" / "server.json"

    @property
    def tensorboard(self) -> Path:
        """Return the folder of TensorBoard's files."""
        return self.root / "tensorboard"

    def artifact(self, stage: str, key: str) -> Path:
        """Return an artifact's folder."""
        return self.artifacts / stage / key

    def part(self, stage: str, key: str, index: int) -> Path:
        """Return the folder of one part of an artifact, the first of which is 0."""
        return self.artifact(stage, key) / part_name(index)

    def lock(self, name: str) -> Path:
        """Return the file that is locked under this name."""
        return self.root / "locks" / f"{name}.lock"

    def run(self, run: str) -> Path:
        """Return the folder of a run's records. ConfigError when the name is no name for a run."""
        return self.runs / checked_name(run, "--run")

    def run_record(self, run: str) -> Path:
        """Return the file of a run's configurations."""
        return self.run(run) / "run.json"

    def run_files(self, *patterns: str) -> Iterator[Path]:
        """Yield the files of all runs that match one of these patterns below a run's folder."""
        for pattern in patterns:
            yield from self.runs.glob(f"*/{pattern}")

    def variant(self, run: str, variant: str) -> Path:
        """Return the file that says where a variant branches off."""
        return self._variant_folder(run, variant) / "variant.json"

    def tracked(self, run: str, variant: str) -> Path:
        """Return the file that says what of a variant was logged to trackers."""
        return self._variant_folder(run, variant) / "tracked.json"

    def round(self, run: str, variant: str, round: int) -> Path:
        """Return the file of a round's record."""
        return self._variant_folder(run, variant) / f"round-{round:05d}.json"

    def _variant_folder(self, run: str, variant: str) -> Path:
        return self.run(run) / checked_name(variant, "--variant")


def part_name(index: int) -> str:
    """Return the folder name of a part, the first of which is 0."""
    return f"part-{index:05d}"


def checked_name(name: str, option: str) -> str:
    """Return a run's or variant's name. ConfigError when it could leave its folder or confuse a shell.

    `option`: the command's, for the error.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{option} {name!r}: use lower-case letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    return name
