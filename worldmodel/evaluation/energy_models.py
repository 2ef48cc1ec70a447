"""The networks of an energy: a model directory's, or the same architectures with random weights as the control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from worldmodel.masks import MaskConfig, token_counts
from worldmodel.models.files import directory_hash, from_dict, read_config
from worldmodel.models.masked_predictor import MaskedPredictor
from worldmodel.models.pretrained import KIND, PARTS, load_encoder, load_predictor
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.seeding import keyed_rng


@dataclass(frozen=True)
class Pretrained:
    """Encoders and predictor, in evaluation mode, and how they were trained.

    Attributes:
        encoder: The context encoder (student).
        target_encoder: The EMA encoder; None where pretraining had none.
        identity: Names the weights.
        pretraining: The model directory's ``config.json``.
    """

    encoder: VideoEncoder
    predictor: MaskedPredictor
    target_encoder: VideoEncoder | None
    identity: str
    pretraining: Mapping[str, Any]

    @property
    def fps(self) -> float:
        """Frames per second of the clips of the pretraining; 0: the model does not say."""
        return float(self.pretraining.get("fps") or 0.0)

    @property
    def objective(self) -> Mapping[str, Any]:
        """The objective's settings; empty: the model does not say."""
        found = self.pretraining.get("objective_settings")
        return found if isinstance(found, Mapping) else {}

    @property
    def future(self) -> tuple[int, int] | None:
        """Place of the first mask of kind ``future`` in pretraining, and the steps it shows; None: there was none.

        Raises:
            ValueError: ``config.json`` has masks that this version does not know.
        """
        grid = self.encoder.grid
        for place, (name, values) in enumerate((self.pretraining.get("mask") or {}).items()):
            mask = from_dict(MaskConfig, dict(values), f"mask.{name} of the model's config.json")
            if mask.kind == "future":
                return place, token_counts(mask, grid)[0] // (grid.rows * grid.columns)
        return None


def open_pretrained(path: str | Path) -> Pretrained:
    """The networks of a model directory.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It has no predictor of features, or does not fit this version.
    """
    path = Path(path).expanduser()
    config = read_config(path, KIND)
    parts = config.get("parts", [])
    if "predictor" not in parts:
        raise ValueError(
            f"{path} has no predictor, only {', '.join(parts)}: an energy is a predictor's error; pretrain with "
            "objective=vjepa and objective.predictor=transformer"
        )
    target = load_encoder(path, "ema") if PARTS["ema"] in parts else None
    return Pretrained(
        load_encoder(path, "student"), load_predictor(path), target, directory_hash(path), config
    )


def untrained(other: Pretrained, seed: int) -> Pretrained:
    """The same architectures with the weights that training would have begun with; the targets are the encoder's."""
    size = other.encoder.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed_rng("untrained encoder", seed).integers(2**31)))
        encoder = VideoEncoder(size)
        predictor = MaskedPredictor(other.predictor.config, encoder.grid, encoder.width)
    return replace(other, encoder=encoder.eval(), predictor=predictor.eval(), target_encoder=None)
