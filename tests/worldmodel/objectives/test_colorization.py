"""Colorization: colours against known ones, the loss against its formula, and that rare colours count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.scenes import HELD_OUT, scenes
from tests.worldmodel.objectives.systems import SIZE, batch_of, settings, small, train
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.colorization import Colorization, ColorizationConfig
from worldmodel.objectives.colours import colour_bins, grey_of, srgb_to_lab

SMALL = ("bin=25.0", "places=2")


def made(*changes: str, seed: int = 0) -> Colorization:
    objective = small(settings("colorization", *SMALL, *changes), seed)
    assert isinstance(objective, Colorization)
    return objective


def lab(red: float, green: float, blue: float) -> list[float]:
    """CIE Lab of one sRGB colour, from the standards' formulas."""
    light = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    rows = [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
    xyz = [sum(a * b for a, b in zip(row, light, strict=True)) for row in rows]
    ratios = [value / white for value, white in zip(xyz, (0.9505, 1.0, 1.089), strict=True)]
    x, y, z = (r ** (1 / 3) if r > (6 / 29) ** 3 else r / (3 * (6 / 29) ** 2) + 4 / 29 for r in ratios)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_colours_are_those_of_the_standard() -> None:
    known = {
        (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
        (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
        (0.0, 1.0, 0.0): (87.73, -86.18, 83.18),
        (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
    }
    for colour, wanted in known.items():
        found = srgb_to_lab(torch.tensor(colour).view(3, 1, 1)).flatten()
        torch.testing.assert_close(found, torch.tensor(wanted), atol=0.05, rtol=0)
    some = torch.rand(4, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    found = srgb_to_lab(some)
    for sample, row, column in ((0, 0, 0), (1, 2, 4), (3, 1, 2)):
        wanted = lab(*some[sample, :, row, column].tolist())
        torch.testing.assert_close(found[sample, :, row, column], torch.tensor(wanted), atol=1e-3, rtol=1e-3)


def test_the_encoder_sees_lightness_only() -> None:
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, 0] *= 0.02  # also near black
    grey = grey_of(x)
    torch.testing.assert_close(srgb_to_lab(grey)[:, 0], srgb_to_lab(x)[:, 0], atol=1e-2, rtol=1e-3)
    assert srgb_to_lab(grey)[:, 1:].abs().max() < 0.05
    objective, clip = made(), batch_of(range(2)).views[0]
    logits = objective._compare(clip)[0]
    torch.testing.assert_close(
        objective._compare(grey_of(clip.float() / 255))[0], logits, atol=1e-3, rtol=1e-3
    )


def test_bins_cover_the_colours_that_screens_show() -> None:
    bins = colour_bins(10.0)
    assert len(bins) == pytest.approx(260, abs=3)
    assert len(torch.unique(bins, dim=0)) == len(bins)
    some = srgb_to_lab(torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)))[1:].flatten(1).T
    assert (
        torch.cdist(some, bins).amin(dim=1).max() < 5 * math.sqrt(2) + 1
    )  # close to the edge, the cube is a little coarse


def colours(clip: Tensor) -> Tensor:
    """Mean a and b ``(B, 32, 4, 2)`` at 2 x 2 places of each of 4 x 4 patches in 2 steps, in order of their ids."""
    ab = srgb_to_lab(clip.float() / 255)[:, :, 1:]
    rows = []
    for step in range(2):
        for patch in range(16):
            for place in range(4):
                y, x = (8 * a + 4 * b for a, b in zip(divmod(patch, 4), divmod(place, 2), strict=True))
                rows.append(ab[:, 2 * step : 2 * step + 2, :, y : y + 4, x : x + 4].mean(dim=(1, 3, 4)))
    return torch.stack(rows, dim=1).unflatten(1, (32, 4))


def test_loss_and_gradients_are_the_formula() -> None:
    objective, batch = made("momentum=0.5").train(), batch_of(range(2))
    bins, count = objective.bins, len(objective.bins)
    tokens = objective.encoder.encode(grey_of(batch.views[0].float() / 255)).flatten(1, 2)
    logs = objective.classifier(tokens).reshape(2, 32, 4, count).log_softmax(dim=-1)
    wanted, first, seen = [], [], torch.zeros(count)
    for colour, log in zip(colours(batch.views[0]).flatten(0, 2), logs.flatten(0, 2), strict=True):
        gaps = (bins - colour).square().sum(dim=1)
        near = gaps.argsort()[:5]
        shares = torch.exp(-gaps[near] / (2 * 5**2))
        shares = shares / shares.sum()
        wanted.append(-(shares * log[near]).sum())
        first.append(int(near[0]))
        seen[near] += shares
    frequencies = 0.5 / count + 0.5 * seen / seen.sum()
    weights = 1 / (0.5 * frequencies + 0.5 / count)
    weights = weights / (frequencies * weights).sum()
    loss = (weights[first] * torch.stack(wanted)).mean()
    found = objective(batch)["loss"]
    torch.testing.assert_close(objective.frequencies, frequencies, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found, loss, rtol=1e-3, atol=1e-4)
    trained = list(objective.parameters())
    mine, theirs = (torch.autograd.grad(value, trained) for value in (found, loss))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=5e-3, atol=1e-3 * scale)


def test_frequencies_are_counted_in_training_only_and_saved() -> None:
    objective = made()
    before = objective.frequencies.clone()
    objective.eval()(batch_of(range(4)))
    assert torch.equal(objective.frequencies, before)
    objective.train()(batch_of(range(4)))
    assert not torch.equal(objective.frequencies, before)
    assert float(objective.frequencies.sum()) == pytest.approx(1)
    assert "frequencies" in objective.state_dict()


def test_a_rare_colour_counts_for_more() -> None:
    objective = made("uniform=0.25")
    objective.frequencies.copy_(torch.linspace(1, 3, len(objective.bins)).softmax(dim=0))
    weights = objective.weights()
    assert (weights.diff() < 0).all()
    assert float((weights * objective.frequencies).sum()) == pytest.approx(1)
    even = made("uniform=1.0")
    even.frequencies.copy_(objective.frequencies)
    torch.testing.assert_close(even.weights(), torch.ones_like(weights))


def test_held_out_greys_get_their_colours() -> None:
    objective = made("momentum=0.8")
    train(objective, 40, settings("colorization"), lr=4e-3, size=16, clips=scenes)
    figures = objective.monitor(batch_of(HELD_OUT, clips=scenes))
    assert figures["accuracy"] > 1.25 * figures["common_accuracy"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"places": 3}, "places=3 must divide encoder.patch_size=8"),
        ({"bin": 0.0}, "must be positive"),
        ({"uniform": 0.0}, "above 0"),
        ({"momentum": 1.0}, "below 1"),
        ({"bin": 300.0}, "lower one of them"),
    ],
)
def test_settings_that_contradict(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Colorization(VideoEncoder(SIZE), ColorizationConfig(**wrong))
