"""World models: use, round trip, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel.models.files import directory_hash
from worldmodel.models.world_model import WorldModel


def test_a_saved_model_loads_and_predicts_the_same(tiny_world_model: WorldModel, tmp_path: Path) -> None:
    model = tiny_world_model
    model.head.set_statistics(torch.randn(50, 16, 24) + 3)
    model.dynamics.set_statistics(torch.randn(50, 1, 2) * 2 + 1)
    model.save(tmp_path / "model", "A card.\n")
    loaded = WorldModel.load(tmp_path / "model")
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    plans = torch.randn(2, 5, 4, 1, 2)
    context = model.encode(frames)[:, None]
    assert torch.equal(loaded.encode(frames)[:, None], context)
    assert torch.equal(
        loaded.rollout(context, plans[:, 0, :0], plans), model.rollout(context, plans[:, 0, :0], plans)
    )
    assert loaded.config == model.config
    assert (tmp_path / "model/README.md").read_text() == "A card.\n"
    assert directory_hash(tmp_path / "model") == directory_hash(tmp_path / "model")


def test_latents_of_a_sequence_are_those_of_its_frames(tiny_world_model: WorldModel) -> None:
    frames = torch.randint(0, 256, (2, 5, 3, 32, 32), dtype=torch.uint8)
    together = tiny_world_model.encode(frames)
    assert together.shape == (2, 5, 1, 8)
    torch.testing.assert_close(together[:, 3], tiny_world_model.encode(frames[:, 3]), atol=1e-5, rtol=1e-5)


def test_actions_of_another_dimension_are_refused(tiny_world_model: WorldModel) -> None:
    context = torch.zeros(1, 1, 1, 8)
    with pytest.raises(ValueError, match="actions have 3 dimensions, this world model was trained with 2"):
        tiny_world_model.rollout(context, torch.zeros(1, 0, 1, 3), torch.zeros(1, 2, 4, 1, 3))


def test_every_missing_unexpected_and_misshapen_tensor_is_reported(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    tiny_world_model.save(tmp_path)
    file = tmp_path / "dynamics.safetensors"
    tensors = load_file(file)
    tensors["mlp.0.weight"] = tensors["mlp.0.weight"][:, :-1].contiguous()
    tensors["extra"] = tensors.pop("mlp.0.bias")
    save_file(tensors, file)
    with pytest.raises(ValueError) as error:
        WorldModel.load(tmp_path)
    for text in (
        "dynamics.safetensors",
        "mlp.0.bias is missing",
        "extra is unexpected",
        "mlp.0.weight has shape (16, 9)",
    ):
        assert text in str(error.value)


def test_no_part_of_a_configuration_is_filled_in_silently(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    """A model whose config.json had lost heads and pixel_mean loaded with the defaults, and saw other things."""
    tiny_world_model.save(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    for section, key in (("encoder", "heads"), ("actions", "std"), (None, "dynamics")):
        config = json.loads(json.dumps(whole))
        del (config[section] if section else config)[key]
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"lacks the key {key}"):
            WorldModel.load(tmp_path)


def test_gradients_reach_the_plans(tiny_world_model: WorldModel) -> None:
    context = tiny_world_model.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[:, None]
    plans = torch.zeros(1, 2, 3, 1, 2, requires_grad=True)
    tiny_world_model.rollout(context, plans[:, 0, :0].detach(), plans).square().sum().backward()
    assert plans.grad is not None
    assert (plans.grad[:, :, 0] != 0).any()


def test_the_heads_statistics_go_to_its_own_device(tiny_world_model: WorldModel) -> None:
    """Tokens come from the disk, so from the CPU; a head on a GPU crashed."""
    head = tiny_world_model.head.to("meta")
    head.set_statistics(torch.randn(5, 16, 24))
    assert head.token_mean.device.type == "meta"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"kind": "video_encoder"}, "holds a 'video_encoder', but a 'world_model'"),
        ({"kind": "os.system"}, "holds a 'os.system', but a 'world_model'"),
        ({"head": {"width": 8, "depth": 3}}, "TokenHeadConfig has no key depth"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tiny_world_model: WorldModel, tmp_path: Path, change: dict, message: str
) -> None:
    tiny_world_model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        WorldModel.load(tmp_path)


def test_a_missing_model_part_or_damaged_file_is_a_clear_error(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no model at"):
        WorldModel.load(tmp_path / "nowhere")
    tiny_world_model.save(tmp_path / "run/model")
    with pytest.raises(FileNotFoundError, match=r"run is a run, not a model; give .*run/model"):
        WorldModel.load(tmp_path / "run")
    tiny_world_model.save(tmp_path)
    assert (tmp_path / "head.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode
    (tmp_path / "head.safetensors").write_bytes(b"\x80\x04not a tensor file")
    with pytest.raises(ValueError, match=r"head.safetensors is damaged"):
        WorldModel.load(tmp_path)
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no part head"):
        WorldModel.load(tmp_path)
