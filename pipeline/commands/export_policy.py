"""`c3 export policy`: what a round learned, as other programs load it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from configs.errors import ConfigError
from pipeline.rounds.policy import policy_after
from pipeline.rounds.round import Round
from stages.models.identity import model_path
from store.artifacts.policy_version import Adapter
from store.disk.atomic import writing

ADAPTER_CONFIG = "adapter_config.json"


def export_policy(round: Round, target: Path, policy: str | None, merge: bool) -> list[Path]:
    """Write the policies that a round ended with; the directories written.

    `merge`: plain model directories; else PEFT adapters, which name their base model. One policy lies in `target` itself,
    several (those of a team with more, where none is named) in folders of their names below it. ConfigError when there is
    nothing to write or something in the way.
    """
    engine = round.config.engine
    if engine.is_world:
        raise ConfigError("c3 export policy: a scripted world has tables, no model; their rows are in the store")
    chosen = _chosen(policy_after(round).adapters, policy)
    places = {name: target if len(chosen) == 1 else target / name for name in chosen}
    for place in places.values():
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConfigError(f"{place}: is there already; name a directory that is new or empty")
    for name, adapter in chosen.items():
        with writing(places[name]):
            places[name].mkdir(parents=True, exist_ok=True)
            if merge:
                from stages.models.export import write_plain_model  # torch

                write_plain_model(model_path(engine), adapter, places[name])
            else:
                _write_adapter(adapter, name, places[name], str(model_path(engine)))
    return list(places.values())


def _chosen(adapters: Mapping[str, Adapter], policy: str | None) -> Mapping[str, Adapter]:
    if policy is None:
        return adapters
    if policy not in adapters:
        raise ConfigError(f"--policy {policy}: no such policy; there is {', '.join(adapters)}")
    return {policy: adapters[policy]}


def _write_adapter(adapter: Adapter, name: str, target: Path, base: str) -> None:
    """The adapter's files, and the base model's place in its settings, which the store keeps neutral."""
    if adapter.directory is None:
        raise ConfigError(f"c3 export policy: policy '{name}' is untrained and has no adapter; --merge writes the base")
    if not (adapter.directory / ADAPTER_CONFIG).exists():
        raise ConfigError(f"c3 export policy: policy '{name}' was trained in full and has no adapter; use --merge")
    shutil.copytree(adapter.directory, target, dirs_exist_ok=True)
    settings = json.loads((target / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    (target / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
