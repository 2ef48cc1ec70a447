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
from worldmodel.models.files import directory_hash
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig, load_encoder
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.training.loop import LoopConfig, fit


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
    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
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
        if (self.variant == "frozen") != bool(self.encoder_from):
            raise ValueError("encoder_from=MODEL_DIRECTORY goes with variant=frozen, and only with it")


def run(config: Config) -> Path:
    """Train, or continue training; returns the model directory."""
    store = EpisodeStore(config.data)
    train, held_out = split_episodes(store, config.held_out)
    encoder = _encoder_name(config)
    job = open_run("train", config, {"data": store.hash, "encoder": encoder})
    model_path = job.path / "model"
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        model = build(config, store).to(device)
        source, array = store, "frames"
        if config.variant != "end_to_end":
            model.encoder.requires_grad_(False)
            source = cache_latents(model.encoder.eval(), store, job.path / "latents", encoder)
            array = "tokens"
        windows = Windows(source, train, config.window, array)
        set_statistics(model, windows, store)
        objective = LatentDynamics(model, config.objective, config.seed).to(device)
        fit(
            objective,
            window_batches(windows, loop.batch_size, config.seed),
            loop,
            job,
            f"world model ({config.variant})",
        )
        model.cpu().eval().save(model_path, f"World model ({config.variant}) of {store.meta['env_id']}.\n")
        errors = open_loop_errors(
            model, store, held_out, horizon=min(20, int(store.steps[held_out.start :].min()))
        )
        job.finish({"steps": loop.steps, "open_loop": errors})
        shutil.rmtree(
            job.path / "latents", ignore_errors=True
        )  # as large as half the data, and made again in seconds
    job.close()
    return model_path


def build(config: Config, store: EpisodeStore) -> WorldModel:
    """The world model before training, with the weights that its variant begins with."""
    pretrained = (
        load_encoder(config.encoder_from, config.encoder_weights) if config.variant == "frozen" else None
    )
    actions = torch.from_numpy(store.gather("actions"))
    flat = actions.flatten(0, 1)
    spec = ActionSpec(
        low=store.meta["action_low"],
        high=store.meta["action_high"],
        per_step=actions.shape[1],
        mean=flat.mean(dim=0).tolist(),
        std=flat.std(dim=0).tolist(),
    )
    encoder = pretrained.config if pretrained else config.encoder
    torch.manual_seed(config.seed)
    model = WorldModel(WorldModelConfig(encoder, config.head, config.dynamics, spec, store.meta["env_id"]))
    if pretrained:
        model.encoder.load_state_dict(pretrained.state_dict())
    model.dynamics.set_statistics(actions)
    return model


def set_statistics(model: WorldModel, windows: Windows, store: EpisodeStore) -> None:
    """Centre the head on the frozen encoder's tokens; end to end the tokens still change, and are left as they are."""
    if windows.array == "tokens":
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
