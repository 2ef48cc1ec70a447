"""Few-label probes of a world model: how much of a visible state is linear in what its encoder, and its head, make?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.world import make_world
from experiments.worlds import coordinates
from worldmodel.atomic import read_json, write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.evaluation.fitting import ridge
from worldmodel.evaluation.scores import regression
from worldmodel.evaluation.trajectories import flat
from worldmodel.models.files import directory_hash
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import keyed_rng

#: Of ridge regressions, on features whose mean variance is 1.
PENALTIES = tuple(10.0**power for power in range(-5, 5))
#: Parts of the labelled episodes, each of which is predicted from the others to choose the penalty.
FOLDS = 5
#: Held-out frames that probes are scored on, at most.
SCORED = 1000
#: Written down with the answers: those of another way to measure are not taken for them.
_HOW = f"ridge, one scale, {FOLDS} folds"
_AT_ONCE = 128


@dataclass(frozen=True)
class Labelled:
    """Frames with what they show.

    Attributes:
        clips: ``(n, W, C, H, W)`` uint8: what the encoding of a frame sees, the frame itself last.
        targets: ``(n, P)`` float64.
        episodes: ``(n,)``: which episode each is of.
    """

    clips: np.ndarray
    targets: np.ndarray
    episodes: np.ndarray


def probe_row(row: Path, data: Path, held_out: int, count: int) -> dict[str, Any]:
    """Probe the model of a row, or read what was measured; the answer is kept in ``probe.json``.

    The frames depend on the data and ``count`` only, so all rows of one dataset are probed with the same.

    Args:
        row: Directory with ``train/model``.
        data: Dataset directory, whose states are known.
        held_out: Its last so many episodes are scored.
        count: Frames of the others to fit probes to.

    Returns:
        For ``encoder`` (its tokens), ``latent`` (what the planner sees) and ``pixels``: ``r2``, the mean over targets,
        and its 95% ``interval``, a bootstrap over episodes. And ``targets``, their names.
    """
    path, store = row / "train/model", EpisodeStore(data)
    inputs: dict[str, Any] = {
        "model": directory_hash(path),
        "data": store.hash,
        "held_out": held_out,
        "frames": count,
    }
    inputs["how"] = _HOW
    file = row / "probe.json"
    if file.exists() and read_json(file)["inputs"] == inputs:
        found: dict[str, Any] = read_json(file)
        return found
    model = WorldModel.load(path)
    window, stride = model.config.window, model.config.actions.per_step // store[0]["actions"].shape[1]
    fitted = range(len(store) - held_out)
    names, columns = visible_targets(store, fitted)
    train = labelled_frames(store, fitted, count, columns, window, stride)
    test = labelled_frames(store, range(len(fitted), len(store)), SCORED, columns, window, stride)
    views = zip(features_of(model, train.clips), features_of(model, test.clips), strict=True)
    scores = {
        name: few_label_r2(x, train, test_x, test)
        for name, (x, test_x) in zip(("encoder", "latent", "pixels"), views, strict=True)
    }
    found = {"inputs": inputs, "targets": names, **scores}
    write_json(file, found)
    return found


def visible_targets(store: EpisodeStore, positions: range) -> tuple[list[str], Any]:
    """Names of what a picture can show, and a function that reads it from states ``(n, S)``.

    Coordinates without velocities where the world has joints; otherwise all dimensions of its state that vary.
    """
    world = make_world(str(store.meta["env_id"]))
    plain = getattr(world, "plain", world)  # of a world in another look: without the look's seed
    size = len(plain.get_state())
    known = coordinates(plain, size)
    world.close()
    if known is None:
        states = store.gather("states", positions[:100])[:, :size]
        varying = np.flatnonzero(states.std(axis=0) > 1e-9)
        return [f"state {i}" for i in varying], lambda states: states[:, varying]
    seen = [i for i, name in enumerate(known.names) if not name.startswith("velocity of ")]
    return [known.names[i] for i in seen], lambda states: known.of(states[:, :size])[:, seen]


def labelled_frames(
    store: EpisodeStore, positions: range, count: int, columns: Any, window: int = 1, stride: int = 1
) -> Labelled:
    """``count`` frames of these episodes, or all if there are fewer; drawn by a key, so always the same ones."""
    lengths = store.steps[positions.start : positions.stop] + 1
    total, ends = int(lengths.sum()), np.cumsum(lengths)
    chosen = np.sort(keyed_rng("label probe", len(positions)).permutation(total)[:count])
    owners = np.searchsorted(ends, chosen, side="right")
    clips, states = [], []
    for owner, step in zip(owners.tolist(), (chosen - (ends - lengths)[owners]).tolist(), strict=True):
        episode = store[positions[owner]]
        seen = [max(0, step - stride * back) for back in reversed(range(window))]
        clips.append(np.concatenate([episode["frames"][i : i + 1] for i in seen]))
        states.append(episode["states"][step : step + 1])
    return Labelled(np.stack(clips), columns(np.concatenate(states)), owners)


@torch.inference_mode()
def features_of(model: WorldModel, clips: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(n, F)`` of the encoder's tokens, of the latents, and of the last frames' pixels."""
    model.eval()
    tokens, latents = [], []
    for part in torch.from_numpy(clips).split(_AT_ONCE):
        tokens.append(model.encoder.encode_steps(part, window=model.config.window)[:, -1:].float())
        latents.append(model.head(tokens[-1]))
    pixels = torch.from_numpy(clips[:, -1].reshape(len(clips), 1, -1)).float() / 255
    return flat(torch.cat(tokens)[:, 0]), flat(torch.cat(latents)[:, 0]), flat(pixels)


def few_label_r2(x: Tensor, train: Labelled, test_x: Tensor, test: Labelled) -> dict[str, Any]:
    """R^2 of a ridge regression on the test's frames, mean over targets, with its interval.

    All features are divided by one number. Scaled one by one, those that few of the labelled frames move, of a patch
    that the ball crosses rarely, would be blown up.
    """
    # Of targets that are scaled to one variance on the test, R^2 of all together is the mean.
    centre, spread = test.targets.mean(axis=0), np.maximum(test.targets.std(axis=0), 1e-12)
    wanted, truth = ((part.targets - centre) / spread for part in (train, test))
    y = torch.from_numpy(wanted).float()
    mean, scale = x.mean(dim=0), x.var(dim=0).mean().sqrt().clamp_min(1e-12)
    x, test_x = (x - mean) / scale, (test_x - mean) / scale
    fold = torch.from_numpy(np.unique(train.episodes, return_inverse=True)[1] % FOLDS)

    def error(penalty: float) -> float:
        found = 0.0
        for apart in (fold == i for i in fold.unique()):
            weight, bias = ridge(x[~apart], y[~apart], penalty)
            found += float((x[apart] @ weight + bias - y[apart]).square().sum())
        return found

    penalty = min(PENALTIES, key=error) if len(fold.unique()) > 1 else PENALTIES[-1]
    weight, bias = ridge(x, y, penalty)
    answer = (test_x @ weight + bias).double().numpy()
    score = regression(truth.ravel(), answer.ravel(), np.repeat(test.episodes, truth.shape[1]))
    return {"r2": score["r2"], "interval": score["interval"], "penalty": penalty}
