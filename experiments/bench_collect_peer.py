"""The other side of `worldmodel bench what=[collect] against=[stable-worldmodel]`: a process in its environment.

It imports nothing of ours. Whenever it is asked to, by a line of JSON, it lets the library collect episodes of its own
TwoRoom into a file, as its documentation shows, and answers with the frames stored and the seconds that it took.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

SIZE = 64  # pixels that are stored


def main(folder: Path, environments: int, steps: int) -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    importlib.import_module("torch").set_num_threads(1)
    library = importlib.import_module("stable_worldmodel")
    policies = importlib.import_module("stable_worldmodel.policy")
    world = library.World(
        "swm/TwoRoom-v1", num_envs=environments, image_shape=(SIZE, SIZE), max_episode_steps=steps
    )
    world.set_policy(policies.RandomPolicy(seed=0))
    version = importlib.import_module("importlib.metadata").version("stable-worldmodel")
    print(json.dumps({"version": version}), file=answers, flush=True)
    for turn, line in enumerate(sys.stdin):
        path = str(folder / f"{turn}.h5")
        began, busy = time.perf_counter(), time.process_time()
        world.collect(path, episodes=json.loads(line)["episodes"], seed=turn, format="hdf5", progress=False)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        stored = library.data.load_dataset(path, format="hdf5", num_steps=1)
        assert tuple(stored[0]["pixels"].shape) == (1, 3, SIZE, SIZE)
        answer = {"frames": len(stored), "seconds": seconds, "processor_seconds": busy}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
