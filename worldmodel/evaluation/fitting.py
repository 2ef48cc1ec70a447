"""Fitting probes. Hyper-parameters are chosen on a part of the training set; nothing here ever sees the test.

Each ``fit_*`` trains every candidate on the ``fit`` rows, takes the one that is best on the ``select`` rows, and trains
it again on both (``refit``). Without ``select`` rows, the first value of every list is taken.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.evaluation.features import Features
from worldmodel.evaluation.heads import train_heads
from worldmodel.models.probes import AttentiveProbe, AttentiveProbeConfig, KNNProbe, LinearProbe, Probe
from worldmodel.seeding import keyed_rng

BATCH = 64  # samples that are answered at a time
STATISTICS = 256  # samples whose tokens' mean and spread are taken for all, at most


@dataclass
class KNNConfig:
    """Candidates of the k nearest neighbours; the first ones are taken where nothing can be chosen."""

    #: Neighbours that vote.
    k: list[int] = field(default_factory=lambda: [10, 20, 5, 1])
    #: Temperature of their weights.
    temperature: list[float] = field(default_factory=lambda: [0.07, 0.2, 0.02])

    def __post_init__(self) -> None:
        _positive("knn", asdict(self))


@dataclass
class HeadConfig:
    """Grid and length of a head's training; the first values are taken where nothing can be chosen."""

    #: Peak learning rates of AdamW.
    lrs: list[float] = field(default_factory=lambda: [1e-2, 1e-3, 1e-1])
    #: Weight decays; every learning rate is tried with each.
    weight_decays: list[float] = field(default_factory=lambda: [0.1, 1e-3, 1.0])
    #: Passes over the training set.
    epochs: int = 20
    #: At least so many optimiser steps, however small the training set.
    min_steps: int = 500
    #: Samples per step.
    batch_size: int = 64
    #: Share of the steps over which the learning rate rises.
    warmup: float = 0.0
    #: Train the chosen head again, on the part that it was chosen on as well.
    refit: bool = True

    def __post_init__(self) -> None:
        _positive("a head", {"lrs": self.lrs, "epochs": [self.epochs], "batch_size": [self.batch_size]})
        if not self.weight_decays or min(self.weight_decays) < 0 or not 0 <= self.warmup <= 1:
            raise ValueError("weight_decays must be given and not negative, and warmup a share from 0 to 1")

    @property
    def grid(self) -> list[tuple[float, float]]:
        return list(itertools.product(self.lrs, self.weight_decays))

    def steps(self, samples: int) -> int:
        """Optimiser steps on that many samples."""
        return max(self.min_steps, self.epochs * math.ceil(samples / self.batch_size))


@dataclass
class RidgeConfig:
    """Candidates of the penalty in ridge regression."""

    #: Penalties, as shares of the features' variance.
    penalties: list[float] = field(default_factory=lambda: [0.1, 0.001, 0.01, 1.0, 10.0, 100.0])

    def __post_init__(self) -> None:
        _positive("ridge", asdict(self))


def _positive(what: str, lists: dict[str, list[Any]]) -> None:
    for name, values in lists.items():
        if not values or min(values) <= 0:
            raise ValueError(f"{name} of {what} must be positive, at least one: {values}")


@dataclass
class TrainingSet:
    """All that fitting may look at: features and targets of the training samples, and what each is for.

    Attributes:
        features: Of the training samples.
        targets: Classes ``(n,)`` int64, or numbers ``(n, Q)`` float32.
        outputs: Number of classes, or ``Q``.
        fit, select: Positions to train on, and to choose hyper-parameters by.
    """

    features: Features
    targets: Tensor
    outputs: int
    fit: list[int]
    select: list[int]

    @property
    def train(self) -> list[int]:
        """All positions."""
        return sorted(self.fit + self.select)


@dataclass
class Fitted:
    """A fitted probe, the hyper-parameters that were chosen, and how every candidate did on the ``select`` rows."""

    probe: Probe
    chosen: dict[str, float]
    trials: list[dict[str, float]]


def fit_knn(data: TrainingSet, config: KNNConfig, device: str) -> Fitted:
    """k nearest neighbours."""

    def make(rows: Sequence[int], k: int, temperature: float) -> KNNProbe:
        bank = data.features.read("pooled", rows)
        return KNNProbe(bank, data.targets[list(rows)], data.outputs, k, temperature).to(device)

    candidates = [{"k": k, "temperature": t} for k, t in itertools.product(config.k, config.temperature)]
    best, trials = 0, list[dict[str, float]]()
    if data.select and len(candidates) > 1:
        probes = (make(data.fit, int(c["k"]), c["temperature"]) for c in candidates)
        best, trials = _select(data, probes, candidates, device)
    chosen = candidates[best]
    return Fitted(make(data.train, int(chosen["k"]), chosen["temperature"]), chosen, trials)


def fit_linear(data: TrainingSet, config: HeadConfig, device: str, seed: int) -> Fitted:
    """Linear classifiers of the pooled, standardised feature."""

    def make(rows: Sequence[int]) -> LinearProbe:
        pooled = data.features.read("pooled", rows)
        probe = LinearProbe(pooled.shape[1], data.outputs)
        probe.set_statistics(pooled)
        return probe

    return _fit_heads(data, config, make, device, seed, None, "linear")


