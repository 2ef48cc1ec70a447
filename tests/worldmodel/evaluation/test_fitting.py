"""Fitting probes on given features: what is separable is separated, noise stays at chance, heads do not disturb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel.evaluation import heads as heads_module
from worldmodel.evaluation.features import Features
from worldmodel.evaluation.fitting import (
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
    ridge,
)
from worldmodel.evaluation.heads import train_heads
from worldmodel.models.probes import AttentiveProbeConfig, LinearProbe

SHORT = HeadConfig(lrs=[3e-2, 1e-5], weight_decays=[0.0, 0.1], epochs=5, min_steps=100, batch_size=32)


def make_features(folder: Path, tokens: Tensor) -> Features:
    """Features as ``extract`` leaves them, of ``tokens (n, crops, L, D)``."""
    folder.mkdir(parents=True)
    for shard, part in enumerate(tokens.split(16)):
        content = {"pooled": part.mean(dim=2).contiguous(), "tokens": part.half().contiguous()}
        save_file(content, folder / f"{shard:06}.safetensors")
    return Features(folder, len(tokens), 16)


def two_classes(folder: Path, count: int, gap: float, seed: int) -> tuple[Features, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    tokens = torch.randn(count, 1, 4, 8, generator=generator)
    tokens[:, :, :, 0] += gap * (labels[:, None, None] * 2 - 1)
    return make_features(folder, tokens * 3 + 1), labels


def training_set(folder: Path, count: int = 80, gap: float = 3.0) -> TrainingSet:
    features, labels = two_classes(folder, count, gap, seed=0)
    rows = list(range(count))
    return TrainingSet(features, labels, 2, rows[: 3 * count // 4], rows[3 * count // 4 :])


def fit(kind: str, data: TrainingSet, config: HeadConfig = SHORT, **change: Any) -> Any:
    if kind == "knn":
        return fit_knn(data, KNNConfig(), "cpu")
    if kind == "linear":
        return fit_linear(data, SHORT, "cpu", seed=0)
    return fit_attentive(data, AttentiveProbeConfig(depth=2, heads=2), config, "cpu", seed=0, **change)


@pytest.mark.parametrize("kind", ["knn", "linear", "attentive"])
def test_what_is_separable_is_separated(kind: str, tmp_path: Path) -> None:
    fitted = fit(kind, training_set(tmp_path / "train"))
    features, labels = two_classes(tmp_path / "test", 60, 3.0, seed=1)
    answers = probabilities(fitted.probe, features, range(60), "cpu")
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(60))
    assert (answers.argmax(dim=1) == labels).float().mean() == 1.0
    assert fitted.trials and set(fitted.chosen) < set(fitted.trials[0])
    if kind != "knn":
        assert fitted.chosen["lr"] == 3e-2  # the other learns nothing in so few steps


def test_standardised_tokens_may_have_any_scale(tmp_path: Path) -> None:
    """The attentive probe answers the same for features that are a thousand times smaller."""
    features, targets = two_classes(tmp_path / "plain", 80, 3.0, seed=0)
    moved = make_features(tmp_path / "moved", features.read("tokens", range(80))[:, None] / 1024)
    size = AttentiveProbeConfig(depth=1, heads=2, standardise=True)
    answers = []
    for each in (features, moved):
        data = TrainingSet(each, targets, 2, list(range(60)), list(range(60, 80)))
        probe = fit_attentive(data, size, SHORT, "cpu", seed=0).probe
        answers.append(predict(probe, each, range(80), "cpu"))
    torch.testing.assert_close(*answers, rtol=1e-2, atol=1e-2)
    assert not torch.equal(answers[0][0], answers[0][-1])


@pytest.mark.parametrize("kind", ["knn", "linear", "attentive"])
def test_noise_stays_at_chance(kind: str, tmp_path: Path) -> None:
    fitted = fit(kind, training_set(tmp_path / "train", gap=0.0))
    features, labels = two_classes(tmp_path / "test", 400, 0.0, seed=1)
    accuracy = (
        (probabilities(fitted.probe, features, range(400), "cpu").argmax(dim=1) == labels).float().mean()
    )
    assert 0.4 < accuracy < 0.6  # four standard deviations


def test_heads_trained_together_end_as_alone(tmp_path: Path) -> None:
    data = training_set(tmp_path / "train")
    grid = [(1e-2, 0.0), (3e-3, 0.5), (1e-1, 0.01)]

    def train(settings: list[tuple[float, float]]) -> list[LinearProbe]:
        torch.manual_seed(0)
        first = LinearProbe(8, 2)
        probes = [LinearProbe(8, 2) for _ in settings]
        for probe in probes:
            probe.load_state_dict(first.state_dict())
        train_heads(
            probes, settings, data.fit, lambda _, rows: (data.features.read("pooled", rows), data.targets[list(rows)]),
            steps=30, batch_size=16, warmup=0.1, seed=0,
        )  # fmt: skip
        return probes

    for together, settings in zip(train(grid), grid, strict=True):
        alone = train([settings])[0]
        assert torch.equal(together.linear.weight, alone.linear.weight)


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = training_set(tmp_path / "train")
    brief = HeadConfig(lrs=[1e-2, 1e-3], weight_decays=[0.1], epochs=1, min_steps=12, batch_size=32)
    whole = fit("attentive", data, brief).probe
    monkeypatch.setattr(heads_module, "CHECKPOINT_SECONDS", 0.0)
    state, read = tmp_path / "state", data.features.read
    seen = 0

    def failing(kind: str, rows: Any, crop: int = 0) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise KeyboardInterrupt
        return read(kind, rows, crop)

    monkeypatch.setattr(data.features, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        fit("attentive", data, brief, state=state)
    assert list(tmp_path.glob("state*"))
    again = fit("attentive", data, brief, state=state).probe
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not list(tmp_path.glob("state*"))
    # One reading for the width, 12 for both candidates (6 were done), one to select by for each, 12 to train again.
    assert seen == 8 + 1 + 6 + 2 + 12


class TwoBlocks(nn.Module):
    """Only the first is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.behind = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def test_an_interrupted_fine_tuning_of_earlier_layers_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks behind the last layer that is read have no gradient, so that AdamW keeps nothing for them."""
    monkeypatch.setattr(heads_module, "CHECKPOINT_SECONDS", -1.0)

    def tune(stop: int = -1) -> TwoBlocks:
        torch.manual_seed(0)
        model = TwoBlocks()

        def read(step: int, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
            if step == stop:
                raise KeyboardInterrupt
            inputs = torch.randn(len(batch), 3, generator=torch.Generator().manual_seed(step))
            return inputs, torch.tensor([row % 2 for row in batch])

        settings: dict[str, Any] = {"steps": 5, "batch_size": 4, "warmup": 0.0, "seed": 0}
        train_heads([model], [(0.1, 0.1)], range(6), read, state=tmp_path / "state", **settings)
        return model

    whole = tune()
    with pytest.raises(KeyboardInterrupt):
        tune(stop=3)
    assert (tmp_path / "state").is_file()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), tune().parameters(), strict=True))


def test_diverged_heads_are_an_error_only_if_all_are(tmp_path: Path) -> None:
    data = training_set(tmp_path / "train")
    wild = HeadConfig(lrs=[3e37, 1e-2], weight_decays=[0.0], epochs=1, min_steps=20)
    assert fit_linear(data, wild, "cpu", 0).chosen["lr"] == 1e-2
    with pytest.raises(ValueError, match=r"diverged; give smaller learning rates"):
        fit_linear(data, HeadConfig(lrs=[3e37], weight_decays=[0.0], min_steps=20), "cpu", 0)


def test_crops_are_averaged(tmp_path: Path) -> None:
    tokens = torch.randn(5, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    features = make_features(tmp_path / "test", tokens)
    probe = LinearProbe(8, 2)
    expected = probe(tokens.mean(dim=2)).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(probabilities(probe, features, range(5), "cpu"), expected)


@pytest.mark.parametrize("count", [12, 40])
def test_ridge_is_the_minimum(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (20, 2))
    weight, bias = ridge(x, y, 0.3)
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    loss = (x @ weight + bias - y).square().mean(dim=0).sum() + 0.3 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None and bias.grad is not None
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5


def test_ridge_finds_a_linear_number(tmp_path: Path) -> None:
    tokens = torch.randn(120, 1, 2, 6, generator=torch.Generator().manual_seed(0))
    pooled = tokens.mean(dim=(1, 2))
    targets = (pooled @ torch.arange(6.0))[:, None] * 10 + 5
    data = TrainingSet(
        make_features(tmp_path / "f", tokens), targets, 1, list(range(80)), list(range(80, 100))
    )
    fitted = fit_ridge(data, RidgeConfig(penalties=[100.0, 1e-6]), "cpu")
    assert fitted.chosen == {"penalty": 1e-6}
    assert (fitted.probe(pooled[100:]) - targets[100:]).abs().max() < 1e-2
