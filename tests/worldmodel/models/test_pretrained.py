"""Pretrained encoders on disk."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.pretrained import load_encoder, load_predictor, load_weights, save_encoder
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

NARROW = MaskedPredictorConfig(width=24, heads=2)


@pytest.fixture
def parts(tiny_encoder: VideoEncoderConfig) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    student, ema = VideoEncoder(tiny_encoder), VideoEncoder(tiny_encoder)
    return {"encoder": student, "target_encoder": ema,
            "predictor": MaskedPredictor(NARROW, student.grid, student.width)}  # fmt: skip


def settings(size: VideoEncoderConfig) -> dict[str, object]:
    return {"encoder": asdict(size), "predictor": asdict(NARROW)}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_student_and_ema_weights_are_kept_apart(
    parts: dict[str, nn.Module], tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    save_encoder(tmp_path, parts, settings(tiny_encoder), "")
    assert same(load_encoder(tmp_path), parts["target_encoder"])
    assert same(load_encoder(tmp_path, "ema"), parts["target_encoder"])
    assert same(load_encoder(tmp_path, "student"), parts["encoder"])
    assert same(load_predictor(tmp_path), parts["predictor"])
    with pytest.raises(ValueError, match="weights='best' is unknown"):
        load_encoder(tmp_path, "best")


def test_a_model_without_ema_weights_gives_its_only_ones(
    parts: dict[str, nn.Module], tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    save_encoder(tmp_path, {"encoder": parts["encoder"]}, settings(tiny_encoder), "")
    assert same(load_encoder(tmp_path), parts["encoder"])
    with pytest.raises(ValueError, match="no EMA weights; use student"):
        load_encoder(tmp_path, "ema")
    with pytest.raises(FileNotFoundError, match="has no part predictor"):
        load_predictor(tmp_path)


def test_weights_go_into_longer_clips_and_nowhere_else(
    parts: dict[str, nn.Module], tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    save_encoder(tmp_path, parts, settings(tiny_encoder), "")
    longer = VideoEncoder(VideoEncoderConfig(**{**asdict(tiny_encoder), "frames": 2 * tiny_encoder.frames}))
    load_weights(tmp_path, {"encoder": longer})
    assert same(longer, parts["encoder"])
    wider = VideoEncoder(VideoEncoderConfig(**{**asdict(tiny_encoder), "width": 2 * tiny_encoder.width}))
    with pytest.raises(ValueError, match="instead of"):
        load_weights(tmp_path, {"encoder": wider})
    with pytest.raises(FileNotFoundError, match="has no part decoder"):
        load_weights(tmp_path, {"decoder": longer})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("encoder", {"positions": "rope_compat"}, "trained with encoder.positions=rope, not rope_compat"),
        ("encoder", {"heads": 1}, "trained with encoder.heads=2, not 1"),
        ("encoder", {"pixel_mean": [0.5, 0.5, 0.5]}, "set encoder.pixel_mean"),
        ("predictor", {"positions": "rope_compat"}, "trained with predictor.positions=rope, not rope_compat"),
    ],
)
def test_weights_do_not_go_into_a_network_that_would_read_them_otherwise(
    parts: dict[str, nn.Module],
    tiny_encoder: VideoEncoderConfig,
    tmp_path: Path,
    part: str,
    change: dict[str, object],
    message: str,
) -> None:
    """Every tensor fits, and the features would be noise: e.g. V-JEPA 2's weights in an encoder with true rotations."""
    size = replace(tiny_encoder, positions="rope", heads=2)
    narrow = replace(NARROW, positions="rope")
    save_encoder(tmp_path, parts, {"encoder": asdict(size), "predictor": asdict(narrow)}, "")
    encoder = VideoEncoder(replace(size, **change) if part == "encoder" else size)  # type: ignore[arg-type]
    other = replace(narrow, **change) if part == "predictor" else narrow  # type: ignore[arg-type]
    network = encoder if part == "encoder" else MaskedPredictor(other, encoder.grid, encoder.width)
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path, {part: network})


@pytest.mark.parametrize("held", ["encoder", "target_encoder"])
def test_one_set_of_weights_begins_both_encoders(
    parts: dict[str, nn.Module], tiny_encoder: VideoEncoderConfig, tmp_path: Path, held: str
) -> None:
    """As a model of Hugging Face's, or one without an EMA, has it."""
    save_encoder(tmp_path, {held: parts[held]}, settings(tiny_encoder), "")
    student, ema = VideoEncoder(tiny_encoder), VideoEncoder(tiny_encoder)
    load_weights(tmp_path, {"encoder": student, "target_encoder": ema})
    assert same(student, parts[held]) and same(ema, parts[held])
