"""What a world model is made of before it is trained: the encoder's weights, sizes, statistics, checks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.common import split_episodes
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.latents import StepEncoder, encode_share, join_shares
from worldmodel.data.normalisers import compute
from worldmodel.data.windows import Windows
from worldmodel.models.files import directory_hash, read_config
from worldmodel.models.heads import Head, PatchHeadConfig
from worldmodel.models.pretrained import load_encoder
from worldmodel.models.world_model import ActionSpec, ProprioSpec, WorldModel, WorldModelConfig
from worldmodel.training.distributed import current_world

if TYPE_CHECKING:
    from experiments.train import Config

SAMPLED_FRAMES = 4096
_SAMPLED_BYTES = 2**30


def build(config: Config, store: EpisodeStore, train: range) -> WorldModel:
    """The world model before training, with the weights that its variant begins with.

    Raises:
        ValueError: The data do not fit the encoder, lack something, or were seen in its pretraining; or settings do not
            fit each other.
    """
    config.objective.span(
        config.window, config.seed, 0
    )  # says now if the window is too short for the rollout
    size: Any = config.encoder
    weights = None
    if config.encoder_from:
        check_held_out(config, store)
        pretrained = load_encoder(config.encoder_from, config.encoder_weights)
        size, weights = pretrained.config, pretrained.state_dict()
        check_frames(store, size.image_size, config.encoder_from)
    elif config.backbone_from:
        from worldmodel.interop.backbones import open_backbone

        pixels = config.backbone_size or store[0]["frames"].shape[-2]
        backbone = open_backbone(config.backbone_from, config.backbone_layer, pixels, config.backbone_cls)
        size, weights = backbone.config, backbone.state_dict()
    else:
        check_frames(store, size.image_size)
    check_encoder_window(
        config.encoder_window, getattr(size, "tubelet", 0), getattr(size, "frames", config.encoder_window)
    )
    specs = action_spec(store, train, config.action_block), proprio_spec(store, config.proprio)
    torch.manual_seed(config.seed)
    model = WorldModel(
        WorldModelConfig(
            size, config.head, config.dynamics, specs[0], str(store.meta.get("env_id") or ""),
            float(store.meta.get("fps") or 0), specs[1], config.encoder_window, config.members,
        )
    )  # fmt: skip
    if weights is not None:
        model.encoder.load_state_dict(weights)
    model.dynamics.action_mean.copy_(torch.tensor(specs[0].mean))
    model.dynamics.action_std.copy_(_scale(specs[0].std))
    for member in getattr(model.dynamics, "members", []):
        member.action_mean.copy_(model.dynamics.action_mean)
        member.action_std.copy_(model.dynamics.action_std)
    if model.proprio is not None:
        found = compute(store, train, ("proprio",))["proprio"]
        model.proprio.mean.copy_(torch.tensor(found.mean))
        model.proprio.std.copy_(_scale(found.std))
    return model


def chosen_episodes(store: EpisodeStore, held_out: float, count: int) -> tuple[EpisodeStore, range, range]:
    """The episodes that a training reads: ``count`` to train on, the first ones, and those held out; 0: all.

    Returns:
        The store of these episodes alone, and the positions in it to train on and held out. The former are the same in
        the whole store.

    Raises:
        ValueError: There are fewer.
    """
    train, unseen = split_episodes(store, held_out)
    if not count:
        return store, train, unseen
    if count > len(train):
        raise ValueError(
            f"episodes={count}, but {store.path} has {len(train)} beside the {len(unseen)} held out; choose fewer or "
            "collect more"
        )
    part = store.part([*train[:count], *unseen])
    return part, range(count), range(count, len(part))


def _scale(std: list[float]) -> torch.Tensor:
    """What never changed in the data is left as it is, rather than blown up when it does."""
    found = torch.tensor(std)
    return torch.where(found < 1e-6, torch.ones_like(found), found)


def cache_together(
    encoder: StepEncoder, store: EpisodeStore, path: Path, name: str, window: int, stride: int, dtype: str
) -> None:
    """Encode every frame once, each process its share of the episodes; see ``worldmodel.data.latents``."""
    world = current_world()
    share = (world.rank, world.size)
    world.together(encode_share, encoder, store, path, name, share, window, stride, dtype)
    world.from_first(lambda: len(join_shares(path, store)))


def check_windows(store: EpisodeStore, episodes: range, steps: int, stride: int, typed: str) -> None:
    """See that there are windows of so many model steps, of ``stride`` steps of the data each.

    Args:
        typed: The settings that ask for them, as the user types them.

    Raises:
        ValueError: All episodes are too short.
    """
    longest = int(store.steps[episodes.start : episodes.stop].max())
    if longest < steps * stride:
        raise ValueError(
            f"{store.path}: no episode has the {steps * stride} steps of {typed} (the longest for training has "
            f"{longest}); choose shorter windows, or collect longer episodes"
        )


def check_encoder_window(window: int, tubelet: int, longest: int) -> None:
    """See that an encoder can look at so many frames per step.

    Args:
        window: The setting ``encoder_window``.
        tubelet: Of the encoder; 0: it is one of single frames.
        longest: The clips' length that the encoder is made for.

    Raises:
        ValueError: It cannot.
    """
    if window > 1 and not tubelet:
        raise ValueError(f"encoder_window={window}, but a backbone sees one frame at a time; leave it out")
    if window > 1 and window % tubelet:
        raise ValueError(
            f"encoder_window={window} must be 1 or a multiple of the encoder's tubelet, {tubelet}"
        )
    if window > longest:
        raise ValueError(
            f"encoder_window={window}, but the encoder sees {longest} frames at most; set it lower"
        )


def action_spec(store: EpisodeStore, train: range, block: int) -> ActionSpec:
    """The data's actions: bounds, statistics over the training episodes, names.

    Raises:
        ValueError: The data do not say the bounds, or these are of another number of dimensions than the actions.
    """
    per_step, dim = store[0]["actions"].shape[1:]
    for key in ("action_low", "action_high"):
        bounds = store.meta.get(key)
        if bounds is None:
            raise ValueError(
                f"{store.path}/meta.json has no {key}, which a planner must keep to; convert the data again with the "
                f"bounds of its {dim} actions"
            )
        if len(bounds) != dim:
            raise ValueError(
                f"{store.path}: {key} in meta.json has {len(bounds)} values, actions of episode "
                f"{store.entries[0]['index']} have {dim} dimensions; collect or convert the data again"
            )
    found = compute(store, train, ("actions",))["actions"]
    return ActionSpec(
        low=list(store.meta["action_low"]),
        high=list(store.meta["action_high"]),
        per_step=per_step * block,
        mean=found.mean,
        std=found.std,
        names=list(store.meta.get("action_names") or []),
        units=list(store.meta.get("action_units") or []),
    )


def proprio_spec(store: EpisodeStore, wanted: bool) -> ProprioSpec:
    """The data's proprioception, if it is wanted.

    Raises:
        ValueError: It is, and there is none.
    """
    if not wanted:
        return ProprioSpec()
    if "proprio" not in store[0]:
        arrays = ", ".join(sorted(store[0]))
        raise ValueError(f"proprio=true, but {store.path} has none, only {arrays}; set proprio=false")
    return ProprioSpec(
        store[0]["proprio"].shape[1],
        list(store.meta.get("proprio_names") or []),
        list(store.meta.get("proprio_units") or []),
    )


def check_frames(store: EpisodeStore, size: int, source: str = "") -> None:
    """See that the encoder has the size of the frames; ``source`` is where it comes from, if it is not made here.

    Raises:
        ValueError: It has another.
    """
    height, width = store[0]["frames"].shape[-2:]
    if (height, width) != (size, size) and source:
        raise ValueError(
            f"frames of {store.path} have {width} x {height} pixels, {source} was trained on {size} x {size}; convert "
            f"the data: worldmodel data convert {store.path} to=... size={size}"
        )
    if (height, width) != (size, size):
        fix = f"set encoder.image_size={height}" if height == width else "convert the data to squares"
        raise ValueError(
            f"frames of {store.path} have {width} x {height} pixels, encoder.image_size={size}; {fix}"
        )


def check_held_out(config: Config, store: EpisodeStore) -> None:
    """See that what is held out here was held out in the encoder's pretraining too, if that was on the same data.

    Raises:
        ValueError: It was not.
    """
    pretraining = read_config(Path(config.encoder_from), "video_encoder")
    seen = pretraining.get("held_out")
    if pretraining.get("data") == store.hash and seen is not None and seen < config.held_out:
        raise ValueError(
            f"held_out={config.held_out}, but the encoder {config.encoder_from} was pretrained on all but {seen} of "
            f"these episodes; use held_out={seen} at most"
        )


def encoder_name(config: Config) -> str:
    """Names the weights that the encoder begins with."""
    if config.encoder_from:
        return f"{config.encoder_weights} {directory_hash(Path(config.encoder_from))}"
    if config.backbone_from:
        settings = (config.backbone_layer, config.backbone_size, config.backbone_cls)
        return f"{directory_of(config.backbone_from)} {settings}"
    return f"random weights, seed {config.seed}"


def directory_of(path: str) -> str:
    """Names a backbone's files: sha256 of its configuration and weights."""
    digest, folder = hashlib.sha256(), Path(path).expanduser()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            while chunk := content.read(2**24):
                digest.update(chunk)
    return digest.hexdigest()


