"""Reacher: the whole road in a world whose pictures do not show velocities, and where its failures came from.

Each stage is a command of its own; an interrupted experiment continues when run again. Beside the table of what each
policy reaches stands the diagnosis, with one part changed at a time: models of one picture, and of two that learn
rollouts from one; and the search as it is in TwoRoom.

Example:
    worldmodel reacher
    worldmodel reacher seed=1 diagnosis=false out=runs/reacher_seed1
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.evaluate import wilson
from envs.world import make_world
from experiments.common import split_episodes
from experiments.stages import Stage, seconds_of
from worldmodel.atomic import read_json, write_bytes, write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.evaluation.state_error import NearestState, imagined_state_error
from worldmodel.evaluation.trajectories import Imagination, read_trajectories
from worldmodel.models.world_model import WorldModel
from worldmodel.report.theme import LIGHT
from worldmodel.report.velocity_picture import velocity_picture

ENV = "worldmodel/Reacher-v0"
#: Two pictures show a velocity, if rollouts are learnt from two.
TWO_PICTURES = ["dynamics.context=2", "objective.rollout_context=2", "window=7"]
#: Far enough to see past the elbow's detour, with all the torque there is, and judged by how near a plan ever comes:
#: the task is to touch the goal, not to stay there.
SEARCH = ["planner.horizon=24", "init_std=bounds", "cost.path=0.5", "cost.final=0", "cost.minimum=4"]
#: What a policy is called in tables.
LABELS = {
    "vjepa": "frozen V-JEPA",
    "untrained_encoder": "frozen, untrained",
    "end_to_end": "end to end",
    "short_search": "end to end, TwoRoom's search",
    "one_picture": "untrained, one picture",
    "blind_rollouts": "untrained, rollouts from one",
    "simulator": "simulator, true cost",
    "simulator_latent": "simulator, latent cost",
    "random": "random",
    "noop": "no action",
}
#: Models whose imagined arms are compared, and what pictures call them.
DIAGNOSED = {
    "one_picture": "one picture",
    "blind_rollouts": "two, rollouts learnt from one",
    "untrained_encoder": "two, rollouts learnt from two",
}


@dataclass
class Config:
    """Settings of the experiment; each stage's other settings are its command's defaults."""

    #: Directory of all stages.
    out: str = "runs/reacher"
    #: Seed of data, weights and planning. The held-out tasks are the same for every seed.
    seed: int = 0
    #: Episodes of 50 steps to collect.
    episodes: int = 1000
    #: Training steps of V-JEPA.
    pretrain_steps: int = 600
    #: Training steps of the world models on a frozen encoder.
    train_steps: int = 5000
    #: Training steps of the end-to-end models.
    end_to_end_steps: int = 1200
    #: Held-out tasks.
    tasks: int = 100
    #: Also train and plan with what was wrong at first, and measure what it misses.
    diagnosis: bool = True


def stages(config: Config) -> list[Stage]:
    """The experiment's commands, in order."""
    out, seed = config.out, f"seed={config.seed}"
    data, frozen = f"data={out}/data", f"loop.steps={config.train_steps}"
    end_to_end = ["method=lewm_cpu", f"loop.steps={config.end_to_end_steps}"]

    def train(name: str, what: str, *overrides: str) -> Stage:
        return Stage(f"train_{name}", what, "train", [data, *overrides, seed, f"out={out}/train_{name}"])

    def plan(name: str, what: str, *overrides: str) -> Stage:
        common = [f"env={ENV}", f"tasks={config.tasks}", seed, f"out={out}/plan_{name}"]
        return Stage(f"plan_{name}", what, "plan", [*overrides, *common])

    def plan_with(name: str, what: str) -> Stage:
        return plan(name, what, f"model={out}/train_{name}/model", *SEARCH)

    found = [
        Stage("collect", "An arm moves at random; its pixels and torques are kept.", "collect",
              [f"env={ENV}", "policy=smooth_random", f"episodes={config.episodes}", "steps=50", seed,
               f"out={out}/data"]),
        Stage("pretrain", "V-JEPA learns to predict hidden parts of clips.", "pretrain",
              [data, f"loop.steps={config.pretrain_steps}", "report=false", seed, f"out={out}/pretrain"]),
        train("vjepa", "A head and a predictor learn on the frozen V-JEPA encoder.",
              f"encoder_from={out}/pretrain/model", *TWO_PICTURES, frozen),
        train("untrained_encoder", "Control: the same on an encoder with random weights.",
              "variant=untrained", *TWO_PICTURES, frozen),
        train("end_to_end", "Encoder, head and predictor learn together from pixels.", *end_to_end),
        plan_with("vjepa", "Plans in V-JEPA's latent space."),
        plan_with("untrained_encoder", "The same on the untrained encoder."),
        plan_with("end_to_end", "The same on the end-to-end model."),
        plan("simulator", "Control: search with the true simulator and the true distance.", "agent=simulator",
             "planner.samples=48", "planner.elites=8", "planner.iterations=2", *SEARCH[:1]),
        plan("random", "Random actions.", "agent=random"),
        plan("noop", "No action at all.", "agent=noop"),
    ]  # fmt: skip
    if config.diagnosis:
        found += [
            train("one_picture", "Diagnosis: the untrained encoder's model with one picture.",
                  "variant=untrained", "window=7", frozen),
            train("blind_rollouts", "Diagnosis: with two pictures, but rollouts are learnt from one.",
                  "variant=untrained", "dynamics.context=2", "window=7", frozen),
            plan_with("one_picture", "Plans with one picture."),
            plan_with("blind_rollouts", "Plans with two pictures, after learning rollouts from one."),
            plan("short_search", "The end-to-end model, with the search that is right for TwoRoom.",
                 f"model={out}/train_end_to_end/model"),
        ]  # fmt: skip
    return found


