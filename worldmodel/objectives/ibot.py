"""iBOT: DINO, and the same for the hidden patches of each large view (Zhou et al. 2022, 2111.07832)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldmodel.masks import Mask
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.dino import DINO, DINOConfig
from worldmodel.objectives.predictions import mean_of, sum_of
from worldmodel.objectives.views import View


@dataclass
class IBOTConfig(DINOConfig):
    """Settings of iBOT: those of DINO, and the hidden patches' weight."""

    masked: ClassVar[bool] = True

    #: Weight of the cross-entropy at hidden patches.
    patches: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patches <= 0:
            raise ValueError("objective.patches must be positive; without it, use objective=dino")
        if any(view.target and (view.size < 1 or view.frames) for view in self.views.values()):
            raise ValueError(
                "objective.views for the target branch need size 1 and all frames: masks are of whole clips"
            )

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return IBOT(encoder, self, seed)


class MaskToken(nn.Module):
    """The vector that stands for hidden patches in the encoder's input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.weight, std=0.02)


class IBOT(DINO):
    """The student sees large views with patches hidden, and the teacher sees them whole.

    At each hidden patch, the student's softmax shall be what the teacher, an online tokenizer, says there of the same
    view; for mean tokens, what it says of the other view. Heads are shared, centres are not. The places of the first of
    the batch's masks that are to be predicted are hidden in all large views.
    """

    config: IBOTConfig
    patch_centre: Tensor

    def __init__(self, encoder: VideoEncoder, config: IBOTConfig, seed: int) -> None:
        super().__init__(encoder, config, seed)
        self.mask_token = MaskToken(encoder.width)
        self.register_buffer("patch_centre", torch.zeros(config.prototypes))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        mask, views = batch.masks[0], self.draw(batch)
        seen = [self.tokens(view, mask) for view in views]
        online = [self.projector(tokens.mean(dim=1)).float() for tokens in seen]
        known = [self.target_tokens(view.clip) if view.target else None for view in views]
        parts = {
            "agreement": self.agreement(
                [self.predict(x) for x in online], self.distributions(known, self.centre, None)
            ),
            "patches": self.patch_loss(seen, known, mask),
        }
        with torch.autocast(online[0].device.type, enabled=False):
            parts |= self.terms(online, batch.step)
        return {"loss": sum_of([getattr(self.config, name) * parts[name] for name in parts]), **parts}

    def tokens(self, view: View, mask: Mask) -> Tensor:
        """The student's ``(B, L, D)``; patches at ``mask.target`` are hidden in views for the target branch."""
        hidden = (mask.target, self.mask_token.weight) if view.target else None
        return self.encoder.encode(view.clip, hidden=hidden).flatten(1, 2)

    @torch.no_grad()
    def target_tokens(self, clip: Tensor) -> Tensor:
        """The teacher's ``(B, L, D)`` of a whole view."""
        return self.target_encoder.encode(clip).flatten(1, 2)

    def patch_loss(self, seen: list[Tensor], known: list[Tensor | None], mask: Mask) -> Tensor:
        """Cross-entropy at ``mask.target`` of the student's ``(B, L, D)`` and the teacher's of the same view."""
        losses = []
        for mine, wanted in zip(seen, self.distributions(known, self.patch_centre, mask), strict=True):
            if wanted is not None:
                rows = gather_tokens(mine, mask.target).flatten(0, 1)
                losses.append(self.compare(self.predict(self.projector(rows).float()), wanted))
        return mean_of(losses)

    @torch.no_grad()
    def distributions(
        self, known: list[Tensor | None], centre: Tensor, mask: Mask | None
    ) -> list[Tensor | None]:
        """What the teacher says of its tokens' mean ``(B, K)``, or at ``mask.target`` ``(B M, K)``; moves a centre."""
        scores: list[Tensor | None] = []
        for tokens in known:
            if tokens is None:
                scores.append(None)
                continue
            rows = tokens.mean(dim=1) if mask is None else gather_tokens(tokens, mask.target).flatten(0, 1)
            scores.append(self.target_prototypes(self.target_projector(rows).float()))
        return self.centred(scores, centre)
