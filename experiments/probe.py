"""Probe a frozen encoder: what can simple classifiers read from its features? Also fine-tunes it.

Example:
    worldmodel probe model=runs/pretrain/<hash>/model data=labels.csv control=true
    worldmodel probe model=runs/pretrain/<hash>/model data=videos task=speed control=true
    worldmodel probe probe_from=runs/probe/<hash>/probes/pretrained-linear data=new_videos
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.common import open_run, prepare
from worldmodel.atomic import read_json, write_bytes
from worldmodel.evaluation.encoders import NamedEncoder, open_encoder, untrained_like
from worldmodel.evaluation.labelled import read_samples
from worldmodel.evaluation.predict import predict_files
from worldmodel.evaluation.probe_results import summarise, table, write_results
from worldmodel.evaluation.probes import Machine, ProbeConfig, Study, extract_all
from worldmodel.evaluation.splits import Labelled, make_labelled
from worldmodel.evaluation.tasks import TASKS, TaskConfig, as_in_pretraining, task_samples
from worldmodel.evaluation.views import ViewConfig
from worldmodel.models.probes import parameter_count
from worldmodel.report.probe_figures import confusion_picture
from worldmodel.report.theme import LIGHT


@dataclass
class Config:
    """Settings of a probe."""

    #: Model directory whose encoder is probed.
    model: str = ""
    #: CSV file path,label[,split], or a folder of class folders; for a task, a folder or list of videos.
    data: str = ""
    #: labels, or a task with a known answer: speed (of playback), order (forward or backward), source (which video).
    task: str = "labels"
    #: class, or number: labels are numbers, to be predicted by ridge regression.
    target: str = "class"
    #: ema (target encoder), student (context encoder) or auto: ema where the model has it.
    weights: str = "auto"
    #: Also probe the same architecture with random weights, and compare.
    control: bool = False
    #: Layers whose features are read, counted from 0; empty: the encoder's output.
    layers: list[int] = field(default_factory=list)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    task_clips: TaskConfig = field(default_factory=TaskConfig)
    #: Share of the samples that is the test, where data does not say.
    test_share: float = 0.3
    #: Share of the training samples that hyper-parameters are chosen on, where data does not say.
    select_share: float = 0.25
    #: Largest share of samples (of videos, for a task) that may be unreadable; they are left out.
    unreadable: float = 0.0
    #: Probe directory to use, instead of fitting one: prints its answers for the files in data.
    probe_from: str = ""
    #: Run directory; empty: runs/probe/<hash of the configuration>.
    out: str = ""
    #: Directory of the feature cache, which all probes of one encoder share.
    features: str = "runs/probe/features"
    #: Of splits, low-shot draws, heads and the control's weights.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: fp32 or bf16, of the encoder.
    precision: str = "fp32"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0
    #: Processes that decode videos; 0: none besides this one.
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.data or not (self.model or self.probe_from):
            raise ValueError(
                "give model=MODEL_DIRECTORY data=LABELS.csv, or probe_from=PROBE_DIRECTORY data=VIDEOS"
            )
        if self.task not in ("labels", *TASKS):
            raise ValueError(f"task={self.task!r} is unknown; choose labels, {', '.join(TASKS)}")
        if self.target not in ("class", "number") or self.precision not in ("fp32", "bf16"):
            raise ValueError("target is class or number, precision is fp32 or bf16")
        if not (0 < self.test_share < 1 and 0 < self.select_share < 1 and 0 <= self.unreadable < 1):
            raise ValueError(
                "test_share and select_share are above 0, below 1; unreadable is a share below 1"
            )


def run(config: Config) -> dict[str, Any]:
    """Fit all probes, or those that are still missing; returns the results."""
    if config.probe_from:
        return predict_files(config.probe_from, config.data, config.model, config.device)
    pretrained = open_encoder(config.model, config.weights)
    labelled = read_labelled(config, pretrained)

    job = open_run("probe", config, {"encoder": pretrained.identity, "samples": labelled.hash})
    if job.done is None:
        machine = Machine(prepare(job, config.device, config.threads), config.precision, config.workers)
        cache = Path(config.features).expanduser()
        encoders = [pretrained, *([untrained_like(pretrained, config.seed)] if config.control else [])]
        studies = [
            Study(
                each,
                labelled,
                config.views,
                config.layers,
                config.probe,
                job.path,
                cache,
                machine,
                config.seed,
            )
            for each in encoders
        ]
        extract_all(studies)
        unreadable = studies[0].unreadable(config.unreadable)
        stages = {study.named.name: study.run() for study in studies}
        rows = [labelled.splits.test[row] for row in studies[0].test_rows()]
        size = parameter_count(pretrained.encoder)
        results = {
            **{key: getattr(config, key) for key in ("model", "data", "task", "target", "layers", "seed")},
            "weights": pretrained.weights,
            "classes": labelled.classes,
            "train": len(labelled.splits.train),
            "test": len(rows),
            "unreadable": unreadable,
            "encoder_parameters": size,
            "probes": summarise(labelled, rows, stages, size),
        }
        write_results(job.path, results, labelled, rows, stages["pretrained"])
        for kind, found in results["probes"].items() if labelled.classes else ():
            title = f"{kind}: {found['pretrained']['accuracy']:.1%} of {len(rows)} right"
            picture = confusion_picture(found["pretrained"]["confusion"], labelled.classes, title, LIGHT)
            write_bytes(job.path / f"confusion-{kind}.png", picture)
        job.finish({"probes": list(results["probes"])})
    job.close()
    return {**read_json(job.path / "results.json"), "path": str(job.path)}


def read_labelled(config: Config, encoder: NamedEncoder) -> Labelled:
    """The labelled samples, split."""
    if config.task == "labels":
        samples = read_samples(config.data)
    else:
        frames = config.views.frames or encoder.encoder.config.frames
        clips = as_in_pretraining(config.task_clips, config.data, encoder.pretraining)
        samples = task_samples(config.data, config.task, clips, frames, config.seed, config.unreadable)
    return make_labelled(samples, config.target, config.test_share, config.select_share, config.seed)


def outcome(results: dict[str, Any]) -> str:
    """What the command says at its end."""
    if "answers" in results:
        return "\n".join(f"{file}: {json.dumps(answer)}" for file, answer in results["answers"].items())
    return f"{table(results)}\n\nresults, confusion matrices and probes in {results['path']}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("probe"))
