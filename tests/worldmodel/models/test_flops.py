"""Counted operations against torch's own counter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldmodel.models.flops import encoder_flops, parameter_count, predictor_flops, training_flops
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

PREDICTOR = MaskedPredictorConfig(width=24, depth=2, heads=2)


def counted(function: Callable[[], Any]) -> int:
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_forward_passes(tiny_encoder: VideoEncoderConfig, mlp: str) -> None:
    config = replace(tiny_encoder, mlp=mlp)
    encoder, clip = VideoEncoder(config), torch.zeros(1, 4, 3, 32, 32)
    ids = torch.arange(32)[None]
    assert counted(lambda: encoder.encode(clip)) == encoder_flops(config)
    assert counted(lambda: encoder.encode(clip, keep=ids[:, :9])) == encoder_flops(config, 9)

    small = replace(PREDICTOR, mlp=mlp)
    context = torch.zeros(1, 9, 24)
    for output in (None, 100):
        predictor = MaskedPredictor(small, encoder.grid, 24, output)
        flops = counted(partial(predictor, context, ids[:, :9], ids[:, 9:]))
        assert flops == predictor_flops(small, 24, 9, 23, output)


def test_a_training_step(tiny_encoder: VideoEncoderConfig) -> None:
    masks = [(9, 23), (4, 28)]
    forward = sum(encoder_flops(tiny_encoder, k) + predictor_flops(PREDICTOR, 24, k, m) for k, m in masks)
    assert training_flops(tiny_encoder, PREDICTOR, masks) == encoder_flops(tiny_encoder) + 3 * forward
    assert training_flops(tiny_encoder, PREDICTOR, masks, target_encoder=False) == 3 * forward


def test_parameters() -> None:
    net = torch.nn.Linear(3, 4)
    net.bias.requires_grad_(False)
    assert (parameter_count(net), parameter_count(net, trainable=True)) == (16, 12)
