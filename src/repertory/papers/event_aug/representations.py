"""Representations: event stream -> input tensor of a network."""

from __future__ import annotations

from functools import lru_cache
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem
from repertory.data.events import Size, count_frames, event_count, event_frame, voxel_grid
from repertory.papers.event_aug.settings import Kernel, Representation

CHANNELS: dict[str, tuple[int, int]] = {
    "count_frames": (0, 2),
    "count": (2, 0),
    "frame": (1, 0),
    "voxel": (0, 1),
    "est": (0, 2),
}
"""Input channels of a network: a fixed number, and a number per time bin."""


def represent(events: np.ndarray, representation: Representation, size: Size, bins: int) -> Tensor:
    """The tensor of a stream, without learned parts.

    Args:
        events: (N,), sorted by t, which starts near 0.
        representation: "count_frames": number of events per bin and polarity; "count": 1 per polarity if there are
            events; "frame": polarities with events, 0 to 2; "voxel": number of events per bin; "est": the events, input
            of `EST`. "voxel" and "est" count no event at t = 0, as in the authors' code.
        size: (H, W).
        bins: number of time bins; not used by "count" and "frame".

    Returns:
        float32: count_frames (bins, 2, H, W); est (N, 4) with columns x, y, t / max t, p; otherwise (C, H, W). An empty
        stream gives zeros; for est one event at t = 0, which adds nothing.
    """
    match representation:
        case "count_frames":
            return torch.from_numpy(count_frames(events, size, bins)).permute(3, 0, 1, 2).contiguous()
        case "count":
            return torch.from_numpy(event_count(events, size))
        case "frame":
            return torch.from_numpy(event_frame(events, size))
        case "voxel":
            return torch.from_numpy(voxel_grid(events, size, bins))
        case "est":
            events = events if len(events) else np.zeros(1, events.dtype)
            t = events["t"] / max(1, int(events["t"].max()))
            columns = (events["x"], events["y"], t, events["p"])
            return torch.from_numpy(np.stack([column.astype(np.float32) for column in columns], axis=1))


def collate_streams(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Streams (N_b, 4) and labels -> one tensor (N, 5), whose last column is the sample index b, and labels (B,)."""
    streams = [F.pad(events, (0, 1), value=index) for index, (events, _) in enumerate(batch)]
    return torch.cat(streams), torch.tensor([label for _, label in batch])


class EST(nn.Module):
    """Event spike tensor: a kernel spreads each event over the time bins (Gehrig et al., ICCV 2019).

    An event at time t adds t k(t - i / (C - 1)) to bin i of its pixel and polarity; so one at t = 0 adds nothing, as in
    the authors' code. Parameter names are those of their `trilinear_init.pth`, which loads with `load_state_dict`.

    Args:
        bins: C, at least 2.
        size: (H, W).
        kernel: k. "learned": a 1-30-30-1 perceptron, initialised to the triangle; "triangle":
            max(0, 1 - (C - 1) |dt|); "trilinear": the triangle with k(0) = 0, as in the released code, which loses
            events exactly at the centre of a bin, such as the last event of a stream.

    Example:
        >>> events = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])  # x, y, t, p, number in the batch
        >>> EST(3, (4, 5), "triangle")(events)[0, 1, :, 1, 3]
        tensor([0., 0., 1.])
    """

    def __init__(self, bins: int, size: Size, kernel: Kernel = "learned") -> None:
        super().__init__()
        check_choice("EST", get_args(Kernel), kernel=kernel)
        check_whole("EST", bins=bins, size=size)
        if bins < 2:
            raise Problem(f"an event spike tensor with {bins} bin", "bins", "give 2 or more")
        self.bins, self.size, self.kernel = bins, size, kernel
        self.mlp = nn.ModuleList()
        if kernel == "learned":
            self.mlp.extend([nn.Linear(1, 30), nn.Linear(30, 30), nn.Linear(30, 1)])
            self.mlp.load_state_dict(_triangular(bins))

    def forward(self, events: Tensor) -> Tensor:
        """Events (N, 5) of x, y, t in [0, 1], p and b, sorted by b -> (B, 2, C, H, W)."""
        if events.ndim != 2 or events.shape[1] != 5:
            raise Problem(f"events of shape {tuple(events.shape)}", "EST", "give (N, 5): x, y, t, p and sample")
        height, width = self.size
        x, y, p, b = events[:, [0, 1, 3, 4]].long().unbind(1)
        t, count = events[:, 2], int(b[-1]) + 1 if len(b) else 0
        plane = height * width
        first = x + width * y + plane * self.bins * (p + 2 * b)  # (N,)
        bins = torch.arange(self.bins, device=events.device)
        values = t[:, None] * self.weight(t[:, None] - bins / (self.bins - 1))  # (N, C)
        cells = first[:, None] + plane * bins
        flat = values.new_zeros(count * 2 * self.bins * plane).index_add(0, cells.flatten(), values.flatten())
        return flat.view(count, 2, self.bins, height, width)

    def weight(self, dt: Tensor) -> Tensor:
        """k(dt), elementwise."""
        if self.kernel == "learned":
            return _perceptron(self.mlp, dt)
        weight = triangle(dt, self.bins)
        return weight * (dt != 0) if self.kernel == "trilinear" else weight

    def extra_repr(self) -> str:
        return f"bins={self.bins}, size={self.size}, kernel={self.kernel}"


def triangle(dt: Tensor, bins: int) -> Tensor:
    """max(0, 1 - (C - 1) |dt|): divides an event between the two nearest bins."""
    return F.relu(1 - (bins - 1) * dt.abs())


def _perceptron(layers: nn.ModuleList, dt: Tensor) -> Tensor:
    h = dt.unsqueeze(-1)
    for layer in layers[:-1]:
        h = F.leaky_relu(layer(h), 0.1, inplace=True)
    return layers[-1](h).squeeze(-1)


@lru_cache
def _triangular(bins: int) -> dict[str, Tensor]:
    """Weights of a perceptron fitted to the triangle: 1000 steps of Adam, lr 1e-2."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with several threads these small steps take up to 50 times longer on a busy machine
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            layers = nn.ModuleList([nn.Linear(1, 30), nn.Linear(30, 30), nn.Linear(30, 1)])
            optimizer = torch.optim.Adam(layers.parameters(), lr=1e-2)
            for _ in range(1000):
                dt = 2 * torch.rand(512) - 1
                optimizer.zero_grad()
                F.mse_loss(_perceptron(layers, dt), triangle(dt, bins)).backward()
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return {name: tensor.detach() for name, tensor in layers.state_dict().items()}
