"""Official files, written here by their names and shapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodel.interop.official import load_official, load_official_probes
from worldmodel.nn.positions import sincos_3d

D, P, DEPTH, PRED_DEPTH, PATCH = 192, 72, 2, 1, 8
TINY = {"image_size": 32, "frames": 4}  # a grid of 2 x 4 x 4


def linear(name: str, out: int, wide: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(out, wide) * 0.1, f"{name}.bias": torch.randn(out) * 0.1}


def norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + 0.1 * torch.randn(width), f"{name}.bias": 0.1 * torch.randn(width)}


def block(name: str, width: int) -> dict[str, Tensor]:
    return {
        **norm(f"{name}.norm1", width),
        **linear(f"{name}.attn.qkv", 3 * width, width),
        **linear(f"{name}.attn.proj", width, width),
        **norm(f"{name}.norm2", width),
        **linear(f"{name}.mlp.fc1", 4 * width, width),
        **linear(f"{name}.mlp.fc2", width, 4 * width),
    }


def encoder() -> dict[str, Tensor]:
    tensors = {
        "patch_embed.proj.weight": torch.randn(D, 3, 2, PATCH, PATCH) * 0.1,
        "patch_embed.proj.bias": torch.randn(D),
        **norm("norm", D),
    }
    for i in range(DEPTH):
        tensors |= block(f"blocks.{i}", D)
    return tensors


def predictor(tokens: int) -> dict[str, Tensor]:
    tensors = {
        **linear("predictor_embed", P, D),
        **norm("predictor_norm", P),
        **linear("predictor_proj", D, P),
    }
    tensors |= {f"mask_tokens.{i}": torch.full((1, 1, P), float(i)) for i in range(tokens)}
    for i in range(PRED_DEPTH):
        tensors |= block(f"predictor_blocks.{i}", P)
    return tensors


def action_predictor() -> dict[str, Tensor]:
    tensors = {
        **linear("predictor_embed", P, D),
        **norm("predictor_norm", P),
        **linear("predictor_proj", D, P),
    }
    tensors |= {**linear("action_encoder", P, 7), **linear("state_encoder", P, 7)}
    tensors |= linear("extrinsics_encoder", P, 6)
    for i in range(2):
        tensors |= block(f"predictor_blocks.{i}", P)
    return tensors


def table(width: int) -> Tensor:
    return sincos_3d(2, 4, 4, width).reshape(1, 32, width)


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def make(family: str) -> dict[str, Any]:
    """A file's dictionary; the student's tensors are those of the EMA plus one."""
    torch.manual_seed(0)
    ema, wrapped = encoder(), "module.backbone."
    if family == "vjepa":
        ema["pos_embed"] = table(D)
        narrow = {**predictor(2), "predictor_pos_embed": table(P)}
    elif family == "vjepa2":
        # Released files carry tables that nothing reads.
        ema["pos_embed"], narrow = torch.zeros(1, 32, D), predictor(10)
    else:
        narrow, wrapped = action_predictor(), "module."
    student = {name: tensor + 1 for name, tensor in ema.items()}
    return {
        "encoder": prefixed(student, wrapped),
        "target_encoder": prefixed(ema, wrapped),
        "predictor": prefixed(narrow, wrapped),
        "opt": {"state": {0: {"exp_avg": torch.zeros(3), "step": 1}}, "param_groups": [{"lr": 1e-3}]},
        "scaler": None,
        "epoch": 7,
        "loss": 0.5,
        "lr": 1e-3,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def save(contents: Any, name: str = "vitl16.pth.tar") -> Path:
        torch.save(contents, tmp_path / name)
        return tmp_path / name

    return save


# A V-JEPA file's own table says that its clips have 32 x 32 pixels, once it is known how many frames they have.
SIZES: dict[str, dict[str, int]] = {"vjepa": {"frames": 4}, "vjepa2": TINY, "vjepa2-ac": TINY}


@pytest.mark.parametrize("family", SIZES)
def test_every_family_is_recognised_and_read(family: str, write: Callable[..., Path]) -> None:
    contents = make(family)
    model = load_official(write(contents), **SIZES[family])
    assert model.family == family
    assert model.report.fits
    size = model.encoder.config
    assert (size.width, size.depth, size.heads, size.image_size, size.frames) == (D, DEPTH, 3, 32, 4)
    assert size.positions == ("sincos" if family == "vjepa" else "rope_compat")
    assert not model.encoder.training

    # The projection is the convolution, the blocks are the file's, whatever the prefix.
    ema = {
        name.split(".", 2 if family != "vjepa2-ac" else 1)[-1]: t
        for name, t in contents["target_encoder"].items()
    }
    clip = torch.rand(2, 4, 3, 32, 32)
    conv = torch.nn.functional.conv3d(
        clip.transpose(1, 2),
        ema["patch_embed.proj.weight"],
        ema["patch_embed.proj.bias"],
        stride=(2, PATCH, PATCH),
    )
    plain = load_official(write(contents), **SIZES[family]).encoder
    plain.pixel_scale.fill_(1.0), plain.pixel_shift.zero_()
    added = 0 if family != "vjepa" else table(D)
    embedded, _ = plain._embed(clip)
    torch.testing.assert_close(embedded, conv.flatten(2).transpose(1, 2) + added, atol=1e-4, rtol=1e-5)
    for name in ("blocks.1.attn.qkv.weight", "blocks.0.mlp.fc2.bias", "norm.weight"):
        assert torch.equal(model.encoder.state_dict()[name], ema[name])

    if family == "vjepa2-ac":
        assert model.predictor is None and model.action_predictor is not None
        ac = model.action_predictor
        assert (ac.width, ac.depth, ac.encoder_width, ac.action_dim, ac.mlp_hidden) == (P, 2, D, 7, 4 * P)
        assert ac.tensors.keys() == action_predictor().keys()
    else:
        assert model.predictor is not None and model.action_predictor is None
        assert model.predictor.config.heads == (3 if family == "vjepa" else 12)
        assert model.predictor.mask_tokens[:, 0].tolist() == list(range(2 if family == "vjepa" else 10))
        assert ("predictor.predictor_pos_embed" in model.report.left_out) == (family == "vjepa")


def test_ema_or_student(write: Callable[..., Path]) -> None:
    path = write(make("vjepa2"))
    ema, student = (load_official(path, weights=weights, **TINY) for weights in ("ema", "student"))
    torch.testing.assert_close(student.encoder.norm.bias, ema.encoder.norm.bias + 1)
    with pytest.raises(ValueError, match="weights='best' is unknown"):
        load_official(path, weights="best")
    contents = make("vjepa2")
    del contents["target_encoder"]
    with pytest.raises(ValueError, match="has no target_encoder; it holds .* Choose weights=student"):
        load_official(write(contents), **TINY)
    # V-JEPA 2-AC's encoder is frozen: there is only one.
    contents = make("vjepa2-ac")
    del contents["target_encoder"]
    assert "one frozen encoder" in load_official(write(contents), **TINY).report.notes[0]


def test_every_tensor_that_does_not_fit_is_named(write: Callable[..., Path]) -> None:
    contents = make("vjepa2")
    del contents["target_encoder"]["module.backbone.blocks.0.attn.proj.bias"]
    contents["target_encoder"]["module.backbone.cls_token"] = torch.zeros(1, 1, D)
    contents["predictor"]["module.backbone.predictor_norm.weight"] = torch.zeros(3)
    path = write(contents)
    with pytest.raises(ValueError) as error:
        load_official(path, **TINY)
    for text in (
        str(path),
        "1 missing: encoder.blocks.0.attn.proj.bias",
        "1 unexpected: encoder.cls_token",
        f"predictor.predictor_norm.weight (3,) instead of ({P},)",
    ):
        assert text in str(error.value)
    loaded = load_official(path, strict=False, **TINY)
    assert loaded.report.missing == ("encoder.blocks.0.attn.proj.bias",)
    del contents["predictor"]
    with pytest.raises(ValueError, match="2 missing: encoder.blocks.0.attn.proj.bias, predictor"):
        load_official(write(contents), family="vjepa2", **TINY)

    contents = make("vjepa2-ac")
    contents["predictor"]["module.state_encoder.weight"] = torch.zeros(P, 8)
    del contents["predictor"]["module.predictor_blocks.1.norm2.bias"]
    with pytest.raises(ValueError, match="state_encoder.weight") as error:
        load_official(write(contents), **TINY)
    assert "predictor.predictor_blocks.1.norm2.bias" in str(error.value)


def test_v_jepa_2_1_is_refused_by_name(write: Callable[..., Path]) -> None:
    contents = make("vjepa2")
    contents["target_encoder"]["module.backbone.norms_block.0.weight"] = torch.ones(D)
    with pytest.raises(ValueError, match=r"V-JEPA 2.1 file \(norms_block.0.weight\).* V-JEPA 2-AC files are"):
        load_official(write(contents), **TINY)


def test_what_shapes_do_not_tell_is_asked_for(write: Callable[..., Path]) -> None:
    contents = make("vjepa")
    with pytest.raises(ValueError, match="no square for 8 frames"):
        load_official(write(contents), frames=8)
    # With the wrong number of frames a square may be found, but its table is another one.
    with pytest.raises(ValueError, match="is not the sin-cos table of a"):
        load_official(write(contents))
    with pytest.raises(ValueError, match="is not the sin-cos table of a"):
        load_official(write(contents), image_size=64, frames=4)
    with pytest.raises(ValueError, match="must divide"):
        load_official(write(contents), frames=4, heads=5)
    del contents["predictor"]
    with pytest.raises(ValueError, match="say family=vjepa or family=vjepa2"):
        load_official(write(contents))
    with pytest.raises(ValueError, match="family='jepa' is unknown"):
        load_official(write(contents), family="jepa")
    odd = make("vjepa2")
    for name in ("encoder", "target_encoder"):
        odd[name] = {
            key: value[..., :100, :, :, :, :] if "proj.weight" in key and value.ndim == 5 else value
            for key, value in odd[name].items()
        }
    with pytest.raises(ValueError, match="width 100 has cannot be read off it; give heads="):
        load_official(write(odd), **TINY)


class Evil:
    """What a pickle can do to those who load it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_nothing_but_tensors_is_unpickled(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"wants to build a \S*mkdir; only tensors and plain values are read"
    ):
        load_official(write({**make("vjepa2"), "loss": Evil()}), **TINY)
    assert not (tmp_path / "evil").exists()


