"""Modes of the writer, metadata, and writers that are killed at any byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.data.recordings import META, make_recording, make_store
from worldmodel.data.episode_check import check_episodes, check_rest, describe_store
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def sound(store: EpisodeStore) -> bool:
    return not [finding for findings in check_episodes(store) for finding in findings]


@pytest.mark.parametrize("codec", ["raw", "jpeg:80", "mp4:30"])
def test_a_writer_killed_at_any_byte_leaves_a_readable_dataset(codec: str, tmp_path: Path) -> None:
    """What a writer does in order: video, arrays (each under another name first), then its line; cut at every byte."""
    path, crop = tmp_path / "data", 16 if codec == "mp4:30" else 8
    make_store(path, 2, codec, crop)
    whole = files(path)
    stems = sorted(name for name in whole if "000001" in name)  # .frames.mp4 before .safetensors
    lines = whole["manifest.jsonl"].splitlines(keepends=True)
    for name in stems:
        (path / name).unlink()
    (path / "manifest.jsonl").write_bytes(lines[0])
    for name in stems:
        temporary = path / "episodes" / f".{Path(name).name}.123.tmp"
        for cut in range(0, len(whole[name]) + 1, 1 if codec == "raw" else 7):
            temporary.write_bytes(whole[name][:cut])
            store = EpisodeStore(path)
            assert len(store) == 1 and len(store[0]["actions"][:]) == 3
            if cut % 400 == 0:
                assert sound(store)
                copy = tmp_path / "copy"
                shutil.copytree(path, copy)
                make_store(copy, 2, codec, crop)
                assert files(copy) == whole
                shutil.rmtree(copy)
        temporary.unlink()
        (path / name).write_bytes(whole[name])
    for cut in range(len(lines[1]) + 1):
        (path / "manifest.jsonl").write_bytes(lines[0] + lines[1][:cut])
        store = EpisodeStore(path)
        assert len(store) == 1 + (cut == len(lines[1])) and len(store[len(store) - 1]["actions"][:]) >= 3
        if cut % 20 == 0:
            make_store(path, 2, codec, crop)
            assert files(path) == whole


@pytest.mark.parametrize("codec", ["raw", "jpeg:80", "mp4:30"])
def test_a_file_that_lost_its_end_is_an_error_and_never_other_numbers(codec: str, tmp_path: Path) -> None:
    """A disk may lose what a writer had written: the other episodes can be read, this one is refused or right."""
    path = tmp_path / "data"
    store = make_store(path, 2, codec)
    names = [store.entries[1]["file"], *(["episodes/000001.frames.mp4"] if codec.startswith("mp4") else [])]
    right = {name: array[:] for name, array in store[1].items()}
    for name in names:
        content = (path / name).read_bytes()
        refused = 0
        for cut in range(0, len(content), max(1, len(content) // 300)):
            (path / name).write_bytes(content[:cut])
            opened = EpisodeStore(path)
            assert len(opened) == 2
            try:
                for key, array in opened[1].items():
                    np.testing.assert_array_equal(array[:], right[key])
            except (ValueError, OSError) as error:
                refused += 1
                assert "000001" in str(error)
        assert refused > 250
        (path / name).write_bytes(content)
    (path / names[0]).write_bytes(b"")
    assert EpisodeStore(path)[0]["frames"][:].shape == (4, 3, 32, 48)


def test_writers_killed_again_and_again_make_the_dataset_that_one_would_have_made(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.worldmodel.data.recordings import make_store
print("go", flush=True)
make_store(Path(sys.argv[1]), 12, "mp4:30")
"""
    for wait in (0.0, 0.01, 0.03, 0.05, 0.08):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        process.wait()
        process.stdout.close()
        if (tmp_path / "a/manifest.jsonl").exists() and (tmp_path / "a/manifest.jsonl").read_bytes():
            assert sound(EpisodeStore(tmp_path / "a"))
    make_store(tmp_path / "a", 12, "mp4:30")
    make_store(tmp_path / "b", 12, "mp4:30")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert check_rest(EpisodeStore(tmp_path / "a")) == []


