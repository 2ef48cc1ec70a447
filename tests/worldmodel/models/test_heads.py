"""Heads: shapes, what statistics do, and what must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from worldmodel.models.dynamics import AdaLNDynamicsConfig
from worldmodel.models.heads import (
    HEADS,
    PatchHead,
    PatchHeadConfig,
    ProjectorHead,
    ProjectorHeadConfig,
    ProprioToken,
    TokenHead,
    TokenHeadConfig,
    build_head,
    head_kind,
)
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, ProprioSpec, WorldModel, WorldModelConfig

SIZE = VideoEncoderConfig(image_size=32, frames=2, patch_size=8, width=24, depth=1, heads=2)
ACTIONS = ActionSpec(low=[-1, -1], high=[1, 1], mean=[0, 0], std=[0.5, 0.5])


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (TokenHeadConfig(per_token=4, hidden=8, width=6), (1, 6)),
        (ProjectorHeadConfig(hidden=16, width=6), (1, 6)),
        (PatchHeadConfig(), (16, 24)),
        (PatchHeadConfig(pool=2), (4, 24)),
        (PatchHeadConfig(norm="statistics", pool=4), (1, 24)),
    ],
)
def test_a_step_sees_itself_only(config: object, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = build_head(config, 16, 24).eval()
    head.set_statistics(torch.randn(50, 16, 24))
    tokens = torch.randn(3, 5, 16, 24)
    latent = head(tokens)
    assert latent.shape == (3, 5, *shape) and (head.tokens, head.width) == shape
    changed = tokens.clone()
    changed[:, 3] += 1
    differs = (head(changed) != latent).flatten(2).any(dim=2)
    assert differs[:, 3].all() and not differs[:, [0, 1, 2, 4]].any()
    assert HEADS[head_kind(config)] == (type(config), type(head))


def test_pooled_tokens_are_means_of_squares() -> None:
    tokens = torch.randn(2, 3, 16, 8)
    pooled = PatchHead(PatchHeadConfig(norm="none", pool=2), 16, 8)(tokens)
    torch.testing.assert_close(pooled[:, :, 1], tokens[:, :, [2, 3, 6, 7]].mean(dim=2))
    with pytest.raises(ValueError, match="head.pool=3 needs a square of tokens whose side it divides"):
        PatchHead(PatchHeadConfig(pool=3), 16, 8)


def test_statistics_standardise_the_tokens() -> None:
    sample = 5 + 3 * torch.randn(400, 4, 8) + torch.arange(4.0)[:, None]
    head = PatchHead(PatchHeadConfig(norm="statistics"), 4, 8)
    head.set_statistics(sample)
    latent = head(sample[None])
    assert latent.mean(dim=1).abs().max() < 1e-3 and abs(float(latent.std()) - 1) < 1e-2


def test_a_collapsed_batch_is_left() -> None:
    """Tokens that are nearly the same: a BatchNorm spreads them, so the latents are not at one point."""
    torch.manual_seed(0)
    tokens = torch.ones(64, 1, 4, 8) + 1e-2 * torch.randn(64, 1, 4, 8)
    plain = torch.nn.Linear(32, 6)(tokens.flatten(2)).std(dim=0).mean()
    for head in (
        TokenHead(TokenHeadConfig(per_token=4, hidden=16, width=6), 4, 8),
        ProjectorHead(ProjectorHeadConfig(hidden=64, width=6), 4, 8),
    ):
        assert head.train()(tokens).std(dim=0).mean() > 20 * plain


def test_proprioception_is_a_token_of_unit_size() -> None:
    token = ProprioToken(3, 8)
    sample = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, -3.0])
    token.set_statistics(sample)
    values = token(sample[None])[0, :, 0]
    torch.testing.assert_close(values[:, :3], values[:, 3:6])
    assert not values[:, 6:].any()
    torch.testing.assert_close(values[:, :3].std(dim=0), torch.ones(3), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="has 2 values, the model was trained with 3"):
        token(torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="has 9 values, the latent 8 features per token"):
        ProprioToken(9, 8)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_a_model_of_any_head_comes_back(tmp_path: Path, kind: str) -> None:
    small = {
        "token": TokenHeadConfig(per_token=4, hidden=8, width=8),
        "projector": ProjectorHeadConfig(hidden=16, width=8),
        "patches": PatchHeadConfig(norm="statistics", pool=2),
    }
    config = WorldModelConfig(
        SIZE, small[kind], AdaLNDynamicsConfig(width=16, depth=1, heads=2, head_width=8, mlp_hidden=16), ACTIONS,
        proprio=ProprioSpec(3, ["x", "y", "angle"]), members=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WorldModel(config).eval()
    model.save(tmp_path, "card", {"data": "abc"})
    again = WorldModel.load(tmp_path)
    assert again.config == config
    frames = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    proprio, actions = torch.randn(2, 4, 3), torch.randn(2, 3, 1, 2)
    latents = model.encode(frames, proprio)
    assert latents.shape[2] == model.head.tokens + 1
    assert torch.equal(again.encode(frames, proprio), latents)
    assert torch.allclose(again.encode(frames[:, 1], proprio[:, 1]), latents[:, 1], atol=1e-5)
    with torch.no_grad():
        assert torch.equal(again.predict(latents[:, :-1], actions), model.predict(latents[:, :-1], actions))
    with pytest.raises(ValueError, match=r"sees proprioception \(x, y, angle\): give it with the frames"):
        model.encode(frames)


def test_proprioception_that_is_not_wanted(tiny_world_model: WorldModel) -> None:
    frames = torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="trained without proprioception; give frames only"):
        tiny_world_model.encode(frames, torch.zeros(1, 2, 3))


def test_latents_are_as_they_were_without_encoder_and_in_gradients() -> None:
    """Cached tokens give what frames give, and the head's gradient does not need the encoder's."""
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig(SIZE, PatchHeadConfig(), actions=ACTIONS)).eval()
    frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    tokens = model.encoder.encode_steps(frames)
    torch.testing.assert_close(model.latents(tokens), model.latents(frames))
    torch.testing.assert_close(model.latents(tokens), F.layer_norm(tokens, (24,)))
