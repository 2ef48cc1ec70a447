"""Hugging Face's ``VJEPA2Model``, in and out: the same tensors, the same features.

``transformers`` is needed to make a model of theirs, not to read a directory that one was saved to.

Their model differs from the official one in some ways that matter here (transformers 5):

- It is always given normalised pixels; our encoder normalises them itself, by what the directory's processor says.
- Its predictor always uses mask token 1: call ours with ``mask_index=1`` for the same predictions.
- Its context mask is applied after encoding the whole clip. Training needs tokens dropped before (``keep``).
- It takes positions for a square of ``crop_size`` whatever it is given. Ours go by the clip itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

from torch import Tensor, nn

from worldmodel.interop.hf_files import read_hf
from worldmodel.interop.tensors import LoadReport, Rule, fill, plain_rules, write_all
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.probes import AttentiveProbe, AttentiveProbeConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

HEAD = ("pooler.", "classifier.")


@overload
def from_hf(source: Any, *, strict: Literal[True] = True) -> tuple[VideoEncoder, MaskedPredictor]: ...


@overload
def from_hf(source: Any, *, strict: Literal[False]) -> tuple[VideoEncoder, MaskedPredictor, LoadReport]: ...


def from_hf(
    source: Any, *, strict: bool = True
) -> tuple[VideoEncoder, MaskedPredictor] | tuple[VideoEncoder, MaskedPredictor, LoadReport]:
    """Our encoder and predictor with the weights of a ``VJEPA2Model`` or ``VJEPA2ForVideoClassification``.

    Args:
        source: The model, or a directory with its ``config.json`` and safetensors (one file or several with an
            index). Nothing is downloaded.
        strict: Fail where a tensor is missing, unexpected or of another shape. False: load what fits, leave the rest
            as drawn, and give the report as a third result.

    Returns:
        Both in evaluation mode; positions are ``rope_compat``.

    Raises:
        FileNotFoundError: There is no such directory, or a file is missing in it.
        ValueError: It is another kind of model, one that cannot be represented, or its tensors do not fit.
    """
    config, tensors, name = read_hf(source)
    encoder = VideoEncoder(encoder_config(config, name))
    predictor = MaskedPredictor(predictor_config(config), encoder.grid, encoder.width)
    backbone = {
        key.removeprefix("vjepa2."): tensor for key, tensor in tensors.items() if not key.startswith(HEAD)
    }
    parts = {part: _part(backbone, f"{part}.") for part in ("encoder", "predictor")}
    report = fill(encoder, encoder_rules(encoder), parts["encoder"], name, "encoder.")
    report += fill(predictor, predictor_rules(predictor), parts["predictor"], name, "predictor.")
    stray = tuple(key for key in backbone if not key.startswith(("encoder.", "predictor.")))
    left_out = tuple(key for key in tensors if key.startswith(HEAD))
    report += LoadReport(name, unexpected=stray, left_out=left_out)
    if strict:
        report.check()
        return encoder.eval(), predictor.eval()
    return encoder.eval(), predictor.eval(), report


def probe_from_hf(source: Any) -> AttentiveProbe:
    """The attentive classifier of a ``VJEPA2ForVideoClassification``, for the tokens of its encoder.

    Raises:
        FileNotFoundError: There is no such directory, or a file is missing in it.
        ValueError: The model has no classifier, or its tensors do not fit.
    """
    config, tensors, name = read_hf(source)
    tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(HEAD)}
    if "classifier.weight" not in tensors:
        raise ValueError(f"{name} has no classifier; give a VJEPA2ForVideoClassification")
    size = AttentiveProbeConfig(
        depth=config["num_pooler_layers"] + 1,
        heads=config["num_attention_heads"],
        eps=config["layer_norm_eps"],
    )
    probe = AttentiveProbe(config["hidden_size"], len(tensors["classifier.weight"]), size)
    fill(probe, probe_rules(probe), tensors, name).check()
    return probe.eval()


def to_hf(encoder: VideoEncoder, predictor: MaskedPredictor) -> Any:
    """A ``transformers.VJEPA2Model`` with our weights, in evaluation mode.

    Pixel statistics other than ImageNet's are kept as ``image_mean`` and ``image_std`` in its configuration, where
    :func:`from_hf` finds them; it is still the caller who normalises.

    Raises:
        ImportError: ``transformers`` is not installed.
        ValueError: Their model cannot represent this one; the message says what stands in the way.
    """
    values = hf_values(encoder, predictor)
    try:
        from transformers import VJEPA2Config, VJEPA2Model
    except ImportError as error:
        raise ImportError("to_hf needs transformers; `pip install transformers` installs it") from error

    model = VJEPA2Model(VJEPA2Config(**values))
    tensors = {f"encoder.{name}": value for name, value in write_all(encoder, encoder_rules(encoder)).items()}
    tensors |= {
        f"predictor.{name}": value for name, value in write_all(predictor, predictor_rules(predictor)).items()
    }
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def hf_values(encoder: VideoEncoder, predictor: MaskedPredictor) -> dict[str, Any]:
    """The keys of a ``VJEPA2Config`` for our models.

    Raises:
        ValueError: Their model cannot represent ours.
    """
    ours, narrow = encoder.config, predictor.config
    obstacles = [
        f"{part}.{key}={getattr(config, key)} (only {wanted!r})"
        for part, config in (("encoder", ours), ("predictor", narrow))
        for key, wanted in (("positions", "rope_compat"), ("mlp", "gelu"))
        if getattr(config, key) != wanted
    ]
    if narrow.drop_path != ours.drop_path:
        obstacles.append(f"predictor.drop_path={narrow.drop_path} (only the encoder's, {ours.drop_path})")
    widths = predictor.embed.in_features, predictor.proj.out_features
    if widths != (ours.width, ours.width):
        obstacles.append(
            f"a predictor from width {widths[0]} to {widths[1]} (only {ours.width} to {ours.width})"
        )
    if predictor.grid != encoder.grid:
        obstacles.append(f"a predictor for the grid {tuple(predictor.grid)} (only {tuple(encoder.grid)})")
    if obstacles:
        raise ValueError(f"a VJEPA2Model cannot represent {'; '.join(obstacles)}")
    values: dict[str, Any] = {
        "patch_size": ours.patch_size,
        "crop_size": ours.image_size,
        "frames_per_clip": ours.frames,
        "tubelet_size": ours.tubelet,
        "hidden_size": ours.width,
        "num_attention_heads": ours.heads,
        "num_hidden_layers": ours.depth,
        "drop_path_rate": ours.drop_path,
        "mlp_ratio": _their_ratio(ours.width, ours.mlp_ratio),
        "pred_hidden_size": narrow.width,
        "pred_num_attention_heads": narrow.heads,
        "pred_num_hidden_layers": narrow.depth,
        "pred_num_mask_tokens": narrow.mask_tokens,
        "pred_mlp_ratio": _their_ratio(narrow.width, narrow.mlp_ratio),
    }
    plain = VideoEncoderConfig()
    if (ours.pixel_mean, ours.pixel_std) != (plain.pixel_mean, plain.pixel_std):
        values |= {"image_mean": list(ours.pixel_mean), "image_std": list(ours.pixel_std)}
    return values


def encoder_config(config: Mapping[str, Any], name: str) -> VideoEncoderConfig:
    """Our configuration for theirs.

    Raises:
        ValueError: We cannot represent it.
    """
    fixed = (("in_chans", 3), ("qkv_bias", True), ("hidden_act", "gelu"), ("layer_norm_eps", 1e-6))
    wrong = [f"{key}={config[key]} (only {value})" for key, value in fixed if config[key] != value]
    sides = config["patch_size"] if isinstance(config["patch_size"], list | tuple) else [config["patch_size"]]
    if len(set(sides)) != 1:
        wrong.append(f"patch_size={config['patch_size']} (only squares)")
    if wrong:
        raise ValueError(f"{name}: this encoder cannot represent {'; '.join(wrong)}")
    imagenet = VideoEncoderConfig()
    mean, std = config.get("image_mean") or imagenet.pixel_mean, config.get("image_std") or imagenet.pixel_std
    return VideoEncoderConfig(
        image_size=config["crop_size"],
        frames=config["frames_per_clip"],
        patch_size=sides[0],
        tubelet=config["tubelet_size"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=_our_ratio(config["hidden_size"], config["mlp_ratio"]),
        positions="rope_compat",
        drop_path=float(config["drop_path_rate"]),
        pixel_mean=[float(value) for value in mean],
        pixel_std=[float(value) for value in std],
    )


def predictor_config(config: Mapping[str, Any]) -> MaskedPredictorConfig:
    """Our configuration for theirs.

    Raises:
        ValueError: We cannot represent it.
    """
    return MaskedPredictorConfig(
        width=config["pred_hidden_size"],
        depth=config["pred_num_hidden_layers"],
        heads=config["pred_num_attention_heads"],
        mlp_ratio=_our_ratio(config["pred_hidden_size"], config["pred_mlp_ratio"]),
        positions="rope_compat",
        mask_tokens=config["pred_num_mask_tokens"],
        drop_path=float(config["drop_path_rate"]),
    )


def encoder_rules(encoder: VideoEncoder) -> list[Rule]:
    """Where each tensor of the encoder is in ``VJEPA2Model.encoder``."""
    size = encoder.config
    place = "embeddings.patch_embeddings.proj"
    kernel = (size.width, 3, size.tubelet, size.patch_size, size.patch_size)
    return [
        Rule("patch_embed.weight", (f"{place}.weight",), kernel, swap=True),
        Rule("patch_embed.bias", (f"{place}.bias",), (size.width,)),
        *_block_rules(encoder, size.depth, size.width),
        *plain_rules(encoder, {"norm.": "layernorm."}),
    ]


def predictor_rules(predictor: MaskedPredictor) -> list[Rule]:
    """Where each tensor of the predictor is in ``VJEPA2Model.predictor``."""
    size = predictor.config
    tokens = (size.mask_tokens, 1, 1, size.width)
    return [
        Rule("mask_tokens", ("embeddings.mask_tokens",), tokens),
        *plain_rules(
            predictor,
            {"embed.": "embeddings.predictor_embeddings.", "norm.": "layernorm.", "proj.": "proj."},
        ),
        *_block_rules(predictor, size.depth, size.width),
    ]


def probe_rules(probe: AttentiveProbe) -> list[Rule]:
    """Where each tensor of the probe is in ``VJEPA2ForVideoClassification``."""
    width = probe.linear.in_features
    ours, theirs = "pooler.cross_attention_block.", "pooler.cross_attention_layer."
    names = {
        "pooler.query_tokens": "pooler.query_tokens",
        f"{ours}norm1.": f"{theirs}layer_norm1.",
        f"{ours}norm2.": f"{theirs}layer_norm2.",
        f"{ours}mlp.": f"{theirs}mlp.",
        f"{ours}xattn.q.": f"{theirs}cross_attn.q_proj.",
        "linear.": "classifier.",
    }
    rules = _stacked(f"{ours}xattn.kv", f"{theirs}cross_attn", ("k_proj", "v_proj"), width)
    for i in range(probe.config.depth - 1):
        mine, other = f"pooler.blocks.{i}.", f"pooler.self_attention_layers.{i}."
        names |= {
            f"{mine}norm1.": f"{other}layer_norm1.",
            f"{mine}norm2.": f"{other}layer_norm2.",
            f"{mine}mlp.": f"{other}mlp.",
            f"{mine}attn.proj.": f"{other}self_attn.out_proj.",
        }
        rules += _stacked(f"{mine}attn.qkv", f"{other}self_attn", ("q_proj", "k_proj", "v_proj"), width)
    return [*rules, *plain_rules(probe, names)]


def _block_rules(module: nn.Module, depth: int, width: int) -> list[Rule]:
    rules = []
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", f"layer.{i}."
        rules += _stacked(f"{ours}attn.qkv", f"{theirs}attention", ("query", "key", "value"), width)
        same = {f"{ours}{part}.": f"{theirs}{part}." for part in ("norm1", "norm2", "mlp")}
        rules += plain_rules(module, {**same, f"{ours}attn.proj.": f"{theirs}attention.proj."})
    return rules


def _stacked(own: str, theirs: str, parts: tuple[str, ...], width: int) -> list[Rule]:
    """One linear layer of ours for several of theirs."""
    return [
        Rule(f"{own}.{kind}", tuple(f"{theirs}.{part}.{kind}" for part in parts), shape)
        for kind, shape in (("weight", (width, width)), ("bias", (width,)))
    ]


def _our_ratio(width: int, ratio: float) -> float:
    """Theirs cut the hidden width to a whole number, ours are rounded."""
    hidden = int(width * ratio)
    return float(ratio) if round(width * ratio) == hidden else hidden / width


def _their_ratio(width: int, ratio: float) -> float:
    hidden = round(width * ratio)
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
