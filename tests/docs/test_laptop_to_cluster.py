"""The configurations of docs/from-laptop-to-cluster.md: each can be used as it stands there."""

from __future__ import annotations

import tomllib

import pytest

from configs.errors import ConfigError
from configs.load import PRESETS, build_config, load_config
from configs.schema import WorkersConfig
from pipeline.commands.doctor import examine
from pipeline.flows.task_runners import task_runner
from tests.conftest import ROOT
from tests.support.fake_vllm_server import fake_server

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
    with pytest.raises(ConfigError, match=r"policies\.team\.lora_rank: 32, but engine\.max_lora_rank is 16"):
        load_config("arithmetic-duo", overrides)
    assert load_config("arithmetic-duo", [*overrides, "engine.max_lora_rank=32"]).engine.kind == "vllm"


def test_a_servers_address_is_required() -> None:
    with pytest.raises(ConfigError, match=r"engine\.urls: missing"):
        load_config("arithmetic-duo", ["engine.kind=vllm_server"])


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_runner_that_is_not_installed_names_its_extra(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, f"prefect_{runner}", None)  # as if it were not there
    with pytest.raises(ConfigError, match=rf"pip install 'c3-credit\[{runner}\]', or use threads"):
        task_runner(WorkersConfig(runner=runner))  # type: ignore[arg-type]


def test_the_doctor_finds_an_engine_and_its_trainer_at_one() -> None:
    found = list(examine(load_config("scripted-duo")))
    assert [checked.good for checked in found] == [True, True, True]
    assert found[-1].said.startswith("mean gap 0 nats a token to the trainer")


def test_the_doctor_goes_on_to_the_next_server_after_one_that_is_down() -> None:
    with fake_server(model="other") as wrong, fake_server(model="gone") as down:
        down.die()
        engine = f"engine={{kind='vllm_server',urls=['{down.url}','{wrong.url}'],served_model='mine'}}"
        found = list(examine(load_config("arithmetic-duo", [engine])))
    assert [checked.what for checked in found] == [f"server {down.url}", f"server {wrong.url}"]
    assert not any(checked.good for checked in found)
    assert "ConnectError" in found[0].said and "serves other, not 'mine'" in found[1].said
