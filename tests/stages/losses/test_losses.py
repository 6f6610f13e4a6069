"""Losses: expected values worked by hand, at the edges of the clip, at ratio 1, at advantage 0."""

from __future__ import annotations

from math import e, exp, log
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from configs.load import build_config
from configs.training import KlConfig, UpdateConfig
from pipeline.rounds.warnings import config_warnings
from stages.losses.clipped_policy_gradient import clipped_policy_gradient
from stages.losses.kl_to_reference import kl_to_reference
from stages.losses.objective import LossReferences, objective
from stages.losses.reductions import token_weights
from stages.losses.reinforce import reinforce
from stages.losses.truncated_importance import truncated_importance
from tests.support.worlds import duo


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        # loss = -min(r A, clip(r, .8, 1.2) A); its gradient in log pi is -r A where the free branch is taken, else 0
        (1.0, 2.0, -2.0, -2.0, False),
        (1.1, 1.0, -1.1, -1.1, False),
        (1.199, 1.0, -1.199, -1.199, False),  # just inside the edge
        (1.201, 1.0, -1.2, 0.0, True),  # just past it
        (1.5, 1.0, -1.2, 0.0, True),  # already likelier than the clip allows
        (0.5, 1.0, -0.5, -0.5, False),  # a good token made rarer: never clipped
        (0.801, -1.0, 0.801, 0.801, False),
        (0.799, -1.0, 0.8, 0.0, True),
        (0.5, -1.0, 0.8, 0.0, True),  # a bad token already rare enough
        (1.5, -1.0, 1.5, 1.5, False),  # a bad token made likelier: never clipped
        (3.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_the_clip_removes_the_gradient_only_where_it_pays(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    policy_T = torch.tensor([-2.0 + log(ratio)], dtype=torch.float64, requires_grad=True)
    result = clipped_policy_gradient(policy_T, torch.tensor([-2.0], dtype=torch.float64), advantage, clip=0.2)
    result.loss_T.sum().backward()
    assert result.loss_T.item() == pytest.approx(loss)
    assert result.ratio_T.item() == pytest.approx(ratio)
    assert policy_T.grad is not None
    assert policy_T.grad.item() == pytest.approx(gradient)
    assert result.clipped_T.tolist() == [clipped]


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "dual_clip", "loss", "gradient"),
    [
        # clip 1/4, and ratios that float64 holds exactly. At an edge both branches of the minimum are equal: nothing is
        # removed yet, and the gradient is whole (half by each branch, and a clamp passes it at its own edge)
        (log(1.25), 1.0, None, -1.25, -1.25),
        (log(0.75), -1.0, None, 0.75, 0.75),
        (log(0.75), 1.0, None, -0.75, -0.75),  # the other edge of each sign: no clip there
        (log(1.25), -1.0, None, 1.25, 1.25),
        (log(2.0), -1.0, 2.0, 2.0, 2.0),  # r = c: the second clip's own edge
    ],
)
def test_at_an_edge_of_the_clip_nothing_is_removed_yet(
    log_ratio: float, advantage: float, dual_clip: float | None, loss: float, gradient: float
) -> None:
    policy_T = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    old_T = torch.zeros(1, dtype=torch.float64)
    result = clipped_policy_gradient(policy_T, old_T, advantage, clip=0.25, dual_clip=dual_clip)
    assert result.ratio_T.item() == exp(log_ratio) in (0.75, 1.25, 2.0)
    result.loss_T.sum().backward()
    assert policy_T.grad is not None
    assert (result.loss_T.item(), policy_T.grad.item()) == pytest.approx((loss, gradient), abs=1e-12)
    assert result.clipped_T.tolist() == [False]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        # c = 3: for A < 0 the loss is -max(min(r A, clip(r) A), 3 A), so never more than 3 |A|
        (2.9, -2.0, 5.8, 5.8, False),
        (3.1, -2.0, 6.0, 0.0, True),  # without the second clip 6.2 and growing
        (0.5, -2.0, 1.6, 0.0, True),  # the first clip works as before
        (3.1, 2.0, -2.4, 0.0, True),  # good messages know only the first
    ],
)
def test_the_dual_clip_bounds_bad_messages_alone(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    policy_T = torch.tensor([log(ratio)], dtype=torch.float64, requires_grad=True)
    old_T = torch.zeros(1, dtype=torch.float64)
    result = clipped_policy_gradient(policy_T, old_T, advantage, clip=0.2, dual_clip=3.0)
    result.loss_T.sum().backward()
    assert result.loss_T.item() == pytest.approx(loss)
    assert policy_T.grad is not None
    assert policy_T.grad.item() == pytest.approx(gradient)
    assert result.clipped_T.tolist() == [clipped]


def test_at_the_start_the_gradient_is_the_plain_policy_gradient() -> None:
    policy_T = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    for ratio in ("token", "sequence"):
        result = clipped_policy_gradient(policy_T, policy_T.detach(), 0.5, clip=0.2, ratio=ratio)  # type: ignore[arg-type]
        (gradient_T,) = torch.autograd.grad(result.loss_T.mean(), policy_T)
        wanted = {"token": -0.5 / 3, "sequence": -0.5}[ratio]  # a sequence's ratio moves with each of its tokens
        torch.testing.assert_close(gradient_T, torch.full((3,), wanted))


def test_the_sequence_ratio_is_the_product_of_the_tokens() -> None:
    # ratios e^.1, e^-.3, e^.05: as tokens all but the second inside .2; as a message e^-.15 = .8607, inside
    policy_T = torch.tensor([0.1, -0.3, 0.05])
    tokens = clipped_policy_gradient(policy_T, torch.zeros(3), -1.0, clip=0.2)
    message = clipped_policy_gradient(policy_T, torch.zeros(3), -1.0, clip=0.2, ratio="sequence")
    assert tokens.clipped_T.tolist() == [False, True, False]
    torch.testing.assert_close(message.ratio_T, torch.full((3,), exp(-0.15)))
    assert message.clipped_T.tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("ratios", "advantage", "dual_clip", "loss", "clipped"),
    [
        # clip 1/4, and products that float64 holds exactly, though no single ratio need lie where their product does. r is the
        # product; each of the message's tokens has the loss -min(r A, clip(r) A), and each token's log-prob moves r as a whole
        ((2.0, 0.5, 1.25), 1.0, None, -1.25, False),  # at the edge: nothing removed yet
        ((2.0, 0.5, 1.26), 1.0, None, -1.25, True),  # past it
        ((2.0, 0.5, 0.74), 1.0, None, -0.74, False),  # a good message made rarer: never clipped
        ((0.5, 2.0, 0.75), -1.0, None, 0.75, False),  # the other edge
        ((0.5, 2.0, 0.74), -1.0, None, 0.75, True),
        ((1.2, 1.2, 1.2), 1.0, None, -1.25, True),  # each token inside the clip, the message outside: 1.728
        ((2.0, 2.0, 1.0), -3.0, None, 12.0, False),  # a bad message made likelier, without a bound
        ((2.0, 2.0, 0.5), -3.0, 2.0, 6.0, False),  # r = c: the second clip's own edge
        ((2.0, 2.0, 1.0), -3.0, 2.0, 6.0, True),  # past it: c |A|, and no gradient
        ((0.5, 0.5, 1.0), -3.0, 2.0, 2.25, True),  # the first clip works as before
        ((2.0, 2.0, 1.0), 3.0, 2.0, -3.75, True),  # good messages know only the first
    ],
)
def test_a_sequence_ratio_clips_the_message_or_none_of_it(
    ratios: tuple[float, ...], advantage: float, dual_clip: float | None, loss: float, clipped: bool
) -> None:
    policy_T = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    old_T = torch.zeros(3, dtype=torch.float64)
    result = clipped_policy_gradient(policy_T, old_T, advantage, clip=0.25, ratio="sequence", dual_clip=dual_clip)
    assert result.loss_T.tolist() == pytest.approx([loss] * 3, rel=1e-12)
    assert result.clipped_T.tolist() == [clipped] * 3
    result.loss_T.mean().backward()
    assert policy_T.grad is not None
    # d loss / d log pi_t = -r A: a mean over three tokens, each of which moves all three
    wanted = 0.0 if clipped else -float(torch.tensor(ratios, dtype=torch.float64).prod()) * advantage
    assert policy_T.grad.tolist() == pytest.approx([wanted] * 3, rel=1e-12)


