"""The world model's objective."""

from __future__ import annotations

import pytest
import torch

from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.base import Batch
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig


def batch(view: torch.Tensor, steps: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(0, range(6), (view,), actions=torch.rand(6, steps, 1, 2, generator=generator) * 2 - 1)


def test_parts_are_teacher_forcing_and_rollout_errors(tiny_world_model: WorldModel) -> None:
    objective = LatentDynamics(tiny_world_model, LatentDynamicsConfig(sigreg=0.5), seed=0).eval()
    tokens = torch.randn(6, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    made = batch(tokens, 3)
    losses = objective(made)
    z = tiny_world_model.head(tokens)
    forced, rolled, state = [], [], z[:, :1]
    for t in range(3):
        action = made.actions[:, t : t + 1]
        forced.append(
            (tiny_world_model.dynamics(z[:, t : t + 1], action) - z[:, t + 1 : t + 2]).square().mean()
        )
        state = tiny_world_model.dynamics(state, action)
        rolled.append((state - z[:, t + 1 : t + 2]).square().mean())
    torch.testing.assert_close(losses["teacher_forcing"], torch.stack(forced).mean())
    torch.testing.assert_close(losses["rollout"], torch.stack(rolled).mean())
    torch.testing.assert_close(
        losses["loss"], losses["teacher_forcing"] + losses["rollout"] + 0.5 * losses["sigreg"]
    )


def test_end_to_end_trains_the_encoder_and_cached_tokens_do_not_need_it(tiny_world_model: WorldModel) -> None:
    objective = LatentDynamics(tiny_world_model, LatentDynamicsConfig(), seed=0)
    frames = torch.randint(0, 256, (6, 4, 3, 32, 32), dtype=torch.uint8)
    objective(batch(frames, 3))["loss"].backward()
    assert tiny_world_model.encoder.patch_embed.weight.grad is not None
    with torch.no_grad():
        tokens = tiny_world_model.encoder.encode_steps(frames)
    objective.eval()
    torch.testing.assert_close(objective(batch(tokens, 3))["loss"], objective(batch(frames, 3))["loss"])


def test_it_does_not_collapse_where_prediction_alone_would(tiny_world_model: WorldModel) -> None:
    """Random tokens cannot be predicted: without SIGReg the latents lose rank, with it they keep theirs."""

    def rank_after(weight: float) -> float:
        torch.manual_seed(0)
        model = WorldModel(tiny_world_model.config)
        objective = LatentDynamics(model, LatentDynamicsConfig(sigreg=weight), seed=0)
        optimizer = torch.optim.AdamW([*model.head.parameters(), *model.dynamics.parameters()], lr=3e-3)
        for step in range(150):
            tokens = torch.randn(6, 4, 16, 24, generator=torch.Generator().manual_seed(step))
            made = Batch(step, range(6), (tokens,), actions=torch.zeros(6, 3, 1, 2))
            loss = objective(made)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return objective.monitor(made)["latent_rank"]

    assert rank_after(1.0) > rank_after(0.0) + 0.5


@pytest.mark.parametrize("bad", [{"sigreg": -1.0}, {"teacher_forcing": 0.0, "rollout": 0.0}])
def test_bad_weights_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="weights"):
        LatentDynamicsConfig(**bad)
