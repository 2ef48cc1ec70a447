"""A world model: encoder, head and dynamics, with all that is needed to use them on a robot."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldmodel.interop.backbones import BackboneConfig, FrameBackbone
from worldmodel.models.dynamics import DYNAMICS, MLPDynamicsConfig, build_dynamics, kind_of
from worldmodel.models.files import from_dict, load_part, read_config, save_parts
from worldmodel.models.heads import HEADS, ProprioToken, TokenHeadConfig, build_head, head_kind
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

#: Kinds of encoders by the name that model files use.
ENCODERS: dict[str, tuple[type[Any], type[Any]]] = {
    "video_encoder": (VideoEncoderConfig, VideoEncoder),
    "backbone": (BackboneConfig, FrameBackbone),
}
#: Kinds of parts of model directories that were written before they named them.
_FIRST_KINDS = {"encoder": "video_encoder", "head": "token", "dynamics": "mlp"}
#: Settings that a kind did not have at first, with what it did then.
_ADDED: dict[str, dict[str, Any]] = {"mlp": {"context": 1}}


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
    #: Names and units of the dimensions, where the data says them.
    names: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)

    @property
    def dim(self) -> int:
        """``A``."""
        return len(self.low)


@dataclass
class ProprioSpec:
    """The proprioception that a world model was trained with; none if ``dim`` is 0."""

    #: ``Q``.
    dim: int = 0
    #: Names and units of the values, where the data says them.
    names: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)


@dataclass
class WorldModelConfig:
    """Everything that determines a world model's shape."""

    #: Of a kind in ``ENCODERS``.
    encoder: Any = field(default_factory=VideoEncoderConfig)
    #: Of a kind in ``worldmodel.models.heads.HEADS``.
    head: Any = field(default_factory=TokenHeadConfig)
    #: Of a kind in ``worldmodel.models.dynamics.DYNAMICS``.
    dynamics: Any = field(default_factory=MLPDynamicsConfig)
    actions: ActionSpec = field(default_factory=ActionSpec)
    #: The environment that the data came from.
    env_id: str = ""
    #: Environment steps per second of the data; 0 if it does not say.
    fps: float = 0.0
    proprio: ProprioSpec = field(default_factory=ProprioSpec)
    #: Frames that the encoding of a step sees, the step's own included (``VideoEncoder.encode_steps``).
    window: int = 1
    #: More than 1: an ensemble of that many dynamics.
    members: int = 1


