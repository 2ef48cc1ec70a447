"""Several masks, groups of targets, and the choices that the JEPA papers vary, each against a plain computation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch.nn import functional as F

from worldmodel.nn.patches import gather_tokens
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.masked import centre_targets
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction
from worldmodel.objectives.masked_pixels import MaskedPixelsConfig

Make = Callable[..., tuple[Objective, Batch]]

ALL = [
    (MaskedLatentConfig(), "vjepa"),
    (MaskedLatentConfig(), "ijepa"),
    (MaskedLatentConfig(target_norm="centred", loss="l2", variance=0.1), "vjepa"),
    (MaskedLatentConfig(target_encoder="online"), "vjepa"),
    (MaskedLatentConfig(predictor="none"), "vjepa"),
    (MaskedLatentConfig(predictor="none", target_encoder="online"), "ijepa"),
    (MaskedPixelsConfig(), "tube"),
    (MaskedPixelsConfig(normalise=False, loss="l1"), "ijepa"),
]


@pytest.mark.parametrize(("config", "masks"), ALL)
def test_every_trainable_parameter_gets_a_gradient(
    config: MaskedLatentConfig, masks: str, make: Make
) -> None:
    """Data-parallel training waits for all of them: a mask token without one stopped it."""
    objective, batch = make(config, masks)
    objective(batch)["loss"].backward()
    missing = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize(("config", "masks"), ALL)
def test_losses_fall_on_one_batch(config: MaskedLatentConfig, masks: str, make: Make) -> None:
    objective, batch = make(config, masks)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(30):
        loss = objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step((step + 1) / 30)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_the_loss_is_the_mean_over_masks_and_the_target_encoder_runs_once(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(), "vjepa")
    calls = []
    assert isinstance(objective, MaskedLatentPrediction) and objective.target_encoder is not None
    objective.target_encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    values = {name: value.detach() for name, value in objective(batch).items()}
    assert len(calls) == 1
    assert values["loss"] == pytest.approx(float(values["loss_mask0"] + values["loss_mask1"]) / 2)
    for index in (0, 1):
        alone = objective.forward(type(batch)(0, batch.ids, batch.views, (batch.masks[index],)))
        # The first mask token for the first mask; a token of its own for the second.
        if index == 0:
            torch.testing.assert_close(alone["loss"].detach(), values["loss_mask0"])


def test_each_mask_has_the_mask_token_of_its_place(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(), "vjepa")
    assert isinstance(objective, MaskedLatentPrediction) and objective.predictor is not None
    seen = []
    objective.predictor.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["mask_index"]), with_kwargs=True
    )
    objective(batch)
    assert seen == [0, 1]


def test_a_group_of_targets_is_predicted_without_the_others(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(), "ijepa")
    assert isinstance(objective, MaskedLatentPrediction) and objective.predictor is not None
    mask, clip = batch.masks[0], batch.views[0]
    assert mask.groups == 3
    together = objective._predict(clip, mask, 0)[0]
    assert together.shape == (*mask.target.shape, 24)
    for group, ids in enumerate(mask.target.chunk(3, dim=1)):
        context = objective.encoder.encode(clip, keep=mask.context)
        alone = objective.predictor(context, mask.context, ids, mask_index=0)
        torch.testing.assert_close(together.chunk(3, dim=1)[group], alone, atol=1e-5, rtol=1e-5)
    # Otherwise this test would show nothing: seen together, the groups change each other.
    whole = objective._predict(clip, mask._replace(groups=1), 0)[0]
    assert (whole - together).abs().max() > 1e-4


def test_without_ema_the_encoder_is_its_own_target_and_no_copy_is_kept(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(target_encoder="online"))
    assert isinstance(objective, MaskedLatentPrediction)
    assert set(objective.parts()) == {"encoder", "predictor"}
    assert not any("target" in name for name in objective.state_dict())
    # The same numbers as with an EMA encoder that is up to date; and no gradient through the targets.
    twin, _ = make(MaskedLatentConfig(ema_start=0.0, ema_end=0.0))
    values, wanted = objective(batch)["loss"], twin(batch)["loss"]
    torch.testing.assert_close(values, wanted)
    values.backward(), wanted.backward()
    twins = dict(twin.named_parameters())
    for name, parameter in objective.named_parameters():
        torch.testing.assert_close(parameter.grad, twins[name].grad)
    objective.after_step(0.5)
    assert "ema_weight_gap" not in objective.monitor(batch)


def test_autocast_does_not_lose_the_gradient_of_an_encoder_that_is_its_own_target(make: Make) -> None:
    """Autocast keeps casts of weights; one made for the targets, without gradient, must not serve the context."""
    objective, batch = make(MaskedLatentConfig(target_encoder="online"))
    objective.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(batch)["loss"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert objective.training and objective.encoder.training  # type: ignore[union-attr]


def test_without_a_predictor_hidden_patches_are_mask_tokens_in_the_encoder(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(predictor="none"), "ijepa")
    assert isinstance(objective, MaskedLatentPrediction)
    clip, mask = batch.views[0], batch.masks[0]
    predicted = objective._predict(clip, mask, 0)[0]
    # No pixel outside the context matters, also those that are no target.
    hidden = torch.ones(4, 32, dtype=torch.bool).scatter_(1, mask.context, False)
    assert hidden.sum() > 0
    size = objective.encoder.config.patch_size
    other = clip.clone()
    for row, token in hidden.nonzero().tolist():
        step, place = divmod(token, 16)
        y, x = (size * part for part in divmod(place, 4))
        other[row, 2 * step : 2 * step + 2, :, y : y + size, x : x + size] = 0
    torch.testing.assert_close(objective._predict(other, mask, 0)[0], predicted)
    step, place = divmod(int(mask.context[0, 0]), 16)
    y, x = (size * part for part in divmod(place, 4))
    other[0, 2 * step, :, y : y + size, x : x + size] ^= 255
    assert (objective._predict(other, mask, 0)[0][0] - predicted[0]).abs().max() > 1e-4


def test_centred_targets_have_no_mean_at_any_position_and_one_scale(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(target_norm="centred"), batch=6)
    assert isinstance(objective, MaskedLatentPrediction)
    tokens = 3 + 5 * objective._target_layers(batch.views[0])[-1]
    targets = objective._normalise(tokens, everywhere=True)
    assert targets.mean(dim=0).abs().max() < 1e-5
    assert targets.square().mean() == pytest.approx(1, abs=1e-3)
    residual = tokens - tokens.mean(dim=0)
    ratio = targets[0, 0] / residual[0, 0]
    torch.testing.assert_close(targets, residual * ratio[0], atol=1e-4, rtol=1e-4)


def test_standardised_targets_have_no_mean_and_one_size_at_every_position(make: Make) -> None:
    """With one scale for all, the places whose features are largest have most of the loss, and grow further."""
    objective, batch = make(MaskedLatentConfig(target_norm="standardised"), batch=6)
    assert isinstance(objective, MaskedLatentPrediction)
    tokens = objective._target_layers(batch.views[0])[-1]
    tokens[:, 3] *= 20
    targets = objective._normalise(tokens, everywhere=True)
    assert targets.mean(dim=0).abs().max() < 1e-5
    torch.testing.assert_close(
        targets.square().mean(dim=(0, 2)), torch.ones(tokens.shape[1]), atol=1e-2, rtol=0
    )
    centred = centre_targets(tokens)
    assert centred[:, 3].square().mean() > 10 * centred.square().mean()


@pytest.mark.parametrize("norm", ["centred", "standardised"])
def test_centred_targets_need_company(make: Make, norm: str) -> None:
    objective, batch = make(MaskedLatentConfig(target_norm=norm), batch=1)
    with pytest.raises(ValueError, match=f"{norm} needs at least 2 samples"):
        objective(batch)


def test_the_variance_term_is_v_jepas(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(variance=0.5))
    assert isinstance(objective, MaskedLatentPrediction)
    values = objective(batch)
    predicted = objective._predict(batch.views[0], batch.masks[0], 0)[0]
    std = (
        (predicted - predicted.mean(dim=1, keepdim=True)).square().sum(dim=1) / (predicted.shape[1] - 1)
        + 1e-4
    ).sqrt()
    hinge = (1 - std).clamp_min(0).mean()
    assert float(values["variance"].detach()) == pytest.approx(float(hinge.detach()), abs=1e-3)
    assert float(values["loss"].detach()) == pytest.approx(
        float((values["prediction"] + 0.5 * values["variance"]).detach())
    )


@pytest.mark.parametrize(
    ("config", "progress", "momentum"),
    [
        # V-JEPA: 0.998 -> 1, laid out for 1.25 of the training, ends at 0.9996. V-JEPA 2: constant.
        (MaskedLatentConfig(ema_start=0.998, ema_end=1.0), 0.0, 0.998),
        (MaskedLatentConfig(ema_start=0.998, ema_end=1.0), 1 / 1.25, 0.9996),
        (MaskedLatentConfig(ema_start=0.99925, ema_end=0.99925), 0.7, 0.99925),
        (MaskedLatentConfig(ema_start=0.9, ema_end=1.0), 0.5, 0.95),
    ],
)
def test_momentum(config: MaskedLatentConfig, progress: float, momentum: float, make: Make) -> None:
    objective = cast(MaskedLatentPrediction, make(config)[0])
    assert objective.momentum(progress) == pytest.approx(momentum)
    assert objective.target_encoder is not None
    before = copy.deepcopy(objective.target_encoder.patch_embed.weight)
    with torch.no_grad():
        objective.encoder.patch_embed.weight += 1.0
    objective.after_step(progress)
    moved = (objective.target_encoder.patch_embed.weight - before).mean()
    assert float(moved) == pytest.approx(1 - momentum, abs=1e-6)


def test_the_target_encoder_never_drops_anything(make: Make) -> None:
    objective = cast(MaskedLatentPrediction, make(MaskedLatentConfig())[0])
    objective.train()
    assert objective.encoder.training
    assert objective.target_encoder is not None and not objective.target_encoder.training


def test_l2_and_layer_norm_in_plain_words(make: Make) -> None:
    objective, batch = make(MaskedLatentConfig(loss="l2"))
    assert isinstance(objective, MaskedLatentPrediction) and objective.target_encoder is not None
    clip, mask = batch.views[0], batch.masks[0]
    tokens = objective.target_encoder.encode(clip).flatten(1, 2)
    wanted = gather_tokens(F.layer_norm(tokens, (24,)), mask.target)
    loss = (objective._predict(clip, mask, 0)[0] - wanted).square().mean()
    torch.testing.assert_close(objective(batch)["loss"], loss)


@pytest.mark.parametrize(
    "bad",
    [
        {"target_encoder": "momentum"},
        {"predictor": "narrow"},
        {"variance": -1.0},
        {"target_norm": "batch"},
    ],
)
def test_bad_settings_name_the_key(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"objective.*{next(iter(bad))}"):
        MaskedLatentConfig(**bad)
