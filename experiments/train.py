"""Train a world model: an action-conditioned predictor of latents, on an encoder's tokens or end to end from pixels.

Example:
    worldmodel train data=data/two_room encoder_from=runs/pretrain/<hash>/model
    worldmodel train data=data/two_room variant=end_to_end
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from experiments.common import open_run, prepare, resolve_precision, split_episodes, window_batches
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.latents import cache_latents
from worldmodel.data.windows import Windows
from worldmodel.evaluation.open_loop import open_loop_errors
from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.files import directory_hash, read_config
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.pretrained import load_encoder
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.training.loop import LoopConfig, fit


def tiny_encoder() -> VideoEncoderConfig:
    """What configs/encoder/tiny.yaml says: the size that stands there if no other is chosen."""
    return VideoEncoderConfig(positions="sincos", pixel_mean=[0.5, 0.5, 0.5], pixel_std=[0.25, 0.25, 0.25])


@dataclass
class Config:
    """Settings of a world model's training."""

    #: Dataset directory that worldmodel collect made.
    data: str = MISSING
    #: Run directory; empty: runs/train/<hash of the configuration>.
    out: str = ""
    #: frozen (a pretrained encoder), untrained (a frozen encoder with random weights: the control) or end_to_end.
    variant: str = "frozen"
    #: frozen: model directory that worldmodel pretrain made.
    encoder_from: str = ""
    #: frozen: ema (target encoder) or student (context encoder).
    encoder_weights: str = "ema"
    #: untrained and end_to_end: the encoder's size.
    encoder: VideoEncoderConfig = field(default_factory=tiny_encoder)
    head: TokenHeadConfig = field(default_factory=TokenHeadConfig)
    dynamics: MLPDynamicsConfig = field(default_factory=MLPDynamicsConfig)
    objective: LatentDynamicsConfig = field(default_factory=LatentDynamicsConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=800, batch_size=128))
    #: Steps of a training window, and so of the rollout loss.
    window: int = 4
    #: Share of the episodes that training never sees.
    held_out: float = 0.05
    #: Of all that is random: order, masks, weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if self.variant not in ("frozen", "untrained", "end_to_end"):
            raise ValueError(f"variant={self.variant!r} is unknown; choose frozen, untrained or end_to_end")
        if self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1")
        if self.variant == "frozen" and not self.encoder_from:
            raise ValueError(
                "variant=frozen needs encoder_from=MODEL_DIRECTORY, which worldmodel pretrain makes; without a "
                "pretrained encoder choose variant=end_to_end"
            )
        if self.variant == "frozen" and self.encoder != tiny_encoder():
            raise ValueError("encoder.* is given by encoder_from and cannot be set with variant=frozen")
        if self.variant != "frozen" and self.encoder_from:
            raise ValueError(f"variant={self.variant} begins with random weights: leave encoder_from out")


def run(config: Config) -> Path:
    """Train, or continue training; returns the model directory."""
    store = EpisodeStore(config.data)
    train, held_out = split_episodes(store, config.held_out)
    Windows(store, train, config.window)  # says now, not after encoding, if episodes are too short
    encoder = _encoder_name(config)
    model = build(config, store, train)

    job = open_run("train", config, {"data": store.hash, "encoder": encoder})
    model_path = job.path / "model"
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        model.to(device)
        windows = Windows(store, train, config.window)
        if config.variant != "end_to_end":
            model.encoder.requires_grad_(False)
            cache = cache_latents(model.encoder.eval(), store, job.path / "latents", encoder)
            windows = Windows(cache, train, config.window, "tokens")
            centre_head(model, windows)
        objective = LatentDynamics(model, config.objective, config.seed).to(device)
        batches = window_batches(windows, loop.batch_size, config.seed)
        fit(objective, batches, loop, job, f"world model ({config.variant})")
        model.cpu().eval().save(model_path, f"World model ({config.variant}) of {store.meta['env_id']}.\n")
        horizon = min(20, int(store.steps[held_out.start :].min()))
        job.finish({"steps": loop.steps, "open_loop": open_loop_errors(model, store, held_out, horizon)})
        # The cache is half as large as the data, and made again in seconds.
        shutil.rmtree(job.path / "latents", ignore_errors=True)
    job.close()
    return model_path


def outcome(model: Path) -> str:
    """What the command says at its end."""
    return f"world model in {model}"


def build(config: Config, store: EpisodeStore, train: range) -> WorldModel:
    """The world model before training, with the weights that its variant begins with.

    Raises:
        ValueError: The encoder was pretrained on episodes that are to be held out here.
    """
    size = config.encoder
    if config.variant == "frozen":
        check_held_out(config, store)
        pretrained = load_encoder(config.encoder_from, config.encoder_weights)
        size = pretrained.config
    actions = torch.from_numpy(store.gather("actions", train))
    flat = actions.flatten(0, 1)
    spec = ActionSpec(
        low=store.meta["action_low"],
        high=store.meta["action_high"],
        per_step=actions.shape[1],
        mean=flat.mean(dim=0).tolist(),
        std=flat.std(dim=0).tolist(),
    )
    torch.manual_seed(config.seed)
    env_id, fps = store.meta["env_id"], float(store.meta.get("fps") or 0)
    model = WorldModel(WorldModelConfig(size, config.head, config.dynamics, spec, env_id, fps))
    if config.variant == "frozen":
        model.encoder.load_state_dict(pretrained.state_dict())
    model.dynamics.set_statistics(actions)
    return model


def check_held_out(config: Config, store: EpisodeStore) -> None:
    """See that what is held out here was held out in the encoder's pretraining too, if that was on the same data.

    Raises:
        ValueError: It was not.
    """
    pretraining = read_config(Path(config.encoder_from), "video_encoder")
    seen = pretraining.get("held_out")
    if pretraining.get("data") == store.hash and seen is not None and seen < config.held_out:
        raise ValueError(
            f"held_out={config.held_out}, but the encoder {config.encoder_from} was pretrained on all but {seen} of "
            f"these episodes; use held_out={seen} at most"
        )


def centre_head(model: WorldModel, windows: Windows) -> None:
    """Centre the head on a frozen encoder's tokens. End to end they still change, and are left as they are."""
    sample = range(0, len(windows), max(1, len(windows) // 4096))
    model.head.set_statistics(torch.from_numpy(windows.frames(list(sample))[:, 0]))


def _encoder_name(config: Config) -> str:
    """Names the weights that the encoder begins with."""
    if config.variant != "frozen":
        return f"random weights, seed {config.seed}"
    return f"{config.encoder_weights} {directory_hash(Path(config.encoder_from))}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("train"))
