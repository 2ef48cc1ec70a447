"""The arm of `envs.reacher` with the tolerance of published results."""

from __future__ import annotations

from envs.reacher import PUBLISHED_TOLERANCE, Reacher


class ReacherPublished(Reacher):
    """`Reacher` whose goals are reached when each joint is within 0.05 rad, as in LeWM (arXiv:2603.19312).

    Poses that a picture of 64 x 64 pixels hardly tells apart count as different here.

    Args:
        render_mode: None or "rgb_array"; the observation is the picture in either case.
        size: height and width of the picture in pixels; 64 unless a larger one is wanted.
        tolerance: in rad.
    """

    def __init__(
        self, render_mode: str | None = None, size: int = 64, tolerance: float = PUBLISHED_TOLERANCE
    ) -> None:
        super().__init__(render_mode, size, tolerance)
