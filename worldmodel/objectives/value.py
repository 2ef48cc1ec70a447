"""Training a value head: how many steps lie between a latent and a goal, from the same episodes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.models.value import ValueHead
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.known_latents import KnownLatents
from worldmodel.objectives.predictions import latents_of
from worldmodel.seeding import keyed_rng


@dataclass
class TemporalDistanceConfig(ObjectiveConfig):
    """Settings of the value head's training."""

    #: Which expectile of the steps that episodes took is learned: 0.5 is their mean, towards 0 it is the fewest.
    expectile: float = 0.1
    #: Share of the goals that are another sample's, taken to be one step further away than the window is long.
    other_goals: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise ValueError(f"objective.expectile={self.expectile} must be between 0 and 1")
        if not 0 <= self.other_goals < 1:
            raise ValueError(f"objective.other_goals={self.other_goals} must be at least 0 and less than 1")


class TemporalDistance(Objective):
    """Expectile regression of the steps to go, with later steps of the same window as goals.

    Goals are relabelled in hindsight (HER, 1707.01495). The steps that an episode happened to take are at least those
    of the shortest way, so a low expectile of them is learned, as GCIVL does with bootstrapped targets (OGBench,
    2410.20092). There is no bootstrapping here: nothing can diverge, and distances end just above the length of a
    window. Take long windows.

    Goals from one window are never far away, and what a head says of those that are is anything: of some goals, which
    are moments of the other sample of a pair, it learns that they are beyond the window. Where they are near after all,
    other windows show it, and the low expectile believes them.

    The world model is frozen and in evaluation mode; only the head is trained.

    Args:
        model: A trained world model, or what stands for it where its latents are cached.
        value: Predicts distances; its scale is set here.
        config: See :class:`TemporalDistanceConfig`.
        seed: Keys the choice of goals, with the samples' ids.
        window: Steps of the windows that will come.

    Raises:
        ValueError: The head predicts rewards.
    """

    def __init__(
        self,
        model: WorldModel | KnownLatents,
        value: ValueHead,
        config: TemporalDistanceConfig,
        seed: int,
        window: int,
    ) -> None:
        super().__init__()
        if value.config.target != "distance":
            raise ValueError(
                f"value.target={value.config.target!r} has no distances; set value.target=distance"
            )
        self.model = model.requires_grad_(False).eval()
        self.value, self.config, self.seed = value, config, seed
        value.set_statistics(torch.arange(window + 1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latents = self._latents(batch)
        length = latents.shape[1]
        goals = torch.stack([self._goals(sample, length) for sample in batch.ids]).to(latents.device)
        rows = torch.arange(len(latents), device=latents.device)[:, None]
        steps = goals - torch.arange(length, device=latents.device)
        if self.config.other_goals and len(latents) > 1:
            other = torch.stack([self._other(sample, length) for sample in batch.ids]).to(latents.device)
            rows = torch.where(other, self._partners(len(latents)).to(latents.device), rows)
            steps = torch.where(other, length, steps)
        predicted = self.value.normalised(latents, latents[rows, goals])
        loss = expectile_loss(predicted, self.value.normalise(steps.float()), self.config.expectile)
        return {"loss": loss, "expectile": loss.detach()}

    def train(self, mode: bool = True) -> "TemporalDistance":
        """As always, but the world model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """``distance_error``, mean absolute, in steps, over all pairs of the windows; and ``distance_correlation``."""
        latents = self._latents(batch)
        predicted = torch.stack([self.value(latents[:, :1], z[:, None]) for z in latents.unbind(1)], dim=1)
        steps = torch.arange(latents.shape[1], device=latents.device).expand(len(latents), -1).float()
        found = torch.corrcoef(torch.stack([predicted.flatten(), steps.flatten()]))[0, 1]
        return {
            "distance_error": float((predicted.flatten() - steps.flatten()).abs().mean()),
            "distance_correlation": float(found),
        }

    def _latents(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return latents_of(self.model, batch)

    def _goals(self, sample: int, length: int) -> Tensor:
        """For each step of a sample's window one step at or after it."""
        random = keyed_rng("goals", self.seed, sample)
        return torch.from_numpy(random.integers(range(length), length))

    @staticmethod
    def _partners(count: int) -> Tensor:
        """Samples in pairs ``(count, 1)``: batches of even size can be divided without another result."""
        partners = torch.arange(count) ^ 1
        partners[-1] = min(int(partners[-1]), count - 2)
        return partners[:, None]

    def _other(self, sample: int, length: int) -> Tensor:
        """For each step of a sample's window whether its goal is another sample's."""
        random = keyed_rng("other goals", self.seed, sample)
        return torch.from_numpy(random.random(length) < self.config.other_goals)


def expectile_loss(predicted: Tensor, wanted: Tensor, expectile: float) -> Tensor:
    """Asymmetric least squares (Newey & Powell 1987): half the mean square at 0.5; below, too high costs more."""
    gap = wanted.float() - predicted.float()
    weight = torch.where(gap > 0, expectile, 1 - expectile)
    return (weight * gap.square()).mean()
