"""Probes: sizes and names of V-JEPA's attentive probe, equality with Hugging Face's pooler, k-NN by hand, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldmodel.models.probe_files import load_probe, save_probe
from worldmodel.models.probes import (
    AttentiveProbe,
    AttentiveProbeConfig,
    KNNProbe,
    LinearProbe,
    Probe,
    parameter_count,
)


@pytest.mark.parametrize(
    ("width", "depth", "count"), [(1024, 4, 49.5e6), (1408, 4, 93.5e6), (1024, 1, 11.7e6)]
)
def test_the_attentive_probe_has_the_published_size(width: int, depth: int, count: float) -> None:
    with torch.device("meta"):
        probe = AttentiveProbe(width, 174, AttentiveProbeConfig(depth=depth, heads=16))
    assert parameter_count(probe) == pytest.approx(count, rel=3e-3)


def test_its_parameters_have_the_official_names() -> None:
    names = set(AttentiveProbe(16, 3, AttentiveProbeConfig(depth=2, heads=2)).state_dict())
    block = {f"{m}.{p}" for m in ("norm1", "norm2", "mlp.fc1", "mlp.fc2") for p in ("weight", "bias")}
    attn = {f"attn.{m}.{p}" for m in ("qkv", "proj") for p in ("weight", "bias")}
    cross = {f"xattn.{m}.{p}" for m in ("q", "kv") for p in ("weight", "bias")}
    assert names == {
        "pooler.query_tokens",
        "linear.weight",
        "linear.bias",
        *(f"pooler.blocks.0.{name}" for name in block | attn),
        *(f"pooler.cross_attention_block.{name}" for name in block | cross),
    }


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads=16 must divide the encoder's width 24"):
        AttentiveProbe(24, 3, AttentiveProbeConfig())


def to_hugging_face(probe: AttentiveProbe) -> dict[str, Tensor]:
    """The pooler's weights under Hugging Face's names."""
    renamed: dict[str, Tensor] = {}
    for name, value in probe.pooler.state_dict().items():
        name = name.replace("cross_attention_block", "cross_attention_layer")
        name = name.replace("blocks.", "self_attention_layers.").replace("norm", "layer_norm")
        for ours, parts in (("attn.qkv", "qkv"), ("xattn.kv", "kv"), ("xattn.q.", "q")):
            if f".{ours}" in f".{name}":
                place = name.index(ours)
                attention = "cross_attn" if ours.startswith("x") else "self_attn"
                kind = name.rpartition(".")[2]
                for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
                    renamed[f"{name[:place]}{attention}.{part}_proj.{kind}"] = piece
                break
        else:
            renamed[name.replace("attn.proj", "self_attn.out_proj")] = value
    return renamed


def test_the_pooler_is_that_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

    config = transformers.VJEPA2Config(
        hidden_size=24, num_attention_heads=4, num_pooler_layers=2, mlp_ratio=4.0
    )
    pooler = VJEPA2AttentivePooler(config).eval()
    torch.manual_seed(0)
    probe = AttentiveProbe(24, 5, AttentiveProbeConfig(depth=3, heads=4, eps=1e-6))
    for parameter in probe.parameters():  # biases and norms too
        torch.nn.init.normal_(parameter, std=0.3)
    pooler.load_state_dict(to_hugging_face(probe))
    tokens = torch.randn(2, 7, 24)
    assert (probe.pooler(tokens) - pooler(tokens)).abs().max() < 1e-5
    probe.pooler.cross_attention_block.norm1.eps = 1e-2  # that the test would see another epsilon
    assert (probe.pooler(tokens) - pooler(tokens)).abs().max() > 1e-4


def test_knn_is_the_naive_one() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(30, 5, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    queries = torch.randn(8, 5, generator=generator)
    k, temperature = 7, 0.1
    found = KNNProbe(bank, labels, 3, k, temperature)(queries).exp()
    centre = bank.mean(dim=0)
    for query, answer in zip(queries, found, strict=True):
        similar = [float(torch.cosine_similarity(query - centre, row - centre, dim=0)) for row in bank]
        nearest = sorted(range(30), key=lambda row: -similar[row])[:k]
        votes = torch.zeros(3)
        for row in nearest:
            votes[labels[row]] += torch.tensor(similar[row] / temperature).exp()
        torch.testing.assert_close(answer, (votes / votes.sum()).clamp_min(1e-12), rtol=1e-4, atol=1e-6)


def test_knn_with_more_neighbours_than_samples_takes_all() -> None:
    probe = KNNProbe(torch.randn(3, 4), torch.tensor([0, 1, 1]), 2, k=20, temperature=1e9)
    torch.testing.assert_close(
        probe(torch.randn(2, 4)).exp()[:, 1], torch.full((2,), 2 / 3), rtol=1e-4, atol=0
    )


def test_a_feature_that_does_not_vary_cannot_blow_up() -> None:
    pooled = torch.randn(50, 3)
    pooled[:, 1] = 0.25
    probe = LinearProbe(3, 2)
    probe.set_statistics(pooled)
    standard = probe.standardise(pooled + torch.tensor([0.0, 1e-6, 0.0]))
    assert standard[:, 1].abs().max() < 1e-3
    torch.testing.assert_close(
        standard[:, [0, 2]].std(dim=0, unbiased=False), torch.ones(2), rtol=1e-3, atol=0
    )


def probes() -> dict[str, tuple[Probe, Tensor]]:
    torch.manual_seed(0)
    linear = LinearProbe(6, 2)
    linear.set_statistics(torch.randn(9, 6) * 3 + 1)
    return {
        "knn": (KNNProbe(torch.randn(9, 6), torch.arange(9) % 2, 2, 3, 0.07), torch.randn(4, 6)),
        "linear": (linear, torch.randn(4, 6)),
        "attentive": (AttentiveProbe(6, 2, AttentiveProbeConfig(depth=2, heads=2)), torch.randn(4, 5, 6)),
    }


@pytest.mark.parametrize("kind", ["knn", "linear", "attentive"])
def test_a_saved_probe_answers_the_same(kind: str, tmp_path: Path) -> None:
    probe, inputs = probes()[kind]
    save_probe(tmp_path / "probe", probe, {"classes": ["a", "b"]})
    again, card = load_probe(tmp_path / "probe")
    assert card["classes"] == ["a", "b"]
    assert torch.equal(probe.eval()(inputs), again(inputs))


def test_an_attentive_probe_of_before_can_be_read(tmp_path: Path) -> None:
    """Its file says nothing of standardised tokens, and it had none."""
    tokens = torch.randn(3, 5, 8)
    probe = AttentiveProbe(8, 2, AttentiveProbeConfig(depth=1, heads=2)).eval()
    save_probe(tmp_path / "probe", probe, {})
    file = tmp_path / "probe/config.json"
    config = json.loads(file.read_text())
    del config["probe"]["size"]["standardise"]
    file.write_text(json.dumps(config))
    assert torch.equal(load_probe(tmp_path / "probe")[0](tokens), probe(tokens))


def test_what_is_no_probe_is_refused(tmp_path: Path) -> None:
    probe, _ = probes()["linear"]
    save_probe(tmp_path / "probe", probe, {})
    text = (tmp_path / "probe/config.json").read_text()
    (tmp_path / "probe/config.json").write_text(text.replace('"linear"', '"forest"'))
    with pytest.raises(ValueError, match=r"type 'forest' is unknown"):
        load_probe(tmp_path / "probe")
    (tmp_path / "probe/config.json").write_text(text.replace('"features": 6', '"features": 7'))
    with pytest.raises(ValueError, match=r"probe.safetensors does not fit"):
        load_probe(tmp_path / "probe")
    with pytest.raises(FileNotFoundError):
        load_probe(tmp_path / "nowhere")
