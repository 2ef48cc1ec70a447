"""Violation of expectation: is the model more surprised by what cannot happen than by what does?

Surprise of a step is the distance between the predicted next latent and that of the frame which followed. Events are
made by editing held-out episodes; nothing is trained on them. Each figure stands beside the same for a guess that
nothing moves, in latents and in pixels, since a jump can be seen without any understanding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from worldmodel.evaluation.resampling import interval, weighted_auc
from worldmodel.evaluation.trajectories import Imagination, Trajectory, distance
from worldmodel.seeding import keyed_rng

EVENTS = ("teleport", "colour", "freeze", "wall")
#: Steps of an event; its surprise, like that of ordinary moments, is the largest of so many steps.
SPAN = 3
#: Steps before an event that traces show, and those that a window needs before it.
BEFORE = 5
#: Who is surprised: the model, and guesses that nothing moves.
SCORERS = ("model", "copy_last", "pixels")

#: Frames ``(C, H, W)`` uint8 of a state ``(S,)``.
Render = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FreeMotion:
    """How the agent moves where nothing is in its way: displacements of state dimensions as a function of actions.

    Attributes:
        dims: Dimensions of the state that are places.
        matrix: ``(K * A + 1, len(dims))``: action and 1 to displacement.
        explained: Share of the displacements' variance that is explained where motion is free.
        low, high: Range of the places in the data.
    """

    dims: Sequence[int]
    matrix: np.ndarray
    explained: float
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, episodes: Sequence[Trajectory], dims: Sequence[int]) -> FreeMotion:
        """Least squares of the half of all steps that fits best, found in rounds: steps at obstacles are left out."""
        chosen = list(dims)
        places = [e.states[:, chosen] for e in episodes if e.states is not None]
        moved = np.concatenate([np.diff(p, axis=0) for p in places])
        actions = np.concatenate([_row(e.actions.double().numpy()) for e in episodes])
        keep = np.ones(len(moved), dtype=bool)
        for _ in range(10):
            matrix = np.linalg.lstsq(actions[keep], moved[keep], rcond=None)[0]
            error = np.square(moved - actions @ matrix).sum(axis=1)
            keep = error <= np.quantile(error, 0.5)
        spread = np.square(moved[keep] - moved[keep].mean(axis=0)).sum()
        every = np.concatenate(places)
        explained = 1 - float(error[keep].sum() / max(spread, 1e-30))
        return cls(chosen, matrix, explained, every.min(axis=0), every.max(axis=0))

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Displacements ``(n, dims)`` for actions ``(n, K, A)``."""
        moved: np.ndarray = _row(actions) @ self.matrix
        return moved


def _row(actions: np.ndarray) -> np.ndarray:
    return np.concatenate([actions.reshape(len(actions), -1), np.ones((len(actions), 1))], axis=1)


@dataclass(frozen=True)
class Event:
    """An edited stretch of an episode.

    Attributes:
        episode: Place in the list of episodes.
        step: The first transition that is edited: ``frames[step]`` is as it was, ``frames[step + 1]`` is not.
        frames: ``(steps, C, H, W)``: the edited frames, from ``step + 1`` on.
    """

    episode: int
    step: int
    frames: np.ndarray


