"""What decides whether a command continues a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.common import open_run
from experiments.pretrain import Config
from worldmodel.data.corpus import CorpusConfig
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
