"""A round on the real embedded model: what is frozen is what was read, what is trained is what was said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from statistics import fmean, pvariance

import pytest
from rich.console import Console

from configs.load import load_config
from configs.schema import Config
from pipeline.commands.compare import compare
from pipeline.commands.why import explain, question_of
from pipeline.formatting import number, signed
from pipeline.views.compare import show_comparison
from pipeline.views.why import page_lines
from stages.base.resources import Resources
from stages.episodes.state import frozen_state, render
from stages.models.identity import make_codec
from stages.problem_sources.protocol import Problem
from store.queries.comparison import comparable
from tests.support.rounds import PlayedRound, drive

pytestmark = pytest.mark.slow

SMALL = (
    "rounds.problems_per_round=4",
    "parts.problems_per_part=4",
    "evaluate.problems.count=8",
    "parts.answers_per_part=8",
)
APART = (
    'policies={"plans"={learning_rate=1e-4},"answers"={}}',
    'roles.reasoner.policy="plans"',
    'roles.actor.policy="answers"',
)


def _config(*overrides: str) -> Config:
    return load_config("arithmetic-duo", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def resources() -> Iterator[Resources]:
    """The process's model, loaded once."""
    resources = Resources()
    yield resources
    resources.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, resources: Resources) -> PlayedRound:
    return drive(tmp_path_factory.mktemp("real"), _config(), resources=resources)


def test_a_frozen_context_renders_again_from_its_transcript_to_the_same_tokens(real: PlayedRound) -> None:
    config = real.config
    codec = make_codec(config.engine)
    roles = {role.name: role for role in config.roles}
    problems = {row["problem_id"]: Problem(**row) for row in real.rows("problems")}
    contexts = real.rows("contexts")
    assert {row["role"] for row in contexts} == set(roles)
    for row in contexts:
        state = frozen_state(row, problems[row["problem_id"]])
        assert render(roles[row["role"]], state, codec) == row["token_ids"]


def test_what_was_said_reads_as_its_tokens(real: PlayedRound) -> None:
    codec = make_codec(real.config.engine)
    for row in real.rows("decisions"):
        assert codec.decode(row["token_ids"]) == row["text"]
        ended = row["token_ids"][-1] in codec.end_token_ids
        assert ended == (row["finish_reason"] == "stop")


def test_the_trainer_finds_the_log_probs_the_engine_sampled_with(real: PlayedRound) -> None:
    behaviour = real.by_id("decisions", "decision_id")
    rows = [row for row in real.rows("update_rows") if row["policy_logprobs"] is not None]
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


def test_the_new_policy_is_an_adapter_that_peft_loads_and_that_changes_the_model(real: PlayedRound) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from stages.models.identity import model_path

    after = real.resolver.policy_after
    (adapter,) = after.adapters.values()
    assert adapter.directory is not None
    base = AutoModelForCausalLM.from_pretrained(model_path(real.config.engine), dtype=torch.float32)
    ids = torch.tensor([real.rows("contexts")[0]["token_ids"]])
    with torch.no_grad():
        before_T = base(input_ids=ids).logits
        trained_T = PeftModel.from_pretrained(base, adapter.directory)(input_ids=ids).logits
    assert (before_T - trained_T).abs().max() > 1e-3
    saved = json.loads((adapter.directory / "adapter_config.json").read_text())
    assert not str(saved["base_model_name_or_path"]).startswith("/")


def test_the_same_round_again_has_the_same_rows(real: PlayedRound, tmp_path: Path) -> None:
    again = drive(tmp_path, _config())  # with a model loaded anew
    for name, artifact in real.artifacts.items():
        assert again.artifacts[name].digest == artifact.digest, name


