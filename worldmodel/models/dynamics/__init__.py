"""Action-conditioned predictors of the next latent, all under the contract of :class:`Dynamics`.

The transformers (``adaln``, ``concat``, ``block_causal``) share ``causal.py``; ``registry.py`` builds any kind by its
settings. Actions are in the environment's own units; their statistics travel with the module.
"""

from worldmodel.models.dynamics.adaln import AdaLNDynamics, AdaLNDynamicsConfig
from worldmodel.models.dynamics.base import Dynamics
from worldmodel.models.dynamics.block_causal import BlockCausalDynamics, BlockCausalDynamicsConfig
from worldmodel.models.dynamics.concat import ConcatDynamics, ConcatDynamicsConfig
from worldmodel.models.dynamics.ensemble import Ensemble
from worldmodel.models.dynamics.gru import GRUDynamics, GRUDynamicsConfig
from worldmodel.models.dynamics.inference import RolloutConfig, candidates_within, fast_rollout
from worldmodel.models.dynamics.mlp import MLPDynamics, MLPDynamicsConfig
from worldmodel.models.dynamics.prefix import PrefixDynamics, PrefixDynamicsConfig
from worldmodel.models.dynamics.registry import DYNAMICS, build_dynamics, build_slow, kind_of
from worldmodel.models.dynamics.slow import MacroActionEncoder, SlowConfig, SlowDynamics, slow_steps

__all__ = [
    "DYNAMICS",
    "AdaLNDynamics",
    "AdaLNDynamicsConfig",
    "BlockCausalDynamics",
    "BlockCausalDynamicsConfig",
    "ConcatDynamics",
    "ConcatDynamicsConfig",
    "Dynamics",
    "Ensemble",
    "GRUDynamics",
    "GRUDynamicsConfig",
    "MLPDynamics",
    "MLPDynamicsConfig",
    "MacroActionEncoder",
    "PrefixDynamics",
    "PrefixDynamicsConfig",
    "RolloutConfig",
    "SlowConfig",
    "SlowDynamics",
    "build_dynamics",
    "build_slow",
    "candidates_within",
    "fast_rollout",
    "kind_of",
    "slow_steps",
]
