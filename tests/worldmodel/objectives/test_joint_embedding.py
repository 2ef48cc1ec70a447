"""Joint embedding: the systems' losses against their formulas, gradients included, and settings that contradict."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.systems import batch_of, settings, small
from worldmodel.objectives.base import Batch
from worldmodel.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig
from worldmodel.objectives.mlp import MLPConfig
from worldmodel.objectives.regularizers import sigreg
from worldmodel.objectives.views import ViewConfig
from worldmodel.seeding import keyed_torch_generator

NARROW = ("projector.hidden=24", "projector.width=16")
PREDICTOR = ("predictor.hidden=8", "predictor.width=16")


def made(name: str, *changes: str) -> tuple[JointEmbedding, Batch]:
    objective = small(settings(name, *NARROW, *changes))
    assert isinstance(objective, JointEmbedding)
    if objective.config.target == "ema":  # a moving average that is behind
        objective.target_encoder.blocks[0].mlp.fc1.weight.data.mul_(1.5)
        objective.target_projector[0].weight.data.mul_(1.5)
    return objective.train(), batch_of(range(6), step=3)


def embedded(objective: JointEmbedding, batch: Batch) -> list[Tensor]:
    """Each view's embedding, from encoder and projector by hand."""
    found = []
    for view in objective.draw(batch):
        tokens = objective.encoder.encode(view.clip)
        found.append(objective.projector(tokens.flatten(1, 2).mean(dim=1)))
    return found


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1) / a.square().sum(dim=1).sqrt() / b.square().sum(dim=1).sqrt()


def byol(objective: JointEmbedding, batch: Batch) -> Tensor:
    """2 - 2 cos of prediction and the moving average's embedding of the other view, both ways."""
    views = objective.draw(batch)
    first, second = (objective.view_predictor(z) for z in embedded(objective, batch))
    with torch.no_grad():
        targets = [
            objective.target_projector(objective.target_encoder.encode(view.clip).flatten(1, 2).mean(dim=1))
            for view in views
        ]
    ways = [2 - 2 * cosines(first, targets[1]).mean(), 2 - 2 * cosines(second, targets[0]).mean()]
    return (ways[0] + ways[1]) / 2


def simsiam(objective: JointEmbedding, batch: Batch) -> Tensor:
    """The negative cosine of a prediction and the other view's embedding without gradient, both ways, plus 1."""
    z = embedded(objective, batch)
    first, second = (objective.view_predictor(x) for x in z)
    return 1 - (cosines(first, z[1].detach()).mean() + cosines(second, z[0].detach()).mean()) / 2


