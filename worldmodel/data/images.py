"""Pictures as still videos of one frame."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image

from worldmodel.data.tar_shards import locate

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
# Of Pillow's formats only these: others start programs (EPS) or are never training data.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")


class ImageError(ValueError):
    """A file that cannot be read as a picture."""


def is_image(path: str) -> bool:
    """Whether a path's suffix is a picture's."""
    return path.lower().endswith(SUFFIXES)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture as ``(H, W, 3)`` uint8 RGB, as coded: the orientation in its metadata is not applied.

    Raises:
        ImageError: The file is no picture, is cut off, or is larger than Pillow holds to be safe.
        OSError: There is no such file, or it may not be read.
    """
    name = os.fspath(path)
    content = locate(name).read()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode.startswith("I"):  # 16 bits of grey, which convert would cut off at 255
                grey = np.asarray(image.convert("I")).clip(0, 2**16 - 1) >> 8
                return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # each format has its own ways to fail
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        reason = "not a picture" if "cannot identify" in reason else reason
        raise ImageError(f"{name} cannot be read as a picture ({reason}); replace or remove it") from error
