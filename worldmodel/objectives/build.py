"""From settings to an objective."""

from __future__ import annotations

from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.autoencoders import DenoisingConfig, VAEConfig
from worldmodel.objectives.base import Objective, ObjectiveConfig
from worldmodel.objectives.beit import BEiTConfig
from worldmodel.objectives.cmae import CMAEConfig
from worldmodel.objectives.colorization import ColorizationConfig
from worldmodel.objectives.cpc import CPCConfig
from worldmodel.objectives.dino import DINOConfig
from worldmodel.objectives.hybrid import HybridConfig
from worldmodel.objectives.ibot import IBOTConfig
from worldmodel.objectives.joint_embedding import JointEmbeddingConfig
from worldmodel.objectives.masked_latent import MaskedLatentConfig
from worldmodel.objectives.masked_pixels import MaskedPixelsConfig
from worldmodel.objectives.moco import MoCoConfig
from worldmodel.objectives.pmax import PMAXConfig
from worldmodel.objectives.pmin import PMINConfig
from worldmodel.objectives.pretext import (
    ContextPredictionConfig,
    JigsawConfig,
    RotationConfig,
    TemporalOrderConfig,
)
from worldmodel.objectives.swav import SwAVConfig
from worldmodel.objectives.tokenizer import TokenizerConfig

#: Settings of each family of objectives by name. ``configs/objective/byol.yaml`` begins with one of them,
#: ``joint_embedding_schema``, and says what makes it BYOL.
SCHEMAS: dict[str, type[ObjectiveConfig]] = {
    "vjepa": MaskedLatentConfig,
    "videomae": MaskedPixelsConfig,
    "joint_embedding": JointEmbeddingConfig,
    "beit": BEiTConfig,
    "tokenizer": TokenizerConfig,
    "cmae": CMAEConfig,
    "hybrid": HybridConfig,
    "moco": MoCoConfig,
    "cpc": CPCConfig,
    "swav": SwAVConfig,
    "dino": DINOConfig,
    "ibot": IBOTConfig,
    "pmin": PMINConfig,
    "pmax": PMAXConfig,
    "rotation": RotationConfig,
    "context_prediction": ContextPredictionConfig,
    "jigsaw": JigsawConfig,
    "temporal_order": TemporalOrderConfig,
    "colorization": ColorizationConfig,
    "denoising": DenoisingConfig,
    "vae": VAEConfig,
}


def build_objective(
    config: ObjectiveConfig, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int = 0
) -> Objective:
    """The objective of pretraining that ``config`` is of, with a new predictor, decoder or projector.

    Args:
        config: Its settings; their class says which objective it is.
        encoder: The network to pretrain.
        predictor: Size of the predictor, or of VideoMAE's decoder; unused where an objective has none.
        seed: Of the run; keys what is drawn in training.

    Raises:
        ValueError: The settings are of no objective that pretrains an encoder, or contradict each other.
    """
    return config.build(encoder, predictor, seed)
