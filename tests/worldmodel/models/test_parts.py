"""Value heads and slow levels come back from their directories, and never go with another world model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.worldmodel.objectives.moving_points import world_model
from worldmodel.models.dynamics import AdaLNDynamicsConfig, SlowConfig, build_slow
from worldmodel.models.files import directory_hash
from worldmodel.models.parts import copy_part, load_slow, load_value, save_slow, save_value
from worldmodel.models.value import ValueConfig, ValueHead

SIZE = AdaLNDynamicsConfig(width=16, depth=1, heads=2, head_width=8, mlp_hidden=16, context=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A world model's directory."""
    world_model().save(tmp_path / "model")
    return tmp_path / "model"


def test_a_value_head_comes_back_and_the_models_hash_stays(model: Path) -> None:
    name = directory_hash(model)
    head = ValueHead(ValueConfig(hidden=16, layers=2), 8)
    head.set_statistics(torch.arange(9))
    save_value(model / "value", head, name, "A card.", {"window": 8})
    back = load_value(model / "value", model)
    here, goal = torch.randn(2, 5, 1, 8)
    assert torch.equal(back(here, goal), head.eval()(here, goal)) and not back.training
    assert back.config == head.config and (model / "value" / "README.md").read_text() == "A card."
    assert json.loads((model / "value" / "config.json").read_text())["facts"] == {"window": 8}
    assert directory_hash(model) == name


def test_a_slow_level_comes_back_with_what_a_planner_needs(model: Path, tmp_path: Path) -> None:
    slow = build_slow(SlowConfig(steps=3, macro_dim=2, hidden=16), SIZE, 1, 8, 2, 2).eval()
    slow.encoder.set_statistics(torch.randn(50, 2))
    slow.encoder.set_macro_statistics(torch.randn(40, 3, 2, 2))
    save_slow(tmp_path / "run", slow, SIZE, directory_hash(model))
    copy_part(tmp_path / "run", model / "slow")
    back = load_slow(model / "slow", model)
    tokens, actions = torch.randn(2, 4, 1, 8), torch.randn(2, 4, 3, 2, 2)
    assert torch.equal(back(tokens, actions), slow(tokens, actions))
    assert torch.equal(back.encoder.macro_std, slow.encoder.macro_std)
    assert (back.context, back.encoder.config) == (2, slow.encoder.config)


def test_parts_of_another_model_or_kind_or_damaged_are_refused(model: Path, tmp_path: Path) -> None:
    name = directory_hash(model)
    save_value(tmp_path / "value", ValueHead(ValueConfig(hidden=8), 8), name)
    save_slow(tmp_path / "slow", build_slow(SlowConfig(), SIZE, 1, 8, 1, 2), SIZE, name)
    other = world_model()
    with torch.no_grad():
        other.head.reduce.weight.add_(1)
    other.save(tmp_path / "other")
    for load, part in ((load_value, "value"), (load_slow, "slow")):
        with pytest.raises(ValueError, match="was trained on the latents of another model than .*other"):
            load(tmp_path / part, tmp_path / "other")
        with pytest.raises(FileNotFoundError, match="no model at"):
            load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds a 'slow_dynamics', but a 'value_head' is needed"):
        load_value(tmp_path / "slow")
    file = tmp_path / "slow" / "config.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "dynamics": {"kind": "magic"}}))
    with pytest.raises(ValueError, match="dynamics is of kind 'magic'; this version knows mlp, gru"):
        load_slow(tmp_path / "slow")
    file.write_text(json.dumps({key: value for key, value in about.items() if key != "width"}))
    with pytest.raises(ValueError, match="lacks the key width; train it again"):
        load_slow(tmp_path / "slow")
    (tmp_path / "value" / "value.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no part value \(value.safetensors is missing\)"):
        load_value(tmp_path / "value", model)
