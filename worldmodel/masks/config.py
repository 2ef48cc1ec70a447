"""What a mask is, and the settings that say how one is drawn."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

KINDS = ("random", "blocks", "ijepa", "future")


class Grid(NamedTuple):
    """Token grid of a clip: tubelet steps, rows, columns. Token id = ``(step * rows + row) * columns + column``."""

    steps: int
    rows: int
    columns: int


class Mask(NamedTuple):
    """Token ids ``context (B, K)`` and ``target (B, M)``, int64, disjoint, in order of id.

    Together they are the whole grid, unless ``kind="ijepa"`` or ``collate="raster"``. I-JEPA's separate target blocks
    are ``groups = G > 1``: ``target`` holds G blocks of M / G ids one after another, each in order of id. Each is
    predicted on its own from the same context; blocks may overlap one another, never the context.
    """

    context: Tensor
    target: Tensor
    groups: int = 1


@dataclass
class MaskConfig:
    """How to draw one mask per clip. Defaults of the blocks are those of V-JEPA's short-range mask."""

    #: random (single places), blocks (V-JEPA), ijepa (separate target blocks) or future (the first steps are seen).
    kind: str = "random"
    #: Share to be predicted, of the places (future: of the steps); null: 0.5, or what the blocks cover on average.
    ratio: float | None = None
    #: How many blocks are to be predicted; they may overlap.
    blocks: int = 8
    #: Area of a block as a share of the frame, drawn between scale_min and scale_max.
    scale_min: float = 0.15
    #: See scale_min.
    scale_max: float = 0.15
    #: Height of a block divided by its width, drawn between aspect_min and aspect_max.
    aspect_min: float = 0.75
    #: See aspect_min.
    aspect_max: float = 1.5
    #: blocks: time span of a block as a share of the clip, drawn between temporal_min and temporal_max; 1: a tube.
    temporal_min: float = 1.0
    #: See temporal_min.
    temporal_max: float = 1.0
    #: random, blocks: share of the steps that the context may come from (the first); all later ones are predicted.
    max_temporal_keep: float = 1.0
    #: ijepa: area of the context block, from which the target blocks are taken away.
    context_min: float = 0.85
    #: See context_min.
    context_max: float = 1.0
    #: Fewest context tokens; fewer are an error before the first step.
    min_keep: int = 1
    #: exact; or raster, for comparison only: as in the V-JEPA repositories, a mask is cut to the batch's smallest.
    collate: str = "exact"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a mask's kind={self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(
                f"a mask's ratio={self.ratio} leaves nothing to see or to predict; choose 0 < ratio < 1"
            )
        for name, most in (("scale", 1.0), ("aspect", float("inf")), ("temporal", 1.0), ("context", 1.0)):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if not 0 < low <= high <= most:
                limit = "" if most == float("inf") else " <= 1"
                raise ValueError(
                    f"a mask's {name}_min={low} and {name}_max={high}: choose 0 < {name}_min <= {name}_max{limit}"
                )
        if self.blocks < 1 or self.min_keep < 1:
            raise ValueError(f"a mask's blocks={self.blocks} and min_keep={self.min_keep} must be at least 1")
        if not 0 < self.max_temporal_keep <= 1:
            raise ValueError(
                f"a mask's max_temporal_keep={self.max_temporal_keep}: choose 0 < max_temporal_keep <= 1"
            )
        if self.collate not in ("exact", "raster"):
            raise ValueError(f"a mask's collate={self.collate!r} is unknown; choose exact or raster")
        self._check_together()

    def _check_together(self) -> None:
        """Settings that a kind has no use for are errors: a mask must never be other than it reads."""
        if self.collate == "raster" and (self.kind != "blocks" or self.ratio is not None):
            raise ValueError("a mask's collate=raster goes with kind=blocks and ratio=null only")
        if self.temporal_min < 1 and self.kind != "blocks":
            raise ValueError(f"a mask's temporal_min goes with kind=blocks only, not kind={self.kind}")
        if self.max_temporal_keep < 1 and self.kind not in ("random", "blocks"):
            raise ValueError(
                f"a mask's max_temporal_keep goes with kind=random or blocks, not kind={self.kind}"
            )
        if self.ratio is not None and self.kind == "ijepa":
            raise ValueError(
                "a mask's ratio does not go with kind=ijepa; its scale and context say how large it is"
            )
