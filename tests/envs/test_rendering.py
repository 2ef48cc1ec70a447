"""Which OpenGL there is, what is said when there is none, and a camera; what draws is skipped where nothing does."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from envs import rendering
from envs.collect import collect
from envs.rendering import Camera, NoOpenGL, backends, find_gl, probe
from envs.world import make_world

ROOT = Path(__file__).resolve().parents[2]
SCENE = """
<mujoco><worldbody>
  <light pos="0 0 3" dir="0 0 -1"/><light pos="2 0 3" dir="-1 0 -1"/><geom type="plane" size="2 2 1"/>
  <body pos="0 0 1"><joint name="z" type="slide" axis="0 0 1"/><geom type="box" size=".2 .2 .2" rgba="1 0 0 1"/></body>
  <camera name="top" pos="0 0 4"/><camera name="side" pos="4 0 1" xyaxes="0 1 0 0 0 1"/>
</worldbody></mujoco>
"""


@pytest.fixture
def no_gl(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Linux machine on which every probe fails; gives the probes that were made."""
    asked: list[str] = []

    def failing(gl: str, timeout: float = 60.0) -> dict[str, Any]:
        asked.append(gl)
        return {"error": f"no lib{gl}.so"}

    for name in ("MUJOCO_GL", "WORLDMODEL_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rendering, "probe", failing)
    rendering._find.cache_clear()
    yield asked
    rendering._find.cache_clear()


@pytest.fixture
def draws() -> str:
    """The backend of this machine."""
    try:
        return find_gl()
    except NoOpenGL as error:
        pytest.skip(str(error))


@pytest.fixture
def scene() -> tuple[Any, Any]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


# Without OpenGL


def test_no_opengl_is_one_line_that_says_what_to_install(no_gl: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(NoOpenGL) as caught:
            find_gl()
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "apt install libegl1 libgl1-mesa-dri or apt install libosmesa6",
        "egl: no libegl.so",
        "no graphics card",
    ):
        assert part in text
    assert no_gl == ["egl", "osmesa"]  # looked for once
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, OSError)
    assert "WORLDMODEL_GL" not in os.environ


def test_a_world_that_needs_opengl_says_so_when_it_is_made(no_gl: list[str]) -> None:
    with pytest.raises(NoOpenGL, match="apt install"):
        make_world("Reacher-v5")
    with pytest.raises(NoOpenGL, match="apt install"):
        Camera(mujoco.MjModel.from_xml_string(SCENE))


