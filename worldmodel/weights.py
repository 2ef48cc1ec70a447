"""Filling a module from named tensors, strictly."""

from __future__ import annotations

from torch import Tensor, nn


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must match exactly.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape; the message lists what differs.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{source} does not fit this model: {'; '.join(problems[:3])}{more}")
    module.load_state_dict(tensors)
