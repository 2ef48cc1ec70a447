"""Rows of the comparison of objectives: the untrained control, measures of features, what was found, and the table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import pretrain, probe
from experiments.settings import compose_settings
from experiments.stages import Stage
from worldmodel.atomic import read_json, write_json
from worldmodel.data.clips import ClipShape
from worldmodel.evaluation.encoders import NamedEncoder, open_encoder
from worldmodel.evaluation.labelled import read_samples
from worldmodel.evaluation.probes import DEFAULT_FPS
from worldmodel.evaluation.representation import describe_tokens
from worldmodel.evaluation.scores import compare
from worldmodel.evaluation.views import ClipSamples
from worldmodel.models.files import directory_hash
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.distances import alignment, uniformity
from worldmodel.objectives.views import ViewConfig, draw_views

UNTRAINED = "untrained"
KINDS = ("knn", "linear", "attentive")
#: Held-out clips that features are measured on, at most.
MEASURED = 256
_AT_ONCE = 32
_WIDTH = 11  # of a column of probes


def write_untrained(stage: Stage, path: Path) -> None:
    """The model directory that this pretraining would begin with."""
    if not (path / "config.json").exists():
        config = settings_of(stage)
        pretrain.save(path, pretrain.build(config), config, pretrain.open_clips(config))


def frames_of(stage: Stage) -> int:
    """Frames of this pretraining's clips."""
    return settings_of(stage).encoder.frames


def settings_of(stage: Stage) -> pretrain.Config:
    """What a pretraining runs with."""
    settings = compose_settings("pretrain", pretrain.Config, stage.overrides, schemas=pretrain.SCHEMAS)
    config: pretrain.Config = settings.to_object()
    return config


def measure(row: Path, probing: Stage) -> None:
    """Write ``measures.json``: rank, spread, alignment and uniformity of a row's features on its probe's test clips.

    ``token_rank`` and ``clip_rank`` are effective ranks of tokens and of clips' mean tokens. Alignment and uniformity
    (2005.10242) are those of mean tokens of two views, by the defaults of ``views``.
    """
    config = compose_settings("probe", probe.Config, probing.overrides).to_object()
    inputs = {"model": directory_hash(Path(config.model).expanduser()), "clips": MEASURED}
    file = row / "measures.json"
    if file.exists() and read_json(file)["inputs"] == inputs:
        return
    named = open_encoder(config.model, config.weights)
    encoder, clips = named.encoder, test_clips(config, named)
    found = describe_tokens(encoder, clips.split(_AT_ONCE))
    first, second = two_views(encoder, clips)
    found["alignment"] = float(alignment(first, second))
    found["uniformity"] = float(uniformity(first, everywhere=False))
    write_json(file, {"inputs": inputs, **found})


def test_clips(config: probe.Config, named: NamedEncoder) -> Tensor:
    """Clips ``(n, T, C, H, W)`` uint8 of the probe's test, evenly taken from its list; of all of it without a split."""
    samples = read_samples(config.data)
    samples = [sample for sample in samples if sample.split == "test"] or samples
    places = np.unique(np.linspace(0, len(samples) - 1, MEASURED).astype(int))
    size, views = named.encoder.config, config.views
    shape = ClipShape(views.frames or size.frames, views.fps or named.fps or DEFAULT_FPS, views.stride)
    reader = ClipSamples([samples[place] for place in places], shape, views.size or size.image_size, views)
    return torch.from_numpy(np.stack([reader.read(sample)[0, 0] for sample in reader.samples]))


