"""Losses: expected values worked by hand at the edges of the clip."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from stages.losses.clipped_policy_gradient import clipped_policy_gradient
from stages.losses.reductions import token_weights


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        # loss = -min(r A, clip(r, .8, 1.2) A); its gradient in log pi is -r A where the free branch is taken, else 0
        (1.0, 2.0, -2.0, -2.0, False),
        (1.1, 1.0, -1.1, -1.1, False),
        (1.5, 1.0, -1.2, 0.0, True),  # already likelier than the clip allows
        (0.5, 1.0, -0.5, -0.5, False),  # a good token made rarer: never clipped
        (0.5, -1.0, 0.8, 0.0, True),  # a bad token already rare enough
        (1.5, -1.0, 1.5, 1.5, False),  # a bad token made likelier: never clipped
        (3.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_the_clip_removes_the_gradient_only_where_it_pays(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: bool
) -> None:
    policy_T = torch.tensor([-2.0 + log(ratio)], requires_grad=True)
    result = clipped_policy_gradient(policy_T, torch.tensor([-2.0]), advantage, clip=0.2)
    result.loss_T.sum().backward()
    assert result.loss_T.item() == pytest.approx(loss, abs=1e-6)
    assert result.ratio_T.item() == pytest.approx(ratio, rel=1e-6)
    assert policy_T.grad is not None
    assert policy_T.grad.item() == pytest.approx(gradient, abs=1e-6)
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


MESSAGES = [("reasoner", 2), ("reasoner", 6), ("actor", 4)]


@pytest.mark.parametrize(
    ("reduction", "wanted"),
    [
        (
            "role_token_mean",
            [1 / 8, 1 / 8, 1 / 4],
        ),  # 8 reasoner tokens, 4 actor tokens; the two means are added
        ("token_mean", [1 / 12, 1 / 12, 1 / 12]),
        ("sequence_mean", [1 / 6, 1 / 18, 1 / 12]),  # 3 messages, each the mean of its own tokens
    ],
)
def test_reductions_weigh_tokens(reduction: str, wanted: list[float]) -> None:
    assert token_weights(MESSAGES, reduction) == pytest.approx(wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reduction", "total"), [("role_token_mean", 2.0), ("token_mean", 1.0), ("sequence_mean", 1.0)]
)
def test_a_loss_of_one_everywhere_reduces_to_the_number_of_means(reduction: str, total: float) -> None:
    weights = token_weights(MESSAGES, reduction)  # type: ignore[arg-type]
    assert sum(w * tokens for w, (_, tokens) in zip(weights, MESSAGES, strict=True)) == pytest.approx(total)
