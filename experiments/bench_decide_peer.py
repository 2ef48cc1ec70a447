"""The other side of `worldmodel bench what=[decide]`: torch-world's LeWM with our weights, planned by its own CEM.

It runs in the environment of torch-world, where ours needs torch, numpy and safetensors. First line out: how far
its predictions are from ours. Then, for each line in, latents of a frame and of a goal, a line out: a plan.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def main(settings: dict[str, Any], answers: Any) -> None:
    """Answer until there are no questions."""
    import torch

    from experiments.bench_plan_peer import largest_difference, torch_world_lewm
    from worldmodel.models.world_model import WorldModel

    torch.set_num_threads(settings["threads"])
    torch.set_grad_enabled(False)
    ours = WorldModel.load(settings["lewm"])
    dynamics, spec = ours.dynamics, ours.config.actions
    mean, std = dynamics.action_mean, dynamics.action_std
    model = torch_world_lewm(torch, dynamics, spec.dim)
    size = spec.per_step * spec.dim
    cem = import_module("torch_world.planning").CEM(
        settings["horizon"], size, settings["samples"], settings["elites"], settings["iterations"]
    )

    start = torch.randn(1, 1, dynamics.width)
    plans = torch.randn(8, settings["horizon"], spec.per_step, spec.dim)
    own = dynamics.rollout(
        start[:, :, None], plans.new_zeros(1, 0, *plans.shape[2:]), (plans * std + mean)[None]
    )
    theirs = model.rollout(start.expand(8, -1, -1), plans.flatten(2))[:, 1:]
    apart = largest_difference(theirs, own[0, :, :, 0], "torch-world")
    print(json.dumps({"apart": apart}), file=answers, flush=True)

    for line in sys.stdin:
        asked, began = json.loads(line), time.process_time()
        now, goal = (torch.tensor([asked[key]]) for key in ("now", "goal"))
        generator = torch.Generator().manual_seed(asked["seed"])
        plan = cem(model, now[:, None], goal, generator=generator)
        actions = plan.reshape(-1, spec.dim) * std + mean
        answer = {"actions": actions.tolist(), "processor": time.process_time() - began}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # ours, and not the modules of this folder
    main(json.loads(sys.argv[1]), pipe)