@dataclass
class EventSet:
    """Events by kind, and why a kind is not there."""

    events: dict[str, list[Event]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def make_events(
    episodes: Sequence[Trajectory],
    context: int,
    per_episode: int = 2,
    seed: int = 0,
    render: Render | None = None,
    motion: FreeMotion | None = None,
) -> EventSet:
    """Edit held-out episodes.

    - ``teleport``: the episode goes on from another of its moments, at least a quarter of it away.
    - ``colour``: red, green and blue change places from one frame to the next: what is coloured changes its colour.
    - ``freeze``: a frame is repeated while, in truth, more moves than in half of all steps.
    - ``wall``: where an obstacle stops the agent, it goes on as its actions say, drawn by ``render``.

    Args:
        episodes: Held-out episodes, with frames.
        context: Frames that the model looks back on; there are so many before each event.
        per_episode: Events of each kind in an episode.
        seed: Of the moments.
        render: Draws a state, for ``wall``.
        motion: How the agent moves freely, for ``wall``.
    """
    found = EventSet({name: [] for name in EVENTS})
    changes = [_change(episode.frames) for episode in episodes]
    much = float(np.median(np.concatenate(changes))) if changes else 0.0
    colours = bool(episodes) and episodes[0].frames.shape[1] == 3
    for place, episode in enumerate(episodes):
        moments = np.arange(context - 1, episode.steps - SPAN + 1)
        rng = keyed_rng("surprise", seed, episode.position)
        if not len(moments):
            continue
        for step in _some(moments, per_episode, rng):
            gap = max(2, episode.steps // 4)
            elsewhere = [s for s in range(episode.steps + 1 - SPAN) if abs(s - step - 1) >= gap]
            if elsewhere:
                s = int(rng.choice(elsewhere))
                found.events["teleport"].append(Event(place, step, episode.frames[s : s + SPAN]))
        if colours:
            for step in _some(moments, per_episode, rng):
                turned = episode.frames[step + 1 : step + 1 + SPAN, [1, 2, 0]]
                if (turned != episode.frames[step + 1 : step + 1 + SPAN]).any():
                    found.events["colour"].append(Event(place, step, turned))
        for step in _some(moments[changes[place][moments] > much], per_episode, rng):
            still = episode.frames[step : step + 1].repeat(SPAN, axis=0)
            found.events["freeze"].append(Event(place, step, still))
        if render is not None and motion is not None and episode.states is not None:
            found.events["wall"] += _through_obstacles(place, episode, moments, render, motion)
    for name, events in list(found.events.items()):
        if not events:
            found.unavailable[name] = _why_not(name, colours, render, motion)
            del found.events[name]
    return found


def _why_not(name: str, colours: bool, render: Render | None, motion: FreeMotion | None) -> str:
    if name == "wall" and render is None:
        return "the environment is not known here, or cannot draw a state"
    if name == "wall" and motion is None:
        return "how the agent moves freely cannot be told from the data"
    if name == "wall":
        return "nowhere in the held-out episodes does an obstacle stop the agent"
    return (
        "frames have no colour" if name == "colour" and not colours else "the held-out episodes are too short"
    )


def _through_obstacles(
    place: int, episode: Trajectory, moments: np.ndarray, render: Render, motion: FreeMotion
) -> list[Event]:
    """The agent is stopped (less than 0.3 of its free displacement, which is not small), and goes on all the same."""
    assert episode.states is not None
    places = episode.states[:, list(motion.dims)]
    wanted = motion(episode.actions.double().numpy())
    size = np.linalg.norm(wanted, axis=1)
    along = (np.diff(places, axis=0) * wanted).sum(axis=1) / np.maximum(size, 1e-12)
    stopped = (along < 0.3 * size) & (size > np.median(size))
    events = []
    last = -SPAN
    for step in moments[stopped[moments]]:
        path = places[step] + np.cumsum(wanted[step : step + SPAN], axis=0)
        inside = (path >= motion.low).all() and (path <= motion.high).all()
        if not inside or step < last + SPAN:  # it would leave the world, or overlaps with the event before
            continue
        frames = []
        for point in path:
            state = episode.states[step].copy()
            state[list(motion.dims)] = point
            frames.append(render(state))
        events.append(Event(place, int(step), np.stack(frames)))
        last = int(step)
    return events


def _change(frames: np.ndarray) -> np.ndarray:
    """RMS difference of successive frames: ``(T,)``."""
    found = [
        float(np.sqrt(np.square(b.astype(np.float32) - a).mean()))
        for a, b in zip(frames[:-1], frames[1:], strict=True)
    ]
    return np.array(found)


def _some(moments: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    return sorted(int(m) for m in rng.permutation(moments)[:count])


def score_events(
    model: Imagination, episodes: Sequence[Trajectory], found: EventSet
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Surprise at events against surprise at ordinary moments.

    Args:
        model: The world model.
        episodes: Those that the events were made from.
        found: The events.

    Returns:
        By event and scorer (``model``; ``copy_last`` and ``pixels``: that nothing moves): ``auroc``, the probability
        that an event surprises more than an ordinary moment of any held-out episode, and ``paired``, the share of
        events that surprise more than the same moment unedited; each with a 95% ``interval``, bootstrap over episodes.
        Chance is 0.5. ``unavailable``: events that could not be made, with the reason. And arrays for pictures:
        traces around the events, ``<event>.<edited or true>`` ``(n, BEFORE + SPAN)``, NaN where there is no step.
    """
    ordinary: dict[str, list[float]] = {name: [] for name in SCORERS}
    groups: list[int] = []
    traces = [_surprise(model, episode.frames, episode) for episode in episodes]
    for place, episode in enumerate(episodes):
        moments = np.arange(model.context - 1, episode.steps - SPAN + 1)
        for name in SCORERS:
            ordinary[name] += [traces[place][name][t : t + SPAN].max() for t in moments]
        groups += [place] * len(moments)
    results: dict[str, Any] = {"events": {}, "unavailable": dict(found.unavailable), "span": SPAN}
    arrays: dict[str, np.ndarray] = {}
    for kind, events in found.events.items():
        edited = [_edited_surprise(model, episodes[event.episode], event) for event in events]
        places = np.array([event.episode for event in events])
        results["events"][kind] = {"count": len(events), "episodes": len(set(places.tolist())), "scorers": {}}
        for name in SCORERS:
            high = np.array([trace[name].max() for trace, _ in edited])
            same = np.array([traces[e.episode][name][e.step : e.step + SPAN].max() for e in events])
            results["events"][kind]["scorers"][name] = _compare(
                np.array(ordinary[name]), np.array(groups), high, same, places, len(episodes)
            )
        arrays[f"{kind}.edited"] = np.stack([window for _, window in edited])
        arrays[f"{kind}.true"] = np.stack(
            [_window(traces[e.episode]["model"], e.step, model.context) for e in events]
        )
    return results, arrays


def example_events(episodes: Sequence[Trajectory], found: EventSet, before: int = 3) -> dict[str, np.ndarray]:
    """Frames of one event of each kind, for pictures: ``example.<event>.<edited or true>`` ``(before+SPAN, C, H, W)``.

    It is the one whose picture differs most from what was true, so that one can see it.
    """
    shown: dict[str, np.ndarray] = {}
    for kind, events in found.events.items():
        usable = [e for e in events if e.step >= before - 1] or events

        def difference(event: Event) -> float:
            true = episodes[event.episode].frames[event.step + 1 : event.step + 1 + SPAN]
            return float(np.abs(true.astype(int) - event.frames).mean())

        event = max(usable, key=difference)
        frames = episodes[event.episode].frames
        start = max(0, event.step + 1 - before)
        shown[f"example.{kind}.true"] = frames[start : event.step + 1 + SPAN]
        shown[f"example.{kind}.edited"] = np.concatenate([frames[start : event.step + 1], event.frames])
    return shown


def _compare(
    ordinary: np.ndarray,
    groups: np.ndarray,
    high: np.ndarray,
    same: np.ndarray,
    places: np.ndarray,
    episodes: int,
) -> dict[str, Any]:
    wins = np.where(high > same, 1.0, np.where(high == same, 0.5, 0.0))

    def auroc(counts: np.ndarray) -> float:
        return weighted_auc(ordinary, high, counts[groups], counts[places])

    def paired(counts: np.ndarray) -> float:
        weight = counts[places]
        return float(weight @ wins / weight.sum()) if weight.sum() else float("nan")

    once = np.ones(episodes)
    return {
        "auroc": {"value": auroc(once), "interval": interval(auroc, episodes)},
        "paired": {"value": paired(once), "interval": interval(paired, episodes)},
    }


def _surprise(model: Imagination, frames: np.ndarray, episode: Trajectory) -> Mapping[str, np.ndarray]:
    """Surprise of every transition of ``frames (T+1, C, H, W)`` under the episode's actions: ``(T,)`` by scorer."""
    same = frames is episode.frames
    latents = episode.latents if same else model.latents(frames, episode.proprio)
    predicted = model.next_latents(latents, episode.actions[: len(frames) - 1])
    return {
        "model": distance(predicted, latents[1:]).double().numpy(),
        "copy_last": distance(latents[:-1], latents[1:]).double().numpy(),
        "pixels": _change(frames),
    }


def _edited_surprise(
    model: Imagination, episode: Trajectory, event: Event
) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """Surprise of an event's transitions, by scorer, and the model's trace around them."""
    # The model looks back at most `context` frames, and an encoder one or two more.
    start = max(0, event.step - BEFORE - model.context - 2)
    end = event.step + 1 + len(event.frames)
    frames = np.concatenate([episode.frames[start : event.step + 1], event.frames])
    part = Trajectory(
        episode.position,
        frames,
        episode.actions[start : end - 1],
        torch.empty(0),
        proprio=None if episode.proprio is None else episode.proprio[start:end],
    )
    latents = model.latents(frames, part.proprio)
    predicted = model.next_latents(latents, part.actions)
    trace = distance(predicted, latents[1:]).double().numpy()
    step = event.step - start
    found = {
        "model": trace[step:],
        "copy_last": distance(latents[:-1], latents[1:]).double().numpy()[step:],
        "pixels": _change(frames)[step:],
    }
    return found, _window(trace, step, model.context)


def _window(trace: np.ndarray, step: int, context: int) -> np.ndarray:
    """Surprise from ``BEFORE`` steps before ``step`` to the end of its event, NaN where there is none."""
    window = np.full(BEFORE + SPAN, np.nan)
    for i, t in enumerate(range(step - BEFORE, step + SPAN)):
        if max(0, context - 1) <= t < len(trace):
            window[i] = trace[t]
    return window
