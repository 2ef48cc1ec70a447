"""Pretext tasks: what is asked, the loss against its formula, and that clips which no training saw are told apart."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.scenes import HELD_OUT, scenes
from tests.worldmodel.objectives.systems import SIZE, batch_of, settings, small, train
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Batch
from worldmodel.objectives.build import build_objective
from worldmodel.objectives.pretext import (
    ContextPredictionConfig,
    JigsawConfig,
    PretextConfig,
    PretextTask,
    RotationConfig,
    TemporalOrderConfig,
    far_permutations,
    piece_side,
)
from worldmodel.objectives.views import ViewConfig

TASKS = ("rotation", "context_prediction", "jigsaw", "temporal_order")
#: Views that are the clip itself.
PLAIN = ("view.scale=[1.0,1.0]", "view.flip=0", "view.jitter=0", "view.grey=0")


def made(name: str, *changes: str, seed: int = 0) -> PretextTask:
    objective = small(settings(name, "hidden=32", *changes), seed)
    assert isinstance(objective, PretextTask)
    return objective


def asked(name: str, clip: Tensor, *changes: str) -> tuple[Tensor, Tensor]:
    """Pieces and labels of float clips that are their own views."""
    return made(name, *PLAIN, *changes).question(Batch(0, range(len(clip)), (clip,)))


def places(count: int) -> Tensor:
    """Clips whose every pixel tells where it is: its row in red, its column in green, its frame in blue, over 100."""
    t, row, column = torch.meshgrid(torch.arange(4), torch.arange(32), torch.arange(32), indexing="ij")
    return (torch.stack([row, column, t], dim=1) / 100).expand(count, -1, -1, -1, -1)


@pytest.mark.parametrize("name", TASKS)
def test_loss_and_gradients_are_the_cross_entropy(name: str) -> None:
    objective, batch = made(name), batch_of(range(5))
    pieces, labels = objective.question(batch)
    losses = []
    for sample, label in zip(pieces, labels.tolist(), strict=True):
        features = [objective.encoder.encode(piece[None]).flatten(1, 2).mean(dim=1) for piece in sample]
        logits = objective.classifier(torch.cat(features, dim=1))[0]
        losses.append(logits.exp().sum().log() - logits[label])
    found, wanted = objective(batch)["loss"], torch.stack(losses).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    trained = list(objective.parameters())
    mine, theirs = (torch.autograd.grad(loss, trained) for loss in (found, wanted))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_a_question_depends_on_its_sample_only(name: str) -> None:
    objective = made(name)
    pieces, labels = objective.question(batch_of(range(100)))
    some, same = objective.question(batch_of(range(7, 9)))
    assert torch.equal(same, labels[7:9])
    torch.testing.assert_close(some, pieces[7:9])
    count = objective.config.sizes(SIZE)[1]
    assert len(labels.unique()) > 0.5 * min(count, 60)  # of 100 draws of 100 labels, 63 differ on average
    assert labels.max() < count


def test_a_clip_is_turned_by_right_angles() -> None:
    clip = places(40)
    pieces, labels = asked("rotation", clip)
    for piece, label in zip(pieces[:, 0], labels.tolist(), strict=True):
        for row, column in ((3, 5), (20, 31)):
            y, x = row, column
            for _ in range(label):  # counter-clockwise: the right edge becomes the upper one
                y, x = x, 31 - y
            assert torch.equal(piece[:, :, row, column], clip[0, :, :, y, x])


def test_a_piece_is_a_whole_square_of_its_cell() -> None:
    for name in ("context_prediction", "jigsaw"):
        pieces, _ = asked(name, places(30), *(("normalise=false",) if name == "jigsaw" else ()))
        assert pieces.shape[2:] == (4, 3, 8, 8)
        where = (100 * pieces).round().long()
        corner = where[:, :, :1, :2, :1, :1]
        assert (corner % 10 <= 2).all()  # cells have 10 pixels, pieces 8
        steps = torch.arange(8)
        assert (where[:, :, :, 0] - corner[:, :, :, 0] == steps[:, None]).all()
        assert (where[:, :, :, 1] - corner[:, :, :, 1] == steps).all()
        assert (where[:, :, :, 2].amax(dim=(0, 1, 3, 4)) == torch.arange(4)).all()
        assert len((corner % 10).unique()) == 3  # anywhere in the cell


def cells_of(pieces: Tensor) -> list[list[int]]:
    """Which of 3 x 3 cells each piece of ``places`` is from."""
    corner = (100 * pieces[:, :, 0, :2, 0, 0]).round().long() // 10
    return (3 * corner[..., 0] + corner[..., 1]).tolist()


def test_an_offset_is_that_of_the_second_piece_from_the_middle() -> None:
    pieces, labels = asked("context_prediction", places(60))
    around = [0, 1, 2, 3, 5, 6, 7, 8]
    assert cells_of(pieces) == [[4, around[label]] for label in labels.tolist()]
    assert len(labels.unique()) == 8


def test_a_puzzle_is_in_the_order_that_its_label_says() -> None:
    pieces, labels = asked("jigsaw", places(40), "normalise=false")
    orders = far_permutations(9, 100)
    assert cells_of(pieces) == orders[labels.numpy()].tolist()


def test_pieces_of_a_puzzle_have_the_same_brightness() -> None:
    clips = torch.rand(4, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    pieces, _ = asked("jigsaw", clips)
    torch.testing.assert_close(pieces.mean(dim=(2, 3, 4, 5)), torch.full((4, 9), 0.5))
    assert (pieces.std(dim=(2, 3, 4, 5)) - 0.2).abs().max() < 0.02


def test_an_order_and_its_reverse_are_one_answer() -> None:
    pieces, labels = asked("temporal_order", places(60))
    assert pieces.shape == (60, 3, 2, 3, 32, 32)
    assert torch.equal(pieces[:, :, 0], pieces[:, :, 1])  # a frame fills a tubelet
    frames = (100 * pieces[:, :, 0, 2, 0, 0]).round().long().tolist()
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2)]
    found = set()
    for drawn, label in zip(frames, labels.tolist(), strict=True):
        assert len(set(drawn)) == 3
        order = tuple(sorted(drawn).index(frame) for frame in drawn)
        assert order in (orders[label], orders[label][::-1])
        found.add(order)
    assert found == set(permutations(range(3)))


def test_permutations_are_far_apart() -> None:
    for length, count, least in ((9, 100, 6), (4, 6, 2)):
        orders = far_permutations(length, count)
        assert (np.sort(orders, axis=1) == np.arange(length)).all()
        gaps = (orders[:, None] != orders).sum(axis=2)
        assert gaps[~np.eye(count, dtype=bool)].min() >= least
    assert len(np.unique(far_permutations(4, 24), axis=0)) == 24


@pytest.mark.parametrize(
    ("name", "changes", "steps", "least"),
    [
        ("rotation", (), 40, 0.7),
        ("context_prediction", (), 40, 0.4),
        ("jigsaw", ("cells=2", "permutations=4"), 40, 0.5),
        ("temporal_order", (), 80, 0.5),
    ],
)
def test_held_out_clips_are_told_apart(name: str, changes: tuple[str, ...], steps: int, least: float) -> None:
    changes = ("view.jitter=0", "view.grey=0", *changes)
    objective = made(name, *changes)
    train(objective, steps, settings(name, *changes), lr=4e-3, size=16, clips=scenes)
    figures = objective.monitor(batch_of(HELD_OUT, clips=scenes))
    assert figures["accuracy"] > least > 1.4 * figures["chance_accuracy"]


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (RotationConfig, {"view": ViewConfig(count=2)}, "one view; set 1"),
        (RotationConfig, {"hidden": 0}, "at least 1"),
        (JigsawConfig, {"cells": 1}, "cells=1"),
        (JigsawConfig, {"permutations": 1}, "must be 2 to 1000"),
        (JigsawConfig, {"cells": 5}, "5 x 5 cells of a picture of 32 pixels hold no patch of 8 pixels"),
        (ContextPredictionConfig, {"gap": 0.5}, "lower encoder.patch_size"),
        (ContextPredictionConfig, {"gap": 1.0}, "below 1"),
        (TemporalOrderConfig, {"frames": 2}, "must be 3, 4 or 5"),
        (TemporalOrderConfig, {"frames": 5}, "needs encoder.frames=5"),
    ],
)
def test_settings_that_contradict(kind: type[PretextConfig], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(kind(**wrong), VideoEncoder(SIZE), MaskedPredictorConfig())


def test_pieces_are_whole_patches() -> None:
    # The puzzle's own sizes: of 225 pixels, cells of 75, pieces of 64.
    assert piece_side(225, 16, 3, 0.1) == 64
    assert piece_side(64, 16, 3, 0.1) == 16
