"""Small labelled videos and a model directory for tests of probes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import torch

from worldmodel.models.pretrained import save_encoder
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

SIZE = VideoEncoderConfig(
    image_size=32, frames=4, patch_size=16, tubelet=2, width=24, depth=2, heads=2, positions="rope"
)


def write_video(
    path: Path, seed: int, colour: tuple[int, int, int], frames: int = 24, side: int = 48
) -> None:
    """A square of one colour that moves over a grey pattern."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 120, (6, 6, 1), dtype=np.uint8).repeat(side // 6, 0).repeat(side // 6, 1)
    place, speed = rng.uniform(0, side - 20, 2), rng.uniform(1, 2, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "18", "preset": "ultrafast"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = ground.repeat(3, 2)
            row, column = np.abs((place % (2 * (side - 20))) - (side - 20)).astype(int)
            picture[row : row + 20, column : column + 20] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            place = place + speed
        container.mux(stream.encode(None))


COLOURS = {"red": (230, 40, 40), "blue": (40, 40, 230)}


def write_labelled(folder: Path, per_class: int = 8) -> Path:
    """A CSV of red and blue squares."""
    lines = ["path,label"]
    for number in range(per_class):
        for label, colour in COLOURS.items():
            write_video(folder / f"videos/{label} {number}.mp4", number, colour)
            lines.append(f"videos/{label} {number}.mp4,{label}")
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_model(folder: Path, seed: int = 0) -> Path:
    """An encoder with random weights; student and EMA differ."""
    torch.manual_seed(seed)
    parts = {"encoder": VideoEncoder(SIZE), "target_encoder": VideoEncoder(SIZE)}
    save_encoder(folder, dict(parts), {"encoder": asdict(SIZE)}, "for tests\n")
    return folder
