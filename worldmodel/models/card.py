"""Model cards: sections of a model directory's ``README.md``, written anew without touching the others.

``worldmodel.models.files.directory_hash`` names the weights and ``config.json``, not the card: what is measured later
may be noted in it, and every run that refers to the model still finds it.
"""

from __future__ import annotations

from pathlib import Path

from worldmodel.atomic import write_bytes


def with_section(card: str, title: str, body: str) -> str:
    """The card with a section ``## title`` that holds ``body``: in the place of the one that was there, or at the end.

    Sections end where the next heading of the first or second level begins; blocks of code are not looked into.
    """
    section = f"## {title}\n\n{body.strip()}\n"
    kept: list[str] = []
    place, inside = -1, False
    for line in card.rstrip().splitlines():
        if line.startswith(("# ", "## ")):
            inside = line.strip() == f"## {title}"
            if inside and place < 0:
                place = len(kept)
        if not inside:
            kept.append(line)
    if place < 0:
        return "\n".join([*kept, ""]).lstrip("\n") + ("\n" if kept else "") + section
    before, after = "\n".join(kept[:place]), "\n".join(kept[place:]).strip("\n")
    text = f"{before.rstrip()}\n\n{section}" if before.strip() else section
    return f"{text}\n{after}\n" if after else text


def note_in_card(model: Path, title: str, body: str) -> None:
    """Write a section of a model directory's card; nothing, if it says so already.

    Raises:
        OSError: The directory is not writable, or the disk is full.
    """
    file = model / "README.md"
    card = file.read_text(encoding="utf-8") if file.is_file() else ""
    changed = with_section(card, title, body)
    if changed != card:
        write_bytes(file, changed.encode())
