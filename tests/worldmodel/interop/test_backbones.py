"""Image models of other libraries as encoders: the library's own features, from local files only."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from worldmodel.interop.backbones import BackboneConfig, FrameBackbone, open_backbone
from worldmodel.weights import load_tensors

transformers = pytest.importorskip("transformers")

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
VIT = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
#: Settings, and how many tokens precede the patches; None for a feature map.
MODELS: dict[str, tuple[dict[str, Any], int | None]] = {
    "dinov2": ({**VIT, "mlp_ratio": 2}, 1),
    "dinov2_with_registers": ({**VIT, "mlp_ratio": 2, "num_register_tokens": 3}, 4),
    "dinov3_vit": ({**VIT, "intermediate_size": 48, "num_register_tokens": 2}, 3),
    "vit": ({**VIT, "intermediate_size": 48}, 1),
    "deit": ({**VIT, "intermediate_size": 48}, 2),
    "clip_vision_model": ({**VIT, "intermediate_size": 48}, 1),
    "siglip_vision_model": ({**VIT, "intermediate_size": 48, "vision_use_head": False}, 0),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1], "layer_type": "basic"}, None),
    "convnext": ({"hidden_sizes": [8, 24], "depths": [1, 1], "num_stages": 2}, None),
    "dinov3_convnext": ({"hidden_sizes": [4, 8, 8, 24], "depths": [1, 1, 1, 1]}, 1),
    "swin": ({"image_size": 32, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1],
              "window_size": 4, "patch_size": 4}, 0),
}  # fmt: skip
WITH_CLASS = (
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vit",
    "deit",
    "clip_vision_model",
    "dinov3_convnext",
)
each_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for an address fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def stirred(model: Any) -> Any:
    """Weights as of a trained model, so that no token, position or statistic is zero or one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def theirs(kind: str, **changes: Any) -> Any:
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**MODELS[kind][0], **changes})
    return stirred(transformers.AutoModel.from_config(config))


def saved(model: Any, folder: Path, **processor: Any) -> Path:
    model.save_pretrained(folder)
    about = {"image_mean": MEAN, "image_std": STD, "resample": 3, **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def frames(height: int = 32, width: int = 32, steps: int = 3) -> Tensor:
    shape = (2, steps, 3, height, width)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def pixels(clip: Tensor, side: int = 0) -> Tensor:
    """What the library is to be given for the frames: plain arithmetic, none of the module's."""
    unit = clip.flatten(0, 1).float() / 255
    if side:
        unit = F.interpolate(unit, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(row)[:, None, None] for row in (MEAN, STD))
    return (unit - mean) / std


@torch.no_grad()
def their_tokens(model: Any, given: Tensor, layer: int = -1, resized: bool = False) -> Tensor:
    kind = model.config.model_type
    positions = resized and kind in ("vit", "deit", "clip_vision_model", "siglip_vision_model", "swin")
    out = model(given, output_hidden_states=True, **({"interpolate_pos_encoding": True} if positions else {}))
    tokens = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    if tokens.ndim == 4:
        return tokens.permute(0, 2, 3, 1).flatten(1, 2)
    return tokens


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-6 * max(1.0, float(wanted.abs().max()))


@each_model
def test_patches_are_the_librarys_own(kind: str, tmp_path: Path) -> None:
    model = theirs(kind)
    backbone = open_backbone(saved(model, tmp_path))
    with torch.no_grad():
        found = backbone.encode_steps(frames())
    wanted = their_tokens(model, pixels(frames()))[:, MODELS[kind][1] or 0 :]
    close(found.flatten(0, 1), wanted)
    assert found.shape[:2] == (2, 3) and backbone.width == found.shape[-1]
    assert backbone.tokens_of(32, 32) == found.shape[2]
    assert wanted.std() > 1e-2, "tokens that are all the same would show nothing"


@each_model
def test_another_size_interpolates_positions(kind: str, tmp_path: Path) -> None:
    model = theirs(kind)
    backbone = open_backbone(saved(model, tmp_path), image_size=48)
    with torch.no_grad():
        found = backbone.encode_steps(frames(72, 40))
    wanted = their_tokens(model, pixels(frames(72, 40), 48), resized=True)[:, MODELS[kind][1] or 0 :]
    close(found.flatten(0, 1), wanted)
    assert backbone.tokens_per_step == found.shape[2]
    assert found.shape[2] == {"dinov3_convnext": 1}.get(kind, 36)


@each_model
def test_frames_as_they_come_need_not_be_square(kind: str, tmp_path: Path) -> None:
    model = theirs(kind)
    backbone = open_backbone(saved(model, tmp_path))
    with torch.no_grad():
        found = backbone.encode_steps(frames(48, 32))
    wanted = their_tokens(model, pixels(frames(48, 32)), resized=True)[:, MODELS[kind][1] or 0 :]
    close(found.flatten(0, 1), wanted)
    assert backbone.tokens_of(48, 32) == found.shape[2]


@pytest.mark.parametrize("kind", WITH_CLASS)
def test_the_class_token_alone(kind: str, tmp_path: Path) -> None:
    model = theirs(kind)
    backbone = open_backbone(saved(model, tmp_path), cls=True)
    with torch.no_grad():
        found = backbone.encode_steps(frames())
    assert backbone.tokens_per_step == 1 == found.shape[2]
    close(found.flatten(0, 1), their_tokens(model, pixels(frames()))[:, :1])


@pytest.mark.parametrize("kind", ["siglip_vision_model", "resnet", "convnext", "swin"])
def test_a_class_token_that_is_not_there(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no class token"):
        open_backbone(saved(theirs(kind), tmp_path), cls=True)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -2])