@pytest.mark.parametrize(("advantage", "losses"), [(0.5, [0.5, 1.0]), (-2.0, [-2.0, -4.0]), (0.0, [0.0, 0.0])])
def test_reinforce_is_the_log_prob_times_the_advantage_whatever_the_ratio(
    advantage: float, losses: list[float]
) -> None:
    policy_T = torch.tensor([-1.0, -2.0], requires_grad=True)
    result = reinforce(policy_T, torch.tensor([-2.0, -2.0]), advantage)
    assert result.loss_T.tolist() == pytest.approx(losses)
    assert result.ratio_T.tolist() == pytest.approx([e, 1.0])
    assert not result.clipped_T.any()
    (gradient_T,) = torch.autograd.grad(result.loss_T.sum(), policy_T)
    assert gradient_T.tolist() == pytest.approx([-advantage, -advantage])


@pytest.mark.parametrize(
    ("estimator", "values", "slopes"),
    [
        # d = log pi - log ref = ln 2, 0, -ln 2
        ("k1", [log(2), 0.0, -log(2)], [1.0, 1.0, 1.0]),
        ("k2", [log(2) ** 2 / 2, 0.0, log(2) ** 2 / 2], [log(2), 0.0, -log(2)]),
        ("k3", [1 / 2 - 1 + log(2), 0.0, 2 - 1 - log(2)], [1 - 1 / 2, 0.0, 1 - 2]),  # slope 1 - exp(-d)
    ],
)
def test_kl_estimators_by_hand(estimator: str, values: list[float], slopes: list[float]) -> None:
    reference_T = torch.tensor([-1.0, -1.0, -1.0])
    policy_T = (reference_T + torch.tensor([log(2), 0.0, -log(2)])).requires_grad_()
    kl_T = kl_to_reference(policy_T, reference_T, estimator)  # type: ignore[arg-type]
    assert kl_T.tolist() == pytest.approx(values, abs=1e-6)
    (slope_T,) = torch.autograd.grad(kl_T.sum(), policy_T)
    assert slope_T.tolist() == pytest.approx(slopes, abs=1e-6)


