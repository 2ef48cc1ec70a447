"""Windows: which action leads from which frame, and which episodes are used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.windows import Windows

Make = Callable[..., dict[str, np.ndarray]]


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


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 64])  # rows of 192 bytes are read at once, those of 12,288 one by one
@pytest.mark.parametrize("mapped", [False, True])
def test_rows_read_in_place_are_the_rows(
    tmp_path: Path, make_episode: Make, stride: int, size: int, mapped: bool
) -> None:
    writer = EpisodeWriter(tmp_path, {})
    for index in range(3):
        writer.write(index, make_episode(index, steps=9 + index, size=size))
    store = EpisodeStore(tmp_path)
    windows = Windows(store, range(3), steps=2, stride=stride, history=1, mapped=mapped)
    span = 3 * stride
    found = windows.frames(range(len(windows)))
    wanted = [
        store[episode]["frames"][:][start : start + span + 1 : stride]
        for episode in range(3)
        for start in range(9 + episode + 1 - span)
    ]
    np.testing.assert_array_equal(found, np.stack(wanted))


def test_where_rows_cannot_be_read_in_place_they_are_the_same(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Windows(store, range(12), steps=4, stride=2, mapped=False)
    whole = windows.frames(range(len(windows)))
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(windows.frames(range(len(windows))), whole)


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_at_the_beginning_of_an_episode_are_padded(store: EpisodeStore, stride: int) -> None:
    """As an agent sees it that has just begun: of its context, only the last `length` frames are real."""
    plain = Windows(store, range(12), steps=2, stride=stride)
    padded = Windows(store, range(12), steps=2, stride=stride, history=3, pad=True)
    assert len(padded) == len(plain)  # every present that a window without history has
    items = list(range(len(plain)))
    frames, actions, lengths = padded.frames(items), padded.actions(items), padded.lengths(items)
    assert frames.shape == (len(items), 6, 3, 32, 32) and actions.shape == (len(items), 5, stride, 2)
    np.testing.assert_array_equal(frames[:, 3:], plain.frames(items))
    np.testing.assert_array_equal(actions[:, 3:], plain.actions(items))
    for item in items:
        episode, present = plain.locate(item)
        real = min(present // stride, 3)
        assert lengths[item] == real + 1
        own = store[episode]["frames"][:]
        acted = store[episode]["actions"][:][:, 0]
        for back in range(4):
            wanted = own[present - min(back, real) * stride]
            np.testing.assert_array_equal(frames[item, 3 - back], wanted)
        for back in range(1, 4):
            begin = present - back * stride
            block = acted[begin : begin + stride] if back <= real else np.zeros((stride, 2))
            np.testing.assert_array_equal(actions[item, 3 - back], block)
    whole = Windows(store, range(12), steps=2, stride=stride, history=3)
    assert (whole.lengths(range(len(whole))) == 4).all()
    assert len(whole) < len(padded)


def test_proprioception_belongs_to_its_frames(tmp_path: Path, make_episode: Make) -> None:
    writer = EpisodeWriter(tmp_path, {})
    for index in range(2):
        episode = make_episode(index, steps=6)
        writer.write(index, {**episode, "proprio": np.arange(21.0).reshape(7, 3) + 100 * index})
    windows = Windows(EpisodeStore(tmp_path), range(2), steps=1, stride=2, history=1, pad=True)
    proprio = windows.proprio(range(len(windows)))
    assert proprio.dtype == np.float32 and proprio.shape == (len(windows), 3, 3)
    places = [windows.locate(item) for item in range(len(windows))]
    assert places[0] == (0, -2) and places[1] == (0, -1) and places[2] == (0, 0)
    np.testing.assert_array_equal(proprio[:, :, 0][:3] / 3, [[0, 0, 2], [1, 1, 3], [0, 2, 4]])
    np.testing.assert_array_equal(proprio[-1, :, 0], [100 + 6, 100 + 12, 100 + 18])


def test_mistakes_name_file_and_episode(store: EpisodeStore, tmp_path: Path, make_episode: Make) -> None:
    windows, unmapped = (Windows(store, range(12), steps=4, mapped=mapped) for mapped in (True, False))
    with pytest.raises(ValueError, match=r"episode 0 of .*data has no array 'proprio'"):
        windows.proprio([0])
    with pytest.raises(IndexError, match="no window 108, only 0 to 107"):
        windows.frames([108])
    with pytest.raises(ValueError, match="stride=0 at least 1"):
        Windows(store, range(12), steps=2, stride=0)
    with pytest.raises(ValueError, match="out must be contiguous uint8"):
        windows.frames([0], out=np.empty((1, 5, 3, 32, 32), np.float32))

    writer = EpisodeWriter(tmp_path / "mixed", {})
    writer.write(0, make_episode(0))
    writer.write(1, make_episode(1, size=16))
    mixed = Windows(EpisodeStore(tmp_path / "mixed"), range(2), steps=4)
    with pytest.raises(ValueError, match=r"frames of episode 1 of .*\(3, 16, 16\).*\(3, 32, 32\); convert"):
        mixed.frames([0, 9])

    whole = (store.path / "episodes/000000.safetensors").read_bytes()
    store[0]  # its header is known
    (store.path / "episodes/000000.safetensors").write_bytes(whole[: len(whole) // 2])
    for reader in (windows, unmapped):
        with pytest.raises(ValueError, match="000000.safetensors is cut short"):
            reader.frames([8])


def test_maps_stay_in_their_process_and_their_number_is_limited(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickled map would be the whole episode, sent to every worker."""
    windows = Windows(store, range(12), steps=4)
    fresh = len(pickle.dumps(windows))
    monkeypatch.setattr("worldmodel.data.windows._MAPS", 5)
    whole = windows.frames(range(len(windows)))
    windows.actions(range(len(windows)))
    assert 0 < len(windows._maps) <= 5
    sent = pickle.dumps(windows)
    assert len(sent) < fresh + 12 * 2000  # the headers of 12 episodes, not their 480 KB
    np.testing.assert_array_equal(pickle.loads(sent).frames(range(len(windows))), whole)
    with pytest.raises(ValueError, match="read-only"):
        windows._maps[11][0] = 0
