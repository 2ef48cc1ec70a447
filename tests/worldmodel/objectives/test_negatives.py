"""Contrast with other samples: siamese networks, IMAX, CPC, MoCo and MoCo v3 against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.formulas import made, mean_token, same_loss_and_gradients, unit
from tests.worldmodel.objectives.systems import batch_of
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.cpc import CPC, CPCConfig
from worldmodel.objectives.distances import gaussian_information, margin_loss
from worldmodel.objectives.joint_embedding import JointEmbeddingConfig
from worldmodel.objectives.moco import MoCo, MoCoConfig

NARROW = ("projector.hidden=24", "projector.width=16")
PREDICTOR = ("predictor.hidden=8", "predictor.width=16")


def online(objective: Any, batch: Batch) -> list[Tensor]:
    return [objective.projector(mean_token(objective.encoder, view.clip)) for view in objective.draw(batch)]


@torch.no_grad()
def of_the_average(objective: Any, batch: Batch) -> list[Tensor]:
    return [
        objective.target_projector(mean_token(objective.target_encoder, view.clip))
        for view in objective.draw(batch)
    ]


def moco_v3(objective: Any, batch: Batch) -> Tensor:
    """2 t times the cross-entropy of finding one's key among the batch's, the mean of both ways."""
    queries = [unit(objective.view_predictor(z)) for z in online(objective, batch)]
    keys, losses = [unit(z) for z in of_the_average(objective, batch)], []
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        for i in range(len(q)):
            scores = [torch.exp(q[i] @ k[j] / 0.2) for j in range(len(k))]
            losses.append(-2 * 0.2 * torch.log(scores[i] / sum(scores)))
    return torch.stack(losses).mean()


def siamese(objective: Any, batch: Batch) -> Tensor:
    """Both ways: D^2 / 2 of pairs, and max(0, m - D)^2 / 2 of different samples."""
    first, second = online(objective, batch)
    pulled, pushed = [], []
    for a, b in ((first, second), (second, first)):
        for i in range(len(a)):
            for j in range(len(b)):
                far = (a[i] - b[j]).square().sum().sqrt()
                pulled += [far**2 / 2] if i == j else []
                pushed += [] if i == j else [torch.relu(1.5 - far) ** 2 / 2]
    return torch.stack(pulled).mean() + torch.stack(pushed).mean()


def imax(objective: Any, batch: Batch) -> Tensor:
    """Minus 1/2 log(|cov(a + b)| / |cov(a - b)|), by eigenvalues."""
    first, second = online(objective, batch)

    def log_volume(x: Tensor) -> Tensor:
        centred = x - x.mean(dim=0)
        covariance = sum(torch.outer(row, row) for row in centred) / len(x)
        return (torch.linalg.eigvalsh(covariance) + 0.01).log().sum()

    return -(log_volume(first + second) - log_volume(first - second)) / 2


def moco(objective: Any, batch: Batch) -> Tensor:
    queries = [unit(objective.predict(z)) for z in online(objective, batch)]
    keys, losses = [unit(z) for z in of_the_average(objective, batch)], []
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        for i in range(len(q)):
            negatives = sum(torch.exp(q[i] @ old / 0.2) for old in objective.queue.clone())
            positive = torch.exp(q[i] @ k[i] / 0.2)
            losses.append(-torch.log(positive / (positive + negatives)))
    return torch.stack(losses).mean()


def cpc(objective: CPC, batch: Batch) -> Tensor:
    """Bilinear critics of each context and all latents; the context by the GRU's own step."""
    clip = batch.views[0]
    z = [objective.projector(mean_token(objective.encoder, clip[:, t : t + 2])) for t in (0, 2)]
    context, _ = objective.context(z[0][:, None])
    losses = []
    for i in range(len(clip)):
        scores = {
            (j, t): torch.exp(z[t][j] @ objective.critics[0].weight @ context[i, 0])
            for j in range(len(clip))
            for t in (0, 1)
        }
        losses.append(-torch.log(scores[i, 1] / sum(scores.values())))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("formula", "changes"),
    [
        (moco_v3, (*NARROW, *PREDICTOR)),
        (siamese, (*NARROW, "margin=1.5")),
        (imax, ("projector.hidden=24", "projector.width=3", "noise=0.01")),
        (moco, (*NARROW, "queue=20")),
        (cpc, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_loss_and_gradients_are_the_formulas(
    formula: Callable[[Any, Batch], Tensor], changes: tuple[str, ...]
) -> None:
    same_loss_and_gradients(*made(formula.__name__, *changes), formula)


def test_moco_v3_trains_no_patch_embedding_and_no_target() -> None:
    objective, batch = made("moco_v3", *NARROW, *PREDICTOR)
    objective(batch)["loss"].backward()
    assert objective.encoder.patch_embed.weight.grad is None
    assert all(p.grad is not None for p in objective.encoder.blocks.parameters())
    assert all(p.grad is None for p in objective.target_encoder.parameters())


def test_a_margin_pushes_only_what_is_within_it() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    first, second = points.requires_grad_(), points.detach() + torch.tensor([0.0, 0.5])
    (pulled,) = torch.autograd.grad(margin_loss(first, second, 1.0), first)
    torch.testing.assert_close(pulled, torch.tensor([[0.0, -0.25], [0.0, -0.25]]))  # to its pair only
    (pushed,) = torch.autograd.grad(margin_loss(first, second, 4.0), first)
    assert pushed[0, 0] > 0.1  # gradient descent moves it to the left, away from the other
    assert pushed[1, 0] < -0.1
    with pytest.raises(ValueError, match="at least 2 samples"):
        margin_loss(first[:1], second[:1], 1.0)


def test_gaussian_information_of_a_signal_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, left, right = torch.randn(3, 20_000, 2, generator=generator)
    scale = torch.tensor([0.5, 0.1])  # var(a + b) = 4 + 2 s^2, var(a - b) = 2 s^2
    first, second = signal + scale * left, signal + scale * right
    wanted = sum(0.5 * math.log((4 + 2 * s**2) / (2 * s**2)) for s in (0.5, 0.1))
    assert math.isclose(-float(gaussian_information(first, second, 1e-6)), wanted, rel_tol=0.01)
    # Unlike a sum over features, it counts what they share once, and does not depend on the basis.
    turn = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    turned = -float(gaussian_information(first @ turn, second @ turn, 1e-6))
    assert math.isclose(turned, wanted, rel_tol=0.01)


def test_the_queue_holds_the_last_keys_in_order_and_is_not_trained() -> None:
    objective, _ = made("moco", *NARROW, "queue=28")
    assert isinstance(objective, MoCo)
    assert "queue" in objective.state_dict()
    assert "queue" not in dict(objective.named_parameters())
    old, steps = objective.queue.clone(), []
    for step in range(2):
        batch = batch_of(range(6 * step, 6 * step + 6), step=step)
        objective(batch)
        steps.append(torch.cat([unit(z) for z in of_the_average(objective, batch)]))
    wanted = torch.cat([steps[1], steps[0], old])[:28]
    torch.testing.assert_close(objective.queue, wanted, rtol=1e-4, atol=1e-5)
    objective.eval()(batch)
    torch.testing.assert_close(objective.queue, wanted, rtol=1e-4, atol=1e-5)


def test_contexts_see_the_past_only_and_latents_themselves() -> None:
    objective, batch = made("cpc")
    clip = batch.views[0]
    changed = clip.clone()
    changed[:, 2:] = 255 - changed[:, 2:]
    before, after = objective.latents(clip), objective.latents(changed)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-3
    contexts, _ = objective.context(torch.cat([before, after], dim=1))
    torch.testing.assert_close(contexts[:, 0], objective.context(before)[0][:, 0])


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (JointEmbeddingConfig, {"margin": 0.0}, "margin and noise must be positive"),
        (JointEmbeddingConfig, {"noise": 0.0}, "margin and noise must be positive"),
        (MoCoConfig, {"queue": 0}, "objective.queue=0 must be at least 1"),
        (MoCoConfig, {"distance": "l2"}, "choose one of info_nce"),
        (MoCoConfig, {"target": "online"}, "choose one of ema"),
        (CPCConfig, {"ahead": 0}, "ahead must be at least 1"),
    ],
)
def test_settings_that_contradict(make: Callable[..., Any], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**wrong)


def test_cpc_needs_a_future() -> None:
    size = VideoEncoderConfig(image_size=16, frames=2, patch_size=8, tubelet=2, width=12, depth=1, heads=1)
    with pytest.raises(ValueError, match=r"raise encoder.frames=2"):
        CPCConfig().build(VideoEncoder(size), None, 0)
