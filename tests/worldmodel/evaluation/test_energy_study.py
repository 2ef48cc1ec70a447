"""Which clips are compared with which, and what is made of their energies."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel.evaluation.probe_data import COLOURS, write_video
from worldmodel.data.clips import ClipShape
from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.evaluation.energy_clips import Moments, Part, VideoMoments, unseen_part
from worldmodel.evaluation.energy_study import COMPARISONS, as_csv, score, summarise, table
from worldmodel.evaluation.paired import paired_test

ALL = Part(0.0, "file", "all of the videos")
SHAPE = ClipShape(4, 10.0)


def numbered(video: int, clips: int) -> VideoMoments:
    """Clips of four frames; a pixel says video, clip and frame."""
    frames = torch.arange(clips * 4).reshape(clips, 4, 1, 1, 1) + 40 * video
    return VideoMoments(f"video {video}", tuple(range(0, 4 * clips, 4)), frames.to(torch.uint8))


def seen_and_expected(clips: Tensor, futures: Tensor | None = None) -> Tensor:
    """An "energy" that names the first two frames of the context and the last of the future."""
    futures = clips if futures is None else futures
    return 1e4 * clips[:, 0, 0, 0, 0] + 1e2 * clips[:, 1, 0, 0, 0] + futures[:, -1, 0, 0, 0]


def test_every_clip_meets_the_twins_that_it_should() -> None:
    models: Any = {"pretrained": seen_and_expected}
    found = score(models, [numbered(0, 3), numbered(1, 2)], list(COMPARISONS), 2, "cpu")["pretrained"]
    # Contexts are a clip's own, but for the reversed; contexts 0 1, 4 5, 8 9, then 40 41, 44 45.
    own = [103, 40507, 80911, 404143, 444547]
    assert found.likely == own
    assert found.unlikely["reversed"] == [30200, 70604, 111008, 434240, 474644]
    futures = {key: (np.array(found.unlikely[key]) % 100).tolist() for key in ("shuffled", "elsewhere")}
    assert futures["shuffled"] == [43, 47, 43, 3, 7]  # of the next video; the last one's of the first
    assert futures["elsewhere"] == [11, 3, 7, 47, 43]
    for key in futures:
        assert (np.array(found.unlikely[key]) // 100 == np.array(own) // 100).all()
    assert found.videos == ["video 0"] * 3 + ["video 1"] * 2 and found.starts == [0, 4, 8, 0, 4]
    assert found.groups.tolist() == [0, 0, 0, 1, 1]
    rows = list(csv.DictReader(as_csv({"pretrained": found}).decode().splitlines()))
    assert [float(row["likely"]) for row in rows] == own and rows[3]["video"] == "video 1"


def test_another_videos_future_needs_another_video() -> None:
    models: Any = {"pretrained": seen_and_expected}
    with pytest.raises(ValueError, match=r"those of video 0 only: .* comparisons=\[reversed,elsewhere\]"):
        score(models, [numbered(0, 3)], list(COMPARISONS), 8, "cpu")
    alone = score(models, [numbered(0, 3)], ["reversed"], 8, "cpu")["pretrained"]
    assert alone.groups.tolist() == [0, 1, 2]


def test_clips_count_alone_where_the_question_is_about_other_moments() -> None:
    """Five videos can never show anything by a test over videos: 2 of 2^5 signs already have p = 0.06."""
    models: Any = {"pretrained": seen_and_expected, "untrained": seen_and_expected}
    videos = [numbered(0, 3), numbered(1, 2)]
    found = score(models, videos, ["reversed"], 8, "cpu", independent="clip")
    assert found["pretrained"].groups.tolist() == [0, 1, 2, 3, 4]
    assert "over videos" not in table(summarise(found))
    assert "over videos" in table(summarise(score(models, videos, ["reversed"], 8, "cpu")))


def test_figures_are_those_of_the_pairs() -> None:
    """A model that knows against one that guesses, on twenty videos."""
    rng = np.random.default_rng(0)
    noise = iter(rng.normal(size=10_000))

    def knows(clips: Tensor, futures: Tensor | None = None) -> Tensor:
        return torch.full((len(clips),), 0.0 if futures is None else 1.0)

    def guesses(clips: Tensor, futures: Tensor | None = None) -> Tensor:
        return torch.tensor([next(noise) for _ in clips])

    models: Any = {"pretrained": knows, "untrained": guesses}
    found = score(models, [numbered(i % 6, 2) for i in range(20)], ["shuffled", "elsewhere"], 8, "cpu")
    probes = summarise(found)
    assert set(probes) == {"energy, shuffled", "energy, elsewhere"}
    for entry in probes.values():
        assert entry["pretrained"]["accuracy"] == 1.0 and entry["pretrained"]["difference"] == 1.0
        assert entry["untrained"]["interval"][0] < 0.5 < entry["untrained"]["interval"][1]
        assert entry["comparison"]["better"] and entry["comparison"]["difference"] > 0.2
        assert entry["pretrained"]["group_interval"] == [1.0, 1.0]
    energies = found["untrained"]
    wanted = paired_test(np.array(energies.likely), np.array(energies.unlikely["shuffled"]), energies.groups)
    assert probes["energy, shuffled"]["untrained"].items() >= wanted.items()
    assert "energy, shuffled: the pretrained encoder beats the untrained one" in table(probes)
    alone = summarise({"pretrained": found["pretrained"]})
    assert "comparison" not in alone["energy, shuffled"] and "no control was run" in table(alone)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of 24 frames at 10 frames/s, one of 6."""
    folder = tmp_path_factory.mktemp("energy") / "videos"
    for seed, frames in enumerate((24, 24, 6)):
        write_video(folder / f"{seed}.mp4", seed, COLOURS["red"], frames)
    return folder


