"""How looks are drawn: recoloured backgrounds, distractor discs, noise and light; numpy only, whole pictures at once.

Everything random is a function of the look seed, or of the look seed and the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType

import numpy as np

from envs.draw import FLOOR, WALL, Color, paint_capsule
from envs.seeding import keyed_rng

#: Colours of discs: none that a world uses for what matters (red, blue, orange).
PALETTE: tuple[Color, ...] = (
    (62, 158, 76),
    (18, 148, 140),
    (128, 72, 164),
    (222, 196, 52),
    (206, 124, 190),
    (124, 118, 112),
)
_CELLS = 8  # blotches are interpolated between 8 x 8 random values
_CACHED = 16  # episodes


@dataclass(frozen=True)
class Look:
    """What is changed in a picture. Brightness counts from 0 to 255.

    Attributes:
        colours: floor and wall get random colours and a texture, which stay for the episode.
        drifting: discs that drift straight on behind what moves, and bounce off the picture's edges.
        jumping: discs behind what moves that are elsewhere at every step.
        blotches: standard deviation of soft coloured blotches, new at every step.
        grain: standard deviation of the noise of each pixel, new at every step.
        flicker: greatest loss of brightness, relative, and half as much of each colour beside that; new at every step.
        contrast: what is left of it before noise is added, about the middle grey, so that little of the noise is
            clipped at black and white.
    """

    colours: bool = False
    drifting: int = 0
    jumping: int = 0
    blotches: float = 0.0
    grain: float = 0.0
    flicker: float = 0.0
    contrast: float = 1.0


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "colours": Look(colours=True),
        "discs": Look(drifting=8),
        "jumping": Look(jumping=8),
        "noise": Look(blotches=12.0, grain=10.0, contrast=0.85),
        "flicker": Look(flicker=0.6),
        "hard": Look(jumping=6, blotches=20.0, grain=15.0, flicker=0.3, contrast=0.8),
    }
)


class LookPainter:
    """Draws the parts of one look around what moves.

    Args:
        look: what is changed.
        background: the plain world's, (H, W, 3), H = W; between the colours of floor and wall.
    """

    def __init__(self, look: Look, background: np.ndarray) -> None:
        self._look = look
        self._size = len(background)
        self._background = background.astype(np.float32)
        floor, wall = np.asarray(FLOOR, np.float32), np.asarray(WALL, np.float32)
        share = ((self._background - wall) / (floor - wall)).mean(axis=-1, keepdims=True)
        self._floor = np.clip(share, 0.0, 1.0)
        self._spread = _interpolation(self._size)
        normal = NormalDist()
        self._grain = np.array([look.grain * normal.inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)
        self._episodes: dict[int, _Episode] = {}

    def behind(self, seed: int, step: int) -> np.ndarray:
        """The picture (H, W, 3) float32 on which what moves is to be painted."""
        episode, size = self._episode(seed), self._size
        picture = episode.background.copy()
        places = np.abs((episode.starts + step * episode.speeds + 1.0) % 2.0 - 1.0)  # reflected at 0 and 1
        if self._look.jumping:
            places = np.concatenate(
                [places, keyed_rng("jumping", seed, step).random((self._look.jumping, 2))]
            )
        for (x, y), radius, color in zip(
            (places * size).tolist(), episode.radii, episode.colors, strict=True
        ):
            paint_capsule(picture, (x, y), (x, y), radius * size, color)
        return picture

    def finished(self, picture: np.ndarray, seed: int, step: int) -> np.ndarray:
        """The whole picture, (H, W, 3) uint8, from one (H, W, 3) with what moves, which is changed."""
        look = self._look
        rng = keyed_rng("look", seed, step) if look.flicker or look.blotches or look.grain else None
        if rng is not None and look.flicker:
            light = (1.0 - look.flicker * rng.random()) * (1.0 - 0.5 * look.flicker * rng.random(3))
            picture *= light.astype(np.float32)
        if look.contrast != 1.0:
            picture *= np.float32(look.contrast)
            picture += np.float32((1.0 - look.contrast) * 128.0)
        if rng is not None and look.blotches:
            picture += self._blotches(rng, look.blotches)
        if rng is not None and look.grain:
            picture += self._grain[rng.integers(256, size=picture.shape, dtype=np.uint8)]
        picture += 0.5
        return np.clip(picture, 0.0, 255.0, out=picture).astype(np.uint8)

    def _episode(self, seed: int) -> _Episode:
        episode = self._episodes.get(seed)
        if episode is None:
            if len(self._episodes) >= _CACHED:
                self._episodes.clear()
            episode = self._episodes[seed] = self._make_episode(seed)
        return episode

    def _make_episode(self, seed: int) -> _Episode:
        look, rng = self._look, keyed_rng("look of an episode", seed)
        background = self._background
        if look.colours:
            floor, wall = rng.uniform(140.0, 240.0, 3), rng.uniform(10.0, 100.0, 3)
            texture = self._blotches(rng, 14.0) + _tiles(rng, self._size, 12.0)
            background = (self._floor * (floor - wall) + wall + texture).astype(np.float32)
        discs = look.drifting + look.jumping
        angle = rng.uniform(0.0, 2.0 * np.pi, look.drifting)
        speed = rng.uniform(0.01, 0.04, look.drifting)  # picture widths per step
        return _Episode(
            background,
            starts=rng.random((look.drifting, 2)),
            speeds=(speed * np.stack([np.cos(angle), np.sin(angle)])).T,
            radii=rng.uniform(0.03, 0.09, discs).tolist(),
            colors=[PALETTE[i] for i in rng.integers(len(PALETTE), size=discs)],
        )

    def _blotches(self, rng: np.random.Generator, deviation: float) -> np.ndarray:
        """Smooth noise, (H, W, 3) float32. Whole numbers and weights of 1/64: exact, so equal on every machine."""
        values = np.rint(rng.standard_normal((3, _CELLS, _CELLS)) * deviation * 1.5).astype(np.float32)
        return np.moveaxis(self._spread @ values @ self._spread.T, 0, -1)


@dataclass(frozen=True, eq=False)
class _Episode:
    """What stays for an episode; places, speeds and radii in picture widths."""

    background: np.ndarray
    starts: np.ndarray
    speeds: np.ndarray
    radii: list[float]
    colors: list[Color]


def _interpolation(size: int) -> np.ndarray:
    """Weights (size, cells) float32 that interpolate linearly between the middles of cells, rounded to 1/64."""
    place = (np.arange(size) + 0.5) * _CELLS / size - 0.5
    weights = np.clip(1.0 - np.abs(np.clip(place, 0, _CELLS - 1)[:, None] - np.arange(_CELLS)), 0.0, 1.0)
    return (np.rint(weights * 64.0) / 64.0).astype(np.float32)


def _tiles(rng: np.random.Generator, size: int, deviation: float) -> np.ndarray:
    """A pattern of 4 x 4 random brightnesses that is repeated over the picture, (H, W, 1) float32."""
    tile = rng.standard_normal((4, 4)) * deviation
    pixels = np.arange(size) * 64 // size // 2 % 4  # tiles of 2 pixels in 64
    return tile[pixels][:, pixels, None].astype(np.float32)
