"""Measure a world model on data: what it predicts, what its latents hold, and whether one can plan in them.

Open-loop error, probes of the true state, plannability, action sensitivity and surprise at what cannot happen, each on
held-out episodes, with a 95% interval and beside what knows less.

Example:
    worldmodel evaluate model=runs/train/<hash>/model data=data/two_room
    worldmodel evaluate model=runs/train/<hash>/model data=data/two_room control=true decoder=true
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor, nn

from experiments.common import open_run, prepare, split_episodes
from experiments.decoding import DecodingConfig, decoder_of, imagined_frames
from experiments.frozen import check_actions, held_out_share
from experiments.worlds import know
from worldmodel.atomic import read_json, write_atomic, write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.evaluation.model_study import Plan, card_of, measure, table
from worldmodel.evaluation.open_loop import HORIZONS
from worldmodel.evaluation.plannability import plannability
from worldmodel.evaluation.state_probes import MLPProbeConfig
from worldmodel.evaluation.surprise import example_events, make_events
from worldmodel.evaluation.trajectories import Imagination, Trajectory, read_trajectories
from worldmodel.models.card import note_in_card
from worldmodel.models.files import directory_hash
from worldmodel.models.parts import load_value
from worldmodel.models.value import ValueHead
from worldmodel.models.world_model import WorldModel
from worldmodel.report.evaluation_report import write_evaluation_report

logger = logging.getLogger(__name__)

KIND = "world_model_evaluation"


@dataclass
class Config:
    """Settings of an evaluation."""

    #: Model directory that worldmodel train made.
    model: str = MISSING
    #: Dataset directory.
    data: str = MISSING
    #: Share of the episodes, the last ones, that is measured; 0: what the model's training held out, where its run
    #: says so, else 0.05.
    held_out: float = 0.0
    #: Held-out episodes that are measured, at most.
    episodes: int = 100
    #: Training episodes for probes and baselines, at most.
    train_episodes: int = 200
    #: Also measure the same networks with random weights.
    control: bool = False
    #: Model steps that are imagined.
    horizons: list[int] = field(default_factory=lambda: list(HORIZONS))
    #: Steps that a prediction looks back on; 0: as many as the model can.
    context: int = 0
    #: Dimensions of the state to probe, and to take the Euclidean distance of where the environment is not known.
    state_dims: list[int] = field(default_factory=list)
    #: Pairs of moments for plannability: so many within episodes, and so many across them.
    pairs: int = 3000
    #: Events of each kind in an episode, for surprise; 0: none.
    events: int = 2
    probe: MLPProbeConfig = field(default_factory=MLPProbeConfig)
    #: Train a pixel decoder beside the model, if there is none yet, and show imagined rollouts.
    decoder: bool = False
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    #: Run directory; empty: runs/evaluate/<hash of the configuration>.
    out: str = ""
    #: Of pairs, events, the MLP probe, the decoder's and the control's weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1:
            raise ValueError(f"horizons={self.horizons}: give steps of at least 1")
        if min(self.episodes, self.train_episodes, self.pairs) < 2 or min(self.events, self.context) < 0:
            raise ValueError(
                "episodes, train_episodes and pairs must be at least 2, events and context not negative"
            )


def run(config: Config) -> dict[str, Any]:
    """Measure, or read what was measured; writes the report. Returns the results."""
    path = Path(config.model).expanduser()
    model, store = WorldModel.load(path), EpisodeStore(config.data)
    check_actions(model, store)
    share, notes = held_out_share(config.held_out, path, store)
    train, held_out = split_episodes(store, share)

    inputs = {"data": store.hash, "model": directory_hash(path)}
    value = value_head(path)
    if value is not None:
        inputs["value"] = directory_hash(path / "value")
    job = open_run("evaluate", config, inputs)
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        parts = Parts(store, evenly(held_out, config.episodes), evenly(train, config.train_episodes))
        trained = imagination(model.to(device), config.context, device)
        shown, fitted = parts.of(trained, model)
        found = {
            "kind": KIND,
            **{key: getattr(config, key) for key in ("model", "data", "seed")},
            "env_id": store.meta.get("env_id", ""),
            "held_out": len(shown),
            "train": len(fitted),
            "context": trained.context,
        }
        meta = store.meta
        world = know(
            found["env_id"],
            meta.get("env_args") or {},
            fitted,
            config.state_dims,
            meta.get("state_names") or [],
        )
        found |= {"distance": world.distance_name, "notes": notes + world.notes}
        events = make_events(shown, trained.context, config.events, config.seed, world.render, world.motion)
        plan = Plan(
            config.horizons, world.targets, config.probe, world.distances, config.pairs,
            events if config.events else None, model.config.actions.std, meta.get("action_names") or [], config.seed,
            value,
        )  # fmt: skip
        results, arrays = measure(trained, shown, fitted, plan)
        found["models"] = {"trained": results}
        if config.control:
            control = untrained_like(model, first_frames(fitted), config.seed)
            blank = imagination(control.to(device), config.context, device)
            alone = replace(plan, value=None)
            found["models"]["untrained"], more = measure(blank, *parts.of(blank, control), alone)
            arrays |= {f"untrained.{name}": values for name, values in more.items()}
        if world.distances is not None:
            found["pixels"], points = plannability(
                shown, world.distances, config.pairs, config.seed, pixels=True
            )
            arrays |= {f"pixels.{name}": values for name, values in points.items()}
        if events.events and config.events:
            arrays |= example_events(shown, events)
        if config.decoder:
            decoder = decoder_of(path, job.path, store, fitted, config.decoding, device, config.seed)
            horizon = results["open_loop"]["steps"][-1]
            arrays |= imagined_frames(trained, decoder, shown, horizon, config.decoding.shown)
        write_arrays(job.path / "arrays.npz", arrays)
        write_json(job.path / "results.json", found)
        job.finish({"held_out": len(shown)})
    job.close()
    write_evaluation_report(job.path)
    results = read_json(job.path / "results.json")
    note(path, store, results)
    return {**results, "path": str(job.path)}


def note(model: Path, store: EpisodeStore, results: dict[str, Any]) -> None:
    """Write the figures into the model's card, one section for each dataset; the model's hash stays."""
    body = f"By `worldmodel evaluate`; data {store.hash}.\n\n{card_of(results)}"
    try:
        note_in_card(model, f"Measured on {store.path.resolve().name}", body)
    except OSError as error:
        logger.warning("the card in %s stays as it is: %s", model, error)


def value_head(model: Path) -> ValueHead | None:
    """The value head beside a model, if there is one that was trained on its latents."""
    if not (model / "value" / "config.json").is_file():
        return None
    try:
        return load_value(model / "value", model)
    except ValueError as error:
        logger.warning("the value head is left out: %s", error)
        return None


@dataclass(frozen=True)
class Parts:
    """Positions of the episodes that are measured, and of those that probes and baselines are fitted to."""

    store: EpisodeStore
    held_out: list[int]
    train: list[int]

    def of(self, eyes: Imagination, model: WorldModel) -> tuple[list[Trajectory], list[Trajectory]]:
        """The episodes as a model sees them."""
        per_step, proprio = model.config.actions.per_step, model.takes_proprio
        return (
            read_trajectories(eyes, self.store, self.held_out, per_step, proprio),
            read_trajectories(eyes, self.store, self.train, per_step, proprio, keep_frames=False),
        )


def imagination(model: WorldModel, context: int, device: str) -> Imagination:
    """A world model as evaluations take it.

    Raises:
        ValueError: It cannot look back so far.
    """
    longest = model.dynamics.context
    if context > longest:
        raise ValueError(f"context={context}, but this model looks back on {longest} steps at most")
    return Imagination(model.encode, model.rollout, context or longest, device, window=model.config.window)


def evenly(positions: range, count: int) -> list[int]:
    """At most ``count`` of the positions, evenly spread."""
    chosen = np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(int)
    return [positions[i] for i in np.unique(chosen)]


def first_frames(episodes: list[Trajectory]) -> Tensor:
    """``(L, C, H, W)`` uint8: one frame of every episode."""
    return torch.from_numpy(np.concatenate([episode.frames[:1] for episode in episodes]))


@torch.no_grad()
def untrained_like(model: WorldModel, frames: Tensor, seed: int) -> WorldModel:
    """The same networks with random weights.

    They keep the statistics of pixels and actions, and have those of their own features: tokens' means, and batch norms
    that have seen ``frames (L, C, H, W)``. What is not trained is the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control = WorldModel(model.config)
    for name, values in model.named_buffers():
        if "running_" not in name and "num_batches" not in name:
            control.get_buffer(name).copy_(values.cpu())
    tokens = control.encoder.encode_steps(frames[:, None], window=model.config.window)
    control.head.set_statistics(tokens[:, 0])
    for norm in control.head.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # a mean over all that it sees
            norm.train()
    control.head(tokens)
    return control.eval()


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Arrays for the report's pictures."""

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    write_atomic(path, write)


def outcome(results: dict[str, Any]) -> str:
    """What the command says at its end."""
    text = [
        f"{results['held_out']} held-out episodes; probes and baselines fitted to {results['train']} others; 95%"
    ]
    text[0] += " intervals over episodes"
    text += [f"note: {note}" for note in results["notes"]]
    return "\n".join([*text, "", table(results), "", f"results and report.html in {results['path']}"])


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("evaluate"))
