"""Samples of a corpus: always the same, from every file, past every damaged one."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.worldmodel.data.barcodes import WIDTH, Recipe, encode, shown
from tests.worldmodel.data.test_tar_shards import pack
from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.data.corpus_files import CorpusError, SourceConfig
from worldmodel.data.corpus_order import MixedOrder

# The whole picture, so that its bars can be read.
WHOLE: dict[str, Any] = {"size": WIDTH, "crop_scale": [1.0, 1.0], "crop_ratio": [1.5, 1.5]}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """100 frames at 25 frames per second."""
    recipe = Recipe("clip.mp4", "mpeg4", frames=100, gop=10)
    return encode(tmp_path_factory.mktemp("clip"), recipe).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, clip: bytes) -> Path:
    (tmp_path / "videos").mkdir()
    for number in range(8):
        (tmp_path / "videos" / f"v{number}.mp4").write_bytes(clip)
    return tmp_path / "videos"


def corpus(folder: Path, /, seed: int = 0, split: str = "all", **options: Any) -> Corpus:
    return Corpus(
        CorpusConfig(**{"data": str(folder), "frames": 4, "fps": 5.0, "size": 32, **options}), seed, split
    )


def files(samples: Sequence[dict[str, Any]]) -> list[str]:
    return [Path(sample["source"]).name for sample in samples]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    rest = all(a[key] == b[key] for key in ("source", "start", "label", "skipped"))
    return rest and a.keys() == b.keys() and bool((a["frames"] == b["frames"]).all())


def test_a_sample(folder: Path) -> None:
    sample = corpus(folder, **WHOLE)[3]
    assert sample["frames"].shape == (4, 3, WIDTH, WIDTH) and sample["frames"].dtype == np.uint8
    numbers = shown(sample["frames"])
    assert np.diff(np.array(numbers)).tolist() == [5, 5, 5], "25 frames per second, of which 5"
    assert sample["start"] == pytest.approx((numbers[0] or 0) / 25, abs=1e-3)
    assert sample["label"] == -1 and sample["skipped"] == []


def _read(corpus: Corpus, index: int) -> dict[str, Any]:
    return corpus[index]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_samples_depend_on_seed_and_index_only(method: str, folder: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    (folder / "v3.mp4").write_bytes(b"")
    ours = corpus(folder, max_damaged=1.0)
    expected = [ours[index] for index in range(12)]
    again = corpus(folder, max_damaged=1.0)
    assert all(same(again[index], expected[index]) for index in reversed(range(12)))
    assert not all(same(corpus(folder, seed=1)[index], expected[index]) for index in range(4))
    with multiprocessing.get_context(method).Pool(2) as pool:
        theirs = pool.starmap(_read, [(ours, index) for index in range(12)], chunksize=1)
    assert all(same(a, b) for a, b in zip(theirs, expected, strict=True))


def test_an_epoch_takes_every_file_once_from_anywhere(folder: Path) -> None:
    ours = corpus(folder)
    assert len(ours) == ours.files == 8
    epochs = [files([ours[8 * epoch + k] for k in range(8)]) for epoch in range(3)]
    assert all(sorted(epoch) == [f"v{k}.mp4" for k in range(8)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    samples = [ours[index] for index in range(24)]
    assert len({sample["start"] for sample in samples}) > 15
    assert len({sample["frames"].tobytes() for sample in samples}) == 24


def test_several_clips_of_a_video_come_from_its_parts(folder: Path) -> None:
    ours = corpus(folder, clips_per_video=4)
    assert len(ours) == 32
    starts: dict[str, list[float]] = {}
    for index in range(32):
        starts.setdefault(ours[index]["source"], []).append(ours[index]["start"])
    part = 85 / 25 / 4  # of the seconds in which a clip can begin, at one of 85 frames
    for values in starts.values():
        np.testing.assert_allclose(sorted(values), (np.arange(4) + 0.5) * part, atol=part / 2 + 1 / 25)


def test_weighted_sources_have_exact_shares() -> None:
    order = MixedOrder([5, 50, 3], [1.0, 0.1, 0.4], seed=0)
    drawn = [order[index] for index in range(3000)]
    for count in (order.block, 1500, 3000):
        taken = Counter(source for source, _ in drawn[: count // order.block * order.block])
        total = sum(taken.values())
        for source, weight in enumerate([1.0, 0.1, 0.4]):
            assert abs(taken[source] - total * weight / 1.5) <= 1
    for source, size in enumerate([5, 50, 3]):
        items = [item for where, item in drawn if where == source]
        assert set(Counter(items).values()) <= {
            len(items) // size,
            len(items) // size + 1,
            len(items) // size + 2,
        }
    again = MixedOrder([5, 50, 3], [1.0, 0.1, 0.4], seed=0)
    assert [again[index] for index in (2999, 7, 1500)] == [drawn[index] for index in (2999, 7, 1500)]
    assert [source for source, _ in drawn[:60]] != sorted(source for source, _ in drawn[:60])
    twins = MixedOrder([50, 50], [1.0, 1.0], seed=0)
    items = [[item for where, item in map(twins.__getitem__, range(100)) if where == k] for k in range(2)]
    assert items[0] != items[1]
    far = [order[10**9 + index][0] for index in range(order.block * 3)]
    assert Counter(far)[0] == pytest.approx(len(far) / 1.5, abs=3)


def test_sources_without_weights_are_one(folder: Path, tmp_path: Path, clip: bytes) -> None:
    (tmp_path / "more.mp4").write_bytes(clip)
    sources = {"a": SourceConfig(str(folder)), "b": SourceConfig(str(tmp_path / "more.mp4"))}
    ours = corpus(Path(), data="", sources=sources)
    assert len(ours) == 9 and sorted(files([ours[index] for index in range(9)]))[0] == "more.mp4"
    sources = {name: SourceConfig(source.path, weight=1.0) for name, source in sources.items()}
    ours = corpus(Path(), data="", sources=sources)
    assert sum(name == "more.mp4" for name in files([ours[index] for index in range(100)])) == 50
    sources["b"].weight = None
    with pytest.raises(ValueError, match="every source a weight, or none"):
        corpus(Path(), data="", sources=sources)


# --- damaged files


@pytest.mark.parametrize("content", [b"", b"a letter\n" * 99, None], ids=["empty", "text", "cut"])
def test_damaged_files_are_replaced_and_reported(content: bytes | None, folder: Path, clip: bytes) -> None:
    (folder / "v3.mp4").write_bytes(clip[:9000] if content is None else content)
    ours = corpus(folder)
    samples = [ours[index] for index in range(16)]
    skipped = [entry for sample in samples for entry in sample["skipped"]]
    assert {path for path, _ in skipped} == {str(folder / "v3.mp4")} and len(skipped) >= 2
    assert all(reason and str(folder) not in reason and "\n" not in reason for _, reason in skipped)
    assert all(sample["frames"].shape == (4, 3, 32, 32) for sample in samples)
    assert "v3.mp4" not in files(samples)


def test_a_file_that_vanishes_is_skipped(folder: Path) -> None:
    ours = corpus(folder)
    (folder / "v5.mp4").unlink()
    skipped = [entry for index in range(8) for entry in ours[index]["skipped"]]
    assert (str(folder / "v5.mp4"), "not found") in skipped


def test_nothing_but_damaged_files_is_an_error(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        CorpusError, match=r"none of 8 files that were tried for sample 0 .*v\d.mp4: is empty"
    ):
        corpus(folder)[0]


def test_missing_files_of_a_list_are_an_error_at_once(folder: Path) -> None:
    (folder / "list.txt").write_text("v0.mp4\nnone.mp4\nv1.mp4\n")
    with pytest.raises(
        CorpusError, match=r"list.txt: 1 of 3 listed files do not exist \(.*none.mp4\).*max_damaged=0.34"
    ):
        corpus(folder / "list.txt")
    assert corpus(folder / "list.txt", max_damaged=0.34).files == 3


def test_short_videos(folder: Path) -> None:
    encode(folder, Recipe("short.mp4", "mpeg4", frames=5, gop=10))
    (folder / "list.txt").write_text("short.mp4\n")
    repeated = corpus(folder / "list.txt", fps=10.0, **WHOLE)[0]
    assert shown(repeated["frames"]) == [0, 2, 4, 4]
    assert shown(corpus(folder / "list.txt", short="tighten", **WHOLE)[0]["frames"]) == [0, 1, 2, 4]
    with pytest.raises(CorpusError, match=r"shorter than a clip \(0.20 s, 5 frames\)"):
        corpus(folder / "list.txt", short="skip")[0]
    with pytest.raises(CorpusError, match="shorter than min_seconds=1"):
        corpus(folder / "list.txt", min_seconds=1.0)[0]
    samples = [corpus(folder, min_seconds=1.0)[index] for index in range(9)]
    assert [entry for sample in samples for entry in sample["skipped"]] == [
        (str(folder / "short.mp4"), "shorter than min_seconds=1 (0.20 s)")
    ]


# --- held out


def test_files_that_are_held_out_stay_so(folder: Path, clip: bytes) -> None:
    def split(name: str) -> set[str]:
        ours = corpus(folder, split=name, held_out=0.4)
        return set(files([ours[index] for index in range(len(ours))]))

    train, held_out = split("train"), split("held_out")
    assert train and held_out and not train & held_out and train | held_out == {f"v{k}.mp4" for k in range(8)}
    for number in range(8):
        (folder / f"more{number}.mp4").write_bytes(clip)
    assert train < split("train") and held_out < split("held_out")


def test_the_last_part_of_each_video_is_held_out(folder: Path) -> None:
    options = {"held_out": 0.25, "held_out_by": "time", "fps": 25.0, **WHOLE}
    train, held_out = (corpus(folder, split=name, **options) for name in ("train", "held_out"))
    assert train.files == held_out.files == 8
    seen = [number for index in range(80) for number in shown(train[index]["frames"])]
    kept = [number for index in range(80) for number in shown(held_out[index]["frames"])]
    assert min(seen) == 0 and max(seen) == 74 and min(kept) == 75 and max(kept) == 99  # type: ignore[type-var]


def test_a_single_frame_is_not_on_both_sides(folder: Path) -> None:
    encode(folder, Recipe("one.mp4", "mpeg4", frames=1))
    (folder / "list.txt").write_text("one.mp4\n")
    options: dict[str, Any] = {"held_out": 0.25, "held_out_by": "time"}
    assert corpus(folder / "list.txt", split="train", **options)[0]["start"] == 0.0
    with pytest.raises(CorpusError, match="shorter than two frames"):
        corpus(folder / "list.txt", split="held_out", **options)[0]


def test_a_split_that_is_empty_is_named(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"none of the 8 files .* split held_out .*held_out_by=time"):
        corpus(folder, split="held_out", held_out=1e-9)
    with pytest.raises(CorpusError, match="nothing is held out"):
        corpus(folder, split="held_out")


# --- what samples are made of


def test_shards_and_labels(tmp_path: Path, clip: bytes) -> None:
    pack(tmp_path / "s.tar", {"a.mp4": clip, "a.cls": b"12", "b.mp4": clip, "b.cls": b"3"})
    ours = corpus(tmp_path, **WHOLE)
    samples = {sample["source"]: sample for sample in (ours[0], ours[1])}
    assert {path: sample["label"] for path, sample in samples.items()} == {
        f"{tmp_path}/s.tar::a.mp4": 12,
        f"{tmp_path}/s.tar::b.mp4": 3,
    }
    assert ours.classes == [] and None not in shown(ours[0]["frames"])


def test_named_labels_are_numbered(folder: Path) -> None:
    (folder / "l.csv").write_text("v0.mp4,run\nv1.mp4,walk\nv2.mp4,run\n")
    ours = corpus(folder / "l.csv")
    assert ours.classes == ["run", "walk"]
    assert {Path(s["source"]).name: s["label"] for s in (ours[k] for k in range(3))} == {
        "v0.mp4": 0, "v1.mp4": 1, "v2.mp4": 0,
    }  # fmt: skip


def test_pictures_are_still_clips(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat/1.png", "cat/2.jpg", "dog/3.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / name)
    Image.new("RGBA", (40, 40), (255, 0, 0, 128)).save(tmp_path / "dog" / "4.png")
    (tmp_path / "dog" / "5.jpg").write_bytes((tmp_path / "cat" / "2.jpg").read_bytes()[:700])
    sources = {"pictures": SourceConfig(str(tmp_path), folder_labels=True)}
    ours = corpus(Path(), data="", sources=sources)
    samples = [ours[index] for index in range(5)]
    assert ours.classes == ["cat", "dog"] and {sample["label"] for sample in samples} == {0, 1}
    for sample in samples:
        assert sample["frames"].shape == (4, 3, 32, 32) and (sample["frames"] == sample["frames"][:1]).all()
    (entry,) = {entry for index in range(10) for entry in ours[index]["skipped"]}
    assert entry[0].endswith("5.jpg") and "cannot be read as a picture" in entry[1]
    options = {"data": "", "sources": sources, "held_out": 0.5, "held_out_by": "time"}
    by_split = [corpus(Path(), split=split, **options).paths() for split in ("train", "held_out")]
    assert not set(by_split[0]) & set(by_split[1]) and sum(map(len, by_split)) == 5


def test_the_hash_tells_corpora_apart(folder: Path, tmp_path: Path) -> None:
    first = corpus(folder).hash
    folder.rename(tmp_path / "moved")
    assert corpus(tmp_path / "moved").hash == first and corpus(tmp_path / "moved", fps=1.0).hash == first
    (tmp_path / "moved" / "v0.mp4").write_bytes(b"x")
    assert corpus(tmp_path / "moved").hash != first


def test_a_worker_gets_arrays_and_not_a_million_strings(folder: Path) -> None:
    (folder / "list.txt").write_text("v0.mp4\n" * 5000)
    ours = corpus(folder / "list.txt")
    ours[0]
    path = len(str(folder / "v0.mp4"))
    size = len(pickle.dumps(ours))
    assert size < 5000 * (path + 60)
    assert b"v0.mp4" in pickle.dumps(ours) and not pickle.loads(pickle.dumps(ours))._videos


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": ""}, "either data=FOLDER_OR_LIST, or sources"),
        ({"sources": {"a": SourceConfig("x")}}, "either data=FOLDER_OR_LIST, or sources"),
        ({"frames": 0}, "frames=0"),
        ({"fps": 0.0}, "fps=0.0"),
        ({"size": 0}, "size"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"held_out_by": "name"}, "choose file or time"),
        ({"max_damaged": 2.0}, "max_damaged=2.0"),
        ({"crop_scale": [0.5]}, "crop_scale"),
        ({"crop_scale": [0.5, 1.5]}, "at most 1"),
        ({"crop_ratio": [2.0, 1.0]}, "crop_ratio"),
        ({"short": "loop"}, "short=loop"),
        ({"split": "test"}, "split=test"),
        ({"backend": "opencv"}, "backend must be one of"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=said):
        corpus(folder, **options)
    with pytest.raises(IndexError):
        corpus(folder)[-1]