@pytest.mark.parametrize(("estimator", "bias"), [("k1", 1e-9), ("k2", 1e-2), ("k3", 1e-9)])
def test_kl_estimators_average_to_the_kl_under_the_policy(estimator: str, bias: float) -> None:
    # summed over all three tokens instead of sampled: p = (.5, .3, .2), q = (.4, .4, .2)
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    exact = float((p * (p / q).log()).sum())
    estimate = float((p * kl_to_reference(p.log(), q.log(), estimator)).sum())  # type: ignore[arg-type]
    assert exact == pytest.approx(0.5 * log(1.25) + 0.3 * log(0.75))
    assert estimate == pytest.approx(exact, abs=bias)


@pytest.mark.parametrize(
    ("estimator", "towards"), [("k1", "nowhere"), ("k2", "KL of the policy"), ("k3", "KL of the reference")]
)
def test_what_a_kl_in_the_loss_pushes_towards(estimator: str, towards: str) -> None:
    # E over a ~ pi, by enumeration, of d kl(a) / d logits, held against the gradients of the two KLs and of nothing
    logits_V = torch.tensor([0.3, -1.1, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([0.5, 0.2, -0.4, -0.1], dtype=torch.float64).log_softmax(-1)
    policy_V = logits_V.log_softmax(-1)
    own, other = policy_V.exp(), reference_V.exp()
    kls = {
        "nowhere": 0.0 * policy_V.sum(),
        "KL of the policy": (own * (policy_V - reference_V)).sum(),
        "KL of the reference": (other * (reference_V - policy_V)).sum(),
    }
    (wanted_V,) = torch.autograd.grad(kls[towards], logits_V, retain_graph=True)
    loss = (own.detach() * kl_to_reference(policy_V, reference_V, estimator)).sum()  # type: ignore[arg-type]
    (found_V,) = torch.autograd.grad(loss, logits_V)
    torch.testing.assert_close(found_V, wanted_V, rtol=1e-9, atol=1e-12)


def test_a_kl_that_pushes_nowhere_is_noted() -> None:
    def notes(**kl: Any) -> list[str]:
        return config_warnings(duo(update=UpdateConfig(kl=KlConfig(**kl))))

    [note] = notes(coefficient=0.01, estimator="k1")
    assert note.startswith("update.kl.estimator=k1: ") and "k2 has the gradient of the KL" in note
    assert notes(coefficient=0.01, estimator="k2") == notes(estimator="k1") == []


def test_importance_weights_are_the_ratio_up_to_their_cap_and_constants() -> None:
    old_T = torch.tensor([log(0.5), log(0.2), log(0.9)], requires_grad=True)
    weight_T = truncated_importance(old_T, torch.tensor([log(0.25), log(0.4), log(0.1)]), cap=2.5)
    assert weight_T.tolist() == pytest.approx([2.0, 0.5, 2.5])  # the last would be 9
    assert not weight_T.requires_grad


def test_the_objective_adds_its_terms_up() -> None:
    # ratio 1, A = 2: -2 each. Weight 1/2 (old .2, engine .4). KL k1: ln(.2/.1) = ln 2. Entropy 3.
    # -2 * .5 + .1 ln 2 - .01 * 3
    log_prob_T = torch.tensor([log(0.2)])
    against = LossReferences(log_prob_T, torch.tensor([log(0.1)]), torch.tensor([log(0.4)]))
    config = UpdateConfig(
        kl=KlConfig(coefficient=0.1, estimator="k1"), entropy_coefficient=0.01, truncated_importance=2.0
    )
    result = objective(config, log_prob_T, torch.tensor([3.0]), against, 2.0)
    assert result.loss_T.item() == pytest.approx(-1.0 + 0.1 * log(2) - 0.03)


def test_kl_and_entropy_are_measured_without_being_in_the_loss() -> None:
    log_prob_T = torch.tensor([log(0.2)])
    against = LossReferences(log_prob_T, torch.tensor([log(0.1)]), None)
    plain = UpdateConfig(kl=KlConfig(estimator="k1"))
    result = objective(plain, log_prob_T, torch.tensor([3.0]), against, 2.0)
    assert (result.loss_T.item(), result.kl_T.item(), result.entropy_T.item()) == pytest.approx((-2.0, log(2), 3.0))


def test_an_advantage_of_0_leaves_kl_and_entropy_alone_in_the_loss() -> None:
    log_prob_T = torch.tensor([log(0.2)], requires_grad=True)
    against = LossReferences(torch.tensor([log(0.3)]), torch.tensor([log(0.1)]), None)
    config = UpdateConfig(kl=KlConfig(coefficient=0.5, estimator="k2"))
    result = objective(config, log_prob_T, torch.tensor([3.0]), against, 0.0)
    (gradient_T,) = torch.autograd.grad(result.loss_T.sum(), log_prob_T)
    assert gradient_T.item() == pytest.approx(0.5 * log(2))


MESSAGES = [("reasoner", 2), ("reasoner", 6), ("actor", 4)]


@pytest.mark.parametrize(
    ("reduction", "wanted"),
    [
        ("role_token_mean", [1 / 8, 1 / 8, 1 / 4]),  # 8 reasoner tokens, 4 actor tokens; the two means are added
        ("token_mean", [1 / 12, 1 / 12, 1 / 12]),
        ("sequence_mean", [1 / 6, 1 / 18, 1 / 12]),  # 3 messages, each the mean of its own tokens
        ("constant", [1 / 30, 1 / 30, 1 / 30]),  # 3 messages, each its sum over 10
    ],
)
def test_reductions_weigh_tokens(reduction: str, wanted: list[float]) -> None:
    assert token_weights(MESSAGES, reduction, constant_tokens=10) == pytest.approx(wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reduction", "total"), [("role_token_mean", 2.0), ("token_mean", 1.0), ("sequence_mean", 1.0), ("constant", 0.4)]
)
def test_a_loss_of_one_everywhere_reduces_to_the_number_of_means(reduction: str, total: float) -> None:
    weights = token_weights(MESSAGES, reduction, constant_tokens=10)  # type: ignore[arg-type]
    assert sum(w * tokens for w, (_, tokens) in zip(weights, MESSAGES, strict=True)) == pytest.approx(total)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("update={reduction='constant'}", "update.constant_tokens: goes with update.reduction"),
        ("update={constant_tokens=9}", "update.constant_tokens: goes with update.reduction"),
        ("update.dual_clip=1.0", "update.dual_clip: input should be greater than 1"),
        ("update.schedule={kind='linear'}", "update.schedule.rounds: missing"),
        ("update.frozen_roles=['nobody']", "update.frozen_roles: no role named 'nobody'; there is reasoner, actor"),
    ],
)
def test_an_update_that_cannot_be_meant(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(duo().model_dump(mode="json"), [override])
