"""What a folder, a list, a shard or a pattern names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.data.test_tar_shards import pack
from worldmodel.data.corpus_files import (
    CorpusError,
    DamageWarning,
    SourceConfig,
    expand,
    find_files,
    read_list,
)
from worldmodel.data.strings import Strings


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(root: Path, **options: object) -> list[str]:
    listing = find_files(SourceConfig(path=str(root), **options))  # type: ignore[arg-type]
    return [os.path.relpath(path, root) for path in listing.paths]


def test_a_folder_is_searched_in_full_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.MKV", "a/b/c d.avi", "notes.txt", ".hidden/x.mp4", "a/._b.mp4", "pic.jpg")
    assert names(tmp_path) == ["a/b/c d.avi", "a/z.MKV", "b.mp4"]
    assert names(tmp_path, kind="image") == ["pic.jpg"]
    assert list(find_files(SourceConfig(str(tmp_path), folder_labels=True)).labels) == ["a/b", "a", ""]


def test_pictures_count_where_there_are_no_videos(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "cat/2.PNG", "cat/readme.md")
    listing = find_files(SourceConfig(str(tmp_path), folder_labels=True))
    assert list(listing.labels) == ["cat", "dog"]
    with pytest.raises(CorpusError, match=r"found no videos in .*\.mp4"):
        find_files(SourceConfig(str(tmp_path), kind="video"))


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.mp4")
    (tmp_path / "real" / "round").symlink_to(tmp_path)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = find_files(SourceConfig(str(tmp_path)))
    assert names(tmp_path) == ["gone.mp4", "real/a.mp4"] and found.missing == [str(tmp_path / "gone.mp4")]


def test_shards_in_a_folder_and_by_pattern(tmp_path: Path) -> None:
    pack(
        tmp_path / "s-00.tar",
        {"a.mp4": b"1", "a.cls": b"3", "b.mp4": b"22", "b.json": b'{"label": "dog"}', "c.jpg": b""},
    )
    pack(tmp_path / "s-01.tar", {"a.mp4": b"1", "n.txt": b""})
    touch(tmp_path, "loose.mp4")
    listing = find_files(SourceConfig(str(tmp_path)))
    assert names(tmp_path) == ["loose.mp4", "s-00.tar::a.mp4", "s-00.tar::b.mp4", "s-01.tar::a.mp4"]
    assert list(listing.labels) == ["", "3", "dog", ""] and listing.sizes.tolist() == [9, 1, 2, 1]
    by_range = find_files(SourceConfig(f"{tmp_path}/s-{{00..01}}.tar"))
    by_star = find_files(SourceConfig(f"{tmp_path}/s-*.tar"))
    assert list(by_range.paths) == list(by_star.paths) == list(listing.paths)[1:]
    assert list(find_files(SourceConfig(f"{tmp_path}/s-00.tar::b.mp4")).paths) == [
        f"{tmp_path}/s-00.tar::b.mp4"
    ]
    with pytest.raises(FileNotFoundError, match=r"s-02.tar"):
        expand(f"{tmp_path}/s-{{00..02}}.tar")
    with pytest.raises(CorpusError, match="is compressed; unpack it"):
        find_files(SourceConfig(str(pack(tmp_path / "s.tar.gz", {}, "w:gz"))))


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    whole = pack(tmp_path / "s.tar", {"a.mp4": bytes(3000), "b.mp4": bytes(3000)})
    whole.write_bytes(whole.read_bytes()[:5000])
    with pytest.warns(DamageWarning, match=r"s.tar is truncated; its first 1 members are used"):
        assert names(tmp_path) == ["s.tar::a.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("plain.txt", "{0}\n\n# a comment\n{1}\n", ["", ""]),
        ("windows.txt", "\ufeff{0}\r\n{1}\r\n", ["", ""]),
        ("spaced.csv", "{0} 3\n{1} 11\n", ["3", "11"]),
        ("spaced.txt", "{0} 3\n{1} 11\n", ["3", "11"]),
        ("two.csv", "{0},walk\n{1},run\n", ["walk", "run"]),
        ("one.csv", "{0}\n{1}\n", ["", ""]),
        ("tabs.tsv", "{0}\twalk\n{1}\trun\n", ["walk", "run"]),
        ("semicolons.csv", "{0};walk\n{1};run\n", ["walk", "run"]),
        ("header.csv", "id,label,path\n1,walk,{0}\n2,run,{1}\n", ["walk", "run"]),
        ("header_only_path.csv", "path\n{0}\n{1}\n", ["", ""]),
        ("quoted.csv", '"{0}","walk, slowly"\n"{1}",run\n', ["walk, slowly", "run"]),
    ],
)
def test_lists(name: str, text: str, labels: list[str], tmp_path: Path) -> None:
    touch(tmp_path, "sub/first clip.mp4", "second.mp4")
    (tmp_path / name).write_text(text.format("sub/first clip.mp4", tmp_path / "second.mp4"), newline="")
    found = read_list(str(tmp_path / name))
    assert [file.path for file in found] == [
        str(tmp_path / "sub/first clip.mp4"),
        str(tmp_path / "second.mp4"),
    ]
    assert [file.label for file in found] == labels and [file.size for file in found] == [18, 10]


def test_columns_by_name_and_position(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    place = str(tmp_path / "l.csv")
    Path(place).write_text("Kind,Clip,When\nrun,a.mp4,now\n")
    (found,) = read_list(place, "clip", "kind")
    assert (found.path, found.label) == (str(tmp_path / "a.mp4"), "run")
    Path(place).write_text("run,a.mp4,now\n")
    (found,) = read_list(place, "1", "2")
    assert (found.path, found.label) == (str(tmp_path / "a.mp4"), "now")
    with pytest.raises(CorpusError, match=r"has no column 'clip'; its columns are run, a.mp4, now"):
        read_list(place, "clip")
    with pytest.raises(CorpusError, match=r"entry 1 of .*l.csv has 3 columns, not 6"):
        read_list(place, "1", "5")


def test_paths_are_relative_to_the_list_or_to_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "here", "a.mp4", "both.mp4")
    touch(tmp_path / "lists", "b.mp4", "both.mp4")
    place = tmp_path / "lists" / "l.txt"
    place.write_text("a.mp4\nb.mp4\nboth.mp4\nnone.mp4\n")
    monkeypatch.chdir(tmp_path / "here")
    found = read_list(str(place))
    assert [(file.path, file.size < 0) for file in found] == [
        ("a.mp4", False),
        (str(tmp_path / "lists/b.mp4"), False),
        (str(tmp_path / "lists/both.mp4"), False),
        (str(tmp_path / "lists/none.mp4"), True),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\n", "names no files"),
        ("a.mp4,1\nb.mp4\n", r"entry 2 of .*l.csv has 1 columns, not 2"),
        ("https://example.com/a.mp4,1\n", "only local files are read"),
        ('"a.mp4,1\n' + "b.mp4,1\n" * 20000, "cannot be read as a table .*quotation marks"),
    ],
)
def test_lists_that_cannot_be_read_are_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(CorpusError, match=said):
        read_list(str(tmp_path / "l.csv"))


def test_of_two_names_of_a_folder_always_the_same_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems list a folder in any order; names decide what is held out, and whether a run may be resumed."""
    touch(tmp_path, "films/a.mp4")
    (tmp_path / "best").symlink_to("films")
    listed: list[list[str]] = []
    scan = os.scandir
    for backwards in (False, True):

        @contextmanager
        def entries(path: str, backwards: bool = backwards) -> Iterator[list[os.DirEntry[str]]]:
            with scan(path) as found:
                yield sorted(found, key=lambda entry: entry.name, reverse=backwards)

        monkeypatch.setattr(os, "scandir", entries)
        listed.append(names(tmp_path))
    assert listed == [["best/a.mp4"], ["best/a.mp4"]]


