"""Train a slow level on top of a world model: dynamics over steps of several model steps, for hierarchical planning.

The world model is left as it is. The slow level learns macro-actions from all actions of a slow step, and to predict
the latent after it. It is saved beside the world model's parts, as `slow` in its directory.

Example:
    worldmodel train_slow model=runs/train/<hash>/model data=data/two_room
    worldmodel train_slow model=runs/train/<hash>/model data=data/two_room slow.steps=8 dynamics=adaln
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from experiments.common import open_run, prepare, resolve_precision, window_batches
from experiments.frozen import Frozen, cached, open_frozen, sampled_actions
from experiments.world_models import check_windows
from worldmodel.evaluation.levels import slow_open_loop
from worldmodel.models.dynamics import DYNAMICS, SlowConfig, SlowDynamics, build_slow, slow_steps
from worldmodel.models.files import read_config
from worldmodel.models.parts import SLOW, copy_part, save_slow
from worldmodel.objectives.known_latents import KnownLatents
from worldmodel.objectives.predictions import PredictionConfig
from worldmodel.objectives.slow_dynamics import SlowLatentDynamics
from worldmodel.training.distributed import current_world
from worldmodel.training.loop import LoopConfig, check_batch, fit
from worldmodel.training.sinks import LogConfig

#: torchrun may start it.
DISTRIBUTED = True
SCHEMAS = {f"dynamics/{kind}": found[0] for kind, found in DYNAMICS.items()}


@dataclass
class Config:
    """Settings of a slow level's training."""

    #: Model directory that worldmodel train made.
    model: str = MISSING
    #: Dataset directory.
    data: str = MISSING
    #: Run directory; empty: runs/train_slow/<hash of the configuration>.
    out: str = ""
    slow: SlowConfig = field(default_factory=SlowConfig)
    dynamics: Any = MISSING
    objective: PredictionConfig = field(default_factory=PredictionConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=3000, batch_size=128))
    log: LogConfig = field(default_factory=LogConfig)
    #: Slow steps of a training window, and so of the rollout loss.
    window: int = 4
    #: Type of the cached latents: float32, or float16 in half the space.
    cache_dtype: str = "float32"
    #: Share of the episodes, the last ones, that training never sees; 0: what the world model's training held out.
    held_out: float = 0.0
    #: Of all that is random: order, rollouts, weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window must be at least 1")


def run(config: Config) -> Path:
    """Train, or continue training; returns the slow level's directory."""
    check_batch(config.loop, current_world())
    config.objective.span(
        config.window, config.seed, 0
    )  # says now if the window is too short for the rollout
    frozen = open_frozen(config.model, config.data, config.held_out)
    steps, typed = config.window * config.slow.steps, f"window={config.window} slow.steps={config.slow.steps}"
    check_windows(frozen.store, frozen.train, steps, frozen.stride, typed)
    slow = build(config, frozen)
    objective = SlowLatentDynamics(KnownLatents(frozen.model.proprio), slow, config.objective, config.seed)

    job = open_run("train_slow", config, {"data": frozen.store.hash, "model": frozen.hash})
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        frozen.model.to(device)
        objective.to(device)
        windows, proprio = cached(frozen, job, steps, config.cache_dtype), frozen.model.takes_proprio
        with window_batches(windows, loop.batch_size, config.seed, proprio, device) as batches:
            fit(objective, batches, loop, job, "slow level")
        actions = sampled_actions(windows)
        slow.eval().encoder.set_macro_statistics(
            slow_steps(actions, actions, config.slow.steps)[1].flatten(0, 1)
        )
        found = current_world().from_first(
            lambda: slow_open_loop(slow, *frozen.unseen(device), config.window)
        )
        slow.cpu()
        job.write(lambda: save(slow, job.path / "slow", config, frozen, found))
        job.finish({"steps": loop.steps, "open_loop": found})
    place = frozen.path / "slow"
    job.write(lambda: copy_part(job.path / "slow", place))
    job.write(lambda: shutil.rmtree(job.path / "latents", ignore_errors=True))
    job.close()
    return place


def build(config: Config, frozen: Frozen) -> SlowDynamics:
    """The slow level before training, with the statistics of the world model's actions."""
    below = frozen.model.dynamics
    sizes = (below.tokens, below.width, below.actions_per_step, len(below.action_mean))
    torch.manual_seed(config.seed)
    slow = build_slow(config.slow, config.dynamics, *sizes)
    slow.encoder.action_mean.copy_(below.action_mean)
    slow.encoder.action_std.copy_(below.action_std)
    return slow


def save(slow: SlowDynamics, path: Path, config: Config, frozen: Frozen, found: dict[str, Any]) -> None:
    """Write the slow level's directory, whose card compares it with the model below."""
    columns = ("slow", "flat", "copy_last")
    rows = "".join(
        f"| {step} | {' | '.join(f'{found[name][i]:.3g}' for name in columns)} |\n"
        for i, step in enumerate(found.get("steps", []))
    )
    card = f"""Slow level over {config.slow.steps} steps of the world model {frozen.hash[:12]}.

{config.loop.steps} steps on {len(frozen.train)} episodes; data {frozen.store.hash}.

Root mean square error of imagined latents on held-out episodes, beside that of the model below and of the guess that
nothing moves:

| model steps | slow level | model below | copy of the first |
|---|---|---|---|
{rows}"""
    facts = {"data": frozen.store.hash, "held_out": frozen.share, "open_loop": found}
    save_slow(path, slow, config.dynamics, frozen.hash, card, facts)


def outcome(path: Path) -> str:
    """What the command says at its end."""
    found, text = read_config(path, SLOW)["facts"]["open_loop"], f"slow level in {path}"
    if not found:
        return f"{text}; held-out episodes are too short to measure it"
    errors = ", ".join(
        f"{name.replace('_', ' ')} {found[name][-1]:.3g}" for name in ("slow", "flat", "copy_last")
    )
    return f"error after {found['steps'][-1]} steps on held-out episodes: {errors}\n{text}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("train_slow"))
