"""Which frames are shown, what masks hide, what colours and imagined frames mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.data.episodes import EpisodeStore
from worldmodel.masks import Grid, MaskConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.report.strips import FrameBank, activity, blank_hidden, feature_colors, most_active, spread


@pytest.mark.parametrize(("length", "count"), [(41, 9), (5, 9), (1, 4), (21, 21)])
def test_spread_has_both_ends_and_no_frame_twice(length: int, count: int) -> None:
    shown = spread(length, count)
    assert shown[0] == 0 and shown[-1] == length - 1
    assert len(shown) == len(set(shown)) == min(length, count)


def test_the_most_active_episode_is_the_one_where_most_changes(store: EpisodeStore) -> None:
    scores = {i: activity(store[i]["frames"][:5]) for i in range(3, 12)}
    assert most_active(store, range(3, 12), 2, frames=5) == sorted(scores, key=lambda i: -scores[i])[:2]
    assert most_active(store, range(3, 12), 1, look_at=1) == [3]
    assert activity(store[0]["frames"][:1]) == 0


def test_hidden_tubes_are_transparent_and_the_rest_is_untouched() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    seen = blank_hidden(clip, MaskConfig(ratio=0.75), Grid(2, 4, 4), seed=3)
    alpha = seen[:, 3]
    assert (seen[:, :3] == clip).all()
    assert (alpha == 0).mean() == 0.75 and set(np.unique(alpha)) == {0, 255}
    assert (alpha == alpha[0]).all(), "the same places in every frame"
    assert (
        alpha.reshape(4, 4, 8, 4, 8).max(axis=(2, 4)) == alpha.reshape(4, 4, 8, 4, 8).min(axis=(2, 4))
    ).all(), "whole patches"
    assert (blank_hidden(clip, MaskConfig(ratio=0.75), Grid(2, 4, 4), seed=4)[:, 3] != alpha).any()
    with pytest.raises(ValueError, match="does not fill 2 token steps"):
        blank_hidden(clip[:3], MaskConfig(), Grid(2, 4, 4), seed=3)


def test_features_are_grey_where_nothing_is_and_coloured_where_the_object_is(
    tiny_encoder: VideoEncoderConfig,
) -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(tiny_encoder).eval()
    frames = np.full((17, 3, 32, 32), 40, dtype=np.uint8)
    for place in range(16):  # a square that is once in each of the 4 x 4 patches
        row, column = divmod(place, 4)
        frames[place, :, 8 * row + 1 : 8 * row + 7, 8 * column + 1 : 8 * column + 7] = 220
    colors = feature_colors(encoder, frames, frames)
    assert colors.shape == (17, 3, 4, 4) and colors.dtype == np.uint8
    distance = np.abs(colors.astype(int) - 128).max(axis=1).reshape(17, 16)
    assert (distance[:16].argmax(axis=1) == np.arange(16)).all(), "the patch that stands out is the square's"
    assert distance[16].max() < distance[:16].max() / 2
    # What all frames share must not take a component, or little of the range of colours would be left.
    assert distance[:16].max(axis=1).mean() > 112
    assert (feature_colors(encoder, frames, frames) == colors).all()


def test_a_latent_is_shown_as_the_nearest_frame(store: EpisodeStore, tiny_world_model: WorldModel) -> None:
    bank = FrameBank(tiny_world_model, store, [0, 1])
    frames = store[1]["frames"][:]
    found = bank.nearest(tiny_world_model.encode(torch.from_numpy(frames)))
    assert (found == frames).all()


def test_imagining_begins_at_the_first_frame_and_follows_the_actions(
    store: EpisodeStore, tiny_world_model: WorldModel
) -> None:
    bank = FrameBank(tiny_world_model, store, [0, 1])
    imagined = bank.imagine(11, horizon=5)
    assert (imagined.true == store[11]["frames"][:6]).all()
    assert imagined.retrieved.shape == (5, 3, 32, 32)
    # A model whose dynamics change nothing imagines the first frame for ever.
    for part in tiny_world_model.dynamics.mlp.parameters():
        part.data.zero_()
    still = FrameBank(tiny_world_model, store, [11]).imagine(11, horizon=5)
    assert (still.retrieved == store[11]["frames"][:1]).all()
