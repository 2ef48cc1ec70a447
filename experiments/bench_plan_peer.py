"""The other side of `worldmodel bench what=[plan] against=[torch-world]`: their planner and ours in one process.

It runs in the environment of the other library, where ours needs no more than torch and numpy: our predictor's weights
go into theirs, both have to predict the same, and then both solve in turns.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

Solve = Callable[[], Any]


def main(name: str, settings: dict[str, Any]) -> dict[str, float]:
    """Rows of this library against ours."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(settings["threads"])
    ours = importlib.import_module("experiments.bench_plan")
    cem = importlib.import_module("planners.cem")
    dynamics_of = importlib.import_module("worldmodel.models.dynamics")
    bench, planner = ours.PlanBench(**settings["bench"]), cem.CEMConfig(**settings["planner"])
    envs, turns = bench.environments[0], settings["repeats"]
    dynamics = ours.make_predictor(bench, 1, planner.action_block)
    if (
        name == "stable-worldmodel"
    ):  # it norms once more behind the modulation: the same function where that is off
        for block in dynamics.blocks:
            for part in (0, 1, 3, 4):  # shifts and scales; gates still depend on the actions
                block.modulation.weight.unflatten(0, (6, -1))[part].zero_()
    drawn = torch.randn(2, envs, 1, dynamics.width, generator=torch.Generator().manual_seed(0))
    solve, rollout = SIDES[name](torch, dynamics, planner, *drawn)

    plans = torch.randn(1, 8, planner.horizon, planner.action_block, 2)
    with torch.no_grad():
        theirs = rollout(plans[0].flatten(2))
        own = dynamics.rollout(drawn[0][:1, :, None], plans.new_zeros(1, 0, *plans.shape[3:]), plans)[
            0, :, :, 0
        ]
    apart = largest_difference(theirs, own, name)
    sides: dict[str, Solve] = {name: solve}
    for precision in bench.precisions:
        imagine = dynamics_of.fast_rollout(dynamics, dynamics_of.RolloutConfig(precision))
        sides[precision] = ours.make_solve(dynamics, imagine, planner, envs)
    times = ours.in_turns(sides, turns)
    version = importlib.import_module("importlib.metadata").version(name)
    figures = {f"plan: largest difference of predictions, {name} {version}": apart}
    for side, found in times.items():
        who = f"{name}" if side == name else f"ours, {side}"
        figures[f"plan: processor s per solve, {who}"] = median(one.processor for one in found)
        if side == name:
            continue
        for kind, unit in (("clock", ""), ("processor", " of processor time")):
            ratios = [getattr(a, kind) / getattr(b, kind) for a, b in zip(times[name], found, strict=True)]
            figures[f"plan: plans/s{unit}, {side}, of {name}'s"] = median(ratios)
    return figures


def largest_difference(theirs: Any, own: Any, name: str) -> float:
    """Of predictions, as a share of the range of ours; ends the process where they are not the same function."""
    apart = float((theirs - own).abs().max() / own.abs().max())
    if not apart < 1e-3:
        raise SystemExit(
            f"{name} does not predict what we predict: the largest difference is {apart:.1g} of the range"
        )
    return apart


def torch_world(
    torch: Any, dynamics: Any, planner: Any, start: Any, goal: Any
) -> tuple[Solve, Callable[[Any], Any]]:
    """Its LeWM with our weights, planned by its CEM."""
    model = torch_world_lewm(torch, dynamics, 2)
    cem = importlib.import_module("torch_world.planning.cem").CEM(
        planner.horizon, dynamics.actions_per_step * 2, planner.samples, planner.elites, planner.iterations
    )

    def solve() -> Any:
        return cem(model, start, goal[:, 0])

    return solve, lambda plans: model.rollout(start[:1].expand(len(plans), -1, -1), plans)[:, 1:]


def torch_world_lewm(torch: Any, dynamics: Any, action_dim: int) -> Any:
    """Its LeWM with the weights of our predictor; latents take the place of its encoder's."""
    c = dynamics.config
    model = importlib.import_module("torch_world.models.jepa").LeWM(
        torch.nn.Identity(), dynamics.actions_per_step * action_dim, embed_dim=c.width, history=c.context,
        depth=c.depth, num_heads=c.heads, head_dim=c.head_width, mlp_dim=c.mlp_hidden, proj_dim=c.projection,
    ).eval()  # fmt: skip
    embed = dynamics.embed_action
    pairs = [
        (model.action_encoder[0], embed.mix), (model.action_encoder[1][0], embed.mlp[0]),
        (model.action_encoder[1][2], embed.mlp[2]), (model.predictor.norm, dynamics.norm),
        (model.pred_proj[0], dynamics.leave.fc1), (model.pred_proj[1], dynamics.leave.norm),
        (model.pred_proj[3], dynamics.leave.fc2),
    ]  # fmt: skip
    for theirs, own in zip(model.predictor.blocks, dynamics.blocks, strict=True):
        pairs += [
            (theirs.attn.qkv, own.attn.qkv), (theirs.attn.proj, own.attn.proj), (theirs.mlp[0], own.mlp[0]),
            (theirs.mlp[3], own.mlp[3]), (theirs.modulation[1], own.modulation),
        ]  # fmt: skip
    with torch.no_grad():
        model.pos_embed.copy_(dynamics.table.transpose(0, 1))
        _copy(pairs)
        for theirs, own in zip(model.predictor.blocks, dynamics.blocks, strict=True):
            _fold_norms(theirs.modulation[1], own)
    return model


