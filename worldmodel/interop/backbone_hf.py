"""Image models of Hugging Face's transformers, for :mod:`worldmodel.interop.backbones`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worldmodel.atomic import read_json
from worldmodel.interop.backbone_base import Directory, check_weights, fit_report, pair

#: What config.json says of the file or of the head, not of the network.
NOT_SETTINGS = frozenset(
    {
        "architectures",
        "auto_map",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
    }
)
#: Models of images and text, of which the image part is taken.
VISION_PART = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
REFUSED = {"vit_mae": "it drops and shuffles patches at random"}


class HuggingFace:
    """Vision models of transformers, by their ``model_type``."""

    def build(self, architecture: str, settings: Mapping[str, Any]) -> nn.Module:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        transformers = _transformers()
        config = self._config(architecture, settings)
        with _quiet(transformers):
            return transformers.AutoModel.from_config(
                config, trust_remote_code=False, **self._without_pooler(config)
            )

    def features(self, network: nn.Module, pixels: Tensor, layer: int) -> tuple[Tensor, int]:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        takes = inspect.signature(network.forward).parameters
        found = network(
            pixel_values=pixels,
            **({"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}),
            **({} if layer == -1 else {"output_hidden_states": True}),
        )
        if layer == -1:
            tokens = found.last_hidden_state
        else:
            states = found.hidden_states
            if not -len(states) <= layer < len(states):
                raise ValueError(
                    f"layer={layer}: this backbone has hidden states 0 to {len(states) - 1}, or -1"
                )
            tokens = states[layer]
        return tokens, 0 if tokens.ndim == 4 else self._prefix(network)

    def pretraining_size(self, network: nn.Module) -> tuple[int, int]:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        return pair(getattr(network.config, "image_size", None) or 224)

    def patch(self, network: nn.Module) -> tuple[int, int] | None:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        config: Any = network.config
        size = None if hasattr(config, "depths") else getattr(config, "patch_size", None)
        return pair(size) if size else None

    def has_class_token(self, network: nn.Module) -> bool:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        named = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
        return bool(named & {"cls_token", "class_embedding"}) or self._type(network) == "dinov3_convnext"

    def read(self, folder: Path, config: Mapping[str, Any]) -> Directory:
        """See :class:`~worldmodel.interop.backbone_base.Library`."""
        transformers = _transformers()
        pixels = _processor(folder)
        architecture = str(config["model_type"])
        if architecture in VISION_PART:
            config, architecture = config.get("vision_config") or {}, VISION_PART[architecture]
        if "quantization_config" in config:
            raise ValueError(
                f"{folder} holds quantised weights; save the model again without quantization_config"
            )
        known = self._known(architecture, str(folder))
        settings = {key: value for key, value in config.items() if key in known}
        if "vision_use_head" in known:
            settings["vision_use_head"] = False
        check_weights(folder)
        theirs = self._config(architecture, settings)
        model_class = transformers.MODEL_MAPPING[type(theirs)]
        try:
            with _quiet(transformers):
                network, fit = model_class.from_pretrained(
                    folder, config=theirs, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                    ignore_mismatched_sizes=True, output_loading_info=True, **self._without_pooler(theirs),
                )  # fmt: skip
        except SafetensorError as error:
            raise ValueError(f"the weights in {folder} are damaged ({error}); copy them again") from error
        misshapen = [
            f"{n} {tuple(found)} instead of {tuple(want)}" for n, found, want in fit["mismatched_keys"]
        ]
        report = fit_report(folder, fit["missing_keys"], fit["unexpected_keys"], misshapen)
        return Directory(architecture, settings, pixels, network, report)

    def _known(self, architecture: str, where: str) -> set[str]:
        """Names of an architecture's settings."""
        transformers = _transformers()
        mapping = transformers.CONFIG_MAPPING
        if architecture not in mapping or mapping[architecture] not in transformers.MODEL_MAPPING:
            raise ValueError(
                f"{where}: transformers {transformers.__version__} has no architecture {architecture!r}; code that "
                "comes with weights is never run, so a newer transformers may be needed"
            )
        if transformers.MODEL_MAPPING[mapping[architecture]].main_input_name != "pixel_values":
            raise ValueError(f"{where}: {architecture} does not take images")
        if architecture in REFUSED:
            raise ValueError(f"{where}: {architecture} cannot encode frames: {REFUSED[architecture]}")
        with _quiet(transformers):
            config = mapping[architecture]()
        names = set(config.to_dict()) | set(config.attribute_map)
        return {name for name in names if not name.startswith("_")} - NOT_SETTINGS

    def _config(self, architecture: str, settings: Mapping[str, Any]) -> Any:
        transformers = _transformers()
        wrong = sorted(set(settings) - self._known(architecture, "encoder.architecture"))
        if wrong:
            raise ValueError(f"encoder.settings: {architecture} has no setting {', '.join(wrong)}")
        from huggingface_hub.errors import StrictDataclassError

        try:
            with _quiet(transformers):
                return transformers.CONFIG_MAPPING[architecture](**settings)
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(f"encoder.settings of {architecture}: {' '.join(str(error).split())}") from error

    def _without_pooler(self, config: Any) -> dict[str, bool]:
        model_class = _transformers().MODEL_MAPPING[type(config)]
        has = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
        return {"add_pooling_layer": False} if has else {}

    def _prefix(self, network: nn.Module) -> int:
        """Tokens before the patches: class, distillation and register tokens."""
        if self._type(network) == "dinov3_convnext":
            return 1
        kinds = ("cls_token", "class_embedding", "distillation_token", "register_tokens")
        return sum(
            tensor.shape[-2] if tensor.ndim > 1 else 1
            for name, tensor in network.named_parameters()
            if name.rpartition(".")[2] in kinds
        )

    @staticmethod
    def _type(network: nn.Module) -> str:
        config: Any = network.config
        return str(config.model_type)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "encoder.library=huggingface needs transformers; `pip install 'worldmodel[huggingface]'` installs it"
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Their progress bars and tables of tensors are left out: what does not fit is in the report."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


def _processor(folder: Path) -> dict[str, Any]:
    """Pixel statistics and interpolation, as the processor's file has them; empty where there is none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        found = read_json(folder / name)
        found = found.get("image_processor") or found
        if (
            found.get("do_rescale", True) is False
            or abs(found.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3
        ):
            raise ValueError(
                f"{folder / name}: frames are scaled to 0..1 here, but it has do_rescale={found.get('do_rescale')} and "
                f"rescale_factor={found.get('rescale_factor')}; give pixel_mean and pixel_std and remove the file"
            )
        how = {2: "bilinear", 3: "bicubic"}.get(found.get("resample"))
        pixels = {"interpolation": how} if how else {}
        if found.get("do_normalize", True) is False:
            return {**pixels, "pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3}
        return {**pixels, "pixel_mean": found.get("image_mean"), "pixel_std": found.get("image_std")}
    return {}
