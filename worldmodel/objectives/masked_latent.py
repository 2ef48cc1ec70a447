"""V-JEPA: predict the hidden part's features from the visible part's (Bardes et al. 2024, 2404.08471; 2506.09985).

I-JEPA, data2vec, dBOT and JEPAs with terms over the batch are settings of it: ``configs/objective``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.masks import Mask
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens
from worldmodel.objectives import distances
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.hidden_patches import HiddenPatches
from worldmodel.objectives.masked import centre_targets, distance, predict_hidden, variance_hinge
from worldmodel.objectives.predictions import mean_of, sum_of
from worldmodel.objectives.regularizers import covariance_loss, variance_loss
from worldmodel.objectives.targets import check_momentum, frozen_copy
from worldmodel.objectives.teacher import load_teacher
from worldmodel.training.ema import ema_update
from worldmodel.training.monitors import baseline_losses, feature_monitors, output_gap, weight_gap
from worldmodel.training.schedules import cosine, linear

#: Clips that the student encodes as a whole for the monitors.
MONITORED_CLIPS = 8


@dataclass
class MaskedLatentConfig(ObjectiveConfig):
    """Settings of masked latent prediction; the defaults are V-JEPA's."""

    masked: ClassVar[bool] = True

    #: "l1" (V-JEPA's), "l2" or "smooth_l1".
    loss: str = "l1"
    #: smooth_l1 is a square below this error, and a straight line above.
    beta: float = 1.0
    #: "layer" normalises each target token over its features (the papers'). "centred" takes off, at each position, the
    #: mean over the batch, and scales what is left to one size; "standardised" scales it at each position. "none"
    #: leaves targets as they are.
    target_norm: str = "layer"
    #: Targets are the mean of so many last blocks' tokens, each through the final norm and normalised by itself
    #: (data2vec, 2202.03555). 1: the encoder's output.
    target_layers: int = 1
    #: "ema": targets come from a moving average of the encoder. "online": from the encoder itself. "teacher": from a
    #: frozen network.
    target_encoder: str = "ema"
    #: Whether gradients reach the targets too; with target_encoder=online only.
    target_gradient: bool = False
    #: Model directory of the frozen network, from any objective; empty: one with random weights (dBOT, 2209.03735).
    teacher: str = ""
    #: Momentum of the target encoder: from this to ema_end over the training; with loop.stretch it ends before.
    #: Equal values: constant.
    ema_start: float = 0.98
    #: See ema_start.
    ema_end: float = 1.0
    #: How the momentum goes from one to the other: "linear" or "cosine" (half of one).
    ema_schedule: str = "linear"
    #: "transformer", or "none": hidden patches are mask tokens in the encoder's own input, and a linear layer reads the
    #: predictions off (as in data2vec, 2202.03555).
    predictor: str = "transformer"
    #: Weight of a hinge that keeps the predictions' std within a clip above 1 (V-JEPA's reg_coeff, 0 in its configs).
    variance: float = 0.0
    #: Weight of VICReg's hinge on the std over the batch of each feature of the clips' mean tokens: of contexts, and of
    #: whole clips where gradients reach the targets.
    batch_variance: float = 0.0
    #: Weight of the mean squared covariance of different features of the same mean tokens.
    batch_covariance: float = 0.0
    #: Weight of the uniformity of the same mean tokens on the unit sphere.
    uniformity: float = 0.0

    def __post_init__(self) -> None:
        for name, known in {
            "loss": ("l1", "l2", "smooth_l1"),
            "target_norm": ("layer", "centred", "standardised", "none"),
            "target_encoder": ("ema", "online", "teacher"),
            "ema_schedule": ("linear", "cosine"),
            "predictor": ("transformer", "none"),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        check_momentum(self.ema_start, self.ema_end)
        for name in ("variance", "batch_variance", "batch_covariance", "uniformity"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name}={getattr(self, name)} must not be negative")
        if self.beta <= 0 or self.target_layers < 1:
            raise ValueError("objective.beta must be positive, and objective.target_layers at least 1")
        if self.target_gradient and self.target_encoder != "online":
            raise ValueError("objective.target_gradient=true goes with objective.target_encoder=online only")
        if self.teacher and self.target_encoder != "teacher":
            raise ValueError("objective.teacher goes with objective.target_encoder=teacher only")

    def models(self) -> dict[str, str]:
        return {"teacher": self.teacher} if self.teacher else {}

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        teacher = load_teacher(self.teacher, encoder, seed) if self.target_encoder == "teacher" else None
        target = encoder if teacher is None else teacher
        if self.target_layers > target.config.depth:
            raise ValueError(
                f"objective.target_layers={self.target_layers} is more than the target encoder's "
                f"{target.config.depth} blocks"
            )
        network = None
        if self.predictor != "none":
            network = MaskedPredictor(predictor, encoder.grid, encoder.width, target.width)
        return MaskedLatentPrediction(encoder, network, self, teacher)


class MaskedLatentPrediction(Objective):
    """Context encoder -> predictor -> distance to the target encoder's tokens of the whole clip.

    ``batch.views[0]`` is a clip ``(B, T, C, H, W)``. The target encoder sees it once; context encoder and predictor
    run once for each of ``batch.masks``, and the loss is the mean over masks. Where a mask has groups of targets
    (I-JEPA's blocks), each group is predicted by itself from the same context.

    Args:
        encoder: The context encoder; the moving average begins as its copy.
        predictor: ``None`` with ``predictor="none"``.
        config: Loss, targets and EMA.
        teacher: The frozen network with ``target_encoder="teacher"``.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        predictor: MaskedPredictor | None,
        config: MaskedLatentConfig,
        teacher: VideoEncoder | None = None,
    ) -> None:
        super().__init__()
        if (predictor is None) != (config.predictor == "none"):
            raise ValueError("objective.predictor=none goes without a predictor, and nothing else does")
        if (teacher is None) == (config.target_encoder == "teacher"):
            raise ValueError("objective.target_encoder=teacher goes with a teacher, and nothing else does")
        self.config = config
        self.encoder = encoder
        self.target_encoder = frozen_copy(encoder) if config.target_encoder == "ema" else None
        self.teacher = teacher
        self.predictor = predictor
        if predictor is None:
            self.hidden_patches = HiddenPatches(encoder.width, (teacher or encoder).width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip, config = batch.views[0], self.config
        layers = self._target_layers(clip)
        targets = self._targets(layers, everywhere=True)
        losses, spreads = [], []
        views = [layers[-1].mean(dim=1)] if config.target_gradient else []
        for index, mask in enumerate(batch.masks):
            predicted, context = self._predict(clip, mask, index)
            wanted = gather_tokens(targets, mask.target)
            losses.append(distance(predicted, wanted, config.loss, config.beta))
            views.append(context.float().mean(dim=1))
            if config.variance:
                spreads.append(variance_hinge(predicted))
        loss = torch.stack(losses).mean()
        values = {"loss": loss}
        if len(losses) > 1:
            values |= {f"loss_mask{index}": value.detach() for index, value in enumerate(losses)}
        terms = {"variance": torch.stack(spreads).mean()} if spreads else {}
        terms |= self._batch_terms(views)
        if terms:
            added = sum_of([getattr(config, name) * value for name, value in terms.items()])
            values |= {**terms, "loss": loss + added, "prediction": loss.detach()}
        return values

    def after_step(self, progress: float) -> None:
        if self.target_encoder is not None:
            ema_update(self.target_encoder, self.encoder, self.momentum(progress))

    def momentum(self, progress: float) -> float:
        """Of the target encoder, with ``progress`` of its schedule done."""
        schedule = cosine if self.config.ema_schedule == "cosine" else linear
        return schedule(progress, self.config.ema_start, self.config.ema_end)

    def parts(self) -> dict[str, nn.Module]:
        """``encoder``, ``target_encoder`` if it has weights of its own, and ``predictor`` or ``hidden_patches``.

        A teacher has a directory of its own. What predicts a teacher's features is called ``decoder``: energies compare
        a ``predictor``'s outputs with the encoder's own features.
        """
        parts = dict(self.named_children())
        if self.teacher is None:
            return parts
        return {
            "decoder" if name == "predictor" else name: parts[name] for name in parts if name != "teacher"
        }

    def train(self, mode: bool = True) -> "MaskedLatentPrediction":
        """As always, but target encoder and teacher never drop anything."""
        super().train(mode)
        for frozen in (self.target_encoder, self.teacher):
            if frozen is not None:
                frozen.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of the encoder's tokens spread and rank, of the targets what guessing would score; of clips' mean tokens
        alignment (predictions and what they predict) and uniformity (2005.10242)."""
        clip, config = batch.views[0], self.config
        layers = self._target_layers(clip)
        own = layers[-1] if self.teacher is None else self.encoder.encode(clip).float().flatten(1, 2)
        figures = feature_monitors(own)
        if len(clip) > 1:
            figures["uniformity"] = float(distances.uniformity(own.mean(dim=1), everywhere=False))
        # One clip has no others to be compared with.
        if config.target_norm not in ("centred", "standardised") or len(clip) > 1:
            targets = self._targets(layers, everywhere=False)
            figures |= baseline_losses(targets, config.loss, config.beta)
            if batch.masks:
                mask = batch.masks[0]
                wanted, (predicted, _) = gather_tokens(targets, mask.target), self._predict(clip, mask, 0)
                figures["alignment"] = float(distances.alignment(predicted.mean(dim=1), wanted.mean(dim=1)))
        if self.target_encoder is not None:
            student = self.encoder.encode(clip[:MONITORED_CLIPS]).flatten(1, 2)
            figures["ema_weight_gap"] = weight_gap(self.encoder, self.target_encoder)
            figures["ema_output_gap"] = output_gap(student, own[:MONITORED_CLIPS])
        return figures

    def _predict(self, clip: Tensor, mask: Mask, index: int) -> tuple[Tensor, Tensor]:
        """Predictions ``(B, M, D)`` at ``mask.target`` in float32, and the context's tokens ``(B, K, D)``."""
        if self.predictor is None:
            tokens = self.hidden_patches.fill(self.encoder, clip, mask)
            return self.hidden_patches.predict(tokens, mask), gather_tokens(tokens, mask.context)
        context = self.encoder.encode(clip, keep=mask.context)
        return predict_hidden(self.predictor, context, mask, self.encoder.grid_of(clip), index), context

    def _batch_terms(self, views: list[Tensor]) -> dict[str, Tensor]:
        """The terms over the batch that have a weight, averaged over ``views``: mean tokens ``(B, D)``."""
        terms = {}
        if self.config.batch_variance:
            terms["batch_variance"] = variance_loss(torch.stack(views))
        if self.config.batch_covariance:
            terms["batch_covariance"] = covariance_loss(torch.stack(views))
        if self.config.uniformity:
            with torch.autocast(views[0].device.type, enabled=False):
                terms["uniformity"] = mean_of([distances.uniformity(view) for view in views])
        return terms

    def _target_layers(self, clip: Tensor) -> list[Tensor]:
        """Tokens ``(B, L, D)`` in float32 of the whole clip after each of the target layers, before normalisation."""
        if self.config.target_gradient:
            return self._layers(self.encoder, clip)
        with torch.no_grad():
            frozen = self.target_encoder or self.teacher
            if frozen is not None:
                return self._layers(frozen, clip)
            training, kind = self.encoder.training, clip.device.type
            self.encoder.eval()
            # Autocast can keep casts of weights for later; those made here have no gradient.
            with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
                layers = self._layers(self.encoder, clip)
            self.encoder.train(training)
            return layers

    def _layers(self, network: VideoEncoder, clip: Tensor) -> list[Tensor]:
        count, depth = self.config.target_layers, network.config.depth
        layers = network.encode_layers(clip, range(depth - count, depth))
        return [tokens.flatten(1, 2).float() for tokens in layers]

    def _targets(self, layers: list[Tensor], everywhere: bool) -> Tensor:
        """Targets ``(B, L, D)``; ``everywhere``: statistics over the batches of all processes."""
        return mean_of([self._normalise(tokens, everywhere) for tokens in layers])

    def _normalise(self, tokens: Tensor, everywhere: bool) -> Tensor:
        if self.config.target_norm == "layer":
            return F.layer_norm(tokens, tokens.shape[-1:])
        if self.config.target_norm == "none":
            return tokens
        return centre_targets(tokens, everywhere, each=self.config.target_norm == "standardised")