def test_damaged_and_other_files(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        load_official(tmp_path / "vitl.pt")
    path = write(make("vjepa2"))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<html>404</html>", whole[:-200]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"vitl16.pth.tar (is|wants)"):
            load_official(path, **TINY)
    for contents, message in (
        ([1, 2], "holds a list"),
        ({"model": {}}, "has no target_encoder .it holds model"),
        ({"target_encoder": {"a": 1}}, "target_encoder is no dictionary of tensors"),
        ({"target_encoder": {"a": torch.zeros(1)}}, "holds no video encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            load_official(write(contents), **TINY)


def test_files_of_the_old_format(write: Callable[..., Path], tmp_path: Path) -> None:
    """They cannot be mapped into memory, and are read all the same."""
    torch.save(make("vjepa2"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_official(tmp_path / "old.pt", **TINY).report.fits


def probe(depth: int, unused: bool) -> dict[str, Tensor]:
    cross = "pooler.cross_attention_block"
    tensors = {
        "pooler.query_tokens": torch.randn(1, 1, D),
        **norm(f"{cross}.norm1", D),
        **linear(f"{cross}.xattn.q", D, D),
        **linear(f"{cross}.xattn.kv", 2 * D, D),
        **norm(f"{cross}.norm2", D),
        **linear(f"{cross}.mlp.fc1", 4 * D, D),
        **linear(f"{cross}.mlp.fc2", D, 4 * D),
        **linear("linear", 5, D),
    }
    for i in range(depth - 1):
        tensors |= block(f"pooler.blocks.{i}", D)
    if unused:
        tensors |= linear(f"{cross}.xattn.proj", D, D)
    return prefixed(tensors, "module.")


def test_probes_of_both_generations(write: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    first = load_official_probes(write({"classifier": probe(1, unused=True), "epoch": 20}))
    second = load_official_probes(write({"classifiers": [probe(4, False), probe(4, False)]}))
    assert [p.config.depth for p in (*first, *second)] == [1, 4, 4]
    assert [p.config.heads for p in first] == [3]
    assert first[0].config.eps == 1e-5
    assert first[0](torch.randn(2, 7, D)).shape == (2, 5)
    with pytest.raises(ValueError, match="holds no classifier"):
        load_official_probes(write(make("vjepa2")))
    broken = probe(4, False)
    del broken["module.pooler.blocks.2.norm1.weight"]
    with pytest.raises(ValueError, match=r"classifiers 1.: 1 missing: pooler.blocks.2.norm1.weight"):
        load_official_probes(write({"classifiers": [probe(4, False), broken]}))
    with pytest.raises(ValueError, match="is no attentive classifier"):
        load_official_probes(write({"classifier": {"linear.weight": torch.zeros(5, D)}}))
