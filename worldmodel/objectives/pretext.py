"""Pretext tasks: clips are changed in a known way, and a classifier on the encoder's features tells how.

Clip -> pieces, drawn with a label -> encoder, each piece by itself -> mean tokens side by side -> classifier ->
cross-entropy. Labels come from the draw, so nothing can collapse; what has to be prevented are shortcuts, such as edges
that go on from one piece to the next. Rotation, jigsaw, context prediction and temporal order are four ways to draw.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.mlp import MLPConfig, make_mlp
from worldmodel.objectives.views import ViewConfig, draw_view
from worldmodel.seeding import keyed_rng
from worldmodel.training.monitors import feature_monitors

#: Permutations are chosen among all of them, or among so many random ones where there are more.
_CANDIDATES = 10_000
#: Permutations to tell apart at most, the paper's most.
_MOST = 1000


@dataclass
class PretextConfig(ObjectiveConfig):
    """What all pretext tasks have; each is a class of its own."""

    #: How a clip is cropped and its colours are changed before the task is drawn.
    view: ViewConfig = field(default_factory=lambda: ViewConfig(scale=[0.6, 1.0]))
    #: Features of the classifier's hidden layer.
    hidden: int = 256

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"objective.hidden={self.hidden} must be at least 1")
        if self.view.count != 1:
            raise ValueError(f"objective.view.count={self.view.count}: a pretext task has one view; set 1")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        return PretextTask(encoder, self, seed)

    def sizes(self, encoder: VideoEncoderConfig) -> tuple[int, int]:
        """How many pieces and how many labels there are.

        Raises:
            ValueError: The encoder's clips are too small or too short for the task.
        """
        raise NotImplementedError

    def ask(self, clip: Tensor, draws: list[Generator], size: VideoEncoderConfig) -> tuple[Tensor, list[int]]:
        """Pieces ``(B, pieces, T', C, H', W')`` of ``clip (B, T, C, H, W)``, and each sample's label.

        Args:
            clip: Float in [0, 1].
            draws: One generator per sample.
            size: Of the encoder: pieces are whole patches and tubelets.
        """
        raise NotImplementedError


@dataclass
class RotationConfig(PretextConfig):
    """By which of four right angles is the clip turned? (Gidaris et al. 2018, 1803.07728)"""

    def sizes(self, encoder: VideoEncoderConfig) -> tuple[int, int]:
        return 1, 4

    def ask(self, clip: Tensor, draws: list[Generator], size: VideoEncoderConfig) -> tuple[Tensor, list[int]]:
        labels = [int(rng.integers(4)) for rng in draws]
        turned = [torch.rot90(one, label, (-2, -1)) for one, label in zip(clip, labels, strict=True)]
        return torch.stack(turned)[:, None], labels


@dataclass
class ContextPredictionConfig(PretextConfig):
    """Which of its eight neighbours is a patch, seen from the one in the middle? (Doersch et al. 2015, 1505.05192)"""

    #: Share of a cell's side that is left out at least; the piece lies somewhere in the rest.
    gap: float = 0.1

    def sizes(self, encoder: VideoEncoderConfig) -> tuple[int, int]:
        piece_side(encoder.image_size, encoder.patch_size, 3, self.gap)
        return 2, 8

    def ask(self, clip: Tensor, draws: list[Generator], size: VideoEncoderConfig) -> tuple[Tensor, list[int]]:
        labels = [int(rng.integers(8)) for rng in draws]
        cells = cut_cells(clip, draws, 3, piece_side(clip.shape[-1], size.patch_size, 3, self.gap))
        neighbour = [label + (label >= 4) for label in labels]  # cell 4 is the middle
        return _pick(cells, np.array([(4, cell) for cell in neighbour])), labels


@dataclass
class JigsawConfig(PretextConfig):
    """In which order are the pieces of a puzzle? (Noroozi & Favaro 2016, 1603.09246)"""

    #: Pieces along each side.
    cells: int = 3
    #: Share of a cell's side that is left out at least; the piece lies somewhere in the rest.
    gap: float = 0.1
    #: Orders to tell apart, chosen far apart from each other.
    permutations: int = 100
    #: Give every piece the same mean and spread, so that brightness alone does not tell which ones were neighbours.
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells < 2 or not 2 <= self.permutations <= min(_MOST, math.factorial(self.cells**2)):
            raise ValueError(
                f"objective.permutations={self.permutations} must be 2 to {_MOST}, and at most the orders of "
                f"cells={self.cells} (2 or more) squared pieces"
            )

    def sizes(self, encoder: VideoEncoderConfig) -> tuple[int, int]:
        piece_side(encoder.image_size, encoder.patch_size, self.cells, self.gap)
        return self.cells**2, self.permutations

    def ask(self, clip: Tensor, draws: list[Generator], size: VideoEncoderConfig) -> tuple[Tensor, list[int]]:
        labels = [int(rng.integers(self.permutations)) for rng in draws]
        side = piece_side(clip.shape[-1], size.patch_size, self.cells, self.gap)
        orders = far_permutations(self.cells**2, self.permutations)[labels]
        pieces = _pick(cut_cells(clip, draws, self.cells, side), orders)
        if self.normalise:
            var, mean = torch.var_mean(pieces, dim=(2, 3, 4, 5), keepdim=True, correction=0)
            pieces = 0.5 + 0.2 * (pieces - mean) / (var.sqrt() + 0.01)
        return pieces, labels


@dataclass
class TemporalOrderConfig(PretextConfig):
    """In which order are frames of a clip? (Misra et al. 2016, 1603.08561; as sorting: Lee et al. 2017, 1708.01246)

    An order and its reverse are one answer, as in both papers: much of what happens also happens backwards.
    """

    #: Frames to sort, drawn from the clip; there are frames! / 2 answers.
    frames: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 3 <= self.frames <= 5:
            raise ValueError(f"objective.frames={self.frames} must be 3, 4 or 5 (60 answers)")

    def sizes(self, encoder: VideoEncoderConfig) -> tuple[int, int]:
        if encoder.frames < self.frames:
            raise ValueError(f"objective.frames={self.frames} needs encoder.frames={self.frames} or more")
        return self.frames, math.factorial(self.frames) // 2

    def ask(self, clip: Tensor, draws: list[Generator], size: VideoEncoderConfig) -> tuple[Tensor, list[int]]:
        orders = [order for order in permutations(range(self.frames)) if order[0] < order[-1]]
        places, labels = [], []
        for rng in draws:
            when = np.sort(rng.permutation(clip.shape[1])[: self.frames])
            labels.append(int(rng.integers(len(orders))))
            order = orders[labels[-1]]
            places.append(when[list(order if rng.integers(2) else order[::-1])])
        frames = _pick(clip, np.stack(places))
        return frames[:, :, None].expand(-1, -1, size.tubelet, -1, -1, -1), labels


class PretextTask(Objective):
    """Encoder of each piece by itself, and a classifier of their mean tokens side by side.

    Args:
        encoder: The network to pretrain.
        config: The task.
        seed: Keys what is drawn.
    """

    def __init__(self, encoder: VideoEncoder, config: PretextConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.encoder = config, seed, encoder
        pieces, labels = config.sizes(encoder.config)
        size = MLPConfig(layers=2, hidden=config.hidden, width=labels, norm="layer")
        self.classifier = make_mlp(size, pieces * encoder.width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pieces, labels = self.question(batch)
        return {"loss": F.cross_entropy(self.answer(pieces), labels)}

    def question(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pieces ``(B, n, T', C, H', W')`` of each clip, and labels ``(B,)``."""
        size = self.encoder.config
        clip = draw_view(batch.views[0], batch.ids, self.seed, 0, self.config.view, size.patch_size)
        draws = [keyed_rng("pretext", self.seed, index) for index in batch.ids]
        pieces, labels = self.config.ask(clip, draws, size)
        return pieces, torch.tensor(labels, device=clip.device)

    def answer(self, pieces: Tensor) -> Tensor:
        """Logits ``(B, labels)`` in float32 of what :meth:`question` asks."""
        tokens = self.encoder.encode(pieces.flatten(0, 1)).mean(dim=(1, 2))
        logits: Tensor = self.classifier(tokens.unflatten(0, pieces.shape[:2]).flatten(1))
        return logits.float()

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; ``accuracy`` of the answers, and that of guessing."""
        figures = feature_monitors(self.encoder.encode(batch.views[0]).float().flatten(1, 2))
        pieces, labels = self.question(batch)
        logits = self.answer(pieces)
        right = (logits.argmax(dim=1) == labels).float().mean()
        return figures | {"accuracy": float(right), "chance_accuracy": 1 / logits.shape[1]}


def piece_side(side: int, patch: int, cells: int, gap: float) -> int:
    """Pixels of a piece's side: as many whole patches as a cell holds, less the gap.

    Args:
        side: Of the picture.
        patch: Of the encoder.
        cells: Cells along the side.
        gap: Share of a cell's side that is left out at least.

    Raises:
        ValueError: Not even one patch fits.
    """
    if not 0 <= gap < 1:
        raise ValueError(f"objective.gap={gap} must be at least 0 and below 1")
    cell = side // cells
    pixels = int(cell * (1 - gap)) // patch * patch
    if not pixels:
        raise ValueError(
            f"{cells} x {cells} cells of a picture of {side} pixels hold no patch of {patch} pixels and "
            f"objective.gap={gap}; lower encoder.patch_size or raise encoder.image_size"
        )
    return pixels


def cut_cells(clip: Tensor, draws: list[Generator], cells: int, side: int) -> Tensor:
    """A square of ``side`` pixels from somewhere in each cell of ``clip (B, T, C, H, W)``, the same in all its frames.

    Returns:
        ``(B, cells * cells, T, C, side, side)``, row by row.
    """
    b, _, _, height, width = clip.shape
    spare = (height // cells - side, width // cells - side)
    corners = np.stack([rng.integers(0, [s + 1 for s in spare], (cells**2, 2)) for rng in draws])
    corners += np.stack(np.divmod(np.arange(cells**2), cells), 1) * [height // cells, width // cells]
    places = torch.from_numpy(corners).to(clip.device)[..., None] + torch.arange(side, device=clip.device)
    rows, columns = places[:, :, 0, :, None], places[:, :, 1, None, :]
    samples = torch.arange(b, device=clip.device).view(b, 1, 1, 1)
    return clip.permute(0, 3, 4, 1, 2)[samples, rows, columns].permute(0, 1, 4, 5, 2, 3)


@lru_cache(maxsize=8)
def far_permutations(length: int, count: int) -> np.ndarray:
    """``(count, length)``: permutations that differ from each other at many places (1603.09246, algorithm 1).

    Each is the one farthest from its nearest among those before it; of several, the one farthest from all on average.
    """
    rng = keyed_rng("permutations", length)
    if math.factorial(length) <= _CANDIDATES:
        every = rng.permutation(np.array(list(permutations(range(length))), dtype=np.int64))
    else:
        every = np.unique(np.argsort(rng.random((_CANDIDATES, length)), axis=1), axis=0)
    chosen, nearest, total = [0], np.full(len(every), length), np.zeros(len(every))
    while len(chosen) < count:
        gaps = (every != every[chosen[-1]]).sum(axis=1)
        nearest, total = np.minimum(nearest, gaps), total + gaps
        chosen.append(int(np.argmax(nearest + total / (total.max() + 1))))
    return every[chosen]


def _pick(rows: Tensor, places: np.ndarray) -> Tensor:
    """``rows (B, N, ...)`` at ``places (B, n)``: ``(B, n, ...)``."""
    samples = torch.arange(len(rows), device=rows.device)[:, None]
    return rows[samples, torch.from_numpy(places).to(rows.device)]
