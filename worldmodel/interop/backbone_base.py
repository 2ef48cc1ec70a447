"""What a backbone's library has to offer, and what is common to reading directories of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from worldmodel.atomic import read_json
from worldmodel.interop.hf_files import INDEX, WEIGHTS
from worldmodel.interop.tensors import LoadReport

#: First or second part of the names of tensors that frame features do not need.
HEADS = frozenset(
    {
        "classifier",
        "cls_classifier",
        "distillation_classifier",
        "pooler",
        "head",
        "head_dist",
        "fc",
        "lm_head",
        "decoder",
        "text_model",
        "text_projection",
        "visual_projection",
        "logit_scale",
        "logit_bias",
    }
)


@dataclass(frozen=True)
class Directory:
    """A model read from a directory: what a BackboneConfig needs, the network, and how the tensors fitted."""

    architecture: str
    settings: dict[str, Any]
    pixels: dict[str, Any]
    network: nn.Module
    report: LoadReport


class Library(Protocol):
    """What a FrameBackbone asks of a library."""

    def build(self, architecture: str, settings: Mapping[str, Any]) -> nn.Module:
        """The network without heads, with random weights.

        Raises:
            ValueError: The library is missing, or has no such architecture or setting.
        """

    def features(self, network: nn.Module, pixels: Tensor, layer: int) -> tuple[Tensor, int]:
        """Tokens ``(B, L, D)`` with how many of them precede the patches, or a map ``(B, D, h, w)`` and 0."""

    def pretraining_size(self, network: nn.Module) -> tuple[int, int]:
        """Height and width that the network was made for."""

    def patch(self, network: nn.Module) -> tuple[int, int] | None:
        """Height and width of a patch, where the tokens are one for each patch."""

    def has_class_token(self, network: nn.Module) -> bool:
        """Whether the first token stands for the whole image."""

    def read(self, folder: Path, config: Mapping[str, Any]) -> Directory:
        """The model in ``folder``, whose config.json holds ``config``; see ``open_backbone`` for the errors."""


def check_weights(folder: Path) -> None:
    """Raise OSError or ValueError unless all weights are there as safetensors, in the folder itself."""
    if (folder / INDEX).is_file():
        for name in sorted(set(read_json(folder / INDEX).get("weight_map", {}).values())):
            if Path(name).name != name:
                raise ValueError(f"{folder / INDEX} names {name}, which is not a file of that directory")
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} lacks {name}, which its index names; copy it again")
    elif not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
        if pickled:
            raise ValueError(
                f"{folder} has pickled weights ({pickled[0]}), which are not read; where you trust them, make "
                f"{WEIGHTS} of them: safetensors.torch.save_file(torch.load('{pickled[0]}', weights_only=True), "
                f"'{WEIGHTS}', metadata={{'format': 'pt'}})"
            )
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}; give the directory of a whole model")


def fit_report(
    folder: Path, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]
) -> LoadReport:
    heads = {name for name in unexpected if HEADS & set(name.split(".")[:2])}
    return LoadReport(
        str(folder),
        tuple(sorted(missing)),
        tuple(sorted(set(unexpected) - heads)),
        tuple(sorted(misshapen)),
        tuple(sorted(heads)),
    )


def pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return int(height), int(width)
