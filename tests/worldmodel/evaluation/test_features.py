"""Views of files, the feature cache, and tasks with known answers, on small videos."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.worldmodel.evaluation.probe_data import SIZE, write_video
from worldmodel.data.clips import ClipShape
from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.data.videos import open_video
from worldmodel.evaluation.features import Extraction, Features, extract, feature_folder
from worldmodel.evaluation.labelled import Sample
from worldmodel.evaluation.tasks import TaskConfig, as_in_pretraining, task_samples
from worldmodel.evaluation.views import ClipSamples, ViewConfig, segment_indices
from worldmodel.models.video_encoder import VideoEncoder

SHAPE = ClipShape(4, fps=10.0, stride=2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, colour in enumerate([(230, 40, 40), (40, 40, 230), (40, 230, 40)]):
        write_video(folder / f"v{number}.mp4", number, colour, frames=60)
    return folder


def samples_of(folder: Path) -> list[Sample]:
    return [Sample(path.name, str(path), "x") for path in sorted(folder.glob("*.mp4"))]


def test_segments_lie_in_the_middle_of_equal_parts() -> None:
    times = np.arange(100) / 10.0
    found = segment_indices(times, ClipShape(5, fps=10.0, stride=2), 4)  # spans 9 frames
    assert np.array_equal(np.diff(found), np.full((4, 4), 2))
    assert np.abs(found.mean(axis=1) - (np.arange(4) + 0.5) * 25).max() <= 1
    by_time = segment_indices(times, ClipShape(5, fps=5.0), 4)
    assert np.abs(by_time - found).max() <= 1
    crowded = segment_indices(times[:12], ClipShape(5, fps=10.0, stride=2), 3)
    assert crowded.min() == 0 and crowded.max() == 11 and len(np.unique(crowded, axis=0)) == 3
    short = segment_indices(times[:3], ClipShape(5, fps=10.0, stride=2), 2)
    assert short.tolist() == [[0, 2, 2, 2, 2]] * 2  # the last frame is repeated


def test_crops_and_the_part_of_a_file(videos: Path, tmp_path: Path) -> None:
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, :32, 0], picture[:, 32:64, 1], picture[:, 64:, 2] = 255, 255, 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    wide = Sample("w", str(tmp_path / "wide.png"), "x")
    clip = ClipSamples([wide], SHAPE, 32, ViewConfig(segments=2, crops=3), crops=3)[0]["clips"]
    assert clip.shape == (3, 2, 4, 3, 32, 32)
    assert [int(crop.mean(axis=(0, 1, 3, 4)).argmax()) for crop in clip] == [0, 1, 2]
    assert (clip == clip[:, :1, :1]).all()  # a picture stands still

    part = Sample("p", str(videos / "v0.mp4"), "x", start=2.0, end=4.0)  # frames 20 to 39
    clips = ClipSamples([part], SHAPE, 48, ViewConfig(resize=1.0))
    video = open_video(part.path)
    assert np.array_equal(clips.read(part)[0, 0], video.frames([27, 29, 31, 33]))
    late = Sample("p", part.path, "x", start=60.0)
    assert "has no frame from 60.0 to None s" in ClipSamples([late], SHAPE, 48, ViewConfig())[0]["error"]


def test_training_and_test_see_a_video_equally_large(videos: Path) -> None:
    """The one crop of a training clip is the middle one of the test's three, not a closer look."""
    sample = samples_of(videos)[0]
    for views in (ViewConfig(crops=3), ViewConfig(crops=1)):
        train = ClipSamples([sample], SHAPE, 32, views, crops=1).read(sample)
        test = ClipSamples([sample], SHAPE, 32, views, crops=views.crops).read(sample)
        assert np.array_equal(train[0], test[len(test) // 2])


def test_known_frames_change_nothing(videos: Path) -> None:
    frames = [(0, 1, 2, 3), (2, 4, 6, 8), (9, 6, 3, 0)]
    samples = [Sample("v", str(videos / "v1.mp4"), "x", frames=chosen) for chosen in frames]
    clips = ClipSamples(samples, SHAPE, 32, ViewConfig())
    for index, sample in enumerate(samples):
        assert np.array_equal(clips[index]["clips"], clips.read(sample))
    again = pickle.loads(pickle.dumps(clips))  # as for a worker
    assert np.array_equal(again[2]["clips"], clips[2]["clips"])


def run_extraction(videos: Path, cache: Path, counter: Counter[str] | None = None, **change: Any) -> Features:
    torch.manual_seed(0)
    encoder = VideoEncoder(SIZE).eval()
    if counter is not None:
        encoder.register_forward_pre_hook(lambda *_: None)
        encode = encoder.encode
        encoder.encode = lambda clip: counter.update(clips=len(clip)) or encode(clip)  # type: ignore[method-assign]
    samples = samples_of(videos) * 7  # 21 samples: two shards
    clips = ClipSamples(samples, SHAPE, 32, ViewConfig(segments=2))
    folder = feature_folder(cache, {"encoder": "x"}, samples)
    return extract([Extraction(encoder, folder, {})], clips, tokens=True, **change)[0]


def test_features_are_the_encoders(videos: Path, tmp_path: Path) -> None:
    features = run_extraction(videos, tmp_path)
    torch.manual_seed(0)
    encoder = VideoEncoder(SIZE).eval()
    clip = ClipSamples(samples_of(videos), SHAPE, 32, ViewConfig(segments=2)).read(samples_of(videos)[1])
    with torch.no_grad():
        tokens = encoder.encode(torch.from_numpy(clip[0])).flatten(0, 2)  # (segments * P * N, D)
    assert features.pooled.shape == (21, 1, 24)
    torch.testing.assert_close(features.read("pooled", [4])[0], tokens.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.read("tokens", [4])[0], tokens, rtol=1e-2, atol=1e-2)
    assert torch.equal(features.read("tokens", [20]), features.read("tokens", [2]))


def test_an_interrupted_extraction_makes_only_what_is_missing(videos: Path, tmp_path: Path) -> None:
    whole, counter = run_extraction(videos, tmp_path), Counter[str]()
    run_extraction(videos, tmp_path, counter)
    assert counter["clips"] == 0
    shards = sorted(tmp_path.glob("*/*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])  # cut off
    again = run_extraction(videos, tmp_path, counter)
    assert counter["clips"] == 2 * 16
    assert torch.equal(whole.pooled, again.pooled)


def test_several_layers_are_side_by_side(videos: Path, tmp_path: Path) -> None:
    both = run_extraction(videos, tmp_path / "a", layers=[0, 1])
    last = run_extraction(videos, tmp_path / "b")
    assert (
        both.pooled.shape[-1] == 48
        and both.read("tokens", [0]).shape[1] == 2 * last.read("tokens", [0]).shape[1]
    )
    torch.testing.assert_close(both.pooled[..., 24:], last.pooled)


def test_workers_give_the_same_features(videos: Path, tmp_path: Path) -> None:
    alone, helped = run_extraction(videos, tmp_path / "a"), run_extraction(videos, tmp_path / "b", workers=1)
    assert torch.equal(alone.pooled, helped.pooled)


def test_a_changed_file_has_other_features(videos: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 0, (200, 200, 0))
    samples = samples_of(tmp_path)
    before = feature_folder(tmp_path, {"encoder": "x"}, samples)
    assert feature_folder(tmp_path, {"encoder": "y"}, samples) != before
    write_video(tmp_path / "v.mp4", 1, (200, 200, 0))
    assert feature_folder(tmp_path, {"encoder": "x"}, samples) != before


@pytest.mark.parametrize("task", ["speed", "order", "source"])
def test_tasks_are_balanced_and_their_parts_apart(videos: Path, task: str) -> None:
    config = TaskConfig(held_out=0.3, windows=6, test_windows=4, gap=0.3, strides=[1, 2], min_change=0.5)
    samples = task_samples(videos, task, config, frames=4, seed=0)
    for split in ("train", "val", "test"):
        counts = Counter(sample.label for sample in samples if sample.split == split)
        assert len(counts) == {"speed": 2, "order": 2, "source": 3}[task] and len(set(counts.values())) == 1
    for path in {sample.path for sample in samples}:
        seen = {
            split: {frame for s in samples if s.path == path and s.split == split for frame in s.frames}
            for split in ("train", "val", "test")
        }
        assert max(seen["train"]) + 3 <= min(seen["val"]) and max(seen["val"]) + 3 <= min(seen["test"])
        assert max(seen["test"]) < 60


def test_the_classes_of_a_window_see_the_same_part(videos: Path) -> None:
    config = TaskConfig(held_out=0.3, windows=6, test_windows=4, gap=0.1, strides=[1, 3], min_change=0.0)
    speed = task_samples(videos, "speed", config, frames=4, seed=0)
    for slow, fast in zip(speed[::2], speed[1::2], strict=True):
        assert (slow.label, fast.label) == ("x1", "x3") and slow.group == fast.group
        assert fast.frames[0] <= slow.frames[0] and slow.frames[-1] <= fast.frames[-1]
    offsets = [slow.frames[0] - fast.frames[0] for slow, fast in zip(speed[::2], speed[1::2], strict=True)]
    assert min(offsets) == 0 and max(offsets) == 6  # anywhere in the window, so its edges tell nothing
    order = task_samples(videos, "order", config, frames=4, seed=0)
    assert all(a.frames == b.frames[::-1] for a, b in zip(order[::2], order[1::2], strict=True))


def test_still_and_fading_windows_are_left_out(videos: Path) -> None:
    with pytest.raises(ValueError, match="no window of .* frames for the train part"):
        task_samples(videos, "order", TaskConfig(held_out=0.3, min_change=200.0), frames=4, seed=0)
    with pytest.raises(ValueError, match="no window of .* frames for the train part"):
        task_samples(
            videos, "order", TaskConfig(held_out=0.3, max_fade=0.0, min_change=0.0), frames=4, seed=0
        )
    assert task_samples(
        videos, "source", TaskConfig(held_out=0.3, max_fade=0.0, min_change=200.0), frames=4, seed=0
    )


def test_whole_videos_can_be_held_out(videos: Path) -> None:
    config = TaskConfig(held_out=0.5, held_out_by="file", strides=[1, 2], min_change=0.0)
    samples = task_samples(videos, "speed", config, frames=4, seed=0)
    sides = [{s.path for s in samples if s.split == split} for split in ("train", "test")]
    assert all(sides) and not sides[0] & sides[1]
    with pytest.raises(ValueError, match="held_out_by=time"):
        task_samples(videos, "source", config, frames=4, seed=0)


def test_the_test_is_what_pretraining_held_out(videos: Path) -> None:
    corpus = Corpus(CorpusConfig(data=str(videos)))
    seen = {"data": corpus.hash, "held_out": 0.2, "held_out_by": "time"}
    assert as_in_pretraining(TaskConfig(), videos, seen).held_out == 0.2
    assert as_in_pretraining(TaskConfig(held_out=0.1), videos, seen).held_out == 0.1
    assert as_in_pretraining(TaskConfig(), videos, {**seen, "data": "others"}).held_out == 0.3
    for change in ({"held_out": 0.0}, {"held_out_by": "file"}, {"held_out": 0.1}):
        with pytest.raises(ValueError, match="it has seen what would be the test"):
            as_in_pretraining(TaskConfig(held_out=0.2), videos, {**seen, **change})
