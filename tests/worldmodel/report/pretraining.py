"""A pretraining's run in miniature, made by code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.atomic import write_json
from worldmodel.masks import MaskConfig
from worldmodel.models.pretrained import save_encoder
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.report.retrieval import ClipBank

CONFIG = VideoEncoderConfig(image_size=32, frames=4, patch_size=8, tubelet=2, width=48, depth=2, heads=2)


def make_encoder(seed: int = 0, **changes: Any) -> VideoEncoder:
    torch.manual_seed(seed)
    return VideoEncoder(VideoEncoderConfig(**{**asdict(CONFIG), **changes})).eval()


def make_frames(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """A bright square that crosses a textured ground of a colour of its own."""
    rng = np.random.default_rng(seed)
    ground = (rng.integers(0, 150, (3, 1, 1)) + rng.integers(0, 40, (3, height, width))).astype(np.uint8)
    frames = np.repeat(ground[None], count, axis=0)
    for t, frame in enumerate(frames):
        left = 2 * t % (width - 10)
        frame[:, 8:18, left : left + 10] = 230
    return frames


def make_bank(videos: int = 3, clips: int = 4) -> ClipBank:
    """Clips of a few videos, each with its own ground, 2 seconds apart."""
    frames = [make_frames(4 * clips, seed=v).reshape(clips, 4, 3, 32, 32) for v in range(videos)]
    names = tuple(f"video{v}" for v in range(videos) for _ in range(clips))
    return ClipBank(np.concatenate(frames), names, tuple(2.0 * i for i in range(clips)) * videos, fps=4.0)


def make_rows(steps: int = 100, scale: float = 1.0) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(0, steps, 2):
        row = {
            "step": step,
            "loss": scale / (1 + step / 20),
            "grad_norm": 1.0,
            "lr": 1e-3,
            "weight_decay": 0.04,
        }
        if step % 10 == 0:
            row |= {"token_std": 0.5, "token_rank": 20.0, "clip_rank": 5.0, "predict_mean_loss": 0.8 * scale}
        rows.append(row)
    return rows


def make_run(path: Path, *, lr: float = 1e-3, model: bool = True, scale: float = 1.0) -> Path:
    """A directory as ``worldmodel pretrain`` leaves it."""
    path.mkdir(parents=True)
    config = {
        "seed": 3,
        "encoder": asdict(CONFIG),
        "mask": {"short": asdict(MaskConfig(kind="random", ratio=0.5))},
        "objective": {"loss": "l1", "target_norm": "layer"},
        "loop": {"steps": 100, "batch_size": 8, "lr": lr},
        "out": str(path),
    }
    write_json(path / "config.json", config)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(scale=scale)))
    write_json(path / "done.json", {"steps": 100, "seconds": 80.0})
    write_json(path / "machine.json", {"device": "cpu"})
    if model:
        parts = {"encoder": make_encoder(1), "target_encoder": make_encoder(2)}
        save_encoder(path / "model", parts, {"encoder": asdict(CONFIG)}, "card\n")
    return path


def write_probe(path: Path, accuracy: float, control: float) -> None:
    """A ``results.json`` of a probing with a control."""

    def scores(value: float) -> dict[str, Any]:
        return {"accuracy": value, "interval": [value - 0.1, value + 0.1]}

    comparison = {
        "difference": accuracy - control,
        "interval": [0.01, 0.3],
        "mcnemar": {"only_first": 9, "only_second": 1, "p": 0.02},
        "intervals_apart": True,
        "better": True,
    }
    found = {"pretrained": scores(accuracy), "untrained": scores(control), "comparison": comparison}
    path.mkdir(parents=True)
    write_json(path / "results.json", {"test": 50, "target": "class", "probes": {"linear": found}})
