"""The encoders that probes read: a model directory's, or the same architecture with random weights as the control."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from worldmodel.atomic import read_json
from worldmodel.models.files import directory_hash
from worldmodel.models.pretrained import load_encoder, which_weights
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.models.world_model import WorldModel
from worldmodel.seeding import keyed_rng


@dataclass
class NamedEncoder:
    """A frozen encoder, with a name for its exact weights.

    Attributes:
        name: ``pretrained`` or ``untrained``.
        weights: Which weights: ``ema``, ``student``, or how they were drawn.
        identity: Names the weights; features cached under another identity are not used.
        fps: Frames per second of the clips that it was pretrained on; 0 where the model does not say.
        path: Its model directory; empty for random weights.
        pretraining: The model directory's ``config.json``.
    """

    name: str
    encoder: VideoEncoder
    weights: str
    identity: str
    fps: float = 0.0
    path: str = ""
    pretraining: dict[str, Any] = field(default_factory=dict)


def open_encoder(path: str | Path, weights: str = "auto") -> NamedEncoder:
    """The encoder of a model directory: a pretrained encoder, or that of a world model.

    Args:
        weights: ``ema`` (target encoder), ``student`` (context encoder) or ``auto``: EMA where the model has it. A
            world model has one set only.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: The directory holds something else, or does not fit this version.
    """
    path = Path(path).expanduser()
    identity = directory_hash(path)
    config = read_json(path / "config.json")
    fps = config.get("fps") if isinstance(config.get("fps"), int | float) else 0.0
    if config.get("kind") == "world_model":
        weights, encoder = "world model", WorldModel.load(path).encoder
    else:
        encoder = load_encoder(path, weights)
        weights = which_weights(config, weights, str(path))
    encoder.requires_grad_(False).eval()
    identity = f"{weights} {identity}"
    return NamedEncoder("pretrained", encoder, weights, identity, float(fps or 0.0), str(path), config)


def untrained_like(other: NamedEncoder, seed: int) -> NamedEncoder:
    """The same architecture with the weights that training would have begun with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed_rng("untrained encoder", seed).integers(2**31)))
        encoder = VideoEncoder(other.encoder.config).requires_grad_(False).eval()
    identity = f"random weights, seed {seed}: {other.encoder.config}"
    return NamedEncoder("untrained", encoder, f"random, seed {seed}", identity, other.fps)
