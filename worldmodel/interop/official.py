"""The files that V-JEPA, V-JEPA 2 and V-JEPA 2-AC were released as (and those that their code writes in training).

Which of them a file is, and its sizes, are read off the tensors. Heads leave no trace in shapes: they follow from the
width, or are given by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from worldmodel.interop.official_files import (
    ACPredictorWeights,
    ac_predictor,
    check_table,
    count_blocks,
    is_ac,
    part,
    read_file,
    refuse_2_1,
    weights_of,
)
from worldmodel.interop.tensors import LoadReport, Rule, fill, plain_rules
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.probes import AttentiveProbe, AttentiveProbeConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

FAMILIES = ("vjepa", "vjepa2", "vjepa2-ac")
#: Attention heads by width. ViT-giant and gigantic as they were released; ``vit_giant`` and ``vit_gigantic`` of the
#: code have 16, which is what ``heads`` is for.
HEADS: Mapping[int, int] = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
UNUSED_XATTN = "pooler.cross_attention_block.xattn.proj."


@dataclass(frozen=True)
class OfficialModel:
    """What an official file holds.

    Attributes:
        family: ``"vjepa"``, ``"vjepa2"`` or ``"vjepa2-ac"``.
        encoder: In evaluation mode.
        predictor: The masked predictor, in evaluation mode; None in V-JEPA 2-AC.
        action_predictor: The action-conditioned predictor's tensors, checked by name and shape; None elsewhere.
        weights: Which encoder this is: ``"ema"`` or ``"student"``.
        report: What was left out or assumed, and, without ``strict``, what did not fit.
    """

    family: str
    encoder: VideoEncoder
    predictor: MaskedPredictor | None
    action_predictor: ACPredictorWeights | None
    weights: str
    report: LoadReport


def load_official(
    path: str | Path,
    *,
    weights: str = "ema",
    family: str = "auto",
    image_size: int | None = None,
    frames: int | None = None,
    heads: int | None = None,
    predictor_heads: int | None = None,
    strict: bool = True,
) -> OfficialModel:
    """Read an official V-JEPA, V-JEPA 2 or V-JEPA 2-AC file.

    The file is a pickle. It is read by ``torch.load(weights_only=True)``, which builds tensors, numbers, strings and
    containers and refuses everything else, so that no code of the file's author runs; ``mmap`` reads only those of
    its tensors that are used, not the optimiser's.

    Args:
        path: The file.
        weights: ``"ema"`` (``target_encoder``, what the papers evaluate) or ``"student"`` (``encoder``, what the
            released Hugging Face models hold).
        family: ``"auto"``, or one of ``FAMILIES`` where the file does not tell.
        image_size: Pixels; by default what the position table says, or 256.
        frames: By default 16 for V-JEPA, 64 for V-JEPA 2.
        heads: The encoder's attention heads; by default those of the released model of this width.
        predictor_heads: By default 12, and the encoder's for V-JEPA.
        strict: Fail where a tensor is missing, unexpected or of another shape. False: load what fits.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds something else, or does not fit; the message names what.
    """
    if weights not in ("ema", "student"):
        raise ValueError(f"weights={weights!r} is unknown; choose 'ema' or 'student'")
    if family not in ("auto", *FAMILIES):
        raise ValueError(f"family={family!r} is unknown; choose auto, {', '.join(FAMILIES)}")
    name = str(path)
    found = read_file(Path(path))
    tensors, notes = weights_of(found, weights, name)
    narrow = part(found, "predictor", name)
    refuse_2_1(tensors | narrow, name)
    family = _family(tensors, narrow, name) if family == "auto" else family
    table = tensors.pop("pos_embed", None)
    narrow_table = narrow.pop("predictor_pos_embed", None)

    sizes = _encoder_config(
        tensors, table if family == "vjepa" else None, family, image_size, frames, heads, name
    )
    encoder = VideoEncoder(sizes)
    report = fill(encoder, encoder_rules(encoder), tensors, name, "encoder.")
    left_out = tuple(
        key
        for key, value in (("encoder.pos_embed", table), ("predictor.predictor_pos_embed", narrow_table))
        if value is not None
    )
    report += LoadReport(name, left_out=left_out, notes=notes)
    if family == "vjepa":
        check_table(encoder.table, table, name)

    predictor, actions = None, None
    if family == "vjepa2-ac":
        actions, extra = ac_predictor(narrow, encoder.width, name)
        report += extra
    elif narrow:
        config = _predictor_config(narrow, sizes, predictor_heads, name)
        predictor = MaskedPredictor(config, encoder.grid, encoder.width)
        report += fill(predictor, predictor_rules(predictor), narrow, name, "predictor.")
        if family == "vjepa":
            check_table(predictor.table, narrow_table, name)
        predictor.eval()
    else:
        report += LoadReport(name, missing=("predictor",))
    if strict:
        report.check()
    return OfficialModel(family, encoder.eval(), predictor, actions, weights, report)


def load_official_probes(path: str | Path, *, heads: int | None = None) -> list[AttentiveProbe]:
    """The attentive classifiers of an official evaluation file: one (V-JEPA), or all that were trained side by side.

    They read all tokens of the encoder's last layer. V-JEPA 2 trained a grid of learning rates and weight decays at
    once and reports the best of them on the validation set; the file does not say which that is.

    Args:
        path: The file.
        heads: Attention heads; by default 16, and 12 or fewer for narrower encoders than ViT-large.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds no classifier, or one that does not fit.
    """
    found = read_file(Path(path))
    key = "classifiers" if "classifiers" in found else "classifier"
    entries = found.get(key)
    entries = entries if isinstance(entries, list) else [entries]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"{path} holds no classifier (neither 'classifier' nor 'classifiers'); is it a probe's file?"
        )
    places = [f"{path} ({key} {i})" for i in range(len(entries))]
    return [
        _probe(part({key: entry}, key, place), heads, place)
        for place, entry in zip(places, entries, strict=True)
    ]


def encoder_rules(encoder: VideoEncoder) -> list[Rule]:
    """Where each tensor of the encoder is in an official file."""
    size = encoder.config
    kernel = (size.width, 3, size.tubelet, size.patch_size, size.patch_size)
    return [
        Rule("patch_embed.weight", ("patch_embed.proj.weight",), kernel, swap=True),
        *plain_rules(
            encoder, {"patch_embed.bias": "patch_embed.proj.bias", "blocks.": "blocks.", "norm.": "norm."}
        ),
    ]


def predictor_rules(predictor: MaskedPredictor) -> list[Rule]:
    """Where each tensor of the predictor is in an official file."""
    names = tuple(f"mask_tokens.{i}" for i in range(predictor.config.mask_tokens))
    renamed = {f"{part}.": f"predictor_{part}." for part in ("embed", "blocks", "norm", "proj")}
    return [Rule("mask_tokens", names, (1, 1, predictor.config.width)), *plain_rules(predictor, renamed)]


def _family(tensors: Mapping[str, Tensor], narrow: Mapping[str, Tensor], name: str) -> str:
    if is_ac(narrow):
        return "vjepa2-ac"
    if "pos_embed" not in tensors:
        return "vjepa2"
    # Released V-JEPA 2 files carry a position table that their rotary models never read, and 10 mask tokens.
    tokens = sum(key.startswith("mask_tokens.") for key in narrow)
    if not tokens:
        raise ValueError(
            f"{name} has a position table and no predictor, so it may be V-JEPA (which uses the table) or V-JEPA 2 "
            "(which does not); say family=vjepa or family=vjepa2"
        )
    return "vjepa2" if tokens >= 10 else "vjepa"


def _encoder_config(
    tensors: Mapping[str, Tensor],
    table: Tensor | None,
    family: str,
    image_size: int | None,
    frames: int | None,
    heads: int | None,
    name: str,
) -> VideoEncoderConfig:
    kernel = tensors.get("patch_embed.proj.weight")
    hidden = tensors.get("blocks.0.mlp.fc1.weight")
    if kernel is None or kernel.ndim != 5 or kernel.shape[1] != 3 or hidden is None or hidden.ndim != 2:
        raise ValueError(
            f"{name} holds no video encoder: patch_embed.proj.weight must be (D, 3, tubelet, patch, patch) and "
            "blocks.0.mlp.fc1.weight be there"
        )
    width, tubelet, patch = kernel.shape[0], kernel.shape[2], kernel.shape[3]
    frames = frames or (16 if family == "vjepa" else 64)
    if table is not None and image_size is None:
        side = math.isqrt(table.shape[1] * tubelet // frames)
        if side * side * (frames // tubelet) != table.shape[1]:
            raise ValueError(
                f"{name}: {table.shape[1]} positions are no square for {frames} frames; give frames and image_size"
            )
        image_size = side * patch
    return VideoEncoderConfig(
        image_size=image_size or 256,
        frames=frames,
        patch_size=patch,
        tubelet=tubelet,
        width=width,
        depth=count_blocks(tensors, "blocks."),
        heads=_heads(width, heads, name),
        mlp_ratio=hidden.shape[0] / width,
        positions="sincos" if family == "vjepa" else "rope_compat",
    )


def _predictor_config(
    narrow: Mapping[str, Tensor], encoder: VideoEncoderConfig, heads: int | None, name: str
) -> MaskedPredictorConfig:
    embed, hidden = narrow.get("predictor_embed.weight"), narrow.get("predictor_blocks.0.mlp.fc1.weight")
    tokens = sum(key.startswith("mask_tokens.") for key in narrow)
    if embed is None or hidden is None or not tokens:
        raise ValueError(
            f"{name} holds no masked predictor: predictor_embed.weight, predictor_blocks.0.mlp.fc1.weight and "
            "mask_tokens.0 must be there"
        )
    width = embed.shape[0]
    return MaskedPredictorConfig(
        width=width,
        depth=count_blocks(narrow, "predictor_blocks."),
        heads=heads or (encoder.heads if encoder.positions == "sincos" else 12),
        mlp_ratio=hidden.shape[0] / width,
        positions=encoder.positions,
        mask_tokens=tokens,
    )


def _heads(width: int, heads: int | None, name: str) -> int:
    if heads is None and width not in HEADS:
        raise ValueError(
            f"{name}: how many heads an encoder of width {width} has cannot be read off it; give heads="
        )
    return heads or HEADS[width]


def _probe(tensors: dict[str, Tensor], heads: int | None, name: str) -> AttentiveProbe:
    # V-JEPA allocated an output projection in its cross-attention and never applied it.
    tensors = {key: value for key, value in tensors.items() if not key.startswith(UNUSED_XATTN)}
    query, linear = tensors.get("pooler.query_tokens"), tensors.get("linear.weight")
    hidden = tensors.get("pooler.cross_attention_block.mlp.fc1.weight")
    if query is None or linear is None or hidden is None:
        raise ValueError(
            f"{name} is no attentive classifier: pooler.query_tokens, linear.weight and "
            "pooler.cross_attention_block.mlp.fc1.weight must be there"
        )
    width = query.shape[-1]
    size = AttentiveProbeConfig(
        depth=1 + count_blocks(tensors, "pooler.blocks."),
        heads=heads or min(16, HEADS.get(width, 16)),
        # The probe cuts the product to a whole number: the half keeps rounding errors away.
        mlp_ratio=(hidden.shape[0] + 0.5) / width
        if hidden.shape[0] % width
        else float(hidden.shape[0] // width),
    )
    probe = AttentiveProbe(width, len(linear), size)
    rules = list(plain_rules(probe, {"": ""}))
    fill(probe, rules, tensors, name).check()
    return probe.eval()
