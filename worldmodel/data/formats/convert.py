"""From one format to another: one loop for all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from worldmodel.data.crops import centre_box
from worldmodel.data.formats.base import Episode, FormatError, Reader, Writer

log = logging.getLogger("worldmodel")


@dataclass
class Converted:
    """What a conversion did: episodes and frames that were written now, and what was left out, with the reason."""

    episodes: int = 0
    frames: int = 0
    skipped: list[str] = field(default_factory=list)


def convert(
    reader: Reader,
    writer: Writer,
    size: int = 0,
    min_steps: int = 1,
    skip_bad: bool = False,
    done: Converted | None = None,
) -> Iterator[int]:
    """Write all episodes of a recording that are not written yet; yields each one's position.

    Args:
        reader: The recording.
        writer: The dataset.
        size: Cut each picture to the square in its middle, and resize it to this side; 0 leaves it as it is.
        min_steps: Episodes with fewer steps cannot be used.
        done: Is filled in on the way.
        skip_bad: Leave out episodes that cannot be read, or are too short, with a warning, instead of failing.

    Raises:
        FormatError: An episode cannot be read or is too short, and ``skip_bad`` is false.
    """
    done = done or Converted()
    shape: tuple[int, ...] = ()
    for position in range(len(reader)):
        index = reader.index(position)
        if writer.wants(index):
            try:
                episode = reader.read(position)
                episode = resized(episode, size) if size else episode
                shape = shape or episode["frames"].shape[1:]
                if episode["frames"].shape[1:] != shape:
                    raise FormatError(
                        f"frames of episode {index} of {reader.path} are {episode['frames'].shape[1:]}, those before "
                        f"it {shape}; make them alike with size=SIDE"
                    )
                steps = len(episode["actions"])
                if steps < min_steps:
                    raise FormatError(
                        f"episode {index} of {reader.path} has {steps} steps, at least {min_steps} are needed; "
                        "leave it out with skip_bad=true"
                    )
            except FormatError as error:
                if not skip_bad:
                    raise
                log.warning("left out: %s", error)
                done.skipped.append(str(error))
                yield position
                continue
            writer.write(index, episode)
            done.episodes, done.frames = done.episodes + 1, done.frames + len(episode["frames"])
        yield position
    writer.finish()


def resized(episode: Episode, size: int) -> Episode:
    """An episode whose pictures are the squares in the middle, ``size`` pixels wide."""
    from PIL import Image

    frames = episode["frames"]
    height, width = frames.shape[2:]
    if (height, width) == (size, size):
        return episode
    box = centre_box(height, width)
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    out = np.empty((len(frames), 3, size, size), np.uint8)
    for row, frame in zip(out, frames, strict=True):
        picture = Image.fromarray(np.moveaxis(frame, 0, -1))
        row[:] = np.moveaxis(
            np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=corners)), -1, 0
        )
    return {**episode, "frames": out}
