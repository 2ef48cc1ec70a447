"""Linear layers for inference on a CPU: oneDNN's matrix products, with weights laid out for them once.

torch multiplies float32 matrices on x86 by MKL. On AMD's processors that runs layers of LeWM's size at less than half
of oneDNN's rate (Zen 5, torch 2.13).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PackedLinear(nn.Module):
    """A linear layer without gradients: ``(..., in)`` of any type to float32 ``(..., out)``. Stays on a CPU.

    Args:
        linear: Weights and bias; copied.
        dtype: float32, or bfloat16: what factors are rounded to. What comes out is float32, as residuals and norms are.
        gelu: Whether a GELU follows. Its result stays in ``dtype``, for the layer behind it.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype = torch.float32, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.gelu = dtype, gelu
        weight = linear.weight.detach().to(dtype, copy=True)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype, copy=True)
        self.packed = can_pack(dtype)
        # Not a buffer: a packed layout can be neither copied nor saved.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.packed:
            after, form = ("gelu", "none") if self.gelu else ("none", "")
            x = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, after, [], form)
        else:
            x = F.linear(x, self.weight, self.bias)
            x = F.gelu(x) if self.gelu else x
        return x if self.gelu else x.float()


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor multiply by oneDNN; else packed layers do it as others do."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Replace all linear layers inside ``module``, and the GELU behind one, by packed ones."""
    children = [*module.named_children(), ("", nn.Identity())]
    for (name, child), (after, following) in zip(children[:-1], children[1:], strict=True):
        if type(child) is not nn.Linear:
            pack(child, dtype)
            continue
        in_order = isinstance(module, nn.Sequential)
        gelu = in_order and isinstance(following, nn.GELU) and following.approximate == "none"
        setattr(module, name, PackedLinear(child, dtype, gelu))
        if gelu:
            setattr(module, after, nn.Identity())
