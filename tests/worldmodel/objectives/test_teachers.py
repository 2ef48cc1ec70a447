"""dBOT, hybrid distillation and CMAE: frozen teachers, stages, and two losses on one context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel.objectives.systems import HELD_OUT, SIZE, batch_of, settings, small, train
from worldmodel.models.pretrained import load_encoder, save_encoder
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.cmae import CMAEConfig, ContrastiveMaskedAutoencoder
from worldmodel.objectives.hybrid import HybridConfig, HybridDistillation
from worldmodel.objectives.masked_latent import MaskedLatentPrediction
from worldmodel.objectives.masked_pixels import pixel_targets
from worldmodel.objectives.views import draw_view

NARROW = tuple(
    f"{mlp}.{size}" for mlp in ("projector", "view_predictor") for size in ("hidden=24", "width=16")
)


def saved(path: Path, objective: Objective) -> str:
    """What a run leaves behind."""
    save_encoder(path, objective.parts(), {"encoder": asdict(SIZE)}, "A test's model.\n")
    return str(path)


def test_stages_of_dbot(tmp_path: Path) -> None:
    """The teacher of a stage is what the stage before has learned; it never moves, and is not saved again."""
    config = settings("dbot")
    first = small(config)
    assert isinstance(first, MaskedLatentPrediction) and first.teacher is not None
    random = {name: value.clone() for name, value in first.teacher.state_dict().items()}
    assert (first.teacher.patch_embed.weight - first.encoder.patch_embed.weight).abs().max() > 0.01
    losses = train(first, 40, config, lr=2e-3, size=16)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(torch.equal(value, random[name]) for name, value in first.teacher.state_dict().items())
    assert sorted(first.parts()) == ["decoder", "encoder"]

    model = saved(tmp_path / "model", first)
    second = small(settings("dbot", f"teacher={model}"), seed=1)
    assert isinstance(second, MaskedLatentPrediction) and second.teacher is not None
    clip = batch_of(HELD_OUT).views[0][:4]
    with torch.no_grad():
        torch.testing.assert_close(second.teacher.encode(clip), first.encoder.encode(clip))
        torch.testing.assert_close(load_encoder(model).encode(clip), first.encoder.encode(clip))
        assert (second.encoder.encode(clip) - first.encoder.encode(clip)).abs().max() > 0.01


def test_a_wider_teacher_has_predictions_of_its_width(tmp_path: Path) -> None:
    size = replace(SIZE, width=60, heads=5)
    for name, change in (("wide", size), ("coarse", replace(size, patch_size=16))):
        parts = {"encoder": VideoEncoder(change)}
        save_encoder(tmp_path / name, parts, {"encoder": asdict(change)}, "A test's model.\n")
    config = settings("dbot", f"teacher={tmp_path / 'wide'}")
    values = small(config)(batch_of(range(4), config.mask))
    assert torch.isfinite(values["loss"])
    with pytest.raises(ValueError, match="patch_size=16, the encoder 8; set encoder.patch_size=16"):
        small(settings("hybrid", f"teacher={tmp_path / 'coarse'}"))


def pixels_of(objective: HybridDistillation | ContrastiveMaskedAutoencoder, batch: Batch) -> Tensor:
    """Mean squared error of normalised pixels, one sample after the other."""
    (clip,), (mask,), found = batch.views, batch.masks, []
    for row in range(len(clip)):
        one = slice(row, row + 1)
        context = objective.encoder.encode(clip[one], keep=mask.context[one])
        predicted = objective.decoder(context, mask.context[one], mask.target[one])
        found.append((predicted - pixel_targets(objective.encoder, clip[one], mask.target[one])).square())
    return torch.stack(found).mean()


def hybrid(objective: HybridDistillation, batch: Batch) -> Tensor:
    (clip,), (mask,) = batch.views, batch.masks
    context, gaps = objective.encoder.encode(clip, keep=mask.context), []
    for row in range(len(clip)):
        tokens = objective.teacher.encode(clip[row : row + 1]).flatten(0, 2)[mask.context[row]]
        centred = tokens - tokens.mean(dim=1, keepdim=True)
        wanted = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        gaps.append((objective.projector(context[row]) - wanted).abs())
    gap = torch.stack(gaps)
    return pixels_of(objective, batch) + torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean()


def cmae(objective: ContrastiveMaskedAutoencoder, batch: Batch) -> Tensor:
    """``L_pixels + L_contrast``; each clip's completed features against the second views of all clips."""
    (clip,), (mask,) = batch.views, batch.masks
    context = objective.encoder.encode(clip, keep=mask.context)
    hidden = objective.feature_decoder(context, mask.context, mask.target)
    queries = objective.view_predictor(objective.projector(torch.cat([context, hidden], dim=1).mean(dim=1)))
    view = draw_view(clip, batch.ids, 0, 0, objective.config.view, 8)
    with torch.no_grad():
        keys = objective.target_projector(objective.target_encoder.encode(view).flatten(1, 2).mean(dim=1))
    queries, keys = (x / x.norm(dim=1, keepdim=True) for x in (queries, keys))
    losses = []
    for row in range(len(clip)):
        scores = torch.stack([queries[row] @ key / 0.07 for key in keys])
        losses.append(scores.exp().sum().log() - scores[row])
    return pixels_of(objective, batch) + torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("formula", "changes"), [(hybrid, ()), (cmae, NARROW)], ids=lambda value: getattr(value, "__name__", "")
)
def test_loss_and_gradients_are_the_formulas(
    formula: Callable[[Objective, Batch], Tensor], changes: tuple[str, ...]
) -> None:
    config = settings(formula.__name__, *changes)
    objective, batch = small(config).train(), batch_of(range(6), config.mask, step=3)
    if isinstance(objective, ContrastiveMaskedAutoencoder):  # a moving average that is behind
        objective.target_encoder.blocks[0].mlp.fc1.weight.data.mul_(1.5)
        objective.target_projector[0].weight.data.mul_(1.5)
    trained = [p for p in objective.parameters() if p.requires_grad]
    found, wanted = objective(batch)["loss"], formula(objective, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    mine, theirs = (torch.autograd.grad(loss, trained) for loss in (found, wanted))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * scale)


