"""VideoMAE against a plain computation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.masked_pixels import MaskedPixelPrediction, MaskedPixelsConfig, pixel_targets

Make = Callable[..., tuple[Objective, Batch]]


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("as_float", [False, True])
def test_the_target_is_each_patchs_pixels_normalised_channel_by_channel(
    loss: str, as_float: bool, make: Make
) -> None:
    objective, batch = make(MaskedPixelsConfig(loss=loss))
    assert isinstance(objective, MaskedPixelPrediction)
    clip, mask = batch.views[0], batch.masks[0]
    if as_float:
        batch = type(batch)(0, batch.ids, (clip.float() / 255,), batch.masks)
    context = objective.encoder.encode(clip, keep=mask.context)
    predicted = objective.decoder(context, mask.context, mask.target)
    assert predicted.shape[-1] == 2 * 3 * 8 * 8
    gaps = []
    for row in range(4):
        for slot, token in enumerate(mask.target[row].tolist()):
            step, place = divmod(token, 16)
            y, x = (8 * part for part in divmod(place, 4))
            patch = clip[row, 2 * step : 2 * step + 2, :, y : y + 8, x : x + 8].float() / 255
            values = predicted[row, slot].reshape(2, 3, 8, 8)
            for channel in range(3):
                pixels = patch[:, channel]
                wanted = (pixels - pixels.mean()) / (pixels.std() + 1e-6)  # unbiased: over 127, not 128
                gap = values[:, channel] - wanted
                gaps.append(gap.abs().mean() if loss == "l1" else gap.square().mean())
    torch.testing.assert_close(objective(batch)["loss"], torch.stack(gaps).mean(), atol=1e-4, rtol=1e-4)


def test_raw_pixels_are_the_other_choice(make: Make) -> None:
    objective, batch = make(MaskedPixelsConfig(normalise=False))
    assert isinstance(objective, MaskedPixelPrediction)
    targets = pixel_targets(objective.encoder, batch.views[0], normalise=objective.config.normalise)
    assert targets.shape == (4, 32, 2 * 3 * 8 * 8)
    assert targets.min() >= 0 and targets.max() <= 1
    assert float(targets.mean()) == pytest.approx(float(batch.views[0].float().mean()) / 255, abs=1e-5)


def test_a_patch_of_one_colour_is_no_division_by_zero(make: Make) -> None:
    objective, batch = make(MaskedPixelsConfig())
    black = type(batch)(0, batch.ids, (torch.zeros_like(batch.views[0]),), batch.masks)
    loss = objective(black)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_monitors_know_the_baseline(make: Make) -> None:
    objective, batch = make(MaskedPixelsConfig())
    figures = objective.monitor(batch)
    assert figures["predict_mean_loss"] == pytest.approx(1, abs=0.05)  # the variance of normalised pixels
    assert {"token_std", "token_rank", "clip_rank"} <= figures.keys()
    assert set(objective.parts()) == {"encoder", "decoder"}
