"""BEiT and its tokenizers: formulas, codes that are used, and tokens that are guessed better than by frequency."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.systems import HELD_OUT, SIZE, batch_of, settings, small, train
from worldmodel.models.pretrained import save_encoder
from worldmodel.objectives.base import Objective
from worldmodel.objectives.beit import BEiTConfig, TokenPrediction
from worldmodel.objectives.tokenizer import DiscreteAutoencoder, TokenizerConfig, codes_used
from worldmodel.objectives.tokens import RandomTokens

FEW = ("bits=5", "hidden=32")


def made(name: str, *changes: str) -> Objective:
    return small(settings(name, *changes)).train()


def same_gradients(objective: Objective, found: Tensor, wanted: Tensor) -> None:
    trained = [p for p in objective.parameters() if p.requires_grad]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    mine, theirs = (torch.autograd.grad(loss, trained) for loss in (found, wanted))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * scale)


def test_beits_loss_is_the_cross_entropy_of_hidden_tokens() -> None:
    config = settings("beit")
    objective, batch = small(config).train(), batch_of(range(4), config.mask)
    assert isinstance(objective, TokenPrediction)
    (clip,), (mask,), losses = batch.views, batch.masks, []
    for row in range(4):
        ids = objective.tokenizer(clip[row : row + 1])[0]
        hidden = torch.tensor(sorted(set(range(32)) - set(mask.context[row].tolist())))[None]
        token = objective.hidden_patches.mask_token
        tokens = objective.encoder.encode(clip[row : row + 1], hidden=(hidden, token)).flatten(0, 2)
        for place in mask.target[row].tolist():
            scores = objective.hidden_patches.read_out(tokens[place])
            losses.append(scores.exp().sum().log() - scores[ids[place]])
    same_gradients(objective, objective(batch)["loss"], torch.stack(losses).mean())


def test_the_tokenizers_loss_is_a_reconstruction_from_signs() -> None:
    """``|x - D(sign z)|^2 + beta |z - sign z|^2``, and the covariance; gradients pass from the signs to ``z``."""
    objective, batch = made("tokenizer", *FEW), batch_of(range(4))
    assert isinstance(objective, DiscreteAutoencoder)
    clip = batch.views[0]
    projected = objective.quantiser.project[0](objective.encoder.encode(clip).flatten(0, 2))
    z = (projected - projected.mean(dim=0)) / (projected.var(dim=0, correction=0) + 1e-5).sqrt()
    gaps = []
    for index, numbers in enumerate(z):
        signs = numbers.sign()
        pixels = objective.decoder(numbers + (signs - numbers).detach())
        patch = _patch(clip[index // 32], index % 32).float() / 255
        apart = (numbers - signs).square().mean()
        gaps.append((pixels - patch).square().mean() + objective.config.commitment * apart)
    covariance = (z - z.mean(dim=0)).T @ (z - z.mean(dim=0)) / (len(z) - 1)
    pairs = [covariance[i, j].square() for i in range(5) for j in range(5) if i != j]
    wanted = torch.stack(gaps).mean() + 0.1 * torch.stack(pairs).mean()
    same_gradients(objective, objective(batch)["loss"], wanted)
    ids = objective.quantiser.ids(objective.encoder.encode(clip).flatten(1, 2))
    first = sum(2**bit for bit in range(5) if z[0, bit] > 0)
    assert int(ids[0, 0]) == first


def _patch(clip: Tensor, token: int) -> Tensor:
    step, place = divmod(token, 16)
    y, x = (8 * part for part in divmod(place, 4))
    return clip[2 * step : 2 * step + 2, :, y : y + 8, x : x + 8].flatten()


def test_random_tokens_are_fixed_and_tell_patches_apart() -> None:
    objective = made("beit")
    assert isinstance(objective, TokenPrediction) and isinstance(objective.tokenizer, RandomTokens)
    clip = batch_of(HELD_OUT).views[0]
    ids = objective.tokenizer(clip)
    assert ids.shape == (64, 32) and int(ids.max()) < objective.tokenizer.codes
    assert torch.equal(objective.tokenizer(clip[3:5]), ids[3:5])
    assert torch.equal(objective.tokenizer(clip.float() / 255), ids)
    other = made("beit")
    assert isinstance(other, TokenPrediction) and torch.equal(other.tokenizer(clip), ids)
    assert codes_used(ids, objective.tokenizer.codes) > 10
    assert sorted(objective.parts()) == ["encoder", "hidden_patches"]


@pytest.fixture(scope="module")
def trained_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of a tokenizer that has seen 100 batches."""
    config = settings("tokenizer", *FEW)
    objective = small(config)
    assert isinstance(objective, DiscreteAutoencoder)
    train(objective, 100, config, lr=3e-3, size=16)
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    about = {
        "encoder": asdict(SIZE),
        "objective": "TokenizerConfig",
        "objective_settings": asdict(config.objective),
    }
    save_encoder(path, objective.parts(), about, "A test's model.\n")
    batch = batch_of(HELD_OUT)
    with torch.no_grad():
        pixels = batch.views[0].float() / 255
        error = float(objective(batch)["pixels"])
    assert error < 0.9 * float(pixels.var())  # less than a decoder's that says the mean pixel
    assert objective.monitor(batch)["codes_used"] > 10
    return path


def test_beit_guesses_a_trained_tokenizers_tokens(trained_tokenizer: Path) -> None:
    """Of clips that no training saw, better than always the commonest one."""
    config = settings("beit", f"tokenizer={trained_tokenizer}")
    objective = small(config)
    assert isinstance(objective, TokenPrediction)
    assert objective.tokenizer.codes == objective.hidden_patches.read_out.out_features == 32
    train(objective, 60, config, lr=3e-3, size=16)
    batch = batch_of(HELD_OUT, config.mask)
    with torch.no_grad():
        accuracy = float(objective(batch)["accuracy"])
        ids = objective.tokenizer(batch.views[0])
    commonest = float(torch.bincount(ids.flatten()).max() / ids.numel())
    assert accuracy > 1.5 * commonest


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bits=17 must be from 2 to 16"):
        TokenizerConfig(bits=17)
    with pytest.raises(ValueError, match="codes=1 must be at least 2"):
        BEiTConfig(codes=1)
    parts = {"encoder": made("beit").parts()["encoder"]}
    save_encoder(tmp_path / "model", parts, {"encoder": asdict(SIZE), "objective": "X"}, "A test's model.\n")
    with pytest.raises(
        ValueError, match="is no tokenizer; train one: worldmodel pretrain objective=tokenizer"
    ):
        made("beit", f"tokenizer={tmp_path / 'model'}")
