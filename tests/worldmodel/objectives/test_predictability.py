"""PMIN and PMAX against their formulas: who minimises what, and what keeps a predictable code from collapsing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worldmodel.objectives.formulas import made, mean_token, same_loss_and_gradients
from tests.worldmodel.objectives.vectors import trained, vectors
from worldmodel.objectives.base import Batch
from worldmodel.objectives.pmax import PMAX, PMAXConfig
from worldmodel.objectives.pmin import PMINConfig, UnitPredictors
from worldmodel.objectives.regularizers import gaussian_infomax
from worldmodel.objectives.views import ViewConfig
from worldmodel.training.monitors import effective_rank

NARROW = ("projector.hidden=24", "projector.width=6")


def errors(code: Tensor, networks: UnitPredictors) -> Tensor:
    """Mean squared error of each unit's prediction, by its own network without that unit."""
    found = []
    for i in range(code.shape[1]):
        others = [j for j in range(code.shape[1]) if j != i]
        hidden = torch.tanh(code[:, others] @ networks.inputs[i, others] + networks.shift[i])
        guess = 1 / (1 + torch.exp(-(hidden @ networks.outputs[i] + networks.bias[i])))
        found.append((guess - code[:, i]).square().mean())
    return torch.stack(found).mean()


def code_of(objective: Any, clip: Tensor) -> Tensor:
    code: Tensor = objective.projector(mean_token(objective.encoder, clip))
    return code


def test_pmin_predictors_minimise_what_the_encoder_maximises() -> None:
    objective, batch = made("pmin", *NARROW)
    game = errors(torch.sigmoid(code_of(objective, batch.views[0])), objective.unit_predictors)
    loss = objective(batch)["loss"]
    torch.testing.assert_close(loss, game, rtol=1e-4, atol=1e-6)
    for part, sign in ((objective.unit_predictors, 1), (objective.encoder, -1), (objective.projector, -1)):
        weights = list(part.parameters())
        mine, theirs = (torch.autograd.grad(x, weights, retain_graph=True) for x in (loss, game))
        scale = max(float(gradient.abs().max()) for gradient in theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, sign * b, rtol=2e-3, atol=2e-4 * scale)


def test_no_unit_is_seen_by_its_own_predictor() -> None:
    code = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    predicted = UnitPredictors(4, 8)(code)
    for i in range(4):
        (gradient,) = torch.autograd.grad(predicted[:, i].sum(), code, retain_graph=True)
        assert not gradient[:, i].any()
        assert all(gradient[:, j].any() for j in range(4) if j != i)


