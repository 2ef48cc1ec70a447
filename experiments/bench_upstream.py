"""Training steps against V-JEPA 2's own modules: same weights, clips, masks and number type, taken in turns.

Part of `worldmodel bench what=[upstream] upstream=PATH`, with the checkout of facebookresearch/vjepa2 at PATH.

A step is the target encoder on whole clips, then for each mask the context encoder and the predictor, the loss and
the backward pass; no optimiser, no data loading. Upstream gets clips that are normalised already, ours normalises
them itself. Outputs and gradients are compared before anything is timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.interop.official import encoder_rules, predictor_rules
from worldmodel.interop.tensors import write_all
from worldmodel.masks import Mask, MaskConfig, draw_masks
from worldmodel.models.flops import training_flops
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.nn.patches import gather_tokens

#: V-JEPA's short-range and long-range masks.
MASKS = {
    "short": MaskConfig(kind="blocks"),
    "long": MaskConfig(kind="blocks", blocks=2, scale_min=0.7, scale_max=0.7),
}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Side:
    """One implementation: its networks, and what a step gives."""

    modules: tuple[nn.Module, ...]
    #: Targets, then context tokens and predictions for each mask.
    outputs: Callable[[], list[Tensor]]


def compare(
    path: str,
    encoder: VideoEncoderConfig,
    predictor: MaskedPredictorConfig,
    batch_size: int,
    device: str,
    precision: str,
    repeats: int,
) -> dict[str, float]:
    """Check that both give the same, then time them in turns.

    Raises:
        ValueError: ``path`` is no checkout of vjepa2, or the outputs differ.
    """
    torch.manual_seed(0)
    sizes = (
        replace(encoder, positions="rope_compat", drop_path=0.0),
        replace(predictor, positions="rope_compat", drop_path=0.0),
    )
    ours = _networks(*sizes, device)
    clip = torch.randint(
        0, 256, (batch_size, encoder.frames, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8
    ).to(device)
    drawn = draw_masks(MASKS, encoder.grid, 0, range(batch_size))
    masks = [Mask(mask.context.to(device), mask.target.to(device)) for mask in drawn]
    with upstream_modules(path) as (vision, narrow):
        theirs = _their_networks(vision, narrow, *sizes, ours, device)
    sides = (
        Side(ours, partial(_our_outputs, *ours, clip, masks)),
        Side(theirs, partial(_their_outputs, *theirs, _normalised(clip, encoder), masks)),
    )
    figures = {f"upstream: {name}": value for name, value in _differences(sides, masks).items()}
    worst = figures["upstream: largest difference of outputs"]
    if not worst <= TOLERANCE:
        raise ValueError(
            f"outputs differ from upstream's by {worst:.2e}, more than {TOLERANCE}; nothing was timed"
        )

    seconds, busy = _times(sides, masks, device, precision, repeats)
    mine, other = (statistics.median(row) for row in seconds)
    ratios = sorted(b / a for a, b in zip(*seconds, strict=True))
    flops = batch_size * training_flops(*sizes, [(m.context.shape[1], m.target.shape[1]) for m in masks])
    rate = matmul_rate(
        encoder.width, batch_size * encoder.grid.steps * ours[0].tokens_per_step, device, precision
    )
    return figures | {
        "upstream: clips/s, theirs": batch_size / other,
        "upstream: clips/s, ours": batch_size / mine,
        "upstream: ours is faster by": other / mine,
        "upstream: least of the pairs": ratios[0],
        "upstream: most of the pairs": ratios[-1],
        # Beside other programs the clock says little; processor time still compares the two.
        "upstream: ours takes less processor time by": statistics.median(busy[1])
        / statistics.median(busy[0]),
        "upstream: matmul rate, GFLOP/s": rate / 1e9,
        "upstream: % of the matmul rate, theirs": 100 * flops / other / rate,
        "upstream: % of the matmul rate, ours": 100 * flops / mine / rate,
    }


@contextmanager
def upstream_modules(path: str) -> Iterator[tuple[ModuleType, ModuleType]]:
    """Upstream's encoder and predictor modules, imported from a checkout; ``src`` is forgotten afterwards.

    Raises:
        ValueError: It is no checkout of vjepa2.
    """
    root = Path(path).expanduser().resolve()
    if not (root / "src/models/vision_transformer.py").is_file():
        raise ValueError(
            f"upstream={path} is no checkout of facebookresearch/vjepa2 (it has no src/models/vision_transformer.py)"
        )
    sys.path.insert(0, str(root))
    stood_in = _stand_in()
    if stood_in:
        print(
            f"{', '.join(stood_in)} not installed: a stand-in takes the place of what upstream imports, and calls not"
        )
    try:
        yield (
            importlib.import_module("src.models.vision_transformer"),
            importlib.import_module("src.models.predictor"),
        )
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("src", *stood_in)]:
            del sys.modules[name]


def _stand_in() -> list[str]:
    """Empty modules for the libraries that upstream's models import without a call in this benchmark."""
    missing = []
    for library, module, name in (
        ("timm", "timm.models.layers", "drop_path"),
        ("einops", "einops", "rearrange"),
    ):
        if importlib.util.find_spec(library) is None:
            missing.append(library)
            parts = module.split(".")
            for i in range(len(parts)):
                sys.modules[".".join(parts[: i + 1])] = ModuleType(".".join(parts[: i + 1]))
            setattr(sys.modules[module], name, None)
    return missing


