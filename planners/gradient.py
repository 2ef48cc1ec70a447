"""Planning by gradient descent through the cost, from several plans at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.noise import colour
from planners.search import Search, SearchPlanner, Strategy, check_counts, check_range, finite_mean

OPTIMIZERS = ("adam", "sgd")


@dataclass
class GradientConfig:
    """Settings of `Gradient`.

    Raises:
        ValueError: a value is out of its range, or the optimizer is unknown.
    """

    samples: int = 16  # S, plans that descend side by side, from different starts
    iterations: int = 30  # gradient steps per decision
    horizon: int = 12  # L, model steps
    action_block: int = 1  # K, environment actions per model step
    optimizer: str = "adam"  # adam, or sgd, whose steps are as large as the cost's gradient
    lr: float = 0.1  # step size; the unit of an action is its initial std
    momentum: float = 0.0  # sgd: share of the last step that the next one repeats
    spread: float = 1.0  # spread of the starts, as a fraction of the initial std
    colour: float = (
        2.0  # exponent of the spectrum 1 / f**colour of the starts; 0: white, larger: smoother plans
    )

    def __post_init__(self) -> None:
        check_counts(self, "samples", "iterations", "horizon", "action_block")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"GradientConfig.optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}"
            )
        check_range(self, "lr", 0, above=True)
        check_range(self, "momentum", 0, 0.999)
        check_range(self, "spread", 0)
        check_range(self, "colour", 0, 10)


class Gradient(SearchPlanner):
    """Adam or SGD on the actions themselves, from S starts; after each step they are put back inside the bounds.

    The starts are the initial mean, the plans to start from, and draws around them as a sampling planner makes them.
    The optimizer works on actions in units of their initial std, so that one step size fits all dimensions. A plan
    whose cost or gradient is not finite is given up and begins anew. Descent finds the valley that it starts in: for
    costs with many, `Refine` lets a sampling planner choose first.

    Needs a cost made of torch operations; a model's parameters get no gradient.

    Raises:
        ValueError: besides `Planner.plan`, the cost lets no gradient through.
    """

    config: GradientConfig

    def strategy(self, search: Search) -> Strategy:
        return _Gradient(self.config, search)


class _Gradient:
    def __init__(self, config: GradientConfig, search: Search) -> None:
        self.config, self.search = config, search
        self.colour = colour(config.horizon * config.action_block, config.colour) if config.colour else None
        self.unit = torch.where(search.std > 0, search.std, 1)[:, None]
        self.plans = self._draw()
        self.plans[:, 0] = search.mean
        self.plans = search.with_starts(self.plans)
        self.scaled = self.plans / self.unit  # what the descent moves
        self.std = self.plans.std(dim=1, correction=0)
        self.descent = Descent(config.optimizer, config.lr, config.momentum, self.scaled)

    def _draw(self) -> Tensor:
        noise = self.search.noise(self.config.samples, self.colour)
        spread = self.config.spread * self.search.std
        return self.search.clip(self.search.mean[:, None] + spread[:, None] * noise)

    def ask(self, iteration: int) -> Tensor:
        return self.plans.requires_grad_()

    def tell(self, plans: Tensor, costs: Tensor) -> Tensor:
        if not costs.requires_grad:
            raise ValueError(
                "the cost lets no gradient through; compute it with torch operations outside no_grad and "
                "inference_mode, or use a planner that needs no gradient, such as CEM"
            )
        with torch.enable_grad():
            total = costs.sum()  # infinite or not: the gradient of each is its own
        # Not backward(), which would leave gradients in the parameters of the cost's model.
        (gradient,) = torch.autograd.grad(total, plans)
        costs = costs.detach()
        failed = (costs.isinf() | ~gradient.isfinite().flatten(2).all(dim=2))[..., None, None, None]
        # The chain rule for actions in units of std; dimensions without spread stay as they are.
        step = self.descent.step(torch.where(failed, 0, gradient * self.search.std[:, None]))
        self.descent.forget(failed)
        moved = self.search.clip((self.scaled - step) * self.unit)
        self.plans = torch.where(failed, self._draw(), moved)  # drawn for all, or neighbours would matter
        self.scaled = self.plans / self.unit
        self.std = self.plans.std(dim=1, correction=0)
        return finite_mean(costs)

    def last(self) -> Tensor:
        return self.plans

    def elites(self) -> None:
        return None


class Descent:
    """Adam (Kingma & Ba, 1412.6980) or SGD with momentum, for candidates that can begin anew one by one.

    `torch.optim` counts steps for all together, and imports torch's compiler at its first: seconds, which a decision
    with a deadline does not have.

    Args:
        optimizer: adam or sgd.
        lr: step size.
        momentum: of sgd.
        like: the candidates, `(E, S, L, K, A)`.
    """

    def __init__(self, optimizer: str, lr: float, momentum: float, like: Tensor) -> None:
        self.adam, self.lr = optimizer == "adam", lr
        self.betas = (0.9, 0.999) if self.adam else (momentum, 0.0)
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.count = torch.zeros_like(like[:, :, :1, :1, :1])

    def step(self, gradient: Tensor) -> Tensor:
        """What to subtract from the candidates."""
        fast, slow = self.betas
        if not self.adam:
            self.first = fast * self.first + gradient
            return self.lr * self.first
        self.count = self.count + 1
        self.first = fast * self.first + (1 - fast) * gradient
        self.second = slow * self.second + (1 - slow) * gradient.square()
        scale = (self.second / (1 - slow**self.count)).sqrt() + 1e-8
        return self.lr * (self.first / (1 - fast**self.count)) / scale

    def forget(self, which: Tensor) -> None:
        """Candidates `which (E, S, 1, 1, 1)` begin anew."""
        for state in (self.first, self.second, self.count):
            state.masked_fill_(which, 0)
