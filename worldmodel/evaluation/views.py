"""The clips that stand for a video in an evaluation: segments in time, crops in space, always the same ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.data.clips import ClipShape, clip_indices, duration
from worldmodel.data.crops import Box, centre_box, crop_resize_picture, random_box, three_boxes
from worldmodel.data.images import is_image, read_image
from worldmodel.data.videos import Video, open_video
from worldmodel.evaluation.labelled import Sample

KNOWN_BYTES = 2**27


@dataclass
class ViewConfig:
    """Which clips of a video are encoded."""

    #: Clips per video, in the middle of equal parts of it. Each is encoded apart; their tokens are put side by side.
    segments: int = 1
    #: Crops of each test clip along its longer side (1 or 3); their predictions are averaged. Training uses one.
    crops: int = 1
    #: Frames per clip; 0: the encoder's.
    frames: int = 0
    #: Height and width of a clip in pixels; 0: the encoder's.
    size: int = 0
    #: Frames per second of a clip; 0: as in pretraining, where the model says so, else 4.
    fps: float = 0.0
    #: If not 0, every stride-th frame of the file instead.
    stride: int = 0
    #: With one crop: the short side is resized to size * resize, and the centre cut out. With 3, a crop's side is the
    #: video's shorter one, also in training, on the middle crop.
    resize: float = 256 / 224

    def __post_init__(self) -> None:
        if self.segments < 1 or min(self.stride, self.fps, self.frames, self.size) < 0 or self.resize < 1:
            raise ValueError(
                "views.segments and views.resize must be at least 1, views.frames, size, fps and stride not negative"
            )
        if self.crops not in (1, 3):
            raise ValueError(f"views.crops={self.crops} must be 1 (centre) or 3 (along the longer side)")


def segment_indices(timestamps: np.ndarray, shape: ClipShape, segments: int) -> np.ndarray:
    """Indices ``(segments, frames)`` of clips in the middle of equal parts of a video, which overlap if they must.

    Args:
        timestamps: ``(len,)`` seconds, of the video or the part to look at.
        shape: Frames of a clip. Where the video is shorter than that, its last frame is repeated.
        segments: How many.
    """
    length = len(timestamps) if shape.stride else duration(timestamps)
    span = (shape.frames - 1) * shape.stride + 1 if shape.stride else shape.frames / shape.fps
    starts = (np.arange(segments) + 0.5) * length / segments - span / 2
    draws = np.clip(starts / max(length - span, 1e-9), 0, 1) if length > span else np.zeros(segments)
    return np.stack([clip_indices(timestamps, shape, float(draw)) for draw in draws])


class ClipSamples:
    """``clips[i]``: the clips of sample ``i``, read from its file; may be sent to worker processes.

    Args:
        samples: What to read.
        shape: Frames of a clip.
        size: Height and width in pixels.
        views: Segments, and how far to zoom in.
        crops: Crops per clip.
    """

    def __init__(
        self, samples: list[Sample], shape: ClipShape, size: int, views: ViewConfig, crops: int = 1
    ) -> None:
        self.samples, self.clip, self.size, self.views, self.crops = samples, shape, size, views, crops
        self._path, self._known = "", dict[int, np.ndarray]()  # cut frames of the file that was read last

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def zoom(self) -> float:
        """The shorter side of a video, as a multiple of a crop's: the same in training and test."""
        return 1.0 if self.views.crops > 1 else self.views.resize

    @property
    def shape(self) -> tuple[int, ...]:
        """``(crops, segments, T, C, H, W)`` of every entry."""
        segments = 1 if self.samples and self.samples[0].frames else self.views.segments
        return self.crops, segments, self.clip.frames, 3, self.size, self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``clips (crops, segments, T, C, H, W)`` uint8, and ``error``: why they are black, or empty."""
        sample = self.samples[index]
        if sample.path != self._path or len(self._known) * self.size**2 * 3 * self.crops > KNOWN_BYTES:
            self._path, self._known = sample.path, {}
        try:
            return {"clips": self.read(sample, known=self._known), "error": ""}
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            return {"clips": np.zeros(self.shape, dtype=np.uint8), "error": text}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_path": "", "_known": {}}

    def read(
        self,
        sample: Sample,
        rng: np.random.Generator | None = None,
        known: dict[int, np.ndarray] | None = None,
    ) -> np.ndarray:
        """The clips of a sample.

        Args:
            sample: One of these samples, or any other.
            rng: Draws one random crop, instead of the usual ones.
            known: Cut frames of this file, by index, which need not be decoded; those that were are added.

        Returns:
            ``(crops, segments, T, C, H, W)`` uint8.

        Raises:
            ValueError: The file is damaged, or has no frame in the part to look at.
            OSError: The file cannot be read.
        """
        if is_image(sample.path):
            picture = read_image(sample.path)
            boxes = self._boxes(picture.shape[0], picture.shape[1], rng)
            cropped = np.stack([crop_resize_picture(picture, box, self.size) for box in boxes])
            return np.ascontiguousarray(
                np.broadcast_to(cropped[:, None, None], (len(boxes), *self.shape[1:]))
            )
        with open_video(sample.path) as video:
            chosen = self._chosen(video, sample)
            boxes = self._boxes(video.index.height, video.index.width, rng)

            def cut(picture: np.ndarray) -> np.ndarray:
                return np.stack([crop_resize_picture(picture, box, self.size) for box in boxes])

            known = {} if known is None else known
            missing = [index for index in np.unique(chosen).tolist() if index not in known]
            if missing:
                known.update(zip(missing, video.map(missing, cut), strict=True))
            frames = np.stack(
                [known[index] for index in chosen.ravel().tolist()]
            )  # (segments * T, crops, C, H, W)
        return np.ascontiguousarray(frames.swapaxes(0, 1).reshape(len(boxes), *self.shape[1:]))

    def _boxes(self, height: int, width: int, rng: np.random.Generator | None) -> tuple[Box, ...]:
        if rng is not None:
            return (random_box(rng, height, width),)
        if self.crops > 1:
            return three_boxes(height, width)
        return (centre_box(height, width, 1 / self.zoom),)

    def _chosen(self, video: Video, sample: Sample) -> np.ndarray:
        if sample.frames:
            return np.array([sample.frames], dtype=np.int64)
        times = video.timestamps - video.timestamps[0]
        first = int(np.searchsorted(times, (sample.start or 0.0) - 1e-6))
        stop = len(times) if sample.end is None else int(np.searchsorted(times, sample.end - 1e-6))
        if first >= stop:
            raise ValueError(f"{sample.path} has no frame from {sample.start} to {sample.end} s")
        return first + segment_indices(times[first:stop], self.clip, self.views.segments)
