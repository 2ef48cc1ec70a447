"""A pixel decoder, for looking only: what does a latent hold? It is trained after the model, and never changes it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.files import directory_hash, from_dict, load_part, read_config, save_parts

KIND = "pixel_decoder"
#: The coarsest map has at most so many cells along a side.
COARSEST = 8


@dataclass
class PixelDecoderConfig:
    """Size of a pixel decoder."""

    #: Features of the coarsest map; they halve with each doubling of the size, down to 16.
    width: int = 64

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"decoder.width={self.width} must be at least 1")


class PixelDecoder(nn.Module):
    """Latents ``(L, N, Z)`` to frames ``(L, C, H, W)``: a coarse map, doubled in size by transposed convolutions.

    The map's cells see the latent twice: a linear map of the mean token has weights of its own for each cell (all there
    is where ``N = 1``), and learned weights over the tokens mix them into each cell (patch tokens have places). The
    mean frame of the training data is added at the end, so that only what changes is to be learnt.
    """

    mean_frame: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, config: PixelDecoderConfig, tokens: int, width: int, frame_shape: list[int]) -> None:
        super().__init__()
        self.config, self.tokens, self.width, self.frame_shape = config, tokens, width, list(frame_shape)
        channels, height, columns = frame_shape
        doublings = 0
        while max(height, columns) / 2**doublings > COARSEST:
            doublings += 1
        self.rows, self.columns = (max(1, -(-side // 2**doublings)) for side in (height, columns))
        cells = self.rows * self.columns
        self.whole = nn.Linear(width, cells * config.width)
        self.parts = nn.Linear(width, config.width)
        self.mix = nn.Parameter(torch.randn(cells, tokens) / tokens**0.5)
        layers: list[nn.Module] = []
        size = config.width
        for _ in range(doublings):
            following = max(16, size // 2)
            layers += [nn.GELU(), nn.ConvTranspose2d(size, following, 4, stride=2, padding=1)]
            layers += [nn.GELU(), nn.Conv2d(following, following, 3, padding=1)]
            size = following
        self.grow = nn.Sequential(*layers)
        self.pixels = nn.Conv2d(size, channels, 3, padding=1)
        nn.init.zeros_(self.pixels.weight)  # begins with the mean frame
        nn.init.zeros_(self.pixels.bias if self.pixels.bias is not None else torch.empty(0))
        self.register_buffer("mean_frame", torch.full(tuple(frame_shape), 0.5))
        self.register_buffer("latent_mean", torch.zeros(width))
        self.register_buffer("latent_scale", torch.ones(()))

    @torch.no_grad()
    def set_statistics(self, latents: Tensor, frames: Tensor) -> None:
        """Take means and scale from training data: latents ``(L, N, Z)`` and frames ``(L, C, H, W)`` uint8."""
        self.mean_frame.copy_(frames.float().mean(dim=0) / 255)
        self.latent_mean.copy_(latents.mean(dim=(0, 1)))
        self.latent_scale.copy_((latents - latents.mean(dim=(0, 1))).std().clamp_min(1e-6))

    def forward(self, latents: Tensor) -> Tensor:
        """Latents ``(L, N, Z)`` to pixels ``(L, C, H, W)``, of which 0 to 1 are shown."""
        tokens = (latents.float() - self.latent_mean) / self.latent_scale
        cells = self.whole(tokens.mean(dim=1)).unflatten(1, (self.rows * self.columns, -1))
        cells = cells + torch.einsum("gn,lnw->lgw", self.mix, self.parts(tokens))
        grown = self.grow(cells.transpose(1, 2).unflatten(2, (self.rows, self.columns)))
        change = self.pixels(F.interpolate(grown, size=self.frame_shape[1:], mode="bilinear"))
        return self.mean_frame + change

    @torch.inference_mode()
    def frames(self, latents: Tensor) -> Tensor:
        """Latents ``(L, N, Z)`` to frames ``(L, C, H, W)`` uint8 on the CPU."""
        device = self.mean_frame.device
        shown = [
            self(part.to(device)).clamp(0, 1).mul(255).round().byte().cpu() for part in latents.split(64)
        ]
        return torch.cat(shown)

    def save(self, path: str | Path, model: str) -> None:
        """Write a decoder's directory.

        Args:
            path: The directory.
            model: Hash of the world model whose latents it reads.

        Raises:
            OSError: The disk is full or not writable.
        """
        about = {"decoder": asdict(self.config), "tokens": self.tokens, "width": self.width}
        card = "Pixel decoder of a world model's latents, for looking only.\n"
        save_parts(
            Path(path),
            KIND,
            {**about, "frame_shape": self.frame_shape, "model": model},
            {"decoder": self},
            card,
        )

    @classmethod
    def load(cls, path: str | Path, model: str | Path | None = None) -> "PixelDecoder":
        """Read a decoder's directory, in evaluation mode.

        Args:
            path: The directory.
            model: The world model's directory; if given, the decoder must have been trained on its latents.

        Raises:
            FileNotFoundError: There is no decoder.
            ValueError: It is damaged, of another kind or version, or was trained on another model's latents.
        """
        source = f"{path}/config.json"
        about = read_config(Path(path), KIND)
        if model is not None and about.get("model") != directory_hash(Path(model)):
            raise ValueError(
                f"{path} was trained on the latents of another model than {model}; train it again"
            )
        missing = [key for key in ("decoder", "tokens", "width", "frame_shape") if key not in about]
        if missing:
            raise ValueError(f"{source} lacks the key {', '.join(missing)}; train the decoder again")
        size = from_dict(PixelDecoderConfig, about["decoder"], source)
        decoder = cls(size, about["tokens"], about["width"], about["frame_shape"])
        load_part(Path(path), "decoder", decoder)
        return decoder.eval()
