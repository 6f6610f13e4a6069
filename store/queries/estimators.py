"""Estimators: each is one .sql file in store/sql/estimators, and its header says what the rest of C3 must know of it.

    -- grain: one alternative
    -- reads: returns, ablated_replay          views it selects from; steps that make them run where it is chosen
    -- baseline: the mean return of ...        words for `c3 why`
    -- worked from: others | all               optional: `c3 why` shows the baseline as a mean over the group's own returns,
                                               by replays without the message itself, or plainly with it
    -- credits: returns | values               optional, returns: Q_j is a mean return, or what a value head expects
    -- groups: configured | problem            optional, configured: whether advantages.group_by is followed
    -- constant in group: yes | no | unless plan replay
                                               optional, no: in a group its advantages are the returns less one number, but for
                                               the factor n/(n-1)
    -- last role: credited | undefined         optional, credited
    -- noise law: yes | no                     optional, no: by state and unnormalised its variance follows the noise law
                                               (docs/method.md, section 2)

Adding an estimator is adding its file. Lines before the first empty comment line are the header; the formula comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from configs.errors import ConfigError, StoreError
from store.queries.connection import SQL

FOLDER = SQL / "estimators"
VIEWS = ("returns", "episodes", "ablated_replay", "critic_values")
"""What an estimator may read: views that `open_returns` makes of a round's tables."""
_CHOICES = {
    "worked from": ("others", "all"),
    "credits": ("returns", "values"),
    "groups": ("configured", "problem"),
    "constant in group": ("yes", "no", "unless plan replay"),
    "last role": ("credited", "undefined"),
    "noise law": ("yes", "no"),
}
_NEEDED = ("grain", "reads", "baseline")


@dataclass(frozen=True)
class Estimator:
    """Hold what an estimator's header says."""

    name: str
    reads: tuple[str, ...]
    """Views it selects from."""
    baseline: str
    """What is subtracted, in words."""
    worked_from: Literal["others", "all"] | None = None
    """Which returns of the group its baseline is the mean of; None: of other numbers than the group's."""
    credits: Literal["returns", "values"] = "returns"
    """Whether a message is credited with its mean return or with what a value head expects of it."""
    groups: Literal["configured", "problem"] = "configured"
    """Whether it follows advantages.group_by, or always compares over a problem's messages of a role."""
    constant_in_group: Literal["yes", "no", "unless plan replay"] = "no"
    """Whether its advantages in a group are the returns less one number, but for the factor n/(n-1)."""
    last_role: Literal["credited", "undefined"] = "credited"
    noise_law: bool = False
    """Whether its variance by state, unnormalised, follows the noise law."""

    @property
    def path(self) -> Path:
        """Its .sql file."""
        return FOLDER / f"{self.name}.sql"

    def is_constant_in_group(self, plan: str) -> bool:
        """Return whether its advantages in a group are the returns less one number, under a plan of that kind."""
        return self.constant_in_group == "yes" or (self.constant_in_group == "unless plan replay" and plan != "replay")


def estimators() -> list[str]:
    """Return the names of the estimators: the .sql files."""
    return sorted(path.stem for path in FOLDER.glob("*.sql"))


def estimator(name: str) -> Estimator:
    """Return what an estimator's header says. ConfigError listing those there are; StoreError when its header is wrong."""
    path = FOLDER / f"{name}.sql"
    if name not in estimators():
        raise ConfigError(f"advantages.estimator: no estimator named '{name}'; there is {', '.join(estimators())}")
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _parsed(path: Path, modified: int) -> Estimator:
    """Read a header once for as long as its file stays as it is: `modified` is its time in nanoseconds."""
    found = _header(path)
    return Estimator(
        path.stem,
        reads=tuple(view.strip() for view in found["reads"].split(",")),
        baseline=found["baseline"],
        worked_from=found.get("worked from"),  # type: ignore[arg-type]  # checked against _CHOICES
        credits=found.get("credits", "returns"),  # type: ignore[arg-type]
        groups=found.get("groups", "configured"),  # type: ignore[arg-type]
        constant_in_group=found.get("constant in group", "no"),  # type: ignore[arg-type]
        last_role=found.get("last role", "credited"),  # type: ignore[arg-type]
        noise_law=found.get("noise law") == "yes",
    )


def _header(path: Path) -> dict[str, str]:
    """Return the keys of a header. StoreError naming file, line and cure when it cannot be read."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.removeprefix("--").strip()
        if not line.startswith("--") or not text:
            break
        key, colon, value = (part.strip() for part in text.partition(":"))
        place = f"{path}, line {number}"
        if not colon or key not in (*_NEEDED, *_CHOICES):
            known = ", ".join((*_NEEDED, *_CHOICES))
            raise StoreError(
                f"{place}: '{text}' is no line of a header; write KEY: VALUE with one of {known}, then a bare --"
            )
        if key in found:
            raise StoreError(f"{place}: '{key}' stands there twice; remove one")
        wanted = VIEWS if key == "reads" else _CHOICES.get(key)
        given = [each.strip() for each in value.split(",")] if key == "reads" else [value]
        wrong = next((each for each in given if wanted is not None and each not in wanted), None)
        if not value or wrong is not None:
            raise StoreError(f"{place}: {key}: '{value}' is none of {', '.join(wanted or ('some words',))}")
        found[key] = value
    missing = next((key for key in _NEEDED if key not in found), None)
    if missing is not None:
        raise StoreError(
            f"{path}: its header has no '{missing}:'; it begins with -- grain:, -- reads: and -- baseline:"
        )
    return found
