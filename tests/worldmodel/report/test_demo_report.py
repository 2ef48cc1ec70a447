"""The whole page: what it says, that it stands alone, and what it does when something is missing."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import av
import matplotlib
import pytest
from PIL import Image

from experiments.report import Config, run
from worldmodel.atomic import write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.report import demo_report, overview, results_page
from worldmodel.report.artefacts import DemoRun
from worldmodel.report.demo_report import build_page
from worldmodel.report.theme import SCALE


def split(store: EpisodeStore) -> tuple[range, range]:
    return range(10), range(10, 12)


class Page(HTMLParser):
    """What a browser would make of the page: its text, its references, and whether its elements are closed."""

    VOID = ("br", "img", "meta", "source")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [
            value or "" for name, value in attrs if name in ("src", "srcset", "href", "poster")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def test_a_finished_demo(demo: DemoRun) -> None:
    settings = dict(matplotlib.rcParams)
    path = run(Config(run=str(demo.path)))
    assert dict(matplotlib.rcParams) == settings

    content = path.read_text()
    page = Page(content)
    assert page.open == []

    # Nothing is missing, and the numbers are those of the files.
    assert "Left out" not in page.text and "Not evaluated" not in page.text
    for number in ("7/10", "6/10", "8/10", "10/10", "0/10", "40–89%", "5/7"):
        assert number in page.text, number
    assert "The V-JEPA agent reaches 7 of 10 held-out goals" in page.text
    assert "on these tasks no difference is shown" in page.text
    assert "1 solved only by V-JEPA, 0 only by the untrained encoder" in page.text
    assert "1.5 minutes" in page.text

    # It opens without a server or a network, and runs no script.
    assert len(page.references) > 60
    assert all(
        reference.startswith(("data:image/png;base64,", "data:video/mp4;base64,"))
        for reference in page.references
    )
    assert "http" not in page.text and "url(" not in content and "@import" not in content
    assert "script" not in page.tags
    assert 'worldmodel collect out="<script>"' in page.text, "shown as text"
    assert len(content) < 6e6

    # Four videos of solved tasks through the door, each with the frames of its episode and the end held.
    videos = [reference for reference in page.references if "video/mp4" in reference]
    lengths = []
    for reference in videos:
        with av.open(io.BytesIO(base64.b64decode(reference.partition(",")[2]))) as container:
            lengths.append(sum(1 for _ in container.decode(video=0)))
    assert lengths == [10 + task + 1 + 8 for task in (0, 2, 5, 6)]

    with Image.open(demo.path / "overview.png") as picture:
        assert picture.size == (SCALE * overview.WIDTH, SCALE * overview.HEIGHT)


def test_stages_that_are_not_there_are_remarked(demo: DemoRun) -> None:
    for name in (
        "data",
        "pretrain",
        "train_vjepa",
        "train_untrained_encoder",
        "train_end_to_end",
        "plan_vjepa",
        "plan_noop",
    ):
        shutil.rmtree(demo.path / name)
    (demo.path / "stages.json").unlink()
    text = Page(build_page(demo, split, {})).text
    for said in (
        "The V-JEPA agent has not been evaluated yet",
        "because there are no data yet",
        "because pretrain has no metrics.jsonl",
        "because none has been trained",
        "because plan_vjepa has no results.json",
        "because stages.json is missing",
        "Not evaluated yet: V-JEPA, pretrained, No action",
        "8/10",
    ):
        assert said in text, said
    assert overview.overview(demo) is None


def test_damaged_files_are_named_and_the_rest_is_shown(demo: DemoRun) -> None:
    (demo.path / "plan_vjepa" / "episodes" / "0002.npz").write_bytes(b"half a file")
    (demo.path / "pretrain" / "metrics.jsonl").write_text("{broken\n")
    (demo.path / "train_vjepa" / "model" / "dynamics.safetensors").write_bytes(b"")
    text = Page(build_page(demo, split, {})).text
    for file in ("0002.npz is damaged", "metrics.jsonl is damaged", "dynamics.safetensors is damaged"):
        assert file in text, file
    assert "7/10" in text and "Rollout" not in text


def test_a_directory_without_a_run_is_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=rf"{path}.*worldmodel demo"):
            run(Config(run=str(path)))


def test_no_failures_are_said_to_be_none(demo: DemoRun) -> None:
    results = demo.json("plan_vjepa/results.json")
    results["tasks"] = [task for task in results["tasks"] if task["success"]]
    write_json(demo.path / "plan_vjepa" / "results.json", results)
    assert "There are none: the agent reached every goal." in Page(results_page.played(demo)).text


def test_no_successes_are_not_hidden(demo: DemoRun) -> None:
    results = demo.json("plan_vjepa/results.json")
    for task in results["tasks"]:
        task["success"] = False
    write_json(demo.path / "plan_vjepa" / "results.json", results)
    text = Page(results_page.hero(demo)).text
    assert "The V-JEPA agent reached no goal; these are attempts." in text
    assert "Not reached in" in text and "Reached in" not in text.replace("Not reached", "")
    assert overview.overview(demo) is not None


def test_commands_and_labels_are_escaped(demo: DemoRun) -> None:
    content = demo_report.stages(demo)
    assert "out=&quot;&lt;script&gt;&quot;" in content and "<script" not in content
    assert "Pixels &amp; actions." in content
