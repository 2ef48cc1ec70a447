"""Pretrain a video encoder by V-JEPA on the frames of an episode dataset; actions are not looked at.

Example:
    worldmodel pretrain data=data/two_room loop.steps=600
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from experiments.common import clip_batches, open_run, prepare, resolve_precision, split_episodes
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.windows import Windows
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.models.world_model import save_encoder
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction
from worldmodel.training.loop import LoopConfig, fit

#: torchrun may start it.
DISTRIBUTED = True


@dataclass
class Config:
    """Settings of a pretraining."""

    #: Dataset directory that worldmodel collect made.
    data: str = MISSING
    #: Run directory; empty: runs/pretrain/<hash of the configuration>.
    out: str = ""
    #: Of all that is random: order, masks, weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0
    #: Environment steps from one frame of a clip to the next.
    stride: int = 1
    #: Share of the episodes that training never sees.
    held_out: float = 0.05
    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    predictor: MaskedPredictorConfig = field(default_factory=MaskedPredictorConfig)
    mask: dict[str, MaskConfig] = field(default_factory=dict)
    objective: MaskedLatentConfig = field(default_factory=MaskedLatentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1")


def run(config: Config) -> Path:
    """Train, or continue training; returns the model directory."""
    store = EpisodeStore(config.data)
    train, _ = split_episodes(store, config.held_out)
    clips = Windows(store, train, config.encoder.frames - 1, stride=config.stride)
    draw_masks(config.mask, config.encoder.grid, config.seed, range(1))  # impossible masks end here

    job = open_run("pretrain", config, {"data": store.hash})
    model_path = job.path / "model"
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        torch.manual_seed(config.seed)
        encoder = VideoEncoder(config.encoder)
        predictor = MaskedPredictor(config.predictor, encoder.grid, encoder.width)
        objective = MaskedLatentPrediction(encoder, predictor, config.objective).to(device)
        fit(
            objective,
            clip_batches(clips, config.mask, encoder.grid, loop.batch_size, config.seed),
            loop,
            job,
            "V-JEPA",
        )
        parts = {
            "encoder": objective.encoder,
            "target_encoder": objective.target_encoder,
            "predictor": predictor,
        }
        settings = {
            "encoder": asdict(config.encoder),
            "predictor": asdict(config.predictor),
            "data": store.hash,
            "held_out": config.held_out,
        }
        card = f"V-JEPA encoder, {loop.steps} steps on {store.meta['env_id']}.\n"
        job.write(lambda: save_encoder(model_path, parts, settings, card))
        job.finish({"steps": loop.steps})
    job.close()
    return model_path


def outcome(model: Path) -> str:
    """What the command says at its end."""
    return f"encoder in {model}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("pretrain"))
