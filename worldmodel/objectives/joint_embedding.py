"""Joint embedding: two or more views of a clip shall have embeddings that agree, and something keeps them apart.

View -> encoder -> mean token -> projector -> (predictor) -> distance to the embedding of another view. BYOL, SimSiam,
SimCLR, MoCo v3, Barlow Twins, VICReg, LeJEPA, siamese networks and IMAX are settings of it: ``configs/objective``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives import distances, regularizers
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.mlp import MLPConfig, embed_clip, make_mlp, outputs_of
from worldmodel.objectives.predictions import DISTANCES, latent_distance, mean_of, sum_of
from worldmodel.objectives.targets import check_momentum, frozen_copy
from worldmodel.objectives.views import View, ViewConfig, draw_views
from worldmodel.seeding import keyed_torch_generator
from worldmodel.training.ema import ema_update
from worldmodel.training.monitors import effective_rank, feature_monitors, weight_gap
from worldmodel.training.schedules import cosine

TARGETS = ("ema", "stop", "online")
#: Terms on the embeddings of each view by itself.
TERMS = ("variance", "covariance", "sigreg", "uniformity")


@dataclass
class JointEmbeddingConfig(ObjectiveConfig):
    """Settings of joint embedding; what has weight 0 is not computed."""

    #: Of systems for which one distance or one kind of target makes them what they are.
    only_distance: ClassVar[str] = ""
    only_target: ClassVar[str] = ""

    #: Kinds of views by name; none: two of the default settings.
    views: dict[str, ViewConfig] = field(default_factory=dict)
    projector: MLPConfig = field(default_factory=MLPConfig)
    #: Between the projector and the distance, on the online side only; layers=0: none.
    predictor: MLPConfig = field(default_factory=lambda: MLPConfig(layers=0))
    #: Where targets come from. "ema": a moving average of encoder and projector. "stop": these themselves, without
    #: gradient. "online": these themselves, with it.
    target: str = "ema"
    #: "others": each view is compared with each other one. "mean": with the mean of all target views.
    against: str = "others"
    #: "l1", "l2", "smooth_l1" or "cosine", or what looks at the batch: "info_nce", "nt_xent",
    #: "margin", "cross_correlation" or "gaussian_information".
    distance: str = "cosine"
    #: Weight of the distance.
    agreement: float = 1.0
    #: Temperature of info_nce and nt_xent.
    temperature: float = 0.1
    #: Weight of what is off the diagonal in cross_correlation.
    redundancy: float = 0.005
    #: Distance of different samples beyond which margin does not push them.
    margin: float = 1.0
    #: Variance that gaussian_information adds to all features.
    noise: float = 1e-3
    #: Weight of VICReg's hinge on each feature's std.
    variance: float = 0.0
    #: Weight of the mean squared covariance of different features. (VICReg's, divided by D only: D - 1 times as much.)
    covariance: float = 0.0
    #: Weight of SIGReg.
    sigreg: float = 0.0
    #: Random directions of SIGReg.
    directions: int = 256
    #: Weight of the uniformity of embeddings on the unit sphere.
    uniformity: float = 0.0
    #: Momentum of the moving average: half a cosine from this to ema_end over the training.
    ema_start: float = 0.996
    #: See ema_start.
    ema_end: float = 1.0
    #: Leave the random patch embedding as it is, which steadies ViTs (MoCo v3, 2104.02057, section 4).
    freeze_patches: bool = False

    def __post_init__(self) -> None:
        for name, known in {
            "target": (self.only_target,) if self.only_target else TARGETS,
            "against": ("others", "mean"),
            "distance": (self.only_distance,) if self.only_distance else (*DISTANCES, *COMPARISONS),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        if min(getattr(self, name) for name in ("agreement", *TERMS)) < 0:
            raise ValueError("objective weights must not be negative")
        if min(self.temperature, self.redundancy, self.directions, self.margin, self.noise) <= 0:
            raise ValueError(
                "objective.temperature, redundancy, directions, margin and noise must be positive"
            )
        check_momentum(self.ema_start, self.ema_end)
        self.views = self.views or {"crop": ViewConfig(count=2)}
        kinds = self.views.values()
        if sum(view.count for view in kinds) < 2 or not any(view.target for view in kinds):
            raise ValueError("objective.views needs two views or more, one of them for the target branch")

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return JointEmbedding(encoder, self, seed)


class JointEmbedding(Objective):
    """Encoder, projector, predictor, and the moving average of the first two where it is the target.

    ``batch.views[0]`` is a clip ``(B, T, C, H, W)``, from which views are drawn on its device; masks are not looked at.
    All statistics over the batch are of the batch of all processes: losses and gradients are those of one process.

    Args:
        encoder: The network to pretrain.
        config: Views, heads, distance, and what prevents collapse.
        seed: Keys what is drawn.
    """

    def __init__(self, encoder: VideoEncoder, config: JointEmbeddingConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.encoder = config, seed, encoder
        self.projector = make_mlp(config.projector, encoder.width)
        self.embedding_width = outputs_of(config.projector, encoder.width)
        if config.freeze_patches:
            encoder.patch_embed.requires_grad_(False)
        if config.predictor.layers:
            if config.predictor.width != self.embedding_width:
                raise ValueError(
                    f"objective.predictor.width={config.predictor.width} must be the embeddings' {self.embedding_width}"
                )
            self.view_predictor = make_mlp(config.predictor, self.embedding_width)
        if config.target == "ema":
            self.target_encoder = frozen_copy(encoder)
            self.target_projector = frozen_copy(self.projector)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views = self.draw(batch)
        online = [self.embed(view.clip) for view in views]
        predicted = [self.predict(embedding) for embedding in online]
        targets = self.targets(views, online)
        with torch.autocast(online[0].device.type, enabled=False):
            parts = {"agreement": self.agreement(predicted, targets)} | self.terms(online, batch.step)
        return {"loss": sum_of([getattr(self.config, name) * parts[name] for name in parts]), **parts}

    def draw(self, batch: Batch) -> list[View]:
        """All views of a batch's clips."""
        patch = self.encoder.config.patch_size
        return draw_views(batch.views[0], batch.ids, self.seed, self.config.views, patch)

    def embed(self, clip: Tensor) -> Tensor:
        """Embeddings ``(B, E)`` in float32 of ``clip (B, T, C, H, W)``: the projected mean token."""
        return embed_clip(self.encoder, self.projector, clip)

    def predict(self, embedding: Tensor) -> Tensor:
        """What the predictor makes of embeddings ``(B, E)``; themselves without one."""
        return self.view_predictor(embedding).float() if self.config.predictor.layers else embedding

    def targets(self, views: list[View], online: list[Tensor]) -> list[Tensor | None]:
        """What the other views shall agree with: ``(B, E)`` for each view, or None where it is no target."""
        found: list[Tensor | None] = []
        for view, embedding in zip(views, online, strict=True):
            if not view.target:
                found.append(None)
            elif self.config.target == "ema":
                with torch.no_grad():
                    found.append(embed_clip(self.target_encoder, self.target_projector, view.clip))
            else:
                found.append(embedding if self.config.target == "online" else embedding.detach())
        return found

    def agreement(self, predicted: list[Tensor], targets: list[Tensor | None]) -> Tensor:
        """The mean distance of predictions ``(B, E)`` to the targets of the other views, or to the targets' mean."""
        known = [target for target in targets if target is not None]
        if self.config.against == "mean":
            centre = mean_of(known)
            return mean_of([self.compare(mine, centre) for mine in predicted])
        return mean_of(
            [
                self.compare(mine, target)
                for i, mine in enumerate(predicted)
                for j, target in enumerate(targets)
                if i != j and target is not None
            ]
        )

    def compare(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The distance of predictions ``(B, E)`` of one view to the targets of another."""
        compare = COMPARISONS.get(self.config.distance)
        if compare is None:
            return latent_distance(predicted, target, self.config.distance)
        return compare(predicted, target, self.config)

    def terms(self, embeddings: list[Tensor], step: int) -> dict[str, Tensor]:
        """The terms against collapse that have a weight, each averaged over views."""
        config, parts, views = self.config, {}, torch.stack(embeddings)
        if config.variance:
            parts["variance"] = regularizers.variance_loss(views)
        if config.covariance:
            parts["covariance"] = regularizers.covariance_loss(views)
        if config.sigreg:
            generator = keyed_torch_generator("sigreg", self.seed, step)
            parts["sigreg"] = regularizers.sigreg(views, generator, config.directions)
        if config.uniformity:
            parts["uniformity"] = mean_of([distances.uniformity(view) for view in embeddings])
        return parts

    def after_step(self, progress: float) -> None:
        if self.config.target == "ema":
            ema_update(self.target_encoder, self.encoder, self.momentum(progress))
            ema_update(self.target_projector, self.projector, self.momentum(progress))

    def momentum(self, progress: float) -> float:
        """Of the moving average, with ``progress`` of the schedules done."""
        return cosine(progress, self.config.ema_start, self.config.ema_end)

    def train(self, mode: bool = True) -> "JointEmbedding":
        """As always, but the target encoder never drops anything. (Its projector's batch norms are as the online's.)"""
        super().train(mode)
        if self.config.target == "ema":
            self.target_encoder.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; of two views' embeddings the spread, the rank, alignment and uniformity."""
        clip = batch.views[0]
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        first, second = (self.embed(view.clip) for view in self.draw(batch)[:2])
        figures |= {
            "embedding_std": float(first.std(dim=0).mean()),
            "embedding_rank": effective_rank(first),
            "alignment": float(distances.alignment(first, second)),
        }
        if len(first) > 1:
            figures["uniformity"] = float(distances.uniformity(first, everywhere=False))
        if self.config.target == "ema":
            figures["ema_weight_gap"] = weight_gap(self.encoder, self.target_encoder)
        return figures


#: Distances that look at the whole batch: of predictions and targets ``(B, E)``, with their settings.
COMPARISONS: dict[str, Callable[[Tensor, Tensor, JointEmbeddingConfig], Tensor]] = {
    "info_nce": lambda p, z, config: distances.info_nce(p, z, config.temperature),
    "nt_xent": lambda p, z, config: distances.nt_xent(p, z, config.temperature),
    "margin": lambda p, z, config: distances.margin_loss(p, z, config.margin),
    "cross_correlation": lambda p, z, config: distances.cross_correlation_loss(p, z, config.redundancy),
    "gaussian_information": lambda p, z, config: distances.gaussian_information(p, z, config.noise),
}
