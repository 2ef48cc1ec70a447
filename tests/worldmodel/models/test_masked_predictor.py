"""The masked predictor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worldmodel.masks import Grid
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig

GRID = Grid(2, 4, 4)
SMALL = MaskedPredictorConfig(width=24, depth=2, heads=2)
KINDS = ("rope", "rope_compat", "sincos")


def build(output_width: int | None = None, **changes: object) -> MaskedPredictor:
    torch.manual_seed(0)
    predictor = MaskedPredictor(replace(SMALL, **changes), GRID, 12, output_width)  # type: ignore[arg-type]
    # Freshly drawn, attention is all but uniform and mask tokens are zeros: positions would have no say.
    for parameter in (predictor.mask_tokens, *(block.attn.qkv.weight for block in predictor.blocks)):
        torch.nn.init.normal_(parameter, std=0.5)  # type: ignore[arg-type]
    return predictor.eval()


@pytest.fixture
def known() -> tuple[Tensor, Tensor, Tensor]:
    """Context ``(2, 12, 12)``, its ids and those to predict."""
    torch.manual_seed(1)
    ids = torch.stack([torch.randperm(32), torch.randperm(32)])
    return torch.randn(2, 12, 12), ids[:, :12], ids[:, 12:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_predictor_knows_where_it_predicts(known: tuple[Tensor, Tensor, Tensor], kind: str) -> None:
    context, seen, hidden = known
    predictor = build(positions=kind)
    predicted = predictor(context, seen, hidden)
    assert predicted.shape == (2, 20, 12)
    # Asking for the same places in another order gives the same answers in that order: positions, not slots, count.
    flipped = predictor(context, seen, hidden.flip(1))
    torch.testing.assert_close(flipped.flip(1), predicted, atol=1e-5, rtol=1e-5)
    assert (predicted[:, 0] - predicted[:, 1]).abs().max() > 1e-3


def test_each_mask_has_its_token(known: tuple[Tensor, Tensor, Tensor]) -> None:
    predictor = build(mask_tokens=3)
    answers = [predictor(*known, mask_index=index) for index in range(4)]
    assert torch.equal(answers[0], answers[3])  # modulo how many there are
    assert not torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[1], answers[2])
    answers[1].sum().backward()
    gradient = predictor.mask_tokens.grad
    assert gradient is not None
    assert (gradient.abs().amax(dim=1) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_gradient_is_not_that_of_a_layer_norm_at_zero(
    known: tuple[Tensor, Tensor, Tensor], kind: str
) -> None:
    """Rotary positions add nothing to a mask token: were it zero, its gradient would be above all others'.

    V-JEPA 2 begins so all the same, and is followed where it is asked for.
    """
    torch.manual_seed(0)
    predictor = MaskedPredictor(replace(SMALL, positions=kind), GRID, 12)
    assert bool((predictor.mask_tokens == 0).all()) == (kind != "rope")
    predictor(*known).sub(torch.randn(2, 20, 12)).abs().mean().backward()
    token, answer = predictor.mask_tokens.grad, predictor.proj.weight.grad
    assert token is not None and answer is not None
    assert (token.norm() < 10 * answer.norm()) == (kind != "rope_compat")


def test_another_output_width(known: tuple[Tensor, Tensor, Tensor]) -> None:
    assert build(output_width=1536)(*known).shape == (2, 20, 1536)


def test_rotary_positions_are_relative(known: tuple[Tensor, Tensor, Tensor]) -> None:
    """The same places one step later, on a longer grid, get the same answers."""
    context, seen, hidden = known
    predictor = build(positions="rope")
    later = predictor(context, seen + 16, hidden + 16, grid=Grid(3, 4, 4))
    torch.testing.assert_close(later, predictor(context, seen, hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_another_grid(known: tuple[Tensor, Tensor, Tensor], kind: str) -> None:
    context, seen, hidden = known
    predictor = build(positions=kind)
    wide = predictor(context, seen, hidden, grid=Grid(2, 2, 8))
    assert wide.shape == (2, 20, 12)
    assert (wide - predictor(context, seen, hidden)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_recomputation_bfloat16_and_compile(known: tuple[Tensor, Tensor, Tensor], kind: str) -> None:
    predictor = build(positions=kind)
    exact = predictor(*known, mask_index=1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predictor(*known, mask_index=1)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    context, seen, hidden = known
    assert build(positions=kind).bfloat16()(context.bfloat16(), seen, hidden).dtype == torch.bfloat16
    compiled = torch.compile(predictor, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*known, mask_index=1), exact, atol=1e-5, rtol=1e-5)
    exact.square().mean().backward()
    again = build(positions=kind, checkpoint_blocks=True)
    again(*known, mask_index=1).square().mean().backward()
    for p, q in zip(predictor.parameters(), again.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"heads": 5}, "predictor.heads=5 must divide"),
        ({"mask_tokens": 0}, "must be positive"),
        ({"positions": "none"}, "predictor.positions='none' is unknown"),
        ({"mlp": "relu"}, "predictor.mlp='relu' is unknown"),
        ({"drop_path": -0.1}, "drop_path=-0.1"),
    ],
)
def test_impossible_sizes_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedPredictorConfig(**bad)
