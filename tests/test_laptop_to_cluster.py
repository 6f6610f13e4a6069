"""The configurations of docs/from-laptop-to-cluster.md: each can be used as it stands there."""

from __future__ import annotations

import tomllib

import pytest

from configs.errors import ConfigError
from configs.load import PRESETS, build_config, load_config
from configs.schema import WorkersConfig
from pipeline.task_runners import task_runner
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "from-laptop-to-cluster.md").read_text(encoding="utf-8")
BLOCKS = [block.split("```")[0] for block in PAGE.split("```toml\n")[1:]]


def test_the_page_shows_three_engines() -> None:
    assert [tomllib.loads(block)["engine"]["kind"] for block in BLOCKS] == ["transformers", "vllm", "vllm_server"]


@pytest.mark.parametrize("block", BLOCKS)
def test_each_configuration_of_the_page_parses(block: str) -> None:
    preset = tomllib.loads((PRESETS / "arithmetic-duo.toml").read_text(encoding="utf-8"))
    config = build_config({**preset, **tomllib.loads(block)})
    assert config.engine.kind == tomllib.loads(block)["engine"]["kind"]


def test_an_adapter_rank_past_what_vllm_sets_aside_is_found_when_loading() -> None:
    overrides = ["engine.kind=vllm", "policies.team.lora_rank=32"]
    with pytest.raises(ConfigError, match="policies.team.lora_rank: 32, but engine.max_lora_rank is 16; raise that"):
        load_config("arithmetic-duo", overrides)
    assert load_config("arithmetic-duo", [*overrides, "engine.max_lora_rank=32"]).engine.kind == "vllm"


def test_a_servers_address_is_required() -> None:
    with pytest.raises(ConfigError, match="engine.urls: missing"):
        load_config("arithmetic-duo", ["engine.kind=vllm_server"])


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_runner_that_is_not_installed_names_its_extra(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, f"prefect_{runner}", None)  # as if it were not there
    with pytest.raises(ConfigError, match=rf"pip install 'c3-credit\[{runner}\]', or use threads"):
        task_runner(WorkersConfig(runner=runner))  # type: ignore[arg-type]
