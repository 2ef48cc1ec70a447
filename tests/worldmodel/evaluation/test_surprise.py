"""Surprise of the true dynamics at what cannot happen, beside guesses that nothing moves."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.worldmodel.evaluation.moving_point import DEAF, EXACT, WALL, draw, episodes
from worldmodel.evaluation.surprise import (
    BEFORE,
    SPAN,
    FreeMotion,
    example_events,
    make_events,
    score_events,
)


def aurocs(found: dict, scorer: str = "model") -> dict[str, float]:
    return {name: e["scorers"][scorer]["auroc"]["value"] for name, e in found["events"].items()}


def test_the_true_dynamics_are_surprised_and_a_guess_that_nothing_moves_is_not_by_a_freeze() -> None:
    data = episodes(16, wall=True)
    motion = FreeMotion.fit(episodes(30, first=100, wall=True), [0, 1])
    events = make_events(data, 1, render=draw, motion=motion)
    assert set(events.events) == {"teleport", "colour", "freeze", "wall"} and not events.unavailable
    found, traces = score_events(EXACT, data, events)
    assert all(value > 0.9 for value in aurocs(found).values()), aurocs(found)
    assert aurocs(found, "copy_last")["freeze"] < 0.1
    assert aurocs(found, "pixels")["freeze"] < 0.1
    for event in found["events"].values():
        scores = event["scorers"]["model"]["auroc"]
        assert scores["interval"][0] <= scores["value"] <= scores["interval"][1]
    deaf, _ = score_events(DEAF, data, events)
    assert aurocs(deaf) == aurocs(deaf, "copy_last")
    assert traces["wall.edited"].shape[1] == BEFORE + SPAN
    # Up to the event nothing is edited.
    assert np.allclose(
        traces["teleport.edited"][:, :BEFORE], traces["teleport.true"][:, :BEFORE], equal_nan=True
    )


def test_free_motion_is_found_beside_walls_and_goes_through_them() -> None:
    data = episodes(30, wall=True)
    motion = FreeMotion.fit(data, [0, 1])
    assert np.allclose(motion.matrix[:2], 3 * np.eye(2), atol=0.2) and motion.explained > 0.95
    events = make_events(data, 1, render=draw, motion=motion).events["wall"]
    for event in events:
        before = data[event.episode].states
        assert before is not None
        rows = [np.flatnonzero((frame[0] > 100).any(axis=1))[0] for frame in event.frames]
        stopped_by_wall = abs(before[event.step][0] - WALL) < 0.6 and rows[-1] > WALL
        sideways = abs(before[event.step] - np.round(before[event.step])).sum() >= 0
        assert stopped_by_wall or sideways
    assert any(data[e.episode].states[e.step][0] == WALL for e in events)  # type: ignore[index]


def test_what_cannot_be_made_is_said() -> None:
    data = episodes(4)
    assert "cannot draw" in make_events(data, 1).unavailable["wall"]
    assert "told from the data" in make_events(data, 1, render=draw).unavailable["wall"]
    grey = [dataclasses.replace(e, frames=e.frames[:, :1]) for e in data]
    assert make_events(grey, 1).unavailable["colour"] == "frames have no colour"
    short = make_events(episodes(3, steps=2), 1).unavailable
    assert short["teleport"] == "the held-out episodes are too short"


def test_editing_changes_no_episode_and_depends_on_no_other() -> None:
    data = episodes(4)
    copies = [e.frames.copy() for e in data]
    whole, part = make_events(data, 2), make_events(data[2:], 2)
    assert all(np.array_equal(e.frames, copy) for e, copy in zip(data, copies, strict=True))
    assert all(event.step >= 1 for events in whole.events.values() for event in events)
    later = [e for e in whole.events["teleport"] if e.episode >= 2]
    assert [e.step for e in later] == [e.step for e in part.events["teleport"]]


def test_a_freeze_is_where_something_moved_and_a_colour_is_another() -> None:
    data = episodes(6)
    events = make_events(data, 1).events
    for event in events["freeze"]:
        frames = data[event.episode].frames
        assert (frames[event.step] != frames[event.step + 1]).any()
        assert all((frame == frames[event.step]).all() for frame in event.frames)
    for event in events["colour"]:
        true = data[event.episode].frames[event.step + 1 : event.step + 1 + SPAN]
        assert np.array_equal(np.sort(event.frames, axis=1), np.sort(true, axis=1))
        assert (event.frames != true).any()
    for event in events["teleport"]:
        assert len(event.frames) == SPAN


def test_examples_show_the_moment_before_and_the_event() -> None:
    data = episodes(4)
    shown = example_events(data, make_events(data, 1))
    true, edited = shown["example.colour.true"], shown["example.colour.edited"]
    assert true.shape == edited.shape
    assert (true[:-SPAN] == edited[:-SPAN]).all() and (true[-SPAN:] != edited[-SPAN:]).any()
