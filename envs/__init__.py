"""Gymnasium worlds, held-out tasks, exploring policies, collection and evaluation. No torch in here.

Importing this package registers `worldmodel/TwoRoom-v0` and `worldmodel/Reacher-v0` with gymnasium; it is safe to
import it many times.
"""

from __future__ import annotations

import itertools

import gymnasium as gym

from envs.world import NAMESPACE, describe, make_world

__all__ = ["describe", "make_world"]

# Entry points are strings, so that MuJoCo is only loaded when a world is made. There is no
# `max_episode_steps`: the time limit belongs to the task (envs.task.TaskEnv), and collection decides on its
# own episode length.
_WORLDS = {
    "TwoRoom-v0": "envs.two_room:TwoRoom",
    "TwoRoomPublished-v0": "envs.two_room_published:TwoRoomPublished",
    "TwoRoomRandomWall-v0": "envs.two_room_published:TwoRoomRandomWall",
    "Cube-v0": "envs.cube:Cube",
    "PointMaze-UMaze-v0": "envs.point_maze:PointMazeUMaze",
    "PointMaze-Medium-v0": "envs.point_maze:PointMazeMedium",
    "PointMaze-Large-v0": "envs.point_maze:PointMazeLarge",
    "PointMazePublished-UMaze-v0": "envs.point_maze:PointMazePublishedUMaze",
    "PushT-v0": "envs.push_t:PushT",
    "PushTCoverage-v0": "envs.push_t:PushTCoverage",
    "Reacher-v0": "envs.reacher:Reacher",
    "ReacherPublished-v0": "envs.reacher_published:ReacherPublished",
}

# Worlds in another look, `worldmodel/TwoRoom-Noise-v0` and so on: every look of `envs.looks` for each of these.
_DRESSED = ("TwoRoom", "PointMaze-UMaze", "PushT", "Reacher")
_LOOKS = ("Colours", "Discs", "Jumping", "Noise", "Flicker", "Hard")

for _name, _entry_point in _WORLDS.items():
    if f"{NAMESPACE}/{_name}" not in gym.registry:
        gym.register(id=f"{NAMESPACE}/{_name}", entry_point=_entry_point)

for _name, _look in itertools.product(_DRESSED, _LOOKS):
    if f"{NAMESPACE}/{_name}-{_look}-v0" not in gym.registry:
        gym.register(
            id=f"{NAMESPACE}/{_name}-{_look}-v0",
            entry_point="envs.looks:LookWorld",
            kwargs={"world": f"{NAMESPACE}/{_name}-v0", "look": _look.lower()},
        )
