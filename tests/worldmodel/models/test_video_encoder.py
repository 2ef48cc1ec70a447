"""The video ViT."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worldmodel.masks import Grid
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

KINDS = ("rope", "rope_compat", "sincos")


def build(config: VideoEncoderConfig, **changes: object) -> VideoEncoder:
    torch.manual_seed(0)
    encoder = VideoEncoder(replace(config, **changes)).eval()  # type: ignore[arg-type]
    # Freshly drawn, attention is all but uniform: rotary positions would have no say.
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)  # type: ignore[arg-type, union-attr]
    return encoder


def draw_clip(frames: int = 4, height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randint(0, 256, (batch, frames, 3, height, width), dtype=torch.uint8)


def halves(batch: int = 2, tokens: int = 32) -> tuple[Tensor, Tensor]:
    """Two disjoint halves of the token ids, sorted, other ones for each sample."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(batch)])
    return ids[:, : tokens // 2].sort(1).values, ids[:, tokens // 2 :].sort(1).values


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_pixels_do_not_reach_the_context_tokens(tiny_encoder: VideoEncoderConfig, kind: str) -> None:
    encoder, clip = build(tiny_encoder, positions=kind), draw_clip()
    seen, unseen = halves()
    context = encoder.encode(clip, keep=seen)
    other = clip.clone()
    for row in range(2):
        for token in unseen[row].tolist():
            step, place = divmod(token, 16)
            y, x = divmod(place, 4)
            other[row, 2 * step : 2 * step + 2, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
    assert not torch.equal(other, clip)
    assert torch.equal(encoder.encode(other, keep=seen), context)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_tokens_keep_their_places(tiny_encoder: VideoEncoderConfig, kind: str) -> None:
    """All tokens in another order are the same tokens: positions follow ids, not slots."""
    encoder, clip = build(tiny_encoder, positions=kind), draw_clip()
    order = torch.stack([torch.randperm(32), torch.randperm(32)])
    shuffled = encoder.encode(clip, keep=order)
    plain = encoder.encode(clip).flatten(1, 2)
    torch.testing.assert_close(
        shuffled, plain.gather(1, order[..., None].expand(-1, -1, 24)), atol=1e-5, rtol=1e-5
    )


def test_with_rotary_positions_a_shifted_picture_has_shifted_tokens(tiny_encoder: VideoEncoderConfig) -> None:
    """Two patches seen alone: only where they are relative to each other counts. Not so for the other kinds."""
    patches = torch.rand(2, 3, 8, 8)

    def tokens(kind: str, step: int, row: int, column: int) -> Tensor:
        clip = torch.zeros(1, 4, 3, 32, 32)
        for patch, (dy, dx) in zip(patches, [(0, 0), (1, 2)], strict=True):
            y, x = 8 * (row + dy), 8 * (column + dx)
            clip[0, 2 * step : 2 * step + 2, :, y : y + 8, x : x + 8] = patch
        first = 16 * step + 4 * row + column
        return build(tiny_encoder, positions=kind).encode(clip, keep=torch.tensor([[first, first + 6]]))

    for place in ((1, 0, 0), (0, 2, 0), (1, 2, 1)):
        torch.testing.assert_close(tokens("rope", *place), tokens("rope", 0, 0, 0), atol=1e-5, rtol=1e-5)
    for kind in ("rope_compat", "sincos"):
        assert (tokens(kind, 1, 2, 1) - tokens(kind, 0, 0, 0)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames, height, width", [(2, 32, 32), (8, 32, 32), (4, 16, 48), (6, 40, 24)])
def test_other_lengths_and_sizes(
    tiny_encoder: VideoEncoderConfig, kind: str, frames: int, height: int, width: int
) -> None:
    encoder, clip = build(tiny_encoder, positions=kind), draw_clip(frames, height, width)
    steps, places = frames // 2, height * width // 64
    tokens = encoder.encode(clip)
    assert encoder.grid_of(clip) == Grid(steps, height // 8, width // 8)
    assert tokens.shape == (2, steps, places, 24)
    everything = torch.arange(steps * places).expand(2, -1)
    torch.testing.assert_close(
        encoder.encode(clip, keep=everything), tokens.flatten(1, 2), atol=1e-5, rtol=1e-5
    )


def test_layers_are_those_of_a_shallower_network(tiny_encoder: VideoEncoderConfig) -> None:
    deep, clip = build(tiny_encoder, depth=3), draw_clip()
    shallow = build(tiny_encoder, depth=2)
    shallow.load_state_dict(deep.state_dict(), strict=False)
    last, second = deep.encode_layers(clip, [2, 1])
    assert torch.equal(last, deep.encode(clip))
    assert torch.equal(second, shallow.encode(clip))
    for layers in ([3], [-1], []):
        with pytest.raises(ValueError, match="has the layers 0 to 2"):
            deep.encode_layers(clip, layers)


def test_a_token_in_place_of_hidden_patches(tiny_encoder: VideoEncoderConfig) -> None:
    encoder, clip = build(tiny_encoder), draw_clip()
    ids, token = halves()[1], torch.randn(24, requires_grad=True)
    guessed = encoder.encode(clip, hidden=(ids, token))
    assert guessed.shape == (2, 2, 16, 24)
    guessed.sum().backward()
    assert token.grad is not None and token.grad.abs().max() > 0
    # What was there does not matter any more; what was not replaced does.
    pixels = clip.clone()
    y, x = divmod(int(ids[0, 0]) % 16, 4)
    step = int(ids[0, 0]) // 16
    pixels[0, 2 * step : 2 * step + 2, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
    assert torch.equal(encoder.encode(pixels, hidden=(ids, token)), guessed)
    assert not torch.equal(encoder.encode(clip), guessed)
    with pytest.raises(ValueError, match="not both"):
        encoder.encode(clip, keep=ids, hidden=(ids, token))


def test_each_channel_has_its_own_mean_and_std(tiny_encoder: VideoEncoderConfig) -> None:
    mean, std = [0.1, 0.5, 0.9], [0.5, 1.0, 2.0]
    encoder, plain = (
        build(tiny_encoder, pixel_mean=m, pixel_std=s)
        for m, s in ((mean, std), ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]))
    )
    clip = draw_clip()
    by_hand = (clip / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(encoder.encode(clip), plain.encode(by_hand), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_blocks_changes_no_gradient(tiny_encoder: VideoEncoderConfig, kind: str) -> None:
    clip, gradients = draw_clip(), []
    for recompute in (False, True):
        encoder = build(tiny_encoder, positions=kind, checkpoint_blocks=recompute, drop_path=0.5).train()
        torch.manual_seed(1)
        encoder.encode(clip, keep=halves()[0]).square().mean().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_drop_path_grows_with_depth_and_rests_in_evaluation(tiny_encoder: VideoEncoderConfig) -> None:
    encoder, clip = build(tiny_encoder, depth=3, drop_path=0.5), draw_clip()
    assert [block.drop_path for block in encoder.blocks] == [0.0, 0.25, 0.5]
    assert torch.equal(encoder.encode(clip), build(tiny_encoder, depth=3).encode(clip))
    first, second = encoder.train().encode(clip), encoder.encode(clip)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_and_compile_give_the_same_tokens(tiny_encoder: VideoEncoderConfig, kind: str) -> None:
    encoder, clip = build(tiny_encoder, positions=kind), draw_clip()
    seen = halves()[0]
    exact = encoder.encode(clip, keep=seen)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder.encode(clip, keep=seen)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    # Weights in bfloat16 need no autocast.
    assert build(tiny_encoder, positions=kind).bfloat16().encode(clip).dtype == torch.bfloat16
    # The whole forward pass is one graph: nothing in it depends on the data.
    compiled = torch.compile(encoder.encode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clip, keep=seen), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(1, 4, 3, 12, 16), (1, 5, 3, 32, 32), (1, 0, 3, 32, 32), (1, 4, 1, 32, 32), (4, 3, 32, 32)]
)
def test_clips_that_do_not_fit_are_refused(tiny_encoder: VideoEncoderConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this encoder takes"):
        VideoEncoder(tiny_encoder).encode(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("window", [0, 3, 6])
def test_impossible_windows_are_refused(tiny_encoder: VideoEncoderConfig, window: int) -> None:
    with pytest.raises(ValueError, match="window="):
        VideoEncoder(tiny_encoder).encode_steps(torch.zeros(1, 4, 3, 32, 32), window=window)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"patch_size": 24}, "must divide"),
        ({"tubelet": 3}, "must divide"),
        ({"heads": 5}, "must divide"),
        ({"depth": 0}, "must be positive"),
        ({"positions": "learned"}, "positions='learned' is unknown; choose one of rope, rope_compat, sincos"),
        ({"heads": 32}, "3 channels per head"),
        ({"mlp": "relu"}, "mlp='relu' is unknown"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"pixel_mean": [0.5]}, "one per channel"),
        ({"pixel_std": [0.5, 0.0, 0.5]}, "std above 0"),
    ],
)
def test_impossible_sizes_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoEncoderConfig(**bad)
