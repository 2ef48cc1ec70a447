"""Decord and torchcodec: used where they are right, and never believed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.worldmodel.data.barcodes import damage, shown
from worldmodel.data import video_backends
from worldmodel.data.video_backends import prove_backends, reader_for
from worldmodel.data.video_reader import Reader
from worldmodel.data.videos import open_video


@pytest.mark.parametrize(
    "name", ["h264_plain.mp4", "h264_open_gop.mp4", "mpeg4_b.avi", "av1.mp4", "h264_stream.ts"]
)
def test_decord_is_used_only_while_it_is_right(name: str, make_video: Callable[[str], Path]) -> None:
    pytest.importorskip("decord")
    with open_video(make_video(name), backend="decord") as video:
        for index in np.random.default_rng(0).integers(0, len(video), 40):
            assert shown(video.frames([index])) == [index]
        assert shown(video.frames(range(30, 46))) == list(range(30, 46))


def test_decord_is_used_where_it_is_right(
    make_video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("decord")
    video = open_video(make_video("h264_plain.mp4"), backend="decord")
    monkeypatch.setattr("worldmodel.data.video_reader.Reader.read", None)  # of which decord has no need here
    assert shown(video.frames([80, 7, 8])) == [80, 7, 8]


class Imitation:
    """What torchcodec's decoder looks like; frame ``wrong`` and those behind it are their neighbours."""

    wrong = 10**6
    opened = 0

    def __init__(self, path: str, **options: Any) -> None:
        assert options == {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "exact"}
        Imitation.opened += 1
        self.video = open_video(path, "pyav")

    def __len__(self) -> int:
        return len(self.video)

    def get_frame_at(self, number: int) -> Any:
        picture = self.video.frames([number - (number >= self.wrong)])[0].transpose(1, 2, 0)
        return type("Frame", (), {"data": torch.from_numpy(np.ascontiguousarray(picture))})


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> type[Imitation]:
    decoders = ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = Imitation  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.setattr(Imitation, "opened", 0)
    return Imitation


def test_torchcodec_is_used_while_it_is_right(
    torchcodec: type[Imitation], make_video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchcodec, "wrong", 60)
    with open_video(make_video("h264_plain.mp4"), backend="torchcodec") as video:
        reader = reader_for(video.index, "torchcodec")
        assert reader.fetch(59) is not None and reader.fetch(60) is None  # type: ignore[attr-defined]
        assert shown(video.frames([5, 59, 60, 100, 5])) == [5, 59, 60, 100, 5]
        assert torchcodec.opened == 2
        video.index.damaged.append(3)
        assert not reader_for(video.index, "torchcodec").trusted, "not on a file with a fault"  # type: ignore[attr-defined]


def test_real_torchcodec(make_video: Callable[[str], Path]) -> None:
    pytest.importorskip("torchcodec", exc_type=(ImportError, RuntimeError, OSError))
    for name in ("h264_open_gop.mp4", "h264_stream.ts", "mpeg2_program.mpg", "vp9.webm"):
        with open_video(make_video(name), backend="torchcodec") as video:
            numbers = np.random.default_rng(0).integers(0, len(video), 40).tolist()
            assert shown(video.frames(numbers)) == numbers


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'torchcodec'", name="torchcodec"),
            "torchcodec is not installed",
        ),
        (
            RuntimeError("Could not load libtorchcodec.\n 1. FFmpeg is not properly installed"),
            "apt install ffmpeg",
        ),
        (OSError("libnvrtc.so.13: cannot open\nshared object file"), "libnvrtc.so.13: cannot open shared"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_named(
    error: Exception, said: str, make_video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(video_backends.importlib, "import_module", fail)
    with pytest.raises(
        ValueError, match=r"backend=torchcodec cannot be used: .*; or use backend=pyav"
    ) as caught:
        open_video(make_video("h264_plain.mp4"), backend="torchcodec")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_auto_uses_what_was_proved_and_is_faster(
    torchcodec: type[Imitation], make_video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video("h264_plain.mp4")
    assert type(reader_for(open_video(path).index, "auto")) is Reader, "nothing is proved"
    index = prove_backends(path, accesses=16)
    assert index.verified and {"pyav", "torchcodec"} <= index.backends.keys() and index.accesses == 16
    assert open_video(path).index.backends == index.backends, "it is cached"
    opened = torchcodec.opened
    assert prove_backends(path, accesses=8).backends == index.backends and torchcodec.opened == opened

    index.backends = {"pyav": 10.0, "torchcodec": 9.5}
    assert type(reader_for(index, "auto")) is Reader, "not by a tenth"
    index.backends = {"pyav": 10.0, "torchcodec": 5.0}
    assert reader_for(index, "auto").name == "torchcodec"  # type: ignore[attr-defined]
    monkeypatch.setattr(video_backends, "why_unavailable", lambda backend: "gone")
    assert type(reader_for(index, "auto")) is Reader, "another machine may not have it"


def test_what_is_wrong_is_not_proved(
    torchcodec: type[Imitation], make_video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchcodec, "wrong", 60)
    assert "torchcodec" not in prove_backends(make_video("h264_plain.mp4")).backends


def test_decord_is_not_proved_on_an_open_gop(make_video: Callable[[str], Path]) -> None:
    pytest.importorskip("decord")
    assert "decord" in prove_backends(make_video("h264_plain.mp4")).backends
    for name in ("h264_open_gop.mp4", "h264_stream.ts"):
        assert prove_backends(make_video(name)).backends.keys() == {"pyav"}


def test_a_damaged_file_is_read_by_pyav_only(make_video: Callable[[str], Path], tmp_path: Path) -> None:
    rotten = damage(make_video("h264_plain.mp4"), tmp_path / "rotten.mp4", [0.5], 200)
    index = prove_backends(rotten)
    assert index.damaged and index.backends.keys() == {"pyav"}