def fit_attentive(
    data: TrainingSet,
    size: AttentiveProbeConfig,
    config: HeadConfig,
    device: str,
    seed: int,
    state: Path | None = None,
) -> Fitted:
    """Attentive classifiers of all tokens."""
    width = data.features.read("tokens", data.fit[:1]).shape[-1]

    def make(rows: Sequence[int]) -> AttentiveProbe:
        probe = AttentiveProbe(width, data.outputs, size)
        if probe.inputs is not None:
            some = list(rows)[:: math.ceil(len(rows) / STATISTICS)]
            probe.inputs.set_statistics(data.features.read("tokens", some).flatten(0, 1))
        return probe

    return _fit_heads(data, config, make, device, seed, state, "attentive")


def _fit_heads(
    data: TrainingSet,
    config: HeadConfig,
    make: Callable[[Sequence[int]], LinearProbe | AttentiveProbe],
    device: str,
    seed: int,
    state: Path | None,
    label: str,
) -> Fitted:
    def train(
        grid: list[tuple[float, float]], rows: list[int], part: str
    ) -> list[LinearProbe | AttentiveProbe]:
        probes = []
        for _ in grid:
            # Every candidate begins with the same weights, so that only its settings tell it apart.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(keyed_rng("probe weights", seed).integers(2**31)))
                probes.append(make(rows).to(device))

        def read(step: int, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
            inputs = data.features.read(probes[0].reads, batch)
            return inputs.to(device), data.targets[list(batch)].to(device)

        train_heads(
            probes,
            grid,
            rows,
            read,
            steps=config.steps(len(rows)),
            batch_size=config.batch_size,
            warmup=config.warmup,
            seed=seed,
            state=state and state.with_name(f"{state.name}.{part}.safetensors"),
            label=f"{label}, {part}",
        )
        return probes

    candidates = [{"lr": lr, "weight_decay": decay} for lr, decay in config.grid]
    if not data.select or len(candidates) == 1:
        return Fitted(train(config.grid[:1], data.train, "all")[0], candidates[0], [])
    probes = train(config.grid, data.fit, "candidates")
    best, trials = _select(data, probes, candidates, device)
    probe = train([config.grid[best]], data.train, "all")[0] if config.refit else probes[best]
    return Fitted(probe, candidates[best], trials)


def fit_ridge(data: TrainingSet, config: RidgeConfig, device: str) -> Fitted:
    """Ridge regression of numbers on the pooled, standardised feature, in closed form (float64)."""

    def make(rows: Sequence[int], penalty: float) -> LinearProbe:
        pooled, targets = data.features.read("pooled", rows).to(device), data.targets[list(rows)].to(device)
        probe = LinearProbe(pooled.shape[1], data.outputs).to(device)
        probe.set_statistics(pooled)
        weight, bias = ridge(probe.standardise(pooled), targets, penalty)
        with torch.no_grad():
            probe.linear.weight.copy_(weight.T)
            probe.linear.bias.copy_(bias)
        return probe

    candidates = [{"penalty": penalty} for penalty in config.penalties]
    best, trials = 0, list[dict[str, float]]()
    if data.select and len(candidates) > 1:
        for candidate in candidates:
            answer = predict(make(data.fit, candidate["penalty"]), data.features, data.select, device)
            error = (answer - data.targets[data.select]).square().mean()
            trials.append({**candidate, "squared_error": float(error)})
        best = min(range(len(trials)), key=lambda i: trials[i]["squared_error"])
    return Fitted(make(data.train, candidates[best]["penalty"]), candidates[best], trials)


def ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights ``(F, Q)`` and bias ``(Q,)`` that minimise ``mean |X w + b - y|^2 + penalty |w|^2``."""
    x, y = features.double(), targets.double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    # The smaller of the two equivalent systems: features by features, or samples by samples.
    if x.shape[1] <= x.shape[0]:
        system = x.T @ x + len(x) * penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(system, x.T @ y)
    else:
        system = x @ x.T + len(x) * penalty * torch.eye(len(x), dtype=x.dtype, device=x.device)
        weight = x.T @ torch.linalg.solve(system, y)
    return weight.float(), (y_mean - x_mean @ weight).float()


@torch.inference_mode()
def predict(
    probe: Probe, features: Features, rows: Sequence[int], device: str, numbers: bool = True
) -> Tensor:
    """Answers ``(len(rows), outputs)`` on the CPU, averaged over crops.

    Args:
        numbers: Average the outputs as they are; otherwise, the probabilities of the classes.
    """
    probe.eval()
    answers = []
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        crops = [probe(features.read(probe.reads, batch, crop).to(device)) for crop in range(features.crops)]
        crops = crops if numbers else [crop.softmax(dim=-1) for crop in crops]
        answers.append(torch.stack(crops).mean(dim=0).float().cpu())
    return torch.cat(answers)


def probabilities(probe: Probe, features: Features, rows: Sequence[int], device: str) -> Tensor:
    """Probabilities of the classes ``(len(rows), classes)``, averaged over crops."""
    return predict(probe, features, rows, device, numbers=False)


def _select(
    data: TrainingSet, probes: Any, candidates: list[dict[str, float]], device: str
) -> tuple[int, list[dict[str, float]]]:
    """The candidate with the best accuracy on the ``select`` rows; among equals, the one with the lowest loss."""
    truth = data.targets[data.select]
    trials = []
    for probe, candidate in zip(probes, candidates, strict=True):
        found = probabilities(probe, data.features, data.select, device).nan_to_num(0.0)
        loss = nn.functional.nll_loss(found.clamp_min(1e-12).log(), truth)
        accuracy = (found.argmax(dim=-1) == truth).float().mean()
        trials.append({**candidate, "accuracy": float(accuracy), "log_loss": float(loss)})
    best = max(range(len(trials)), key=lambda i: (trials[i]["accuracy"], -trials[i]["log_loss"]))
    return best, trials
