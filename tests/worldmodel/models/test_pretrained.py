"""Pretrained encoders on disk."""

from __future__ import annotations

from dataclasses import asdict
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
