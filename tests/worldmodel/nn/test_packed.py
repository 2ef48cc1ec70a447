"""Packed linear layers: the same products, in a layout of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldmodel.nn import packed
from worldmodel.nn.packed import PackedLinear, pack


@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layer_is_the_layer(bias: bool, available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not available:
        monkeypatch.setattr(packed, "can_pack", lambda dtype: False)
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(3, 5, 24)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(PackedLinear(layer)(x), expected, atol=1e-6, rtol=1e-5)
        half = PackedLinear(layer, torch.bfloat16)(x)
    assert half.dtype == torch.float32
    # A bfloat16 has 8 bits: two rounded factors and a rounded sum.
    assert (half - expected).abs().max() < 3 * 2**-8 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gelu_joins_the_layer_before_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 16)).eval()
    x = torch.randn(7, 16)
    with torch.no_grad():
        expected = mlp(x)
        pack(mlp, dtype)
        result = mlp(x)
    assert [type(part) for part in mlp] == [PackedLinear, nn.Identity, nn.Dropout, PackedLinear]
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=1e-5)


def test_another_activation_stays_and_weights_are_copied() -> None:
    other = nn.Sequential(nn.Linear(4, 4), nn.GELU(approximate="tanh"), nn.Linear(4, 4), nn.SiLU())
    x = torch.randn(2, 4)
    with torch.no_grad():
        expected = other(x)
        first = other[0]
        pack(other)
        first.weight.zero_()
        torch.testing.assert_close(other(x), expected, atol=1e-6, rtol=1e-5)
    assert isinstance(other[1], nn.GELU)
