"""The picture of the lineage shows every system of the list, and nothing in it covers anything else."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.patches import FancyBboxPatch

from worldmodel.objectives.lineage import SYSTEMS, System
from worldmodel.report.lineage_picture import (
    LANES,
    TARGETS,
    lanes_of,
    lineage_figure,
    lineage_picture,
    targets_of,
)
from worldmodel.report.theme import DARK, LIGHT, drawing


def system(name: str) -> System:
    return next(system for system in SYSTEMS if system.name == name)


@pytest.mark.parametrize(
    ("name", "columns", "targets"),
    [
        ("imax", ["terms on the\nembeddings"], ["networks in training, with gradient"]),
        ("simsiam", ["asymmetry"], ["networks in training, without"]),
        ("byol", ["asymmetry"], ["moving average (EMA)"]),
        ("rotation", ["labels from\nthe data"], ["data"]),
        ("cmae", ["negatives", "pixels"], ["data", "moving average (EMA)"]),
        ("hybrid", ["pixels", "a frozen\nnetwork"], ["data", "frozen network"]),
    ],
)
def test_where_systems_stand(name: str, columns: list[str], targets: list[str]) -> None:
    assert [list(LANES)[lane] for lane in lanes_of(system(name))] == columns
    assert targets_of(system(name)) == targets


def test_every_system_has_a_column_and_a_colour() -> None:
    assert {lane for system in SYSTEMS for lane in lanes_of(system)} == set(range(len(LANES)))
    assert {target for system in SYSTEMS for target in targets_of(system)} == set(TARGETS)
    with pytest.raises(ValueError, match="byol: 'prayer' is of no column"):
        lanes_of(replace(system("byol"), collapse="prayer"))


def test_all_names_can_be_read() -> None:
    with drawing(LIGHT):
        figure = lineage_figure(SYSTEMS, LIGHT)
        (axes,) = figure.axes
        said = " ".join(text.get_text() for text in axes.texts)
        assert [row.title for row in SYSTEMS if row.title.partition(" (")[0] not in said] == []
        places = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
        boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(SYSTEMS)
    for first, second in combinations(places, 2):
        assert not first[1].overlaps(second[1]), f"{first[0]} covers {second[0]}"
    for first_box, second_box in combinations(boxes, 2):
        assert not first_box.overlaps(second_box)
    for text, place in places:
        around = [box for box in boxes if box.contains(place.x0, place.y0)]
        assert all(box.x1 >= place.x1 for box in around), f"{text} is wider than its box"
        assert place.x1 <= figure.bbox.x1 and place.y0 >= 0


@pytest.mark.filterwarnings("error")
def test_it_is_a_small_png() -> None:
    png = lineage_picture(SYSTEMS, DARK)
    assert png.startswith(b"\x89PNG")
    assert len(png) < 150_000