def mismatch(objective: PMAX, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The code of A, what the other network says of it, and view A."""
    first, second = objective.draw(batch)
    predicted = objective.other_projector(mean_token(objective.other_encoder, second.clip))
    return code_of(objective, first.clip), predicted, first.clip


def variance(objective: PMAX, code: Tensor, clip: Tensor) -> Tensor:
    centred = code - code.mean(dim=0)
    return torch.relu(1 - (centred.square().sum(dim=0) / (len(code) - 1) + 1e-4).sqrt()).mean()


def infomax(objective: PMAX, code: Tensor, clip: Tensor) -> Tensor:
    centred = code - code.mean(dim=0)
    values = torch.linalg.eigvalsh(centred.T @ centred / len(code)) + 1e-3
    return (values - values.log() - 1).mean() / 2


def reconstruction(objective: PMAX, code: Tensor, clip: Tensor) -> Tensor:
    return (objective.decoder(code[:, None]).reshape(clip.shape) - clip).square().mean()


@pytest.mark.parametrize("kind", [variance, infomax, reconstruction])
def test_pmax_trains_one_network_on_both_terms_and_the_other_on_the_mismatch(
    kind: Callable[..., Tensor],
) -> None:
    objective, batch = made("pmax", *NARROW, f"diversity={kind.__name__}", "eps=0.3")
    if kind is reconstruction:  # zero at first, so that nothing depends on the code
        torch.nn.init.normal_(objective.decoder.pixels.weight, std=0.1)
    code, predicted, clip = mismatch(objective, batch)
    first = 0.3 * (predicted.detach() - code).square().mean() + 0.7 * kind(objective, code, clip)
    second = (predicted - code.detach()).square().mean()
    values = objective(batch)
    wanted = (predicted - code).square().mean() + 0.7 * kind(objective, code, clip)
    torch.testing.assert_close(values["loss"], wanted, rtol=1e-4, atol=1e-5)
    others = [*objective.other_encoder.parameters(), *objective.other_projector.parameters()]
    rest = [p for p in objective.parameters() if not any(p is q for q in others)]
    for weights, loss in ((rest, first), (others, second)):
        mine = torch.autograd.grad(values["loss"], weights, retain_graph=True)
        theirs = torch.autograd.grad(loss, weights, retain_graph=True)
        scale = max(float(gradient.abs().max()) for gradient in theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * scale)


def test_pmax_by_pmin_turns_the_codes_gradient_round() -> None:
    objective, batch = made("pmax", *NARROW, "diversity=pmin", "eps=0.3")
    code, predicted, _ = mismatch(objective, batch)
    game = errors(torch.sigmoid(code), objective.unit_predictors)
    mine = 0.3 * (predicted.detach() - code).square().mean() - 0.7 * game
    loss = objective(batch)["loss"]
    for weights, wanted in (
        (objective.encoder.norm.weight, mine),
        (objective.unit_predictors.inputs, 0.7 * game),
    ):
        a, b = (torch.autograd.grad(x, [weights], retain_graph=True)[0] for x in (loss, wanted))
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * float(b.abs().max()))


def byol_without_asymmetry(objective: Any, batch: Batch) -> Tensor:
    code, predicted, _ = mismatch(objective, batch)
    return 1 - torch.cosine_similarity(code, predicted).mean()


def test_with_eps_1_the_mismatch_is_all_that_is_left() -> None:
    objective, batch = made("pmax", *NARROW, "diversity=pmin", "eps=1", "distance=cosine")
    assert set(objective(batch)) == {"loss", "mismatch"}
    assert set(objective.parts()) == {"encoder", "other_encoder", "projector", "other_projector"}
    same_loss_and_gradients(objective, batch, byol_without_asymmetry)


def test_infomax_wants_unit_variance_and_no_correlation() -> None:
    draw = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    white = draw - draw.mean(dim=0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / len(white))).T
    assert abs(float(gaussian_infomax(white))) < 1e-4
    for worse in (white * 2, white / 2, white[:, [0, 0, 1]], white * 0):
        assert gaussian_infomax(worse) > 0.1


def test_predictability_alone_collapses_and_diversity_prevents_it() -> None:
    """No target is without gradient here, and none is a moving average."""

    def code(*changes: str) -> Tensor:
        objective = trained("pmax", "projector.hidden=32", "projector.width=8", *changes)
        with torch.no_grad():
            return code_of(objective, vectors(0, 256))

    alone, kept = code("eps=1"), code("diversity=infomax")
    assert alone.std(dim=0).mean() < 0.15
    assert kept.std(dim=0).mean() > 0.6
    assert effective_rank(kept) > 6  # of 8


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (PMINConfig, {"hidden": 0}, "hidden must be at least 1"),
        (PMAXConfig, {"eps": 0.0}, "above 0 and up to 1"),
        (PMAXConfig, {"diversity": "luck"}, "choose one of variance, reconstruction, infomax, pmin"),
        (PMAXConfig, {"distance": "info_nce"}, "choose one of"),
        (PMAXConfig, {"views": {"one": ViewConfig()}}, "two views: A and B"),
        (
            PMAXConfig,
            {"diversity": "reconstruction", "views": {"a": ViewConfig(count=2, size=0.5)}},
            "size 1",
        ),
    ],
)
def test_settings_that_contradict(make: Callable[..., Any], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**wrong)
