"""Layout: where everything lies, and which names may become folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from store.disk.layout import Layout


def test_every_file_of_a_run_lies_in_its_folder() -> None:
    layout = Layout(Path("s"))
    assert layout.run_record("a") == Path("s/runs/a/run.json")
    assert layout.round("a", "main", 3) == Path("s/runs/a/main/round-00003.json")
    assert layout.variant("a", "plain") == Path("s/runs/a/plain/variant.json")
    assert layout.tracked("a", "main") == Path("s/runs/a/main/tracked.json")
    assert layout.part("grade", "key", 2) == Path("s/artifacts/grade/key/part-00002")


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "A", "a b", "-a", "a\n"])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--run "):
        Layout(Path("s")).run(name)
    with pytest.raises(ConfigError, match=r"^--variant "):
        Layout(Path("s")).round("a", name, 1)
