"""Pretrained encoders on disk: a model directory with the networks of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from worldmodel.models.files import from_dict, load_part, read_config, save_parts
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

KIND = "video_encoder"
PARTS = {"ema": "target_encoder", "student": "encoder"}


def save_encoder(path: str | Path, parts: Mapping[str, nn.Module], config: dict[str, Any], card: str) -> None:
    """Write a pretrained encoder: ``encoder`` (student), ``target_encoder`` (EMA), ``predictor`` or others.

    Raises:
        OSError: The disk is full or not writable.
    """
    save_parts(Path(path), KIND, config, parts, card)


def load_encoder(path: str | Path, weights: str = "auto") -> VideoEncoder:
    """Read a pretrained encoder, in evaluation mode.

    Args:
        path: The model directory.
        weights: ``"ema"`` (target encoder), ``"student"`` (the trained one), or ``"auto"``: EMA weights where the model
            has them.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: ``weights`` is unknown or not in the model, or the directory does not hold a video encoder of this
            shape.
    """
    if weights not in ("auto", *PARTS):
        raise ValueError(f"weights={weights!r} is unknown; choose 'auto', 'ema' or 'student'")
    config = read_config(Path(path), KIND)
    part = PARTS[which_weights(config, weights, str(path))]
    encoder = VideoEncoder(from_dict(VideoEncoderConfig, config.get("encoder", {}), f"{path}/config.json"))
    load_part(Path(path), part, encoder)
    return encoder.eval()


def which_weights(config: Mapping[str, Any], weights: str, source: str) -> str:
    """``"ema"`` or ``"student"``: what ``weights`` means for a model with this ``config.json``.

    Raises:
        ValueError: The model has no EMA weights, but they were asked for.
    """
    has_ema = PARTS["ema"] in config.get("parts", [PARTS["ema"]])
    if weights == "ema" and not has_ema:
        raise ValueError(f"{source} has no EMA weights; use student")
    return ("ema" if has_ema else "student") if weights == "auto" else weights


def load_predictor(path: str | Path) -> MaskedPredictor:
    """Read the predictor that was trained with an encoder, in evaluation mode.

    Raises:
        FileNotFoundError: There is no model, or it has no predictor.
        ValueError: It is damaged or of another shape.
    """
    config, source = read_config(Path(path), KIND), f"{path}/config.json"
    encoder = from_dict(VideoEncoderConfig, config.get("encoder", {}), source)
    size = from_dict(MaskedPredictorConfig, config.get("predictor", {}), source)
    predictor = MaskedPredictor(size, encoder.grid, encoder.width)
    load_part(Path(path), "predictor", predictor)
    return predictor.eval()


def load_weights(path: str | Path, parts: Mapping[str, nn.Module]) -> None:
    """Fill the networks of an objective from a model directory, e.g. to go on with longer clips.

    Sizes of frames, and numbers of frames, may differ: positions are no weights. A model with one set of an encoder's
    weights gives them to the context and to the target encoder.

    Raises:
        FileNotFoundError: There is no model, or it lacks one of the parts.
        ValueError: A tensor is missing, unexpected or of another shape; or the weights were trained with other
            positions, heads or pixel statistics, which leave no trace in shapes.
    """
    config = read_config(Path(path), KIND)
    held = config.get("parts", list(parts))
    for name, part in parts.items():
        _check_alike(config, name, part, str(path))
        other = {"encoder": "target_encoder", "target_encoder": "encoder"}.get(name, name)
        try:
            load_part(Path(path), other if name not in held and other in held else name, part)
        except ValueError as error:
            own: dict[str, Any] = {key: config[key] for key in ("encoder", "predictor") if key in config}
            raise ValueError(
                f"{error}; choose the encoder and predictor that it was trained with: {_sizes(own)}"
            ) from error


def _sizes(config: Mapping[str, Any]) -> str:
    """Settings that decide shapes, as one would type them."""
    keys = ("width", "depth", "patch_size", "tubelet", "mlp", "mask_tokens")
    return " ".join(
        f"{part}.{key}={values[key]}"
        for part, values in config.items()
        if isinstance(values, Mapping)
        for key in keys
        if key in values
    )


def _check_alike(config: Mapping[str, Any], name: str, part: nn.Module, source: str) -> None:
    """See that what shapes do not show is as it was trained."""
    key = "encoder" if "encoder" in name else "predictor"
    trained, mine = config.get(key), getattr(part, "config", None)
    for setting in ("positions", "heads", "pixel_mean", "pixel_std"):
        if not isinstance(trained, Mapping) or setting not in trained or not hasattr(mine, setting):
            continue
        if trained[setting] != getattr(mine, setting):
            raise ValueError(
                f"{source} was trained with {key}.{setting}={trained[setting]}, not {getattr(mine, setting)}: its "
                f"weights mean nothing to the other; set {key}.{setting}"
            )
