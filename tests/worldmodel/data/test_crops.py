"""Boxes, resizing and flips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.data.crops import (
    Box,
    centre_box,
    crop_resize,
    crop_resize_picture,
    flip_clips,
    flip_flags,
    random_box,
    three_boxes,
)


@pytest.mark.parametrize(
    "size", [(240, 320), (320, 240), (64, 64), (100, 1000), (1000, 90), (1, 1), (2, 300)]
)
def test_random_boxes_are_inside_and_of_an_allowed_shape(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, height, width = random_box(rng, *size)
        assert 0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1]
        assert height >= 1 and width >= 1
        if min(size) >= 64:
            assert 0.73 <= width / height <= 1.38


def test_random_boxes_spread_over_area_and_shape() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, 480, 480) for _ in range(2000)])
    area, shape = boxes[:, 2] * boxes[:, 3] / 480**2, boxes[:, 3] / boxes[:, 2]
    assert area.min() < 0.32 and area.max() > 0.95 and 0.55 < area.mean() < 0.65
    assert abs(np.log(shape).mean() - np.log(0.75 * 1.35) / 2) < 0.02
    assert shape.min() < 0.78 and shape.max() > 1.3
    assert random_box(rng, 100, 200, scale=(1.0, 1.0), ratio=(2.0, 2.0)) == Box(0, 0, 100, 200)


def test_fixed_boxes() -> None:
    assert centre_box(100, 161) == Box(0, 30, 100, 100)
    assert centre_box(300, 200, 0.5) == Box(100, 50, 100, 100)
    assert three_boxes(100, 161) == (Box(0, 0, 100, 100), Box(0, 30, 100, 100), Box(0, 61, 100, 100))
    assert three_boxes(170, 100) == (Box(0, 0, 100, 100), Box(35, 0, 100, 100), Box(70, 0, 100, 100))
    assert three_boxes(64, 64) == (Box(0, 0, 64, 64),) * 3


def test_all_frames_are_cut_alike() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 40, 60), dtype=np.uint8)
    box = Box(4, 10, 16, 16)
    np.testing.assert_array_equal(crop_resize(frames, box, 16), frames[:, :, 4:20, 10:26])
    small = crop_resize(frames, Box(5, 7, 30, 50), 24)
    assert small.shape == (3, 3, 24, 24) and small.dtype == np.uint8
    np.testing.assert_array_equal(
        small[1], crop_resize_picture(frames[1].transpose(1, 2, 0), Box(5, 7, 30, 50), 24)
    )


def test_resizing_is_bilinear_and_antialiased() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    down = crop_resize_picture(ramp, Box(0, 0, 100, 200), 50).astype(int)
    np.testing.assert_allclose(down[0, 0], (np.arange(50) + 0.5) * 4 - 0.5, atol=1.1)
    checks = np.repeat((np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    grey = crop_resize_picture(checks, Box(0, 0, 128, 128), 32).astype(int)
    assert abs(grey - 127.5).max() < 3, "every second pixel would be black or white"
    clip = torch.from_numpy(checks[:96].copy()).permute(2, 0, 1)[None].float()
    theirs = torch.nn.functional.interpolate(
        clip, (40, 40), mode="bilinear", antialias=True, align_corners=False
    )
    ours = crop_resize_picture(checks, Box(0, 0, 96, 128), 40)
    assert np.abs(theirs[0].numpy() - ours).max() < 2


def test_flips_depend_on_the_sample_only() -> None:
    flags = flip_flags(3, range(100, 400))
    assert 0.4 < flags.mean() < 0.6
    np.testing.assert_array_equal(flags[50:60], flip_flags(3, range(150, 160)))
    assert (flags != flip_flags(4, range(100, 400))).any()
    assert not flip_flags(3, range(50), 0.0).any() and flip_flags(3, range(50), 1.0).all()

    clips = torch.randint(0, 256, (3, 2, 3, 4, 5), dtype=torch.uint8)
    flipped = flip_clips(clips, torch.tensor([True, False, True]))
    assert flipped.dtype == torch.uint8
    torch.testing.assert_close(flipped[1], clips[1])
    torch.testing.assert_close(flipped[::2], torch.stack([clips[0].flip(-1), clips[2].flip(-1)]))
