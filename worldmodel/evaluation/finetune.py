"""Fine-tuning: the encoder is trained together with a head, more gently the nearer a layer is to the pixels."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.evaluation.features import encode, pool
from worldmodel.evaluation.fitting import HeadConfig, TrainingSet
from worldmodel.evaluation.heads import train_heads
from worldmodel.evaluation.views import ClipSamples
from worldmodel.models.probes import AttentiveProbe, AttentiveProbeConfig, LinearProbe, Probe
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.seeding import keyed_rng

READ_AHEAD = 16  # samples that are decoded at the same time


def _schedule() -> HeadConfig:
    return HeadConfig(lrs=[1e-3], weight_decays=[0.05], epochs=20, min_steps=0, batch_size=16, warmup=0.1)


@dataclass
class FineTuneConfig:
    """How to train the encoder together with a head."""

    #: linear (on the mean of the tokens) or attentive (its size is that of the attentive probe).
    head: str = "linear"
    #: The encoder's learning rate, as a share of the head's.
    encoder_lr: float = 0.1
    #: Each layer's learning rate, as a share of that of the layer after it.
    layer_decay: float = 0.75
    #: Random crops of the training clips, drawn anew at each step.
    random_crops: bool = True
    #: Learning rates, epochs and so on of the head; several learning rates or decays are tried one after another.
    training: HeadConfig = field(default_factory=_schedule)

    def __post_init__(self) -> None:
        if self.head not in ("linear", "attentive"):
            raise ValueError(f"finetune.head={self.head!r} is unknown; choose linear or attentive")
        if not (self.encoder_lr > 0 and 0 < self.layer_decay <= 1):
            raise ValueError(
                "finetune.encoder_lr must be positive, and finetune.layer_decay above 0, at most 1"
            )


class FineTuned(nn.Module):
    """An encoder and a head as one classifier: clips ``(B, segments, T, C, H, W)`` to ``(B, outputs)``."""

    def __init__(
        self, encoder: VideoEncoder, head: Probe, layers: Sequence[int] = (), precision: str = "fp32"
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.layers, self.precision = encoder, head, list(layers), precision

    def forward(self, clips: Tensor) -> Tensor:
        batch, segments = clips.shape[:2]
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            tokens = encode(self.encoder, clips.flatten(0, 1), self.layers).float()
        tokens = (
            tokens.unflatten(0, (batch, segments)).movedim(1, 2).flatten(2, 3)
        )  # (B, L, segments * P * N, D)
        return self.head(pool(tokens) if self.head.reads == "pooled" else tokens.flatten(1, 2))


def layer_scales(
    model: nn.Module, config: FineTuneConfig, depth: int
) -> list[tuple[float, list[nn.Parameter]]]:
    """Parameters with the share of the head's learning rate that each gets."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if name.startswith("encoder."):
            block = re.match(r"encoder\.blocks\.(\d+)\.", name)
            layer = int(block[1]) + 1 if block else depth + 1 if name.startswith("encoder.norm") else 0
            scale = config.encoder_lr * config.layer_decay ** (depth + 1 - layer)
        groups.setdefault(scale, []).append(parameter)
    return list(groups.items())


@dataclass
class Tuning:
    """All that fine-tuning works with: the encoder to begin with, and the training clips.

    Attributes:
        encoder: It is copied, not changed.
        clips: Of the training samples, in the order of the training set.
    """

    encoder: VideoEncoder
    clips: ClipSamples
    layers: list[int]
    precision: str
    workers: int
    device: str


