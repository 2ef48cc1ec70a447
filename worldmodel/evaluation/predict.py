"""Using a saved probe: from a video file to the probabilities of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.clips import ClipShape
from worldmodel.data.corpus_files import SourceConfig, find_files
from worldmodel.data.images import is_image
from worldmodel.evaluation.encoders import open_encoder
from worldmodel.evaluation.features import encode_clips
from worldmodel.evaluation.labelled import VIDEOS, Sample
from worldmodel.evaluation.views import ClipSamples, ViewConfig
from worldmodel.models.files import from_dict, load_part
from worldmodel.models.probe_files import load_probe
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.training.machine import choose_device

BATCH = 16  # clips that are encoded at a time


class Predictor:
    """A saved probe with its encoder.

    Args:
        path: The probe's directory.
        model: The encoder's model directory, where that has been moved.
        device: Where to compute.

    Attributes:
        classes: Names of the classes; empty where the probe answers by a number.

    Raises:
        FileNotFoundError: The probe or its encoder is not there.
        ValueError: A file is damaged, or the encoder has other weights than the probe was fitted on.
    """

    def __init__(self, path: str | Path, model: str | Path = "", device: str = "cpu") -> None:
        self.probe, card = load_probe(path)
        source = f"{path}/config.json"
        try:
            encoder, views = card["encoder"], from_dict(ViewConfig, card["views"], source)
            self.classes, self.layers = list(card["classes"]), list(card["layers"])
            size = from_dict(VideoEncoderConfig, card["encoder_config"], source)
        except KeyError as error:
            raise ValueError(f"{source} lacks the key {error}; fit the probe again") from error
        if "encoder" in card["parts"]:
            self.encoder = VideoEncoder(size)
            load_part(Path(path), "encoder", self.encoder)
        else:
            named = open_encoder(model or encoder["path"], encoder["weights"])
            if named.identity != encoder["identity"]:
                raise ValueError(
                    f"{path} was fitted on other weights than those in {model or encoder['path']}; give the "
                    "model that it was fitted on (model=...), or fit it again"
                )
            self.encoder = named.encoder
        self.device = device
        self.encoder.requires_grad_(False).eval().to(device)
        self.probe.to(device)
        self.views, self.shape = views, ClipShape(views.frames, views.fps, views.stride)

    def __call__(self, path: str | Path) -> dict[str, float] | float:
        """The probability of each class for a video or picture, the most probable first; or the number.

        Raises:
            ValueError, OSError: The file cannot be read.
        """
        answer = self.answers([Sample(str(path), str(path), "")])[0]
        if not self.classes:
            return float(answer[0])
        order = answer.argsort(descending=True).tolist()
        return {self.classes[row]: float(answer[row]) for row in order}

    @torch.inference_mode()
    def answers(self, samples: Sequence[Sample]) -> Tensor:
        """Probabilities of the classes (or the number), averaged over crops: ``(n, outputs)``."""
        clips = ClipSamples(list(samples), self.shape, self.views.size, self.views, self.views.crops)
        found = []
        for sample in samples:
            views = torch.from_numpy(clips.read(sample))[None]
            kind = self.probe.reads
            read = encode_clips(self.encoder, views, self.layers, "fp32", BATCH, kind == "tokens")[kind][0]
            logits = self.probe(read.float().to(self.device))
            found.append((logits.softmax(dim=-1) if self.classes else logits).mean(dim=0).cpu())
        return torch.stack(found)


def predict_files(
    probe: str | Path, data: str | Path, model: str | Path = "", device: str = "auto"
) -> dict[str, Any]:
    """Answers of a saved probe for one file, or for a folder or list of files.

    Returns:
        ``classes`` and ``answers``: by file, the probability of each class (the most probable first), or the number.

    Raises:
        FileNotFoundError: The probe, its encoder or the data are not there.
        ValueError: A file is damaged.
    """
    predictor = Predictor(probe, model, choose_device(device))
    path = Path(data).expanduser()
    single = path.is_file() and (is_image(path.name) or path.suffix.lower() in VIDEOS)
    files = [str(path)] if single else list(find_files(SourceConfig(path=str(path))).paths)
    bar = tqdm(files, desc="answers", unit="file", disable=None, leave=False)
    return {"classes": predictor.classes, "answers": {file: predictor(file) for file in bar}}
