"""Energies of videos: is a pretrained model more surprised by what does not happen than by what does?

A model sees the first part of a clip and predicts the features of the rest; the energy is the error. Each clip is
compared with itself played backwards, with another video's future, and with its own video's future at another time.

Example:
    worldmodel energy model=runs/pretrain/<hash>/model data=VIDEOS control=true
    worldmodel energy model=MODEL data=VIDEOS comparisons=[shuffled] out=runs/pretrain/<hash>/probe-energy
"""

from dataclasses import dataclass, field
from typing import Any

from experiments.common import open_run, prepare
from worldmodel.atomic import read_json, write_bytes, write_json
from worldmodel.data.clips import ClipShape
from worldmodel.evaluation.energy import ClipEnergy, future_pairs
from worldmodel.evaluation.energy_clips import Moments, unseen_part
from worldmodel.evaluation.energy_models import Pretrained, open_pretrained, untrained
from worldmodel.evaluation.energy_study import COMPARISONS, as_csv, score, summarise, table
from worldmodel.report.energy_figures import energy_picture
from worldmodel.report.theme import LIGHT

USUAL_FPS = 4.0


@dataclass
class Config:
    """Settings of a comparison of energies."""

    #: Model directory with encoder and predictor, as worldmodel pretrain (or import) writes it.
    model: str = ""
    #: Folder or list of videos, as for pretraining.
    data: str = ""
    #: Some of reversed, shuffled (the next video's future) and elsewhere (the same video's future at another time).
    comparisons: list[str] = field(default_factory=lambda: list(COMPARISONS))
    #: Also score the same networks with random weights, on the same clips.
    control: bool = False
    #: Clips of a video, side by side; a shorter one gives fewer, and at least two if compared with elsewhere.
    clips: int = 8
    #: Share of the videos, or of their time, that is looked at; 0: what pretraining held out, all of other videos.
    held_out: float = 0.0
    #: What that is a share of: file, or time (the last part of each video).
    held_out_by: str = "file"
    #: What is one observation: video, or clip (the result is then about other moments of these videos, not about other
    #: videos); empty: clip if a part of each video's time is looked at, else video.
    independent: str = ""
    #: Frames per second of a clip; 0: as in pretraining, where the model says so, else 4.
    fps: float = 0.0
    #: If not 0, every stride-th frame instead.
    stride: int = 0
    #: Steps (of tubelets) that are seen, one number for each (context, target) pair; empty: as in pretraining with
    #: mask=future, else half of the clip.
    context_steps: list[int] = field(default_factory=list)
    #: Steps that are predicted; 0: all that follow.
    horizon: int = 0
    #: Over pairs: mean, or max.
    reduce: str = "mean"
    #: Which of the predictor's mask tokens; -1: that of the mask of kind future in pretraining, else the first.
    mask_index: int = -1
    #: layer, centred or none; empty: as in pretraining, where the model says so, else layer.
    target_norm: str = ""
    #: l1 or l2; empty: as in pretraining, where the model says so, else l1.
    loss: str = ""
    #: Largest share of the videos that may be unreadable; they are left out.
    unreadable: float = 0.0
    #: Run directory; empty: runs/energy/<hash of the configuration>.
    out: str = ""
    #: Of the control's weights.
    seed: int = 0
    #: Clips that are encoded together.
    batch_size: int = 8
    #: auto, cpu or cuda.
    device: str = "auto"
    #: fp32 or bf16.
    precision: str = "fp32"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.model or not self.data:
            raise ValueError("give model=MODEL_DIRECTORY data=VIDEOS")
        if not self.comparisons or set(self.comparisons) - set(COMPARISONS):
            raise ValueError(f"comparisons={self.comparisons}: choose some of {', '.join(COMPARISONS)}")
        if min(self.clips, self.batch_size) < 1 or min(self.fps, self.stride, self.horizon) < 0:
            raise ValueError("clips and batch_size must be at least 1, fps, stride and horizon not negative")
        if self.clips < 2 and "elsewhere" in self.comparisons:
            raise ValueError(
                "clips=1 leaves no other time of a video; use clips=2 or more, or leave elsewhere out"
            )
        if self.independent not in ("", "video", "clip"):
            raise ValueError(
                f"independent={self.independent!r} is unknown; choose video or clip, or leave it out"
            )
        if not 0 <= self.unreadable < 1 or not 0 <= self.held_out < 1:
            raise ValueError("unreadable and held_out are shares below 1")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision={self.precision!r} is unknown; choose fp32 or bf16")


