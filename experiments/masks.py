"""Show masks: a picture of samples through time, and a table of how many tokens are seen and predicted, and where.

Example:
    worldmodel masks mask=vjepa
    worldmodel masks mask=[short,ijepa] image_size=256 frames=64 mask.short.ratio=0.75
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from worldmodel.atomic import write_bytes
from worldmodel.masks import Coverage, Grid, MaskConfig, coverage, draw_masks, token_counts
from worldmodel.report.mask_pictures import mask_picture


@dataclass
class Config:
    """Settings of a picture of masks."""

    #: PNG file to write.
    out: str = "runs/masks.png"
    #: Of the masks.
    seed: int = 0
    #: Side of a frame in pixels.
    image_size: int = 224
    #: Frames of a clip.
    frames: int = 16
    #: Side of a patch in pixels.
    patch_size: int = 16
    #: Frames of one token step.
    tubelet: int = 2
    #: Masks that shares are averaged over.
    samples: int = 2400
    #: Samples that are drawn together; what comes out depends on it with collate=raster only.
    batch_size: int = 24
    mask: dict[str, MaskConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for size, part in (("image_size", "patch_size"), ("frames", "tubelet")):
            whole, piece = getattr(self, size), getattr(self, part)
            if piece < 1 or whole < 1 or whole % piece:
                raise ValueError(f"{size}={whole} is no multiple of {part}={piece}")
        if min(self.samples, self.batch_size) < 1:
            raise ValueError(f"samples={self.samples} and batch_size={self.batch_size} must be at least 1")

    @property
    def grid(self) -> Grid:
        """The clips' token grid."""
        side = self.image_size // self.patch_size
        return Grid(self.frames // self.tubelet, side, side)


def run(config: Config) -> Path:
    """Measure, print the table, write the picture; returns its path."""
    grid = config.grid
    draw_masks(config.mask, grid, config.seed, range(1))  # impossible masks end here
    measured = {}
    print(
        f"{'mask':18} {'context':>13} {'target':>14} {'steps see':>12} {'corner':>7} {'centre':>7} {'us/mask':>8}"
    )
    for name, mask in config.mask.items():
        began = time.perf_counter()
        draw_masks({name: mask}, grid, config.seed, range(config.batch_size))
        microseconds = 1e6 * (time.perf_counter() - began) / config.batch_size
        measured[name] = coverage(mask, grid, config.seed, config.samples, config.batch_size)
        print(f"{name:18} {_row(mask, grid, measured[name])} {microseconds:8.0f}", flush=True)
    path = Path(config.out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, mask_picture(config.mask, grid, config.seed, measured, config.batch_size))
    return path


def _row(mask: MaskConfig, grid: Grid, measured: Coverage) -> str:
    """Tokens and shares of one mask; corner, centre and steps are shares of what is seen."""
    context, target = f"{measured.context_tokens:.0f}", f"{measured.target_tokens:.0f}"
    if mask.collate == "exact":
        context, target = map(str, token_counts(mask, grid))
    total = grid.steps * grid.rows * grid.columns
    steps = measured.context.mean(axis=(1, 2))
    corner, centre = measured.corner_and_centre()
    return (
        f"{context:>6} {measured.context_tokens / total:>6.1%} {target:>7} {measured.target_tokens / total:>6.1%} "
        f"{f'{steps.min():.0%}-{steps.max():.0%}':>12} {corner:7.0%} {centre:7.0%}"
    )


def outcome(path: Path) -> str:
    """What the command says at its end."""
    return f"wrote {path}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("masks"))