class WorldModel(nn.Module):
    """``encode`` frames to latents, ``rollout`` plans from them.

    A latent has ``(N, Z)`` per step; with proprioception its last token is that (see ``ProprioToken``).
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ENCODERS[encoder_kind(config.encoder)][1](config.encoder)
        self.head = build_head(config.head, self.encoder.tokens_per_step, self.encoder.width)
        self.proprio = ProprioToken(config.proprio.dim, self.head.width) if config.proprio.dim else None
        tokens = self.head.tokens + (self.proprio is not None)
        actions = config.actions
        self.dynamics = build_dynamics(
            config.dynamics, tokens, self.head.width, actions.per_step, actions.dim, config.members
        )

    def latents(self, view: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Latents ``(B, T, N, Z)``, with gradient where parameters ask for it.

        Args:
            view: Frames ``(B, T, C, H, W)``, or cached tokens ``(B, T, n, D)`` of this model's encoder.
            proprio: ``(B, T, Q)`` in the data's units, where the model has proprioception.

        Raises:
            ValueError: Proprioception is missing, or not wanted.
        """
        if (proprio is None) != (self.proprio is None):
            names = ", ".join(self.config.proprio.names) or f"{self.config.proprio.dim} values"
            raise ValueError(
                f"this world model sees proprioception ({names}): give it with the frames"
                if proprio is None
                else "this world model was trained without proprioception; give frames only"
            )
        tokens = view if view.ndim == 4 else self.encoder.encode_steps(view, window=self.config.window)
        latents: Tensor = self.head(tokens)
        if self.proprio is None or proprio is None:
            return latents
        return torch.cat([latents, self.proprio(proprio)], dim=2)

    @torch.no_grad()
    def encode(self, frames: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Latents of frames: ``(E, C, H, W)`` to ``(E, N, Z)``, or ``(B, T, C, H, W)`` to ``(B, T, N, Z)``.

        Proprioception is ``(E, Q)`` or ``(B, T, Q)``, where the model has it.

        Raises:
            ValueError: Proprioception is missing, or not wanted.
        """
        if frames.ndim == 5:
            return self.latents(frames, proprio)
        return self.latents(frames[:, None], None if proprio is None else proprio[:, None])[:, 0]

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The next latents ``(B, T, N, Z)`` after each of ``latents (B, T, N, Z)`` and ``actions (B, T, K, A)``."""
        predicted: Tensor = self.dynamics(latents, actions)
        return predicted

    def rollout(
        self, context: Tensor, past_actions: Tensor, plans: Tensor, length: Tensor | None = None
    ) -> Tensor:
        """Imagined latents ``(E, S, L, N, Z)`` after each action of each plan; see ``worldmodel.models.dynamics``.

        Gradients flow to the plans where they ask for them.
        """
        return self.dynamics.rollout(context, past_actions, plans, length)

    @property
    def takes_proprio(self) -> bool:
        """Whether proprioception is part of the latent."""
        return self.proprio is not None

    def parts(self) -> dict[str, nn.Module]:
        """The networks by the names of their files."""
        parts = {"encoder": self.encoder, "head": self.head, "dynamics": self.dynamics}
        return parts if self.proprio is None else {**parts, "proprio": self.proprio}

    def save(self, path: str | Path, card: str = "", facts: dict[str, Any] | None = None) -> None:
        """Write a model directory.

        Args:
            path: The directory; made if there is none.
            card: Text of its README.md.
            facts: What else is to be known of it (data's hash, results), kept in ``config.json``; JSON values.

        Raises:
            OSError: The disk is full or not writable.
        """
        config = asdict(self.config)
        for name, kind in (
            ("encoder", encoder_kind(self.config.encoder)),
            ("head", head_kind(self.config.head)),
            ("dynamics", kind_of(self.config.dynamics)),
        ):
            config[name] = {"kind": kind, **config[name]}
        save_parts(Path(path), "world_model", {**config, "facts": facts or {}}, self.parts(), card)

    @classmethod
    def load(cls, path: str | Path) -> "WorldModel":
        """Read a model directory, in evaluation mode.

        Raises:
            FileNotFoundError: There is no model, or a part is missing.
            ValueError: It is of another kind, version or shape, or damaged.
        """
        model = cls(_config(read_config(Path(path), "world_model"), f"{path}/config.json"))
        for name, part in model.parts().items():
            load_part(Path(path), name, part)
        return model.eval()


def encoder_kind(config: object) -> str:
    """The name of an encoder's configuration.

    Raises:
        ValueError: It configures no encoder.
    """
    for kind, (config_class, _) in ENCODERS.items():
        if type(config) is config_class:
            return kind
    raise ValueError(f"{type(config).__name__} configures no encoder; kinds are {', '.join(ENCODERS)}")


def _config(values: dict[str, Any], source: str) -> WorldModelConfig:
    """The configuration in a model directory's ``config.json``. What the first ones did not have yet is filled in."""
    values = {
        key: value for key, value in values.items() if key not in ("format_version", "kind", "parts", "facts")
    }
    for name, kinds in (("encoder", ENCODERS), ("head", HEADS), ("dynamics", DYNAMICS)):
        if name not in values:
            continue  # which is said below
        part = dict(values[name])
        kind = part.pop("kind", _FIRST_KINDS[name])
        if kind not in kinds:
            raise ValueError(f"{source}: {name} is of kind {kind!r}; this version knows {', '.join(kinds)}")
        values[name] = from_dict(kinds[kind][0], {**_ADDED.get(kind, {}), **part}, f"{source}: {name}")
    actions = {"names": [], "units": [], **(values.get("actions") or {})}
    values["actions"] = from_dict(ActionSpec, actions, f"{source}: actions")
    values["proprio"] = from_dict(
        ProprioSpec, values.get("proprio", asdict(ProprioSpec())), f"{source}: proprio"
    )
    return from_dict(WorldModelConfig, {"window": 1, "members": 1, **values}, source)
