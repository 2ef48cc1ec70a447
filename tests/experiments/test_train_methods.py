"""Every published method at a toy size: it trains, is saved, comes back, and plans; and its published size composes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.cli import main
from experiments.settings import compose_settings
from experiments.train import SCHEMAS, Config
from experiments.world_models import build
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.models.dynamics import Ensemble, MLPDynamicsConfig
from worldmodel.models.world_model import ActionSpec, ProprioSpec, WorldModel, WorldModelConfig

METHODS = sorted(path.stem for path in Path("configs/method").glob("*.yaml"))
TINY = [
    "encoder.width=24",
    "encoder.depth=1",
    "encoder.heads=2",
    "encoder.patch_size=16",
    "encoder.image_size=32",
]
SMALL = {
    "projector": ["head.hidden=16", "head.width=12"],
    "token": ["head.per_token=4", "head.hidden=16", "head.width=8"],
    "patches": [],
}
BLOCKS = ["dynamics.depth=1", "dynamics.heads=1", "dynamics.head_width=12", "dynamics.mlp_hidden=16"]
DYNAMICS = {
    "mlp": ["dynamics.hidden=16"],
    "gru": [],
    "adaln": [*BLOCKS, "dynamics.width=12"],
    "concat": BLOCKS,
    "block_causal": [*BLOCKS, "dynamics.width=12"],
    "prefix": [*BLOCKS, "dynamics.width=12", "dynamics.layers=1", "dynamics.hidden=16", "dynamics.fusion=8"],
}
SHORT = [
    "loop.steps=2",
    "loop.batch_size=4",
    "loop.precision=fp32",
    "threads=1",
    "held_out=0.2",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of a made-up robot with three actions and four values of proprioception."""
    path = tmp_path_factory.mktemp("robot")
    meta = {"env_id": "robot", "fps": 10, "action_low": [-1.0] * 3, "action_high": [1.0, 2.0, 3.0],
            "action_names": ["x", "y", "grip"], "proprio_names": ["a", "b", "c", "d"]}  # fmt: skip
    writer = EpisodeWriter(path, meta)
    for index in range(10):
        rng = np.random.default_rng(index)
        arrays: dict[str, np.ndarray] = {
            "frames": rng.integers(0, 256, (45, 3, 32, 32), dtype=np.uint8),
            "actions": rng.uniform(-1, 1, (44, 1, 3)).astype(np.float32),
            "proprio": rng.normal(size=(45, 4)).astype(np.float32),
        }
        writer.write(index, arrays)
    return path


def compose(overrides: list[str]) -> Config:
    config = compose_settings("train", Config, overrides, schemas=SCHEMAS).to_object()
    assert isinstance(config, Config)
    return config


def given(method: str) -> list[str]:
    """What a method needs beside the data; here only so that its settings are complete."""
    if method in ("dino_wm", "jepa_wm"):
        return ["backbone_from=x"]
    return ["encoder_from=x"] if method in ("vjepa2_ac", "vjepa_head", "none") else []


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_comes_back(data: Path, tmp_path: Path, method: str) -> None:
    full = compose(["data=x", f"method={method}", *given(method)])
    head, dynamics = (
        next(kind for kind, found in SCHEMAS.items() if found is type(part)).partition("/")[2]
        for part in (full.head, full.dynamics)
    )
    variant = ["variant=untrained"] if full.variant == "frozen" else []
    window = ["window=4", "objective.rollout_steps=0"] if full.window > 8 else []
    out = tmp_path / "run"
    code = main(["train", f"data={data}", f"method={method}", f"out={out}", *TINY, *variant, *window,
                 *SMALL[head], *DYNAMICS[dynamics], "objective.directions=8", *SHORT])  # fmt: skip
    assert code == 0
    model = WorldModel.load(out / "model")
    assert model.config.actions.per_step == full.action_block
    assert model.config.actions.names == ["x", "y", "grip"] and model.takes_proprio == full.proprio
    frames = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    latent = model.encode(frames, torch.zeros(1, 4) if full.proprio else None)
    plans = torch.zeros(1, 5, 3, full.action_block, 3)
    assert model.rollout(latent[:, None], plans[:, 0, :0], plans).shape == (1, 5, 3, *latent.shape[1:])
    assert "after 1 step" in (out / "model" / "README.md").read_text()


