"""The V-JEPA objective against a plain computation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldmodel.masks import Grid, MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.masked import predict_masked
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction


def make(config: VideoEncoderConfig, **settings: object) -> tuple[MaskedLatentPrediction, Batch]:
    torch.manual_seed(0)
    encoder = VideoEncoder(config)
    predictor = MaskedPredictor(MaskedPredictorConfig(width=24, heads=2), encoder.grid, encoder.width)
    objective = MaskedLatentPrediction(encoder, predictor, MaskedLatentConfig(**settings))  # type: ignore[arg-type]
    clip = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    return objective, Batch(
        0, range(3), (clip,), draw_masks({"tube": MaskConfig()}, encoder.grid, 0, range(3))
    )


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss_is_the_mean_distance_to_layer_normed_targets_of_hidden_tokens(
    tiny_encoder: VideoEncoderConfig, loss: str
) -> None:
    objective, batch = make(tiny_encoder, loss=loss)
    clip, mask = batch.views[0], batch.masks[0]
    total = []
    for row in range(3):
        whole = objective.target_encoder.encode(clip[row : row + 1]).reshape(-1, 24)
        context = objective.encoder.encode(clip[row : row + 1], keep=mask.context[row : row + 1])
        predicted = objective.predictor(context, mask.context[row : row + 1], mask.target[row : row + 1])[0]
        for slot, token in enumerate(mask.target[row].tolist()):
            target = whole[token]
            target = (target - target.mean()) / (target.var(correction=0) + 1e-5).sqrt()
            gap = predicted[slot] - target
            total.append(gap.abs().mean() if loss == "l1" else gap.square().mean())
    torch.testing.assert_close(objective(batch)["loss"], torch.stack(total).mean())


def test_the_target_encoder_gets_no_gradient_and_follows_by_ema(tiny_encoder: VideoEncoderConfig) -> None:
    objective, batch = make(tiny_encoder, ema_start=0.5, ema_end=1.0)
    objective(batch)["loss"].backward()
    assert all(p.grad is None for p in objective.target_encoder.parameters())
    assert all(p.grad is not None for p in objective.encoder.parameters())
    assert all(p.grad is not None for p in objective.predictor.parameters())
    before = objective.target_encoder.patch_embed.weight.clone()
    with torch.no_grad():
        objective.encoder.patch_embed.weight += 1.0
    objective.after_step(0.5)  # momentum 0.75
    torch.testing.assert_close(objective.target_encoder.patch_embed.weight, before + 0.25)
    objective.after_step(1.0)  # momentum 1: stays
    torch.testing.assert_close(objective.target_encoder.patch_embed.weight, before + 0.25)


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_a_clip_of_another_size_than_the_configured_one_has_its_own_grid(
    tiny_encoder: VideoEncoderConfig, positions: str
) -> None:
    """Ids of a wide clip, read as ids of a square one, would tell the predictor wrong places."""
    config = replace(tiny_encoder, positions=positions)
    objective, _ = make(config)
    with torch.no_grad():
        for parameter in objective.predictor.parameters():
            parameter.normal_(std=0.3)
    clip = torch.rand(2, 4, 3, config.patch_size, 4 * config.patch_size)
    grid = Grid(4 // config.tubelet, 1, 4)
    (mask,) = draw_masks({"tube": MaskConfig()}, grid, 0, range(2))
    predicted = predict_masked(objective.encoder, objective.predictor, clip, mask)
    context = objective.encoder.encode(clip, keep=mask.context)
    told = objective.predictor(context, mask.context, mask.target, grid=grid)
    torch.testing.assert_close(predicted, told)
    not_told = objective.predictor(context, mask.context, mask.target)
    assert (predicted - not_told).abs().max() > 1e-3


def test_one_clip_per_process_can_be_monitored_with_centred_targets(tiny_encoder: VideoEncoderConfig) -> None:
    """Training on several processes of one clip each is sound; the monitors of one process have no other clip."""
    objective, batch = make(tiny_encoder, target_norm="centred")
    assert "predict_mean_loss" in objective.monitor(batch)
    figures = objective.monitor(batch.split(3)[0])
    assert "token_std" in figures and "predict_mean_loss" not in figures


def test_it_learns_one_batch(tiny_encoder: VideoEncoderConfig) -> None:
    objective, batch = make(tiny_encoder)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(60):
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step / 60)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_baseline_predicts_the_mean_of_each_feature(tiny_encoder: VideoEncoderConfig, loss: str) -> None:
    """For l2 it was the variance around one number, which stays 1 when all features collapse."""
    objective, batch = make(tiny_encoder, loss=loss)
    targets = objective._targets(objective._target_layers(batch.views[0]), everywhere=True).flatten(0, 1)
    gap = targets - targets.mean(dim=0)
    wanted = gap.abs().mean() if loss == "l1" else gap.square().mean()
    assert objective.monitor(batch)["predict_mean_loss"] == pytest.approx(float(wanted), rel=1e-4)
    with torch.no_grad():
        objective.target_encoder.norm.weight.zero_()
        objective.target_encoder.norm.bias.copy_(torch.arange(24.0))
    assert objective.monitor(batch)["predict_mean_loss"] < 1e-5


def test_monitors_see_a_collapsed_encoder(tiny_encoder: VideoEncoderConfig) -> None:
    objective, batch = make(tiny_encoder)
    healthy = objective.monitor(batch)
    with torch.no_grad():
        objective.target_encoder.norm.weight.zero_()
        objective.target_encoder.norm.bias.fill_(1.0)
    collapsed = objective.monitor(batch)
    assert healthy["token_std"] > 0.1
    assert collapsed["token_std"] < 1e-6
    assert healthy["token_rank"] > 4


@pytest.mark.parametrize(
    "bad", [{"loss": "huber"}, {"target_norm": "batch"}, {"ema_start": 0.9, "ema_end": 0.8}]
)
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="objective"):
        MaskedLatentConfig(**bad)