@pytest.mark.parametrize("value", ["disable", "OFF", "0"])
def test_opengl_that_the_user_turned_off(
    no_gl: list[str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(NoOpenGL, match=f"MUJOCO_GL={value} turns off"):
        find_gl()
    assert no_gl == []


def test_the_backend_that_the_user_chose_is_the_only_one(
    no_gl: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("WORLDMODEL_GL", "egl")  # of a parent that had another choice
    with pytest.raises(NoOpenGL, match=r"apt install libosmesa6, or unset MUJOCO_GL \("):
        find_gl()
    assert no_gl == ["osmesa"]


def test_backends_by_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    for platform, wanted in {"linux": ("egl", "osmesa"), "darwin": ("cgl",), "win32": ("glfw",)}.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert backends() == wanted
    monkeypatch.setenv("MUJOCO_GL", " GLX ")
    assert backends() == ("glfw",)


def test_the_second_backend_is_taken_when_the_first_fails_and_children_are_told(
    no_gl: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDMODEL_GL", "")  # so that it is put back
    failing: Callable[[str], dict[str, Any]] = rendering.probe
    monkeypatch.setattr(rendering, "probe", lambda gl: {"milliseconds": 1} if gl == "osmesa" else failing(gl))
    assert find_gl() == "osmesa"
    assert os.environ["WORLDMODEL_GL"] == "osmesa"
    assert "MUJOCO_GL" not in os.environ
    rendering._find.cache_clear()
    monkeypatch.setattr(rendering, "probe", failing)
    assert find_gl() == "osmesa"  # as in a child
    assert no_gl == ["egl"]


def test_probe_answers_whatever_happens() -> None:
    assert "mujoco.nothing" in probe("nothing")["error"]
    assert probe("egl", timeout=0.001) == {"error": "no picture within 0.001 s"}


def test_probe_of_a_process_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho driver is broken >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert probe("egl") == {"error": "the process ended with code 3: driver is broken"}


def test_import_loads_no_opengl_and_sets_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import envs.rendering, envs.gym_world; "
        "assert dict(os.environ) == before; assert 'OpenGL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="OSMesa is for Linux")
def test_a_chosen_backend_that_breaks_mujoco_itself_is_a_line_too(tmp_path: Path) -> None:
    # `import mujoco` loads what MUJOCO_GL names; a package of that name that fails stands for a missing library.
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL" / "__init__.py").write_text("raise AttributeError('no glGetError')")
    code = "from envs.world import make_world; make_world('worldmodel/TwoRoom-v0')"
    environ = {**os.environ, "MUJOCO_GL": "osmesa", "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environ.pop("PYOPENGL_PLATFORM", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("ValueError: `import mujoco` fails with MUJOCO_GL=osmesa (no glGetError); unset")


# With OpenGL


def test_the_same_state_gives_the_same_picture(draws: str, scene: tuple[Any, Any]) -> None:
    model, data = scene
    camera, other = Camera(model, size=48), Camera(model, size=48)
    first = camera.draw(data)
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    data.qpos[:] = 0.5
    mujoco.mj_forward(model, data)
    moved = camera.draw(data)
    assert not np.array_equal(moved, first)
    np.testing.assert_array_equal(other.draw(data), moved)  # two contexts side by side
    data.qpos[:] = 0
    mujoco.mj_forward(model, data)
    np.testing.assert_array_equal(camera.draw(data), first)


def test_up_is_up_and_left_is_left(draws: str, scene: tuple[Any, Any]) -> None:
    model, data = scene
    data.qpos[:] = 0.6
    mujoco.mj_forward(model, data)
    picture = Camera(model, camera="side").draw(data).astype(int)
    red = (picture[..., 0] > picture[..., 1] + 40).nonzero()
    assert red[0].mean() < 28 and abs(red[1].mean() - 31.5) < 2


def test_cameras_by_name_and_number_and_the_free_one(draws: str, scene: tuple[Any, Any]) -> None:
    model, data = scene
    side = Camera(model, camera="side").draw(data)
    np.testing.assert_array_equal(Camera(model, camera=1).draw(data), side)
    assert not np.array_equal(Camera(model, camera=0).draw(data), side)
    near, far = (
        Camera(model, view={"distance": d, "lookat": [0, 0, 1]}).draw(data).astype(int) for d in (2, 6)
    )
    assert (near[..., 0] > near[..., 1] + 40).sum() > 2 * (far[..., 0] > far[..., 1] + 40).sum()
    for wrong in ("front", 2, -1):
        with pytest.raises(ValueError, match="its cameras are top, side"):
            Camera(model, camera=wrong)
    with pytest.raises(ValueError, match="size >= 1"):
        Camera(model, size=0)


def test_the_model_is_as_it_was(draws: str, scene: tuple[Any, Any]) -> None:
    model, _ = scene
    before = copy.copy(model)
    Camera(model, size=900)  # larger than the model's own buffer
    for part in ("quality", "global_"):
        ours, theirs = getattr(model.vis, part), getattr(before.vis, part)
        for name in ("offsamples", "shadowsize", "offwidth", "offheight"):
            assert getattr(ours, name, 0) == getattr(theirs, name, 0)


def test_shadows_and_anti_aliasing_can_be_had(draws: str, scene: tuple[Any, Any]) -> None:
    model, data = scene
    plain = Camera(model).draw(data)
    assert not np.array_equal(Camera(model, shadows=True).draw(data), plain)
    smooth = Camera(model, samples=4).draw(data)
    assert not np.array_equal(smooth, plain)
    assert np.abs(smooth.astype(int) - plain).mean() < 10  # only the edges


def test_with_everything_on_it_is_gymnasiums_picture(draws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", draws)  # by itself, gymnasium takes one that needs a screen
    env: Any = gym.make("Pusher-v5", render_mode="rgb_array", width=64, height=64).unwrapped
    env.reset(seed=0)
    theirs = env.render()
    view = {
        name: getattr(env.mujoco_renderer.viewer.cam, name)
        for name in ("lookat", "distance", "azimuth", "elevation")
    }
    ours = Camera(env.model, view=view, shadows=True, reflections=True, samples=4)
    np.testing.assert_array_equal(ours.draw(env.data), theirs)
    env.close()


def test_a_camera_is_used_where_it_was_made(draws: str, scene: tuple[Any, Any]) -> None:
    model, data = scene
    camera, errors = Camera(model), []

    def elsewhere() -> None:
        try:
            camera.draw(data)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors and "in the thread" in errors[0]
    camera.draw(data)
    camera.close()
    camera.close()
    with pytest.raises(RuntimeError, match="until it is closed"):
        camera.draw(data)


def test_workers_draw_what_one_process_draws(draws: str) -> None:
    alone = dict(collect("Reacher-v5", 3, 4, seed=1))
    for index, episode in collect("Reacher-v5", 3, 4, seed=1, workers=2):
        for name, array in episode.items():
            np.testing.assert_array_equal(array, alone[index][name])
