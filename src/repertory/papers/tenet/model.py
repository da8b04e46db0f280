"""TENET: an axial transformer over agents, time and map, with trajectory tokens and a Temporal Flow Header.

Wang et al., "TENET: Transformer Encoding Network for Effective Temporal Flow on Motion Prediction", 2022. A
reconstruction: kinds of attention, trajectory tokens and the three headers are the report's; layer counts, widths, loss
weights and the shape of the pyramid are ours, since they could not be read.

Shapes: B scenarios, A agents, T observed steps (or tokens of several), M map polylines of L points, K futures of F
tokens with s steps each, width D. Coordinates are metres in the frame of the focal agent (index 0), x is its heading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_rates, check_whole
from repertory.core.problem import Problem
from repertory.papers.tenet.scenes import (
    AGENT_FEATURES,
    AGENT_VALID,
    LANE_FEATURES,
    LANE_VALID,
    agent_features,
    lane_features,
)

UNIT = 10.0
"""Metres that a network's number 1 stands for, so that inputs and outputs are of order 1."""
_SMALL = 0.1
"""Factor of the initial weights of the regression header's last layer."""


class Forecast(NamedTuple):
    """What the network says.

    Attributes:
        trajectories: (B, K, F * s, 2) in metres, in the focal agent's frame.
        logits: (B, K); probabilities are their softmax.
        features: (B, K, F, D) of the trajectory tokens, for the Temporal Flow Header.
    """

    trajectories: Tensor
    logits: Tensor
    features: Tensor


class Attention(nn.Module):
    """Multi-head attention with a mask of keys; a query without any valid key gets zeros."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        """x (N, Q, D), keys (N, S, D), valid (N, S) -> (N, Q, D)"""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, Q, D / heads)
        k, v = self.key_value(keys).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        some = valid.any(-1, keepdim=True)  # (N, 1)
        mask = (valid | ~some)[:, None, None]  # softmax over no keys at all would be NaN
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2)) * some[..., None]


class Block(nn.Module):
    """Pre-norm block: x + MHA(LN(x)), then x + MLP(LN(x)).

    Args:
        dim: D.
        heads: of attention.
        dropout: on attention weights and on both residual branches.
        cross: attend to other tokens, which have a norm of their own.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, *, cross: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm_keys = nn.LayerNorm(dim) if cross else None
        self.attention = Attention(dim, heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, keys: Tensor | None = None) -> Tensor:
        """x (N, Q, D), valid (N, S), keys (N, S, D) or x itself -> (N, Q, D)"""
        query = self.norm1(x)
        source = query if self.norm_keys is None or keys is None else self.norm_keys(keys)
        x = x + self.drop(self.attention(query, source, valid))
        return x + self.drop(self.mlp(self.norm2(x)))


class MapEmbedding(nn.Module):
    """A polyline's points, each by itself, and their maximum: (B, M, L, d_M) -> (B, M, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(LANE_FEATURES, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, lanes: Tensor) -> Tensor:
        x, valid = self.points(lanes), lanes[..., LANE_VALID, None] > 0
        x = x.masked_fill(~valid, torch.finfo(x.dtype).min).amax(2)
        return x.masked_fill(~valid.any(2), 0.0)


class EncoderRound(nn.Module):
    """Attention along time per agent, along agents per step, and from every agent token to the map."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.time, self.agents = Block(dim, heads, dropout), Block(dim, heads, dropout)
        self.map = Block(dim, heads, dropout, cross=True)

    def forward(self, x: Tensor, seen: Tensor, streets: Tensor, mapped: Tensor) -> Tensor:
        """x (B, A, T, D), seen (B, A, T), streets (B, M, D), mapped (B, M) -> (B, A, T, D)"""
        b, a, t, _ = x.shape
        x = self.time(x.flatten(0, 1), seen.flatten(0, 1))  # (B A, T, D)
        x = x.unflatten(0, (b, a)).transpose(1, 2).flatten(0, 1)  # (B T, A, D)
        x = self.agents(x, seen.transpose(1, 2).flatten(0, 1))
        x = x.unflatten(0, (b, t)).transpose(1, 2).flatten(1, 2)  # (B, A T, D)
        return self.map(x, mapped, streets).unflatten(1, (a, t))