def test_append_adds_episodes_of_another_origin(tmp_path: Path) -> None:
    first = make_store(tmp_path / "data", 2, "jpeg:90")
    with pytest.raises(ValueError, match="seed=0, now seed=1"):
        EpisodeWriter(tmp_path / "data", {**META, "seed": 1}, codecs={"frames": "jpeg:90"})
    writer = EpisodeWriter(tmp_path / "data", {**META, "seed": 1, "policy": "wild"}, mode="append")
    assert writer.append(make_recording(7)) == 2
    writer.write(9, make_recording(8))
    assert writer.append(make_recording(9)) == 10
    store = EpisodeStore(tmp_path / "data")
    assert [entry["index"] for entry in store.entries] == [0, 1, 2, 9, 10]
    assert store.meta == first.meta and store.entries[2]["meta"] == {"seed": 1, "policy": "wild"}
    assert sound(store)
    for change in (
        {"env_id": "other"},
        {"fps": 5.0},
        {"actions_per_step": 1},
        {"action_high": [2.0, 2.0, 1.0]},
    ):
        with pytest.raises(ValueError, match=f"was made with {next(iter(change))}="):
            EpisodeWriter(tmp_path / "data", {**META, **change}, mode="append")
    with pytest.raises(ValueError, match="codecs="):
        EpisodeWriter(tmp_path / "data", META, mode="append", codecs={"frames": "raw"})
    with pytest.raises(FileNotFoundError, match="to append to"):
        EpisodeWriter(tmp_path / "nothing", META, mode="append")
    assert not (tmp_path / "nothing").exists()


def test_overwrite_removes_a_dataset_and_nothing_else(tmp_path: Path) -> None:
    make_store(tmp_path / "data", 3, "mp4")
    (tmp_path / "data/notes.txt").write_text("mine")
    (tmp_path / "data/episodes/notes.txt").write_text("mine")
    EpisodeWriter(tmp_path / "data", {"env_id": "new"}, mode="overwrite").write(0, make_recording(0))
    assert (
        len(EpisodeStore(tmp_path / "data")) == 1 and EpisodeStore(tmp_path / "data").meta["env_id"] == "new"
    )
    assert sorted(files(tmp_path / "data")) == [
        "episodes/000000.safetensors", "episodes/notes.txt", "manifest.jsonl", "meta.json", "notes.txt"
    ]  # fmt: skip


@pytest.mark.parametrize("content", [{"thesis.tex": "x"}, {"meta.json": "{}"}, {"meta.json": '{"format_version": "1"}'},
                                     {"meta.json": "[]"}, {"episodes/000000.safetensors": "x"}])  # fmt: skip
def test_overwrite_leaves_what_is_not_a_dataset_alone(content: dict[str, str], tmp_path: Path) -> None:
    for name, text in content.items():
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text(text)
    before = files(tmp_path / "home")
    with pytest.raises(FileExistsError, match="is not a dataset"):
        EpisodeWriter(tmp_path / "home", META, mode="overwrite")
    assert files(tmp_path / "home") == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is not a dataset"):
        EpisodeWriter(tmp_path / "file", META, mode="overwrite")