def test_compare_puts_the_estimators_side_by_side_and_generates_nothing(real: PlayedRound) -> None:
    before = {path: path.stat().st_mtime_ns for path in real.store.rglob("*") if path.is_file()}
    found = compare(real.session)
    assert {path: path.stat().st_mtime_ns for path in real.store.rglob("*") if path.is_file()} == before
    assert {row["estimator"] for row in found.by_estimator} == set(comparable(("ablated_replay", "critic_values")))
    stored = [row for row in real.rows("advantages") if row["role"] == "actor"]
    [c3] = [row for row in found.by_estimator if (row["estimator"], row["role"]) == ("c3", "actor")]
    assert (c3["alternatives"], c3["undefined"]) == (len(stored), 0)
    assert c3["variance"] == pytest.approx(pvariance([row["advantage"] for row in stored]), abs=1e-12)
    # at equal counts the plain mean is the leave-one-out shrunk by (n - 1) / n: they order alike
    pairs = {(row["estimator"], row["other"], row["role"]): row for row in found.by_pair}
    alike = pairs.get(("c3", "full_mean", "actor")) or pairs["full_mean", "c3", "actor"]
    assert alike["sign_agreement"] == 1
    console = Console(file=StringIO(), record=True, width=80)
    show_comparison(console, found)
    text = console.export_text()
    assert all(f"{name} " in text for name in comparable(("ablated_replay", "critic_values")))


def test_why_shows_the_question_what_was_seen_and_the_arithmetic_of_a_real_advantage(real: PlayedRound) -> None:
    codec = make_codec(real.config.engine)
    credit, contexts = real.by_id("advantages", "decision_id"), real.by_id("contexts", "state_id")
    problems = real.by_id("problems", "problem_id")
    page = explain(real.resolver, *question_of(None, "actor", None, 3, None))
    lines = list(page_lines(page))
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(line.removeprefix("  |") for line in lines).split())
    for group in page["groups"]:
        question = " ".join(problems[group["problem_id"]]["question"].split())
        assert group["context"] == codec.decode(contexts[group["state_id"]]["token_ids"])
        assert question in " ".join(group["context"].split())  # the Actor was asked it
        assert f"question: {question}" in text
        for shown in (row for row in group["alternatives"] if row["requested"]):
            j = credit[shown["decision_id"]]
            others = [row for row in credit.values() if row["state_id"] == j["state_id"] and row is not j]
            below = sum(row["replay_count"] for row in others)
            baseline = sum(row["replay_count"] * row["mean_return"] for row in others) / below
            assert j["advantage"] == shown["advantage"] == pytest.approx(j["mean_return"] - baseline, abs=1e-12)
            assert any(line.startswith("b = ") and f" = {number(baseline)}" in line for line in shown["arithmetic"])
            assert f"= {signed(j['advantage'])}" in shown["arithmetic"][-1]


def test_two_rounds_go_on_from_the_new_policy(real: PlayedRound, resources: Resources) -> None:
    second = drive(real.store, _config(), round=2, until="rollout", resources=resources)
    assert {row["policy_version"] for row in second.rows("decisions")} == {real.resolver.policy_after.version}
    assert {row["policy_version"] for row in real.rows("decisions")} == {real.resolver.policy_before.version}


def test_each_role_can_have_an_adapter_of_its_own(tmp_path: Path, resources: Resources) -> None:
    ran = drive(tmp_path, _config(*APART), resources=resources)
    after = ran.resolver.policy_after
    assert set(after.adapters) == {"plans", "answers"}
    assert len({adapter.digest for adapter in after.adapters.values()}) == 2
    assert {row["policy"] for row in ran.rows("steps")} == {"plans", "answers"}


def test_the_layout_of_the_update_does_not_matter(real: PlayedRound, resources: Resources) -> None:
    # in float32: in bfloat16 messages whose gradients cancel leave little but rounding, and how much depends on the processor
    steps = {}
    for layout in ("packed", "padded", "single"):
        config = _config("update.dtype=float32", f"update.layout={layout}")
        ran = drive(real.store, config, run=layout, resources=resources)
        assert set(ran.made) == {"update"}
        steps[layout] = {(row["step"], row["role"]): row for row in ran.rows("steps")}
    for layout in ("padded", "single"):
        assert steps[layout].keys() == steps["packed"].keys()
        for key, row in steps[layout].items():
            same = steps["packed"][key]
            assert row["gradient_norm"] == pytest.approx(same["gradient_norm"], rel=1e-3)
            assert row["loss"] == pytest.approx(same["loss"], abs=1e-4)