class DecoderLayer(nn.Module):
    """Trajectory tokens attend to the other modes, to the other future steps, and to the scene."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.modes, self.time = Block(dim, heads, dropout), Block(dim, heads, dropout)
        self.scene = Block(dim, heads, dropout, cross=True)

    def forward(self, x: Tensor, scene: Tensor, valid: Tensor) -> Tensor:
        """x (B, K, F, D), scene (B, S, D), valid (B, S) -> (B, K, F, D)"""
        b, k, f, _ = x.shape
        x = x.transpose(1, 2).flatten(0, 1)  # (B F, K, D)
        x = self.modes(x, valid.new_ones(x.shape[:2]))
        x = x.unflatten(0, (b, f)).transpose(1, 2).flatten(0, 1)  # (B K, F, D)
        x = self.time(x, valid.new_ones(x.shape[:2]))
        x = x.unflatten(0, (b, k)).flatten(1, 2)  # (B, K F, D)
        return self.scene(x, valid, scene).unflatten(1, (k, f))


class TENET(nn.Module, PyTorchModelHubMixin):
    """The network as it is used: encoder, decoder, regression and score headers.

    The Temporal Flow Header is no part of it: it serves training alone, see `TemporalFlowHeader`.

    Args:
        dim: D, a multiple of heads and of 8.
        heads: of attention.
        encoder_layers: rounds of attention along time, agents and map.
        decoder_layers: of the trajectory tokens.
        modes: K, futures.
        history: T, observed steps.
        future: steps to predict, a multiple of step_points.
        step_points: s, steps of a trajectory token.
        patch: observed steps of an agent token; 1: a token for each step. More is faster; T tokens become T / patch.
        dropout: in the attention blocks.

    Raises:
        Problem: sizes that do not go together.

    Example:
        >>> net = TENET(dim=16, heads=2, encoder_layers=1, decoder_layers=1).eval()
        >>> out = net(torch.zeros(2, 3, 50, 19), torch.zeros(2, 4, 20, 10))
        >>> out.trajectories.shape, out.logits.shape
        (torch.Size([2, 6, 60, 2]), torch.Size([2, 6]))
    """

    def __init__(
        self,
        dim: int = 128,
        heads: int = 8,
        encoder_layers: int = 3,
        decoder_layers: int = 2,
        modes: int = 6,
        history: int = 50,
        future: int = 60,
        step_points: int = 5,
        patch: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.history, self.future, self.modes, self.patch = history, future, modes, patch
        check_whole("TENET", dim=dim, heads=heads, encoder_layers=encoder_layers, decoder_layers=decoder_layers)
        check_whole("TENET", modes=modes, future=future, step_points=step_points, patch=patch)
        check_whole("TENET", 2, history=history)
        check_rates("TENET", dropout=dropout)
        _check_multiples(("dim", dim, "heads", heads), ("dim", dim, "groups of the pyramid's norms", 8))
        _check_multiples(("future", future, "step_points", step_points), ("history", history, "patch", patch))
        self.agent_embedding = nn.Sequential(nn.Linear(patch * AGENT_FEATURES, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.time_embedding = nn.Parameter(torch.empty(history // patch, dim))
        self.map_embedding = MapEmbedding(dim)
        self.map_block = Block(dim, heads, dropout)
        self.encoder = nn.ModuleList(EncoderRound(dim, heads, dropout) for _ in range(encoder_layers))
        # Tokens (K, F, D): the mode's embedding plus that of the future time.
        self.mode_embedding = nn.Parameter(torch.empty(modes, dim))
        self.future_embedding = nn.Parameter(torch.empty(future // step_points, dim))
        self.decoder = nn.ModuleList(DecoderLayer(dim, heads, dropout) for _ in range(decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.regression = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 2 * step_points))
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.agent_scale: Tensor
        self.lane_scale: Tensor
        self.register_buffer("agent_scale", _scale(AGENT_FEATURES, (0, 1, 4, 5)), persistent=False)
        self.register_buffer("lane_scale", _scale(LANE_FEATURES, (0, 1)), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; modes start far apart, lest one mode win everywhere."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.time_embedding, std=0.02)
        nn.init.normal_(self.mode_embedding, std=1.0)
        nn.init.normal_(self.future_embedding, std=1.0)
        last = self.regression[-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter *= _SMALL

    def masks(self, agents: Tensor, lanes: Tensor) -> tuple[Tensor, Tensor]:
        """Which agent tokens (B, A, T) and polylines (B, M) are valid: those with a valid step or point."""
        seen = (agents[..., AGENT_VALID] > 0).unflatten(2, (-1, self.patch)).any(3)
        return seen, (lanes[..., LANE_VALID] > 0).any(2)

    def encode(self, agents: Tensor, lanes: Tensor) -> tuple[Tensor, Tensor]:
        """agents (B, A, T, d_A), lanes (B, M, L, d_M) -> tokens (B, A, T, D) and (B, M, D)"""
        seen, mapped = self.masks(agents, lanes)
        patches = (agents * self.agent_scale).unflatten(2, (-1, self.patch)).flatten(3)
        x = self.agent_embedding(patches) + self.time_embedding
        streets = self.map_block(self.map_embedding(lanes * self.lane_scale), mapped)
        for layer in self.encoder:
            x = layer(x, seen, streets, mapped)
        return x, streets

    def decode(self, agents: Tensor, streets: Tensor, seen: Tensor, mapped: Tensor) -> Tensor:
        """Tokens of the scene -> features (B, K, F, D) of the trajectory tokens.

        Keys are the focal agent's T tokens, the last step of all agents, and the map.
        """
        scene = torch.cat((agents[:, 0], agents[:, :, -1], streets), 1)
        valid = torch.cat((seen[:, 0], seen[:, :, -1], mapped), 1)
        x = self.mode_embedding[:, None] + self.future_embedding  # (K, F, D)
        x = x.expand(agents.shape[0], -1, -1, -1)
        for layer in self.decoder:
            x = layer(x, scene, valid)
        return self.norm(x)

    def forward(self, agents: Tensor, lanes: Tensor) -> Forecast:
        """agents (B, A, T, 19), lanes (B, M, L, 10), see `scenes`; A >= 1, M >= 0."""
        if lanes.shape[1] == 0:
            lanes = lanes.new_zeros(lanes.shape[0], 1, *lanes.shape[2:])  # no map: one invalid polyline
        x, streets = self.encode(agents, lanes)
        features = self.decode(x, streets, *self.masks(agents, lanes))
        points = UNIT * self.regression(features).unflatten(-1, (-1, 2)).flatten(2, 3)  # (B, K, F s, 2)
        return Forecast(points, self.score(features.mean(2)).squeeze(-1), features)

    def forecast(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Trajectories (B, K, F s, 2) and probabilities (B, K) of a batch of `scenes.collate`."""
        out = self(agent_features(batch), lane_features(batch))
        return out.trajectories, out.logits.softmax(-1)