@torch.no_grad()
def held_out(objective: Objective, name: str, config: str, *changes: str) -> float:
    batch = batch_of(HELD_OUT, settings(config, *changes).mask)
    return float(objective.train()(batch)[name])


def test_hybrid_distillation_learns_both() -> None:
    """The teacher's features, and pixels too, of clips that no training saw."""
    config = settings("hybrid")
    objective = small(config)
    before = held_out(objective, "distillation", "hybrid"), held_out(objective, "pixels", "hybrid")
    train(objective, 40, config, lr=2e-3, size=16)
    after = held_out(objective, "distillation", "hybrid"), held_out(objective, "pixels", "hybrid")
    assert after[0] < 0.4 * before[0]
    assert after[1] < before[1]
    assert sorted(objective.parts()) == ["decoder", "encoder", "projector"]


def test_cmae_recognises_clips_that_no_training_saw() -> None:
    """Each of the two losses has its own decoder, and both train the encoder."""
    config = settings("cmae", *NARROW)
    objective = small(config)
    before = held_out(objective, "contrast", "cmae", *NARROW)
    train(objective, 40, config, lr=2e-3, size=16)
    after = held_out(objective, "contrast", "cmae", *NARROW)
    assert after < 0.8 * before

    assert isinstance(objective, ContrastiveMaskedAutoencoder)
    values = objective.train()(batch_of(range(6), config.mask))
    for loss, used, unused in (
        ("pixels", objective.decoder, objective.feature_decoder),
        ("contrast", objective.feature_decoder, objective.decoder),
    ):
        networks: list[nn.Module] = [objective.encoder, used, unused]
        weights = [next(network.parameters()) for network in networks]
        gradients = torch.autograd.grad(values[loss], weights, retain_graph=True, allow_unused=True)
        assert gradients[0] is not None and gradients[1] is not None and gradients[2] is None
    assert not any(p.requires_grad for p in objective.target_encoder.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: HybridConfig(distance="l3"), "choose one of l1, l2"),
        (lambda: HybridConfig(distillation=0.0), "objective=videomae"),
        (lambda: CMAEConfig(temperature=0.0), "temperature must be positive"),
        (lambda: CMAEConfig(ema_start=0.9, ema_end=0.8), "start <= end"),
        (lambda: small(settings("cmae", *NARROW, "view_predictor.width=7")), "must be the embeddings' 16"),
    ],
)
def test_settings_that_contradict(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
