"""Policy versions: equal exactly where base and weights are."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import StoreError
from store.artifacts.artifact import Artifact, StageOutput
from store.artifacts.policy_version import UNTRAINED, initial_policy, policy_in, policy_of, version_after
from store.artifacts.writer import open_writer
from store.disk.layout import Layout


def _update(store: Path, key: str, **weights: str) -> Artifact:
    """An update that ends with these weights of its policies."""

    def write(folder: Path) -> None:
        for name, text in weights.items():
            (folder / "weights" / name).mkdir(parents=True)
            (folder / "weights" / name / "adapter.bin").write_text(text)
        (folder / "optimizer").mkdir()
        (folder / "optimizer/state.bin").write_text(key)

    with open_writer(Layout(store), "update", key) as writer:
        return writer.finish([writer.write(0, StageOutput({"steps": []}, write), 0.0)], {})


def test_an_untrained_team_is_its_base_and_its_policies() -> None:
    team = initial_policy("base", ["one", "two"])
    assert {adapter.digest for adapter in team.adapters.values()} == {UNTRAINED} and team.optimizer is None
    versions = [
        initial_policy(base, names).version for base in ("base", "other") for names in (["one"], ["one", "two"])
    ]
    assert len(set(versions)) == 4 and team.version in versions


def test_a_version_is_of_the_weights_alone(store: Path) -> None:
    first, equal = _update(store, "a", one="1", two="2"), _update(store, "b", one="1", two="2")
    other = _update(store, "c", one="1", two="3")
    names = ["one", "two"]
    version = policy_of(first, "base", names).version
    assert policy_of(equal, "base", names).version == version  # whatever the optimiser's state
    assert policy_of(other, "base", names).version != version
    assert policy_of(first, "another base", names).version != version


def test_the_manifest_alone_tells_the_version(store: Path) -> None:
    update = _update(store, "a", one="1", two="2")
    assert version_after(update, "base") == policy_of(update, "base", ["one", "two"]).version
    assert version_after(update, "base", ["one", "new"]) == policy_of(update, "base", ["one"]).version


def test_a_policy_without_weights_and_a_part_without_a_record_are_refused(store: Path) -> None:
    update = _update(store, "a", one="1")
    with pytest.raises(StoreError, match="update a: holds no weights for policy 'two'"):
        policy_of(update, "base", ["one", "two"])
    (update.parts()[0] / "part.json").unlink()
    with pytest.raises(StoreError, match=r"part\.json: is missing; run the round again"):
        policy_in(update.parts()[0], "base", ["one"])
