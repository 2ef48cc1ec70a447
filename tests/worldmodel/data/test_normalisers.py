"""Normaliser statistics: exact, of the training episodes only, and never of other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.normalisers import Moments, compute, load_or_compute

Make = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6, -1e9])
def test_moments_in_parts_are_those_of_the_whole(offset: float) -> None:
    """A difference of sums of squares has no correct digit left at a mean of 1e9."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 3)) * [1.0, 0.01, 0.0] + offset
    moments = Moments(3)
    for part in np.split(rows, [1, 2, 700, 700, 4000]):
        moments.add(part)
    found = moments.statistics()
    long = rows.astype(np.longdouble)
    assert found.count == 5000
    np.testing.assert_allclose(found.mean, long.mean(axis=0).astype(float), rtol=1e-15, atol=1e-16)
    np.testing.assert_allclose(found.std, long.std(axis=0, ddof=1).astype(float), rtol=1e-12, atol=1e-16)
    assert found.std[2] == 0.0
    np.testing.assert_array_equal([found.low, found.high], [rows.min(axis=0), rows.max(axis=0)])


def test_they_are_of_the_episodes_asked_for_only(store: EpisodeStore, tmp_path: Path) -> None:
    found = compute(store, range(3, 7))
    assert set(found) == {"actions"}  # what the data do not have is left out
    actions = store.gather("actions", range(3, 7)).astype(np.float64).reshape(-1, 2)
    assert found["actions"].count == 4 * 12
    np.testing.assert_allclose(found["actions"].mean, actions.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found["actions"].std, actions.std(axis=0, ddof=1), rtol=1e-13)
    assert compute(store, range(2, 7)) != found


def test_a_file_keeps_them_and_is_refused_for_anything_else(store: EpisodeStore, tmp_path: Path) -> None:
    path = tmp_path / "normalisers.json"
    found = load_or_compute(path, store, range(10))
    written = path.read_bytes()
    assert load_or_compute(path, store, range(10)) == found == compute(store, range(10))
    assert path.read_bytes() == written
    with pytest.raises(ValueError, match="statistics of episodes=10, now episodes=9 .* delete it"):
        load_or_compute(path, store, range(9))
    with pytest.raises(ValueError, match="statistics of episodes_hash="):
        load_or_compute(path, store, range(2, 12))
    with pytest.raises(ValueError, match="statistics of names="):
        load_or_compute(path, store, range(10), ["actions"])

    writer = EpisodeWriter(
        store.path, {key: value for key, value in store.meta.items() if key != "format_version"}
    )
    arrays = {name: array[:] for name, array in store[0].items()}
    writer.write(12, arrays)
    with pytest.raises(ValueError, match=r"normalisers.json holds statistics of data="):
        load_or_compute(path, EpisodeStore(store.path), range(10))

    content = json.loads(written)
    del content["arrays"]["actions"]["std"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="normalisers.json is damaged"):
        load_or_compute(path, store, range(10))
    path.write_text("[]")
    with pytest.raises(ValueError, match="no file of statistics"):
        load_or_compute(path, store, range(10))


def test_values_that_are_none_name_the_episode(tmp_path: Path, make_episode: Make) -> None:
    writer = EpisodeWriter(tmp_path, {})
    for index in range(3):
        episode = make_episode(index)
        episode["states"][2, 0] = np.nan if index == 1 else 0.0
        writer.write(index, episode)
    with pytest.raises(ValueError, match="states of episode 1 of .*: some values are not finite"):
        compute(EpisodeStore(tmp_path), range(3), ["states"])
    with pytest.raises(ValueError, match="rows have 4 features, those before 3"):
        Moments(3).add(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="1 rows have no standard deviation"):
        moments = Moments(3)
        moments.add(np.zeros((1, 3)))
        moments.statistics()