def test_create_and_unknown_modes(tmp_path: Path) -> None:
    EpisodeWriter(tmp_path / "data", META, mode="create")
    with pytest.raises(FileExistsError, match="already holds a dataset"):
        EpisodeWriter(tmp_path / "data", META, mode="create")
    with pytest.raises(ValueError, match="choose create, resume, append, overwrite"):
        EpisodeWriter(tmp_path / "data", META, mode="w")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"action_names": ["x"]},
            "disagree on the action's dimensions: action_low has 3, .*action_names has 1",
        ),
        ({"proprio_units": ["m"]}, "disagree on the proprio's numbers"),
        ({"action_low": [2.0, -2.0, 0.0]}, "is not below"),
        ({"fps": 0}, "fps=0 is not"),
        ({"actions_per_step": 0}, "actions_per_step=0"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        EpisodeWriter(tmp_path / "data", {**META, **change})
    assert not (tmp_path / "data").exists()


def test_episodes_that_do_not_fit_the_metadata_are_refused(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, META)
    good = make_recording(4)
    nan = good["proprio"].copy()
    nan[3, 1] = np.nan
    for change, said in [
        (
            {"actions": good["actions"][:, :, :2]},
            "actions of episode 4 have 2 dimensions, the metadata name 3",
        ),
        ({"actions": good["actions"][:, :1]}, "episode 4 has 1 actions per step, the metadata say 2"),
        ({"actions": good["actions"][:, 0]}, r"actions of episode 4 are \(5, 3\), not \(T, K, A\)"),
        ({"proprio": good["proprio"][:, :1]}, r"proprio of episode 4 is \(6, 1\), not .* name 2 numbers"),
        ({"proprio": nan}, r"proprio of episode 4 are not finite \(first in row 3\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            writer.write(4, {**good, **change})
    assert not list((tmp_path / "episodes").iterdir())


@pytest.mark.parametrize(
    "line", ["{}", '{"index": "0", "file": "x", "steps": 1, "sha256": ""}', "[1]", "nonsense"]
)
def test_a_damaged_line_of_the_manifest_is_named(line: str, tmp_path: Path) -> None:
    path = make_store(tmp_path / "data", 2).path / "manifest.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(ValueError, match=r"manifest.jsonl is damaged"):
        EpisodeStore(tmp_path / "data")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:2] * 2))
    with pytest.raises(ValueError, match="names episode 0 again"):
        EpisodeStore(tmp_path / "data")


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data", 6, "mp4")
    assert sound(store) and check_rest(store) == []
    folder = tmp_path / "data/episodes"
    video = bytearray((folder / "000001.frames.mp4").read_bytes())
    video[len(video) // 2] ^= 255
    (folder / "000001.frames.mp4").write_bytes(video)
    (folder / "000002.frames.mp4").unlink()
    (folder / "000009.safetensors").write_bytes(b"x")
    entries = [dict(entry) for entry in store.entries]
    entries[3]["steps"] += 1
    (tmp_path / "data/manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    meta = json.loads((tmp_path / "data/meta.json").read_text())
    (tmp_path / "data/meta.json").write_text(json.dumps({**meta, "action_high": [1.0, 2.0, 0.01]}))
    store = EpisodeStore(tmp_path / "data")
    said = [[str(finding) for finding in findings] for findings in check_episodes(store)]
    assert (
        "episode 1, episodes/000001.frames.mp4: its content is not what was written (sha256 differs)"
        in said[1]
    )
    assert any("is missing its file 000002.frames.mp4" in text for text in said[2])
    assert any("actions: has 9 rows, 10 steps need 10" in text for text in said[3])
    assert any("outside the bounds; in row 0, dimension 2 is" in text for text in said[5])
    assert [finding.file for finding in check_rest(store)] == ["episodes/000009.safetensors"]


def test_arrays_that_differ_from_the_first_episodes_are_found(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, {"env_id": "x"})
    first = make_recording(0)
    writer.write(0, first)
    writer.write(1, {**make_recording(1), "frames": np.zeros((6, 3, 16, 16), np.uint8)})
    writer.write(2, {k: v for k, v in make_recording(2).items() if k != "proprio"})
    writer.write(3, {**make_recording(3), "states": np.full((6, 4), np.inf)})
    said = [" ".join(map(str, findings)) for findings in check_episodes(EpisodeStore(tmp_path))]
    assert said[0] == "" and "frames: has rows (3, 16, 16) uint8, the first episode (3, 32, 48)" in said[1]
    assert "proprio: is missing here" in said[2] and "states: is not finite in row 0" in said[3]


def test_the_table_of_a_dataset(tmp_path: Path) -> None:
    rows = dict(describe_store(make_store(tmp_path / "data", 3, "jpeg:80")))
    assert rows["episodes"] == "3, of 3 to 7 steps" and rows["pictures"] == "18 of 3 x 32 x 48"
    assert rows["frames"] == "(T+1, 3, 32, 48) uint8, jpeg:80"
    assert rows["action 1"] == "y -2 to 2 m/s"
    assert rows["proprio 0"] == "p rad" and len(rows["hash"]) == 64 and "bytes per frame" in rows["on disk"]
