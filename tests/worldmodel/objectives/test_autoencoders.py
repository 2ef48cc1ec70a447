"""Autoencoders: losses against their formulas, and what stands between a clip and its copy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.worldmodel.objectives.formulas import same_loss_and_gradients
from tests.worldmodel.objectives.systems import HELD_OUT, batch_of, settings, small, train
from worldmodel.objectives.autoencoders import DenoisingConfig, VAEConfig
from worldmodel.objectives.base import Batch, ObjectiveConfig
from worldmodel.objectives.masked_pixels import MaskedPixelPrediction
from worldmodel.objectives.views import keyed_noise
from worldmodel.seeding import keyed_rng

SIZES = {
    "denoising": ("hidden=64",),
    "vae": ("latent=8", "decoder_width=16"),
    "mae": (),
    "context_encoder": (),
}


@lru_cache(maxsize=128)
def ramps(ids: range) -> Tensor:
    """``(B, 4, 3, 32, 32)`` uint8: a colour, brighter towards one of the four corners, with some noise."""
    y, x = np.mgrid[:32, :32] / 31 - 0.5
    clips = []
    for index in ids:
        rng = keyed_rng("ramp", index)
        colour, (down, right) = rng.uniform(0.4, 0.6, (3, 1, 1)), rng.choice([-0.3, 0.3], 2)
        clip = colour + down * y + right * x + 0.01 * rng.standard_normal((4, 3, 32, 32))
        clips.append((255 * clip.clip(0, 1)).round().astype(np.uint8))
    return torch.from_numpy(np.stack(clips))


def made(name: str, *changes: str) -> Any:
    return small(settings(name, *SIZES[name], *changes)).train()


def trained(name: str, *changes: str, steps: int = 100, lr: float = 1e-2, seed: int = 0) -> tuple[Any, Batch]:
    """After some steps, and a batch that no training sees."""
    config = settings(name, *SIZES[name], *changes)
    objective = small(config, seed)
    train(objective, steps, config, lr, size=16, clips=ramps)
    return objective, batch_of(HELD_OUT, config.mask, clips=ramps)


def differences(batch: Batch) -> float:
    """Mean squared distance of clips from their mean clip."""
    clip = batch.views[0].float() / 255
    return float((clip - clip.mean(dim=0)).square().mean())


def denoising(objective: Any, batch: Batch) -> Tensor:
    """Squared distance of what is made of a corrupted clip to the clip, token by token."""
    clip = batch.views[0].float() / 255
    restored = objective.decoder(objective.encoder.encode(objective.corrupt(clip, batch.ids)).flatten(1, 2))
    gaps = []
    for token in range(32):
        step, place = divmod(token, 16)
        y, x = (8 * part for part in divmod(place, 4))
        wanted = clip[:, 2 * step : 2 * step + 2, :, y : y + 8, x : x + 8]
        gaps.append((restored[:, token].reshape(wanted.shape) - wanted).square().mean())
    return torch.stack(gaps).mean()


def test_denoising_is_the_squared_distance_to_the_clip_without_noise() -> None:
    same_loss_and_gradients(made("denoising", "noise=0.1"), batch_of(range(4)), denoising)


def test_noise_is_each_samples_own() -> None:
    clip = torch.full((6, 4, 3, 32, 32), 0.5)
    black = made("denoising").corrupt(clip, range(6))
    assert set(black.unique().tolist()) == {0.0, 0.5}
    assert (black.amax(dim=2) == black.amin(dim=2)).all()  # all channels of a pixel
    assert float((black == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(made("denoising").corrupt(clip[:2], range(3, 5)), black[3:5])
    assert not torch.equal(black[0], black[1])
    gauss = made("denoising", "black=0", "noise=0.1").corrupt(clip, range(6))
    assert float((gauss - clip).std()) == pytest.approx(0.1, abs=0.005)


def test_denoising_removes_noise_from_clips_that_no_training_saw() -> None:
    objective, batch = trained("denoising")
    with torch.no_grad():
        restored = float(objective(batch)["loss"])
    assert restored < 0.2 * objective.monitor(batch)["corrupted_loss"]
    assert restored < 0.5 * differences(batch)


def evidence(objective: Any, batch: Batch) -> Tensor:
    """The negative evidence lower bound per pixel, less its constant: beta 2, pixels' std 0.2."""
    clip = batch.views[0].float() / 255
    tokens = objective.encoder.encode(clip).flatten(1, 2)
    means, logs = objective.posterior(tokens.mean(dim=1)).chunk(2, dim=1)
    posterior = Normal(means, (0.5 * logs).exp())
    code = means + posterior.stddev * keyed_noise(means, batch.ids, 0)
    moved = 0.1 * (clip.mean(dim=0) - 0.5)  # the moving average of clips begins at 0.5
    pixels = objective.decoder(code[:, None]).reshape(clip.shape) + moved
    likelihood = Normal(pixels, 0.2).log_prob(clip).sum(dim=(1, 2, 3, 4))
    constant = Normal(0.0, 0.2).log_prob(torch.tensor(0.0)) * clip[0].numel()
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    return -(likelihood - constant - 2 * divergence).mean() / clip[0].numel()


