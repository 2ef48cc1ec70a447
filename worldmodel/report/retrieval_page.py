"""Nearest clips on the page: a picture, and a table with controls."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from worldmodel.report.markup import Html, join, span
from worldmodel.report.parts import FilmRow, film, table
from worldmodel.report.pretraining_page import Encoders
from worldmodel.report.retrieval import (
    ClipBank,
    choose_queries,
    clip_vectors,
    nearest,
    pixel_vectors,
    same_video,
)


def neighbours(encoders: Encoders, bank: ClipBank, count: int = 5) -> Html:
    """Query clips and what each encoder finds nearest; below, how often that is the same video."""
    vectors = [(name, note, clip_vectors(encoder, bank.frames)) for name, note, encoder in encoders]
    everything = [
        *vectors,
        ("Raw pixels", "control: mean frame, shrunk to 8 × 8", pixel_vectors(bank.frames)),
    ]
    parts = [same_video_table(everything, bank)]
    middle = bank.frames.shape[1] // 2
    found = nearest(vectors[0][2], bank, count)
    for query in choose_queries(bank, 6):
        matches = found[query]
        captions = [
            f"{bank.starts[m.index]:.1f}\u00a0s"
            if bank.names[m.index] == bank.names[query]
            else f"{bank.names[m.index]} {bank.starts[m.index]:.1f}\u00a0s"
            for m in matches
        ]
        note = f"{bank.names[query]}, {bank.starts[query]:.1f}\u00a0s"
        frames = [bank.frames[m.index, middle] for m in matches]
        if frames:
            parts.append(
                film(
                    [
                        FilmRow(
                            "Nearest",
                            note,
                            frames,
                            captions,
                            goal=bank.frames[query, middle],
                            goal_name="query",
                        )
                    ]
                )
            )
    return join(parts)


def same_video_table(vectors: Sequence[tuple[str, str, Tensor]], bank: ClipBank) -> Html:
    """How often the nearest clip is of the query's own video, for encoders and controls."""
    rows, chance = [], 0.0
    for name, note, vector in vectors:
        found = same_video(vector, bank)
        if found is None:
            return Html("")
        chance = found.chance
        rows.append(
            [
                join([Html(name), span("small", note)]),
                f"{found.hits} of {found.queries}",
                f"{found.hits / found.queries:.0%}",
            ]
        )
    rows.append(["Chance", "", f"{chance:.0%}"])
    return table(["Nearest clip is of the same video", "Clips", "Share"], rows, ours=0)
