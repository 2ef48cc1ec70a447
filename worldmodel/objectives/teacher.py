"""Frozen teachers: encoders on disk, of any objective, whose features are targets."""

from __future__ import annotations

import torch

from worldmodel.models.pretrained import load_encoder
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.targets import frozen_copy
from worldmodel.seeding import keyed_rng


def load_teacher(path: str, encoder: VideoEncoder, seed: int) -> VideoEncoder:
    """The encoder in the model directory ``path``, without gradients and in evaluation mode.

    Its width may be any. Without a path it is an encoder of the student's size with random weights of its own, keyed by
    ``seed``: dBOT's first teacher (2209.03735).

    Args:
        path: ``RUN/model``, or empty.
        encoder: The student.
        seed: Of the run.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It has another token grid than the student.
    """
    if not path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(keyed_rng("teacher", seed).integers(2**63)))
            return frozen_copy(VideoEncoder(encoder.config))
    teacher = load_encoder(path)
    for key in ("patch_size", "tubelet"):  # a grid of the same shape of other patches is another grid
        theirs, mine = getattr(teacher.config, key), getattr(encoder.config, key)
        if theirs != mine:
            raise ValueError(
                f"the teacher {path} has {key}={theirs}, the encoder {mine}; set encoder.{key}={theirs}"
            )
    return teacher.requires_grad_(False)
