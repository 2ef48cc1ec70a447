"""I-JEPA, data2vec, dBOT and JEPAs with terms over the batch: losses against their formulas, and what defines each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.systems import batch_of, settings, small
from worldmodel.objectives.base import Batch
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction


def made(name: str, *changes: str) -> tuple[MaskedLatentPrediction, Batch]:
    config = settings(name, *changes)
    objective = small(config)
    assert isinstance(objective, MaskedLatentPrediction)
    if objective.target_encoder is not None:  # a moving average that is behind
        objective.target_encoder.blocks[0].mlp.fc1.weight.data.mul_(1.5)
    return objective.train(), batch_of(range(4), config.mask, step=3)


def normalised(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def huber(gap: Tensor, beta: float) -> Tensor:
    return torch.where(gap.abs() < beta, gap.square() / (2 * beta), gap.abs() - beta / 2).mean()


def contexts(objective: MaskedLatentPrediction, batch: Batch) -> Tensor:
    return objective.encoder.encode(batch.views[0], keep=batch.masks[0].context)


def gaps(objective: MaskedLatentPrediction, batch: Batch, whole: Tensor, context: Tensor) -> Tensor:
    """Errors of predictions of ``whole (B, P, N, D)``, one sample and one group of targets after the other."""
    (mask,), found = batch.masks, []
    assert objective.predictor is not None
    for row in range(len(whole)):
        tokens = normalised(whole[row].flatten(0, 1))
        for block in mask.target[row].chunk(mask.groups):
            predicted = objective.predictor(context[row : row + 1], mask.context[row : row + 1], block[None])
            found.append(predicted[0] - tokens[block])
    return torch.stack(found)


def ijepa(objective: MaskedLatentPrediction, batch: Batch) -> Tensor:
    whole = objective.target_encoder.encode(batch.views[0])
    assert batch.masks[0].groups == 4
    return huber(gaps(objective, batch, whole, contexts(objective, batch)), beta=1.0)


def vjepa_variance(objective: MaskedLatentPrediction, batch: Batch) -> Tensor:
    """Gradients reach the targets, too; std and covariances are those of both branches."""
    whole, context = objective.encoder.encode(batch.views[0]), contexts(objective, batch)
    loss = gaps(objective, batch, whole, context).abs().mean()
    for mean in (whole.mean(dim=(1, 2)), context.mean(dim=1)):
        loss = loss + 25 * torch.relu(1 - (mean.var(dim=0) + 1e-4).sqrt()).mean() / 2
        covariances = torch.cov(mean.T)
        different = covariances[~torch.eye(len(covariances), dtype=torch.bool)]
        loss = loss + 1000 * different.square().mean() / 2
    return loss


def vjepa_uniformity(objective: MaskedLatentPrediction, batch: Batch) -> Tensor:
    whole, context = objective.target_encoder.encode(batch.views[0]), contexts(objective, batch)
    points = context.mean(dim=1)
    points = points / points.norm(dim=1, keepdim=True)
    pairs = [(points[i] - points[j]).square().sum() for i in range(4) for j in range(4) if i != j]
    spread = torch.stack(pairs).mul(-2).exp().mean().log()
    return gaps(objective, batch, whole, context).abs().mean() + 0.1 * spread


def data2vec(objective: MaskedLatentPrediction, batch: Batch) -> Tensor:
    (clip,), (mask,), network = batch.views, batch.masks, objective.target_encoder
    first, last = (normalised(x.flatten(1, 2)) for x in network.encode_layers(clip, [0, 1]))
    everything = set(range(clip.shape[1] // 2 * 16))
    found = []
    for row in range(len(clip)):
        hidden = torch.tensor(sorted(everything - set(mask.context[row].tolist())))[None]
        token = objective.hidden_patches.mask_token
        tokens = objective.encoder.encode(clip[row : row + 1], hidden=(hidden, token)).flatten(0, 2)
        wanted = ((first + last) / 2)[row]
        found.append(objective.hidden_patches.read_out(tokens[mask.target[row]]) - wanted[mask.target[row]])
    return huber(torch.stack(found), beta=2.0)


def dbot(objective: MaskedLatentPrediction, batch: Batch) -> Tensor:
    assert objective.teacher is not None
    whole = objective.teacher.encode(batch.views[0])
    return huber(gaps(objective, batch, whole, contexts(objective, batch)), beta=1.0)


@pytest.mark.parametrize(
    "formula",
    [ijepa, vjepa_variance, vjepa_uniformity, data2vec, dbot],
    ids=lambda value: value.__name__,
)
def test_loss_and_gradients_are_the_formulas(
    formula: Callable[[MaskedLatentPrediction, Batch], Tensor],
) -> None:
    objective, batch = made(formula.__name__)
    trained = [p for p in objective.parameters() if p.requires_grad]
    found, wanted = objective(batch)["loss"], formula(objective, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    mine, theirs = (torch.autograd.grad(loss, trained) for loss in (found, wanted))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * scale)


def test_the_momentum_of_ijepa_is_half_a_cosine() -> None:
    objective, _ = made("ijepa")
    for share in (0.0, 0.3, 1.0):
        wanted = 1 - (1 - 0.996) * (math.cos(math.pi * share) + 1) / 2
        assert objective.momentum(share) == pytest.approx(wanted)


def test_each_block_of_ijepa_is_predicted_by_itself() -> None:
    objective, batch = made("ijepa")
    (mask,) = batch.masks
    predicted = objective._predict(batch.views[0], mask, 0)[0].unflatten(1, (4, -1))
    moved = mask.target.unflatten(1, (4, -1)).clone()
    moved[:, 0] = moved[:, 1]  # the first block is elsewhere
    other = objective._predict(batch.views[0], mask._replace(target=moved.flatten(1)), 0)[0]
    torch.testing.assert_close(other.unflatten(1, (4, -1))[:, 1:], predicted[:, 1:])
    assert (other.unflatten(1, (4, -1))[:, 0] - predicted[:, 0]).abs().max() > 1e-4


def test_the_last_block_alone_is_vjepas_target() -> None:
    """data2vec's averaging is what its targets differ by."""
    found = []
    for layers in (2, 1):
        objective, batch = made("data2vec", f"target_layers={layers}")
        objective.target_encoder.blocks[1].mlp.fc1.weight.data.mul_(20)  # blocks that differ
        found.append(objective._targets(objective._target_layers(batch.views[0]), everywhere=True))
        tokens = objective.target_encoder.encode(batch.views[0]).flatten(1, 2)
    torch.testing.assert_close(found[1], normalised(tokens), rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().mean() > 0.05


def test_alignment_and_uniformity_are_monitored() -> None:
    """Alignment falls as predictions get better; a collapsed encoder has no uniformity."""
    objective, batch = made("vjepa")
    before = objective.monitor(batch)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    after = objective.monitor(batch)
    assert 0 <= after["alignment"] < 0.7 * before["alignment"]
    assert before["uniformity"] < 0
    with torch.no_grad():
        objective.target_encoder.norm.weight.zero_()
        objective.target_encoder.norm.bias.fill_(1.0)
    assert objective.monitor(batch)["uniformity"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "huber"}, "choose one of l1, l2, smooth_l1"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"target_layers": 0}, "target_layers at least 1"),
        ({"target_gradient": True}, "target_encoder=online only"),
        ({"teacher": "runs/x"}, "target_encoder=teacher only"),
        ({"ema_schedule": "step"}, "choose one of linear, cosine"),
        ({"batch_variance": -1.0}, "batch_variance=-1.0 must not be negative"),
        ({"uniformity": -0.1}, "uniformity=-0.1 must not be negative"),
    ],
)
def test_settings_that_contradict(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLatentConfig(**wrong)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ValueError, match="target_layers=3 is more than the target encoder's 2 blocks"):
        made("data2vec", "target_layers=3")
