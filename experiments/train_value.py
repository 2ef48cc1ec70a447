"""Train a value head on top of a world model: how many steps it takes from a latent to a goal.

The world model is left as it is. The head learns from the same kind of episodes, with later steps as goals, and is
saved beside the world model's parts, as `value` in its directory.

Example:
    worldmodel train_value model=runs/train/<hash>/model data=data/two_room
    worldmodel train_value model=runs/train/<hash>/model data=data/two_room window=30 objective.expectile=0.3
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from experiments.common import open_run, prepare, resolve_precision, window_batches
from experiments.frozen import Frozen, cached, open_frozen
from experiments.world_models import check_windows
from worldmodel.evaluation.levels import steps_to_go
from worldmodel.models.files import read_config
from worldmodel.models.parts import VALUE, copy_part, save_value
from worldmodel.models.value import ValueConfig, ValueHead
from worldmodel.objectives.known_latents import KnownLatents
from worldmodel.objectives.value import TemporalDistance, TemporalDistanceConfig
from worldmodel.training.distributed import current_world
from worldmodel.training.loop import LoopConfig, check_batch, fit
from worldmodel.training.sinks import LogConfig

#: torchrun may start it.
DISTRIBUTED = True


@dataclass
class Config:
    """Settings of a value head's training."""

    #: Model directory that worldmodel train made.
    model: str = MISSING
    #: Dataset directory.
    data: str = MISSING
    #: Run directory; empty: runs/train_value/<hash of the configuration>.
    out: str = ""
    value: ValueConfig = field(default_factory=ValueConfig)
    objective: TemporalDistanceConfig = field(default_factory=TemporalDistanceConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000, batch_size=128))
    log: LogConfig = field(default_factory=LogConfig)
    #: Model steps of a training window: longer distances are never shown.
    window: int = 20
    #: Type of the cached latents: float32, or float16 in half the space.
    cache_dtype: str = "float32"
    #: Share of the episodes, the last ones, that training never sees; 0: what the world model's training held out.
    held_out: float = 0.0
    #: Of all that is random: order, goals, weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window must be at least 1")


def run(config: Config) -> Path:
    """Train, or continue training; returns the value head's directory."""
    check_batch(config.loop, current_world())
    frozen = open_frozen(config.model, config.data, config.held_out)
    check_windows(frozen.store, frozen.train, config.window, frozen.stride, f"window={config.window}")
    model = frozen.model
    torch.manual_seed(config.seed)
    head = ValueHead(config.value, model.head.width)
    known = KnownLatents(model.proprio)
    objective = TemporalDistance(known, head, config.objective, config.seed, config.window)

    job = open_run("train_value", config, {"data": frozen.store.hash, "model": frozen.hash})
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        model.to(device)
        objective.to(device)
        windows = cached(frozen, job, config.window, config.cache_dtype)
        with window_batches(windows, loop.batch_size, config.seed, model.takes_proprio, device) as batches:
            fit(objective, batches, loop, job, "value head")
        head.cpu().eval()
        found = current_world().from_first(
            lambda: steps_to_go(head, frozen.unseen(device)[1], config.window, seed=config.seed)
        )
        job.write(lambda: save(head, job.path / "value", config, frozen, found))
        job.finish({"steps": loop.steps, "steps_to_go": found})
    place = frozen.path / "value"
    job.write(lambda: copy_part(job.path / "value", place))
    job.write(lambda: shutil.rmtree(job.path / "latents", ignore_errors=True))
    job.close()
    return place


def save(head: ValueHead, path: Path, config: Config, frozen: Frozen, found: dict[str, Any]) -> None:
    """Write the head's directory, whose card says how well it orders moments of episodes that it has not seen."""
    rows = "".join(
        f"| {what} | {part['pairs']} | {part['rho']:.3f} | {part['latent_rho']:.3f} | {part['error']:.2f} |\n"
        for what, part in ((f"at most {config.window} apart", found["window"]), ("all", found["all"]))
    )
    card = f"""Value head: steps to go from a latent to a goal, for the world model {frozen.hash[:12]}.

{config.loop.steps} steps on {len(frozen.train)} episodes; data {frozen.store.hash}. It learned the expectile
{config.objective.expectile} of the steps that episodes took, up to {config.window}.

Pairs of moments of {found["episodes"]} held-out episodes: Spearman's rank correlation with the steps between them, and
the mean absolute error in steps.

| pairs | number | value head | latent distance | error |
|---|---|---|---|---|
{rows}"""
    facts = {"data": frozen.store.hash, "held_out": frozen.share, "window": config.window}
    save_value(path, head, frozen.hash, card, {**facts, "steps_to_go": found})


def outcome(path: Path) -> str:
    """What the command says at its end."""
    found = read_config(path, VALUE)["facts"]["steps_to_go"]["all"]
    return (
        f"rank correlation with steps to go on held-out episodes: {found['rho']:.3f}, of the latent distance "
        f"{found['latent_rho']:.3f}\nvalue head in {path}"
    )


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("train_value"))
