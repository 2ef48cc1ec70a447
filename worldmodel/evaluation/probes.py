"""A probing study: all wanted probes of an encoder on one labelled set; what is done is kept on disk at once."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldmodel.atomic import write_atomic
from worldmodel.data.clips import ClipShape
from worldmodel.evaluation.encoders import NamedEncoder
from worldmodel.evaluation.features import Extraction, Features, extract, feature_folder
from worldmodel.evaluation.finetune import FineTuneConfig, FineTuned, Tuning, answer, fit_finetuned
from worldmodel.evaluation.fitting import (
    Fitted,
    HeadConfig,
    KNNConfig,
    RidgeConfig,
    TrainingSet,
    fit_attentive,
    fit_knn,
    fit_linear,
    fit_ridge,
    predict,
    probabilities,
)
from worldmodel.evaluation.splits import Labelled, divide, few_shots
from worldmodel.evaluation.views import ClipSamples, ViewConfig
from worldmodel.models.probe_files import save_probe
from worldmodel.models.probes import AttentiveProbeConfig, parameter_count

KINDS = ("knn", "linear", "attentive", "finetune")
DEFAULT_FPS = 4.0


def _attentive_training() -> HeadConfig:
    return HeadConfig(lrs=[1e-3, 3e-4, 1e-4], weight_decays=[0.01, 0.1], min_steps=0, batch_size=16)


@dataclass
class ProbeConfig:
    """Which probes, and how they are fitted."""

    #: Some of knn, linear, attentive and finetune; numbers have linear (ridge regression) only.
    kinds: list[str] = field(default_factory=lambda: ["knn", "linear"])
    knn: KNNConfig = field(default_factory=KNNConfig)
    linear: HeadConfig = field(default_factory=HeadConfig)
    #: Size of the attentive probe.
    attentive: AttentiveProbeConfig = field(default_factory=AttentiveProbeConfig)
    attentive_training: HeadConfig = field(default_factory=_attentive_training)
    ridge: RidgeConfig = field(default_factory=RidgeConfig)
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    #: Low-shot training sets besides the full one: samples per class, or, below 1, that share of them.
    shots: list[float] = field(default_factory=list)
    #: Draws of each low-shot training set.
    draws: int = 3

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds:
            raise ValueError(f"probe.kinds={self.kinds}: choose some of {', '.join(KINDS)}")
        if self.draws < 1 or any(amount <= 0 or (amount > 1 and amount % 1) for amount in self.shots):
            raise ValueError(
                "probe.shots are whole numbers per class, or shares above 0, below 1; draws is at least 1"
            )


@dataclass(frozen=True)
class Machine:
    """Where and how fast to work; none of it is meant to change the result."""

    device: str = "cpu"
    precision: str = "fp32"
    workers: int = 0
    batch_size: int = 16


@dataclass
class Stage:
    """What came of one probe: answers on the test ``(n, outputs)``, and how it was fitted."""

    answers: Tensor
    about: dict[str, Any]


class Study:
    """All probes of one encoder.

    Args:
        named: The encoder.
        labelled: Samples, splits, labels.
        views: Which clips.
        layers: Layers to read, counted from 0; empty: the encoder's output.
        config: Which probes.
        folder: Where finished stages and probes are kept.
        cache: Where features are kept.
        machine: Device and so on.
        seed: Of all that is random.
    """

    def __init__(
        self,
        named: NamedEncoder,
        labelled: Labelled,
        views: ViewConfig,
        layers: list[int],
        config: ProbeConfig,
        folder: Path,
        cache: Path,
        machine: Machine,
        seed: int,
    ) -> None:
        self.named, self.labelled, self.views, self.layers = named, labelled, views, layers
        self.config, self.folder, self.cache, self.machine, self.seed = config, folder, cache, machine, seed
        size = named.encoder.config
        self.shape = ClipShape(
            views.frames or size.frames, views.fps or named.fps or DEFAULT_FPS, views.stride
        )
        self.size = views.size or size.image_size
        self.rows = {"train": labelled.splits.train, "test": labelled.splits.test}
        self.features: dict[str, Features] = {}

    def clips(self, part: str) -> ClipSamples:
        """The clips of ``train`` or ``test``; only the test has several crops."""
        samples = [self.labelled.samples[row] for row in self.rows[part]]
        return ClipSamples(
            samples, self.shape, self.size, self.views, self.views.crops if part == "test" else 1
        )

    @property
    def stride(self) -> int:
        """Which frames of another file a saved probe looks at, where its samples are frames: every n-th (a task's).

        For speed it is the smallest step, so that the answer is how fast the file shows its frames.
        """
        steps = [abs(b - a) for sample in self.labelled.samples for a, b in pairwise(sample.frames)]
        return min(steps, default=self.shape.stride)

    def describe(self) -> dict[str, Any]:
        """What a feature depends on, besides the samples."""
        return {
            "encoder": self.named.identity,
            "layers": self.layers,
            "frames": self.shape.frames,
            "fps": self.shape.fps,
            "stride": self.shape.stride,
            "size": self.size,
            "segments": self.views.segments,
            "zoom": self.clips("train").zoom,
            "precision": self.machine.precision,
        }

    def unreadable(self, allowed: float = 1.0) -> dict[str, str]:
        """Samples that could not be read, and why.

        Raises:
            ValueError: They are more than the share ``allowed`` of all.
        """
        found = {
            self.labelled.samples[self.rows[part][row]].name: text
            for part, features in self.features.items()
            for row, text in features.errors.items()
        }
        total = len(self.labelled.samples)
        if len(found) > allowed * total:
            shown = "; ".join(list(found.values())[:3])
            raise ValueError(
                f"{len(found)} of {total} samples cannot be read ({shown}); mend or remove them, or set unreadable="
                f"{math.ceil(100 * len(found) / total) / 100:g} to leave them out"
            )
        return found

    def test_rows(self) -> list[int]:
        """Positions, within the test part, of what could be read."""
        return [row for row in range(len(self.rows["test"])) if row not in self.features["test"].errors]

    def training_set(self, shots: float = 0.0, draw: int = 0) -> TrainingSet:
        """The training part; with ``shots``, a low-shot draw of it, hyper-parameters chosen within the draw."""
        labelled, place = self.labelled, {row: position for position, row in enumerate(self.rows["train"])}
        usable = {row for row, position in place.items() if position not in self.features["train"].errors}
        fit, select = (
            [row for row in rows if row in usable] for rows in (labelled.splits.fit, labelled.splits.select)
        )
        if shots:
            chosen = few_shots(labelled.samples, sorted(fit + select), shots, draw, self.seed)
            fit, select = divide(labelled.samples, chosen, 0.25, f"shots {draw} select", self.seed)
        targets = labelled.targets(self.rows["train"])
        outputs = len(labelled.classes) or targets.shape[1]
        features = self.features["train"]
        return TrainingSet(
            features, targets, outputs, [place[row] for row in fit], [place[row] for row in select]
        )

    def run(self) -> dict[str, Stage]:
        """Every stage by its name: a kind of probe, or ``kind/shots/draw``. Finished ones are read from disk.

        Call ``extract_all`` first.
        """
        kinds = self.config.kinds if self.labelled.classes else ["ridge"]
        stages = {kind: self.stage(kind) for kind in kinds}
        for shots in self.config.shots if self.labelled.classes else []:
            for kind in kinds:
                for draw in range(self.config.draws):
                    stages[f"{kind}/{shots:g}/{draw}"] = self.stage(kind, shots, draw)
        return stages

    def stage(self, kind: str, shots: float = 0.0, draw: int = 0) -> Stage:
        """Fit one probe and let it answer the test; again, if another sample can be read than when it was fitted."""
        name = f"{self.named.name}-{kind}" + (f"-{shots:g}-{draw}" if shots else "")
        file = self.folder / "stages" / f"{name}.safetensors"
        lost = json.dumps({part: sorted(features.errors) for part, features in self.features.items()})
        if not file.is_file() or _note(file, "lost") != lost:
            stage = self._fit(
                kind, self.training_set(shots, draw), name, keep=not shots and self.named.name == "pretrained"
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            notes = {"stage": json.dumps(stage.about), "lost": lost}
            write_atomic(
                file, lambda path: save_file({"answers": stage.answers.contiguous()}, path, metadata=notes)
            )
        with safe_open(file, "pt") as content:
            return Stage(content.get_tensor("answers"), json.loads(_note(file, "stage")))

    def _fit(self, kind: str, data: TrainingSet, name: str, keep: bool) -> Stage:
        config, device, state = self.config, self.machine.device, self.folder / "stages" / f".{name}"
        state.parent.mkdir(parents=True, exist_ok=True)
        if kind == "finetune":
            return self._finetune(data, state, name, keep)
        fitted: Fitted
        if kind == "knn":
            fitted = fit_knn(data, config.knn, device)
        elif kind == "linear":
            fitted = fit_linear(data, config.linear, device, self.seed)
        elif kind == "ridge":
            fitted = fit_ridge(data, config.ridge, device)
        else:
            fitted = fit_attentive(
                data, config.attentive, config.attentive_training, device, self.seed, state
            )
        reply = probabilities if self.labelled.classes else predict
        answers = reply(fitted.probe, self.features["test"], self.test_rows(), device)
        about = {"chosen": fitted.chosen, "trials": fitted.trials, "samples": len(data.train)}
        about["parameters"] = parameter_count(fitted.probe)
        if keep:
            save_probe(self.folder / "probes" / name, fitted.probe.cpu(), self.card(fitted.chosen))
        return Stage(answers, about)

    def _finetune(self, data: TrainingSet, state: Path, name: str, keep: bool) -> Stage:
        machine, config = self.machine, self.config
        tuning = Tuning(
            self.named.encoder,
            self.clips("train"),
            self.layers,
            machine.precision,
            machine.workers,
            machine.device,
        )
        model: FineTuned
        model, chosen, trials = fit_finetuned(
            data, tuning, config.finetune, config.attentive, self.seed, state
        )
        answers = answer(model, self.clips("test"), self.test_rows(), tuning)
        about = {"chosen": chosen, "trials": trials, "samples": len(data.train)}
        about["parameters"] = parameter_count(model.head)
        if keep:
            save_probe(self.folder / "probes" / name, model.cpu().head, self.card(chosen), model.encoder)
        return Stage(answers, about)

    def card(self, chosen: dict[str, float]) -> dict[str, Any]:
        """What a saved probe needs to be used again."""
        return {
            "classes": self.labelled.classes,
            "encoder": {
                "name": self.named.name,
                "path": self.named.path,
                "weights": self.named.weights,
                "identity": self.named.identity,
            },
            "encoder_config": asdict(self.named.encoder.config),
            "views": {
                **asdict(self.views),
                "fps": self.shape.fps,
                "stride": self.stride,
                "segments": self.clips("train").shape[1],
                "frames": self.shape.frames,
                "size": self.size,
            },
            "layers": self.layers,
            "chosen": chosen,
        }


def _note(file: Path, key: str) -> str:
    with safe_open(file, "pt") as content:
        return str(content.metadata().get(key, ""))


def extract_all(studies: Sequence[Study]) -> None:
    """Compute, or read again, the features of several encoders on one labelled set, reading its files once."""
    machine = studies[0].machine
    tokens = "attentive" in studies[0].config.kinds
    for study in studies:
        study.named.encoder.to(machine.device)
    for part in ("train", "test"):
        clips = studies[0].clips(part)
        extractions = []
        for study in studies:
            description = {**study.describe(), "crops": clips.crops, "tokens": tokens}
            folder = feature_folder(study.cache, description, clips.samples)
            extractions.append(Extraction(study.named.encoder, folder, description))
        found = extract(
            extractions,
            clips,
            layers=studies[0].layers,
            tokens=tokens,
            precision=machine.precision,
            batch_size=machine.batch_size,
            workers=machine.workers,
            label=f"features, {part}",
        )
        # What one encoder could not be given, the others do without: all answer the same samples.
        errors = {row: text for features in found for row, text in features.errors.items()}
        for study, features in zip(studies, found, strict=True):
            features.errors = errors
            study.features[part] = features
