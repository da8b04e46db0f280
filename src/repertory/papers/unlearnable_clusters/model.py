"""Unlearnable Clusters: noise that makes images useless for training, whatever the labels (Zhang et al., CVPR 2023).

The owner's images are clustered by the features of a frozen surrogate. For each cluster a generator learns one
perturbation δ that moves images towards the centre of another cluster. A network trained on the protected images
learns the perturbations rather than the images. Labels are never read.

    centres, assigned = cluster(features, clusters=10)                        # features (N, D) of the surrogate
    delta = perturbation(Generator(), torch.rand(1, 3, 224, 224), eps=16 / 255)
    loss = centre_loss(surrogate((images + delta).clamp(0, 1)), targets(centres)[0])

B images of H x W pixels with values in [0, 1], p clusters, D features, perturbations of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from timm.layers import get_act_layer
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_whole
from repertory.core.problem import Problem
from repertory.papers.unlearnable_clusters.networks import Surrogate

Norm = Literal["linf", "l2"]
By = Literal["nothing", "clusters", "classes", "images"]

# -- stage 0: clusters --------------------------------------------------------------------------


def cluster(features: Tensor, clusters: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """k-means of the features, which are not normalised.

    Args:
        features: (N, D).
        clusters: p.
        seed: of the initial centres.

    Returns:
        Centres (p, D), and the cluster of each image (N,).

    Raises:
        Problem: fewer than 2 clusters, or fewer images than clusters.
    """
    if clusters < 2:
        what = f"{clusters} cluster: its images would be moved towards their own centre"
        raise Problem(what, "clusters", "ask for 2 or more")
    if len(features) < clusters:
        what = f"{len(features)} images for {clusters} clusters"
        raise Problem(what, "clusters", f"add images, or set clusters={max(2, len(features))} or fewer")
    found = KMeans(clusters, random_state=seed).fit(features.cpu().numpy())
    return torch.tensor(found.cluster_centers_, dtype=torch.float32), torch.tensor(found.labels_, dtype=torch.long)


def nearest(features: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each image: (N, D), (p, D) -> (N,)."""
    return torch.cdist(features, centres).argmin(1)


def targets(centres: Tensor, offset: int = 1) -> Tensor:
    """The centre that each cluster is moved to: row i is centre (i + offset) mod p; offset 0 is its own."""
    return centres.roll(-offset, dims=0)


# -- stage 1: a perturbation per cluster --------------------------------------------------------


class Residual(nn.Module):
    """x + two 3 x 3 convolutions with reflected borders, same shape."""

    def __init__(self, channels: int, norm: type[nn.Module], act: type[nn.Module], bias: bool) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels), act(),
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Generator(nn.Module):
    """An encoder-decoder from noise to a perturbation; 7.84 million parameters with ngf 64.

    Keep it in training mode: the statistics of the one noise image are part of the method. In evaluation mode the
    output is another one, and much weaker.

    Args:
        ngf: channels of the first layer.
        norm: "batch" or "instance".
        act: name of an activation in timm.
        n_blocks: residual blocks.

    Shape:
        (B, 3, H, W) -> (B, 3, H', W') in [-1, 1]; H' and W' are H and W rounded up to multiples of 4.

    Raises:
        Problem: unknown norm.

    Example:
        >>> sum(p.numel() for p in Generator().parameters())
        7841411
    """

    def __init__(
        self, ngf: int = 64, norm: Literal["batch", "instance"] = "batch", act: str = "relu", n_blocks: int = 6
    ) -> None:
        super().__init__()
        check_whole("Generator", ngf=ngf)
        check_whole("Generator", 0, n_blocks=n_blocks)
        if norm not in ("batch", "instance"):
            raise Problem(f"no norm {norm!r}", "Generator", "choose batch or instance")
        layer = nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d
        try:
            activation: Any = get_act_layer(act)
        except KeyError as error:
            raise Problem(f"unknown activation {act!r}", "Generator", "give a name of timm, such as relu") from error
        bias = norm == "instance"  # batch norm has one of its own
        down = [
            part
            for channels in (ngf, 2 * ngf)
            for part in (
                nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=bias), layer(2 * channels), activation(),
            )
        ]  # fmt: skip
        up = [
            part
            for channels in (4 * ngf, 2 * ngf)
            for part in (
                nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, output_padding=1, bias=bias),
                layer(channels // 2),
                activation(),
            )
        ]
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7, bias=bias), layer(ngf), activation(),
            *down,
            *(Residual(4 * ngf, layer, activation, bias) for _ in range(n_blocks)),
            *up,
            nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor) -> Tensor:
        return self.model(noise)


