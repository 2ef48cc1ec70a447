"""Patches, positions and blocks against plain formulas and other implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worldmodel.masks import Grid
from worldmodel.nn.blocks import Attention, Block, init_transformer, make_blocks
from worldmodel.nn.patches import gather_tokens, to_patches
from worldmodel.nn.positions import axes_of, sincos_3d
from worldmodel.nn.rope import rope_turn


def test_a_linear_layer_on_patches_is_the_strided_3d_convolution() -> None:
    clip = torch.randn(2, 4, 3, 16, 24)
    conv = nn.Conv3d(3, 5, kernel_size=(2, 8, 8), stride=(2, 8, 8))
    wanted = conv(clip.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)  # (B, P, N, D)
    # Ours orders a patch's content (time, channel, row, column), the convolution (channel, time, row, column).
    weight = conv.weight.transpose(1, 2).flatten(1)
    ours = F.linear(to_patches(clip, 8, 2), weight, conv.bias)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


def test_clips_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        to_patches(torch.zeros(1, 3, 3, 16, 16), 8, 2)


def test_gather_takes_tokens_by_id() -> None:
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    ids = torch.tensor([[3, 0], [1, 1]])
    taken = gather_tokens(tokens, ids)
    assert torch.equal(taken[0], tokens[0, [3, 0]])
    assert torch.equal(taken[1], tokens[1, [1, 1]])
    assert torch.equal(gather_tokens(tokens.clone().requires_grad_(), ids), taken)


@pytest.mark.parametrize("grad", [False, True])
def test_an_id_past_the_end_is_an_error_and_not_the_next_samples_token(grad: bool) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        gather_tokens(torch.zeros(2, 4, 3, requires_grad=grad), torch.tensor([[4], [0]]))


def test_position_table_is_the_plain_formula() -> None:
    steps, height, width, channels = 3, 2, 4, 14
    table = sincos_3d(steps, height, width, channels)
    assert table.shape == (3, 8, 14)
    share = 2 * math.ceil(channels / 6)
    for t in range(steps):
        for h in range(height):
            for w in range(width):
                row = []
                for position in (t, h, w):
                    angles = [position / 10_000 ** (i / (share / 2)) for i in range(share // 2)]
                    row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
                torch.testing.assert_close(table[t, h * width + w], torch.tensor(row[:channels]))


def test_block_is_torchs_pre_norm_encoder_layer() -> None:
    block = Block(24, 3, 4.0)
    theirs = nn.TransformerEncoderLayer(
        24, 3, 96, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attn.qkv.weight,
            "self_attn.in_proj_bias": block.attn.qkv.bias,
            "self_attn.out_proj.weight": block.attn.proj.weight,
            "self_attn.out_proj.bias": block.attn.proj.bias,
            "linear1.weight": block.mlp.fc1.weight,
            "linear1.bias": block.mlp.fc1.bias,
            "linear2.weight": block.mlp.fc2.weight,
            "linear2.bias": block.mlp.fc2.bias,
            **{
                f"norm{i}.{name}": getattr(getattr(block, f"norm{i}"), name)
                for i in (1, 2)
                for name in ("weight", "bias")
            },
        }
    )
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(block(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_swiglu_has_about_as_many_parameters_as_the_mlp() -> None:
    block = Block(96, 3, 4.0, mlp="swiglu")
    x = torch.randn(2, 5, 96)
    mlp = block.mlp
    torch.testing.assert_close(mlp(x), mlp.fc3(mlp.fc1(x) * mlp.fc1(x).sigmoid() * mlp.fc2(x)))
    counts = [sum(p.numel() for p in part.parameters()) for part in (mlp, Block(96, 3, 4.0).mlp)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_initialisation_is_v_jepas() -> None:
    torch.manual_seed(0)
    net = nn.Module()
    net.blocks = make_blocks(128, 3, 4, 4.0, "gelu")
    init_transformer(net, net.blocks)
    for index, block in enumerate(net.blocks, start=1):
        assert block.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
        for layer in (block.attn.proj, block.mlp.fc2):
            assert layer.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * index), rel=0.03)
            assert not layer.bias.any()


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 2.0, drop_path=0.25)
    branch = torch.ones(4000, 2, 8)
    dropped = block.train()._drop(branch)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped[:, 0, 0], dropped[:, 1, 7])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("slow_half", [False, True])
def test_attention_in_float32_or_bfloat16_is_the_same(slow_half: bool) -> None:
    """Which of the two a CPU's attention runs in depends on what it is fast at."""
    torch.manual_seed(0)
    attention, x = Attention(24, 2), torch.randn(2, 9, 24)
    attention.slow_half = slow_half
    turn = rope_turn(axes_of(torch.arange(9)[None], Grid(1, 3, 3)), 12)
    exact = attention(x, turn)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(x, turn)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.01, rtol=0.02)