def spans(found: Iterator[VideoMoments] | Moments) -> dict[str, tuple[int, ...]]:
    return {Path(video.path).name: video.starts for video in found}


def test_clips_of_a_video_do_not_overlap(videos: Path) -> None:
    moments = Moments(str(videos), ALL, SHAPE, 16, most=4, fewest=2)
    found = spans(moments)
    assert set(found) == {"0.mp4", "1.mp4"} and [Path(path).name for path in moments.short] == ["2.mp4"]
    for starts in found.values():
        assert len(starts) == 4 and min(np.diff(starts)) >= 4 and starts[-1] + 4 <= 24
    assert len(spans(Moments(str(videos), ALL, SHAPE, 16, most=99, fewest=2))["0.mp4"]) >= 5
    strided = ClipShape(4, 0.0, stride=3)
    assert all(min(np.diff(s)) >= 10 for s in spans(Moments(str(videos), ALL, strided, 16, 4, 2)).values())
    for video in moments:
        assert video.clips.shape == (4, 4, 3, 16, 16) and video.clips.dtype == torch.uint8
        assert not (video.elsewhere == video.clips).flatten(1).all(dim=1).any()


def test_only_the_unseen_part_is_looked_at(videos: Path) -> None:
    late = Part(0.5, "time", "the last half")
    for starts in spans(Moments(str(videos), late, SHAPE, 16, 3, 2)).values():
        assert starts[0] >= 12 and len(starts) == 3
    held_out = Corpus(CorpusConfig(data=str(videos), held_out=0.5), split="held_out")
    moments = Moments(str(videos), Part(0.5, "file", ""), SHAPE, 16, 1, 1)
    assert list(moments.paths) == list(held_out.paths()) and 0 < len(moments.paths) < 3


def test_the_part_is_what_pretraining_held_out(videos: Path) -> None:
    path, digest = str(videos), Corpus(CorpusConfig(data=str(videos))).hash
    seen = {"data": digest, "held_out": 0.4, "held_out_by": "time"}
    part = unseen_part(path, 0.0, "file", seen)
    assert (part.share, part.by) == (0.4, "time") and "held out in pretraining" in part.text
    assert unseen_part(path, 0.2, "time", seen).share == 0.2
    elsewhere = unseen_part(path, 0.0, "file", {**seen, "data": "others"})
    assert elsewhere.share == 0.0 and "pretraining was on others" in elsewhere.text
    for share, by, known in (
        (0.0, "file", {**seen, "held_out": 0.0}),
        (0.5, "time", seen),
        (0.2, "file", seen),
    ):
        with pytest.raises(ValueError, match="it has seen what would be looked at"):
            unseen_part(path, share, by, known)


def test_damaged_and_short_videos(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    listing = tmp_path / "list.txt"
    listing.write_text(f"{tmp_path}/bad.mp4\n{videos}/0.mp4\n")
    with pytest.raises(ValueError, match=r"1 of 2 videos cannot be read .*bad\.mp4.* unreadable=0\.5"):
        list(Moments(str(listing), ALL, SHAPE, 16, 2, 2))
    tolerant = Moments(str(listing), ALL, SHAPE, 16, 2, 2, unreadable=0.5)
    assert len(list(tolerant)) == 1 and list(tolerant.damaged) == [f"{tmp_path}/bad.mp4"]
    with pytest.raises(ValueError, match="none of 3 videos is long enough for 2 clips of 4 frames"):
        list(Moments(str(videos), ALL, ClipShape(4, 0.5), 16, 2, 2))
