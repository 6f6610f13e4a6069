"""Taking a policy out of a round: as an adapter, as a plain model, and by talking to the team."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from configs.errors import ConfigError
from configs.training import PolicyConfig
from pipeline.commands.chat import Chat, Spoken, chat_lines, questions
from pipeline.commands.export_policy import export_policy
from pipeline.commands.session import Session
from pipeline.execution.context import ExecutionContext
from pipeline.rounds.round import Round
from stages.learners.lora.learner import LoraLearner
from stages.models.export import write_plain_model
from store.artifacts.policy_version import Adapter, initial_policy
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.conftest import Answer
from tests.support.rounds import config_of, drive, resolver_of
from tests.support.tiny_models import TARGETS, tiny_model
from tests.support.worlds import WORDS, Truth, duo

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter]:
    """A tiny model's directory, and an adapter that changes it."""
    folder = tmp_path_factory.mktemp("update_rows")
    tiny_model().save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_text("{}")
    learner = LoraLearner(tiny_model(), {"team": PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"])})
    learner.load(initial_policy("base", ["team"]), seed=1)
    with torch.no_grad():
        for index, (_, parameter) in enumerate(learner.named_parameters("team")):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return folder / "model", Adapter("d", learner.save(folder)["team"])


def _round(folder: Path, model: Path, adapter: Adapter) -> Round:
    """A round that ended with that adapter."""
    store = folder / "store"
    config = config_of("duo", "tree").model_dump(mode="json")
    config["engine"] = {"kind": "transformers", "model": str(model)}
    record_config(Layout(store), "test", 1, config)
    resolver = resolver_of(store, "test", 0)
    version = initial_policy("base", ["team"])
    policy = type(version)("v", "base", {"team": adapter})
    return replace(resolver.round, policy=policy)


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def test_a_merged_policy_is_a_plain_model_that_says_the_same(trained: tuple[Path, Adapter], tmp_path: Path) -> None:
    model, adapter = trained
    assert adapter.directory is not None
    wanted = _logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter.directory))
    [written] = export_policy(_round(tmp_path, model, adapter), tmp_path / "out", None, merge=True)
    plain = AutoModelForCausalLM.from_pretrained(written)
    torch.testing.assert_close(_logits(plain), wanted, rtol=1e-4, atol=1e-4)
    assert (_logits(plain) - _logits(AutoModelForCausalLM.from_pretrained(model))).abs().max() > 0.1
    assert (written / "tokenizer.json").exists() and not (written / "adapter_config.json").exists()
    assert str(model) not in (written / "config.json").read_text()


def test_an_unmerged_policy_is_an_adapter_that_peft_loads_as_it_is(
    trained: tuple[Path, Adapter], tmp_path: Path
) -> None:
    model, adapter = trained
    [written] = export_policy(_round(tmp_path, model, adapter), tmp_path / "out", "team", merge=False)
    assert adapter.directory is not None
    wanted = _logits(PeftModel.from_pretrained(tiny_model(), adapter.directory))
    assert torch.equal(_logits(PeftModel.from_pretrained(tiny_model(), written)), wanted)
    assert json.loads((written / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)


def test_the_untrained_team_merged_is_the_base(trained: tuple[Path, Adapter], tmp_path: Path) -> None:
    write_plain_model(trained[0], Adapter("untrained", None), tmp_path / "out")
    base, same = (AutoModelForCausalLM.from_pretrained(path) for path in (trained[0], tmp_path / "out"))
    assert torch.equal(_logits(base), _logits(same))


def test_what_cannot_be_exported_is_said(trained: tuple[Path, Adapter], tmp_path: Path, store: Path) -> None:
    model, adapter = trained
    ended = _round(tmp_path, model, adapter)
    (tmp_path / "full").mkdir()
    shutil.copyfile(model / "config.json", tmp_path / "full/mine.json")
    with pytest.raises(ConfigError, match="full: is there already; name a directory that is new or empty"):
        export_policy(ended, tmp_path / "full", None, merge=True)
    with pytest.raises(ConfigError, match="--policy nobody: no such policy; there is team"):
        export_policy(ended, tmp_path / "out", "nobody", merge=True)
    untrained = _round(tmp_path, model, Adapter("untrained", None))
    with pytest.raises(ConfigError, match="policy 'team' is untrained and has no adapter; --merge writes the base"):
        export_policy(untrained, tmp_path / "other", None, merge=False)
    with pytest.raises(ConfigError, match="a scripted world has tables, no model"):
        export_policy(drive(store, duo()).resolver.round, tmp_path / "out", None, merge=True)


def test_the_team_answers_as_its_policy_would_and_nothing_is_stored(store: Path) -> None:
    resolver = drive(store, duo()).resolver
    before = sorted(path for path in store.rglob("*") if path.is_file())
    spoken = list(Chat(Session(resolver.round, ExecutionContext())).ask("problem 1"))
    assert sorted(path for path in store.rglob("*") if path.is_file()) == before
    assert [message.role for message in spoken] == ["reasoner", "actor"]
    truth = Truth(resolver.round.config, resolver.policy_after)
    from stages.problem_sources.protocol import Problem

    problem, upstream = Problem("chat", "chat", "problem 1", ""), {}
    for message in spoken:
        assert message.text == WORDS[int(truth.pi(problem, upstream).argmax())]
        upstream[message.role] = message.text


def test_sampled_answers_differ_from_question_to_question_and_come_again_in_another_chat(store: Path) -> None:
    resolver = drive(store, duo()).resolver
    asked = [
        [[message.text for message in team.ask("problem 1")] for _ in range(12)]
        for team in (
            Chat(Session(resolver.round, ExecutionContext()), True),
            Chat(Session(resolver.round, ExecutionContext()), True),
        )
    ]
    assert asked[0] == asked[1]
    assert len({tuple(texts) for texts in asked[0]}) > 1
    assert (
        len(
            {
                tuple(m.text for m in Chat(Session(resolver.round, ExecutionContext())).ask("problem 1"))
                for _ in range(3)
            }
        )
        == 1
    )


def test_a_message_of_several_lines_stays_below_its_role() -> None:
    assert chat_lines(Spoken("actor", "one\ntwo", True)) == [
        "actor: one",
        "       two",
        "       [cut at its token limit]",
    ]


def test_questions_are_read_line_by_line_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 1 + 1?\n\n  And 2 + 2? \nlast"))
    assert list(questions()) == ["What is 1 + 1?", "And 2 + 2?", "last"]


@pytest.mark.slow
def test_one_question_is_answered_by_every_role(c3: Callable[..., Answer]) -> None:
    store = ("--store", "store")
    assert c3("run", "iteration", "--round", "1", "--config", "scripted-duo", "--until", "problems", *store).code == 0
    said = c3("chat", "--round", "0", "--question", "problem 1", *store)
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["reasoner", "actor"]
    assert c3("chat", "--round", "7", *store).code == 3
