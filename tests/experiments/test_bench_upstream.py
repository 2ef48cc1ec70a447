"""The comparison with upstream, on a stand-in for its checkout whose modules wrap ours."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from experiments.cli import main

#: Upstream's signatures; what it computes is ours, so that the comparison has something to agree with.
MODULE = """
import torch
from torch import nn
from einops import rearrange
from timm.models.layers import drop_path
from worldmodel.interop.official import encoder_rules, predictor_rules
from worldmodel.interop.tensors import fill
from worldmodel.masks import Grid
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig


class VisionTransformer(nn.Module):
    def __init__(self, img_size, patch_size, num_frames, tubelet_size, embed_dim, depth, num_heads, mlp_ratio, **rest):
        super().__init__()
        self.net = VideoEncoder(VideoEncoderConfig(
            image_size=img_size, frames=num_frames, patch_size=patch_size, tubelet=tubelet_size, width=embed_dim,
            depth=depth, heads=num_heads, mlp_ratio=mlp_ratio, positions="rope_compat",
            pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3))
        self.blocks = self.net.blocks

    def load_state_dict(self, tensors, strict):
        fill(self.net, encoder_rules(self.net), tensors, "").check()

    def forward(self, x, masks=None):
        tokens = self.net.encode(x.transpose(1, 2), keep=masks)
        return (tokens if masks is not None else tokens.flatten(1, 2)) + OFFSET


class VisionTransformerPredictor(nn.Module):
    def __init__(self, img_size, patch_size, num_frames, tubelet_size, embed_dim, predictor_embed_dim, depth, num_heads,
                 mlp_ratio, num_mask_tokens, **rest):
        super().__init__()
        side = img_size // patch_size
        self.net = MaskedPredictor(MaskedPredictorConfig(
            width=predictor_embed_dim, depth=depth, heads=num_heads, mlp_ratio=mlp_ratio, positions="rope_compat",
            mask_tokens=num_mask_tokens), Grid(num_frames // tubelet_size, side, side), embed_dim)

    def load_state_dict(self, tensors, strict):
        fill(self.net, predictor_rules(self.net), tensors, "").check()

    def forward(self, x, masks_x, masks_y, mask_index):
        return self.net(x, masks_x, masks_y, mask_index)
"""


def checkout(path: Path, offset: float) -> Path:
    (path / "src/models").mkdir(parents=True)
    for name in ("vision_transformer", "predictor"):
        (path / f"src/models/{name}.py").write_text(dedent(MODULE).replace("OFFSET", str(offset)))
    return path


SMALL = [
    "what=[upstream]",
    "encoder.image_size=32",
    "encoder.depth=1",
    "predictor.depth=1",
    "batch_size=2",
    "repeats=1",
]


def test_figures_of_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.path)
    small = [*SMALL, "encoder.patch_size=8"]
    assert main(["bench", *small, f"upstream={checkout(tmp_path / 'good', 0.0)}"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "largest difference of outputs",
        "clips/s, theirs",
        "ours is faster by",
        "% of the matmul rate, ours",
    ):
        assert text in printed
    assert sys.path == before
    assert "src.models.predictor" not in sys.modules

    assert main(["bench", *small, f"upstream={checkout(tmp_path / 'other', 0.01)}"]) == 2
    assert "outputs differ from upstream's by 1.00e-02" in capsys.readouterr().err


def test_bad_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for settings, message in (
        ([*SMALL], "needs a checkout"),
        ([*SMALL, f"upstream={tmp_path}"], "is no checkout of facebookresearch/vjepa2"),
        (["precision=fp16"], "precision='fp16' is unknown"),
    ):
        assert main(["bench", *settings]) == 2
        assert message in capsys.readouterr().err
