"""PMAX: two networks, one predicts the other's code (Schmidhuber & Prelinger 1993, Neural Computation 5(4))."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.autoencoders import clip_decoder
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.mlp import MLPConfig, embed_clip, make_mlp, outputs_of
from worldmodel.objectives.pmin import UnitPredictors, scale_gradient, unpredictability
from worldmodel.objectives.predictions import DISTANCES, latent_distance
from worldmodel.objectives.regularizers import gaussian_infomax, variance_loss
from worldmodel.objectives.views import View, ViewConfig, draw_views
from worldmodel.training.monitors import effective_rank, feature_monitors

#: Sections 2.1 to 2.4 of the paper.
DIVERSITIES = ("variance", "reconstruction", "infomax", "pmin")


@dataclass
class PMAXConfig(ObjectiveConfig):
    """Settings of predictability maximisation."""

    #: Two views, A and B; none: two of the default settings.
    views: dict[str, ViewConfig] = field(default_factory=dict)
    #: From the mean token to the code, for each of the two networks.
    projector: MLPConfig = field(default_factory=lambda: MLPConfig(width=32))
    #: What predictability counts for the first network; 1 - eps is what diversity counts. 1: predictability alone.
    eps: float = 0.5
    #: "variance": each feature of the code has a std of 1 or more. "reconstruction": view A can be decoded from it.
    #: "infomax": its entropy is as large as its variance allows, as for a Gaussian. "pmin": its units cannot be
    #: predicted from each other.
    diversity: str = "infomax"
    #: Distance of prediction and code: "l1", "l2", "smooth_l1" or "cosine".
    distance: str = "l2"
    #: Of pmin: hidden features of each unit's predictor.
    hidden: int = 32

    def __post_init__(self) -> None:
        for name, known in {"diversity": DIVERSITIES, "distance": DISTANCES}.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        if not 0 < self.eps <= 1 or self.hidden < 1:
            raise ValueError("objective.eps must be above 0 and up to 1, and hidden at least 1")
        self.views = self.views or {"crop": ViewConfig(count=2)}
        kinds = list(self.views.values())
        if sum(kind.count for kind in kinds) != 2:
            raise ValueError("objective.views of PMAX needs two views: A and B")
        if self.diversity == "reconstruction" and (kinds[0].size < 1 or kinds[0].frames):
            raise ValueError("objective.diversity=reconstruction needs a first view of size 1 and all frames")

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return PMAX(encoder, self, seed)


class PMAX(Objective):
    """``eps M + (1 - eps) D``: the first network's code of A shall be predictable from B, and shall not collapse.

    The second network sees B and minimises the mismatch ``M`` of its prediction and the code; the first one minimises
    ``eps M + (1 - eps) D``; the loss is ``M + (1 - eps) D``, and ``eps`` scales the gradient of ``M`` that reaches the
    first one. With ``eps = 1`` nothing but ``M`` is left, as in BYOL, and something else has to prevent collapse.

    Args:
        encoder: The first network, to pretrain; the second one is of the same size.
        config: Views, head and trade-off.
        seed: Keys the views.
    """

    def __init__(self, encoder: VideoEncoder, config: PMAXConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.encoder, self.other_encoder = encoder, VideoEncoder(encoder.config)
        self.projector = make_mlp(config.projector, encoder.width)
        self.other_projector = make_mlp(config.projector, encoder.width)
        width = outputs_of(config.projector, encoder.width)
        if config.eps < 1 and config.diversity == "pmin":
            self.unit_predictors = UnitPredictors(width, config.hidden)
        if config.eps < 1 and config.diversity == "reconstruction":
            self.decoder = clip_decoder(encoder, width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        first, second = self.draw(batch)
        code = embed_clip(self.encoder, self.projector, first.clip)
        predicted = embed_clip(self.other_encoder, self.other_projector, second.clip)
        wanted = scale_gradient(code, self.config.eps)
        loss = mismatch = latent_distance(predicted, wanted, self.config.distance)
        parts = {"mismatch": mismatch}
        if self.config.eps < 1:
            with torch.autocast(code.device.type, enabled=False):
                parts["diversity"] = self.diversity(code, first.clip)
            loss = mismatch + (1 - self.config.eps) * parts["diversity"]
        return {"loss": loss, **parts}

    def draw(self, batch: Batch) -> list[View]:
        """Views A and B of a batch's clips."""
        patch = self.encoder.config.patch_size
        return draw_views(batch.views[0], batch.ids, self.seed, self.config.views, patch)

    def diversity(self, code: Tensor, clip: Tensor) -> Tensor:
        """What keeps ``code (B, E)`` of ``clip (B, T, C, H, W)`` in [0, 1] from collapsing; to be minimised."""
        if self.config.diversity == "variance":
            return variance_loss(code)
        if self.config.diversity == "pmin":
            return unpredictability(code, self.unit_predictors)
        if self.config.diversity == "infomax":
            return gaussian_infomax(code)
        decoded: Tensor = self.decoder(code[:, None])
        return (decoded - clip.flatten(1, 2)).square().mean()

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; of the code its rank and spread."""
        clip = batch.views[0]
        code = embed_clip(self.encoder, self.projector, self.draw(batch)[0].clip)
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        return figures | {"code_rank": effective_rank(code), "code_std": float(code.std(dim=0).mean())}
