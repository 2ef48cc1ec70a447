"""The check of a corpus: every file gets its line, also one on which the decoder crashes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.worldmodel.data.barcodes import damage
from worldmodel.data import corpus_check
from worldmodel.data.corpus_check import FileFacts, advise, check_file, check_files, summarise


def crash(path: str, verify: bool, accesses: int) -> FileFacts:
    """Stands for a decoder that takes its process along."""
    if "crash" in path:
        os._exit(139)
    return FileFacts(path, frames=3)


def test_what_is_said_of_a_video(make_video: Callable[[str], Path]) -> None:
    facts = check_file(str(make_video("h264_b_gop250.mp4")))
    assert (facts.reason, facts.frames, facts.width, facts.height) == ("", 300, 96, 64)
    assert (facts.codec, facts.fps, facts.seconds) == ("h264", 25.0, 12.0)
    assert facts.keyframe_interval == 150 and facts.backend == "" and facts.damaged_frames == 0
    verified = check_file(str(make_video("h264_open_gop.mp4")), verify=True)
    assert verified.keyframe_interval == 20 and verified.backend.split() == ["pyav"]
    assert check_file(str(make_video("mpeg2_program.mpg"))).reason == ""


def test_what_is_wrong_is_said_in_one_line(make_video: Callable[[str], Path], tmp_path: Path) -> None:
    whole = make_video("h264_b_gop250.mp4").read_bytes()
    for name, content in {"empty.mp4": b"", "text.mp4": b"letter\n" * 99, "cut.mp4": whole[:20000]}.items():
        (tmp_path / name).write_bytes(content)
        facts = check_file(str(tmp_path / name))
        assert (
            facts.reason
            and "\n" not in facts.reason
            and str(tmp_path) not in facts.reason
            and facts.frames == 0
        )
    assert check_file(str(tmp_path / "none.mp4")).reason == "not found"
    rotten = damage(make_video("h264_b_gop250.mp4"), tmp_path / "rotten.mp4", [0.3], 200)
    facts = check_file(str(rotten), verify=True)
    assert facts.reason == f"{facts.damaged_frames} of 300 frames cannot be decoded exactly"
    assert facts.damaged_frames > 0 and facts.frames == 300


def test_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.PNG")
    facts = check_file(str(tmp_path / "a.PNG"))
    assert (facts.width, facts.height, facts.frames, facts.codec) == (30, 20, 1, "png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    assert "not a picture" in check_file(str(tmp_path / "b.png")).reason


def test_processes_give_the_same_in_the_same_order(make_video: Callable[[str], Path]) -> None:
    paths = [str(make_video(name)) for name in ("h264_plain.mp4", "mpeg4.avi", "h264_plain.mp4")]
    assert list(check_files(paths, workers=2)) == [check_file(path) for path in paths]


def test_a_crash_costs_one_file() -> None:
    paths = [f"{number}.mp4" for number in range(12)]
    paths[2], paths[9] = "crash2.mp4", "crash9.mp4"
    facts = list(check_files(paths, workers=2, check=crash))
    assert [fact.path for fact in facts] == paths
    assert {fact.path: fact.reason for fact in facts if fact.reason} == {
        "crash2.mp4": "the decoder crashed",
        "crash9.mp4": "the decoder crashed",
    }


def test_a_crash_is_noticed_between_two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the caller is busy with one file, the pool may break: handing it the next one then fails."""
    pools: list[ProcessPoolExecutor] = []
    begin = corpus_check._pool

    def remembered(workers: int) -> ProcessPoolExecutor:
        pools.append(begin(workers))
        return pools[-1]

    monkeypatch.setattr(corpus_check, "_pool", remembered)
    paths = [f"{number}.mp4" for number in range(9)]
    paths[1] = "crash.mp4"
    facts: list[FileFacts] = []
    for fact in check_files(paths, workers=1, check=crash):
        if not facts:
            deadline = time.monotonic() + 20
            while not pools[0]._broken and time.monotonic() < deadline:
                time.sleep(0.01)
        facts.append(fact)
    assert [fact.path for fact in facts] == paths
    assert [fact.path for fact in facts if fact.reason] == ["crash.mp4"]
    assert len(pools) <= 3, "the file that crashed is tried by itself, and not once more with the others"


def test_the_summary_and_the_advice() -> None:
    long = FileFacts("a.mp4", "", 3600.0, 90000, 1920, 1080, 25.0, "h264", 250.0)
    short = FileFacts("b.mp4", "", 1800.0, 54000, 320, 240, 30.0, "vp9", 12.0, backend="decord pyav")
    bad = FileFacts("c.mp4", "is empty")
    rows = dict(summarise([long, long, short, bad]))
    assert rows["files"] == "4" and rows["damaged"] == "1 (25.0%)" and rows["hours"] == "2.50"
    assert rows["frames"] == "234,000" and rows["resolutions"] == "1920x1080 (2), 320x240 (1)"
    assert rows["codecs"] == "h264 (2), vp9 (1)" and rows["fastest exact"] == "decord (1)"
    assert rows["keyframes"] == "every 250 frames (median; at most 250)"
    said = "\n".join(advise([long, long, short, bad]))
    assert "2 files have keyframes 250 frames apart: a random clip first decodes about 125" in said
    assert "1080 pixels" in said and "worldmodel reencode data=... out=FOLDER, or ffmpeg -i IN" in said
    assert advise([short] * 5 + [long]) == [] and advise([bad]) == []
    assert dict(summarise([bad]))["hours"] == "0.00"
