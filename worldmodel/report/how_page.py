"""The report's part on how it works: from video to plans in four steps, with pictures."""

from __future__ import annotations

from collections.abc import Callable

from worldmodel.data.episodes import EpisodeStore
from worldmodel.report import learning_page as learning
from worldmodel.report.artefacts import DemoRun
from worldmodel.report.markup import Html, div, el, join, p
from worldmodel.report.parts import attempt, remark

#: Positions of the episodes in a store that were trained on, and of those that were held out.
Split = Callable[[EpisodeStore], tuple[range, range]]

_COLLECT = """
Random, persistent actions push a ball through two rooms. Only pixels and actions are kept for learning; there are no
rewards and no goals.
"""
_PRETRAIN = """
V-JEPA hides the same places in every frame of a clip and predicts their features from the visible ones. The target
features come from a slowly following copy of the encoder that sees the full clip.
"""
_FEATURES = """
Each patch of a frame has a feature vector. Here its first three principal components are shown as red, green and blue,
after the mean of each place is subtracted: grey is a patch as it usually looks. A patch whose colour depends on where
the ball is carries the information that a world model needs.
"""
_TRAIN = """
A predictor learns the next latent from the latent and the action. From one given frame and the actions that followed,
it imagines on its own. To make its latents visible, each is shown as the real frame, out of training episodes, whose
latent is nearest.
"""
_OPEN_LOOP = """
How far imagined latents are from the real ones, against predicting that nothing moves. Each model has its own latents,
so compare a curve with its own dashed line, and not with other plots.
"""
_PLAN = """
The goal picture is encoded as well. At every step the agent tries many action sequences in its imagination, keeps those
that come nearest to the goal's latent, refines them (cross-entropy method), executes the first action, and plans again.
The filmstrips below show the result.
"""


def how_it_works(run: DemoRun, split: Split) -> Html:
    """The steps; a picture whose stage is missing is replaced by a remark."""

    def picture(what: str, build: Callable[[EpisodeStore, range, range], Html]) -> Html:
        def draw() -> Html:
            store = run.store()
            if store is None:
                return remark(f"Left out: {what}, because there are no data yet.")
            return build(store, *split(store))

        return attempt(what, draw)

    exploring = picture("the data", lambda store, train, _: learning.data_strip(store, train))
    mask = picture("the mask", lambda store, _, held_out: learning.mask_strip(run, store, held_out))
    features = picture(
        "the features", lambda store, _, held_out: learning.feature_strip(run, store, held_out)
    )
    imagined = picture("imagined episodes", lambda *args: learning.imagination_strip(run, *args))
    errors = attempt("the open-loop error", lambda: learning.open_loop_plot(run))
    return join(
        [
            _step("1. Collect: a ball explores", _COLLECT, exploring),
            _step("2. Pretrain: predict what is hidden", _PRETRAIN, mask),
            _step("What the encoder tells apart", _FEATURES, features),
            _step("3. Train: imagine what actions do", _TRAIN, imagined, _text(_OPEN_LOOP), errors),
            _step("4. Plan: search for actions whose imagined end looks like the goal", _PLAN),
        ]
    )


def _step(title: str, text: str, *pictures: Html) -> Html:
    return div("step", el("h3", None, title), _text(text), *pictures)


def _text(text: str) -> Html:
    return p(" ".join(text.split()))
