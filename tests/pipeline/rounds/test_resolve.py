"""A run goes on elsewhere and without what it has read; nothing is made twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from configs.errors import ConfigError
from configs.schema import Config
from pipeline.commands.verify import verify
from pipeline.steps import EVALUATION, ROUND
from store.disk.layout import Layout
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.stores import NO_LOO, variant_of

Played = Callable[[str, str], PlayedRound]


def test_a_store_copied_elsewhere_goes_on_with_nothing_made_again(store: Path, tmp_path: Path) -> None:
    config = config_of("four_turns", "tree")
    first = drive(store, config)
    drive_on(variant_of(first, "no-loo", NO_LOO, "advantages"))
    elsewhere = tmp_path / "somewhere" / "else"
    for folder in ("runs", "artifacts"):
        copytree(store / folder, elsewhere / folder)
    shutil.rmtree(store)
    assert drive_on(resolver_of(elsewhere, "test", 1)).made == []
    assert drive_on(resolver_of(elsewhere, "test", 1, "no-loo")).made == []
    assert [finding for _, finding in verify(Layout(elsewhere)) if finding] == []
    assert drive_on(resolver_of(elsewhere, "test", 2)).made[:1] == ["rollout"]


def test_a_run_goes_on_without_the_problem_files_that_it_has_read(
    store: Path, sums: Config, out_of_order: Path, tmp_path: Path
) -> None:
    out_of_order.write_text("")
    held = sums.evaluate.model_copy(update={"problems": sums.problems})
    config = sums.model_copy(update={"evaluate": held})
    drive(store, config)
    drive(store, config, steps=EVALUATION)
    (tmp_path / "sums.jsonl").unlink()
    assert drive_on(resolver_of(store, "test", 1)).made == []
    assert drive_on(resolver_of(store, "test", 1), steps=EVALUATION).made == []
    assert drive_on(resolver_of(store, "test", 2)).made == ROUND.names[1:]
    assert [finding for _, finding in verify(Layout(store)) if finding] == []
    # what was never read cannot be known: another run, or the same file read in another way
    with pytest.raises(ConfigError, match=r"sums\.jsonl: cannot be read"):
        drive(store, config, run="other")
    limited = config.model_copy(update={"problems": config.problems.model_copy(update={"limit": 2})})
    with pytest.raises(ConfigError, match=r"sums\.jsonl: cannot be read"):
        drive(store, limited, round=3)


def test_no_file_says_where_it_lies(duo: PlayedRound) -> None:
    drive_on(variant_of(duo, "no-loo", NO_LOO))
    files = [path for folder in ("runs", "artifacts") for path in (duo.store / folder).rglob("*") if path.is_file()]
    assert len(files) > 50
    places = [str(duo.store).encode(), str(Path.home()).encode() + b"/", os.getcwd().encode()]
    assert [path for path in files for place in places if place in path.read_bytes()] == []
