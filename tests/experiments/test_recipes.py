"""Every recipe's numbers against the papers' own, and that it could be run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.pretrain import SCHEMAS, Config
from experiments.settings import compose_settings
from worldmodel.masks import token_counts
from worldmodel.models.flops import parameter_count
from worldmodel.models.masked_predictor import MaskedPredictor
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.build import build_objective
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction
from worldmodel.objectives.masked_pixels import MaskedPixelsConfig
from worldmodel.training.rates import learning_rate, weight_decay

RECIPES = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "configs" / "recipe").glob("*.yaml")
    if path.stem != "none"
)
#: Millions of parameters of facebookresearch/jepa's and vjepa2's encoders (the ViT-g is vit_giant_xformers) and
#: predictors, counted on the modules themselves; the ViT-B's is the same module's at that size.
ENCODERS = {"vitb16": 86.2, "vitl16": 303.9, "vith16": 631.6, "vitg16": 1012.2}
PREDICTORS = {"vitl16": 22.1, "vith16": 22.3, "vitg16": 22.4}


@dataclass(frozen=True)
class Numbers:
    """What one row of the papers' configurations says.

    Attributes:
        batch, steps: Clips per step, and steps: epochs x 300.
        frames, size: Of a clip.
        sampling: Every so many frames (stride), or frames per second (fps).
        positions, heads: Of the encoder, and of the predictor.
        lr: At the first step, at its highest, and at the last step.
        warmup: Steps before the highest learning rate.
        decay: Weight decay at the first and the last step.
        ema: The target encoder's momentum at the beginning and after the last step.
        clip: Largest norm of the gradient; 0 for none.
    """

    batch: int
    steps: int
    frames: int
    size: int
    sampling: tuple[str, float]
    positions: str
    heads: int
    lr: tuple[float, float, float]
    warmup: int
    decay: tuple[float, float]
    ema: tuple[float, float]
    clip: float


#: facebookresearch/jepa, configs/pretrain/{vitl16,vith16,vith16_384}.yaml. Schedules are laid out for 1.25 times the
#: training (ipe_scale) and cut off: the final learning rate of 1e-6, weight decay of 0.4 and momentum of 1.0 are never
#: reached. The last values are what its code gives.
VJEPA: dict[str, Any] = {
    "steps": 300 * 300, "frames": 16, "sampling": ("stride", 4), "positions": "sincos", "heads": 16,
    "lr": (2e-4, 6.25e-4, 7.5e-5), "warmup": 40 * 300, "decay": (0.04, 0.366), "ema": (0.998, 0.9996), "clip": 10.0,
}  # fmt: skip
#: facebookresearch/vjepa2, configs/train/vit*16/pretrain-256px-16f.yaml. Steps are the ViT-g's; the other two stop
#: inside the warm-up.
VJEPA2: dict[str, Any] = {
    "batch": 3072, "sampling": ("fps", 4), "positions": "rope", "heads": 12, "decay": (0.04, 0.04),
    "ema": (0.99925, 0.99925), "clip": 0.0,
}  # fmt: skip
FIRST: dict[str, Any] = {
    **VJEPA2, "steps": 800 * 300, "frames": 16, "size": 256, "lr": (1e-4, 5.25e-4, 5.25e-4), "warmup": 40 * 300,
}  # fmt: skip
#: The same, cooldown-256px-64f.yaml and cooldown-384px-64f.yaml: linear to 1e-6, cut off as above at 1.06e-4.
COOLDOWN: dict[str, Any] = {
    **VJEPA2, "steps": 40 * 300, "frames": 64, "lr": (5.25e-4, 5.25e-4, 1.06e-4), "warmup": 0,
}  # fmt: skip
PUBLISHED = {
    "vjepa_vitl16": Numbers(batch=24 * 128, size=224, **VJEPA),
    "vjepa_vith16": Numbers(batch=24 * 128, size=224, **VJEPA),
    "vjepa_vith16_384": Numbers(batch=10 * 240, size=384, **VJEPA),
    "vjepa2_vitl16": Numbers(**FIRST),
    "vjepa2_vith16": Numbers(**FIRST),
    "vjepa2_vitg16": Numbers(**FIRST),
    "vjepa2_cooldown_vitl16": Numbers(size=256, **COOLDOWN),
    "vjepa2_cooldown_vith16": Numbers(size=256, **COOLDOWN),
    "vjepa2_cooldown_vitg16": Numbers(size=256, **COOLDOWN),
    "vjepa2_cooldown_vitg16_384": Numbers(size=384, **COOLDOWN),
}
#: Share of the tokens that V-JEPA's masks leave to see, measured on the collator's masks before they are cut to the
#: batch's smallest: 60 batches each, by (size, frames).
SEEN = {
    (224, 16): (0.365, 0.189), (256, 16): (0.384, 0.192), (256, 64): (0.388, 0.187), (384, 64): (0.388, 0.196),
    (384, 16): (0.388, 0.196),  # not measured: as with 64 frames, for time does not matter
}  # fmt: skip


@cache
def compose(recipe: str, *overrides: str) -> Config:
    settings = compose_settings(
        "pretrain", Config, ["data=x", f"recipe={recipe}", *overrides], schemas=SCHEMAS
    )
    config = settings.to_object()
    assert isinstance(config, Config)
    return config


def rate(config: Config, step: int) -> float:
    return learning_rate(config.loop, step)


def test_no_recipe_is_left_out() -> None:
    assert set(PUBLISHED) | {"videomae_vitb16", "one_gpu", "cpu"} == set(RECIPES)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_papers_numbers(recipe: str) -> None:
    config, wanted = compose(recipe), PUBLISHED[recipe]
    loop, encoder = config.loop, config.encoder
    assert (loop.batch_size, loop.steps, loop.clip_norm) == (wanted.batch, wanted.steps, wanted.clip)
    assert (encoder.frames, encoder.image_size) == (wanted.frames, wanted.size)
    assert (encoder.patch_size, encoder.tubelet, encoder.mlp, encoder.drop_path) == (16, 2, "gelu", 0.0)
    assert (encoder.pixel_mean, encoder.pixel_std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    name, value = wanted.sampling
    assert getattr(config.corpus, name) == value and (name == "stride" or not config.corpus.stride)
    assert (config.corpus.frames, config.corpus.size) == (wanted.frames, wanted.size)
    assert (config.corpus.crop_scale, config.corpus.crop_ratio, config.flip) == (
        [0.3, 1.0],
        [0.75, 1.35],
        0.5,
    )
    assert encoder.positions == config.predictor.positions == wanted.positions
    predictor = config.predictor
    assert (predictor.width, predictor.depth, predictor.heads, predictor.mlp_ratio) == (
        384,
        12,
        wanted.heads,
        4,
    )
    assert predictor.mask_tokens == 2, "one for each of the two masks"
    assert (loop.betas, loop.eps, loop.precision) == ([0.9, 0.999], 1e-8, "bf16")

    last = loop.steps - 1
    first, highest, end = wanted.lr
    assert rate(config, 0) == pytest.approx(first, rel=1e-3)
    assert rate(config, max(0, wanted.warmup - 1)) == pytest.approx(highest)
    assert rate(config, wanted.warmup // 2) == pytest.approx((first + highest) / 2, rel=1e-3)
    assert rate(config, last) == pytest.approx(end, rel=0.01)
    rates = [rate(config, step) for step in range(wanted.warmup, loop.steps, 997)]
    assert rates == sorted(rates, reverse=True), "never up again"
    assert weight_decay(loop, 0) == pytest.approx(wanted.decay[0])
    assert weight_decay(loop, last) == pytest.approx(wanted.decay[1], abs=5e-4)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_papers_networks_objective_and_masks(recipe: str) -> None:
    config, wanted = compose(recipe), PUBLISHED[recipe]
    assert config.objective == MaskedLatentConfig(ema_start=wanted.ema[0], ema_end=config.objective.ema_end)  # type: ignore[attr-defined]
    with torch.device("meta"):
        objective = build_objective(config.objective, VideoEncoder(config.encoder), config.predictor)
    assert isinstance(objective, MaskedLatentPrediction)
    assert objective.config.loss == "l1" and objective.config.target_norm == "layer"
    begin, end = objective.momentum(0.0), objective.momentum(1 / config.loop.stretch)
    assert (begin, end) == pytest.approx(wanted.ema, abs=1e-7)
    size = next(name for name in ENCODERS if name in recipe)
    assert parameter_count(objective.encoder) / 1e6 == pytest.approx(ENCODERS[size], abs=0.06)
    assert isinstance(objective.predictor, MaskedPredictor)
    assert parameter_count(objective.predictor) / 1e6 == pytest.approx(PREDICTORS[size], abs=0.06)
    if size == "vitg16":
        hidden = objective.encoder.get_parameter("blocks.0.mlp.fc1.weight")
        assert (config.encoder.heads, hidden.shape) == (22, (6144, 1408))

    assert list(config.mask) == ["short", "long"]
    short, long = config.mask.values()
    for mask, blocks, scale in ((short, 8, 0.15), (long, 2, 0.7)):
        assert (mask.kind, mask.blocks, mask.collate) == ("blocks", blocks, "exact")
        assert mask.scale_min == mask.scale_max == scale
        assert (mask.aspect_min, mask.aspect_max, mask.temporal_min, mask.max_temporal_keep) == (
            0.75,
            1.5,
            1,
            1,
        )
    grid = config.encoder.grid
    for mask, share in zip((short, long), SEEN[wanted.size, wanted.frames], strict=True):
        context, target = token_counts(mask, grid)
        assert context + target == grid.steps * grid.rows * grid.columns
        assert context / (context + target) == pytest.approx(share, abs=0.02)


def test_videomae() -> None:
    """2203.12602 and MCG-NJU/VideoMAE: scripts/kinetics/videomae_vit_base_patch16_224_..., masking_generator.py."""
    config = compose("videomae_vitb16")
    loop = config.loop
    assert config.objective == MaskedPixelsConfig(loss="l2", normalise=True)
    assert (config.encoder.frames, config.encoder.image_size, config.corpus.stride, config.flip) == (
        16,
        224,
        4,
        0.0,
    )
    assert (loop.betas, loop.clip_norm) == ([0.9, 0.95], 0.0)
    assert loop.steps == 800 * 240_000 // loop.batch_size, "epochs of Kinetics-400"
    assert rate(config, round(40 / 800 * loop.steps) - 1) == pytest.approx(1.5e-4 * loop.batch_size / 256)
    assert rate(config, loop.steps - 1) == pytest.approx(1e-5 * loop.batch_size / 256, rel=1e-3)
    assert weight_decay(loop, 0) == weight_decay(loop, loop.steps - 1) == 0.05
    assert token_counts(config.mask["tube"], config.encoder.grid) == (160, 1568 - 160)
    assert (config.predictor.width, config.predictor.depth, config.predictor.heads) == (384, 4, 6)
    with torch.device("meta"):
        objective = build_objective(config.objective, VideoEncoder(config.encoder), config.predictor)
    parts = objective.parts()
    assert parameter_count(parts["encoder"]) / 1e6 == pytest.approx(ENCODERS["vitb16"], abs=0.06)
    assert parts["decoder"].get_parameter("proj.weight").shape == (2 * 16 * 16 * 3, 384)


def test_small_recipes_are_as_small_as_the_page_says() -> None:
    millions = {}
    for recipe in ("one_gpu", "cpu"):
        config = compose(recipe)
        with torch.device("meta"):
            millions[recipe] = parameter_count(VideoEncoder(config.encoder)) / 1e6
    assert millions == {"one_gpu": pytest.approx(21.9, abs=0.3), "cpu": pytest.approx(0.9, abs=0.15)}
    assert compose("one_gpu").loop.batch_size == 256 and compose("cpu").encoder.image_size == 64


@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {*PUBLISHED}))
def test_other_recipes_masks_are_possible_and_their_batches_can_be_split(recipe: str) -> None:
    config = compose(recipe)
    grid = config.encoder.grid
    for name, mask in config.mask.items():
        context, target = token_counts(mask, grid, name)
        assert context > 0 and target > 0 and context + target == grid.steps * grid.rows * grid.columns
    assert config.loop.batch_size % config.loop.accumulate == 0


def test_what_the_command_line_says_counts_more_than_the_recipe() -> None:
    config = compose(
        "vjepa2_vitl16", "loop.lr=1e-3", "encoder.image_size=128", "mask=short", "encoder=vit_small"
    )
    assert (config.loop.lr, config.encoder.image_size, list(config.mask)) == (1e-3, 128, ["short"])
    assert config.encoder.width == 384 and config.corpus.size == 128
    assert config.loop.batch_size == 3072
