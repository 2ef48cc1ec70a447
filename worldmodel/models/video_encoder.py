"""The video ViT: tubelets of pixels in, tokens out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.masks import Grid
from worldmodel.nn.blocks import Block, init_transformer
from worldmodel.nn.patches import gather_tokens, to_patches
from worldmodel.nn.positions import sincos_3d


@dataclass
class VideoEncoderConfig:
    """Size of a video ViT."""

    #: Height and width of the frames, in pixels.
    image_size: int = 64
    #: Frames per clip in pretraining.
    frames: int = 8
    #: Side of a patch, in pixels.
    patch_size: int = 16
    #: Frames per token.
    tubelet: int = 2
    #: Features per token.
    width: int = 96
    #: Transformer blocks.
    depth: int = 3
    #: Attention heads; must divide the width.
    heads: int = 3
    #: Hidden features of a block's MLP, as a multiple of the width.
    mlp_ratio: float = 4.0
    #: Pixels are normalised as (value / 255 - mean) / std, the same for each channel.
    pixel_mean: float = 0.5
    #: See pixel_mean.
    pixel_std: float = 0.25

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size or self.frames % self.tubelet:
            raise ValueError(
                f"encoder.patch_size={self.patch_size} must divide image_size={self.image_size}, and "
                f"encoder.tubelet={self.tubelet} must divide frames={self.frames}"
            )
        if self.width % self.heads:
            raise ValueError(f"encoder.heads={self.heads} must divide encoder.width={self.width}")

    @property
    def grid(self) -> Grid:
        """The token grid of a whole clip."""
        side = self.image_size // self.patch_size
        return Grid(self.frames // self.tubelet, side, side)


class VideoEncoder(nn.Module):
    """Video ViT with 3D tubelets, fixed sin-cos positions and no class token (V-JEPA, 2404.08471, section 3)."""

    positions: Tensor

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        pixels = config.tubelet * 3 * config.patch_size**2
        self.patch_embed = nn.Linear(pixels, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.register_buffer("positions", sincos_3d(*self.grid, config.width), persistent=False)
        init_transformer(self, self.blocks)

    @property
    def tokens_per_step(self) -> int:
        """``N``: tokens of one tubelet step."""
        return self.grid.rows * self.grid.columns

    @property
    def width(self) -> int:
        """``D``: features per token."""
        return self.config.width

    def encode(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of whole clips, with joint attention over all their time.

        Args:
            clip: ``(B, T, C, H, W)`` uint8, or float in [0, 1]; ``T`` a multiple of the tubelet, at most ``frames``.
            keep: Ids ``(B, K)`` of the tokens to compute; the others do not exist for the network.

        Returns:
            ``(B, P, N, D)``, or ``(B, K, D)`` with ``keep``.

        Raises:
            ValueError: The clip does not fit the encoder.
        """
        self._check(clip)
        patches = to_patches(clip, self.config.patch_size, self.config.tubelet)
        b, p, n, _ = patches.shape
        patches = patches.flatten(1, 2)
        positions = self.positions[:p].reshape(1, p * n, -1)
        if keep is not None:
            patches = gather_tokens(patches, keep)
            positions = gather_tokens(positions.expand(b, -1, -1), keep)
        tokens = self.patch_embed(self._normalise(patches)) + positions
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens if keep is not None else tokens.reshape(b, p, n, -1)

    def encode_steps(self, frames: Tensor, window: int = 1) -> Tensor:
        """Tokens of each frame that depend on no later frame: what world models use.

        Args:
            frames: ``(B, T, C, H, W)`` uint8, or float in [0, 1].
            window: Frames ``t - window + 1 .. t`` are seen by step ``t``. 1: the frame alone, repeated to fill a
                tubelet. A multiple of the tubelet: the last tubelet step of that clip. Before the first frame, the
                first frame is repeated.

        Returns:
            ``(B, T, N, D)``.

        Raises:
            ValueError: The window is neither 1 nor a multiple of the tubelet, or longer than the encoder's clips.
        """
        tubelet = self.config.tubelet
        if window != 1 and (window % tubelet or not 0 < window <= self.config.frames):
            raise ValueError(
                f"window={window} must be 1 or a multiple of the tubelet {tubelet}, at most {self.config.frames}"
            )
        b, t = frames.shape[:2]
        if window == 1:
            clips = frames.flatten(0, 1)[:, None].expand(-1, tubelet, -1, -1, -1)
        else:
            padded = torch.cat([frames[:, :1].expand(-1, window - 1, -1, -1, -1), frames], dim=1)
            clips = padded.unfold(1, window, 1).movedim(-1, 2).flatten(0, 1)
        return self.encode(clips)[:, -1].reshape(b, t, self.tokens_per_step, self.width)

    def _normalise(self, pixels: Tensor) -> Tensor:
        unit = 255.0 if pixels.dtype == torch.uint8 else 1.0
        mean, std = self.config.pixel_mean, self.config.pixel_std
        # One fused multiply-add over what is the largest tensor of the forward pass.
        return pixels.float().mul(1.0 / (unit * std)).sub_(mean / std)

    def _check(self, clip: Tensor) -> None:
        size = self.config.image_size
        if clip.ndim != 5 or clip.shape[2:] != (3, size, size) or clip.shape[1] > self.config.frames:
            raise ValueError(
                f"a clip of shape {tuple(clip.shape)} was given; this encoder takes (B, T <= {self.config.frames}, 3, "
                f"{size}, {size})"
            )
