"""Train a world model: an action-conditioned predictor of latents, on an encoder's tokens or end to end from pixels.

A method sets the published numbers of a system at once; anything else on the command line changes them.

Example:
    worldmodel train data=data/two_room encoder_from=runs/pretrain/<hash>/model
    worldmodel train data=data/two_room variant=end_to_end
    worldmodel train data=data/robot method=lewm encoder.image_size=64 encoder.patch_size=8
"""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from experiments.common import open_run, prepare, resolve_precision, window_batches
from experiments.monitoring import held_out_moments
from experiments.world_models import (
    build,
    cache_together,
    centre_head,
    check_windows,
    chosen_episodes,
    encoder_name,
    freeze,
)
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.windows import Windows
from worldmodel.evaluation.open_loop import open_loop
from worldmodel.evaluation.trajectories import Imagination, read_trajectories
from worldmodel.models.dynamics import DYNAMICS
from worldmodel.models.heads import HEADS
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.training.distributed import current_world
from worldmodel.training.loop import LoopConfig, check_batch, fit
from worldmodel.training.sinks import LogConfig

#: torchrun may start it.
DISTRIBUTED = True
SCHEMAS = {
    **{f"head/{kind}": found[0] for kind, found in HEADS.items()},
    **{f"dynamics/{kind}": found[0] for kind, found in DYNAMICS.items()},
}
VARIANTS = ("frozen", "untrained", "end_to_end")


def tiny_encoder() -> VideoEncoderConfig:
    """What configs/encoder/tiny.yaml says: the size that stands there if no other is chosen."""
    return VideoEncoderConfig(positions="sincos", pixel_mean=[0.5, 0.5, 0.5], pixel_std=[0.25, 0.25, 0.25])


@dataclass
class Config:
    """Settings of a world model's training."""

    #: Dataset directory that worldmodel collect or worldmodel data convert made.
    data: str = MISSING
    #: Run directory; empty: runs/train/<hash of the configuration>.
    out: str = ""
    #: frozen (a pretrained encoder), untrained (a frozen encoder with random weights: the control) or end_to_end (also
    #: from a pretrained encoder, if one is given).
    variant: str = "frozen"
    #: Model directory that worldmodel pretrain or import made.
    encoder_from: str = ""
    #: Of encoder_from: ema (target encoder) or student (context encoder).
    encoder_weights: str = "ema"
    #: Or a Hugging Face or timm model's directory (frozen): DINOv2, ViT, ConvNeXt, ...
    backbone_from: str = ""
    #: Its hidden layer; -1: the last.
    backbone_layer: int = -1
    #: Pixels that frames are resized to for it; 0: as they are.
    backbone_size: int = 0
    #: Its class token instead of its patches.
    backbone_cls: bool = False
    #: Size of an encoder that begins with random weights.
    encoder: VideoEncoderConfig = field(default_factory=tiny_encoder)
    #: Frames that the encoding of a step sees, the step's own included; 2: velocities are visible.
    encoder_window: int = 1
    head: Any = MISSING
    dynamics: Any = MISSING
    #: More than 1: an ensemble of that many dynamics.
    members: int = 1
    objective: LatentDynamicsConfig = field(default_factory=LatentDynamicsConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=800, batch_size=128))
    log: LogConfig = field(default_factory=LogConfig)
    #: Steps of a training window, and so of the rollout loss.
    window: int = 4
    #: Steps of the data that make one step of the model; their actions become a block.
    action_block: int = 1
    #: Also see proprioception, as a token of the latent.
    proprio: bool = False
    #: Type of a frozen encoder's cached tokens: float32, or float16 in half the space.
    cache_dtype: str = "float32"
    #: Share of the episodes that training never sees.
    held_out: float = 0.05
    #: Train on so many of the other episodes only, the first ones; 0: on all of them.
    episodes: int = 0
    #: Of all that is random: order, masks, weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r} is unknown; choose {', '.join(VARIANTS)}")
        if min(self.window, self.action_block, self.encoder_window, self.members) < 1:
            raise ValueError("window, action_block, encoder_window and members must be at least 1")
        if self.episodes < 0:
            raise ValueError(
                f"episodes={self.episodes} must not be negative; 0 takes all that are not held out"
            )
        if self.encoder_from and self.backbone_from:
            raise ValueError("encoder_from and backbone_from are two encoders; give one of them")
        given = self.encoder_from or self.backbone_from
        if self.variant == "frozen" and not given:
            raise ValueError(
                "variant=frozen needs encoder_from=MODEL_DIRECTORY, which worldmodel pretrain makes, or "
                "backbone_from=DIRECTORY; without a pretrained encoder choose variant=end_to_end"
            )
        if given and self.encoder != tiny_encoder():
            raise ValueError("encoder.* is given by encoder_from or backbone_from and cannot be set with it")
        if self.variant == "untrained" and given:
            raise ValueError(
                "variant=untrained begins with random weights: leave encoder_from and backbone_from out"
            )


