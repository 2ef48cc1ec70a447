"""Make a model directory of released weights: an official V-JEPA file, or a Hugging Face directory.

Example:
    worldmodel import checkpoint=vitl16.pth.tar out=models/vjepa_l
    worldmodel import checkpoint=vjepa2-vitl-fpc64-256 out=models/vjepa2_l
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from torch import nn

from worldmodel.interop.huggingface import from_hf
from worldmodel.interop.official import load_official
from worldmodel.models.pretrained import save_encoder


@dataclass
class Config:
    """Settings of an import."""

    #: Official file (.pt, .pth.tar), or a directory that transformers' save_pretrained wrote. Nothing is downloaded.
    checkpoint: str = MISSING
    #: Model directory to write.
    out: str = MISSING
    #: Official files: ema (the target encoder), student (the context encoder), or both.
    weights: str = "both"
    #: Official files: vjepa, vjepa2 or vjepa2-ac where the file does not tell.
    family: str = "auto"
    #: Official files: frame height and width; 0: what the file tells, or 256.
    image_size: int = 0
    #: Official files: frames per clip; 0: 16 for V-JEPA, 64 for V-JEPA 2.
    frames: int = 0
    #: Official files: the encoder's attention heads; 0: those of the released model of this width.
    heads: int = 0
    #: Official files: the predictor's attention heads; 0: 12, and the encoder's for V-JEPA.
    predictor_heads: int = 0

    def __post_init__(self) -> None:
        if self.weights not in ("both", "ema", "student"):
            raise ValueError(f"weights={self.weights!r} is unknown; choose both, ema or student")


def run(config: Config) -> tuple[Path, list[str]]:
    """Convert; returns the model directory and what is worth knowing."""
    out = Path(config.out)
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a model already; choose another out, or delete it")
    read = _hugging_face if Path(config.checkpoint).is_dir() else _official
    parts, settings, notes = read(config)
    name = Path(config.checkpoint).name
    card = f"Weights of {name} ({settings['family']}), with {', '.join(parts)}.\n"
    save_encoder(out, parts, {**settings, "source": name}, card)
    return out, notes


def outcome(result: tuple[Path, list[str]]) -> str:
    """What the command says at its end."""
    out, notes = result
    return "\n".join([*notes, f"encoder in {out}"])


Read = tuple[dict[str, nn.Module], dict[str, Any], list[str]]


def _hugging_face(config: Config) -> Read:
    encoder, predictor = from_hf(config.checkpoint)
    settings = {"encoder": asdict(encoder.config), "predictor": asdict(predictor.config), "family": "vjepa2"}
    # Where there is only one set of weights, it is the one that load_encoder takes by default.
    return {"target_encoder": encoder, "predictor": predictor}, settings, []


def _official(config: Config) -> Read:
    names = {"ema": "target_encoder", "student": "encoder"}
    parts: dict[str, nn.Module] = {}
    notes: list[str] = []
    for weights in ("ema", "student") if config.weights == "both" else (config.weights,):
        model = load_official(
            config.checkpoint,
            weights=weights,
            family=config.family,
            image_size=config.image_size or None,
            frames=config.frames or None,
            heads=config.heads or None,
            predictor_heads=config.predictor_heads or None,
        )
        parts[names[weights]] = model.encoder
        notes += [note for note in model.report.notes if note not in notes]
    notes += [f"not needed and left out: {name}" for name in model.report.left_out]
    settings = {"encoder": asdict(model.encoder.config), "family": model.family}
    if model.predictor is not None:
        parts["predictor"] = model.predictor
        settings["predictor"] = asdict(model.predictor.config)
    else:
        notes.append(
            "its action-conditioned predictor was checked and is not kept: there is no model for it yet"
        )
    return parts, settings, notes


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("import"))
