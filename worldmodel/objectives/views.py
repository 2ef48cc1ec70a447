"""Views of clips: crops, flips, colours, blur and parts in time, computed on the device and keyed by the sample.

All frames of a clip are changed alike: what moves in a view moves in the clip. What is drawn depends on ``(seed, view,
global sample index)`` only, not on the batch or the process that the sample is in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.seeding import keyed_rng, keyed_torch_generator

#: Brightness of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
#: Uniform numbers that are drawn for each view of a sample.
_DRAWS = 16


@dataclass
class ViewConfig:
    """How views of one kind are drawn. Strengths of 0, shares of 0 and a scale of [1, 1] leave the clip as it is."""

    #: How many views of this kind.
    count: int = 1
    #: Whether the target branch sees it too. DINO's and SwAV's small crops are for the online branch only.
    target: bool = True
    #: Height and width as a share of the clip's, rounded to whole patches of the encoder.
    size: float = 1.0
    #: Smallest and largest share of the picture's area that is cut out.
    scale: list[float] = field(default_factory=lambda: [0.3, 1.0])
    #: Smallest and largest width / height of what is cut out, before it is resized to a square.
    ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333])
    #: Share of the views that are mirrored left to right.
    flip: float = 0.5
    #: Share of the views whose colours change, by the four strengths below.
    jitter: float = 0.8
    #: Brightness is multiplied by up to 1 plus and down to 1 minus this.
    brightness: float = 0.4
    #: The same for contrast.
    contrast: float = 0.4
    #: The same for saturation.
    saturation: float = 0.2
    #: Largest turn of the hue, in turns (0.5 is the opposite colour).
    hue: float = 0.1
    #: Share of the views that are grey.
    grey: float = 0.2
    #: Share of the views that are blurred by a Gaussian.
    blur: float = 0.0
    #: The Gaussian's largest standard deviation in pixels; the smallest is 0.1.
    blur_std: float = 1.0
    #: Share of the views whose values above one half are inverted.
    solarise: float = 0.0
    #: Standard deviation of Gaussian noise on values in [0, 1], new for each pixel.
    noise: float = 0.0
    #: Frames, a multiple of the encoder's tubelet; 0: all of the clip.
    frames: int = 0
    #: Where a view of fewer frames begins: "random", "first" (at the clip's first frame) or "last" (at its last ones).
    start: str = "random"

    def __post_init__(self) -> None:
        shares = (self.flip, self.jitter, self.grey, self.blur, self.solarise)
        if self.count < 1 or self.frames < 0 or not 0 < self.size <= 1:
            raise ValueError("views: count must be positive, frames not negative, size above 0 and up to 1")
        if not all(0 <= share <= 1 for share in (*shares, self.brightness, self.contrast, self.saturation)):
            raise ValueError("views: shares and strengths go from 0 to 1")
        if not 0 <= self.hue <= 0.5 or self.noise < 0 or self.blur_std < 0.1:
            raise ValueError("views: hue goes from 0 to 0.5, noise is not negative, blur_std at least 0.1")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"views: scale={list(self.scale)} must be two shares in order, above 0, up to 1")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"views: ratio={list(self.ratio)} must be two positive numbers in order")
        if self.start not in ("random", "first", "last"):
            raise ValueError(f"views: start={self.start!r} is unknown; choose random, first or last")


class View(NamedTuple):
    """A view of each clip of a batch.

    Attributes:
        clip: ``(B, T, C, H, W)`` float32 in [0, 1].
        target: Whether the target branch sees it.
    """

    clip: Tensor
    target: bool


def draw_views(
    clip: Tensor, ids: Sequence[int], seed: int, views: Mapping[str, ViewConfig], patch: int = 1
) -> list[View]:
    """All views of ``clip (B, T, C, H, W)``, kind by kind in the order of ``views``.

    Args:
        clip: uint8, or float in [0, 1], on any device.
        ids: Global index of each of the ``B`` samples.
        seed: Of the run.
        views: How to draw them.
        patch: Heights and widths are multiples of it.

    Raises:
        ValueError: A view has more frames than the clip.
    """
    kinds = [config for config in views.values() for _ in range(config.count)]
    return [
        View(draw_view(clip, ids, seed, number, config, patch), config.target)
        for number, config in enumerate(kinds)
    ]


def draw_view(
    clip: Tensor, ids: Sequence[int], seed: int, number: int, config: ViewConfig, patch: int = 1
) -> Tensor:
    """View ``number`` of ``clip``: ``(B, T', C, H', W')`` float32 in [0, 1]; see :func:`draw_views`."""
    with torch.no_grad(), torch.autocast(clip.device.type, enabled=False):
        return _changed(unit_range(clip), ids, seed, number, config, patch)


def unit_range(clip: Tensor) -> Tensor:
    """A clip of any shape, uint8 or float in [0, 1], as float32 in [0, 1]."""
    return clip.float() / 255 if clip.dtype == torch.uint8 else clip.float()


def keyed_noise(like: Tensor, ids: Sequence[int], seed: int, number: int = 0) -> Tensor:
    """Standard normal noise of the shape of ``like (B, ...)``, each sample's keyed by its index; drawn on the CPU."""
    rows = [
        torch.randn(like.shape[1:], generator=keyed_torch_generator("view noise", seed, number, index))
        for index in ids
    ]
    return torch.stack(rows).to(like.device)


def luma(x: Tensor) -> Tensor:
    """Brightness ``(..., 1, H, W)`` of colours ``(..., 3, H, W)``."""
    return (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(dim=-3, keepdim=True)


def blurred(x: Tensor, std: Tensor, radius: int) -> Tensor:
    """``x (B, T, C, H, W)`` through a Gaussian of ``std (B,)`` pixels, cut off at ``radius``; edges are repeated."""
    b, height, width = len(x), *x.shape[-2:]
    places = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.softmax(-0.5 * (places / std[:, None]).square(), dim=1)[:, None]
    for size in (width, height):  # along rows, then along columns
        rows = F.pad(x.reshape(b, -1, size).flatten(0, 1), (radius, radius), mode="replicate")
        rows = rows.unflatten(0, (b, -1)).transpose(0, 1)
        x = F.conv1d(rows, kernel, groups=b).transpose(0, 1).reshape(*x.shape).transpose(-1, -2)
    return x


def _changed(x: Tensor, ids: Sequence[int], seed: int, number: int, config: ViewConfig, patch: int) -> Tensor:
    rows = np.stack([keyed_rng("view", seed, number, index).random(_DRAWS) for index in ids])
    drawn = torch.from_numpy(rows.astype(np.float32)).to(x.device).unbind(dim=1)
    x = _part_in_time(x, drawn[0], config)
    x = _crop(x, drawn[1:6], config, patch)
    x = _colour(x, drawn[6:12], config)
    if config.blur:
        std = 0.1 + drawn[12] * (config.blur_std - 0.1)
        x = _where(drawn[13] < config.blur, blurred(x, std, math.ceil(3 * config.blur_std)), x)
    if config.solarise:
        x = _where(drawn[14] < config.solarise, torch.where(x < 0.5, x, 1 - x), x)
    if config.noise:
        x = (x + config.noise * keyed_noise(x, ids, seed, number)).clamp(0, 1)
    return x


def _part_in_time(x: Tensor, drawn: Tensor, config: ViewConfig) -> Tensor:
    length = x.shape[1]
    if config.frames in (0, length):
        return x
    if config.frames > length:
        raise ValueError(
            f"views: frames={config.frames} is more than the {length} of a clip; lower it or set encoder.frames"
        )
    spare = length - config.frames
    share = {"random": drawn, "first": torch.zeros_like(drawn), "last": torch.ones_like(drawn)}[config.start]
    first = (share * (spare + 1)).long().clamp_max(spare)
    frames = first[:, None] + torch.arange(config.frames, device=x.device)
    return x[torch.arange(len(x), device=x.device)[:, None], frames]


def _crop(x: Tensor, drawn: Sequence[Tensor], config: ViewConfig, patch: int) -> Tensor:
    """Cut a box out, mirror it perhaps, and resize it (bilinear: boxes are rarely larger than the view)."""
    size = [max(1, round(config.size * side / patch)) * patch for side in x.shape[-2:]]
    if config.scale[0] == 1 and not config.flip and size == list(x.shape[-2:]):
        return x
    area = config.scale[0] + drawn[0] * (config.scale[1] - config.scale[0])
    low, high = (math.log(ratio) for ratio in config.ratio)
    ratio = torch.exp(low + drawn[1] * (high - low))
    height, width = (area / ratio).sqrt().clamp_max(1), (area * ratio).sqrt().clamp_max(1)
    # Coordinates of pictures go from -1 to 1.
    down, right = (2 * drawn[2] - 1) * (1 - height), (2 * drawn[3] - 1) * (1 - width)
    across = torch.where(drawn[4] < config.flip, -width, width)
    zero = torch.zeros_like(down)
    map_ = torch.stack([across, zero, right, zero, height, down], dim=1).view(-1, 2, 3)
    planes = x.flatten(1, 2)
    grid = F.affine_grid(map_, [len(x), planes.shape[1], *size], align_corners=False)
    cut = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.unflatten(1, x.shape[1:3])


def _colour(x: Tensor, drawn: Sequence[Tensor], config: ViewConfig) -> Tensor:
    """Hue, saturation and brightness are one matrix per sample; contrast is about the clip's mean brightness."""
    if not config.jitter and not config.grey:
        return x
    change = (drawn[0] < config.jitter).float()
    strengths = (config.brightness, config.contrast, config.saturation)
    factors = [1 + change * s * (2 * u - 1) for s, u in zip(strengths, drawn[1:4], strict=True)]
    brightness, contrast, saturation = factors
    saturation = saturation * (drawn[5] >= config.grey)
    turn = 2 * math.pi * config.hue * change * (2 * drawn[4] - 1)
    matrix = _saturation_matrix(saturation) @ _hue_matrix(turn) * brightness[:, None, None]
    x = torch.einsum("bij,btjhw->btihw", matrix, x)
    middle = luma(x).mean(dim=(1, 2, 3, 4), keepdim=True)
    contrast = contrast.view(-1, 1, 1, 1, 1)
    return (contrast * x + (1 - contrast) * middle).clamp(0, 1)


def _saturation_matrix(share: Tensor) -> Tensor:
    """``(B, 3, 3)``: ``share (B,)`` of the colour, and the rest grey of the same brightness."""
    one, grey = torch.eye(3, device=share.device), share.new_tensor(LUMA).expand(3, 3)
    return grey + share[:, None, None] * (one - grey)


def _hue_matrix(angle: Tensor) -> Tensor:
    """``(B, 3, 3)``: a turn by ``angle (B,)`` radians about the grey axis of YIQ; brightness stays."""
    to_yiq = angle.new_tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def _where(flags: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(flags.view(-1, *[1] * (x.ndim - 1)), changed, x)
