"""Views are keyed by the sample, change what they are told to, and treat all frames of a clip alike."""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel.squares import squares
from worldmodel.objectives.views import ViewConfig, blurred, draw_view, draw_views, keyed_noise, luma

PLAIN = {"scale": [1.0, 1.0], "flip": 0.0, "jitter": 0.0, "grey": 0.0}


def test_a_view_depends_on_its_sample_and_nothing_else() -> None:
    config, ids = ViewConfig(blur=0.5, solarise=0.3, noise=0.1, frames=2), range(40, 46)
    whole = draw_view(squares(ids), ids, 3, 1, config)
    assert whole.shape == (6, 2, 3, 32, 32) and whole.min() >= 0 and whole.max() <= 1
    part = draw_view(squares(ids[2:5]), ids[2:5], 3, 1, config)
    torch.testing.assert_close(part, whole[2:5], rtol=0, atol=1e-5)
    for seed, number in ((4, 1), (3, 2)):
        assert (draw_view(squares(ids), ids, seed, number, config) - whole).abs().mean() > 0.02


def test_nothing_changes_without_strength_and_floats_are_as_bytes() -> None:
    ids = range(3)
    clip = squares(ids)
    torch.testing.assert_close(draw_view(clip, ids, 0, 0, ViewConfig(**PLAIN)), clip / 255)
    views = [draw_view(x, ids, 0, 0, ViewConfig()) for x in (clip, clip / 255)]
    torch.testing.assert_close(*views)


def test_kinds_and_counts() -> None:
    kinds = {"large": ViewConfig(count=2), "small": ViewConfig(count=3, size=0.43, target=False)}
    views = draw_views(squares(range(2)), range(2), 0, kinds, patch=8)
    assert [(*view.clip.shape[-2:], view.target) for view in views] == 2 * [(32, 32, True)] + 3 * [
        (16, 16, False)
    ]
    assert (views[0].clip - views[1].clip).abs().mean() > 0.01


def test_a_crop_is_a_part_of_the_picture_also_mirrored() -> None:
    ids = range(64)
    across = torch.linspace(0, 1, 33)[:-1].expand(64, 1, 3, 32, 32)  # brightness tells the column
    config = ViewConfig(**{**PLAIN, "scale": [0.25, 0.25], "ratio": [1.0, 1.0], "flip": 0.5})
    view = draw_view(across, ids, 0, 0, config)
    slopes = view[:, 0, 0, 0].diff(dim=1)
    torch.testing.assert_close(
        slopes.abs().median(dim=1).values, torch.full((64,), 1 / 64), atol=1e-3, rtol=0
    )
    mirrored = (slopes.mean(dim=1) < 0).float().mean()
    assert 0.3 < mirrored < 0.7
    starts = view[:, 0, 0, 0].min(dim=1).values
    assert starts.min() < 0.08 and starts.max() > 0.4


@pytest.mark.parametrize(
    ("name", "value"),
    [("brightness", 0.5), ("contrast", 0.5), ("saturation", 1.0), ("hue", 0.5), ("grey", 1.0)],
)
def test_each_colour_setting_changes_what_it_is_named_after(name: str, value: float) -> None:
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    ids = range(32)
    # Far from black and white, where nothing is cut off.
    clip = 0.4 + 0.2 * torch.rand(32, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    view = draw_view(clip, ids, 0, 0, ViewConfig(**{**PLAIN, **none, "jitter": 1.0, name: value}))
    assert (view - clip).abs().mean() > 0.01
    light = (luma(view).mean(dim=(1, 2, 3, 4)) / luma(clip).mean(dim=(1, 2, 3, 4)) - 1).abs()
    spread = luma(view).flatten(1).std(dim=1) / luma(clip).flatten(1).std(dim=1)
    colour = (view - luma(view)).abs().mean(dim=(1, 2, 3, 4)) / (clip - luma(clip)).abs().mean(
        dim=(1, 2, 3, 4)
    )
    assert (light.max() > 0.2) == (name == "brightness")
    assert ((spread - 1).abs().max() > 0.2) == (name in ("brightness", "contrast"))
    assert (colour.max() < 1e-4) == (name == "grey")


def test_a_blur_is_the_gaussian_of_its_formula() -> None:
    x = torch.zeros(2, 1, 1, 21, 21)
    x[..., 10, 10] = 1
    found = blurred(x, torch.tensor([0.8, 1.6]), radius=9)
    places = torch.arange(21) - 10
    for row, std in enumerate((0.8, 1.6)):
        line = torch.exp(-places.double().square() / (2 * std**2))
        wanted = torch.outer(line, line) / line.sum() ** 2
        torch.testing.assert_close(found[row, 0, 0].double(), wanted, atol=1e-4, rtol=0)


def test_solarising_inverts_what_is_bright() -> None:
    clip = torch.rand(4, 2, 3, 8, 8)
    view = draw_view(clip, range(4), 0, 0, ViewConfig(**PLAIN, solarise=1.0))
    torch.testing.assert_close(view, torch.minimum(clip, 1 - clip))


def test_parts_in_time() -> None:
    ids = range(40)
    clip = (torch.arange(8) / 8).view(1, 8, 1, 1, 1).expand(40, 8, 3, 4, 4)
    begins = {}
    for start in ("first", "last", "random"):
        view = draw_view(clip, ids, 0, 0, ViewConfig(**PLAIN, frames=4, start=start))
        steps = (view[..., 0, 0, 0] * 8).round()
        assert (steps.diff(dim=1) == 1).all()
        begins[start] = set(steps[:, 0].int().tolist())
    assert begins == {"first": {0}, "last": {4}, "random": {0, 1, 2, 3, 4}}
    with pytest.raises(ValueError, match="frames=9"):
        draw_view(clip, ids, 0, 0, ViewConfig(frames=9))


def test_noise_is_normal_and_keyed() -> None:
    ids = range(5, 9)
    noise = keyed_noise(torch.zeros(4, 2, 3, 16, 16), ids, 0)
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    torch.testing.assert_close(keyed_noise(torch.zeros(1, 2, 3, 16, 16), ids[2:3], 0), noise[2:3])


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"flip": 1.5}, {"hue": 0.7}, {"scale": [0.0, 1.0]}, {"ratio": [2.0, 1.0]},
              {"start": "middle"}, {"size": 0.0}]
)  # fmt: skip
def test_impossible_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match="views: "):
        ViewConfig(**wrong)