def fit_finetuned(
    data: TrainingSet,
    tuning: Tuning,
    config: FineTuneConfig,
    size: AttentiveProbeConfig,
    seed: int,
    state: Path,
) -> tuple[FineTuned, dict[str, float], list[dict[str, float]]]:
    """Fine-tune; with several settings, choose by the ``select`` rows and train again on all training samples.

    Returns:
        The classifier, the chosen settings and all trials, as for the other probes.
    """

    def train(lr: float, decay: float, rows: list[int], part: str) -> FineTuned:
        model = _begin(data, tuning, config, size, rows, seed)
        schedule, depth = config.training, tuning.encoder.config.depth
        with _Reader(tuning, data.targets, config.random_crops, seed) as read:
            train_heads(
                [model],
                [(lr, decay)],
                rows,
                read,
                steps=schedule.steps(len(rows)),
                batch_size=schedule.batch_size,
                warmup=schedule.warmup,
                seed=seed,
                scales=lambda head: layer_scales(head, config, depth),
                state=state.with_name(f"{state.name}.{part}.safetensors"),
                label=f"finetune, {part}",
            )
        return model

    candidates = [{"lr": lr, "weight_decay": decay} for lr, decay in config.training.grid]
    trials, best = list[dict[str, float]](), 0
    if data.select and len(candidates) > 1:
        for number, (lr, decay) in enumerate(config.training.grid):
            model = train(lr, decay, data.fit, f"candidate {number}")
            found = answer(model, tuning.clips, data.select, tuning)
            correct = (found.argmax(dim=-1) == data.targets[data.select]).float().mean()
            trials.append({**candidates[number], "accuracy": float(correct)})
        best = max(range(len(trials)), key=lambda i: trials[i]["accuracy"])
    return train(*config.training.grid[best], data.train, "all"), candidates[best], trials


def _begin(
    data: TrainingSet,
    tuning: Tuning,
    config: FineTuneConfig,
    size: AttentiveProbeConfig,
    rows: list[int],
    seed: int,
) -> FineTuned:
    pooled = data.features.read("pooled", rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed_rng("probe weights", seed).integers(2**31)))
        head: Probe
        if config.head == "attentive":
            head = AttentiveProbe(tuning.encoder.width, data.outputs, size)
        else:
            head = LinearProbe(pooled.shape[1], data.outputs)
            head.set_statistics(pooled)
    encoder = deepcopy(tuning.encoder).requires_grad_(True)
    return FineTuned(encoder, head, tuning.layers, tuning.precision).to(tuning.device)


class _Reader:
    """Reads batches of training clips, the files of one batch at the same time in several threads."""

    def __init__(self, tuning: Tuning, targets: Tensor, random_crops: bool, seed: int) -> None:
        self.tuning, self.targets, self.random_crops, self.seed = tuning, targets, random_crops, seed
        self.pool = ThreadPoolExecutor(max(1, tuning.workers))

    def __call__(self, step: int, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        jobs = [self.pool.submit(self._clip, row, step) for row in batch]
        clips = torch.from_numpy(np.stack([job.result() for job in jobs]))
        return clips.to(self.tuning.device), self.targets[list(batch)].to(self.tuning.device)

    def _clip(self, row: int, step: int) -> np.ndarray:
        clips = self.tuning.clips
        rng = keyed_rng("finetune crop", self.seed, row, step) if self.random_crops else None
        return clips.read(clips.samples[row], rng)[0]

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)


@torch.inference_mode()
def answer(model: FineTuned, clips: ClipSamples, rows: Sequence[int], tuning: Tuning) -> Tensor:
    """Probabilities ``(len(rows), classes)``, averaged over crops."""
    model.eval()
    answers: list[Tensor] = []
    with ThreadPoolExecutor(max(1, tuning.workers)) as pool_of_threads:
        for begin in range(0, len(rows), READ_AHEAD):
            ahead = rows[begin : begin + READ_AHEAD]
            reads = pool_of_threads.map(lambda row: clips.read(clips.samples[row]), ahead)
            crops = (model(torch.from_numpy(read).to(tuning.device)) for read in reads)
            answers += [logits.softmax(dim=-1).mean(dim=0).cpu() for logits in crops]
    return torch.stack(answers)