def test_nothing_found_names_path_and_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "a.doc")
    with pytest.raises(CorpusError, match=rf"found no videos in {tmp_path}: .*\.mp4 .*\.webm .*\.jpg"):
        find_files(SourceConfig(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="give a folder, a list or a tar shard"):
        find_files(SourceConfig(str(tmp_path / "none")))
    with pytest.raises(ValueError, match="data=PATH"):
        find_files(SourceConfig(""))
    with pytest.raises(ValueError, match="kind=film is unknown"):
        SourceConfig(str(tmp_path), kind="film")
    with pytest.raises(ValueError, match="weight=0"):
        SourceConfig(str(tmp_path), weight=0.0)


def test_the_digest_is_of_names_sizes_and_labels(tmp_path: Path, make_video: Callable[[str], Path]) -> None:
    def digest(root: Path, **options: bool) -> str:
        return find_files(SourceConfig(str(root), **options)).digest  # type: ignore[arg-type]

    one, two = touch(tmp_path / "one", "x/a.mp4", "b.mp4"), touch(tmp_path / "two", "x/a.mp4", "b.mp4")
    first = digest(one)
    assert digest(two) == first, "wherever it lies"
    assert digest(one, folder_labels=True) != first
    (two / "b.mp4").write_bytes(b"longer")
    assert digest(two) != first
    (one / "b.mp4").rename(one / "c.mp4")
    assert digest(one) != first


def test_many_strings() -> None:
    odd = os.fsdecode(b"caf\xe9.mp4")
    strings = Strings(["", "a b", "ü/é.mp4", odd, ""])
    assert (
        list(strings) == ["", "a b", "ü/é.mp4", odd, ""] and strings[1:3][1] == "ü/é.mp4" and odd in strings
    )
    assert isinstance(strings.text, np.ndarray) and strings.text.nbytes == 3 + 9 + 8
    for index in (-1, 5):
        with pytest.raises(IndexError):
            strings[index]