def run(config: Config) -> dict[str, Any]:
    """Score all clips; returns the results."""
    model = open_pretrained(config.model)
    part = unseen_part(config.data, config.held_out, config.held_out_by, model.pretraining)
    shape = ClipShape(model.encoder.config.frames, config.fps or model.fps or USUAL_FPS, config.stride)
    fewest = 2 if "elsewhere" in config.comparisons else 1
    size = model.encoder.config.image_size
    videos = Moments(config.data, part, shape, size, config.clips, fewest, config.unreadable)

    job = open_run("energy", config, {"model": model.identity, "data": videos.hash})
    if job.done is None:
        device = prepare(job, config.device, config.threads)
        settings, notes = as_pretrained(config, model)
        models = {
            "pretrained": model,
            **({"untrained": untrained(model, config.seed)} if config.control else {}),
        }
        energies = {name: energy_of(each, settings, device) for name, each in models.items()}
        if settings["target_norm"] == "centred":
            for energy in energies.values():
                energy.centre_on(video.clips.to(device) for video in videos)
        independent = config.independent or ("clip" if part.share and part.by == "time" else "video")
        found = score(
            energies, videos, config.comparisons, config.batch_size, device, config.precision, independent
        )
        results = {
            **{key: getattr(config, key) for key in ("model", "data", "seed")},
            **settings,
            "fps": 0.0 if shape.stride else shape.fps,
            "part": part.text,
            "independent": independent,
            "videos": len(set(found["pretrained"].videos)),
            "test": len(found["pretrained"].likely),
            "short": videos.short,
            "unreadable": videos.damaged,
            "notes": notes,
            "probes": summarise(found),
        }
        differences = {
            key: {name: each.differences(key) for name, each in found.items()} for key in config.comparisons
        }
        write_bytes(job.path / "energies.csv", as_csv(found))
        write_bytes(job.path / "energies.png", energy_picture(differences, LIGHT))
        write_json(job.path / "results.json", results)
        job.finish({"clips": results["test"]})
    job.close()
    return {**read_json(job.path / "results.json"), "path": str(job.path)}


def as_pretrained(config: Config, model: Pretrained) -> tuple[dict[str, Any], list[str]]:
    """Mask token, steps, loss and target as the settings say or else as in pretraining; and what is to be noted."""
    found, notes = model.future, []
    if found is None and (config.mask_index < 0 or not config.context_steps):
        notes.append(
            "the model was not pretrained with mask=future: the future is further from the context than what it was "
            "trained to predict, and energies tell less"
        )
    index, steps = found or (0, max(1, model.encoder.grid.steps // 2))
    return {
        "mask_index": config.mask_index if config.mask_index >= 0 else index,
        "context_steps": list(config.context_steps) or [steps],
        "horizon": config.horizon,
        "reduce": config.reduce,
        "target_norm": config.target_norm or model.objective.get("target_norm", "layer"),
        "loss": config.loss or model.objective.get("loss", "l1"),
    }, notes


def energy_of(model: Pretrained, settings: dict[str, Any], device: str) -> ClipEnergy:
    """The energy of a model, on the device."""
    pairs = future_pairs(model.encoder.grid, settings["context_steps"], settings["horizon"] or None)
    target = None if model.target_encoder is None else model.target_encoder.to(device)
    keys = ("target_norm", "loss", "reduce", "mask_index")
    chosen = {key: settings[key] for key in keys}
    return ClipEnergy(model.encoder.to(device), model.predictor.to(device), target, pairs, **chosen)


def outcome(results: dict[str, Any]) -> str:
    """What the command says at its end."""
    rate = f" at {results['fps']:g} frames/s" if results["fps"] else ""
    lines = [f"{results['test']} clips{rate} of {results['videos']} videos ({results['part']})"]
    for key, why in (("short", "too short"), ("unreadable", "unreadable")):
        if results[key]:
            lines.append(f"{len(results[key])} videos left out, {why}")
    if results["independent"] == "clip" and results["videos"] > 1:
        lines.append("intervals: over moments of these videos; they say nothing about other videos")
    lines += [f"note: {note}" for note in results["notes"]]
    return "\n".join(
        [
            *lines,
            "",
            table(results["probes"]),
            "",
            f"results, energies.csv and energies.png in {results['path']}",
        ]
    )


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("energy"))
