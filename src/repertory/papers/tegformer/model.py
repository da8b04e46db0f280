"""TegFormer: a Transformer that writes an essay from a set of topics.

Equations and sizes follow the authors' code; the paper is Qi, Liu, Zuo, Chen and Zhang, 2022.

Shapes: B essays, S topics, L tokens, V tokens in the vocabulary, d channels, W extension words a topic, G channels of
GPT-2, E of the domain embedding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_choice, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.dropout import Dropout
from repertory.nn.encoders import build_encoder, new_cache

Fusion = Literal["gate", "sigmoid", "domain", "gpt2"]
FUSIONS: tuple[Fusion, ...] = ("gate", "sigmoid", "domain", "gpt2")
MASKED = -1e9
"""Score of what is masked: where all is masked, the weights are uniform."""
EXTENSION_HEADS = 4


class LayerNorm(nn.Module):
    """y = w (x - mean) / (std + ε) + b, with the unbiased standard deviation. Not torch's: ε stands beside it."""

    def __init__(self, d: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, -1, keepdim=True)
        return self.weight * ((x - mean) / (var.sqrt() + self.eps)) + self.bias


class Sublayer(nn.Module):
    """x + dropout(f(norm(x)))."""

    def __init__(self, d: int, drop: float) -> None:
        super().__init__()
        self.norm, self.drop = LayerNorm(d), Dropout(drop)

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return x + self.drop(f(self.norm(x)))


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    Shape:
        x (B, L, d), y (B, N, d), mask broadcastable to (B, 1, L, N), True where attended -> (B, L, d).
    """

    def __init__(self, d: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, heads, N, d / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, heads, N, d / heads) each."""
        return self.split(self.key(y)), self.split(self.value(y))

    def attend(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention over keys and values that are there already."""
        bias = None if mask is None else MASKED * (~mask).to(x.dtype)
        drop = self.drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(self.split(self.query(x)), k, v, bias, drop)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        return self.attend(x, *self.keys(y), mask)

    def weights(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """What `forward` weighs with, (B, heads, L, N)."""
        scores = self.split(self.query(x)) @ self.keys(y)[0].transpose(-1, -2)
        return scores.div(math.sqrt(x.shape[-1] / self.heads)).masked_fill(~mask, MASKED).softmax(-1)


class TopicExtension(nn.Module):
    """Topic-Extension: each topic attends to its own extension words; 4 heads, scores not scaled, no output projection.

    Shape:
        x (B, S, d), words (B, S, W, d), mask (B, S, W), True at words -> (B, S, d). A topic without words receives the
        mean of the padding word.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(d, d) for _ in range(3))

    def weights(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Weights of the words, (B, S, W, heads)."""
        heads = (EXTENSION_HEADS, -1)
        q, k = self.query(x).unflatten(-1, heads), self.key(words).unflatten(-1, heads)
        scores = torch.einsum("bshc,bswhc->bswh", q, k)
        return scores.masked_fill(~mask[..., None], MASKED).softmax(2)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        v = self.value(words).unflatten(-1, (EXTENSION_HEADS, -1))
        return torch.einsum("bswh,bswhc->bshc", self.weights(x, words, mask), v).flatten(2)


def feed_forward(d: int, ff: int, drop: float) -> nn.Sequential:
    """Linear, ReLU, dropout, linear."""
    return nn.Sequential(nn.Linear(d, ff), nn.ReLU(), Dropout(drop), nn.Linear(ff, d))


class EncoderLayer(nn.Module):
    """Self-attention over topics, Topic-Extension, feed-forward. No positions: topics are a set."""

    def __init__(self, d: int, ff: int, heads: int, drop: float, extension: bool) -> None:
        super().__init__()
        self.attention = Attention(d, heads, drop)
        self.extension = TopicExtension(d) if extension else None
        self.feed_forward = feed_forward(d, ff, drop)
        self.sublayers = nn.ModuleList(Sublayer(d, drop) for _ in range(3 if extension else 2))

    def forward(self, x: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        first, *extend, last = cast("list[Sublayer]", [*self.sublayers])
        x = first(x, lambda z: self.attention(z, z, mask))
        if self.extension is not None:
            extension, norm = self.extension, extend[0].norm  # the words pass through the norm of the topics
            x = extend[0](x, lambda z: extension(z, norm(words), word_mask))
        return last(x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the topics, feed-forward."""

    def __init__(self, d: int, ff: int, heads: int, drop: float) -> None:
        super().__init__()
        self.attention, self.cross = Attention(d, heads, drop), Attention(d, heads, drop)
        self.feed_forward = feed_forward(d, ff, drop)
        self.sublayers = nn.ModuleList(Sublayer(d, drop) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        x = self.sublayers[0](x, lambda z: self.attention(z, z, mask))
        x = self.sublayers[1](x, lambda z: self.cross(z, memory, memory_mask))
        return self.sublayers[2](x, self.feed_forward)


class EmbeddingFusion(nn.Module):
    """Decoder input from GPT-2's hidden states h and the domain embedding e of the same tokens.

    a = w [h; e] + b, one number a position; fused = a h + (1 - a) e; then a linear map to d channels.

    Args:
        vocab, width, domain, d: V, G, E and d.
        fusion: "gate" as published, "sigmoid" of a, "domain": e alone, "gpt2": h alone.

    Shape:
        ids (B, L), h (B, L, G) -> (B, L, d). `h` is not used by "domain".
    """

    def __init__(self, vocab: int, width: int, domain: int, d: int, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion
        if fusion != "gpt2":
            self.table, self.up = nn.Embedding(vocab, domain), nn.Linear(domain, width)
        if fusion in ("gate", "sigmoid"):
            self.gate = nn.Linear(2 * width, 1)
        self.out = nn.Linear(width, d)

    def share(self, h: Tensor, e: Tensor) -> Tensor:
        """a, (B, L, 1): GPT-2's share, any number without the sigmoid."""
        a = self.gate(torch.cat([h, e], -1))
        return a.sigmoid() if self.fusion == "sigmoid" else a

    def forward(self, ids: Tensor, h: Tensor) -> Tensor:
        if self.fusion == "gpt2":
            return self.out(h)
        e = self.up(self.table(ids))
        if self.fusion == "domain":
            return self.out(e)
        a = self.share(h, e)
        return self.out(a * h + (1 - a) * e)


def sinusoids(start: int, length: int, d: int, device: torch.device) -> Tensor:
    """Sinusoidal positions start, ..., start + length - 1, (length, d)."""
    place = torch.arange(start, start + length, device=device)[:, None]
    angle = place * 10_000 ** (-torch.arange(0, d, 2, device=device) / d)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d]


class TegFormer(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Log-probabilities of an essay's tokens, given its topics.

    Args:
        vocab: tokens, V.
        topics: rows of the topic table.
        words: extension words, K; their table has one row more, the padding word, which is trained too.
        gpt2: configuration of a causal model of transformers, frozen; None: without, for fusion = "domain".
        d, ff, heads, encoder_layers, decoder_layers, drop, domain: sizes.
        extension: with the Topic-Extension sublayer.
        fusion: see `EmbeddingFusion`.
        positions: add sinusoidal positions to the decoder's input. As published it has none but GPT-2's own.
        most_words: extension words a topic, W.
        padding: number of the padding token.
        gpt2_dropout: GPT-2 is trained along in training mode, with its dropout, as in the authors' code.

    Shape:
        topics (B, S), mask (B, S) bool, ids (B, L) -> (B, L, V).

    Raises:
        Problem: a size out of range, or a fusion that needs GPT-2 without one.
    """

    neighbours: Tensor
    """Extension words of each topic, (topics, W); `words` stands for none."""

    def __init__(
        self,
        vocab: int,
        topics: int,
        words: int,
        gpt2: dict[str, Any] | None = None,
        d: int = 512,
        ff: int = 2048,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        drop: float = 0.1,
        domain: int = 32,
        extension: bool = True,
        fusion: Fusion = "gate",
        positions: bool = False,
        most_words: int = 8,
        padding: int = 0,
        gpt2_dropout: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(vocab, topics, gpt2, d, ff, heads, encoder_layers, decoder_layers, drop, domain, extension)
        check_choice("TegFormer", FUSIONS, fusion=fusion)
        if gpt2 is None and fusion != "domain":
            raise Problem(f'fusion="{fusion}" needs a GPT-2', "TegFormer", 'give its config, or fusion="domain"')
        self.vocab, self.width, self.words, self.padding = vocab, d, words, padding
        self.positions, self.gpt2_dropout = positions, gpt2_dropout
        self.gpt2: Any = None if gpt2 is None else build_encoder(gpt2, "AutoModelForCausalLM").requires_grad_(False)
        self.topic_table, self.word_table = nn.Embedding(topics, d), nn.Embedding(words + 1, d)
        self.register_buffer("neighbours", torch.full((topics, most_words), words))
        width = 768 if self.gpt2 is None else self.gpt2.config.hidden_size
        self.fusion = EmbeddingFusion(vocab, width, domain, d, fusion)
        self.encoder = stack(EncoderLayer(d, ff, heads, drop, extension), encoder_layers)
        self.decoder = stack(DecoderLayer(d, ff, heads, drop), decoder_layers)
        self.encoder_norm, self.decoder_norm = LayerNorm(d), LayerNorm(d)
        self.generator = nn.Linear(d, vocab)
        for part in (self.encoder, self.decoder, self.generator):
            for weight in part.parameters():
                if weight.ndim > 1:
                    nn.init.xavier_uniform_(weight)

    def train(self, mode: bool = True) -> TegFormer:
        """As usual; GPT-2 stays in evaluation mode unless `gpt2_dropout`."""
        super().train(mode)
        if self.gpt2 is not None and not self.gpt2_dropout:
            self.gpt2.eval()
        return self

    @property
    def reads_gpt2(self) -> bool:
        """Whether the decoder's input depends on GPT-2."""
        return self.fusion.fusion != "domain"

    def encode(self, topics: Tensor, mask: Tensor) -> Tensor:
        """Topics (B, S), mask (B, S) -> (B, S, d)."""
        numbers = self.neighbours[topics]  # (B, S, W)
        words = self.word_table(numbers)  # the same for every layer
        x = self.topic_table(topics)
        for layer in self.encoder:
            x = layer(x, mask[:, None, None], words, numbers != self.words)
        return self.encoder_norm(x)

    def states(self, ids: Tensor) -> Tensor:
        """GPT-2's last hidden states of tokens (B, L), after its final norm; no mask is passed. (B, L, G)."""
        with torch.no_grad():
            return self.gpt2.base_model(input_ids=ids).last_hidden_state

    def embed(self, ids: Tensor, states: Tensor | None = None) -> Tensor:
        """Decoder input, (B, L, d)."""
        if states is None:
            states = self.states(ids) if self.reads_gpt2 else ids  # "domain" does not look at it
        x = self.fusion(ids, states)
        return x + sinusoids(0, ids.shape[1], self.width, ids.device) if self.positions else x

    def decode(self, memory: Tensor, mask: Tensor, ids: Tensor, states: Tensor | None = None) -> Tensor:
        """Log-probabilities (B, L, V) of the tokens after each of `ids`, given the encoded topics."""
        x = self.embed(ids, states)
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        seen = causal & (ids != self.padding)[:, None, None]  # (B, 1, L, L)
        for layer in self.decoder:
            x = layer(x, seen, memory, mask[:, None, None])
        return self.generator(self.decoder_norm(x)).log_softmax(-1)

    def forward(self, topics: Tensor, mask: Tensor, ids: Tensor, states: Tensor | None = None) -> Tensor:
        """See the class; `states`: those of GPT-2, where they are known already."""
        return self.decode(self.encode(topics, mask), mask, ids, states)

    def begin(self, topics: Tensor, mask: Tensor, rows: int = 1) -> CachedDecoder:
        """A decoder that has read the topics and writes `rows` texts for each; see `repertory.tasks.language`."""
        memory = self.encode(topics, mask).repeat_interleave(rows, 0)
        return CachedDecoder(self, memory, mask.repeat_interleave(rows, 0))


def stack(layer: nn.Module, count: int) -> nn.ModuleList:
    """Copies of one layer."""
    return nn.ModuleList(copy.deepcopy(layer) for _ in range(count))


class CachedDecoder:
    """One token at a time: keys and values of all layers are kept, and those of GPT-2.

    Args:
        model: in evaluation mode.
        memory: (B, S, d), encoded topics.
        mask: (B, S).
    """

    def __init__(self, model: TegFormer, memory: Tensor, mask: Tensor) -> None:
        self.model, self.mask = model, mask[:, None, None]
        layers = cast("list[DecoderLayer]", [*model.decoder])
        self.topics = [layer.cross.keys(memory) for layer in layers]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(layers)
        self.gpt2 = new_cache(model.gpt2.base_model) if model.reads_gpt2 else None
        self.place = 0

    def step(self, ids: Tensor) -> Tensor:
        """The next tokens (B,) -> log-probabilities (B, V) of those after them."""
        model, states = self.model, ids[:, None]
        if self.gpt2 is not None:
            states = model.gpt2.base_model(input_ids=states, **self.gpt2.arguments).last_hidden_state
        x = model.fusion(ids[:, None], states)  # (B, 1, d)
        if model.positions:
            x = x + sinusoids(self.place, 1, model.width, ids.device)
        for k, layer in enumerate(cast("list[DecoderLayer]", [*model.decoder])):
            first, second, third = cast("list[Sublayer]", [*layer.sublayers])
            x = first(
                x, lambda z, k=k, layer=layer: layer.attention.attend(z, *self._grown(k, layer.attention.keys(z)))
            )
            x = second(x, lambda z, k=k, layer=layer: layer.cross.attend(z, *self.topics[k], self.mask))
            x = third(x, layer.feed_forward)
        self.place += 1
        return model.generator(model.decoder_norm(x))[:, 0].log_softmax(-1)

    def _grown(self, k: int, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of layer `k` with those of the new token."""
        past = self.past[k]
        grown = new if past is None else (torch.cat([past[0], new[0]], 2), torch.cat([past[1], new[1]], 2))
        self.past[k] = grown
        return grown

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows; those of one text have the same topics."""
        self.past = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.past]
        if self.gpt2 is not None:
            self.gpt2.values.reorder_cache(rows)


def check_arguments(
    vocab: int, topics: int, gpt2: dict[str, Any] | None, d: int, ff: int, heads: int, encoder_layers: int,
    decoder_layers: int, drop: float, domain: int, extension: bool,
) -> None:  # fmt: skip
    """Raise `Problem` for sizes that make no TegFormer."""
    where = "TegFormer"
    check_whole(where, 2, vocab=vocab, d=d)  # the unbiased deviation of one channel does not exist
    check_whole(
        where, topics=topics, ff=ff, heads=heads, encoder_layers=encoder_layers, decoder_layers=decoder_layers,
        domain=domain,
    )  # fmt: skip
    check_rates(where, drop=drop)
    if d % heads or (extension and d % EXTENSION_HEADS):
        raise Problem(
            f"d={d} cannot be divided among {heads} heads and {EXTENSION_HEADS} of Topic-Extension", where, "change d"
        )
    if gpt2 is not None and gpt2.get("vocab_size", vocab) != vocab:
        raise Problem(
            f"GPT-2's vocabulary has {gpt2['vocab_size']} tokens, the tokenizer's {vocab}",
            where,
            "give the tokenizer that GPT-2 was trained with",
        )


def smoothed_loss(log_probabilities: Tensor, gold: Tensor, smoothing: float = 0.1, padding: int = 0) -> Tensor:
    """KL divergence from the smoothed target, summed over the tokens that are not padding.

    The target is 1 - ε at the gold token, ε / (V - 2) at the others, 0 at padding; torch's `label_smoothing` spreads ε
    over all V. Its entropy does not depend on the prediction, and is added in closed form.

    Args:
        log_probabilities: (B, L, V).
        gold: (B, L), the tokens to predict; those equal to `padding` do not count.
        smoothing: ε.
        padding: number of the padding token.

    Returns:
        A scalar; divide by the number of tokens.

    Example:
        >>> log_probabilities = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
        >>> smoothed_loss(log_probabilities, torch.tensor([[1]]), smoothing=0.0).exp()
        tensor(2.)
    """
    size = log_probabilities.shape[-1]
    rest = smoothing / (size - 2)
    at_gold = log_probabilities.gather(-1, gold[..., None])[..., 0]
    others = log_probabilities.sum(-1) - log_probabilities[..., padding] - at_gold
    entropy = sum(mass * math.log(share) for mass, share in ((1 - smoothing, 1 - smoothing), (smoothing, rest)) if mass)
    losses = entropy - (1 - smoothing) * at_gold - rest * others
    return losses[gold != padding].sum()
