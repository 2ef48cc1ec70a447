"""Reading a Hugging Face V-JEPA 2 model: an object, or a directory of config.json and safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldmodel.atomic import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")

#: What a key means that their config.json does not have: it holds only what differs from this.
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 16,
    "crop_size": 256,
    "frames_per_clip": 64,
    "tubelet_size": 2,
    "hidden_size": 1024,
    "in_chans": 3,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "drop_path_rate": 0.0,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "num_pooler_layers": 3,
    "pred_hidden_size": 384,
    "pred_num_attention_heads": 12,
    "pred_num_hidden_layers": 12,
    "pred_num_mask_tokens": 10,
    "pred_mlp_ratio": 4.0,
}


def read_hf(source: Any) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Configuration, tensors and a name for messages, of a model object or of a directory.

    Raises:
        FileNotFoundError: There is no such directory, or a file is missing in it.
        ValueError: It is another kind of model, or a file is damaged.
    """
    if isinstance(source, str | Path):
        folder = Path(source)
        return _config(read_folder_config(folder), str(folder)), _tensors(folder), str(folder)
    name = type(source).__name__
    if not (hasattr(source, "config") and hasattr(source, "state_dict")):
        raise ValueError(
            f"a {name} was given; from_hf takes a VJEPA2Model or a directory that one was saved to"
        )
    return _config(source.config.to_dict(), name), source.state_dict(), name


def read_folder_config(folder: Path) -> dict[str, Any]:
    """config.json of a directory, with the processor's pixel statistics.

    Raises:
        FileNotFoundError: There is no such directory or no config.json in it.
        ValueError: The file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no directory; nothing is downloaded, so fetch the model first and give the directory"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give the directory that save_pretrained wrote")
    found = read_json(folder / "config.json")
    for name in PROCESSORS:
        if (folder / name).is_file() and "image_mean" not in found:
            processor = read_json(folder / name)
            found |= {key: processor[key] for key in ("image_mean", "image_std") if processor.get(key)}
    return found


def _config(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    if found.get("model_type") != "vjepa2":
        raise ValueError(f"{name} is a model of type {found.get('model_type')!r}, not of V-JEPA 2 ('vjepa2')")
    return {**DEFAULTS, **found}


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / INDEX).is_file():
        shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    elif (folder / WEIGHTS).is_file():
        shards = [WEIGHTS]
    else:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}; pickled weights (.bin) are not read: save them again with "
            "safe_serialization=True"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        # Names come from a file: only files of this directory are meant.
        path = folder / Path(shard).name
        if not path.is_file():
            raise FileNotFoundError(f"{folder} lacks {path.name}, which its index names; copy it again")
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    return tensors
