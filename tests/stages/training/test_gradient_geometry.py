"""`c3 compare --gradients`: the policy gradients that the estimators would make of the same messages."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from configs.credit import AdvantagesConfig
from configs.training import PolicyConfig, UpdateConfig
from pipeline.commands.compare import compare_gradients
from pipeline.rounds.stored import stored_artifacts
from stages.learners.lora.learner import LoraLearner
from stages.learners.protocol import TrainRow
from stages.training.examples import TrainingExample
from stages.training.gradient_geometry import gradient_geometry
from store.artifacts.artifact import Row
from store.artifacts.policy_version import initial_policy
from store.queries.comparison import credit_of_all
from tests.support.rounds import PlayedRound, config_of, drive
from tests.support.tiny_models import TARGETS, tiny_model
from tests.support.worlds import WORDS, Truth


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The duo's round, its update one step of all lessons; for reading."""
    config = config_of("duo", "tree", update=UpdateConfig(minibatches=1))
    return drive(tmp_path_factory.mktemp("gradients"), config)


def _by_hand(round: PlayedRound, credit: dict[str, float | None], role: str) -> np.ndarray:
    """sum of A (one-hot - pi) over a role's defined messages, over their tokens; a block of parameters for each context."""
    truth, contexts = Truth(round.config), round.by_id("contexts", "state_id")
    rows = [
        row for row in round.rows("decisions") if row["role"] == role and credit.get(row["decision_id"]) is not None
    ]
    order = sorted({row["context_id"] for row in round.rows("decisions")})
    total = np.zeros((len(order), len(WORDS)))
    for row in rows:
        pi = truth._engine.probabilities(contexts[row["state_id"]]["token_ids"], row["policy"], 1.0)
        score = np.eye(len(WORDS))[WORDS.index(row["text"])] - pi
        total[order.index(row["context_id"])] += credit[row["decision_id"]] * score
    return total.ravel() / sum(row["new_tokens"] for row in rows)


def _of(rows: list[Row], role: str | None) -> dict[tuple[str, str], Row]:
    return {(row["estimator"], row["other"]): row for row in rows if row["role"] == role}


def test_the_gradients_are_those_of_the_advantages_and_the_scores(duo: PlayedRound) -> None:
    credit = credit_of_all(stored_artifacts(duo.resolver), "state")
    rows = compare_gradients(duo.session)
    hand = {role: {name: _by_hand(duo, of, role) for name, of in credit.items()} for role in ("reasoner", "actor")}
    whole = {name: hand["reasoner"][name] + hand["actor"][name] for name in credit}
    for role, vectors in {**hand, None: whole}.items():
        found = _of(rows, role)
        assert len(found) == len(credit) * (len(credit) + 1) // 2
        for (name, other), row in found.items():
            a, b = vectors[name], vectors[other]
            assert row["length"] == pytest.approx(sqrt(a @ a), rel=1e-5)
            assert row["cosine"] == pytest.approx(a @ b / sqrt((a @ a) * (b @ b)), abs=1e-5)


def test_the_rounds_own_estimator_has_the_gradient_of_its_update(duo: PlayedRound) -> None:
    [norm] = {row["gradient_norm"] for row in duo.rows("steps")}
    assert _of(compare_gradients(duo.session), None)["c3", "c3"]["length"] == pytest.approx(norm, rel=1e-5)


def test_a_role_that_an_estimator_leaves_out_has_no_angle(tmp_path: Path) -> None:
    round = drive(tmp_path, config_of("duo", "tree", advantages=AdvantagesConfig(estimator="ccpo")))
    rows = compare_gradients(round.session)
    assert _of(rows, "actor")["ccpo", "ccpo"] == {
        "role": "actor",
        "estimator": "ccpo",
        "other": "ccpo",
        "cosine": None,
        "length": 0.0,
    }
    assert _of(rows, "reasoner")["ccpo", "c3"]["cosine"] is not None


def test_the_command_shows_them_in_eighty_columns_and_stores_nothing(
    duo: PlayedRound, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before = {path: path.stat().st_mtime_ns for path in duo.store.rglob("*")}
    command = ["compare", "--round", "1", "--run", "test", "--store", str(duo.store), "--gradients"]
    cli.app(command, standalone_mode=False)
    out = capsys.readouterr().out
    assert "the team" in out and max(map(len, out.splitlines())) <= 80
    cli.app([*command, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["gradients"] == compare_gradients(duo.session)
    assert {path: path.stat().st_mtime_ns for path in duo.store.rglob("*")} == before


MESSAGES = [((1, 2, 3), (4, 5, 6)), ((1, 2, 3), (7, 8)), ((9, 9), (1, 2, 3, 4)), ((9, 9), (5,))]
TWO = {"one": {"d0": 1.0, "d1": -0.5, "d2": 0.25, "d3": None}, "other": {"d0": 0.0, "d1": 2.0, "d2": None, "d3": -1.0}}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_forward_pass_serves_every_estimator_of_a_language_model(checkpointing: bool) -> None:
    policy = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS["llama"])
    learner = LoraLearner(tiny_model(), {"team": policy}, "packed", checkpointing=checkpointing)
    learner.load(initial_policy("base", ["team"]), seed=1)
    roles = ["first", "first", "second", "second"]
    examples = [
        TrainingExample(TrainRow(f"d{i}", "team", context, tokens, 0.7), role, "p", None, "v", None, None)
        for i, ((context, tokens), role) in enumerate(zip(MESSAGES, roles, strict=True))
    ]
    by_role, team = gradient_geometry(config_of("duo", "tree"), learner, examples, TWO)
    vectors = {
        name: {role: _apart(learner, examples, credit, role) for role in by_role} for name, credit in TWO.items()
    }
    for role, geometry in by_role.items():
        a, b = vectors["one"][role], vectors["other"][role]
        assert geometry.length("one") == pytest.approx(float(a.norm()), rel=1e-4)
        assert geometry.cosine("one", "other") == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-4)
    a, b = (sum(vectors[name].values(), torch.zeros(())) for name in TWO)
    assert team.cosine("one", "other") == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-4)


def _apart(
    learner: LoraLearner, examples: list[TrainingExample], credit: dict[str, float | None], role: str
) -> torch.Tensor:
    """The gradient message by message, each by a pass of its own."""
    mine = [example for example in examples if example.role == role and credit[example.row.decision_id] is not None]
    tokens = sum(len(example.row.token_ids) for example in mine)
    parameters = [parameter for _, parameter in learner.named_parameters("team")]
    total = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for example in mine:
        [logprob_T] = learner.logprobs([example.row])
        gradient = torch.autograd.grad(logprob_T.sum(), parameters)
        total += credit[example.row.decision_id] / tokens * torch.cat([g.reshape(-1) for g in gradient])
    return total
