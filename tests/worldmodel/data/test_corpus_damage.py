"""The list of files that a run could not use, and when it ends the run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest

from worldmodel.data import corpus_damage
from worldmodel.data.corpus_damage import DamageLog, DamageWarning
from worldmodel.data.corpus_files import CorpusError


def bad(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"v{number}.mp4", "is empty") for number in range(start, start + count)]


def test_each_file_is_listed_and_warned_of_once(tmp_path: Path) -> None:
    log = DamageLog(100, 0.05, tmp_path / "run" / "skipped.csv")
    with pytest.warns(DamageWarning, match=r"left out v\d.mp4: is empty") as caught:
        log.add(bad(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.add(bad(2))
    assert len(caught) == 2 and log.damaged == ["v0.mp4", "v1.mp4"]
    assert (tmp_path / "run" / "skipped.csv").read_text() == "path,reason\nv0.mp4,is empty\nv1.mp4,is empty\n"


@pytest.mark.filterwarnings("ignore::worldmodel.data.corpus_damage.DamageWarning")
def test_too_many_end_the_run_with_the_list(tmp_path: Path) -> None:
    log = DamageLog(100, 0.05, tmp_path / "skipped.csv")
    log.add(bad(5))
    with pytest.raises(
        CorpusError, match=r"6 of 100 files are damaged, .*max_damaged=0.05 .*v5.mp4 \(is empty\)"
    ) as caught:
        log.add(bad(1, 5))
    assert str(tmp_path / "skipped.csv") in str(caught.value)
    DamageLog(100, 0.06).add(bad(6))
    DamageLog(100, 1.0).add(bad(100))
    with pytest.raises(CorpusError, match="1 of 10 files"):
        DamageLog(10, 0.05).add(bad(1))


@pytest.mark.filterwarnings("ignore::worldmodel.data.corpus_damage.DamageWarning")
def test_in_a_large_corpus_the_share_is_of_what_was_read(tmp_path: Path) -> None:
    log = DamageLog(10**6, 0.05, tmp_path / "skipped.csv")
    log.add((), samples=100)
    log.add(bad(10), samples=0)  # of 200 at least
    with pytest.raises(CorpusError, match="11 of the 200 files that were read"):
        log.add(bad(1, 10))
    log = DamageLog(10**6, 0.05, tmp_path / "other.csv")
    for number in range(100):  # one in forty
        log.add((), samples=40)
        log.add(bad(1, number), samples=0)
    # A resumed run goes on with the list, but what it reads itself decides.
    again = DamageLog(10**6, 0.05, tmp_path / "other.csv")
    assert len(again.damaged) == 100
    again.add(bad(1, 100))


def test_short_videos_are_listed_but_not_damaged() -> None:
    log = DamageLog(10, 0.0)
    with pytest.warns(DamageWarning):
        log.add([("a.mp4", "shorter than a clip (0.2 s, 5 frames)")])
    assert list(log.skipped) == ["a.mp4"] and not log.damaged


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        DamageLog(10, 1.0, tmp_path / "skipped.csv").add([(name, "is, empty")])
    assert DamageLog(10, 1.0, tmp_path / "skipped.csv").skipped == {name: "is, empty"}


@pytest.mark.filterwarnings("ignore::worldmodel.data.corpus_damage.DamageWarning")
def test_a_long_list_is_not_written_anew_for_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "skipped.csv"
    DamageLog(10**6, 1.0, file).add(bad(2))
    file.write_text(file.read_text() + "v2.mp4,is em")  # a crash while it was written
    written: list[Path] = []
    whole = corpus_damage.write_table

    def counted(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        written.append(path)
        whole(path, columns, rows)

    monkeypatch.setattr(corpus_damage, "write_table", counted)
    log = DamageLog(10**6, 1.0, file)
    for number in range(20):
        log.add(bad(1, number))
    assert len(written) == 1
    rows = file.read_text().splitlines()
    assert len(rows) == 21 and rows[-1] == "v19.mp4,is empty"
    assert DamageLog(10**6, 1.0, file).skipped == log.skipped and len(log.damaged) == 20
