"""What decides whether a command continues a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.common import open_run
from experiments.pretrain import Config, open_clips
from worldmodel.data.corpus import CorpusConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.objectives.masked_latent import MaskedLatentConfig


def test_a_run_that_stopped_for_damaged_files_goes_on_once_more_are_allowed(tmp_path: Path) -> None:
    config = Config(
        data="videos", out=str(tmp_path), objective=MaskedLatentConfig(), corpus=CorpusConfig(data="videos")
    )
    open_run("pretrain", config).close()
    more = replace(config, corpus=replace(config.corpus, max_damaged=0.2, backend="pyav"))
    open_run("pretrain", more).close()
    with pytest.raises(ValueError, match=r"corpus.fps=4.0, not 8"):
        open_run("pretrain", replace(config, corpus=replace(config.corpus, fps=8)))


def test_clips_of_another_size_than_the_encoders_are_refused(tmp_path: Path) -> None:
    """Masks are drawn on the encoder's grid: larger clips would train on one corner, and no one would know."""
    (tmp_path / "a.mp4").write_bytes(b"no video")
    encoder = VideoEncoderConfig(image_size=32, frames=4, patch_size=8, width=24, depth=1, heads=2)
    config = Config(data=str(tmp_path), objective=MaskedLatentConfig(), encoder=encoder)
    fits = CorpusConfig(data=str(tmp_path), frames=4, size=32)
    open_clips(replace(config, corpus=fits))
    for corpus in (replace(fits, frames=64), replace(fits, size=64)):
        with pytest.raises(ValueError, match=r"corpus.(frames|size)=64 is not the encoder's"):
            open_clips(replace(config, corpus=corpus))
