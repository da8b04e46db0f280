"""The decoder: queries attend to each other, then to the tokens of all sensors (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_rates, check_whole
from repertory.core.problem import Problem


class Attention(nn.Module):
    """Multi-head attention with one projection of queries, keys and values, by `scaled_dot_product_attention`.

    Args:
        dim: C.
        heads: number of heads.
        dropout: of the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Query (B, Q, C), key and value (B, N, C), allowed (Q, N) -> (B, Q, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, allowed, dropout).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward network; each with a residual, then a LayerNorm.

    The weights of the cross-attention have no dropout, as in the authors' code.

    Args:
        dim: C.
        heads: number of heads.
        ffn: width of the feed-forward network.
        dropout: of residuals and of self-attention weights.
    """

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(dim, heads, dropout), Attention(dim, heads)])
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.ReLU(), nn.Linear(ffn, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tensor, query_pos: Tensor, key_pos: Tensor, allowed: Tensor | None) -> Tensor:
        """Queries (B, Q, C), tokens (B, N, C), positions of both, allowed (Q, Q) -> (B, Q, C)."""
        own, cross = self.attentions
        q = x + query_pos
        x = self.norms[0](x + self.drop(own(q, q, x, allowed)))
        x = self.norms[1](x + self.drop(cross(x + query_pos, tokens + key_pos, tokens)))
        return self.norms[2](x + self.ffn(x))


class Decoder(nn.Module):
    """Layers whose outputs are all returned, each after a LayerNorm that they share.

    Args:
        dim: C.
        heads: number of heads.
        layers: L.
        ffn: width of the feed-forward networks.
        dropout: of residuals and of self-attention weights.

    Raises:
        Problem: an argument out of its range, or heads that do not divide the width.

    Example:
        >>> decoder = Decoder(16, 2, layers=3, ffn=32)
        >>> decoder(torch.rand(1, 7, 16), torch.rand(1, 7, 16), torch.rand(1, 5, 16)).shape
        torch.Size([3, 1, 5, 16])
    """

    def __init__(self, dim: int = 256, heads: int = 8, layers: int = 6, ffn: int = 1024, dropout: float = 0.1) -> None:
        check_whole("Decoder", dim=dim, heads=heads, layers=layers, ffn=ffn)
        check_rates("Decoder", dropout=dropout)
        if dim % heads:
            raise Problem(f"dim={dim}, heads={heads}", "Decoder", "give a number of heads that divides dim")
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn, dropout) for _ in range(layers))
        self.post_norm = nn.LayerNorm(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform for all weights of two dimensions."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, key_pos: Tensor, query_pos: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) and their positions, positions of queries (B, Q, C) -> (L, B, Q, C).

        Args:
            tokens: of all sensors.
            key_pos: same shape.
            query_pos: the queries have no content at first.
            allowed: (Q, Q), which queries each query sees; None: all.
        """
        x, outputs = torch.zeros_like(query_pos), []
        for layer in self.layers:
            x = layer(x, tokens, query_pos, key_pos, allowed)
            outputs.append(self.post_norm(x))
        return torch.nan_to_num(torch.stack(outputs))