def test_an_ensemble_by_one_setting(data: Path, tmp_path: Path) -> None:
    """Members begin apart, each learns by itself, and what they disagree about comes with the model."""
    given = ["variant=end_to_end", "members=3", *TINY, *SMALL["token"], *DYNAMICS["mlp"], *SHORT]
    assert main(["train", f"data={data}", f"out={tmp_path}/run", *given]) == 0
    model = WorldModel.load(tmp_path / "run/model")
    ensemble = model.dynamics
    assert isinstance(ensemble, Ensemble) and len(ensemble.members) == model.config.members == 3
    latent = model.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[:, None]
    plans = torch.zeros(1, 5, 3, 1, 3)
    each = ensemble.rollout_members(latent, plans[:, 0, :0], plans)
    torch.testing.assert_close(model.rollout(latent, plans[:, 0, :0], plans), each.mean(dim=0))
    assert (ensemble.disagreement(each) > 1e-3).all()
    assert torch.equal(ensemble.members[0].action_mean, ensemble.members[2].action_mean)


def test_a_backbone_from_a_directory(data: Path, tmp_path: Path) -> None:
    """DINO-WM on a small DINOv2 with random weights; the model directory then needs the backbone's no more."""
    transformers = pytest.importorskip("transformers")
    size = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    transformers.Dinov2Model(transformers.Dinov2Config(**size)).save_pretrained(tmp_path / "dino")
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_normalize": True}
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(pixels))
    out = tmp_path / "run"
    code = main(["train", f"data={data}", "method=dino_wm", f"backbone_from={tmp_path / 'dino'}", "backbone_size=28",
                 f"out={out}", *BLOCKS, *SHORT])  # fmt: skip
    assert code == 0
    shutil.rmtree(tmp_path / "dino")
    latent = WorldModel.load(out / "model").encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert latent.shape == (2, 4, 24)


