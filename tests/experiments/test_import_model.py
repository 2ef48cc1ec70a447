"""Released weights to a model directory, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.cli import main
from worldmodel.interop.official import encoder_rules, predictor_rules
from worldmodel.interop.tensors import write_all
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.pretrained import load_encoder
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

SIZE = VideoEncoderConfig(
    image_size=32, frames=4, patch_size=8, width=192, depth=1, heads=3, mlp_ratio=1.0, positions="rope_compat"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    student, ema = VideoEncoder(SIZE), VideoEncoder(SIZE)
    narrow = MaskedPredictorConfig(width=72, depth=1, heads=12, positions="rope_compat", mask_tokens=10)
    predictor = MaskedPredictor(narrow, SIZE.grid, 192)
    contents = {
        "encoder": write_all(student, encoder_rules(student)),
        "target_encoder": write_all(ema, encoder_rules(ema)),
        "predictor": write_all(predictor, predictor_rules(predictor)),
    }
    torch.save(contents, tmp_path / "vitt.pt")
    return tmp_path / "vitt.pt"


def test_an_official_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", f"checkpoint={file}", f"out={tmp_path}/model", "image_size=32", "frames=4"]
    assert main(command) == 0
    assert f"encoder in {tmp_path}/model" in capsys.readouterr().out
    contents = torch.load(file, weights_only=True)
    for weights, part in (("ema", "target_encoder"), ("student", "encoder")):
        encoder = load_encoder(tmp_path / "model", weights)
        assert encoder.config == SIZE
        assert torch.equal(encoder.norm.weight, contents[part]["norm.weight"])
        wanted = contents[part]["blocks.0.attn.qkv.weight"]
        assert torch.equal(encoder.state_dict()["blocks.0.attn.qkv.weight"], wanted)
    assert main(command) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert main([*command[:2], f"out={tmp_path}/wrong", "heads=5"]) == 2
    assert "heads=5 must divide" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_a_hugging_face_directory(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.VJEPA2Config(
        crop_size=32, frames_per_clip=4, hidden_size=24, num_attention_heads=2, num_hidden_layers=1,
        pred_hidden_size=12, pred_num_attention_heads=1, pred_num_hidden_layers=1,
    )  # fmt: skip
    model = transformers.VJEPA2Model(config)
    model.save_pretrained(tmp_path / "hf")
    assert main(["import", f"checkpoint={tmp_path}/hf", f"out={tmp_path}/model"]) == 0
    encoder = load_encoder(tmp_path / "model")
    assert torch.equal(encoder.norm.weight, model.encoder.layernorm.weight)
    assert main(["import", f"checkpoint={tmp_path}/nowhere", f"out={tmp_path}/other"]) == 2
