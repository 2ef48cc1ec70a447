"""Nearest clips: no clip that shares a moment, the share of the same video, its controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.report.retrieval import (
    ClipBank,
    choose_queries,
    clip_vectors,
    nearest,
    pixel_vectors,
    same_video,
)


def bank(names: str, starts: list[float]) -> ClipBank:
    return ClipBank(np.zeros((len(names), 4, 3, 8, 8), dtype=np.uint8), tuple(names), tuple(starts), fps=4.0)


def test_clips_that_share_a_moment_are_left_out() -> None:
    clips = bank("aaab", [0.0, 0.5, 3.0, 0.0])  # clips last a second
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.01], [0.5, 1], [1, 0.2]]), dim=1)
    found = nearest(vectors, clips, 3)
    assert [match.index for match in found[0]] == [3, 2]
    assert found[0][0].cosine == pytest.approx(1 / 1.04**0.5)


def test_clips_may_last_for_different_times() -> None:
    """Steps counted in frames last as long as the video's rate makes them."""
    frames = np.zeros((3, 4, 3, 8, 8), dtype=np.uint8)
    clips = ClipBank(frames, ("a", "a", "a"), (0.0, 1.0, 3.0), lengths=(0.5, 2.5, 0.5))
    assert clips.apart().tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    with pytest.raises(ValueError, match="3 clips have 1 lengths"):
        ClipBank(frames, ("a", "a", "a"), (0.0, 1.0, 3.0), lengths=(0.5,))


def test_same_video_counts_only_clips_that_could_be_right_or_wrong() -> None:
    clips = bank("aabbc", [0.0, 5.0, 0.0, 5.0, 0.0])
    vectors = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0]])
    found = same_video(vectors, clips)
    assert found is not None
    assert (found.hits, found.queries) == (4, 4)  # c has no other clip
    assert found.chance == pytest.approx(1 / 4)
    assert same_video(vectors[:2], bank("aa", [0.0, 5.0])) is None
    assert same_video(vectors, bank("abcde", [0.0] * 5)) is None


def test_vectors_of_encoders_and_pixels(fake: Any) -> None:
    clips = fake.make_bank()
    for vectors in (clip_vectors(fake.make_encoder(), clips.frames), pixel_vectors(clips.frames)):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(clips)))
        found = same_video(vectors, clips)
        assert found is not None
        assert found.hits == found.queries == 12  # each video has a ground of its own


def test_queries_come_from_many_videos() -> None:
    clips = bank("aaabbc", [0.0] * 6)
    assert choose_queries(clips, 3) == [0, 3, 5]
    assert choose_queries(clips, 4) == [0, 1, 3, 5]
    assert choose_queries(clips, 99) == list(range(6))


def test_a_bank_of_unequal_lengths_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 clips have 1 names"):
        ClipBank(np.zeros((2, 4, 3, 8, 8), dtype=np.uint8), ("a",), (0.0, 1.0))
    with pytest.raises(ValueError, match="uint8"):
        ClipBank(np.zeros((2, 4, 3, 8, 8), dtype=np.float32), ("a", "b"), (0.0, 1.0))
