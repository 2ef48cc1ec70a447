"""A world model: encoder, head and dynamics, with all that is needed to use them on a robot."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics import MLPDynamics, MLPDynamicsConfig
from worldmodel.models.files import from_dict, load_part, read_config, save_parts
from worldmodel.models.heads import TokenHead, TokenHeadConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig


@dataclass
class ActionSpec:
    """The actions that a world model was trained with, in the environment's own units."""

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    #: Environment actions per model step, ``K``.
    per_step: int = 1
    #: Mean and standard deviation over the training data: where a planner begins its search.
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    @property
    def dim(self) -> int:
        """``A``."""
        return len(self.low)


@dataclass
class WorldModelConfig:
    """Everything that determines a world model's shape."""

    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    head: TokenHeadConfig = field(default_factory=TokenHeadConfig)
    dynamics: MLPDynamicsConfig = field(default_factory=MLPDynamicsConfig)
    actions: ActionSpec = field(default_factory=ActionSpec)
    #: The environment that the data came from.
    env_id: str = ""
    #: Environment steps per second of the data; 0 if it does not say.
    fps: float = 0.0


class WorldModel(nn.Module):
    """``encode`` frames to latents, ``rollout`` plans from them. A latent is ``(N=1, Z)`` per step."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VideoEncoder(config.encoder)
        self.head = TokenHead(config.head, self.encoder.tokens_per_step, self.encoder.width)
        actions = config.actions
        self.dynamics = MLPDynamics(config.dynamics, 1, config.head.width, actions.per_step, actions.dim)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents of frames: ``(E, C, H, W)`` to ``(E, N, Z)``, or ``(B, T, C, H, W)`` to ``(B, T, N, Z)``."""
        steps = frames if frames.ndim == 5 else frames[:, None]
        latents = self.head(self.encoder.encode_steps(steps))
        return latents if frames.ndim == 5 else latents[:, 0]

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The next latents ``(B, T, N, Z)`` after each of ``latents (B, T, N, Z)`` and ``actions (B, T, K, A)``."""
        return self.dynamics(latents, actions)

    def rollout(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        """Imagined latents ``(E, S, L, N, Z)`` after each action of each plan; see ``worldmodel.models.dynamics``.

        Gradients flow to the plans where they ask for them.
        """
        return self.dynamics.rollout(context, past_actions, plans)

    def save(self, path: str | Path, card: str = "") -> None:
        """Write a model directory.

        Raises:
            OSError: The disk is full or not writable.
        """
        parts = {"encoder": self.encoder, "head": self.head, "dynamics": self.dynamics}
        save_parts(Path(path), "world_model", asdict(self.config), parts, card)

    @classmethod
    def load(cls, path: str | Path) -> "WorldModel":
        """Read a model directory, in evaluation mode.

        Raises:
            FileNotFoundError: There is no model, or a part is missing.
            ValueError: It is of another kind, version or shape, or damaged.
        """
        model = cls(_config(read_config(Path(path), "world_model"), f"{path}/config.json"))
        for name, part in (("encoder", model.encoder), ("head", model.head), ("dynamics", model.dynamics)):
            load_part(Path(path), name, part)
        return model.eval()


def _config(values: dict[str, Any], source: str) -> WorldModelConfig:
    values = {key: value for key, value in values.items() if key not in ("format_version", "kind", "parts")}
    config = from_dict(WorldModelConfig, values, source)
    return replace(
        config,
        encoder=from_dict(VideoEncoderConfig, values["encoder"], source),
        head=from_dict(TokenHeadConfig, values["head"], source),
        dynamics=from_dict(MLPDynamicsConfig, values["dynamics"], source),
        actions=from_dict(ActionSpec, values["actions"], source),
    )