def matmul_rate(width: int, tokens: int, device: str, precision: str) -> float:
    """Operations per second of the best of several products of the shape of an MLP's, in the step's number type."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (
        torch.randn(tokens, width, device=device, dtype=dtype),
        torch.randn(width, 4 * width, device=device, dtype=dtype),
    )
    best = min(_seconds(lambda: a @ b, device) for _ in range(20))
    return 2 * tokens * width * 4 * width / best


def _networks(
    encoder: VideoEncoderConfig, predictor: MaskedPredictorConfig, device: str
) -> tuple[VideoEncoder, VideoEncoder, MaskedPredictor]:
    """Context encoder, target encoder, predictor."""
    context, target = VideoEncoder(encoder), VideoEncoder(encoder)
    narrow = MaskedPredictor(predictor, context.grid, context.width)
    with torch.no_grad():
        # Fresh mask tokens are zeros, all alike.
        narrow.mask_tokens.normal_(std=0.02)
    return context.to(device), target.requires_grad_(False).to(device), narrow.to(device)


def _their_networks(
    vision: ModuleType,
    narrow: ModuleType,
    encoder: VideoEncoderConfig,
    predictor: MaskedPredictorConfig,
    ours: tuple[VideoEncoder, VideoEncoder, MaskedPredictor],
    device: str,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Upstream's modules with our weights."""
    shared: dict[str, Any] = {
        "img_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "num_frames": encoder.frames,
        "tubelet_size": encoder.tubelet,
        "qkv_bias": True,
        "use_rope": True,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }
    modules: list[nn.Module] = []
    for mine in ours[:2]:
        module = vision.VisionTransformer(
            embed_dim=encoder.width,
            depth=encoder.depth,
            num_heads=encoder.heads,
            mlp_ratio=encoder.mlp_ratio,
            **shared,
        )
        module.load_state_dict(write_all(mine, encoder_rules(mine)), strict=True)
        modules.append(module.to(device))
    modules[1].requires_grad_(False)
    module = narrow.VisionTransformerPredictor(
        embed_dim=encoder.width,
        predictor_embed_dim=predictor.width,
        depth=predictor.depth,
        num_heads=predictor.heads,
        mlp_ratio=predictor.mlp_ratio,
        use_mask_tokens=True,
        num_mask_tokens=predictor.mask_tokens,
        **shared,
    )
    module.load_state_dict(write_all(ours[2], predictor_rules(ours[2])), strict=True)
    return modules[0], modules[1], module.to(device)


def _normalised(clip: Tensor, config: VideoEncoderConfig) -> Tensor:
    """``(B, C, T, H, W)`` float32, as upstream's data loader gives it."""
    mean, std = (
        torch.tensor(row, device=clip.device)[:, None, None] for row in (config.pixel_mean, config.pixel_std)
    )
    return ((clip / 255 - mean) / std).transpose(1, 2).contiguous()


def _our_outputs(
    context: VideoEncoder,
    target: VideoEncoder,
    predictor: MaskedPredictor,
    clip: Tensor,
    masks: Sequence[Mask],
) -> list[Tensor]:
    with torch.no_grad():
        outputs = [_targets(target.encode(clip).flatten(1, 2))]
    for index, mask in enumerate(masks):
        seen = context.encode(clip, keep=mask.context)
        outputs += [seen, predictor(seen, mask.context, mask.target, mask_index=index)]
    return outputs


def _their_outputs(
    context: nn.Module, target: nn.Module, predictor: nn.Module, clip: Tensor, masks: Sequence[Mask]
) -> list[Tensor]:
    with torch.no_grad():
        outputs = [_targets(target(clip))]
    for index, mask in enumerate(masks):
        seen = context(clip, masks=mask.context)
        outputs += [seen, predictor(seen, mask.context, mask.target, mask_index=index)]
    return outputs


def _targets(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:])


def _loss(outputs: list[Tensor], masks: Sequence[Mask]) -> Tensor:
    losses = [
        F.l1_loss(predicted.float(), gather_tokens(outputs[0], mask.target).float())
        for predicted, mask in zip(outputs[2::2], masks, strict=True)
    ]
    return torch.stack(losses).mean()


def _differences(sides: tuple[Side, Side], masks: Sequence[Mask]) -> dict[str, float]:
    """Largest differences in float32: of all outputs, and of a gradient that has come all the way, relatively."""
    outputs = [side.outputs() for side in sides]
    gradients = []
    for side, values in zip(sides, outputs, strict=True):
        _loss(values, masks).backward()
        gradient = side.modules[0].get_parameter("blocks.0.attn.qkv.weight").grad
        assert gradient is not None
        gradients.append(gradient)
    difference = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
    return {
        "largest difference of outputs": max(
            (a - b).abs().max().item() for a, b in zip(*outputs, strict=True)
        ),
        "largest relative difference of gradients": difference.item(),
    }


def _times(
    sides: tuple[Side, Side], masks: Sequence[Mask], device: str, precision: str, repeats: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds of each step by the clock and of the processor, the two implementations in turns."""

    def step(side: Side) -> None:
        for module in side.modules:
            module.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = _loss(side.outputs(), masks)
        loss.backward()

    seconds: list[list[float]] = [[], []]
    busy: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for i, side in enumerate(sides):
            before = time.process_time()
            took = _seconds(partial(step, side), device)
            if turn:  # the first warms up
                seconds[i].append(took)
                busy[i].append(time.process_time() - before)
    return seconds, busy


def _seconds(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
