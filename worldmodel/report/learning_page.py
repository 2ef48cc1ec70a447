"""The report's parts on learning: data, masks, features, imagined steps, and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldmodel.data.episodes import EpisodeStore
from worldmodel.masks import MaskConfig
from worldmodel.models.files import from_dict
from worldmodel.models.pretrained import load_encoder
from worldmodel.models.world_model import WorldModel
from worldmodel.report.artefacts import MODELS, DemoRun
from worldmodel.report.figures import Line, curves, line_of
from worldmodel.report.markup import Html, div, join
from worldmodel.report.parts import FilmRow, film, legend, remark, themed
from worldmodel.report.strips import FrameBank, blank_hidden, feature_colors, most_active, spread

#: Colours of the three world models, the same in all plots.
_COLORS = {"vjepa": "accent", "untrained_encoder": "ink", "end_to_end": "neutral"}
_BANK_EPISODES = 50
_HORIZON = 20


def data_strip(store: EpisodeStore, train: range) -> Html:
    """An episode of exploration."""
    position = most_active(store, train, 1)[0]
    frames = store[position]["frames"][:]
    shown = spread(len(frames), 9)
    note = f"episode {store.entries[position]['index']}"
    return film([FilmRow("Exploring", note, [frames[i] for i in shown], [f"step {i}" for i in shown])])


def mask_strip(run: DemoRun, store: EpisodeStore, held_out: range) -> Html:
    """A clip, and what the context encoder sees of it."""
    model, config = run.model("pretrain"), run.json("pretrain/config.json")
    if model is None or config is None:
        return remark("Left out: the mask, because pretrain has no model yet.")
    encoder = load_encoder(model)
    length, stride = encoder.config.frames, config.get("stride", 1)
    clip = _lively_clip(store, held_out, length, stride)
    # Of several masks per clip, the first is shown.
    mask = from_dict(MaskConfig, next(iter(config["mask"].values())), "pretrain/config.json")
    seen = blank_hidden(clip, mask, encoder.grid, config.get("seed", 0))
    rows = [
        FilmRow("Full clip", "what the target encoder sees", list(clip)),
        FilmRow(
            "Masked clip",
            "what the context encoder sees; the rest is to be predicted",
            list(seen),
            holes=True,
        ),
    ]
    return film(rows)


def _lively_clip(store: EpisodeStore, positions: range, length: int, stride: int = 1) -> np.ndarray:
    position = most_active(store, positions, 1, (length - 1) * stride + 1)[0]
    return store[position]["frames"][: (length - 1) * stride + 1][::stride]


def feature_strip(run: DemoRun, store: EpisodeStore, held_out: range) -> Html:
    """Patch features of a clip as colours, pretrained and untrained."""
    encoders = []
    if (path := run.model("pretrain")) is not None:
        encoders.append(("V-JEPA features", "target encoder", load_encoder(path)))
    if (path := run.model("train_untrained_encoder")) is not None:
        encoders.append(
            ("Untrained features", "the same network, random weights", WorldModel.load(path).encoder)
        )
    if not encoders:
        return remark("Left out: pictures of the features, because there is no encoder yet.")
    frames = np.concatenate([store[i]["frames"][:] for i in list(held_out)[:_BANK_EPISODES]])
    sample = frames[:: max(1, len(frames) // 600)]
    clip = _lively_clip(store, held_out, _HORIZON + 1)
    clip = clip[spread(len(clip), 9)]
    rows = [FilmRow("Frames", "a held-out episode", list(clip))]
    rows += [
        FilmRow(name, note, list(feature_colors(encoder, sample, clip))) for name, note, encoder in encoders
    ]
    return film(rows)


def open_loop_plot(run: DemoRun) -> Html:
    """Error of imagined latents by steps, for each model against predicting that nothing moves."""
    plots, absent = [], []
    for model in MODELS:
        found = (run.json(f"train_{model.name}/done.json") or {}).get("open_loop")
        if found is None:
            absent.append(model.label)
            continue
        steps = list(range(1, len(found["model"]) + 1))
        lines = [
            Line("imagined", steps, found["model"], _COLORS[model.name]),
            Line("nothing moves", steps, found["copy_last"], "muted", dashed=True),
        ]
        alt = f"Open-loop error of the {model.label} by steps"
        plots.append(
            _plot(model.label, lines, alt, x_label="steps imagined", y_label="RMS error", legend_inside=True)
        )
    notes = [remark(f"Left out: {', '.join(absent)}, whose training is not done.")] if absent else []
    return join([div("plots", *plots), *notes])


def imagination_strip(run: DemoRun, store: EpisodeStore, train: range, held_out: range) -> Html:
    """What the models imagine, shown as the real frames whose latents are nearest."""
    models = [
        (m.label, WorldModel.load(path)) for m in MODELS if (path := run.model(f"train_{m.name}")) is not None
    ]
    if not models:
        return remark("Left out: imagined episodes, because no world model is trained yet.")
    long_enough = [i for i in held_out if store.steps[i] >= 2]
    chosen = most_active(store, long_enough, 2, _HORIZON + 1)
    bank_from = list(train)[:: max(1, len(train) // _BANK_EPISODES)][:_BANK_EPISODES]
    banks = [(label, FrameBank(model, store, bank_from)) for label, model in models]
    return join([_imagined(banks, store, position) for position in chosen])


def _imagined(banks: list[tuple[str, FrameBank]], store: EpisodeStore, position: int) -> Html:
    horizon = min(_HORIZON, int(store.steps[position]))
    shown = spread(horizon + 1, 9)
    rows: list[FilmRow] = []
    for label, bank in banks:
        imagined = bank.imagine(position, horizon)
        if not rows:
            captions = [f"step {i}" if i else "given" for i in shown]
            note = f"episode {store.entries[position]['index']}, held out"
            rows.append(FilmRow("True frames", note, [imagined.true[i] for i in shown], captions))
        frames = [None if i == 0 else imagined.retrieved[i - 1] for i in shown]
        rows.append(FilmRow(label, "imagined", frames))
    return div("film-group", film(rows))


def pretraining_curves(run: DemoRun) -> Html:
    """Loss and feature statistics of the pretraining."""
    rows = run.metrics("pretrain")
    if not rows:
        return remark("Left out: curves of the pretraining, because pretrain has no metrics.jsonl.")
    loss = [
        line_of(rows, "loss", "loss"),
        line_of(rows, "predict_mean_loss", "always predicting the mean", "muted", dashed=True),
    ]
    ranks = [line_of(rows, "token_rank", "tokens"), line_of(rows, "clip_rank", "clips", "ink")]
    plots = [
        _plot("V-JEPA loss", loss, "V-JEPA loss over training", log=True, legend_inside=True),
        _plot(
            "Spread of features",
            [line_of(rows, "token_std", "std")],
            "Standard deviation of tokens",
            y_label="std",
        ),
        _plot(
            "Effective rank",
            ranks,
            "Effective rank of tokens and clips",
            y_label="directions",
            legend_inside=True,
        ),
    ]
    return div("plots", *plots)


def world_model_curves(run: DemoRun) -> Html:
    """Losses, statistics and open-loop errors of the world models during training."""
    found = [(model, rows) for model in MODELS if (rows := run.metrics(f"train_{model.name}"))]
    if not found:
        return remark("Left out: curves of the world models, because none has been trained.")

    def lines(key: str) -> list[Line | None]:
        return [line_of(rows, key, model.label, _COLORS[model.name]) for model, rows in found]

    # Latents of different models have different scales; the ratio to predicting no change can be compared.
    ratios = [line_of(_with_ratio(rows), "ratio", model.label, _COLORS[model.name]) for model, rows in found]
    one = Line("nothing moves", [0, max(rows[-1]["step"] for _, rows in found)], [1, 1], "muted", dashed=True)
    plots = [
        _plot("One-step loss", lines("teacher_forcing"), "Teacher-forcing loss", y_label="MSE", log=True),
        _plot("Rollout loss", lines("rollout"), "Rollout loss", y_label="MSE", log=True),
        _plot("SIGReg", lines("sigreg"), "SIGReg loss", log=True),
        _plot("Spread of latents", lines("latent_std"), "Standard deviation of latents", y_label="std"),
        _plot(
            "Effective rank of latents",
            lines("latent_rank"),
            "Effective rank of latents",
            y_label="directions",
        ),
        _plot(
            "Open-loop error / nothing moves",
            [*ratios, one],
            "Open-loop error against copying",
            y_label="ratio of MSE",
            log=True,
        ),
    ]
    entries = [(model.label, _COLORS[model.name], False) for model, _ in found]
    return join([legend([*entries, ("predicting that nothing moves", "muted", True)]), div("plots", *plots)])


def _with_ratio(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    monitored = [row for row in rows if row.get("copy_last_error")]
    return [
        {"step": row["step"], "ratio": row["open_loop_error"] / row["copy_last_error"]} for row in monitored
    ]


def _plot(
    title: str,
    lines: Sequence[Line | None],
    alt: str,
    *,
    x_label: str = "training step",
    y_label: str = "",
    log: bool = False,
    legend_inside: bool = False,
) -> Html:
    return themed(
        lambda theme: curves(
            title, lines, theme, x_label=x_label, y_label=y_label, log=log, legend=legend_inside
        ),
        alt,
    )
