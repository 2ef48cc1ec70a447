"""A demo's run in miniature, made by code: 10 tasks, 32 x 32 pixels, untrained models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.atomic import write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.masks import MaskConfig
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.pretrained import save_encoder
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.report.artefacts import DemoRun

#: Successes of 10 tasks, and their Wilson intervals.
OUTCOMES = {
    "vjepa": (7, [0.40, 0.89]),
    "untrained_encoder": (6, [0.31, 0.83]),
    "end_to_end": (8, [0.49, 0.94]),
    "simulator": (10, [0.72, 1.0]),
    "random": (0, [0.0, 0.28]),
    "noop": (0, [0.0, 0.28]),
}


def make_results(name: str, successes: int, interval: list[float]) -> dict[str, object]:
    """What ``worldmodel plan`` writes; task ``i`` is solved in ``10 + i`` steps if ``i < successes``."""
    tasks = [
        {
            "id": i,
            "label": "other room" if i % 3 != 1 else "same room",
            "success": i < successes,
            "steps": 10 + i if i < successes else 20,
            "start_distance": 1.0 + 0.1 * i,
            "final_distance": 0.05 if i < successes else 0.8,
            "seconds_per_decision": 0.0125,
        }
        for i in range(10)
    ]
    door = [task["success"] for task in tasks if task["label"] == "other room"]
    return {
        "agent": name,
        "suite": "abc",
        "successes": successes,
        "episodes": 10,
        "interval": interval,
        "other_room": [sum(bool(x) for x in door), len(door)],
        "seconds_per_decision": 0.0125,
        "tasks": tasks,
    }


def write_plan(path: Path, name: str, successes: int, interval: list[float]) -> None:
    """A plan directory with the pictures of all its tasks."""
    results = make_results(name, successes, interval)
    (path / f"plan_{name}" / "episodes").mkdir(parents=True)
    write_json(path / f"plan_{name}" / "results.json", results)
    write_json(path / f"plan_{name}" / "machine.json", {"device": "cpu", "threads": 1})
    for task in results["tasks"]:  # type: ignore[attr-defined]
        frames = np.full((task["steps"] + 1, 3, 32, 32), 240, dtype=np.uint8)
        for t, frame in enumerate(frames):
            frame[1:, 4:10, t : t + 6] = 30
        file = path / f"plan_{name}" / "episodes" / f"{task['id']:04d}.npz"
        np.savez_compressed(file, frames=frames, goal=frames[-1])


def write_train(path: Path, name: str, model: WorldModel) -> None:
    """A world model's run directory."""
    rows = [
        {"step": step, "loss": 3.0, "teacher_forcing": 0.5, "rollout": 0.6, "sigreg": 2.0} for step in (0, 20)
    ]
    rows[1] |= {"latent_std": 1.0, "latent_rank": 7.0, "open_loop_error": 0.2, "copy_last_error": 0.8}
    (path / name).mkdir()
    (path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(path / name / "done.json", {"open_loop": {"model": [0.2, 0.3], "copy_last": [0.4, 0.9]}})
    write_json(path / name / "machine.json", {"device": "cpu", "precision": "fp32", "threads": 1})
    model.save(path / name / "model")


@pytest.fixture
def demo(
    tmp_path: Path, store: EpisodeStore, tiny_encoder: VideoEncoderConfig, tiny_world_model: WorldModel
) -> DemoRun:
    """A finished demo in ``tmp_path``; ``store`` has put its 12 episodes into ``tmp_path/data``."""
    torch.manual_seed(0)
    encoder = VideoEncoder(tiny_encoder)
    predictor_config = MaskedPredictorConfig(width=12, depth=1, heads=2)
    parts = {
        "encoder": encoder,
        "target_encoder": encoder,
        "predictor": MaskedPredictor(predictor_config, encoder.grid, encoder.width),
    }
    save_encoder(tmp_path / "pretrain" / "model", parts, {"encoder": vars(tiny_encoder)}, "")
    write_json(
        tmp_path / "pretrain" / "config.json",
        {"mask": {"random_tube": vars(MaskConfig())}, "seed": 0, "stride": 1, "held_out": 0.2},
    )
    row = {"step": 0, "loss": 0.8, "lr": 1e-3, "token_std": 0.6, "token_rank": 9.0, "clip_rank": 4.0}
    (tmp_path / "pretrain" / "metrics.jsonl").write_text(json.dumps({**row, "predict_mean_loss": 0.7}) + "\n")
    for name in ("vjepa", "untrained_encoder", "end_to_end"):
        write_train(tmp_path, f"train_{name}", tiny_world_model)
    for name, (successes, interval) in OUTCOMES.items():
        write_plan(tmp_path, name, successes, interval)
    stages = [
        {
            "name": "collect",
            "what": "Pixels & actions.",
            "command": 'worldmodel collect out="<script>"',
            "seconds": 30.0,
        },
        {
            "name": "pretrain",
            "what": "V-JEPA.",
            "command": "worldmodel pretrain data=runs/demo/data",
            "seconds": 60.0,
        },
    ]
    write_json(tmp_path / "stages.json", stages)
    return DemoRun(tmp_path)


@pytest.fixture(scope="session")
def fake() -> Any:
    """The module ``pretraining.py`` beside this file: pretraining runs made by code."""
    spec = importlib.util.spec_from_file_location("pretraining", Path(__file__).with_name("pretraining.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
