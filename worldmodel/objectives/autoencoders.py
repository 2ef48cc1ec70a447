"""Autoencoders: a clip from its own features. What these learn depends on what is between: noise, or a narrow code."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.decoder import PixelDecoder, PixelDecoderConfig
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.global_batch import global_mean
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.masked_pixels import pixel_targets, pixels_per_patch
from worldmodel.objectives.mlp import MLPConfig, make_mlp
from worldmodel.objectives.views import keyed_noise, unit_range
from worldmodel.training.monitors import feature_monitors

#: Of the moving average of the clips that a VAE sees.
MOMENTUM = 0.9


@dataclass
class DenoisingConfig(ObjectiveConfig):
    """Settings of the denoising autoencoder."""

    #: Share of the pixels that are made black, in all channels.
    black: float = 0.25
    #: Standard deviation of Gaussian noise on values in [0, 1].
    noise: float = 0.0
    #: Features of the decoder's hidden layer.
    hidden: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.black < 1 or self.noise < 0:
            raise ValueError("objective.black must be 0 or more and below 1, and noise not negative")
        if not self.black and not self.noise:
            raise ValueError("objective.black and noise are 0: there is nothing to remove; raise one of them")
        if self.hidden < 1:
            raise ValueError(f"objective.hidden={self.hidden} must be at least 1")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        return DenoisingAutoencoder(encoder, self, seed)


class DenoisingAutoencoder(Objective):
    """Corrupted clip -> encoder -> MLP on each token -> squared distance to the clip (Vincent et al. 2008).

    Args:
        encoder: The network to pretrain.
        config: Noise, and size of the decoder.
        seed: Keys the noise.
    """

    def __init__(self, encoder: VideoEncoder, config: DenoisingConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.encoder = config, seed, encoder
        size = MLPConfig(layers=2, hidden=config.hidden, width=pixels_per_patch(encoder), norm="layer")
        self.decoder = make_mlp(size, encoder.width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip = unit_range(batch.views[0])
        tokens = self.encoder.encode(self.corrupt(clip, batch.ids)).flatten(1, 2)
        restored = self.decoder(tokens).float()
        return {"loss": F.mse_loss(restored, pixel_targets(self.encoder, clip, normalise=False))}

    def corrupt(self, clip: Tensor, ids: range) -> Tensor:
        """``clip (B, T, C, H, W)`` in [0, 1] with noise and black pixels, each sample's keyed by its index."""
        if self.config.noise:
            clip = (clip + self.config.noise * keyed_noise(clip, ids, self.seed)).clamp(0, 1)
        if self.config.black:
            # A standard normal number is below this in a share of `black` of all cases.
            edge = torch.special.ndtri(clip.new_tensor(self.config.black))
            clip = clip * (keyed_noise(clip[:, :, :1], ids, self.seed, 1) >= edge)
        return clip

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; ``corrupted_loss``: the loss of leaving the noise as it is."""
        clip = unit_range(batch.views[0])
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        return figures | {"corrupted_loss": float(F.mse_loss(self.corrupt(clip, batch.ids), clip))}


@dataclass
class VAEConfig(ObjectiveConfig):
    """Settings of the variational autoencoder."""

    #: Numbers of the code.
    latent: int = 32
    #: Weight of the KL divergence; 1: the evidence lower bound.
    beta: float = 1.0
    #: Standard deviation of pixels in [0, 1] about the decoder's: smaller, and the code says more.
    pixel_std: float = 0.1
    #: Features of the decoder's coarsest map.
    decoder_width: int = 64

    def __post_init__(self) -> None:
        if min(self.latent, self.decoder_width) < 1:
            raise ValueError("objective.latent and decoder_width must be at least 1")
        if self.beta < 0 or self.pixel_std <= 0:
            raise ValueError("objective.beta must not be negative, and pixel_std must be positive")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        return VariationalAutoencoder(encoder, self, seed)


class VariationalAutoencoder(Objective):
    """Clip -> encoder -> mean token -> q(z | clip) -> z -> clip (Kingma & Welling 2014, 1312.6114).

    The loss is the negative evidence lower bound per pixel, less a constant: the squared distance over twice the
    pixels' variance, and the KL divergence of q, a normal distribution with a diagonal covariance, from N(0, I).
    The decoder adds its output to the clips' mean, a moving average: the code need not say what all clips show. (It
    did without: on TwoRoom a mean far from 0, the same for all clips, was all that 100 steps made of it.)

    Args:
        encoder: The network to pretrain.
        config: Sizes and weights.
        seed: Keys the draws of z.
    """

    def __init__(self, encoder: VideoEncoder, config: VAEConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.encoder = config, seed, encoder
        self.posterior = nn.Linear(encoder.width, 2 * config.latent)
        # Narrow at first: of a code that is all noise the decoder learns to take no notice.
        nn.init.constant_(self.posterior.bias[config.latent :], -4.0)
        self.decoder = clip_decoder(encoder, config.latent, config.decoder_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip = unit_range(batch.views[0])
        if self.training:
            self.decoder.mean_frame.lerp_(global_mean(clip.flatten(1, 2).mean(dim=0)), 1 - MOMENTUM)
        mean, log_variance = self.infer(clip)
        with torch.autocast(clip.device.type, enabled=False):
            code = mean + (log_variance / 2).exp() * keyed_noise(mean, batch.ids, self.seed)
            error = (self.decode(code) - clip).square().mean()
            kl = kl_divergence(mean, log_variance).mean()
            loss = error / (2 * self.config.pixel_std**2) + self.config.beta * kl / clip[0].numel()
        return {"loss": loss, "pixel_error": error.sqrt(), "kl": kl}

    def infer(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance ``(B, latent)`` of q(z | clip), in float32."""
        numbers: Tensor = self.posterior(self.encoder.encode(clip).mean(dim=(1, 2)))
        mean, log_variance = numbers.float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, code: Tensor) -> Tensor:
        """Clips ``(B, T, C, H, W)`` of codes ``(B, latent)``."""
        pixels: Tensor = self.decoder(code[:, None])
        return pixels.unflatten(1, (-1, 3))

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; ``active_latents``: numbers of the code whose mean differs between clips.

        (Burda et al. 2015, 1509.00519: their variance over clips is above 0.01.)
        """
        clip = batch.views[0]
        mean, _ = self.infer(clip)
        active = (mean.var(dim=0, correction=0) > 0.01).sum()
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        return figures | {"active_latents": float(active)}


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence ``(B,)``, in nats, of normal distributions ``(B, Z)`` of diagonal covariance from N(0, I)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def clip_decoder(encoder: VideoEncoder, width: int, features: int = 64) -> PixelDecoder:
    """From one vector ``(B, 1, width)`` to all frames of the encoder's clips at once, ``(B, 3 T, H, W)``."""
    size = encoder.config
    frames = [3 * size.frames, size.image_size, size.image_size]
    return PixelDecoder(PixelDecoderConfig(features), 1, width, frames)
