"""Text encoder, fusion encoder and text decoder: layers of BERT (post-norm), some with cross-attention.

Names of parameters are those of BERT, so that released weights load by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_positive, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.dropout import Dropout, dropout

EPS = 1e-12
MASKED = -10_000.0
"""Added to the logits of keys that are padding or come later."""


@dataclass(frozen=True)
class TextSizes:
    """Sizes of the three text networks.

    Args:
        vocab: number of tokens.
        hidden: width.
        heads: of the attention.
        intermediate: hidden width of the feed-forward layers.
        positions: most tokens of a text.
        encoder_layers: of the text encoder.
        built_layers: of the fusion encoder; the last `fusion_layers` of them run.
        fusion_layers: of the fusion encoder that run.
        stride_layer: of the layers that run, each so-manieth but the first attends to video and text together.
        decoder_layers: of the decoder.
        drop_rate: dropout of states and attention.
        init_std: standard deviation of the initial weights; narrow networks need more.

    Raises:
        Problem: not whole numbers, or sizes that do not fit together.
    """

    vocab: int = 30_522
    hidden: int = 768
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    encoder_layers: int = 6
    built_layers: int = 12
    fusion_layers: int = 6
    stride_layer: int = 6
    decoder_layers: int = 12
    drop_rate: float = 0.1
    init_std: float = 0.02

    def __post_init__(self) -> None:
        whole = {name: value for name, value in vars(self).items() if name not in ("drop_rate", "init_std")}
        check_whole("TextSizes", **whole)
        check_rates("TextSizes", drop_rate=self.drop_rate)
        check_positive("TextSizes", init_std=self.init_std)
        if self.hidden % self.heads or self.fusion_layers > self.built_layers:
            raise Problem(
                f"hidden={self.hidden}, heads={self.heads}, fusion_layers={self.fusion_layers} of {self.built_layers}",
                "TextSizes",
                "hidden must be a multiple of heads, and no more fusion layers can run than are built",
            )


# -- layers -------------------------------------------------------------------------------------


class Projections(nn.Module):
    """Queries, keys and values; called `self` in BERT."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.heads, self.drop_rate = sizes.heads, sizes.drop_rate
        self.query = nn.Linear(sizes.hidden, sizes.hidden)
        self.key = nn.Linear(sizes.hidden, sizes.hidden)
        self.value = nn.Linear(sizes.hidden, sizes.hidden)

    def forward(self, x: Tensor, others: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, d)
            for y in (self.query(x), self.key(others), self.value(others))
        )
        drop = self.drop_rate if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, bias, drop).transpose(1, 2).flatten(2)


class Joined(nn.Module):
    """Linear, dropout, shortcut, layer norm."""

    def __init__(self, dim: int, sizes: TextSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, sizes.hidden)
        self.LayerNorm = nn.LayerNorm(sizes.hidden, EPS)
        self.drop_rate = sizes.drop_rate

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.LayerNorm(dropout(self.dense(x), self.drop_rate, self.training) + shortcut)


class Attention(nn.Module):
    """x (B, L, d) attends to others (B, M, d); bias (B, 1, 1 or L, M) is added to the logits."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.add_module("self", Projections(sizes))
        self.output = Joined(sizes.hidden, sizes)

    def forward(self, x: Tensor, others: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.output(self.get_submodule("self")(x, others, bias), x)


class Wide(nn.Module):
    """Linear and GELU."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.hidden, sizes.intermediate)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """Self-attention, cross-attention where there is one, feed-forward."""

    def __init__(self, sizes: TextSizes, cross: bool) -> None:
        super().__init__()
        self.attention = Attention(sizes)
        self.crossattention = Attention(sizes) if cross else None
        self.intermediate = Wide(sizes)
        self.output = Joined(sizes.intermediate, sizes)

    def forward(self, x: Tensor, bias: Tensor | None, others: Tensor | None = None) -> Tensor:
        x = self.attention(x, x, bias)
        if others is not None and self.crossattention is not None:
            x = self.crossattention(x, others)
        return self.output(self.intermediate(x), x)


class Layers(nn.Module):
    """A row of layers, called `encoder` in BERT."""

    def __init__(self, sizes: TextSizes, count: int, cross: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(sizes, cross) for _ in range(count))


class Embeddings(nn.Module):
    """Words, positions from 0, and the first token type: ids (B, L) -> (B, L, d)."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocab, sizes.hidden)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.hidden)
        self.token_type_embeddings = nn.Embedding(2, sizes.hidden)
        self.LayerNorm = nn.LayerNorm(sizes.hidden, EPS)
        self.dropout = Dropout(sizes.drop_rate)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        x = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))


