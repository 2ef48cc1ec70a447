"""Image models of Hugging Face and timm as encoders of frames: DINOv2, DINOv3, ViT, CLIP, ResNet, ConvNeXt, ...

DINO-WM (2411.04983) plans on the patch tokens of a frozen DINOv2. Here any image model of the installed libraries gives
the tokens; weights come from a local directory, see :func:`open_backbone`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from worldmodel.interop.backbone_base import Library
from worldmodel.interop.backbone_hf import HuggingFace
from worldmodel.interop.backbone_timm import Timm
from worldmodel.interop.hf_files import read_folder_config
from worldmodel.interop.tensors import LoadReport

#: The libraries by the names that configurations have for them.
LIBRARIES: Mapping[str, Library] = {"huggingface": HuggingFace(), "timm": Timm()}


@dataclass
class BackboneConfig:
    """An image model of another library, applied to each frame by itself."""

    #: "huggingface" (transformers) or "timm".
    library: str = "huggingface"
    #: Hugging Face: the model type, such as dinov2. timm: the model's name.
    architecture: str = "dinov2"
    #: Hugging Face: the model's configuration, where it differs from the default. timm: keyword arguments.
    settings: dict[str, Any] = field(default_factory=dict)
    #: Frames are resized to this height and width, on the device. 0: they are taken as they come.
    image_size: int = 0
    #: How they are resized: "bicubic" or "bilinear", always with antialiasing.
    interpolation: str = "bicubic"
    #: Pixels are normalised as (value / 255 - mean) / std, per channel.
    pixel_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    #: See pixel_mean.
    pixel_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    #: Which hidden state. -1: what the library gives as the last one, after its final norm. Others are counted as the
    #: library counts them, before any final norm: Hugging Face's hidden_states (0: the embeddings), timm's
    #: forward_intermediates (0: after the first block or stage).
    layer: int = -1
    #: True: only the class token, so one token per frame. False: the patches' tokens, or a convolutional network's map.
    cls: bool = False

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise ValueError(f"encoder.library={self.library} must be one of {', '.join(LIBRARIES)}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"encoder.interpolation={self.interpolation} must be bicubic or bilinear")
        if self.image_size < 0:
            raise ValueError(
                f"encoder.image_size={self.image_size} must be 0 (frames as they come) or a side in pixels"
            )
        if len(self.pixel_mean) != 3 or len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
            raise ValueError(
                "encoder.pixel_mean and pixel_std must be three numbers each (one per channel), std above 0"
            )


class FrameBackbone(nn.Module):
    """An image model that encodes each frame by itself.

    The network always works as in evaluation, whatever :meth:`train` says: no dropout, and batch norms use their stored
    statistics, so that a frame's tokens never depend on the frames beside it. Its weights are random unless they are
    loaded. Gradients reach frames and weights; who wants it frozen says ``requires_grad_(False)``.

    Attributes:
        network: The library's own module, without heads.
        report: How the tensors of a directory fitted, and which heads were left out; None if none was read.

    Raises:
        ValueError: The library is not installed, has no such architecture or setting, or the network does not turn
            images of that size into tokens.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: BackboneConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.library = LIBRARIES[config.library]
        self.network = (
            self.library.build(config.architecture, config.settings) if network is None else network
        )
        self.network.eval()
        self.report: LoadReport | None = None
        for name, row in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
            self.register_buffer(
                name, torch.tensor(row, dtype=torch.float32)[:, None, None], persistent=False
            )
        self._shapes: dict[tuple[int, int], tuple[int, int]] = {}
        side = config.image_size
        self._tokens, self._width = self._shape(
            *((side, side) if side else self.library.pretraining_size(self.network))
        )

    @property
    def width(self) -> int:
        """``D``: features per token."""
        return self._width

    @property
    def tokens_per_step(self) -> int:
        """``N``: tokens of a frame. With ``image_size=0``: of a frame of the size of the network's pretraining."""
        return self._tokens

    def tokens_of(self, height: int, width: int) -> int:
        """``N`` for frames of this size.

        Raises:
            ValueError: The network does not take them.
        """
        side = self.config.image_size
        return self._shape(*((side, side) if side else (height, width)))[0]

    def train(self, mode: bool = True) -> "FrameBackbone":
        """Set the mode of this module; the network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """See :meth:`encode_steps`."""
        return self.encode_steps(frames)

    def encode_steps(self, frames: Tensor, window: int = 1) -> Tensor:
        """Tokens of each frame, from that frame alone.

        Args:
            frames: ``(B, T, 3, H, W)`` uint8, or float in [0, 1].
            window: Must be 1: an image model sees no time.

        Returns:
            ``(B, T, N, D)``, patches row by row.

        Raises:
            ValueError: Another window, or frames that the network does not take.
        """
        if window != 1:
            raise ValueError(
                f"window={window}: {self.config.architecture} encodes each frame by itself; use window=1"
            )
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames of shape {tuple(frames.shape)} were given; (B, T, 3, H, W) is needed")
        self.tokens_of(*frames.shape[-2:])
        return self._tokens_of_pixels(self._pixels(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])

    def _pixels(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)``, resized and normalised in float32, then of the network's type."""
        unit = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        side = self.config.image_size
        if side and images.shape[-2:] != (side, side):
            unit = F.interpolate(unit, (side, side), mode=self.config.interpolation, antialias=True)
            unit = unit.clamp(0, 1)  # bicubic weights overshoot at edges
        # In the order of the libraries' own processors, so that results agree to the last bits.
        pixels = (unit - self.pixel_mean.float()) / self.pixel_std.float()
        return pixels.to(next(self.network.parameters()).dtype)

    def _tokens_of_pixels(self, pixels: Tensor) -> Tensor:
        """Tokens ``(B, N, D)`` of normalised images."""
        found, prefix = self.library.features(self.network, pixels, self.config.layer)
        if self.config.cls:
            if found.ndim != 3 or not prefix or not self.library.has_class_token(self.network):
                raise ValueError(
                    f"encoder.cls=true: this layer of {self.config.architecture} has no class token"
                )
            return found[:, :1]
        return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found[:, prefix:]

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        """Tokens and features of images of this size, worked out once for each size, without arithmetic."""
        if (height, width) not in self._shapes:
            name, patch = self.config.architecture, self.library.patch(self.network)
            if patch and (height % patch[0] or width % patch[1]):
                raise ValueError(
                    f"frames of {height} x {width} pixels cannot be cut into the patches of {name}; set "
                    f"encoder.image_size to a multiple of {math.lcm(*patch)}"
                )
            with torch.no_grad():
                pixels = torch.empty(
                    1, 3, height, width, dtype=next(self.network.parameters()).dtype, device="meta"
                )
                tokens = _on_meta(self, pixels)
            wanted = (height // patch[0]) * (width // patch[1]) if patch else tokens.shape[1]
            if not self.config.cls and tokens.shape[1] != wanted:
                raise ValueError(
                    f"{name} gives {tokens.shape[1]} tokens for {wanted} patches; it cannot encode frames"
                )
            self._shapes[height, width] = tokens.shape[1], tokens.shape[2]
        return self._shapes[height, width]


class _Tokens(nn.Module):
    """Makes a backbone's private step callable by functional_call."""

    def __init__(self, backbone: FrameBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone._tokens_of_pixels(pixels)


def _on_meta(backbone: FrameBackbone, pixels: Tensor) -> Tensor:
    """What the network would give, as an empty tensor of the right shape."""
    module = _Tokens(backbone)
    tensors = {
        name: tensor.detach().to("meta")
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    try:
        tokens = functional_call(module, tensors, (pixels,))
    except ValueError:
        raise
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
        size = " x ".join(str(side) for side in pixels.shape[-2:])
        raise ValueError(
            f"{backbone.config.architecture} does not take images of {size} pixels: {error}"
        ) from error
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        raise ValueError(f"{backbone.config.architecture} does not turn images into tokens")
    return tokens


def open_backbone(
    directory: str | Path,
    layer: int = -1,
    image_size: int = 0,
    cls: bool = False,
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
) -> FrameBackbone:
    """A backbone with the weights of a local directory. Nothing is downloaded, unpickled or run from it.

    Args:
        directory: As Hugging Face saves it (config.json with ``model_type``, model.safetensors in one or several
            files, preprocessor_config.json), or as timm does (config.json with ``architecture`` and
            ``pretrained_cfg``, model.safetensors).
        layer: See :class:`BackboneConfig`.
        image_size: See :class:`BackboneConfig`.
        cls: See :class:`BackboneConfig`.
        pixel_mean: Mean of the channels that the network was trained with; None: as the directory says.
        pixel_std: As ``pixel_mean``.

    Returns:
        In evaluation mode. ``report.left_out`` names the tensors of heads that were not needed.

    Raises:
        FileNotFoundError: There is no such directory, or a file is missing in it.
        ValueError: A tensor is missing, unexpected or of another shape; the weights are pickled or damaged; the pixel
            statistics are not known; the model is none that can encode frames.
    """
    folder = Path(directory)
    found = read_folder_config(folder)
    if "model_type" in found:
        library = "huggingface"
    elif "architecture" in found:
        library = "timm"
    else:
        raise ValueError(
            f"{folder / 'config.json'} has neither model_type (Hugging Face) nor architecture (timm); give the "
            "directory of an image model"
        )
    read = LIBRARIES[library].read(folder, found)
    if not read.report.fits:
        raise ValueError(f"{read.report}. Nothing was loaded")
    pixels = dict(read.pixels)
    pixels |= {
        key: row for key, row in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)) if row is not None
    }
    if not pixels.get("pixel_mean") or not pixels.get("pixel_std"):
        raise ValueError(
            f"{folder} does not say how pixels are normalised; put preprocessor_config.json with image_mean and "
            "image_std there, or give pixel_mean and pixel_std"
        )
    for key in ("pixel_mean", "pixel_std"):
        pixels[key] = [float(value) for value in pixels[key]]
    config = BackboneConfig(
        library, read.architecture, read.settings, image_size, layer=layer, cls=cls, **pixels
    )
    backbone = FrameBackbone(config, read.network)
    backbone.report = read.report
    return backbone.eval()