def _fold_norms(modulation: Any, block: Any) -> None:
    """Weights w and biases b of a block's norms into the modulation behind them, where the other library has none:

    (w x + b) (1 + scale) + shift = x (1 + (w (1 + scale) - 1)) + (b (1 + scale) + shift).
    """
    weight, bias = (part.unflatten(0, (6, -1)) for part in (modulation.weight, modulation.bias))
    for shift, norm in ((0, block.norm1), (3, block.norm2)):
        scale = shift + 1
        weight[shift] += norm.bias[:, None] * weight[scale]
        bias[shift] += norm.bias * (1 + bias[scale])
        weight[scale] *= norm.weight[:, None]
        bias[scale] = norm.weight * (1 + bias[scale]) - 1


def stable_worldmodel(
    torch: Any, dynamics: Any, planner: Any, start: Any, goal: Any
) -> tuple[Solve, Callable[[Any], Any]]:
    """Its LeWM with our weights, planned by its CEMSolver; frames come encoded, as ours do."""
    c, size = dynamics.config, dynamics.actions_per_step * 2
    lewm = importlib.import_module("stable_worldmodel.wm.lewm.lewm").LeWM
    parts = importlib.import_module("stable_worldmodel.wm.lewm.module")
    predictor = parts.Predictor(
        num_frames=c.context, depth=c.depth, heads=c.heads, mlp_dim=c.mlp_hidden, input_dim=c.width,
        hidden_dim=c.width, dim_head=c.head_width,
    )  # fmt: skip
    embedder = parts.Embedder(input_dim=size, smoothed_dim=size, emb_dim=c.width)
    last = parts.MLP(c.width, c.projection, c.width, norm_fn=torch.nn.BatchNorm1d)
    model = lewm(torch.nn.Identity(), predictor, embedder, pred_proj=last).eval()
    embed, inside = dynamics.embed_action, predictor.transformer
    pairs = [
        (embedder.patch_embed, embed.mix), (embedder.embed[0], embed.mlp[0]), (embedder.embed[2], embed.mlp[2]),
        (inside.norm, dynamics.norm), (last.net[0], dynamics.leave.fc1), (last.net[1], dynamics.leave.norm),
        (last.net[3], dynamics.leave.fc2),
    ]  # fmt: skip
    for theirs, own in zip(inside.layers, dynamics.blocks, strict=True):
        pairs += [
            (theirs.attn.to_qkv, own.attn.qkv), (theirs.attn.to_out[0], own.attn.proj),
            (theirs.mlp.net[1], own.mlp[0]), (theirs.mlp.net[4], own.mlp[3]),
            (theirs.adaLN_modulation[1], own.modulation),
        ]  # fmt: skip
    with torch.no_grad():
        predictor.pos_embedding.copy_(dynamics.table.transpose(0, 1))
        _copy(pairs)
    numpy, spaces = importlib.import_module("numpy"), importlib.import_module("gymnasium.spaces")
    solver = importlib.import_module("stable_worldmodel.solver.cem").CEMSolver(
        model, num_samples=planner.samples, n_steps=planner.iterations, topk=planner.elites
    )
    config = SimpleNamespace(horizon=planner.horizon, action_block=dynamics.actions_per_step)
    solver.configure(
        action_space=spaces.Box(-1, 1, (len(start), 2), numpy.float32), n_envs=len(start), config=config
    )
    nothing = torch.zeros(len(start), 1, 1)
    info = {"pixels": nothing, "goal": nothing, "emb": start, "goal_emb": goal}

    def rollout(plans: Any) -> Any:
        given = {
            "pixels": nothing[:1, None].expand(1, len(plans), 1, 1),
            "emb": start[:1, None].expand(1, len(plans), 1, -1),
        }
        return model.rollout(given, plans[None])["predicted_emb"][0, :, 1:]

    return lambda: solver.solve(dict(info)), rollout


def _copy(pairs: list[tuple[Any, Any]]) -> None:
    """Weights and statistics of our layers into theirs; a bias that ours lacks becomes 0."""
    for theirs, own in pairs:
        theirs.weight.copy_(own.weight.view_as(theirs.weight))
        if theirs.bias is not None:
            theirs.bias.zero_() if own.bias is None else theirs.bias.copy_(own.bias)
        if hasattr(own, "running_mean"):
            theirs.running_mean.copy_(own.running_mean)
            theirs.running_var.copy_(own.running_var)


SIDES = {"torch-world": torch_world, "stable-worldmodel": stable_worldmodel}

if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # ours, and not the modules of this folder
    json.dump(main(sys.argv[1], json.loads(sys.argv[2])), answers)
    answers.close()
