"""World-model objectives on this process's share of a batch; run by one process or by several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig
from worldmodel.nn.global_batch import GlobalBatchNorm1d, process_count
from worldmodel.objectives import regularizers
from worldmodel.objectives.base import Batch
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.training.distributed import current_world, rank_indices
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step
from worldmodel.training.parallel import spread

TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigreg": lambda z: regularizers.sigreg(z.flatten(0, 1), torch.Generator().manual_seed(5), 16),
    "sigreg_per_step": lambda z: regularizers.sigreg(z.transpose(0, 1), torch.Generator().manual_seed(5), 16),
    "variance": lambda z: regularizers.variance_loss(z.transpose(0, 1)),
    "covariance": lambda z: regularizers.covariance_loss(z.transpose(0, 1)),
    "time_similarity": regularizers.time_similarity_loss,
    "time_variance": regularizers.time_variance_loss,
    "straightening": regularizers.straightening_loss,
}


def share(whole: Tensor) -> Tensor:
    """This process's rows."""
    return whole[rank_indices(0, len(whole)).start :][: len(whole) // current_world().size]


def average(value: Tensor) -> list[float]:
    """The mean over processes, as data-parallel training makes it of gradients."""
    value = value.detach().clone()
    if process_count() > 1:
        dist.all_reduce(value)
    return (value / process_count()).flatten().tolist()


def term(name: str) -> list[float]:
    """A term's loss, and the gradient of weights that every process has."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 4, 5, generator=generator) + torch.linspace(-1, 1, 12)[:, None, None]
    weights = (0.5 * torch.randn(5, 6, generator=generator)).requires_grad_()
    loss = TERMS[name](share(inputs) @ weights)
    loss.backward()
    assert weights.grad is not None
    return [*average(loss), *average(weights.grad)]


def norm_layer(affine: bool, length: int) -> list[float]:
    """Gradients, outputs' mean square and running statistics of a batch norm, after two calls and an evaluation."""
    generator = torch.Generator().manual_seed(0)
    norm = GlobalBatchNorm1d(5, affine=affine)
    inputs = torch.randn(12, 5, length, generator=generator) * 3 + 1
    inputs = inputs[..., 0] if length == 1 else inputs
    weights = torch.randn(inputs.shape[1:], generator=generator).requires_grad_()
    for scale in (1.0, 2.0):
        (norm(share(inputs) * weights * scale).square() * share(inputs)).mean().backward()
    assert weights.grad is not None and norm.running_mean is not None and norm.running_var is not None
    found = average(weights.grad) + norm.running_mean.tolist() + norm.running_var.tolist()
    if affine:
        assert norm.weight.grad is not None and norm.bias.grad is not None
        found += average(norm.weight.grad) + average(norm.bias.grad)
    assert int(norm.num_batches_tracked) == 2
    return found + average(norm.eval()(share(inputs)).square().mean())


def make_objective(settings: dict[str, Any], norm: str = "global") -> LatentDynamics:
    """The objective of a tiny world model, the same in every process."""
    torch.manual_seed(0)
    encoder = VideoEncoderConfig(image_size=32, frames=4, patch_size=8, tubelet=2, width=24, depth=1, heads=2)
    head, dynamics = TokenHeadConfig(per_token=4, hidden=16, width=8), MLPDynamicsConfig(hidden=16)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.5, 0.5])
    model = WorldModel(WorldModelConfig(encoder, head, dynamics, spec, "fake"))
    assert isinstance(model.head.norm, GlobalBatchNorm1d)
    if norm == "own":
        model.head.norm = nn.BatchNorm1d(8, affine=False)
    return LatentDynamics(model, LatentDynamicsConfig(**settings), seed=3)


def make_batch(step: int, size: int = 8, steps: int = 4) -> Batch:
    """This process's part of a batch of windows of noise."""
    generator = torch.Generator().manual_seed(step)
    frames = torch.randint(0, 256, (size, steps + 1, 3, 32, 32), generator=generator, dtype=torch.uint8)
    actions = torch.rand(size, steps, 1, 2, generator=generator) * 2 - 1
    ids = rank_indices(step, size)
    return Batch(step, ids, (share(frames),), actions=share(actions))


def objective(settings: dict[str, Any], norm: str = "global") -> list[float]:
    """The loss, and all gradients as DDP leaves them."""
    replica = spread(make_objective(settings, norm), "ddp")
    loss = replica.entry(make_batch(0))["loss"]
    loss.backward()
    gradients = [p.grad for p in replica.objective.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [*average(loss), *torch.cat([g.flatten() for g in gradients if g is not None]).tolist()]


def training(settings: dict[str, Any], strategy: str) -> list[float]:
    """Losses of five training steps."""
    replica = spread(make_objective(settings), strategy)
    config = LoopConfig(steps=5, batch_size=8, lr=1e-2, precision="fp32")
    optimizer = make_optimizer(replica.objective, config)
    own = [train_step(replica, optimizer, make_batch(step), config)["loss"] for step in range(5)]
    return average(torch.tensor(own))
