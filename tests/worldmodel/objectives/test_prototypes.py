"""SwAV, DINO and iBOT against their formulas, and what keeps all samples from sharing a prototype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.formulas import made, mean_token, same_loss_and_gradients, unit
from tests.worldmodel.objectives.vectors import information, trained, vectors
from worldmodel.objectives.base import Batch
from worldmodel.objectives.dino import DINOConfig
from worldmodel.objectives.ibot import IBOTConfig
from worldmodel.objectives.prototypes import sinkhorn
from worldmodel.objectives.swav import SwAVConfig
from worldmodel.objectives.views import ViewConfig

NARROW = ("projector.hidden=24", "projector.width=16", "prototypes=8", "views.small.count=1")


def cosines(embeddings: Tensor, prototypes: Any) -> Tensor:
    return unit(embeddings) @ unit(prototypes.weight).T


def cross_entropy(wanted: Tensor, scores: Tensor) -> Tensor:
    """Averaged over rows."""
    p = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
    return torch.stack([-(wanted[i] * p[i].log()).sum() for i in range(len(p))]).mean()


def sharpened(scores: Tensor) -> Tensor:
    return (scores / 0.04).exp() / (scores / 0.04).exp().sum(dim=1, keepdim=True)


def even(scores: Tensor) -> Tensor:
    """Codes of a batch that use prototypes equally, as the paper's appendix has it (there ``Q`` is transposed)."""
    q = (scores / 0.05).exp()
    q = q / q.sum()
    for _ in range(3):
        for k in range(q.shape[1]):
            q[:, k] = q[:, k] / q[:, k].sum() / q.shape[1]
        for i in range(q.shape[0]):
            q[i] = q[i] / q[i].sum() / q.shape[0]
    return q * q.shape[0]


