"""The kinds of dynamics by name: what a model file says, and what builds them."""

from __future__ import annotations

from typing import Any

from worldmodel.models.dynamics.adaln import AdaLNDynamics, AdaLNDynamicsConfig
from worldmodel.models.dynamics.base import Dynamics
from worldmodel.models.dynamics.block_causal import BlockCausalDynamics, BlockCausalDynamicsConfig
from worldmodel.models.dynamics.concat import ConcatDynamics, ConcatDynamicsConfig
from worldmodel.models.dynamics.ensemble import Ensemble
from worldmodel.models.dynamics.gru import GRUDynamics, GRUDynamicsConfig
from worldmodel.models.dynamics.mlp import MLPDynamics, MLPDynamicsConfig
from worldmodel.models.dynamics.prefix import PrefixDynamics, PrefixDynamicsConfig
from worldmodel.models.dynamics.slow import MacroActionEncoder, SlowConfig, SlowDynamics

#: Kind to the dataclass of its settings and the module; ``config.json`` names the kind.
DYNAMICS: dict[str, tuple[type[Any], type[Dynamics]]] = {
    "mlp": (MLPDynamicsConfig, MLPDynamics),
    "gru": (GRUDynamicsConfig, GRUDynamics),
    "adaln": (AdaLNDynamicsConfig, AdaLNDynamics),
    "concat": (ConcatDynamicsConfig, ConcatDynamics),
    "block_causal": (BlockCausalDynamicsConfig, BlockCausalDynamics),
    "prefix": (PrefixDynamicsConfig, PrefixDynamics),
}


def kind_of(config: object) -> str:
    """The name of a configuration's kind.

    Raises:
        ValueError: It is not the configuration of any dynamics.
    """
    for kind, (config_class, _) in DYNAMICS.items():
        if type(config) is config_class:
            return kind
    known = ", ".join(config_class.__name__ for config_class, _ in DYNAMICS.values())
    raise ValueError(f"{type(config).__name__} is no configuration of dynamics; there are {known}")


def build_dynamics(
    config: object, tokens: int, width: int, actions_per_step: int, action_dim: int, members: int = 1
) -> Dynamics:
    """Dynamics for latents of ``N = tokens`` tokens of ``Z = width`` features.

    Args:
        config: One of the dataclasses in ``DYNAMICS``.
        tokens: ``N``.
        width: ``Z``.
        actions_per_step: ``K``.
        action_dim: ``A``.
        members: More than 1 for an ensemble of that many.

    Raises:
        ValueError: The configuration is of no kind, or does not fit the latent.
    """
    module: Any = DYNAMICS[kind_of(config)][1]
    sizes = (tokens, width, actions_per_step, action_dim)
    if members == 1:
        return module(config, *sizes)
    return Ensemble(lambda: module(config, *sizes), members)


def build_slow(
    slow: SlowConfig, config: object, tokens: int, width: int, actions_per_step: int, action_dim: int
) -> SlowDynamics:
    """The slow level: an encoder of ``slow.steps`` steps' actions, and dynamics of any kind over macro-actions.

    Raises:
        ValueError: As :func:`build_dynamics`.
    """
    encoder = MacroActionEncoder(slow, actions_per_step, action_dim)
    return SlowDynamics(encoder, build_dynamics(config, tokens, width, 1, slow.macro_dim))
