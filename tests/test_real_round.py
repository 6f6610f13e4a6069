"""A round on the real embedded model: what is frozen is what was read, what is trained is what was said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from configs.load import load_config
from configs.schema import Config
from stages.engines.make import make_codec
from stages.problem_sources.protocol import Problem
from stages.team import frozen_state, render
from stages.tools import Tools
from tests.conftest import Round, drive

pytestmark = pytest.mark.slow

SMALL = ("rounds.problems=4", "parts.problems=4", "evaluate.problems.count=8", "parts.answers=8")
APART = (
    'policies={"plans"={learning_rate=1e-4},"answers"={}}',
    'roles.reasoner.policy="plans"',
    'roles.actor.policy="answers"',
)


def _config(*overrides: str) -> Config:
    return load_config("arithmetic-duo", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    """The process's model, loaded once."""
    tools = Tools()
    yield tools
    tools.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tools: Tools) -> Round:
    return drive(tmp_path_factory.mktemp("real"), _config(), tools=tools)


def test_a_frozen_context_renders_again_from_its_transcript_to_the_same_tokens(real: Round) -> None:
    config = real.scope.config
    codec = make_codec(config.engine)
    roles = {role.name: role for role in config.roles}
    problems = {row["problem_id"]: Problem(**row) for row in real.rows("problems")}
    contexts = real.rows("contexts")
    assert {row["role"] for row in contexts} == set(roles)
    for row in contexts:
        state = frozen_state(row, problems[row["problem_id"]])
        assert render(roles[row["role"]], state, codec) == row["token_ids"]


def test_what_was_said_reads_as_its_tokens(real: Round) -> None:
    codec = make_codec(real.scope.config.engine)
    for row in real.rows("decisions"):
        assert codec.decode(row["token_ids"]) == row["text"]
        ended = row["token_ids"][-1] in codec.end_token_ids
        assert ended == (row["finish_reason"] == "stop")


def test_the_trainer_finds_the_log_probs_the_engine_sampled_with(real: Round) -> None:
    behaviour = real.by_id("decisions", "decision_id")
    rows = [row for row in real.rows("trained") if row["policy_logprobs"] is not None]
    assert rows
    gaps = [
        abs(ours - theirs)
        for row in rows
        for ours, theirs in zip(
            row["policy_logprobs"], behaviour[row["decision_id"]]["behaviour_logprobs"], strict=True
        )
    ]
    # bfloat16 sampling against a float32 trainer: a hundredth of a nat per token is usual
    assert fmean(gaps) < 0.05


def test_the_new_policy_is_an_adapter_that_peft_loads_and_that_changes_the_model(real: Round) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from stages.engines.make import resolved_model

    after = real.scope.policy_after
    (adapter,) = after.adapters.values()
    assert adapter.directory is not None
    base = AutoModelForCausalLM.from_pretrained(resolved_model(real.scope.config.engine), dtype=torch.float32)
    ids = torch.tensor([real.rows("contexts")[0]["token_ids"]])
    with torch.no_grad():
        before_T = base(input_ids=ids).logits
        trained_T = PeftModel.from_pretrained(base, adapter.directory)(input_ids=ids).logits
    assert (before_T - trained_T).abs().max() > 1e-3
    saved = json.loads((adapter.directory / "adapter_config.json").read_text())
    assert not str(saved["base_model_name_or_path"]).startswith("/")


def test_the_same_round_again_has_the_same_rows(real: Round, tmp_path: Path) -> None:
    again = drive(tmp_path, _config())  # with a model loaded anew
    for name, artifact in real.artifacts.items():
        assert again.artifacts[name].digest == artifact.digest, name


def test_two_rounds_go_on_from_the_new_policy(real: Round, tools: Tools) -> None:
    second = drive(real.scope.store, _config(), round=2, until="rollout", tools=tools)
    assert {row["policy_version"] for row in second.rows("decisions")} == {real.scope.policy_after.version}
    assert {row["policy_version"] for row in real.rows("decisions")} == {real.scope.policy.version}


def test_each_role_can_have_an_adapter_of_its_own(tmp_path: Path, tools: Tools) -> None:
    ran = drive(tmp_path, _config(*APART), tools=tools)
    after = ran.scope.policy_after
    assert set(after.adapters) == {"plans", "answers"}
    assert len({adapter.digest for adapter in after.adapters.values()}) == 2
    assert {row["policy"] for row in ran.rows("steps")} == {"plans", "answers"}


@pytest.mark.parametrize("layout", ["padded", "single"])
def test_the_layout_of_the_update_does_not_matter(real: Round, layout: str, tools: Tools) -> None:
    other = drive(real.scope.store, _config(f"update.layout={layout}"), run=layout, tools=tools)
    assert set(other.made) == {"update"}
    ours = {(row["step"], row["role"]): row for row in real.rows("steps")}
    for row in other.rows("steps"):
        same = ours[row["step"], row["role"]]
        assert row["gradient_norm"] == pytest.approx(same["gradient_norm"], rel=0.05)
        assert row["loss"] == pytest.approx(same["loss"], abs=0.01)
