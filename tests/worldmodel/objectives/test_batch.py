"""What the loop relies on: batches split, move and flip without losing anything."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from worldmodel.masks import Mask
from worldmodel.objectives.augment import flip_batch
from worldmodel.objectives.base import Batch, Objective


def make_batch() -> Batch:
    clip = torch.arange(6 * 2 * 3 * 4 * 4).reshape(6, 2, 3, 4, 4)
    mask = Mask(torch.arange(12).reshape(6, 2), torch.arange(24).reshape(6, 4), groups=2)
    return Batch(3, range(60, 66), (clip, clip + 1), (mask, mask), torch.rand(6, 1, 1, 2))


def test_micro_batches_put_together_are_the_batch() -> None:
    batch = make_batch()
    parts = batch.split(3)
    assert [part.ids for part in parts] == [range(60, 62), range(62, 64), range(64, 66)]
    assert {part.step for part in parts} == {3}
    for view in range(2):
        assert torch.equal(torch.cat([part.views[view] for part in parts]), batch.views[view])
        for name in ("context", "target"):
            rows = [getattr(part.masks[view], name) for part in parts]
            assert torch.equal(torch.cat(rows), getattr(batch.masks[view], name))
    assert all(mask.groups == 2 for part in parts for mask in part.masks)
    actions = [part.actions for part in parts if part.actions is not None]
    assert torch.equal(torch.cat(actions), batch.actions)  # type: ignore[arg-type]
    assert torch.equal(batch.split(1)[0].views[0], batch.views[0])


@pytest.mark.parametrize("count", [0, 4, 7])
def test_unequal_micro_batches_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"6 samples per process cannot be divided into {count} equal"):
        make_batch().split(count)


def test_a_batch_on_another_device_keeps_its_groups() -> None:
    moved = make_batch().to("meta")
    assert moved.ids == range(60, 66)
    assert moved.views[0].is_meta and moved.masks[0].target.is_meta
    assert moved.masks[0].groups == 2
    assert moved.actions is not None and moved.actions.is_meta


def test_a_flip_depends_on_the_sample_and_not_on_its_batch() -> None:
    clip = torch.rand(64, 2, 3, 4, 5)
    batch = Batch(0, range(64), (clip, clip + 1))
    flipped = flip_batch(batch, seed=1)
    which = [not torch.equal(a, b) for a, b in zip(flipped.views[0], clip, strict=True)]
    assert 16 < sum(which) < 48
    for row, mirrored in enumerate(which):
        wanted = clip[row].flip(-1) if mirrored else clip[row]
        assert torch.equal(flipped.views[0][row], wanted)
        assert torch.equal(flipped.views[1][row], wanted + 1)
    late = Batch(1, range(32, 64), (clip[32:],))
    assert torch.equal(flip_batch(late, seed=1).views[0], flipped.views[0][32:])
    assert not torch.equal(flip_batch(batch, seed=2).views[0], flipped.views[0])
    assert flip_batch(batch, seed=1, share=0) is batch
    assert torch.equal(flip_batch(batch, seed=1, share=1).views[0], clip.flip(-1))


def test_clips_with_actions_are_not_flipped() -> None:
    batch = dataclasses.replace(make_batch(), actions=torch.zeros(6, 1, 1, 2))
    with pytest.raises(ValueError, match="clips with actions"):
        flip_batch(batch, seed=0)


def test_the_parts_of_an_objective_are_its_networks() -> None:
    class Mine(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head, self.absent = nn.Linear(2, 2), nn.Linear(2, 1), None

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": self.head(self.net(batch.views[0])).mean()}

    objective = Mine()
    assert objective.parts() == {"net": objective.net, "head": objective.head}
