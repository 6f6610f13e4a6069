"""Another system's transcripts are credited from freeze on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import ConfigError
from pipeline.commands.import_transcripts import import_transcripts
from pipeline.commands.session import RoundOptions
from pipeline.commands.verify import verify
from pipeline.steps import step_named
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.support.rounds import PlayedRound, config_of, drive_on, resolver_of
from tests.support.stores import NO_LOO, variant_of

Played = Callable[[str, str], PlayedRound]


def _transcripts(round: PlayedRound, path: Path, tokens: bool) -> None:
    decisions = round.by_id("decisions", "decision_id")
    lines = []
    for row in round.rows("transcripts"):
        said = [decisions[decision_id] for decision_id in row["decision_ids"]]
        messages = {
            message["role"]: {
                "text": message["text"],
                "token_ids": message["token_ids"],
                "logprobs": message["behaviour_logprobs"],
            }
            if tokens
            else message["text"]
            for message in said
        }
        lines.append(json.dumps({"problem_id": row["problem_id"], "messages": messages}))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("tokens", [True, False], ids=["with tokens", "text alone"])
def test_imported_transcripts_are_credited_from_freeze_on(
    played: Played, store: Path, tmp_path: Path, tokens: bool
) -> None:
    other = played("duo", "tree")
    _transcripts(other, tmp_path / "theirs.jsonl", tokens)
    config = config_of("duo", "tree")
    record_config(Layout(store), "taken", 1, config.model_dump(mode="json"))
    rollout = import_transcripts(RoundOptions(store, "taken"), tmp_path / "theirs.jsonl")
    assert rollout.key.startswith("import-")
    round = drive_on(resolver_of(store, "taken", 1))
    assert round.made == ["freeze", "sample", "replay", "grade", "advantages", "update"]
    assert round.artifacts["rollout"].key == rollout.key
    resolver = resolver_of(store, "taken", 1)
    look = resolver.resolve(step_named("rollout"), {"problems": round.artifacts["problems"]})
    with pytest.raises(ConfigError, match="--from rollout: the transcripts of round 1 were imported"):
        resolver.copy(look)
    assert [row["text"] for row in round.rows("decisions", "rollout")] == [
        row["text"] for row in other.rows("decisions", "rollout")
    ]
    measured = {row["behaviour_logprobs"] is None for row in round.rows("decisions", "rollout")}
    assert measured == {not tokens}
    assert [finding for _, finding in verify(Layout(store)) if finding] == []
    # a variant branches after the import as after any rollout
    branch = drive_on(variant_of(round, "no-loo", NO_LOO, "advantages"), until="advantages")
    assert branch.made == ["advantages"]
    assert branch.artifacts["rollout"].key == rollout.key


def test_a_file_that_does_not_fit_the_plan_is_refused_with_its_line(
    played: Played, store: Path, tmp_path: Path
) -> None:
    record_config(Layout(store), "taken", 1, config_of("duo", "tree").model_dump(mode="json"))
    path = tmp_path / "theirs.jsonl"
    for text, complaint in [
        ('{"problem_id": "x", "messages": {}}\n', "line 1: problem_id 'x' is not in the run's problem set"),
        ("{\n", "line 1: not JSON"),
        (
            '{"problem_id": "scripted-000000", "messages": {"reasoner": "ant"}}\n',
            "line 1: no message of role 'actor'",
        ),
        (
            '{"problem_id": "scripted-000000", "messages": {"reasoner": "ant", "actor": "bee"}}\n',
            "problem scripted-000000 has 1 episodes, the plan wants 2 transcripts",
        ),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=complaint):
            import_transcripts(RoundOptions(store, "taken"), path)
    assert list((store / "artifacts").glob("rollout/*/manifest.json")) == []
