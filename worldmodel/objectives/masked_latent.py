"""V-JEPA: predict the hidden part's features from the visible part's (Bardes et al. 2024, 2404.08471; 2506.09985)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.masks import Mask
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.masked import centre_targets, distance, predict_masked, variance_hinge
from worldmodel.objectives.targets import check_momentum, frozen_copy
from worldmodel.training.ema import ema_update
from worldmodel.training.monitors import baseline_losses, feature_monitors, output_gap, weight_gap
from worldmodel.training.schedules import linear

#: Clips that the student encodes as a whole for the monitors.
MONITORED_CLIPS = 8


@dataclass
class MaskedLatentConfig(ObjectiveConfig):
    """Settings of the V-JEPA objective."""

    masked: ClassVar[bool] = True

    #: "l1" (the papers') or "l2".
    loss: str = "l1"
    #: "layer" normalises each target token over its features (the papers'). "centred" takes off, at each position, the
    #: mean over the batch, and scales what is left to one size. "none" leaves targets as they are.
    target_norm: str = "layer"
    #: "ema": targets come from a moving average of the encoder. "online": from the encoder itself, without gradient.
    target_encoder: str = "ema"
    #: Momentum of the target encoder: linear from this to ema_end over the training; with loop.stretch it ends before.
    #: Equal values: constant.
    ema_start: float = 0.98
    #: See ema_start.
    ema_end: float = 1.0
    #: "transformer", or "none": hidden patches are mask tokens in the encoder's own input, and a linear layer reads the
    #: predictions off (as in data2vec, 2202.03555).
    predictor: str = "transformer"
    #: Weight of a hinge that keeps the predictions' std within a clip above 1 (V-JEPA's reg_coeff, 0 in its configs).
    variance: float = 0.0

    def __post_init__(self) -> None:
        for name, known in {
            "loss": ("l1", "l2"),
            "target_norm": ("layer", "centred", "none"),
            "target_encoder": ("ema", "online"),
            "predictor": ("transformer", "none"),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        check_momentum(self.ema_start, self.ema_end)
        if self.variance < 0:
            raise ValueError(f"objective.variance={self.variance} must not be negative")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        network = (
            None if self.predictor == "none" else MaskedPredictor(predictor, encoder.grid, encoder.width)
        )
        return MaskedLatentPrediction(encoder, network, self)


class MaskedLatentPrediction(Objective):
    """Context encoder -> predictor -> distance to the target encoder's tokens of the whole clip.

    ``batch.views[0]`` is a clip ``(B, T, C, H, W)``. The target encoder sees it once; context encoder and predictor
    run once for each of ``batch.masks``, and the loss is the mean over masks. Where a mask has groups of targets
    (I-JEPA's blocks), each group is predicted by itself from the same context.

    Args:
        encoder: The context encoder; the target encoder begins as its copy.
        predictor: ``None`` with ``predictor="none"``.
        config: Loss, targets and EMA.
    """

    def __init__(
        self, encoder: VideoEncoder, predictor: MaskedPredictor | None, config: MaskedLatentConfig
    ) -> None:
        super().__init__()
        if (predictor is None) != (config.predictor == "none"):
            raise ValueError("objective.predictor=none goes without a predictor, and nothing else does")
        self.config = config
        self.encoder = encoder
        self.target_encoder = frozen_copy(encoder) if config.target_encoder == "ema" else None
        self.predictor = predictor
        if predictor is None:
            self.hidden_patches = HiddenPatches(encoder.width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip = batch.views[0]
        targets = self._normalise(self._target_tokens(clip), everywhere=True)
        losses, spreads = [], []
        for index, mask in enumerate(batch.masks):
            predicted = self._predict(clip, mask, index)
            losses.append(distance(predicted, gather_tokens(targets, mask.target), self.config.loss))
            if self.config.variance:
                spreads.append(variance_hinge(predicted))
        loss = torch.stack(losses).mean()
        values = {"loss": loss}
        if len(losses) > 1:
            values |= {f"loss_mask{index}": value.detach() for index, value in enumerate(losses)}
        if spreads:
            values["variance"] = torch.stack(spreads).mean()
            values |= {"loss": loss + self.config.variance * values["variance"], "prediction": loss.detach()}
        return values

    def after_step(self, progress: float) -> None:
        if self.target_encoder is not None:
            ema_update(self.target_encoder, self.encoder, self.momentum(progress))

    def momentum(self, progress: float) -> float:
        """Of the target encoder, with ``progress`` of its schedule done."""
        return linear(progress, self.config.ema_start, self.config.ema_end)

    def parts(self) -> dict[str, nn.Module]:
        """``encoder``, ``target_encoder`` if it has weights of its own, and ``predictor`` or ``hidden_patches``."""
        return dict(self.named_children())

    def train(self, mode: bool = True) -> "MaskedLatentPrediction":
        """As always, but the target encoder never drops anything."""
        super().train(mode)
        if self.target_encoder is not None:
            self.target_encoder.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        clip = batch.views[0]
        tokens = self._target_tokens(clip)
        figures = feature_monitors(tokens)
        if (
            self.config.target_norm != "centred" or len(tokens) > 1
        ):  # one clip has no others to be compared with
            figures |= baseline_losses(self._normalise(tokens, everywhere=False), self.config.loss)
        if self.target_encoder is not None:
            student = self.encoder.encode(clip[:MONITORED_CLIPS]).flatten(1, 2)
            figures["ema_weight_gap"] = weight_gap(self.encoder, self.target_encoder)
            figures["ema_output_gap"] = output_gap(student, tokens[:MONITORED_CLIPS])
        return figures

    def _predict(self, clip: Tensor, mask: Mask, index: int) -> Tensor:
        """Predictions ``(B, M, D)`` at ``mask.target``, in float32."""
        if self.predictor is None:
            return self.hidden_patches(self.encoder, clip, mask)
        return predict_masked(self.encoder, self.predictor, clip, mask, index)

    @torch.no_grad()
    def _target_tokens(self, clip: Tensor) -> Tensor:
        """Tokens of the whole clip ``(B, L, D)`` in float32, before normalisation."""
        if self.target_encoder is not None:
            return self.target_encoder.encode(clip).flatten(1, 2).float()
        training, kind = self.encoder.training, clip.device.type
        self.encoder.eval()
        # Autocast can keep casts of weights for later; those made here have no gradient.
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            tokens = self.encoder.encode(clip).flatten(1, 2).float()
        self.encoder.train(training)
        return tokens

    def _normalise(self, tokens: Tensor, everywhere: bool) -> Tensor:
        """Targets ``(B, L, D)``; ``everywhere``: statistics over the batches of all processes."""
        if self.config.target_norm == "layer":
            return F.layer_norm(tokens, tokens.shape[-1:])
        return centre_targets(tokens, everywhere) if self.config.target_norm == "centred" else tokens


class HiddenPatches(nn.Module):
    """Prediction without a predictor: mask tokens in the encoder's own input, and a linear layer behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.read_out = nn.Linear(width, width)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, encoder: VideoEncoder, clip: Tensor, mask: Mask) -> Tensor:
        """All that is not context is hidden; predictions ``(B, M, D)`` at ``mask.target``."""
        b, seen = mask.context.shape
        t, h, w = clip.shape[1], *clip.shape[3:]
        size = encoder.config
        count = (t // size.tubelet) * (h // size.patch_size) * (w // size.patch_size)
        hidden = torch.ones(b, count, dtype=torch.bool, device=clip.device).scatter_(1, mask.context, False)
        ids = hidden.byte().argsort(dim=1, descending=True, stable=True)[:, : count - seen]
        tokens = encoder.encode(clip, hidden=(ids, self.mask_token)).flatten(1, 2)
        return self.read_out(gather_tokens(tokens, mask.target)).float()