def test_published_sizes(data: Path) -> None:
    """LeWM's released checkpoint has 11.6 million parameters in the predictor and its projection."""
    config = compose(["data=x", "method=lewm", "encoder.image_size=32", "encoder.patch_size=16"])
    model = build(config, EpisodeStore(data), range(8))
    predictor = sum(p.numel() for p in model.dynamics.parameters())
    assert abs(predictor - 11_740_334) < 1000, (
        "beside the actions, of which PushT has two and this robot three"
    )
    config = compose(["data=x", "method=lewm"])
    assert (config.encoder.patch_size, config.encoder.image_size, config.window) == (14, 224, 3)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["variant=end_to_end", *TINY, "proprio=true"],
            "proprio=true, but {data} has none, only actions, frames",
        ),
        (
            ["variant=end_to_end"],
            "frames of {data} have 32 x 32 pixels, encoder.image_size=64; set encoder.image_size=32",
        ),
        (
            ["variant=end_to_end", *TINY, "action_block=9"],
            "no episode has the 36 steps of window=4 action_block=9",
        ),
        (["variant=end_to_end", *TINY, "encoder_window=3"], "encoder_window=3 must be 1 or a multiple of"),
        (
            ["variant=end_to_end", *TINY, "encoder_window=32"],
            "encoder_window=32, but the encoder sees 8 frames",
        ),
        (
            ["variant=untrained", *TINY, "head=patches"],
            "objective.sigreg=0.02 shapes the latent, but head=patches",
        ),
        (["variant=frozen", "encoder_from=a", "backbone_from=b"], "two encoders; give one of them"),
        (
            ["variant=end_to_end", *TINY, "objective.rollout_steps=5"],
            "need a longer window than 4; set window=5",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    path = tmp_path / "plain"
    writer = EpisodeWriter(path, {"env_id": "robot", "action_low": [-1.0], "action_high": [1.0]})
    for index in range(5):
        frames = np.zeros((13, 3, 32, 32), np.uint8)
        writer.write(index, {"frames": frames, "actions": np.zeros((12, 1, 1), np.float32)})
    out = tmp_path / "run"
    assert main(["train", f"data={path}", f"out={out}", *overrides, *SHORT]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.format(data=path) in error
    assert not (out / "model").exists()


def test_bounds_that_are_not_the_actions(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would have been broadcast: a planner that searches one dimension of three."""
    shutil.copytree(data, tmp_path / "copy")
    meta = json.loads((tmp_path / "copy" / "meta.json").read_text())
    (tmp_path / "copy" / "meta.json").write_text(json.dumps({**meta, "action_low": [-1.0]}))
    assert main(["train", f"data={tmp_path / 'copy'}", "variant=end_to_end", *TINY, *SHORT]) == 2
    error = capsys.readouterr().err
    assert "action_low in meta.json has 1 values, actions of episode 0 have 3 dimensions" in error


def test_a_card_says_what_was_held_out_and_no_episode_is_too_short_for_it(tmp_path: Path) -> None:
    """A context longer than the held-out episodes failed after the training, and no model was saved."""
    writer = EpisodeWriter(tmp_path / "data", {"env_id": "robot", "action_low": [-1.0], "action_high": [1.0]})
    for index in range(5):
        frames, actions = np.zeros((7, 3, 32, 32), np.uint8), np.zeros((6, 1, 1), np.float32)
        arrays: dict[str, np.ndarray] = {"frames": frames, "actions": actions}
        writer.write(index, arrays)
    out = tmp_path / "run"
    settings = [*TINY, *DYNAMICS["block_causal"], "dynamics=block_causal", "dynamics.context=8", *SHORT]
    assert main(["train", f"data={tmp_path / 'data'}", "variant=end_to_end", f"out={out}", *settings]) == 0
    card = (out / "model" / "README.md").read_text()
    assert "2 steps on 4 episodes, and 1 held out" in card and "| model |" in card


def test_what_an_agent_cannot_give_is_said(tiny_model: WorldModel) -> None:
    from experiments.agents import latent_agent, simulator_latent_policy
    from planners.cem import CEMConfig
    from planners.costs import GoalCostConfig
    from planners.mpc import MPCConfig

    search = (CEMConfig(), GoalCostConfig(), MPCConfig())
    with pytest.raises(ValueError, match="sees 2 frames at each step, but agent=simulator_latent shows it"):
        simulator_latent_policy("worldmodel/TwoRoom-v0", tiny_model, *search)
    spec = dataclasses.replace(tiny_model.config, proprio=ProprioSpec(dim=1))
    with pytest.raises(ValueError, match="sees proprioception, but worlds give agents pictures only"):
        latent_agent(WorldModel(spec), *search)


def test_the_first_plans_spread_as_the_data_or_as_the_bounds() -> None:
    from experiments.agents import latent_agent
    from planners.cem import CEMConfig
    from planners.costs import GoalCostConfig
    from planners.mpc import MPCConfig

    spec = ActionSpec(low=[-1, 0], high=[1, 4], mean=[0.1, 1], std=[0.3, 0.4])
    model = WorldModel(WorldModelConfig(actions=spec, dynamics=MLPDynamicsConfig(context=2)))
    common = (model, CEMConfig(), GoalCostConfig(), MPCConfig(), "cpu")
    agent = latent_agent(*common)
    assert agent.history == 2, "a model of two latents is shown two"
    assert agent.init_std.tolist() == pytest.approx([0.3, 0.4])
    agent = latent_agent(*common, "bounds")
    assert agent.init_mean.tolist() == [0, 2] and agent.init_std.tolist() == [1, 2]
    spec.high[1] = float("inf")
    with pytest.raises(ValueError, match="init_std=bounds needs finite action bounds"):
        latent_agent(*common, "bounds")


@pytest.fixture
def tiny_model() -> WorldModel:
    """It sees two frames at each step."""
    spec = ActionSpec(low=[-1], high=[1], mean=[0], std=[1])
    return WorldModel(WorldModelConfig(actions=spec, window=2)).eval()