@torch.inference_mode()
def two_views(encoder: VideoEncoder, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Mean tokens ``(n, D)`` of two views of each clip."""
    found: list[list[Tensor]] = [[], []]
    for ids in torch.arange(len(clips)).split(_AT_ONCE):
        views = draw_views(
            clips[ids], ids.tolist(), 0, {"view": ViewConfig(count=2)}, encoder.config.patch_size
        )
        for part, view in zip(found, views, strict=True):
            part.append(encoder.encode(view.clip).float().flatten(1, 2).mean(dim=1))
    return torch.cat(found[0]), torch.cat(found[1])


def read_row(out: Path, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """All that is known of a finished row; probes beside the untrained encoder's, clip by clip."""
    row = out / name
    measures = read_json(row / "measures.json")
    found: dict[str, Any] = {"name": name, "probes": {}}
    for label, file in labels.items():
        names, mine = read_answers(row / f"probe_{label}")
        _, control = read_answers(out / UNTRAINED / f"probe_{label}")
        group_of = {sample.name: sample.group or sample.name for sample in read_samples(file)}
        groups = np.array([group_of[clip] for clip in names])
        scores = read_json(row / f"probe_{label}" / "results.json")["probes"]
        found["probes"][label] = {
            kind: {
                "accuracy": scores[kind]["pretrained"]["accuracy"],
                "interval": scores[kind]["pretrained"]["interval"],
                "beside_untrained": beside(mine[kind], control[kind], groups),
            }
            for kind in mine
        }
    found |= {
        key: measures[key] for key in ("token_rank", "clip_rank", "token_std", "alignment", "uniformity")
    }
    cost = row / "cost.json"
    found |= read_json(cost) if cost.exists() else {"processor_ms": None, "peak_mib": None}
    plan = row / "plan" / "results.json"
    if plan.exists():
        found["plan"] = {key: read_json(plan)[key] for key in ("successes", "episodes", "interval")}
    return found


def read_answers(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the test clips, and for each kind of probe, which of them it was right about.

    Names are not keys: clips that are parts of one file have the same.
    """
    with open(path / "predictions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    kinds = [key for key in lines[0] if key not in ("name", "label")]
    answers = {kind: np.array([line[kind] == line["label"] for line in lines]) for kind in kinds}
    return [line["name"] for line in lines], answers


def beside(mine: np.ndarray, control: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Difference of two accuracies on the same clips ``(n,)``, with its paired interval, and what that says."""
    result = compare(mine, control, groups)
    low, high = result["interval"]
    verdict = "above" if low > 0 else "below" if high < 0 else "as"
    return {"difference": result["difference"], "interval": [low, high], "verdict": verdict}


def table(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """The comparison as text: accuracies in percent, with + or - where the paired interval is beside zero."""
    kinds = [kind for kind in KINDS if kind in rows[0]["probes"][labels[0]]]
    over = "".join(f"{label:>{_WIDTH * len(kinds)}}" for label in labels)
    under = "".join(f"{kind:>{_WIDTH}}" for _ in labels for kind in kinds)
    lines = [f"{'':24}{over}   rank of rank of"]
    lines += [f"{'':24}{under}    tokens   clips  align uniform ms/step   MiB   goals"]
    for row in rows:
        scores = [row["probes"][label][kind] for label in labels for kind in kinds]
        cells = "".join(f"{_percent(score):>{_WIDTH}}" for score in scores)
        lines.append(f"{row['name']:24}{cells}   {_measures(row)}")
    return "\n".join(
        [*lines, "+ above the untrained encoder, - below it: beyond the 95% interval of the same clips"]
    )


def _percent(score: Mapping[str, Any]) -> str:
    mark = {"above": "+", "below": "-"}.get(score["beside_untrained"]["verdict"], " ")
    return f"{100 * score['accuracy']:.0f}{mark}"


def _measures(row: Mapping[str, Any]) -> str:
    step = "" if row["processor_ms"] is None else f"{row['processor_ms']:.0f}"
    memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    goals = f"{row['plan']['successes']}/{row['plan']['episodes']}" if "plan" in row else ""
    return (
        f"{row['token_rank']:7.1f} {row['clip_rank']:7.1f} {row['alignment']:6.2f} {row['uniformity']:7.2f} "
        f"{step:>7} {memory:>5} {goals:>7}"
    )
