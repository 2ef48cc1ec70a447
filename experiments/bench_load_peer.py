"""The other side of `worldmodel bench what=[load] against=[stable-worldmodel]`: a process in its environment.

It imports nothing of ours. It writes the episodes it is given through the library's own writers, says which of them
worked, and then loads windows whenever it is asked to, by a line of JSON each way: so the two sides take turns on one
machine, in one run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = {"hdf5": "data.h5", "lance": "data.lance", "folder": "folder", "video": "video"}


def main(folder: Path, frames: int, batch_size: int, formats: list[str]) -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    library = importlib.import_module("stable_worldmodel")
    datasets: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in formats:
        try:
            datasets[name] = convert(library, name, folder, str(folder / FORMATS[name]), frames)
        except Exception as error:  # whatever an optional format's library raises
            failed[name] = f"{type(error).__name__}: {error}"

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    streams: dict[tuple[str, int], Any] = {}  # whose processes stay, and wait while others have their turn
    version = importlib.import_module("importlib.metadata").version("stable-worldmodel")
    answer({"version": version, "formats": sorted(datasets), "failed": failed})
    for line in sys.stdin:
        request = json.loads(line)
        name = request["format"]
        if "item" in request:
            answer(window(datasets[name], request["item"]))
            continue
        key = name, request["workers"]
        if key not in streams:
            streams[key] = batches_of(torch, datasets[name], batch_size, request["workers"])
        rate, busy = load(torch, streams[key], batch_size, request["workers"], request["seconds"])
        # Its workers now read ahead again; the next side's turn begins when they have done so.
        time.sleep(2 * 2 * request["workers"] * batch_size / rate)
        answer({"rate": rate, "per_processor_second": busy})


def convert(library: Any, name: str, folder: Path, path: str, frames: int) -> Any:
    """The episodes in one of the library's formats, opened as windows of so many frames."""

    def episodes() -> Any:
        for file in sorted(folder.glob("episode_*.npz")):
            with np.load(file) as arrays:
                yield {"pixels": list(arrays["pixels"]), "action": list(arrays["action"])}

    with library.data.get_format(name).open_writer(path) as writer:
        writer.write_episodes(episodes())
    keys = {"video_keys": ["pixels"]} if name == "video" else {}
    dataset = library.data.load_dataset(path, format=name, num_steps=frames, **keys)
    assert len(dataset[0]["pixels"]) == frames
    return dataset


def window(dataset: Any, item: int) -> dict[str, Any]:
    """What one window holds, to be compared with ours."""
    pixels = dataset[item]["pixels"].contiguous().numpy()
    episode, start = dataset.clip_indices[item]
    return {
        "episode": int(episode),
        "start": int(start),
        "shape": list(pixels.shape),
        "dtype": str(pixels.dtype),
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "mean": float(pixels.mean()),
    }


def batches_of(torch: Any, dataset: Any, batch_size: int, workers: int) -> Any:
    """Collated batches in random order, epoch after epoch."""
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def load(torch: Any, batches: Any, batch_size: int, workers: int, seconds: float) -> tuple[float, float]:
    """Windows per second, by the clock and of this process's time, once what was read ahead is used up."""
    for _ in range(1 + 2 * workers):
        next(batches)
    count, began, busy = 0, time.perf_counter(), time.process_time()
    while count < 2 or time.perf_counter() - began < seconds:
        batch = next(batches)
        assert batch["pixels"].dtype == torch.uint8 and len(batch["pixels"]) == batch_size
        count += 1
    windows = count * batch_size
    return windows / (time.perf_counter() - began), windows / max(time.process_time() - busy, 1e-9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