def swapped(scores: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Cross-entropy of each view (at temperature 0.1) and each other, large one."""
    pairs = [(i, j) for i in range(len(scores)) for j in range(len(targets)) if i != j]
    return torch.stack([cross_entropy(targets[j], scores[i] / 0.1) for i, j in pairs]).mean()


def swav(objective: Any, batch: Batch) -> Tensor:
    views = objective.draw(batch)
    scores = [
        cosines(objective.projector(mean_token(objective.encoder, view.clip)), objective.prototypes)
        for view in views
    ]
    return swapped(scores, [even(x.detach().clone()) for x in scores[:2]])


def dino(objective: Any, batch: Batch) -> Tensor:
    views = objective.draw(batch)
    scores = [
        cosines(objective.projector(mean_token(objective.encoder, view.clip)), objective.prototypes)
        for view in views
    ]
    with torch.no_grad():
        outputs = [
            cosines(
                objective.target_projector(mean_token(objective.target_encoder, view.clip)),
                objective.target_prototypes,
            )
            for view in views[:2]
        ]
    return swapped(scores, [sharpened(x - objective.centre) for x in outputs])


def ibot(objective: Any, batch: Batch) -> Tensor:
    views, places = objective.draw(batch), batch.masks[0].target
    hidden = (places, objective.mask_token.weight)
    student = [objective.encoder.encode(view.clip, hidden=hidden).flatten(1, 2) for view in views[:2]]
    student.append(objective.encoder.encode(views[2].clip).flatten(1, 2))
    with torch.no_grad():
        teacher = [objective.target_encoder.encode(view.clip).flatten(1, 2) for view in views[:2]]

    def heads(mine: Tensor, theirs: Tensor | None) -> tuple[Tensor, Tensor]:
        scores = cosines(objective.projector(mine), objective.prototypes)
        if theirs is None:
            return scores, scores
        return scores, cosines(objective.target_projector(theirs), objective.target_prototypes).detach()

    means = [
        heads(a.mean(1), None if b is None else b.mean(1))
        for a, b in zip(student, [*teacher, None], strict=True)
    ]
    loss = swapped([mine for mine, _ in means], [sharpened(x - objective.centre) for _, x in means[:2]])
    for mine, theirs in zip(student[:2], teacher, strict=True):
        rows = [
            heads(
                torch.stack([mine[i, j] for j in places[i]]), torch.stack([theirs[i, j] for j in places[i]])
            )
            for i in range(len(places))
        ]
        entropies = [cross_entropy(sharpened(b - objective.patch_centre), a / 0.1) for a, b in rows]
        loss = loss + torch.stack(entropies).mean() / 2
    return loss


@pytest.mark.parametrize("formula", [swav, dino, ibot])
def test_loss_and_gradients_are_the_formulas(formula: Callable[[Any, Batch], Tensor]) -> None:
    objective, batch = made(formula.__name__, *NARROW)
    for name, centre in objective.named_buffers():
        if "centre" in name:
            centre.copy_(torch.linspace(-0.05, 0.05, 8))
    same_loss_and_gradients(objective, batch, formula)


def test_codes_are_distributions_that_use_prototypes_equally() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 0.2 * torch.rand(64, 8, generator=generator)
    scores[:, 0] += 0.5  # all samples are nearest to the first prototype
    codes = sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(codes.mean(dim=0), torch.full((8,), 1 / 8), rtol=0.25, atol=0)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 100).mean(dim=0), torch.full((8,), 1 / 8))
    alone = sinkhorn(scores, 0.05, 0)
    torch.testing.assert_close(alone.sum(dim=1), torch.ones(64))
    assert alone[:, 0].min() > 0.9


def test_centres_follow_the_mean_of_the_teachers_outputs() -> None:
    objective, batch = made("dino", *NARROW)
    objective.eval()(batch)
    assert not objective.centre.any()
    objective.train()(batch)
    with torch.no_grad():
        outputs = [
            cosines(
                objective.target_projector(mean_token(objective.target_encoder, view.clip)),
                objective.target_prototypes,
            )
            for view in objective.draw(batch)[:2]
        ]
    torch.testing.assert_close(objective.centre, 0.1 * torch.cat(outputs).mean(dim=0), rtol=1e-4, atol=1e-6)
    assert "centre" in objective.state_dict()


def test_centring_takes_away_what_all_samples_share() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 0.2 * torch.randn(64, 8, generator=generator)
    scores[:, 0] += 1.0  # one prototype dominates
    found = []
    for momentum in ("0.9", "1"):
        objective, _ = made("dino", *NARROW, f"centre_momentum={momentum}")
        for _ in range(60):
            (outputs,) = objective.centred([scores], objective.centre)
        found.append(information(outputs))
    assert found[0] > 1.5  # of log 8 = 2.08
    assert found[1] < 0.1


def test_dino_collapses_without_sharpening() -> None:
    kept, uniform = (
        taught_by("target_temperature=0.04"),
        taught_by("target_temperature=1.0"),
    )
    assert information(kept) > 0.8
    assert information(uniform) < 0.1
    assert uniform.max() < 0.2  # of 16 prototypes


@torch.no_grad()
def taught_by(change: str) -> Tensor:
    """What the teacher says of 256 vectors after 200 steps."""
    with torch.enable_grad():
        sizes = ("projector.hidden=32", "projector.width=16", "prototypes=16", "ema_start=0.9")
        objective = trained("dino", *sizes, change)
    tokens = objective.target_encoder.encode(vectors(0, 256))
    scores = objective.target_prototypes(objective.target_projector(tokens.mean(dim=(1, 2))))
    (outputs,) = objective.centred([scores], objective.centre)
    return outputs


def test_the_teachers_prototypes_follow_too() -> None:
    objective, _ = made("dino", *NARROW, "ema_start=0.5", "ema_end=0.5")
    objective.prototypes.weight.data.fill_(2.0)
    objective.target_prototypes.weight.data.zero_()
    objective.after_step(0.5)
    torch.testing.assert_close(objective.target_prototypes.weight, torch.ones(8, 16))
    assert not any(p.requires_grad for p in objective.target_prototypes.parameters())


def test_the_student_does_not_see_what_is_hidden_and_the_teacher_does() -> None:
    objective, batch = made("ibot", *NARROW)
    mask, view = batch.masks[0], objective.draw(batch)[0]
    pixels = torch.zeros(6, 32, 2 * 3 * 8 * 8)
    pixels.scatter_(1, mask.target[..., None].expand(-1, -1, pixels.shape[-1]), 1.0)
    # (B, steps, rows, columns, tubelet, C, patch, patch) to (B, T, C, H, W)
    spots = pixels.view(6, 2, 4, 4, 2, 3, 8, 8).permute(0, 1, 4, 5, 2, 6, 3, 7).reshape(6, 4, 3, 32, 32)
    changed = view._replace(clip=view.clip + spots * (0.5 - view.clip))
    torch.testing.assert_close(objective.tokens(changed, mask), objective.tokens(view, mask))
    difference = objective.target_tokens(changed.clip) - objective.target_tokens(view.clip)
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (SwAVConfig, {"prototypes": 1}, "prototypes must be at least 2"),
        (SwAVConfig, {"target": "ema"}, "choose one of stop"),
        (SwAVConfig, {"distance": "l2"}, "choose one of cross_entropy"),
        (DINOConfig, {"target_temperature": 0.0}, "target_temperature positive"),
        (DINOConfig, {"centre_momentum": 1.1}, "from 0 to 1"),
        (IBOTConfig, {"patches": 0.0}, "use objective=dino"),
        (IBOTConfig, {"views": {"crop": ViewConfig(count=2, size=0.5)}}, "size 1 and all frames"),
    ],
)
def test_settings_that_contradict(make: Callable[..., Any], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**wrong)