def centre_head(model: WorldModel, windows: Windows) -> None:
    """Centre the head on a frozen encoder's tokens. End to end they still change, and are left as they are."""
    if type(model.head).set_statistics is Head.set_statistics:
        return  # which asks for none
    shape, dtype = windows.shape()
    largest = _SAMPLED_BYTES // (int(np.prod(shape[1:])) * dtype.itemsize)
    every = max(1, len(windows) // SAMPLED_FRAMES, -(-len(windows) // max(1, largest)))
    places = map(windows.locate, range(0, len(windows), every))
    first = [windows.store[episode][windows.array][start : start + 1] for episode, start in places]
    model.head.set_statistics(torch.from_numpy(np.concatenate(first).astype(np.float32, copy=False)))


def freeze(model: WorldModel, config: Config) -> None:
    """Leave out of training what is frozen.

    Raises:
        ValueError: Nothing of the latent would be learned, but a term that shapes it has a weight.
    """
    if config.variant != "end_to_end":
        model.encoder.requires_grad_(False)
    terms = ("sigreg", "variance", "covariance", "time_similarity", "time_variance", "straightening")
    on = [name for name in terms if getattr(config.objective, name)]
    if isinstance(config.head, PatchHeadConfig) and config.variant != "end_to_end" and on:
        raise ValueError(
            f"objective.{on[0]}={getattr(config.objective, on[0])} shapes the latent, but head=patches has nothing to "
            f"learn on a frozen encoder; set objective.{on[0]}=0"
        )
