"""Sections of model cards: each is written anew, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worldmodel.objectives.moving_points import world_model
from worldmodel.models.card import note_in_card, with_section
from worldmodel.models.files import directory_hash

CARD = "A model.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_a_section_is_added_at_the_end_and_written_anew_in_its_place() -> None:
    card = with_section(CARD, "Measured on x", "first\n")
    assert card == CARD + "\n## Measured on x\n\nfirst\n"
    both = with_section(card, "Measured on y", "other")
    again = with_section(both, "Measured on x", "second\n\n### A part\n\nmore")
    assert again == CARD + "\n## Measured on x\n\nsecond\n\n### A part\n\nmore\n\n## Measured on y\n\nother\n"
    assert with_section(again, "Measured on x", "first") == both
    assert with_section(again, "Measured on y", "other") == again


@pytest.mark.parametrize("card", ["", "\n", "## Only\n\nold\n"])
def test_cards_that_are_empty_or_one_section(card: str) -> None:
    assert with_section(card, "Only", "new") == "## Only\n\nnew\n"


def test_the_models_hash_does_not_change(tmp_path: Path) -> None:
    world_model().save(tmp_path, "A model.\n")
    before = directory_hash(tmp_path)
    note_in_card(tmp_path, "Measured", "0.5")
    assert (tmp_path / "README.md").read_text() == "A model.\n\n## Measured\n\n0.5\n"
    assert directory_hash(tmp_path) == before
    written = (tmp_path / "README.md").stat().st_mtime_ns
    note_in_card(tmp_path, "Measured", "0.5")
    assert (tmp_path / "README.md").stat().st_mtime_ns == written
    (tmp_path / "README.md").unlink()
    note_in_card(tmp_path, "Measured", "0.5")
    assert (tmp_path / "README.md").read_text() == "## Measured\n\n0.5\n"