def run(config: Config) -> dict[str, Any]:
    """Run the stages that are not done yet, print a line for each, and write summary.json and velocity.png."""
    out = Path(config.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for stage in stages(config):
        stage.run()
        seconds = seconds_of(out / ("data" if stage.name == "collect" else stage.name))
        rows.append({"name": stage.name, "what": stage.what, "command": stage.command, "seconds": seconds})
        print(f"{stage.name:24} {seconds:6.1f} s   {stage.what}", flush=True)
    names = [name for name in LABELS if (out / f"plan_{name}" / "results.json").exists()]
    summary: dict[str, Any] = {"stages": rows, "policies": {name: read_row(out, name) for name in names}}
    if config.diagnosis:
        summary["pose_error"] = pose_errors(out)
        errors = {DIAGNOSED[name]: error for name, error in summary["pose_error"].items()}
        picture = velocity_picture(errors, list(summary["policies"].values()), LIGHT)
        write_bytes(out / "velocity.png", picture)
    write_json(out / "summary.json", summary)
    return {**summary, "out": str(out)}


def read_row(out: Path, name: str) -> dict[str, Any]:
    """How one policy did, as tables and pictures need it."""
    found = read_json(out / f"plan_{name}" / "results.json")
    successes, episodes = found["successes"], found["episodes"]
    return {
        "label": LABELS[name],
        "successes": successes,
        "episodes": episodes,
        "interval": wilson(successes, episodes),
        "seconds_per_decision": found["seconds_per_decision"],
        "model": found["agent"] == "world_model",
    }


def pose_errors(out: Path, steps: int = 16, moving: int = 20) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Distance of imagined arms from the true ones in rad, from motion and from rest, for each diagnosed model."""
    store, world = EpisodeStore(out / "data"), make_world(ENV)
    train, held_out = split_episodes(store, 0.05)
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name in DIAGNOSED:
        model = WorldModel.load(out / f"train_{name}" / "model")
        eyes = Imagination(model.encode, model.rollout, model.dynamics.context)
        fitted, shown = (
            read_trajectories(eyes, store, part, 1, keep_frames=False) for part in (train[:400], held_out)
        )
        read = NearestState(fitted)
        found[name] = {
            how: imagined_state_error(eyes, read, shown, world.distances, begin, steps)
            for how, begin in (("moving", moving), ("at rest", 0))
        }
    world.close()
    return found


def outcome(summary: dict[str, Any]) -> str:
    """What the command says at its end."""
    lines = [f"{'policy':30} goals reached   95% interval   ms per decision"]
    for row in summary["policies"].values():
        low, high = row["interval"]
        reached = f"{row['successes']}/{row['episodes']}"
        lines.append(
            f"{row['label']:30} {reached:>13}   {low:5.0%} to {high:4.0%}   "
            f"{1000 * row['seconds_per_decision']:15.0f}"
        )
    seconds = sum(row["seconds"] for row in summary["stages"])
    picture = f" and {summary['out']}/velocity.png" if "pose_error" in summary else ""
    return "\n".join([*lines, f"{seconds / 60:.1f} minutes in all; {summary['out']}/summary.json{picture}"])


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("reacher"))
