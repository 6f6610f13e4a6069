"""`c3 export`: preference pairs for a DPO trainer, and episodes that `c3 import` takes back."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.export import episodes, preference_pairs, write_lines
from pipeline.commands.import_transcripts import import_transcripts
from pipeline.commands.session import RoundOptions
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.support.rounds import PlayedRound, config_of
from tests.support.worlds import WORDS

Played = Callable[[str, str], PlayedRound]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("world", "plan"), [("duo", "tree"), ("trio", "replay")])
def test_a_pair_is_the_best_and_the_worst_alternative_of_a_state(
    played: Played, world: str, plan: str, tmp_path: Path
) -> None:
    round = played(world, plan)
    path = tmp_path / "pairs.jsonl"
    count = write_lines(preference_pairs(round.resolver, None), path)
    states: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in round.rows("advantages"):
        states[row["state_id"]].append(row)
    decisive = {s for s, rows in states.items() if len({row["mean_return"] for row in rows}) > 1}
    pairs = _lines(path)
    assert count == len(pairs) == len(decisive) > 0
    assert {pair["state_id"] for pair in pairs} == decisive
    decisions = round.by_id("decisions", "decision_id")
    for pair in pairs:
        returns = [row["mean_return"] for row in states[pair["state_id"]]]
        assert (pair["chosen_return"], pair["rejected_return"]) == (max(returns), min(returns))
        assert pair["chosen"] == decisions[pair["chosen_id"]]["text"]
        assert pair["rejected"] == decisions[pair["rejected_id"]]["text"]
        # the text of exactly the stored tokens: turns and all
        assert pair["prompt"].startswith("<|user|>") or pair["prompt"].startswith("<|system|>")
        assert pair["prompt"].endswith("<|assistant|>")


def test_every_pair_is_a_line_of_one_schema_as_trl_reads_it(played: Played, tmp_path: Path) -> None:
    # TRL wants prompt, chosen and rejected as plain strings, and adds the end token; `datasets` wants one type a column
    write_lines(preference_pairs(played("duo", "tree").resolver, None), tmp_path / "pairs.jsonl")
    pairs = _lines(tmp_path / "pairs.jsonl")
    assert {tuple((name, type(value)) for name, value in pair.items()) for pair in pairs} == {
        (
            *((name, str) for name in ("prompt", "chosen", "rejected", "problem_id", "role", "state_id")),
            *(("chosen_id", str), ("chosen_return", float), ("chosen_truncated", bool)),
            *(("rejected_id", str), ("rejected_return", float), ("rejected_truncated", bool)),
        )
    }
    assert all(pair["chosen"] in WORDS and pair["rejected"] in WORDS for pair in pairs)


def test_pairs_of_one_role(played: Played) -> None:
    pairs = list(preference_pairs(played("duo", "tree").resolver, "reasoner"))
    assert pairs and {pair["role"] for pair in pairs} == {"reasoner"}


def test_every_episode_is_exported_once_with_its_reward(played: Played) -> None:
    round = played("trio", "replay")
    rewards = round.by_id("rewards", "episode_id")
    found = list(episodes(round.resolver, None))
    assert {row["episode_id"]: row["reward"] for row in found} == {name: row["reward"] for name, row in rewards.items()}
    assert len(found) == len(rewards)
    assert all(list(row["messages"]) == ["reasoner", "actor", "verifier"] for row in found)


def test_what_is_exported_can_be_imported(played: Played, store: Path, tmp_path: Path) -> None:
    round = played("duo", "tree")
    path = tmp_path / "episodes.jsonl"
    assert write_lines(episodes(round.resolver, "rollout"), path) == len(round.rows("transcripts"))
    record_config(Layout(store), "again", 1, config_of("duo", "tree").model_dump(mode="json"))
    taken = import_transcripts(RoundOptions(store, "again"), path)
    columns = ("decision_id", "state_id", "text", "token_ids", "behaviour_logprobs", "finish_reason")
    made = [{name: row[name] for name in columns} for row in taken.rows("decisions")]
    own = {row["decision_id"]: row for row in round.rows("decisions", "rollout")}
    assert made == [{name: own[row["decision_id"]][name] for name in columns} for row in made]
    assert len(made) == len(own)