@pytest.mark.parametrize(
    "kind", ["dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "clip_vision_model"]
)
def test_other_layers(kind: str, layer: int, tmp_path: Path) -> None:
    model = theirs(kind)
    backbone = open_backbone(saved(model, tmp_path), layer=layer)
    with torch.no_grad():
        found = backbone.encode_steps(frames())
    close(found.flatten(0, 1), their_tokens(model, pixels(frames()), layer)[:, MODELS[kind][1] or 0 :])


def test_an_earlier_stage_of_a_convolutional_network(tmp_path: Path) -> None:
    model = theirs("resnet")
    backbone = open_backbone(saved(model, tmp_path), layer=1)
    with torch.no_grad():
        found = backbone.encode_steps(frames())
    close(found.flatten(0, 1), their_tokens(model, pixels(frames()), 1))
    assert backbone.width == 8


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer=4: this backbone has hidden states 0 to 3"):
        open_backbone(saved(theirs("vit"), tmp_path), layer=4)


@each_model
@torch.no_grad()
def test_saved_and_loaded_again_as_a_part_of_a_world_model(kind: str, tmp_path: Path) -> None:
    backbone = open_backbone(saved(theirs(kind), tmp_path), image_size=32)
    save_file(dict(backbone.state_dict()), tmp_path / "encoder.safetensors")
    written = json.dumps(asdict(backbone.config))

    torch.manual_seed(99)
    again = FrameBackbone(BackboneConfig(**json.loads(written))).eval()
    assert not torch.equal(again.encode_steps(frames()), backbone.encode_steps(frames())), (
        "random until loaded"
    )
    load_tensors(again, load_file(tmp_path / "encoder.safetensors"), "encoder.safetensors")
    assert torch.equal(again.encode_steps(frames()), backbone.encode_steps(frames()))
    assert (again.width, again.tokens_per_step) == (backbone.width, backbone.tokens_per_step)


@each_model
@torch.no_grad()
def test_a_frame_depends_on_itself_only_also_in_training(kind: str, tmp_path: Path) -> None:
    model = theirs(kind, **({"drop_path_rate": 0.5} if kind in ("dinov2", "convnext", "swin") else {}))
    backbone = open_backbone(saved(model, tmp_path)).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    clip = frames()
    changed = clip.clone()
    changed[:, 2:] = 255 - changed[:, 2:]
    first, second = backbone.encode_steps(clip), backbone.encode_steps(changed)
    assert torch.equal(first[:, :2], second[:, :2]) and not torch.equal(first[:, 2:], second[:, 2:])
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_bytes_and_unit_floats_are_the_same_frames(tmp_path: Path) -> None:
    backbone = open_backbone(saved(theirs("dinov2"), tmp_path), image_size=16)
    with torch.no_grad():
        close(backbone.encode_steps(frames().float() / 255), backbone.encode_steps(frames()))


def test_gradients_reach_the_frames_and_the_weights(tmp_path: Path) -> None:
    backbone = open_backbone(saved(theirs("dinov2"), tmp_path), image_size=16)
    clip = (frames().float() / 255).requires_grad_()
    backbone.encode_steps(clip).square().sum().backward()
    assert clip.grad is not None and clip.grad.abs().sum() > 0
    assert backbone.network.get_parameter("layernorm.weight").grad is not None


def test_settings_are_a_hydra_node() -> None:
    from omegaconf import OmegaConf

    node = OmegaConf.merge(OmegaConf.structured(BackboneConfig), {"settings": VIT, "image_size": 16})
    config = OmegaConf.to_object(node)
    assert isinstance(config, BackboneConfig) and FrameBackbone(config).tokens_per_step == 4


# Directories


def test_heads_are_left_out_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = stirred(transformers.ViTForImageClassification(transformers.ViTConfig(**MODELS["vit"][0])))
    backbone = open_backbone(saved(whole, tmp_path))
    assert backbone.report is not None
    assert backbone.report.left_out == ("classifier.bias", "classifier.weight")
    with torch.no_grad():
        close(backbone.encode_steps(frames()).flatten(0, 1), their_tokens(whole.vit, pixels(frames()))[:, 1:])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_image_part_of_a_model_of_images_and_text_in_several_files(kind: str, tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    vision = {**VIT, "intermediate_size": 48}
    config = transformers.AutoConfig.for_model(kind, vision_config=vision, text_config=text)
    whole = stirred(transformers.AutoModel.from_config(config))
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    backbone = open_backbone(tmp_path, pixel_mean=MEAN, pixel_std=STD)
    assert backbone.config.architecture == f"{kind}_vision_model"
    assert backbone.report is not None and "logit_scale" in backbone.report.left_out
    wanted = their_tokens(whole.vision_model, pixels(frames()))
    with torch.no_grad():
        close(backbone.encode_steps(frames()).flatten(0, 1), wanted[:, 1 if kind == "clip" else 0 :])

    listed = tmp_path / "model.safetensors.index.json"
    index = json.loads(listed.read_text())
    first = next(iter(index["weight_map"].values()))
    (tmp_path / first).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {first}"):
        open_backbone(tmp_path, pixel_mean=MEAN, pixel_std=STD)
    index["weight_map"]["x"] = "../elsewhere.safetensors"
    listed.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not a file of that directory"):
        open_backbone(tmp_path, pixel_mean=MEAN, pixel_std=STD)


@pytest.mark.parametrize("wrong", ["missing", "unexpected", "of another shape"])
def test_tensors_that_do_not_fit_are_named(wrong: str, tmp_path: Path) -> None:
    tensors = load_file(saved(theirs("vit"), tmp_path) / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layernorm_after.weight"))
    if wrong == "missing":
        del tensors[name]
    elif wrong == "unexpected":
        tensors["strange.weight"], name = torch.zeros(1), "strange.weight"
    else:
        tensors[name] = torch.zeros(5)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 {wrong}: .*{name.rpartition('.')[0].rpartition('.')[2]}.*"):
        open_backbone(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    folder = saved(theirs("vit"), tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights \(pytorch_model.bin\).*save_file"):
        open_backbone(folder)


def test_code_that_comes_with_weights_is_not_run(tmp_path: Path) -> None:
    folder = saved(theirs("vit"), tmp_path)
    about = json.loads((folder / "config.json").read_text())
    about["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "evil.py").write_text("raise SystemExit('this was run')")
    (folder / "config.json").write_text(json.dumps(about))
    assert "auto_map" not in open_backbone(folder).config.settings
    (folder / "config.json").write_text(json.dumps({**about, "model_type": "evil"}))
    with pytest.raises(ValueError, match="no architecture 'evil'; code that comes with weights is never run"):
        open_backbone(folder)


def test_damaged_weights(tmp_path: Path) -> None:
    folder = saved(theirs("vit"), tmp_path)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(ValueError, match="damaged"):
        open_backbone(folder)


def test_directories_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        open_backbone("facebook/dinov2-small")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="neither model_type"):
        open_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **MODELS["vit"][0]}))
    with pytest.raises(FileNotFoundError, match="has no model.safetensors"):
        open_backbone(tmp_path)


def test_pixel_statistics_are_never_guessed(tmp_path: Path) -> None:
    folder = saved(theirs("vit"), tmp_path, resample=2)
    config = open_backbone(folder).config
    assert (config.pixel_mean, config.pixel_std, config.interpolation) == (MEAN, STD, "bilinear")
    saved(theirs("vit"), tmp_path, do_normalize=False)
    assert open_backbone(folder).config.pixel_mean == [0.0, 0.0, 0.0]
    saved(theirs("vit"), tmp_path, rescale_factor=1.0)
    with pytest.raises(ValueError, match=r"rescale_factor=1\.0"):
        open_backbone(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"put preprocessor_config\.json .* there, or give pixel_mean"):
        open_backbone(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_mean": MEAN, "image_std": STD}})
    )
    assert open_backbone(folder).config.pixel_std == STD


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library": "keras"}, "huggingface, timm"),
        ({"architecture": "nonsense"}, "no architecture 'nonsense'"),
        ({"settings": {"hidden_sise": 24}}, "dinov2 has no setting hidden_sise"),
        ({"settings": {"hidden_size": "wide"}}, "hidden_size"),
        ({"architecture": "vit_mae"}, "drops and shuffles"),
        ({"architecture": "bert"}, "bert does not take images"),
        ({"architecture": "vjepa2"}, "vjepa2 does not take images"),
        ({"image_size": 30}, "multiple of 8"),
        ({"image_size": -1}, "image_size=-1"),
        ({"interpolation": "nearest"}, "bicubic or bilinear"),
        ({"pixel_std": [0.0, 1.0, 1.0]}, "std above 0"),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration(changes: dict[str, Any], message: str) -> None:
    small = {"settings": {**MODELS["dinov2"][0]}} if "architecture" not in changes else {}
    with pytest.raises(ValueError, match=message):
        FrameBackbone(BackboneConfig(**{**small, **changes}))


@pytest.mark.parametrize(("library", "name"), [("huggingface", "transformers"), ("timm", "timm")])
def test_a_library_that_is_not_installed(library: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"needs {name}; `pip install 'worldmodel\[{library}\]'`"):
        FrameBackbone(BackboneConfig(library=library))


def test_frames_that_do_not_fit() -> None:
    backbone = FrameBackbone(BackboneConfig(settings=MODELS["dinov2"][0]))
    with pytest.raises(ValueError, match="window=2: dinov2 encodes each frame by itself"):
        backbone.encode_steps(frames(), window=2)
    with pytest.raises(ValueError, match=r"36 x 32 pixels .* multiple of 8"):
        backbone.encode_steps(frames(36, 32))
    with pytest.raises(ValueError, match=r"\(B, T, 3, H, W\)"):
        backbone.encode_steps(frames()[:, 0])