def bounded(raw: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """A raw perturbation (..., 3, S, S) within the norm: clamped to [-eps, eps], or scaled to an L2 norm of eps.

    The clamp has no gradient outside, so the output of the generator saturates at the border.
    """
    if norm == "linf":
        return raw.clamp(-eps, eps)
    return raw * eps / raw.flatten(-3).norm(dim=-1)[..., None, None, None]


def perturbation(generator: nn.Module, noise: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """δ = clamp(G(z), -eps, eps), of the size of the noise: (1, 3, S, S) -> (1, 3, S, S)."""
    size = noise.shape[-2:]
    return bounded(generator(noise)[..., : size[0], : size[1]], eps, norm)


def centre_loss(features: Tensor, target: Tensor) -> Tensor:
    """KL(softmax(μ) ‖ softmax(φ)), mean over the batch.

    Args:
        features: φ, of the perturbed images, (B, D).
        target: μ, the centre that they are moved to, (D,), or one for each image, (B, D).

    Example:
        >>> float(centre_loss(torch.ones(4, 8), torch.ones(8)))
        0.0
    """
    q = target.softmax(-1).expand_as(features)
    return F.kl_div(features.log_softmax(1), q, reduction="batchmean")


# -- stage 2: protected images ------------------------------------------------------------------


class Protection(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Learned perturbations, and which of them an image gets.

    Args:
        by: "clusters": that of the nearest centre in the surrogate's features; "classes": that of its class folder;
            "images": its own; "nothing": none.
        count: perturbations.
        size: S.
        names: of the classes, or paths of the images, in the order of the perturbations.
        eps: bound on a pixel of 0 to 255 ("linf"), or on the L2 norm of the perturbation in the same unit ("l2").
        norm: "linf" or "l2".
        surrogate: name of the network, see `Surrogate`; "": none.
        features: D.
        resize: short side of the image before the surrogate sees its central S x S pixels.

    Raises:
        Problem: clusters without a surrogate.
    """

    deltas: Tensor
    """(count, 3, S, S), for images in [0, 1]."""
    centres: Tensor
    """(count, D); of clusters."""

    def __init__(
        self,
        by: By,
        count: int,
        size: int,
        names: Sequence[str] = (),
        eps: float = 16.0,
        norm: Norm = "linf",
        surrogate: str = "",
        features: int = 0,
        resize: int = 256,
    ) -> None:
        super().__init__()
        if by == "clusters" and not surrogate:
            raise Problem("clusters need a surrogate", "Protection", "name one")
        self.by: By = by
        self.names, self.size, self.eps, self.norm, self.resize = tuple(names), size, eps, norm, resize
        self.surrogate = Surrogate(surrogate) if surrogate else None
        self.register_buffer("deltas", torch.zeros(count, 3, size, size))
        self.register_buffer("centres", torch.zeros(count if by == "clusters" else 0, features))

    def assign(self, x: Tensor) -> Tensor:
        """The cluster of each image: (B, 3, S, S) in [0, 1] -> (B,)."""
        assert self.surrogate is not None
        return nearest(self.surrogate(x), self.centres)

    def noise(self, number: int) -> NDArray[np.int16]:
        """A perturbation in whole steps of an 8-bit channel, (S, S, 3): what is added to a pixel, rounded half up."""
        return rounded(self.deltas[number])


def rounded(delta: Tensor) -> NDArray[np.int16]:
    """(3, S, S) for images in [0, 1] -> (S, S, 3) in steps of 1 / 255, rounded half up."""
    return (delta.permute(1, 2, 0) * 255 + 0.5).floor().to(torch.int16).cpu().numpy()


def add_noise(pixels: NDArray[np.uint8], noise: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Pixels + noise, clipped to 0 to 255; noise of another size is stretched by nearest neighbours.

    The sum is exact: a pixel v and a perturbation d give floor(v + 255 d + 1/2), and no channel changes by more than
    the largest value of the noise.

    Args:
        pixels: (H, W, 3), or (H, W) of a grey image, which gets the noise's luminance (ITU-R 601).
        noise: (S, S, 3).

    Example:
        >>> add_noise(np.full((2, 4), 250, np.uint8), np.full((1, 1, 3), 16, np.int16))
        array([[255, 255, 255, 255],
               [255, 255, 255, 255]], dtype=uint8)
    """
    height, width = pixels.shape[:2]
    if pixels.ndim == 2:
        noise = np.rint(noise @ np.array([0.299, 0.587, 0.114])).astype(np.int16)
    rows = np.arange(height) * len(noise) // height
    columns = np.arange(width) * noise.shape[1] // width
    return np.clip(pixels + noise[rows][:, columns], 0, 255).astype(np.uint8)
