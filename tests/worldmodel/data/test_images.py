"""Pictures as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.data.images import read_image


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_are_shrunk_to_eight_and_not_cut_off(tmp_path: Path, suffix: str) -> None:
    grey = (np.arange(256, dtype=np.uint16).reshape(16, 16) << 8) + 200
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(grey).save(path)
    picture = read_image(path)
    assert picture.dtype == np.uint8 and picture.shape == (16, 16, 3)
    assert (picture == np.arange(256).reshape(16, 16, 1)).all()
