"""Windows: which action leads from which frame, and which episodes are used."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.windows import Windows


def test_actions_lead_from_their_frame_to_the_next(store: EpisodeStore) -> None:
    windows = Windows(store, range(12), steps=4)
    assert len(windows) == 12 * 9
    items = [0, 8, 9, 57, len(windows) - 1]
    frames, actions = windows.frames(items), windows.actions(items)
    assert frames.shape == (5, 5, 3, 32, 32)
    assert actions.shape == (5, 4, 1, 2)
    for row, item in enumerate(items):
        episode, start = divmod(item, 9)
        np.testing.assert_array_equal(frames[row], store[episode]["frames"][start : start + 5])
        np.testing.assert_array_equal(actions[row], store[episode]["actions"][start : start + 4])


def test_a_stride_skips_frames_and_joins_actions(store: EpisodeStore) -> None:
    windows = Windows(store, range(12), steps=3, stride=2)
    assert len(windows) == 12 * 7
    np.testing.assert_array_equal(windows.frames([5])[0], store[0]["frames"][5:12:2])
    np.testing.assert_array_equal(windows.actions([5])[0].reshape(6, 2), store[0]["actions"][5:11][:, 0])


def test_episodes_left_out_are_never_read(store: EpisodeStore) -> None:
    windows = Windows(store, range(3, 5), steps=12)
    assert [windows.locate(item) for item in range(len(windows))] == [(3, 0), (4, 0)]


def test_too_long_windows_and_unknown_arrays_are_refused(store: EpisodeStore) -> None:
    with pytest.raises(ValueError, match="no episode has the 13 steps"):
        Windows(store, range(12), steps=13)
    with pytest.raises(ValueError, match="has no array 'tokens'"):
        Windows(store, range(12), steps=2, array="tokens")
