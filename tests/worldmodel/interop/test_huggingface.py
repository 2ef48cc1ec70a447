"""Hugging Face's VJEPA2Model in and out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel.interop.huggingface import from_hf, probe_from_hf, to_hf
from worldmodel.masks import Grid
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

transformers = pytest.importorskip("transformers")

#: One with their default crop and clip length, one with others.
THEIRS: dict[str, dict[str, Any]] = {
    "default size": {"hidden_size": 48, "num_attention_heads": 4,
                     "num_hidden_layers": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2,
                     "pred_num_hidden_layers": 2},
    "another size": {"crop_size": 48, "frames_per_clip": 6, "patch_size": 8, "hidden_size": 66,
                     "num_attention_heads": 3, "num_hidden_layers": 3, "mlp_ratio": 48 / 11,
                     "pred_hidden_size": 32, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1,
                     "pred_num_mask_tokens": 3, "pred_mlp_ratio": 2.0},
}  # fmt: skip


def make_theirs(size: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**{**THEIRS[size], **changes})).eval()
    return stirred(model)


def stirred(model: Any) -> Any:
    """Weights as of a trained model: fresh ones have zero biases and mask tokens and almost uniform attention."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            flat = any(part in name for part in ("query.weight", "key.weight", "qkv.weight", "mask_token"))
            if "patch_embed" not in name:
                tensor.add_(torch.randn_like(tensor) * (0.3 if flat else 0.02))
    return model


def make_ours() -> tuple[VideoEncoder, MaskedPredictor]:
    torch.manual_seed(0)
    size = VideoEncoderConfig(image_size=32, frames=6, patch_size=8, width=24, depth=2, heads=2,
                              mlp_ratio=2.5, positions="rope_compat")  # fmt: skip
    narrow = MaskedPredictorConfig(width=12, depth=1, heads=1, positions="rope_compat", mask_tokens=3)
    encoder = VideoEncoder(size)
    return stirred(encoder).eval(), stirred(MaskedPredictor(narrow, encoder.grid, encoder.width)).eval()


@torch.no_grad()
def check_agreement(theirs: Any, encoder: VideoEncoder, predictor: MaskedPredictor) -> None:
    size = encoder.config
    # A part of a clip is enough: 64 frames would be 8192 tokens.
    frames = min(size.frames, 8)
    clip = torch.randint(0, 256, (2, frames, 3, size.image_size, size.image_size), dtype=torch.uint8)
    count = frames // size.tubelet * encoder.tokens_per_step
    mean, std = (torch.tensor(row)[:, None, None] for row in (size.pixel_mean, size.pixel_std))
    ids = torch.stack([torch.randperm(count) for _ in range(2)])
    context, target = ids[:, : count // 3], ids[:, count // 3 :]
    wanted = theirs((clip / 255 - mean) / std, context_mask=[context], target_mask=[target])

    tokens = encoder.encode(clip).flatten(1, 2)
    torch.testing.assert_close(tokens, wanted.last_hidden_state, atol=1e-5, rtol=0)
    seen = tokens.gather(1, context[..., None].expand(-1, -1, encoder.width))
    predicted = predictor(seen, context, target, mask_index=1)
    torch.testing.assert_close(predicted, wanted.predictor_output.last_hidden_state, atol=1e-5, rtol=0)
    # The comparison means something: the answers differ from place to place, and so do the mask tokens.
    assert predicted.std(dim=1).mean() > 1e-3
    assert not torch.allclose(predictor(seen, context, target, mask_index=0), predicted, atol=1e-4)


@pytest.mark.parametrize("size", THEIRS)
def test_their_model_in(size: str) -> None:
    theirs = make_theirs(size)
    encoder, predictor = from_hf(theirs)
    assert encoder.config.image_size == theirs.config.crop_size
    assert encoder.config.frames == theirs.config.frames_per_clip
    assert not encoder.training and not predictor.training
    check_agreement(theirs, encoder, predictor)


def test_our_model_out() -> None:
    encoder, predictor = make_ours()
    check_agreement(to_hf(encoder, predictor), encoder, predictor)


@pytest.mark.parametrize("size", THEIRS)
def test_their_round_trip_loses_nothing(size: str) -> None:
    theirs = make_theirs(size)
    back = to_hf(*from_hf(theirs))
    assert back.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    before, after = theirs.config.to_dict(), back.config.to_dict()
    assert {key: value for key, value in after.items() if before.get(key) != value} == {} or all(
        key in ("mlp_ratio", "pred_mlp_ratio") for key in after if before.get(key) != after[key]
    )


def test_our_round_trip_loses_nothing(tmp_path: Path) -> None:
    encoder, predictor = make_ours()
    grey = replace(encoder.config, pixel_mean=[0.5, 0.4, 0.3], pixel_std=[0.25, 0.5, 0.125], drop_path=0.0)
    other = VideoEncoder(grey).eval()
    other.load_state_dict(encoder.state_dict())
    to_hf(other, predictor).save_pretrained(tmp_path)
    back = from_hf(tmp_path)
    assert back[0].config == grey
    assert back[1].config == predictor.config
    for ours, theirs in zip((other, predictor), back, strict=True):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor), name