def test_the_vaes_loss_is_its_evidence_lower_bound() -> None:
    objective = made("vae", "beta=2.0", "pixel_std=0.2")
    torch.nn.init.normal_(objective.decoder.pixels.weight, std=0.1)  # zero at first
    same_loss_and_gradients(objective, batch_of(range(4)), evidence)


def test_the_vaes_code_says_what_a_clip_shows_unless_it_must_be_noise() -> None:
    figures = []
    for beta in (1.0, 1e4):
        objective, batch = trained("vae", f"beta={beta}")
        with torch.no_grad():
            values = objective(batch)
        active = objective.monitor(batch)["active_latents"]
        figures.append((float(values["kl"]), float(values["pixel_error"]) ** 2 / differences(batch), active))
    (said, error, active), (nothing, blind, inactive) = figures
    assert said > 8 > 0.5 > nothing
    assert active >= 3 and inactive == 0
    assert error < 0.6 and blind > 0.8


@pytest.mark.parametrize(("name", "hidden", "normalised"), [("mae", 24, True), ("context_encoder", 8, False)])
def test_what_is_hidden_and_predicted(name: str, hidden: int, normalised: bool) -> None:
    config = settings(name)
    objective, batch = small(config), batch_of(range(4), config.mask)
    assert isinstance(objective, MaskedPixelPrediction)
    assert objective.config.loss == "l2" and objective.config.normalise == normalised
    (mask,) = batch.masks
    assert mask.context.shape == (4, 32 - hidden) and mask.target.shape == (4, hidden)
    for row in mask.target.tolist():
        first = [token for token in row if token < 16]
        assert sorted(row) == sorted([*first, *(token + 16 for token in first)])  # through all time
        if name == "context_encoder":  # a square
            corner = min(first)
            assert sorted(first) == [corner, corner + 1, corner + 4, corner + 5]


@pytest.mark.parametrize(("name", "share"), [("mae", 0.85), ("context_encoder", 0.7)])
def test_hidden_pixels_of_clips_that_no_training_saw_are_filled_in(name: str, share: float) -> None:
    objective, batch = trained(name, steps=200, lr=5e-3)
    with torch.no_grad():
        loss = float(objective(batch)["loss"])
    figures = objective.monitor(batch)
    assert loss < share * min(figures["predict_mean_loss"], figures["position_mean_loss"])


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (DenoisingConfig, {"black": 0.0}, "nothing to remove"),
        (DenoisingConfig, {"black": 1.0}, "below 1"),
        (DenoisingConfig, {"noise": -1.0}, "not negative"),
        (VAEConfig, {"beta": -1.0}, "not be negative"),
        (VAEConfig, {"pixel_std": 0.0}, "must be positive"),
        (VAEConfig, {"latent": 0}, "at least 1"),
    ],
)
def test_settings_that_contradict(kind: type[ObjectiveConfig], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**wrong)
