"""From settings to an objective."""

from __future__ import annotations

from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Objective, ObjectiveConfig
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction
from worldmodel.objectives.masked_pixels import MaskedPixelPrediction, MaskedPixelsConfig, pixels_per_patch


def build_objective(
    config: ObjectiveConfig, encoder: VideoEncoder, predictor: MaskedPredictorConfig
) -> Objective:
    """The objective of pretraining that ``config`` is of, with a new predictor or decoder.

    Args:
        config: Its settings; their class says which objective it is.
        encoder: The network to pretrain.
        predictor: Size of the predictor, or of VideoMAE's decoder; unused with ``objective.predictor=none``.

    Raises:
        ValueError: The settings are of no objective that pretrains an encoder.
    """
    if isinstance(config, MaskedLatentConfig):
        network = (
            None if config.predictor == "none" else MaskedPredictor(predictor, encoder.grid, encoder.width)
        )
        return MaskedLatentPrediction(encoder, network, config)
    if isinstance(config, MaskedPixelsConfig):
        decoder = MaskedPredictor(
            predictor, encoder.grid, encoder.width, output_width=pixels_per_patch(encoder)
        )
        return MaskedPixelPrediction(encoder, decoder, config)
    raise ValueError(
        f"objective: {type(config).__name__} is unknown; it is MaskedLatentConfig or MaskedPixelsConfig"
    )