@pytest.mark.parametrize("shards", ["one file", "several"])
@pytest.mark.parametrize("kind", ["VJEPA2Model", "VJEPA2ForVideoClassification"])
def test_from_a_directory(tmp_path: Path, shards: str, kind: str) -> None:
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(**THEIRS["another size"], num_labels=5)
    theirs = stirred(getattr(transformers, kind)(config)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="60KB" if shards == "several" else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards == "several")
    (tmp_path / "video_preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    encoder, predictor, report = from_hf(tmp_path, strict=False)
    assert report.fits
    assert bool(report.left_out) == (kind == "VJEPA2ForVideoClassification")
    assert encoder.config.pixel_mean == [0.1, 0.2, 0.3]
    check_agreement(theirs if kind == "VJEPA2Model" else theirs.vjepa2, encoder, predictor)


@torch.no_grad()
def test_the_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(**THEIRS["another size"], num_labels=5)
    theirs = stirred(transformers.VJEPA2ForVideoClassification(config)).eval()
    encoder, _ = from_hf(theirs)
    clip = torch.rand(2, 6, 3, 48, 48)
    mean, std = (
        torch.tensor(row)[:, None, None] for row in (encoder.config.pixel_mean, encoder.config.pixel_std)
    )
    logits = probe_from_hf(theirs)(encoder.encode(clip).flatten(1, 2))
    torch.testing.assert_close(logits, theirs((clip - mean) / std).logits, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="has no classifier"):
        probe_from_hf(theirs.vjepa2)


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    make_theirs("another size").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.attention.key.weight"]
    tensors["predictor.proj.bias"] = torch.zeros(7)
    tensors["encoder.layer.3.norm1.weight"] = torch.zeros(66)
    tensors["decoder.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        from_hf(tmp_path)
    for text in (
        str(tmp_path),
        "1 missing: encoder.layer.1.attention.key.weight",
        "encoder.layer.3.norm1.weight, decoder.weight",
        "predictor.proj.bias (7,) instead of (66,)",
    ):
        assert text in str(error.value)
    encoder, _, report = from_hf(tmp_path, strict=False)
    assert not report.fits
    assert report.missing == ("encoder.layer.1.attention.key.weight",)
    assert torch.equal(encoder.blocks[0].norm1.weight, tensors["encoder.layer.0.norm1.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act=relu"),
        ({"qkv_bias": False}, "qkv_bias=False"),
        ({"in_chans": 1}, "in_chans=1"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
    ],
)
def test_their_models_that_ours_cannot_represent(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"cannot represent {message}"):
        from_hf(make_theirs("another size", **changes))


def test_our_models_that_theirs_cannot_represent() -> None:
    encoder, predictor = make_ours()
    for config, message in (
        (replace(encoder.config, positions="rope"), r"encoder.positions=rope \(only 'rope_compat'\)"),
        (replace(encoder.config, positions="sincos"), "encoder.positions=sincos"),
        (replace(encoder.config, mlp="swiglu"), "encoder.mlp=swiglu"),
        (replace(encoder.config, drop_path=0.1), "predictor.drop_path=0.0"),
        (replace(encoder.config, frames=8), "a predictor for the grid"),
    ):
        with pytest.raises(ValueError, match=message):
            to_hf(VideoEncoder(config), predictor)
    with pytest.raises(ValueError, match="a predictor from width 24 to 96"):
        to_hf(encoder, MaskedPredictor(predictor.config, Grid(3, 4, 4), 24, 96))


def test_clear_errors_for_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no directory; nothing is downloaded"):
        from_hf("facebook/vjepa2-vitl-fpc64-256")
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="of type 'vit'"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vjepa2"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="pickled weights"):
        from_hf(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80 damaged")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        from_hf(tmp_path)
    index = {"weight_map": {"encoder.layernorm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="lacks model-00001-of-00002"):
        from_hf(tmp_path)
    with pytest.raises(ValueError, match="a int was given"):
        from_hf(3)
