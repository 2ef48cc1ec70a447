"""The job that shows masks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.cli import main
from experiments.masks import Config, run
from experiments.settings import compose_settings
from worldmodel.masks import Grid, MaskConfig, coverage, token_counts
from worldmodel.report.mask_pictures import mask_picture

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "mask").glob("*.yaml"))
SMALL = ["image_size=32", "patch_size=8", "frames=8", "samples=48"]


def test_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "masks",
                *SMALL,
                f"out={tmp_path}/deep/masks.png",
                "mask=[vjepa,future]",
                "mask.short.ratio=0.75",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["short", "16", "25.0%", "48", "75.0%"]
    assert [line.split()[0] for line in lines[1:4]] == ["short", "long", "future"]
    assert lines[4] == f"wrote {tmp_path}/deep/masks.png"
    image = Image.open(tmp_path / "deep" / "masks.png")
    assert image.width > 1000 and len(np.unique(np.asarray(image.convert("L")))) > 20


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_possible_on_the_papers_grid(name: str) -> None:
    config = compose_settings("masks", Config, [f"mask={name}"]).to_object()
    assert config.grid == Grid(8, 14, 14) and config.mask
    for key, mask in config.mask.items():
        assert min(token_counts(mask, config.grid, key)) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("image_size=30", "image_size=30 is no multiple of patch_size=8"),
        ("frames=7", "frames=7 is no multiple of tubelet=2"),
        ("samples=0", "samples=0"),
        (
            "mask=random_tube mask.random_tube.ratio=0.01",
            "mask.random_tube.ratio=0.01 hides 0 of the 16 places",
        ),
        ("mask=vjepa mask.sort.ratio=0.5", "unknown key mask.sort.ratio, did you mean mask.short.ratio"),
        ("mask=vjepa mask.short.rato=0.5", "unknown key mask.short.rato, did you mean mask.short.ratio"),
        ("mask=vjepa mask.short.ratio=half", "mask.short.ratio=half: expected float or null"),
    ],
)
def test_mistakes_are_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", *SMALL, *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_lists_the_settings_of_each_mask(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", "--help", "mask=vjepa"]) == 0
    help_text = capsys.readouterr().out
    assert "mask.short.blocks=8" in help_text and "mask.long.blocks=2" in help_text


def test_a_job_without_masks_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        run(Config(out=str(tmp_path / "m.png")))


def test_a_picture_of_grids_that_are_not_square_and_have_many_steps() -> None:
    grid = Grid(12, 4, 7)
    masks = {"here": MaskConfig(), "there": MaskConfig(kind="ijepa", blocks=3)}
    measured = {name: coverage(config, grid, 0, 24) for name, config in masks.items()}
    image = Image.open(io.BytesIO(mask_picture(masks, grid, 0, measured)))
    assert image.format == "PNG" and image.width > image.height
