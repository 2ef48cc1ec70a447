"""timm's models as encoders of frames; skipped where timm, or a torchvision that fits torch, is not installed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldmodel.interop.backbones import BackboneConfig, FrameBackbone, open_backbone
from worldmodel.weights import load_tensors

try:
    import timm
except (ImportError, RuntimeError) as error:  # the latter: torchvision was made for another build of torch
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
#: Arguments, the side of pretraining, and how many tokens precede the patches; None for a feature map.
MODELS: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "vit_tiny_patch16_224": ({"depth": 2, "embed_dim": 24, "num_heads": 2}, 64, 1),
    "vit_small_patch14_reg4_dinov2": ({"depth": 2, "embed_dim": 24, "num_heads": 2}, 56, 5),
    "vit_small_patch16_dinov3": ({"depth": 2, "embed_dim": 48, "num_heads": 2}, 64, 5),
    "resnet10t": ({}, 64, None),
    "convnext_atto": ({"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]}, 64, None),
    "swin_tiny_patch4_window7_224": ({"depths": [1, 1, 1, 1], "embed_dim": 12}, 64, None),
}
WITH_CLASS = [name for name, (_, _, prefix) in MODELS.items() if prefix]
each_model = pytest.mark.parametrize("name", MODELS)


def theirs(name: str) -> Any:
    """A model with a classifier, whose weights are as of a trained one."""
    arguments, side, _ = MODELS[name]
    fixed = {"img_size": side} if "vit_" in name or "swin" in name else {}
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **arguments, **fixed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand_like(tensor)
    return model.eval()


def saved(name: str, model: Any, folder: Path) -> Path:
    """As timm's repositories on the hub have it."""
    arguments, side, _ = MODELS[name]
    about = {"input_size": [3, side, side], "fixed_input_size": "vit_" in name or "swin" in name, "num_classes": 7,
             "interpolation": "bicubic", "mean": MEAN, "std": STD}  # fmt: skip
    config = {"architecture": name, "num_classes": 7, "model_args": arguments, "pretrained_cfg": about}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def frames(side: int) -> Tensor:
    shape = (2, 3, 3, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def pixels(clip: Tensor) -> Tensor:
    mean, std = (torch.tensor(row)[:, None, None] for row in (MEAN, STD))
    return (clip.flatten(0, 1).float() / 255 - mean) / std


def as_tokens(name: str, found: Tensor) -> Tensor:
    if found.ndim == 4:
        return found.flatten(1, 2) if "swin" in name else found.flatten(2).transpose(1, 2)
    return found[:, MODELS[name][2] or 0 :]


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-6 * max(1.0, float(wanted.abs().max()))


@each_model
@torch.no_grad()
def test_patches_are_the_librarys_own_and_come_back(name: str, tmp_path: Path) -> None:
    model, clip = theirs(name), frames(MODELS[name][1])
    backbone = open_backbone(saved(name, model, tmp_path))
    found = backbone.encode_steps(clip)
    close(found.flatten(0, 1), as_tokens(name, model.forward_features(pixels(clip))))
    assert (backbone.width, backbone.tokens_of(*clip.shape[-2:])) == (found.shape[3], found.shape[2])
    assert backbone.report is not None and len(backbone.report.left_out) == 2, (
        "weight and bias of the classifier"
    )

    save_file(dict(backbone.state_dict()), tmp_path / "encoder.safetensors")
    again = FrameBackbone(BackboneConfig(**json.loads(json.dumps(asdict(backbone.config)))))
    assert not torch.equal(again.encode_steps(clip), found)
    load_tensors(again, load_file(tmp_path / "encoder.safetensors"), "encoder.safetensors")
    assert torch.equal(again.encode_steps(clip), found)


@pytest.mark.parametrize("name", WITH_CLASS)
@torch.no_grad()
def test_the_class_token_and_an_earlier_layer(name: str, tmp_path: Path) -> None:
    model, clip = theirs(name), frames(MODELS[name][1])
    folder = saved(name, model, tmp_path)
    found = open_backbone(folder, cls=True).encode_steps(clip)
    close(found.flatten(0, 1), model.forward_features(pixels(clip))[:, :1])
    patches = open_backbone(folder, layer=0).encode_steps(clip).flatten(0, 1)
    (wanted,) = model.forward_intermediates(
        pixels(clip), indices=[0], output_fmt="NLC", intermediates_only=True
    )
    close(patches, wanted)
    with pytest.raises(ValueError, match="layer=9: this backbone has no such layer"):
        open_backbone(folder, layer=9)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "resnet10t"])
@torch.no_grad()
def test_another_size_interpolates_positions(name: str, tmp_path: Path) -> None:
    arguments, side, _ = MODELS[name]
    model, larger = theirs(name), side * 3 // 2
    backbone = open_backbone(saved(name, model, tmp_path), image_size=larger)
    dynamic = {"img_size": side, "dynamic_img_size": True} if "vit_" in name else {}
    direct = timm.create_model(name, num_classes=7, **arguments, **dynamic).eval()
    direct.load_state_dict(model.state_dict())
    clip = frames(larger)
    close(backbone.encode_steps(clip).flatten(0, 1), as_tokens(name, direct.forward_features(pixels(clip))))
    assert backbone.encode_steps(frames(side)).shape[2] == backbone.tokens_per_step


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "of another shape"])
def test_tensors_that_do_not_fit_are_named(wrong: str, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    tensors = load_file(saved(name, theirs(name), tmp_path) / "model.safetensors")
    if wrong == "missing":
        del tensors["blocks.0.norm1.weight"]
    elif wrong == "unexpected":
        tensors["blocks.7.norm1.weight"] = torch.zeros(1)
    else:
        tensors["blocks.0.norm1.weight"] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"1 {wrong}: blocks\.\d\.norm1\.weight"):
        open_backbone(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("vit_of_nobody", {}, "has no model 'vit_of_nobody'"),
        ("hf-hub:timm/resnet18", {}, "has no model"),
        ("local-dir:somewhere", {}, "has no model"),
        ("resnet10t", {"pretrained": True}, "pretrained cannot be set"),
        ("resnet10t", {"checkpoint_path": "weights.pth"}, "checkpoint_path cannot be set"),
        ("resnet10t", {"dephts": [1]}, "dephts"),
    ],
)
def test_mistakes_in_the_configuration(architecture: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameBackbone(BackboneConfig("timm", architecture, settings))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    folder = saved("resnet10t", theirs("resnet10t"), tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights \(pytorch_model.bin\)"):
        open_backbone(folder)
