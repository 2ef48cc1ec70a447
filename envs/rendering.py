"""Pictures of MuJoCo models without a screen: which OpenGL this machine has, and a camera that draws fast.

Whether EGL or OSMesa works is found out by drawing a picture in another process, because a driver that is missing
or broken may raise anything, abort the process or hang. MUJOCO_GL is never set: with a library that is not there,
`import mujoco` itself fails. `python -m envs.rendering egl` is the probe.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

#: What installs a backend of OpenGL on Debian and Ubuntu; no graphics card is needed.
INSTALL = {"egl": "apt install libegl1 libgl1-mesa-dri", "osmesa": "apt install libosmesa6"}

# Processes that are started by this one need not look again.
_INHERITED = "WORLDMODEL_GL"
_OFF = ("disable", "disabled", "off", "false", "0")
_ON = ("", "enable", "enabled", "on", "true", "1")
_WINDOW = ("glx", "wgl", "glfw")

_BOX = """<mujoco><worldbody>
  <light pos="0 0 3"/><geom type="box" size="1 1 1" rgba="1 0 0 1"/><camera pos="0 0 5"/>
</worldbody></mujoco>"""


class NoOpenGL(
    OSError, ValueError
):  # like io.UnsupportedOperation: the machine's fault, and a bad choice of world
    """This machine cannot draw pictures of MuJoCo models; the message says what to install."""


def backends() -> tuple[str, ...]:
    """The backends of OpenGL to try on this system, best first; the one of MUJOCO_GL where it names one."""
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in _OFF:
        return ()
    if wanted in _WINDOW:
        return ("glfw",)
    if wanted not in _ON:
        return (wanted,)
    return {"linux": ("egl", "osmesa"), "darwin": ("cgl",)}.get(sys.platform, ("glfw",))


def probe(gl: str, timeout: float = 60.0) -> dict[str, Any]:
    """Draw one picture in a process of its own.

    Args:
        gl: a backend, such as "egl".
        timeout: seconds.

    Returns:
        `{"milliseconds": of the picture, "renderer": the driver's name}`, or `{"error": one line}`.
    """
    command = [sys.executable, "-m", "envs.rendering", gl]
    # Here, so that a directory of the user's cannot stand in for this package.
    here = Path(__file__).resolve().parent.parent
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, cwd=here, env=environ, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no picture within {timeout:g} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {
            "error": f"the process ended with code {done.returncode}: {said[-1] if said else 'no message'}"
        }
    return found


def find_gl() -> str:
    """The first backend that draws: "egl", "osmesa", "cgl" or "glfw". Looked for once per process.

    Processes that this one starts are told by the environment variable WORLDMODEL_GL.

    Raises:
        NoOpenGL: none does.
    """
    choices = backends()
    inherited = os.environ.get(_INHERITED)
    gl, failures = (inherited, "") if inherited in choices else _find(choices)
    if gl is None:
        raise NoOpenGL(failures)
    os.environ[_INHERITED] = gl
    return gl


@lru_cache
def _find(choices: tuple[str, ...]) -> tuple[str | None, str]:
    """The backend, or None and what is to be done."""
    if not choices:
        off = os.environ.get("MUJOCO_GL")
        return None, f"pictures of this world need OpenGL, which MUJOCO_GL={off} turns off; unset MUJOCO_GL"
    failures = []
    for gl in choices:
        found = probe(gl)
        if "error" not in found:
            return gl, ""
        failures.append(f"{gl}: {found['error']}")
    fix = " or ".join(INSTALL[gl] for gl in choices if gl in INSTALL) or "install OpenGL"
    if os.environ.get("MUJOCO_GL", "") not in _ON:
        fix += ", or unset MUJOCO_GL"
    return None, (
        f"pictures of this world need OpenGL, and this machine has none that works: {fix} "
        f"(no graphics card is needed; {'; '.join(failures)})"
    )


class Camera:
    """Draws states of one MuJoCo model, without a window.

    Shadows, reflections and anti-aliasing are off: on a CPU they take most of the time (see docs/rendering.md).
    The same state gives the same picture, bit for bit, on the same driver.

    Args:
        model: the model; it is the same afterwards.
        size: height and width of the picture in pixels.
        camera: name or number of a camera of the model; None for a free camera.
        view: where a free camera stands: `distance`, `azimuth`, `elevation`, `lookat` and the other attributes
            of MuJoCo's MjvCamera. What is not given is MuJoCo's own choice for this model.
        shadows: draw shadows.
        reflections: draw reflections.
        samples: samples per pixel for anti-aliasing; gymnasium takes 4.
        gl: backend of OpenGL; by default `find_gl()`.

    Raises:
        NoOpenGL: this machine cannot draw.
        ValueError: there is no such camera, or a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        size: int = 64,
        camera: str | int | None = None,
        view: Mapping[str, Any] | None = None,
        *,
        shadows: bool = False,
        reflections: bool = False,
        samples: int = 0,
        gl: str | None = None,
    ) -> None:
        if size < 1 or samples < 0:
            raise ValueError(f"a camera needs size >= 1 and samples >= 0, not size={size}, samples={samples}")
        self.model, self.size = model, size
        self._view = _find_camera(model, camera, view)
        self._options = mujoco.MjvOption()
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._gl, self._context = _open_context(model, size, samples, 1 if shadows else 0, gl or find_gl())
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflections
        self._owner = _here()

    def draw(self, data: Any) -> np.ndarray:
        """The picture (size, size, 3) uint8 of an MjData, whose positions must be computed (`mj_fwdPosition`).

        Raises:
            RuntimeError: called from another thread or a forked process, where OpenGL would crash or hang.
        """
        if self._context is None or self._owner != _here():
            raise RuntimeError(
                "a camera draws in the thread and process that made it, until it is closed; make one world for "
                "each thread, and start worker processes by spawn"
            )
        self._gl.make_current()
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, data, self._options, None, self._view, every, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        picture = np.empty((self.size, self.size, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._rectangle, self._context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL begins at the bottom

    def close(self) -> None:
        """Give memory and context back; once is enough."""
        if self._context is not None and self._owner == _here():
            self._gl.make_current()
            self._context.free()
            self._gl.free()
        self._context = None

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None and not sys.is_finalizing():
            self.close()


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _find_camera(model: Any, camera: str | int | None, view: Mapping[str, Any] | None) -> Any:
    found = mujoco.MjvCamera()
    if camera is None:
        mujoco.mjv_defaultFreeCamera(model, found)
        for name, value in (view or {}).items():
            if isinstance(getattr(found, name), np.ndarray):
                getattr(found, name)[:] = value
            else:
                setattr(found, name, value)
        return found
    names = [model.camera(i).name for i in range(model.ncam)]
    index = names.index(camera) if camera in names else camera
    if not isinstance(index, int) or not 0 <= index < model.ncam:
        known = ", ".join(names) or "none: leave camera out for a free one"
        raise ValueError(f"the model has no camera {camera!r}; its cameras are {known}")
    found.type, found.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, index
    return found


def _open_context(model: Any, size: int, samples: int, shadows: int, gl: str) -> tuple[Any, Any]:
    """An OpenGL context, and MuJoCo's in it with buffers of just the size that is needed."""
    # Not mujoco.GLContext: which one that is was decided when mujoco was imported.
    context = importlib.import_module(f"mujoco.{gl}").GLContext(size, size)
    context.make_current()
    quality, visual = model.vis.quality, model.vis.global_
    before = quality.offsamples, quality.shadowsize, visual.offwidth, visual.offheight
    try:
        quality.offsamples, visual.offwidth, visual.offheight = samples, size, size
        if not shadows:
            quality.shadowsize = 0
        ours = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
    finally:
        quality.offsamples, quality.shadowsize, visual.offwidth, visual.offheight = before
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, ours)
    return context, ours


def draw_a_box(gl: str) -> dict[str, Any]:
    """What the probe finds out: whether a picture can be drawn here, that it is not black, and by which driver."""
    model = mujoco.MjModel.from_xml_string(_BOX)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = Camera(model, camera=0, gl=gl)
    start = time.perf_counter()
    picture = camera.draw(data)
    seconds = time.perf_counter() - start
    if not picture.any():
        raise RuntimeError("the picture is black")
    from OpenGL import GL

    driver = GL.glGetString(GL.GL_RENDERER)
    return {"milliseconds": round(1000 * seconds, 1), "renderer": driver.decode() if driver else "unknown"}


def _main(gl: str) -> None:
    try:
        found = draw_a_box(gl)
    except Exception as error:  # a probe finds out whether things work: any failure is its answer
        found = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(found), flush=True)
    os._exit(0)  # a driver may crash when Python tidies up; the answer has been given


if __name__ == "__main__":
    _main(sys.argv[1])