def run(config: Config) -> Path:
    """Train, or continue training; returns the model directory."""
    check_batch(config.loop, current_world())
    whole = EpisodeStore(config.data)
    store, train, held_out = chosen_episodes(whole, config.held_out, config.episodes)
    block = f" action_block={config.action_block}" if config.action_block > 1 else ""
    check_windows(store, train, config.window, config.action_block, f"window={config.window}{block}")
    windows = Windows(store, train, config.window, stride=config.action_block)
    encoder = encoder_name(config)
    model = build(config, whole, train)
    freeze(model, config)

    job = open_run("train", config, {"data": whole.hash, "encoder": encoder})
    model_path = job.path / "model"
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        model.to(device)
        cache = None
        if config.variant != "end_to_end":
            path = job.path / "latents"
            seen = (config.encoder_window, config.action_block)
            cache_together(model.encoder.eval(), store, path, encoder, *seen, config.cache_dtype)
            cache = EpisodeStore(path)
            windows = Windows(cache, train, config.window, "tokens", config.action_block)
            centre_head(model, windows)
        moments = held_out_moments(
            store, cache, held_out, config.encoder_window, config.action_block, config.proprio
        )
        objective = LatentDynamics(model, config.objective, config.seed, moments).to(device)
        with window_batches(windows, loop.batch_size, config.seed, config.proprio, device) as batches:
            fit(objective, batches, loop, job, f"world model ({config.variant})")
        model.cpu().eval()
        found = current_world().from_first(lambda: open_loop_of(model, store, train, held_out))
        job.write(lambda: save(model, model_path, config, whole, found))
        job.finish({"steps": loop.steps, "open_loop": found})
    # The cache is made again in less time than it is worth in space.
    job.write(lambda: shutil.rmtree(job.path / "latents", ignore_errors=True))
    job.close()
    return model_path


def open_loop_of(
    model: WorldModel,
    store: EpisodeStore,
    train: range,
    held_out: range,
    episodes: int = 16,
    horizon: int = 20,
) -> dict[str, list[float]]:
    """Root mean square error of imagined latents of held-out episodes, step by step, beside simple guesses.

    Nothing, where the held-out episodes are too short.
    """
    actions, proprio = model.config.actions, model.config.proprio
    eyes = Imagination(model.encode, model.rollout, model.dynamics.context, window=model.config.window)
    shown, fitted = (
        read_trajectories(eyes, store, part[:episodes], actions.per_step, proprio.dim > 0, keep_frames=False)
        for part in (held_out, train)
    )
    shortest = min(episode.steps for episode in shown)
    if shortest < 1 or not fitted:
        return {}
    eyes = replace(eyes, context=min(eyes.context, shortest))
    longest = shortest + 1 - eyes.context
    found = open_loop(eyes, shown, fitted, [max(1, min(horizon, longest))], starts=1)
    return {name: values["rms"] for name, values in found["error"].items()}


def save(
    model: WorldModel, path: Path, config: Config, store: EpisodeStore, errors: dict[str, list[float]]
) -> None:
    """Write the model directory, whose card says what it was trained on and how well it predicts."""
    rows = "".join(f"| {name} | {values[0]:.3g} | {values[-1]:.3g} |\n" for name, values in errors.items())
    _, train, held_out = chosen_episodes(store, config.held_out, config.episodes)
    card = f"""World model ({config.variant}) of {store.meta.get("env_id") or store.path.name}.

{config.loop.steps} steps on {len(train)} episodes, and {len(held_out)} held out; data {store.hash}.

Root mean square error of imagined latents on held-out episodes:

| | after 1 step | after {len(errors.get("model", []))} |
|---|---|---|
{rows}"""
    facts = {"data": store.hash, "held_out": config.held_out, "episodes": len(train), "open_loop": errors}
    model.save(path, card, facts)


def outcome(model: Path) -> str:
    """What the command says at its end."""
    return f"world model in {model}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("train"))
