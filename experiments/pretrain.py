"""Pretrain a video encoder by V-JEPA, or any other objective, on videos, or on the frames of an episode dataset.

Example:
    worldmodel pretrain data=VIDEOS recipe=vjepa2_vitl16
    worldmodel pretrain data=data/two_room objective=byol
    worldmodel pretrain data=data/two_room loop.steps=600
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from omegaconf import MISSING

from experiments.clips import Clips, Draw, EpisodeClips, VideoClips, clip_batches, is_episode_dataset
from experiments.common import command_line, open_run, prepare, resolve_precision
from worldmodel.data.corpus import CorpusConfig
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.files import directory_hash
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.pretrained import load_encoder, load_weights, save_encoder
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Objective, ObjectiveConfig
from worldmodel.objectives.build import SCHEMAS as OBJECTIVES
from worldmodel.objectives.build import build_objective
from worldmodel.report.pretraining_report import write_pretraining_report
from worldmodel.training.distributed import current_world
from worldmodel.training.loop import LoopConfig, check_batch, fit
from worldmodel.training.run import Run
from worldmodel.training.sinks import LogConfig

#: torchrun may start it.
DISTRIBUTED = True
SCHEMAS = {f"objective/{name}": schema for name, schema in OBJECTIVES.items()}


@dataclass
class Config:
    """Settings of a pretraining."""

    #: Videos (a folder, a list, tar shards), or a dataset directory that worldmodel collect made.
    data: str = ""
    #: Run directory; empty: runs/pretrain/<hash of the configuration>.
    out: str = ""
    #: Of all that is random: order, crops, masks, weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0
    #: Processes that read videos ahead; 0: none, videos are read between the steps.
    workers: int = 2
    #: Begin with the weights of this model directory instead of random ones, e.g. for a cooldown.
    init_from: str = ""
    #: Share of the videos or episodes that training never sees.
    held_out: float = 0.05
    #: Episode datasets: environment steps from one frame of a clip to the next. (Videos: corpus.fps, corpus.stride.)
    stride: int = 1
    #: Share of the clips that are mirrored left to right.
    flip: float = 0.0
    #: Write report.html with pictures at the end.
    report: bool = True
    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    predictor: MaskedPredictorConfig = field(default_factory=MaskedPredictorConfig)
    mask: dict[str, MaskConfig] = field(default_factory=dict)
    objective: ObjectiveConfig = MISSING
    loop: LoopConfig = field(default_factory=LoopConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if self.stride < 1 or not 0 <= self.flip <= 1:
            raise ValueError(f"stride={self.stride} must be at least 1, and flip={self.flip} from 0 to 1")
        if not self.data and not self.corpus.sources:
            raise ValueError(
                "data=... is missing: a folder or list of videos, or a dataset that worldmodel collect made"
            )


def run(config: Config) -> Path:
    """Train, or continue training; returns the model directory."""
    # What is impossible ends here, before there is a directory of it.
    if config.objective.masked:
        draw_masks(config.mask, config.encoder.grid, config.seed, range(1))
    else:
        config = replace(config, mask={})
    check_batch(config.loop, current_world())
    clips = open_clips(config)
    models = config.objective.models()
    if config.init_from:
        models["init_from"] = config.init_from
    inputs = {"data": clips.hash} | {name: directory_hash(Path(path)) for name, path in models.items()}
    if models:
        build(config)  # weights that do not fit end here, too

    job = open_run("pretrain", config, inputs)
    model = job.path / "model"
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        loop = resolve_precision(job, config.loop, device)
        objective = build(config).to(device)
        how = Draw(
            config.mask, config.encoder.grid, loop.batch_size, config.flip, config.seed,
            config.workers if clips.slow else 0,
        )  # fmt: skip
        fit(objective, clip_batches(clips, how, device, job.path), loop, job, "pretraining")
        job.write(lambda: save(model, objective, config, clips))
        if config.report:
            job.write(lambda: report(job, clips, config))
        job.finish({"steps": loop.steps})
    job.close()
    return model


def open_clips(config: Config) -> Clips:
    """The training's clips, from videos or from episodes."""
    if is_episode_dataset(config.data):
        size = config.encoder
        return EpisodeClips(
            config.data, size.frames, size.image_size, config.stride, config.held_out, config.seed
        )
    for key, value, wanted in (
        ("frames", config.corpus.frames, config.encoder.frames),
        ("size", config.corpus.size, config.encoder.image_size),
    ):
        if value != wanted:  # masks would be of another grid than the clips'
            raise ValueError(
                f"corpus.{key}={value} is not the encoder's {wanted}; leave it out, it follows encoder.*"
            )
    return VideoClips(config.corpus, config.seed)


def build(config: Config) -> Objective:
    """The objective with the weights that the training begins with; the encoder's are drawn first."""
    torch.manual_seed(config.seed)
    encoder = VideoEncoder(config.encoder)
    objective = build_objective(config.objective, encoder, config.predictor, config.seed)
    if config.init_from:
        load_weights(config.init_from, objective.parts())
    return objective


def save(path: Path, objective: Objective, config: Config, clips: Clips) -> None:
    """Write the model directory."""
    settings = {
        "encoder": asdict(config.encoder),
        "predictor": asdict(config.predictor),
        "objective": type(config.objective).__name__,
        "objective_settings": asdict(config.objective),
        "mask": {name: asdict(mask) for name, mask in config.mask.items()},
        "data": clips.hash,
        "held_out": clips.held_out,
        "held_out_by": clips.held_out_by,
        "fps": clips.fps,
    }
    card = f"Video encoder pretrained for {config.loop.steps} steps on {clips.title}.\n"
    save_encoder(path, objective.parts(), settings, card)


def report(job: Run, clips: Clips, config: Config) -> None:
    """Write report.html beside the model."""
    torch.manual_seed(config.seed)
    untrained = VideoEncoder(config.encoder)
    facts = replace(clips.facts(job.path), command=command_line("pretrain"))
    write_pretraining_report(job.path, load_encoder(job.path / "model"), untrained, clips.bank(), facts)


def outcome(model: Path) -> str:
    """What the command says at its end."""
    page = model.parent / "report.html"
    return f"encoder in {model}" + (f"\nreport in {page}" if page.exists() else "")


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("pretrain"))