def simclr(objective: JointEmbedding, batch: Batch) -> Tensor:
    z = torch.cat(embedded(objective, batch))
    z = z / z.norm(dim=1, keepdim=True)
    count, losses = len(z), []
    for i in range(count):
        others = torch.stack([z[i] @ z[j] / 0.1 for j in range(count) if j != i])
        losses.append(others.exp().sum().log() - z[i] @ z[(i + count // 2) % count] / 0.1)
    return torch.stack(losses).mean()


def vicreg(objective: JointEmbedding, batch: Batch) -> Tensor:
    first, second = embedded(objective, batch)
    count, features = first.shape
    loss = 25 * (first - second).square().mean()
    for z in (first, second):
        centred = z - z.mean(dim=0)
        covariance = centred.T @ centred / (count - 1)
        std = (covariance.diagonal() + 1e-4).sqrt()
        off = covariance - torch.diag(covariance.diagonal())
        loss = loss + 25 * torch.relu(1 - std).mean() / 2 + off.square().sum() / features
    return loss


def barlow_twins(objective: JointEmbedding, batch: Batch) -> Tensor:
    first, second = ((z - z.mean(dim=0)) / z.std(dim=0, correction=0) for z in embedded(objective, batch))
    matrix, one = first.T @ second / len(first), torch.eye(first.shape[1])
    return ((matrix - one).square() * (one + 0.0051 * (1 - one))).sum()


def lejepa(objective: JointEmbedding, batch: Batch) -> Tensor:
    """(1 - lambda) distance to the mean of the two large views + lambda SIGReg, averaged over all six views."""
    z, terms = embedded(objective, batch), []
    assert len(z) == 6
    for view in z:
        spread = sigreg(view, keyed_torch_generator("sigreg", 0, batch.step), 256)
        terms.append(0.95 * (view - (z[0] + z[1]) / 2).square().mean() + 0.05 * spread)
    return torch.stack(terms).mean()


@pytest.mark.parametrize(
    ("formula", "changes"),
    [
        (byol, PREDICTOR),
        (simsiam, PREDICTOR),
        (simclr, ()),
        (vicreg, (f"covariance={2 * 15}",)),
        (barlow_twins, ()),
        (lejepa, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_loss_and_gradients_are_the_formulas(
    formula: Callable[[JointEmbedding, Batch], Tensor], changes: tuple[str, ...]
) -> None:
    objective, batch = made(formula.__name__, *changes)
    trained = [p for p in objective.parameters() if p.requires_grad]
    found, wanted = objective(batch)["loss"], formula(objective, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    mine, theirs = (torch.autograd.grad(loss, trained) for loss in (found, wanted))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * scale)


def test_a_stop_gradient_matters() -> None:
    gradients = []
    for target in ("stop", "online"):
        objective, batch = made("simsiam", *PREDICTOR, f"target={target}")
        objective(batch)["loss"].backward()
        weight = objective.encoder.patch_embed.weight.grad
        assert weight is not None
        gradients.append(weight)
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


def test_the_moving_average_follows_by_half_a_cosine() -> None:
    objective, _ = made("byol", *PREDICTOR, "ema_start=0.9", "ema_end=1.0")
    objective.encoder.norm.bias.data.fill_(1.0)
    for progress, momentum in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        objective.target_encoder.norm.bias.data.zero_()
        objective.after_step(progress)
        torch.testing.assert_close(
            objective.target_encoder.norm.bias[0].item(), 1 - momentum, atol=1e-6, rtol=0
        )
    assert not any(p.requires_grad for p in objective.target_encoder.parameters())


def test_small_views_are_no_targets() -> None:
    objective, batch = made("lejepa", "views.small.target=false")
    views = objective.draw(batch)
    online = [objective.embed(view.clip) for view in views]
    targets = objective.targets(views, online)
    assert [target is None for target in targets] == [False, False, True, True, True, True]
    # Of "others", each of six views is compared with the two large ones, and none with itself.
    objective.config.against = "others"
    pairs = [(i, j) for i in range(6) for j in range(2) if i != j]
    wanted = sum(float((online[i] - online[j]).detach().square().mean()) for i, j in pairs) / len(pairs)
    torch.testing.assert_close(
        float(objective.agreement(online, targets).detach()), wanted, rtol=1e-5, atol=0
    )


def test_frozen_patches_have_no_gradient() -> None:
    objective, batch = made("simclr", "freeze_patches=true")
    objective(batch)["loss"].backward()
    assert objective.encoder.patch_embed.weight.grad is None
    assert all(p.grad is not None for p in objective.encoder.blocks.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": "teacher"}, "choose one of ema, stop, online"),
        ({"distance": "l3"}, "nt_xent"),
        ({"variance": -1.0}, "not be negative"),
        ({"temperature": 0.0}, "must be positive"),
        ({"ema_start": 0.9, "ema_end": 0.8}, "start <= end"),
        ({"views": {"one": ViewConfig()}}, "two views or more"),
        ({"views": {"small": ViewConfig(count=2, target=False)}}, "one of them for the target"),
    ],
)
def test_settings_that_contradict(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointEmbeddingConfig(**wrong)


def test_a_predictor_gives_what_the_projector_gives() -> None:
    with pytest.raises(ValueError, match=r"predictor.width=7 must be the embeddings' 16"):
        made("byol", "predictor.width=7")
    with pytest.raises(ValueError, match="unknown; choose batch"):
        MLPConfig(norm="group")