def padding_bias(mask: Tensor, like: Tensor) -> Tensor:
    """Mask (B, M), True for tokens -> (B, 1, 1, M), to add to logits."""
    return (~mask.bool()[:, None, None]).to(like.dtype) * MASKED


def causal_bias(mask: Tensor, like: Tensor) -> Tensor:
    """Mask (B, L) -> (B, 1, L, L): a token sees itself and those before it that are no padding."""
    seen = mask.bool()[:, None, None] & torch.ones(2 * mask.shape[1:], dtype=torch.bool, device=mask.device).tril()
    return (~seen).to(like.dtype) * MASKED


# -- networks -----------------------------------------------------------------------------------


class TextEncoder(nn.Module):
    """The first layers of BERT.

    Shape:
        ids (B, L), mask (B, L) -> (B, L, d).
    """

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.encoder = Layers(sizes, sizes.encoder_layers, cross=False)
        _init(self, sizes.init_std)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embeddings(ids)
        bias = padding_bias(mask, x)
        for layer in self.encoder.layer:
            x = layer(x, bias)
        return x


class FusionEncoder(nn.Module):
    """Text reads video; now and then both attend to both (the skip-connected fusion of mPLUG).

    Shape:
        text (B, L, d), mask (B, L), video (B, M, d) -> video (B, M, d), text (B, L, d).
    """

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.fusion_layers, self.stride_layer = sizes.fusion_layers, sizes.stride_layer
        self.encoder = Layers(sizes, sizes.built_layers, cross=True)
        _init(self, sizes.init_std)

    def forward(self, text: Tensor, mask: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        bias = padding_bias(mask, text)
        length = video.shape[1]
        joint = F.pad(bias, (length, 0))  # no token of the video is padding
        running = self.encoder.layer[len(self.encoder.layer) - self.fusion_layers :]
        for j, layer in enumerate(running):
            if j and j % self.stride_layer == 0:
                both = layer(torch.cat([video, text], 1), joint)
                video, text = video + both[:, :length], both[:, length:]
            else:
                text = layer(text, bias, video)
        return video, text


class LMHead(nn.Module):
    """States (B, L, d) -> logits (B, L, vocab)."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(sizes.hidden, sizes.hidden), "LayerNorm": nn.LayerNorm(sizes.hidden, EPS)}
        )
        self.decoder = nn.Linear(sizes.hidden, sizes.vocab)
        _init(self, sizes.init_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform["LayerNorm"](F.gelu(self.transform["dense"](x))))


class TextDecoder(nn.Module):
    """A causal language model that reads states of video and text.

    Shape:
        ids (B, L), mask (B, L), states (B, M, d) -> logits (B, L, vocab) of the tokens after each.
    """

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.encoder = Layers(sizes, sizes.decoder_layers, cross=True)
        self.head = LMHead(sizes)
        _init(self, sizes.init_std)

    def forward(self, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        x = self.embeddings(ids)
        bias = causal_bias(mask, x)
        for layer in self.encoder.layer:
            x = layer(x, bias, states)
        return self.head(x)


def _init(network: nn.Module, std: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
