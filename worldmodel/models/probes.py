"""Probes: small classifiers that read a frozen encoder's features.

What a probe reads is either a pooled feature ``(B, F)`` (the mean over a clip's tokens, layers side by side) or all
tokens ``(B, L, D)`` (layers, in each of them segments, one after another). Each probe answers by ``(B, outputs)``:
logits, log probabilities or numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class AttentiveProbeConfig:
    """Size of an attentive probe (V-JEPA, 2404.08471, section 5; V-JEPA 2, 2506.09985, appendix)."""

    #: Blocks: 1 is a cross-attention block alone (V-JEPA); 4 adds three self-attention blocks before it (V-JEPA 2).
    depth: int = 4
    #: Attention heads; must divide the encoder's width.
    heads: int = 16
    #: Hidden features of a block's MLP, as a multiple of the encoder's width.
    mlp_ratio: float = 4.0
    #: Epsilon of the layer norms: 1e-5 in the official code, 1e-6 in Hugging Face's port.
    eps: float = 1e-5
    #: Standardise each feature of the tokens by the training set's mean and spread first. The papers do not; small
    #: probes of short trainings learn many times faster, whatever the encoder's scale.
    standardise: bool = False

    def __post_init__(self) -> None:
        if self.depth < 1 or self.heads < 1 or self.mlp_ratio <= 0 or self.eps <= 0:
            raise ValueError("an attentive probe's depth, heads, mlp_ratio and eps must be positive")


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _attend(parts: Sequence[Tensor], heads: int) -> Tensor:
    """Attention of query, key and value, each ``(B, L, D)``."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head attention among all tokens, without positions: the encoder's features carry them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attend(self.qkv(x).chunk(3, dim=-1), self.heads))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens; as in V-JEPA there is no projection of the output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        return _attend((self.q(query), *self.kv(x).chunk(2, dim=-1)), self.heads)


class SelfAttentionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, config: AttentiveProbeConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.attn = SelfAttention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = MLP(width, int(width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttentionBlock(nn.Module):
    """``q + attention(q, norm(x))``, then ``q + mlp(norm(q))``; the query itself is not normalised."""

    def __init__(self, width: int, config: AttentiveProbeConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.xattn = CrossAttention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = MLP(width, int(width * config.mlp_ratio))

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        query = query + self.xattn(query, self.norm1(x))
        return query + self.mlp(self.norm2(query))


class AttentivePooler(nn.Module):
    """Tokens ``(B, L, D)`` to one vector ``(B, D)`` by a learned query."""

    def __init__(self, width: int, config: AttentiveProbeConfig) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(SelfAttentionBlock(width, config) for _ in range(config.depth - 1))
        self.cross_attention_block = CrossAttentionBlock(width, config)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.cross_attention_block(self.query_tokens.expand(len(x), -1, -1), x)[:, 0]


class Standardised(nn.Module):
    """Mean and spread of each feature over a training set; they are part of a probe (buffers)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    @torch.no_grad()
    def set_statistics(self, features: Tensor) -> None:
        """Take mean and standard deviation per dimension from training features ``(n, F)``.

        A dimension that does not vary is left as it is: it would otherwise be divided by rounding errors.
        """
        mean, std = features.mean(dim=0), features.std(dim=0, unbiased=False)
        floor = 1e-4 * std.max().clamp_min(1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > floor, std, std.max().clamp_min(1e-6)))

    def standardise(self, features: Tensor) -> Tensor:
        """``(..., F)`` in units of the training set's spread."""
        return (features - self.mean) / self.scale


class AttentiveProbe(nn.Module):
    """V-JEPA's classifier on all tokens. Its parameters have the official files' names (without ``module.``).

    Args:
        width: ``D``, the encoder's features per token.
        outputs: Classes.
        config: Its size.

    Raises:
        ValueError: The heads do not divide the width.
    """

    reads = "tokens"

    def __init__(self, width: int, outputs: int, config: AttentiveProbeConfig) -> None:
        super().__init__()
        if width % config.heads:
            raise ValueError(
                f"attentive.heads={config.heads} must divide the encoder's width {width}; choose another number"
            )
        self.config = config
        self.inputs = Standardised(width) if config.standardise else None
        self.pooler = AttentivePooler(width, config)
        self.linear = nn.Linear(width, outputs)
        self._init()

    def _init(self) -> None:
        nn.init.trunc_normal_(self.pooler.query_tokens, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        with torch.no_grad():
            mlps = [block.mlp for block in self.pooler.blocks] + [self.pooler.cross_attention_block.mlp]
            for index, mlp in enumerate(mlps, start=1):
                assert isinstance(mlp, MLP)
                mlp.fc2.weight.div_((2 * index) ** 0.5)
            for index, block in enumerate(self.pooler.blocks, start=1):
                assert isinstance(block, SelfAttentionBlock)
                block.attn.proj.weight.div_((2 * index) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.pooler(tokens if self.inputs is None else self.inputs.standardise(tokens)))


class LinearProbe(Standardised):
    """A linear map of the pooled feature, each dimension standardised by the training set's mean and spread.

    For numbers (``ridge``) the weights come from a closed form.
    """

    reads = "pooled"

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(features)
        self.linear = nn.Linear(features, outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.linear(self.standardise(pooled))


class KNNProbe(nn.Module):
    """Weighted k nearest neighbours by cosine similarity (Wu et al. 2018, 1805.01978): it has no parameters.

    The neighbours of a feature vote for their classes with ``exp(similarity / temperature)``.

    Args:
        pooled: Training features ``(n, F)``.
        labels: Their classes ``(n,)``.
        outputs: Number of classes.
        k: Neighbours that vote; with fewer training samples, all of them.
        temperature: Small values let the nearest decide.
    """

    reads = "pooled"
    mean: Tensor
    bank: Tensor
    labels: Tensor
    settings: Tensor

    def __init__(self, pooled: Tensor, labels: Tensor, outputs: int, k: int, temperature: float) -> None:
        super().__init__()
        self.outputs = outputs
        # Features of one encoder share a large mean, which would make all cosines alike.
        self.register_buffer("mean", pooled.mean(dim=0))
        self.register_buffer("bank", F.normalize(pooled - self.mean, dim=-1))
        self.register_buffer("labels", labels)
        self.register_buffer("settings", torch.tensor([float(k), temperature], dtype=torch.float64))

    def forward(self, pooled: Tensor) -> Tensor:
        """Log probabilities ``(B, outputs)``; classes without a neighbour get the logarithm of 1e-12."""
        k, temperature = min(int(self.settings[0]), len(self.bank)), float(self.settings[1])
        similarity = F.normalize(pooled - self.mean, dim=-1) @ self.bank.T
        nearest, rows = similarity.topk(k, dim=-1)
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(pooled), self.outputs).scatter_add_(1, self.labels[rows], weights)
        return (votes / votes.sum(dim=-1, keepdim=True)).clamp_min(1e-12).log()


Probe = AttentiveProbe | LinearProbe | KNNProbe


def parameter_count(module: nn.Module) -> int:
    """Number of trained values; a k-NN has none."""
    return sum(parameter.numel() for parameter in module.parameters())
