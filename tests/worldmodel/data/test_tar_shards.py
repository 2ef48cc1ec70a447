"""Members of tar shards: read where they lie, found by an index, and never unpacked."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.data.barcodes import shown
from worldmodel.data import tar_shards
from worldmodel.data.images import ImageError, read_image
from worldmodel.data.tar_shards import load_tar_index, locate, sample_key, split_member
from worldmodel.data.videos import VideoError, open_video


def pack(path: Path, members: dict[str, bytes], kind: str = "w") -> Path:
    with tarfile.open(path, kind) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shard(tmp_path: Path, make_video: Callable[[str], Path]) -> Path:
    names = ("h264_open_gop.mp4", "mpeg4_b.avi", "mpeg2_program.mpg", "h264_stream.ts", "av1.mp4", "vp9.webm")
    members = {f"a b/{name}": make_video(name).read_bytes() for name in names}
    return pack(
        tmp_path / "some shard.tar", {**members, "a b/av1.cls": b"7\n", "x.json": b'{"label": "cat"}'}
    )


def test_videos_in_a_shard_are_the_same_frames(shard: Path, make_video: Callable[[str], Path]) -> None:
    for name in (
        "h264_open_gop.mp4",
        "mpeg4_b.avi",
        "mpeg2_program.mpg",
        "h264_stream.ts",
        "av1.mp4",
        "vp9.webm",
    ):
        indices = np.random.default_rng(0).integers(0, 120, 12).tolist()
        with open_video(f"{shard}::a b/{name}") as inside, open_video(make_video(name)) as outside:
            assert len(inside) == len(outside) and shown(inside.frames(indices)) == indices
            np.testing.assert_array_equal(inside.timestamps, outside.timestamps)


def test_a_backend_that_cannot_look_into_a_shard_is_not_used(shard: Path) -> None:
    pytest.importorskip("decord")
    with open_video(f"{shard}::a b/h264_open_gop.mp4", backend="decord") as video:
        assert shown(video.frames([100, 3])) == [100, 3]


def test_what_the_index_holds(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = load_tar_index(str(shard))
    assert list(index.names)[-3:] == ["a b/vp9.webm", "a b/av1.cls", "x.json"] and not index.truncated
    assert dict(zip(index.names, index.labels, strict=True))["a b/av1.mp4"] == "7"
    place = locate(f"{shard}::x.json")
    assert place.read() == b'{"label": "cat"}' and place.offset is not None
    # It comes from the cache, until the shard changes.
    tar_shards._load.cache_clear()
    monkeypatch.setattr(tar_shards, "build_tar_index", None)
    assert list(load_tar_index(str(shard)).names) == list(index.names)
    monkeypatch.undo()
    pack(shard, {"other.mp4": b"x"})
    assert list(load_tar_index(str(shard)).names) == ["other.mp4"]
    status = shard.stat()
    tar_shards._load.cache_clear()
    pack(shard, {"third.mp4": b"x"})
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert shard.stat().st_size == status.st_size and list(load_tar_index(str(shard)).names) == ["third.mp4"]


def test_a_broken_cache_is_made_again(shard: Path, tmp_path: Path) -> None:
    names = list(load_tar_index(str(shard)).names)
    (place,) = (tmp_path / "cache" / "worldmodel" / "tar").iterdir()
    for content in (b"", b"PK\3\4 nonsense", place.read_bytes()[:300]):
        tar_shards._load.cache_clear()
        place.write_bytes(content)
        assert list(load_tar_index(str(shard)).names) == names


@pytest.mark.parametrize("name", ["../up.mp4", "a/../../up.mp4", "/etc/passwd.mp4", "a\\..\\up.mp4"])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    pack(tmp_path / "bad.tar", {"good.mp4": b"x", name: b"x"})
    with pytest.raises(ValueError, match=r"bad.tar has a member named .* leads out"):
        load_tar_index(str(tmp_path / "bad.tar"))


def test_links_and_folders_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        for name, kind in (
            ("link.mp4", tarfile.SYMTYPE),
            ("hard.mp4", tarfile.LNKTYPE),
            ("d.mp4", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert len(load_tar_index(str(tmp_path / "links.tar")).names) == 0


def test_a_truncated_shard_keeps_what_is_whole(tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.tar", {"a.mp4": bytes(3000), "b.mp4": bytes(3000), "c.mp4": bytes(3000)})
    for size, names in ((9000, ["a.mp4", "b.mp4"]), (7400, ["a.mp4", "b.mp4"]), (1000, [])):
        cut = tmp_path / f"cut{size}.tar"
        cut.write_bytes(whole.read_bytes()[:size])
        index = load_tar_index(str(cut))
        assert list(index.names) == names and index.truncated


def test_what_is_no_shard_is_named(tmp_path: Path, shard: Path) -> None:
    packed = pack(tmp_path / "packed.tar", {"a.mp4": bytes(3000)}, "w:gz")
    (tmp_path / "text.tar").write_text("a letter\n" * 100)
    for path in (packed, tmp_path / "text.tar"):
        with pytest.raises(ValueError, match=f"{path.name} is not an uncompressed tar file"):
            load_tar_index(str(path))
        with pytest.raises(VideoError, match="not an uncompressed tar file"):
            open_video(f"{path}::a.mp4")
    with pytest.raises(VideoError, match=r"some shard.tar has no member 'none.mp4'"):
        open_video(f"{shard}::none.mp4")
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "none.tar::a.mp4")
    with pytest.raises(VideoError, match=r"x.json cannot be read as a video"):
        open_video(f"{shard}::x.json")
    with pytest.raises(ImageError, match=r"x.json cannot be read as a picture \(not a picture\)"):
        read_image(f"{shard}::x.json")


def test_names() -> None:
    assert split_member("a/b.tar::c/d.mp4") == ("a/b.tar", "c/d.mp4")
    assert (
        split_member("a/b.tar") is None
        and split_member("a::b.mp4") is None
        and split_member("a.tar::") is None
    )
    assert sample_key("a.b/clip.v2.mp4") == "a.b/clip" and sample_key("clip.cls") == "clip"


def test_a_real_file_with_such_a_name_is_itself(tmp_path: Path, make_video: Callable[[str], Path]) -> None:
    path = tmp_path / "a.tar::b.mp4"
    path.write_bytes(make_video("h264_plain.mp4").read_bytes())
    assert locate(str(path)).offset is None and os.path.exists(path)
    with open_video(path) as video:
        assert shown(video.frames([40])) == [40]


def test_a_colon_in_a_name_is_no_protocol(
    tmp_path: Path, make_video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("12:30.mp4").write_bytes(make_video("h264_plain.mp4").read_bytes())
    with open_video("12:30.mp4") as video:
        assert shown(video.frames([40])) == [40]
