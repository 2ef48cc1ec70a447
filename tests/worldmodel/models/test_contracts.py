"""Encoders and dynamics, fakes and real ones, against the contracts that any later one must pass too."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.dynamics import MLPDynamics, MLPDynamicsConfig
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction

_spec = importlib.util.spec_from_file_location("contracts", Path(__file__).with_name("contracts.py"))
assert _spec is not None and _spec.loader is not None
contracts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contracts)


class FakeEncoder(nn.Module):
    """The mean colour of each quarter of a tubelet's frames: the smallest thing that keeps the encoder contract."""

    tokens_per_step, width = 4, 3

    def encode(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        pixels = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        b, t, c, h, w = pixels.shape
        quarters = pixels.reshape(b, t // 2, 2, c, 2, h // 2, 2, w // 2).mean(dim=(2, 5, 7))
        tokens = quarters.permute(0, 1, 3, 4, 2).reshape(b, t // 2, 4, c)
        return tokens if keep is None else tokens.flatten(1, 2).gather(1, keep[..., None].expand(-1, -1, c))

    def encode_steps(self, frames: Tensor, window: int = 1) -> Tensor:
        return self.encode(frames.repeat_interleave(2, dim=1))


class FakeDynamics(nn.Module):
    """Tokens move by the sum of the step's actions."""

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        return tokens + actions.sum(dim=(2, 3))[..., None, None]

    def rollout(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        return context[:, -1, None, None] + plans.sum(dim=(3, 4)).cumsum(dim=2)[..., None, None]


@pytest.mark.parametrize("kind", ["fake", "rope", "rope_compat", "sincos", "swiglu"])
def test_encoder_contract(kind: str, tiny_encoder: VideoEncoderConfig) -> None:
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    if kind == "fake":
        contracts.check_encoder(FakeEncoder(), clip, windows=(1,))
    else:
        changes = {"mlp": kind} if kind == "swiglu" else {"positions": kind}
        encoder = VideoEncoder(dataclasses.replace(tiny_encoder, **changes)).eval()
        contracts.check_encoder(encoder, clip, windows=(1, 2, 4))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("kind", ["fake", "mlp"])
def test_dynamics_contract(kind: str, tokens: int) -> None:
    torch.manual_seed(0)
    dynamics = (
        FakeDynamics() if kind == "fake" else MLPDynamics(MLPDynamicsConfig(hidden=16), tokens, 5, 2, 3)
    )
    contracts.check_dynamics(
        dynamics, tokens=tokens, width=5, block=2, action_dim=3, context=1 if kind == "mlp" else 2
    )


class FakeObjective(Objective):
    """Fits one number to the mean pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.guess = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (batch.views[0].float().mean() - self.guess).square()}


@pytest.mark.parametrize("kind", ["fake", "v-jepa", "end to end", "frozen"])
def test_objective_contract(
    kind: str, tiny_encoder: VideoEncoderConfig, tiny_world_model: WorldModel
) -> None:
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8)
    encoder = VideoEncoder(tiny_encoder)
    masks = draw_masks({"tube": MaskConfig()}, encoder.grid, 0, range(4))
    batch = Batch(0, range(4), (clip,), masks, actions=torch.rand(4, 3, 1, 2))
    objective: Objective = FakeObjective()
    if kind == "v-jepa":
        predictor = MaskedPredictor(MaskedPredictorConfig(width=24, heads=2), encoder.grid, encoder.width)
        objective = MaskedLatentPrediction(encoder, predictor, MaskedLatentConfig())
    if kind in ("end to end", "frozen"):
        objective = LatentDynamics(tiny_world_model, LatentDynamicsConfig(), seed=0)
    if kind == "frozen":
        tiny_world_model.encoder.requires_grad_(False)
        with torch.no_grad():
            batch = dataclasses.replace(batch, views=(tiny_world_model.encoder.encode_steps(clip),))
    contracts.check_objective(objective, batch)


def test_a_dynamics_that_sees_the_future_fails_the_contract() -> None:
    class Cheating(FakeDynamics):
        def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
            return super().forward(tokens, actions) + 0.01 * tokens.mean(dim=1, keepdim=True)

    with pytest.raises(AssertionError):
        contracts.check_dynamics(Cheating(), tokens=1, width=5, block=1, action_dim=2, context=1)
