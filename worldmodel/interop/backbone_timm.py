"""Image models of timm, for :mod:`worldmodel.interop.backbones`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worldmodel.interop.backbone_base import Directory, check_weights, fit_report, pair
from worldmodel.interop.hf_files import WEIGHTS

#: What makes timm fetch or unpickle something, or adds a head.
REFUSED = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "features_only",
        "in_chans",
        "num_classes",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
    }
)


class Timm:
    """Models of timm, by their names."""

    def build(self, architecture: str, settings: Mapping[str, Any]) -> nn.Module:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        timm = _timm()
        # Names with a colon are addresses of weights.
        if ":" in architecture or not timm.is_model(architecture):
            raise ValueError(f"encoder.architecture: timm {timm.__version__} has no model {architecture!r}")
        wrong = sorted(REFUSED & set(settings))
        if wrong:
            raise ValueError(f"encoder.settings: {', '.join(wrong)} cannot be set here")
        try:
            return timm.create_model(architecture, pretrained=False, num_classes=0, **settings)
        except TypeError as error:
            raise ValueError(f"encoder.settings of {architecture}: {error}") from error

    def features(self, network: nn.Module, pixels: Tensor, layer: int) -> tuple[Tensor, int]:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        model: Any = network
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        if layer == -1:
            found = model.forward_features(pixels)
            if found.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC":
                found = found.permute(0, 3, 1, 2)
            return found, 0 if found.ndim == 4 else prefix
        if not hasattr(model, "forward_intermediates"):
            raise ValueError(f"layer={layer}: timm gives only the last layer (-1) of this model")
        extra = {"return_prefix_tokens": True} if prefix else {}
        try:
            (found,) = model.forward_intermediates(
                pixels, indices=[layer], intermediates_only=True, output_fmt="NCHW", **extra
            )
        except (AssertionError, IndexError) as error:
            raise ValueError(f"layer={layer}: this backbone has no such layer ({error})") from error
        if not prefix:
            return found, 0
        patches, before = found
        return torch.cat([before, patches.flatten(2).transpose(1, 2)], dim=1), prefix

    def pretraining_size(self, network: nn.Module) -> tuple[int, int]:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        made_for = getattr(getattr(network, "patch_embed", None), "img_size", None)
        config: Any = getattr(network, "pretrained_cfg", {})
        return pair(made_for or config.get("input_size", (3, 224, 224))[-2:])

    def patch(self, network: nn.Module) -> tuple[int, int] | None:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        if not hasattr(network, "num_prefix_tokens"):
            return None
        size = getattr(getattr(network, "patch_embed", None), "patch_size", None)
        return pair(size) if size else None

    def has_class_token(self, network: nn.Module) -> bool:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        return getattr(network, "cls_token", None) is not None

    def read(self, folder: Path, config: Mapping[str, Any]) -> Directory:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        architecture = str(config["architecture"])
        about = config.get("pretrained_cfg") or {}
        settings = dict(config.get("model_args") or {})
        if about.get("fixed_input_size") and about.get("input_size"):
            settings.setdefault("img_size", list(about["input_size"][-2:]))
        if about.get("global_pool") is not None:
            settings.setdefault("global_pool", about["global_pool"])
        settings = {key: value for key, value in settings.items() if key not in ("num_classes", "in_chans")}
        pixels = {"pixel_mean": about.get("mean"), "pixel_std": about.get("std")}
        if str(about.get("interpolation")) in ("bilinear", "bicubic"):
            pixels["interpolation"] = about["interpolation"]
        network = self.build(architecture, settings)
        if "dynamic_img_size" in inspect.signature(type(network).__init__).parameters:
            settings.setdefault("dynamic_img_size", True)
            network = self.build(architecture, settings)
        check_weights(folder)
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS} is damaged ({error}); copy it again") from error
        own = network.state_dict()
        misshapen = [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ]
        report = fit_report(folder, own.keys() - tensors.keys(), tensors.keys() - own.keys(), misshapen)
        if report.fits:
            network.load_state_dict({name: tensors[name] for name in own})
        return Directory(architecture, settings, pixels, network, report)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            "encoder.library=timm needs timm; `pip install 'worldmodel[timm]'` installs it"
        ) from error
    except RuntimeError as error:  # torchvision's compiled part was made for another build of torch
        raise ValueError(
            f"timm cannot be imported ({error}); install the torchvision that belongs to torch {torch.__version__}"
        ) from error
    return timm