class TemporalFlowHeader(nn.Module):
    """Reconstructs the observed history from features of the future, in training alone.

    A pyramid along future time: two strided convolutions down, lateral 1x1 convolutions, nearest upsampling and
    addition on the way up, a smoothing convolution; then linear interpolation to T steps. The report names a pyramid
    that predicts in reverse; its shape is ours.

    Args:
        dim: D, a multiple of 8.
        history: T.

    Example:
        >>> TemporalFlowHeader(16, history=50)(torch.zeros(2, 12, 16)).shape
        torch.Size([2, 50, 2])
    """

    def __init__(self, dim: int, history: int = 50) -> None:
        super().__init__()
        self.history = history
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv1d(dim, dim, 3, stride=2, padding=1), nn.GroupNorm(8, dim), nn.ReLU())
            for _ in range(2)
        )
        self.lateral = nn.ModuleList(nn.Conv1d(dim, dim, 1) for _ in range(3))
        self.smooth = nn.Conv1d(dim, dim, 3, padding=1)
        self.out = nn.Linear(dim, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, D) of single futures -> positions (N, T, 2) of the history, in metres."""
        levels = [features.mT]  # (N, D, F), then F / 2 and F / 4
        for down in self.down:
            levels.append(down(levels[-1]))
        x = self.lateral[2](levels[2])
        for level in (1, 0):
            x = self.lateral[level](levels[level]) + F.interpolate(x, size=levels[level].shape[-1])
        x = F.interpolate(self.smooth(x), size=self.history, mode="linear", align_corners=True)  # (N, D, T)
        return UNIT * self.out(x.mT)


def _scale(features: int, metres: tuple[int, ...]) -> Tensor:
    """1 for each feature, 1 / UNIT for those in metres."""
    scale = torch.ones(features)
    scale[list(metres)] = 1 / UNIT
    return scale


def _check_multiples(*pairs: tuple[str, int, str, int]) -> None:
    for name, value, divisor, number in pairs:
        if value % number:
            raise Problem(f"{name}={value}", "TENET", f"give a multiple of {divisor}, {number}")
