"""Lists of labelled files, their errors, and splits that are keyed by sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worldmodel.evaluation.labelled import Sample, read_samples
from worldmodel.evaluation.splits import divide, few_shots, make_labelled, make_splits


def write(folder: Path, text: str, files: tuple[str, ...] = ("a.mp4", "b c.mp4")) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    path = folder / "labels.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,walk\nb c.mp4,run\n",
        "\ufeffClass,Path\r\nwalk,a.mp4\r\nrun,b c.mp4\r\n",
        "a.mp4,walk\n\n# a remark\nb c.mp4,run",
        "a.mp4\twalk\nb c.mp4\trun\n",
        "a.mp4 walk\nb c.mp4 run\n",
        'path,label\n"a.mp4","walk"\n"b c.mp4",run\n',
    ],
)
def test_lists_of_all_kinds(tmp_path: Path, text: str) -> None:
    samples = read_samples(write(tmp_path, text))
    assert [(sample.name, sample.label) for sample in samples] == [("a.mp4", "walk"), ("b c.mp4", "run")]
    assert samples[1].path == str(tmp_path / "b c.mp4")


def test_class_folders_with_and_without_splits(tmp_path: Path) -> None:
    write(tmp_path / "flat", "", ("walk/1.mp4", "run/2.png", "run/notes.txt"))
    (tmp_path / "flat/labels.csv").unlink()
    found = read_samples(tmp_path / "flat")
    assert [(s.name, s.label, s.split) for s in found] == [
        ("run/2.png", "run", ""),
        ("walk/1.mp4", "walk", ""),
    ]
    write(tmp_path / "split", "", ("train/walk/1.mp4", "test/run/2.mp4", "validation/run/3.mp4"))
    found = read_samples(tmp_path / "split")
    assert {(s.label, s.split) for s in found} == {("walk", "train"), ("run", "test"), ("run", "val")}
    write(tmp_path / "split", "", ("extra/4.mp4",))
    with pytest.raises(ValueError, match=r"mixes splits .* with other folders \(extra\)"):
        read_samples(tmp_path / "split")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no samples"),
        ("path,label\na.mp4,walk\nnope.mp4,run\n", r"no file .*nope\.mp4; paths are relative to"),
        ("path,label\na.mp4\n", r"labels\.csv:2 has 1 columns"),
        ("path,kind\na.mp4,walk\n", r"labels\.csv:1: the header has the column 'kind'"),
        ("path,label,split\na.mp4,walk,exam\n", r"labels\.csv:2: split 'exam' is unknown"),
        ("path,label,split\na.mp4,walk,train\n./a.mp4,walk,test\n", r"a\.mp4 is in train and in test"),
        ("path,label\na.mp4,walk\na.mp4,run\n", r"a\.mp4 is twice"),
        (
            "path,label,group,split\na.mp4,x,g,train\nb c.mp4,x,g,test\n",
            "group g is both in train and in test",
        ),
        ("path,label,start,end\na.mp4,x,3,2\n", r"start 3\.0 and end 2\.0 \(seconds\) bound nothing"),
        ("path,label,start\na.mp4,x,soon\n", "start 'soon' is not a number"),
        ("path,label\na.mp4,\n", "path or label is empty"),
    ],
)
def test_errors_name_the_line_and_the_fix(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_samples(write(tmp_path, text))


def test_parts_of_one_file_may_be_listed_apart(tmp_path: Path) -> None:
    text = "path,label,start,end,split\na.mp4,x,0,2,train\na.mp4,y,2,4,test\n"
    assert [(s.start, s.end) for s in read_samples(write(tmp_path, text))] == [(0.0, 2.0), (2.0, 4.0)]


def test_a_missing_or_binary_list(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no labels at"):
        read_samples(tmp_path / "nope.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ValueError, match="is not a text file"):
        read_samples(tmp_path / "x.csv")


def some(count: int, classes: int = 2) -> list[Sample]:
    return [Sample(f"{i}.mp4", f"/{i}.mp4", f"class {i % classes}") for i in range(count)]


def test_splits_are_keyed_by_sample_not_by_order() -> None:
    samples = some(40)
    splits = make_splits(samples, 0.25, 0.2, seed=0)
    assert sorted(splits.fit + splits.select + splits.test) == list(range(40))
    assert sum(samples[row].label == "class 0" for row in splits.test) == len(splits.test) // 2 == 5
    backward = make_splits(samples[::-1], 0.25, 0.2, seed=0)
    assert {samples[row].name for row in splits.test} == {samples[::-1][row].name for row in backward.test}
    assert make_splits(samples, 0.25, 0.2, seed=1).test != splits.test


def test_groups_are_never_torn_apart() -> None:
    samples = [replace(sample, group=f"actor {i // 4}") for i, sample in enumerate(some(40))]
    splits = make_splits(samples, 0.3, 0.3, seed=0)
    sides = [{samples[row].group for row in rows} for rows in (splits.fit, splits.select, splits.test)]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_given_splits_are_kept() -> None:
    samples = [replace(s, split=("train", "test", "val")[i % 3]) for i, s in enumerate(some(30, classes=5))]
    splits = make_splits(samples, 0.5, 0.5, seed=0)
    assert splits.fit == list(range(0, 30, 3)) and splits.test == list(range(1, 30, 3))
    only = [replace(sample, split="train" if i else "val") for i, sample in enumerate(some(10))]
    with pytest.raises(ValueError, match="no sample is in the split test"):
        make_splits(only, 0.5, 0.5, seed=0)
    with pytest.raises(ValueError, match="has no split, but others have"):
        make_splits([*samples, *some(1)], 0.5, 0.5, seed=0)


def test_low_shots_are_drawn_class_by_class() -> None:
    samples = some(30, classes=3)
    rows = list(range(24))
    draws = [few_shots(samples, rows, 2, draw, seed=0) for draw in range(3)]
    for draw in draws:
        assert sorted(samples[row].label for row in draw) == [f"class {k}" for k in (0, 0, 1, 1, 2, 2)]
        assert set(draw) <= set(rows)
    assert len({tuple(draw) for draw in draws}) == 3
    assert len(few_shots(samples, rows, 0.25, 0, seed=0)) == 6
    with pytest.raises(ValueError, match=r"shots=9, but class 'class 0' has only 8 training samples"):
        few_shots(samples, rows, 9, 0, seed=0)


def test_a_lone_sample_of_a_class_stays() -> None:
    stay, away = divide([Sample("a", "/a", "x"), *some(4)], range(5), 0.5, "test", 0)
    assert 0 in stay and len(away) == 2


def test_labels_are_checked() -> None:
    with pytest.raises(ValueError, match="all training samples have the label 'class 0'"):
        make_labelled(some(8, classes=1), "class", 0.25, 0.25, 0)
    with pytest.raises(ValueError, match="label 'class 0' is not a number; use target=class"):
        make_labelled(some(8), "number", 0.25, 0.25, 0)
    samples = [replace(s, split="test" if i % 4 == 0 else "train") for i, s in enumerate(some(8, classes=4))]
    with pytest.raises(ValueError, match="class 'class 0' is in the test, but not in the training part"):
        make_labelled(samples, "class", 0.25, 0.25, 0)
    numbered = [replace(sample, label=str(i % 12)) for i, sample in enumerate(some(48))]
    assert make_labelled(numbered, "class", 0.25, 0.25, 0).classes == [str(i) for i in range(12)]
    numbers = make_labelled(
        [replace(s, label=f"{i / 7}") for i, s in enumerate(some(20))], "number", 0.25, 0.25, 0
    )
    assert numbers.classes == [] and len(numbers.splits.test) == 5


def test_paths_of_the_working_directory_and_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "", ("here/a.mp4", "here/shard.tar", "lists/x"))
    (tmp_path / "lists/labels.csv").write_text("here/a.mp4,walk\nhere/shard.tar::b.mp4,run\n")
    monkeypatch.chdir(tmp_path)
    assert [s.path for s in read_samples("lists/labels.csv")] == ["here/a.mp4", "here/shard.tar::b.mp4"]
