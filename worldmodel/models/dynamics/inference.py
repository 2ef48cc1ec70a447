"""Rollouts for planning: the same function as ``Dynamics.rollout``, in less time and memory."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.base import Dynamics
from worldmodel.models.dynamics.ensemble import Ensemble
from worldmodel.nn.causal import CausalAttention
from worldmodel.nn.packed import pack

#: ``context (E, M, N, Z)``, past actions ``(E, M-1, K, A)``, plans ``(E, S, L, K, A)`` to ``(E, S, L, N, Z)``.
Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class RolloutConfig:
    """How plans are imagined. The defaults change nothing but the last bits.

    Raises:
        ValueError: A value is unknown or out of its range.
    """

    #: fp32, or bf16: matrix products of bfloat16 numbers. Residuals, norms and, on a CPU, attention stay float32.
    precision: str = "fp32"
    #: Whether torch.compile makes the rollout; the first decision then takes a minute or more. For GPUs: on a CPU,
    #: packed layers are faster, and compiling does without them.
    compile: bool = False
    #: With compile: whether a GPU replays the whole rollout as one CUDA graph.
    cuda_graphs: bool = False
    #: GiB for the activations of candidates: as many as fit are imagined at once. 0: all of them.
    memory: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"rollout.precision={self.precision!r} is unknown; choose fp32 or bf16")
        if self.cuda_graphs and not self.compile:
            raise ValueError("rollout.cuda_graphs=true needs rollout.compile=true")
        if not self.memory >= 0:
            raise ValueError(f"rollout.memory={self.memory} must be GiB of at least 0; 0 is no limit")


def fast_rollout(
    dynamics: Dynamics, config: RolloutConfig, device: torch.device | str = "cpu", members: bool = False
) -> Rollout:
    """What ``dynamics.rollout`` computes, or an ensemble's ``rollout_members``.

    On a CPU it has a copy of the weights: a later change of the model has no effect. Where plans ask for gradients, it
    is the model's own rollout, in float32.

    Args:
        dynamics: In evaluation mode, on the device.
        config: See :class:`RolloutConfig`.
        device: Where the model computes.
        members: Whether each member's latents are asked for.

    Raises:
        ValueError: CUDA graphs are asked for elsewhere.
    """
    kind = torch.device(device).type
    half = config.precision == "bf16"
    if config.cuda_graphs and kind != "cuda":
        raise ValueError(f"rollout.cuda_graphs=true needs device=cuda, not {kind}")
    plain = fast = _of(dynamics, members)
    if kind == "cpu" and not config.compile:
        packed = copy.deepcopy(dynamics).eval().requires_grad_(False)
        pack(packed, torch.bfloat16 if half else torch.float32)
        fast, half = _of(packed, members), False
    elif config.compile:
        fast = torch.compile(plain, mode="reduce-overhead" if config.cuda_graphs else None)

    def run(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        if plans.requires_grad:
            return plain(context, past_actions, plans)
        # Without gradients, also where the caller allows them: a CUDA graph would be made anew for a backward pass.
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=half):
            latents = fast(context, past_actions, plans)
        return latents.clone() if config.cuda_graphs else latents  # which the next replay would overwrite

    return run


def _of(dynamics: Dynamics, members: bool) -> Rollout:
    if members:
        assert isinstance(dynamics, Ensemble)
        return dynamics.rollout_members
    return dynamics.rollout


def candidates_within(dynamics: Dynamics, length: int, gib: float) -> int | None:
    """How many candidates' activations fit into so much memory, at least one; None for 0, which is no limit."""
    return max(1, int(gib * 2**30 / candidate_bytes(dynamics, length))) if gib else None


def candidate_bytes(dynamics: Dynamics, length: int) -> int:
    """At most so much memory does imagining a plan of ``length`` steps take, in float32.

    An upper bound for the kinds of dynamics that there are, up to 10 times what is needed: the keys and values that a
    candidate remembers and sees, and some activations of the widest layer, at all steps at once.
    """
    widest = max(layer.out_features for layer in dynamics.modules() if isinstance(layer, nn.Linear))
    steps = max(length, dynamics.context)
    kept = [3 * layer.qkv.out_features for layer in dynamics.modules() if isinstance(layer, CausalAttention)]
    return 4 * steps * (dynamics.tokens + 1) * (sum(kept) + 6 * widest + 4 * dynamics.width)
