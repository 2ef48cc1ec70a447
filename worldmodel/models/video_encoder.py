"""The video ViT: tubelets of pixels in, tokens out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worldmodel.masks import Grid
from worldmodel.nn.blocks import check_mlp, init_transformer, make_blocks, through_blocks
from worldmodel.nn.patches import gather_tokens, to_patches
from worldmodel.nn.positions import Positions, check_positions


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
    #: "rope" (3D rotary), "rope_compat" (as V-JEPA 2's released weights need it) or "sincos" (V-JEPA 1).
    positions: str = "rope"
    #: "gelu" or "swiglu".
    mlp: str = "gelu"
    #: Stochastic depth: rate of the last block; earlier ones get proportionally less.
    drop_path: float = 0.0
    #: Compute each block again for its gradient instead of keeping its activations: less memory, a third more time.
    checkpoint_blocks: bool = False
    #: Pixels are normalised as (value / 255 - mean) / std, per channel. These are ImageNet's.
    pixel_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    #: See pixel_mean.
    pixel_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])

    def __post_init__(self) -> None:
        sizes = (
            self.image_size,
            self.frames,
            self.patch_size,
            self.tubelet,
            self.width,
            self.depth,
            self.heads,
        )
        if min(sizes) < 1 or self.mlp_ratio <= 0:
            raise ValueError("encoder: every size, depth, heads and mlp_ratio must be positive")
        if self.image_size % self.patch_size or self.frames % self.tubelet:
            raise ValueError(
                f"encoder.patch_size={self.patch_size} must divide image_size={self.image_size}, and "
                f"encoder.tubelet={self.tubelet} must divide frames={self.frames}"
            )
        check_positions(self.positions, self.width, self.heads, "encoder")
        check_mlp(self.mlp, "encoder")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"encoder.drop_path={self.drop_path} must be at least 0 and below 1")
        if len(self.pixel_mean) != 3 or len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
            raise ValueError(
                "encoder.pixel_mean and pixel_std must be three numbers each (one per channel), std above 0"
            )

    @property
    def grid(self) -> Grid:
        """The token grid of a whole clip."""
        side = self.image_size // self.patch_size
        return Grid(self.frames // self.tubelet, side, side)


class VideoEncoder(nn.Module):
    """Video ViT with 3D tubelets and no class token (V-JEPA, 2404.08471, section 3; V-JEPA 2, 2506.09985).

    It takes clips of any length and of any size, square or not, that patches and tubelets divide: rotary positions
    simply go on, a sin-cos table is interpolated.
    """

    table: Tensor | None
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, config: VideoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        pixels = config.tubelet * 3 * config.patch_size**2
        self.patch_embed = nn.Linear(pixels, config.width)
        self.blocks = make_blocks(
            config.width, config.depth, config.heads, config.mlp_ratio, config.mlp, config.drop_path
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.positions = Positions(config.positions, self.grid, config.width, config.heads)
        self.register_buffer("table", self.positions.table(), persistent=False)
        mean, std = (torch.tensor(row, dtype=torch.float64) for row in (config.pixel_mean, config.pixel_std))
        self.register_buffer("pixel_scale", (1 / std).float(), persistent=False)
        self.register_buffer("pixel_shift", (mean / std).float(), persistent=False)
        init_transformer(self, self.blocks)

    @property
    def tokens_per_step(self) -> int:
        """``N``: tokens of one tubelet step of a clip of the configured size."""
        return self.grid.rows * self.grid.columns

    @property
    def width(self) -> int:
        """``D``: features per token."""
        return self.config.width

    def grid_of(self, clip: Tensor) -> Grid:
        """The token grid of ``clip (B, T, C, H, W)``.

        Raises:
            ValueError: The clip is none, or cannot be cut into whole tubelets and patches.
        """
        size, tubelet = self.config.patch_size, self.config.tubelet
        if clip.ndim != 5 or clip.shape[2] != 3 or not clip.shape[1]:
            raise ValueError(
                f"a clip of shape {tuple(clip.shape)} was given; this encoder takes (B, T, 3, H, W)"
            )
        if clip.shape[1] % tubelet or clip.shape[3] % size or clip.shape[4] % size:
            raise ValueError(
                f"a clip of shape {tuple(clip.shape)} was given; this encoder takes (B, T, 3, H, W) with T a multiple "
                f"of {tubelet}, H and W of {size}"
            )
        return Grid(clip.shape[1] // tubelet, clip.shape[3] // size, clip.shape[4] // size)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        """See :meth:`encode`."""
        return self.encode(clip, keep)

    def encode(
        self, clip: Tensor, keep: Tensor | None = None, hidden: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Tokens of whole clips, with joint attention over all their time.

        Args:
            clip: ``(B, T, C, H, W)`` uint8, or float in [0, 1]; ``T`` a multiple of the tubelet, ``H`` and ``W`` of
                the patch.
            keep: Ids ``(B, K)`` of the tokens to compute; the others do not exist for the network.
            hidden: Ids ``(B, M)`` and one vector ``(D,)`` that stands for the patches there (as in SimMIM,
                2111.09886): the network has to guess them.

        Returns:
            ``(B, P, N, D)``, or ``(B, K, D)`` with ``keep``.

        Raises:
            ValueError: The clip does not fit the encoder, or both ``keep`` and ``hidden`` are given.
        """
        if keep is not None and hidden is not None:
            raise ValueError("give keep or hidden, not both: a token that is left out cannot be hidden")
        tokens, grid = self._embed(clip, keep, hidden)
        turn = self.positions.turn(grid, keep, tokens.device)
        for after in through_blocks(self.blocks, tokens, turn, self.config.checkpoint_blocks):
            tokens = after
        tokens = self.norm(tokens)
        return tokens if keep is not None else tokens.unflatten(1, (grid.steps, -1))

    def encode_layers(self, clip: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Tokens after several blocks, each through the final norm, in the order asked for.

        Args:
            clip: As for :meth:`encode`.
            layers: Blocks counted from 0; the last one gives what :meth:`encode` gives.

        Returns:
            ``(B, P, N, D)`` for each layer.

        Raises:
            ValueError: There is no such layer, or the clip does not fit the encoder.
        """
        wrong = [layer for layer in layers if not 0 <= layer < self.config.depth]
        if wrong or not layers:
            raise ValueError(
                f"layers={list(layers)}: this encoder has the layers 0 to {self.config.depth - 1}"
            )
        tokens, grid = self._embed(clip)
        turn = self.positions.turn(grid, None, tokens.device)
        found = {}
        blocks = self.blocks[: max(layers) + 1]
        for index, after in enumerate(through_blocks(blocks, tokens, turn, self.config.checkpoint_blocks)):
            if index in layers:
                found[index] = self.norm(after).unflatten(1, (grid.steps, -1))
        return tuple(found[layer] for layer in layers)

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
        return self.encode(clips)[:, -1].unflatten(0, (b, t))

    def _embed(
        self, clip: Tensor, keep: Tensor | None = None, hidden: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Grid]:
        """Patch embeddings with what positions add, ``(B, L, D)``, and the clip's grid."""
        grid = self.grid_of(clip)
        patches = to_patches(clip, self.config.patch_size, self.config.tubelet).flatten(1, 2)
        if keep is not None:
            patches = gather_tokens(patches, keep)
        dtype = self.patch_embed.weight.dtype
        tokens = self.patch_embed(self._normalise(patches).to(dtype))
        if hidden is not None:
            ids, token = hidden
            b, m = ids.shape
            tokens = tokens.scatter(
                1, ids[..., None].expand(-1, -1, self.width), token.to(tokens.dtype).expand(b, m, -1)
            )
        added = self.positions.added(self.table, grid, keep)
        return (tokens if added is None else (tokens + added).to(dtype)), grid

    def _normalise(self, patches: Tensor) -> Tensor:
        """Patches ``(..., tubelet * 3 * patch * patch)`` of pixels, normalised per channel, in float32."""
        unit = 1.0 / 255.0 if patches.dtype == torch.uint8 else 1.0
        area, tubelet = self.config.patch_size**2, self.config.tubelet
        scale = (self.pixel_scale.float() * unit).repeat_interleave(area).repeat(tubelet)
        shift = self.pixel_shift.float().repeat_interleave(area).repeat(tubelet)
        # Two passes over what is the largest tensor of the forward pass.
        return (patches * scale).sub_(shift)
