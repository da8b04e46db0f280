"""The networks that are attacked (AlexNet, ConvNet) and those that an attack is carried over to (VGG11, ResNet18).

net = network("convnet", num_classes=10, in_chans=3, image_size=32)
net(torch.rand(8, 3, 32, 32)).shape  # (8, 10)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from repertory.core.arguments import check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import check_images

Norm = Literal["none", "instancenorm", "batchnorm"]


class Network(nn.Module):
    """Convolutional features, then fully connected layers.

    Args:
        features: (N, C, H, W) -> maps.
        classifier: ends in the Linear of the classes; before it, where there is one, a hidden Linear and its ReLU.

    Shape:
        (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier
        self.takes: tuple[int, int] | None = None
        """Channels and side of the images, where they are known."""

    @property
    def head(self) -> nn.Linear:
        """The last Linear."""
        return cast(nn.Linear, self.classifier[-1])

    @property
    def hidden(self) -> nn.Linear:
        """The Linear before the last, whose neurons a trigger is fitted to.

        Raises:
            Problem: the network has one Linear only.
        """
        if len(self.classifier) < 3:
            raise Problem(
                "the network has no hidden Linear that a trigger could be fitted to",
                "network",
                "attack alexnet, convnet or mini; the others only train on the result",
            )
        return cast(nn.Linear, self.classifier[-3])

    def before_hidden(self, x: Tensor) -> Tensor:
        """Input of the hidden Linear: (N, C, H, W) -> (N, fan_in)."""
        return self.classifier[:-3](self.features(x).flatten(1))

    def forward_features(self, x: Tensor) -> Tensor:
        """Input of the last Linear: (N, C, H, W) -> (N, F)."""
        if self.takes is not None:
            channels, side = self.takes
            check_images(x, channels, "network", size=(side, side))
        return self.classifier[:-1](self.features(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


def alexnet(num_classes: int, in_chans: int = 3, image_size: int = 32) -> Network:
    """The reference's AlexNet for small images: 1,756,426 parameters with 3 channels and 10 classes."""

    def response() -> nn.LocalResponseNorm:
        return nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1)

    features = nn.Sequential(
        nn.Conv2d(in_chans, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), response(),
        nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), response(), nn.MaxPool2d(3, 2, 1),
    )  # fmt: skip
    side = -(-image_size // 4)
    classifier = nn.Sequential(
        nn.Linear(64 * side**2, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, num_classes)
    )
    return Network(features, classifier)


def convnet(
    num_classes: int,
    in_chans: int = 3,
    image_size: int = 32,
    *,
    width: int = 128,
    depth: int = 3,
    hidden: int = 192,
    norm: Norm = "none",
    first_padding: int | None = None,
) -> Network:
    """Blocks of Conv3x3, norm, ReLU and AvgPool2: 694,090 parameters with 3 channels and 10 classes.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        image_size: height and width.
        width: channels of each block.
        depth: blocks; each halves the maps.
        hidden: neurons of the hidden Linear.
        norm: after each convolution; instancenorm: a GroupNorm of as many groups as channels, as in the reference.
        first_padding: of the first convolution; None: 3 for grey images and 1 for others, as in the reference.

    Raises:
        Problem: the images are too small for so many blocks.
    """
    padding = first_padding if first_padding is not None else 3 if in_chans == 1 else 1
    layers: list[nn.Module] = []
    for block in range(depth):
        layers += [nn.Conv2d(width if block else in_chans, width, 3, padding=1 if block else padding)]
        layers += [nn.GroupNorm(width, width)] if norm == "instancenorm" else []
        layers += [nn.BatchNorm2d(width)] if norm == "batchnorm" else []
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    side = (image_size + 2 * padding - 2) // 2**depth
    if side < 1:
        raise Problem(f"{depth} blocks on images of {image_size} pixels", "convnet", f"use {2**depth} pixels or more")
    classifier = nn.Sequential(nn.Linear(width * side**2, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
    return Network(nn.Sequential(*layers), classifier)


def mini(num_classes: int, in_chans: int = 1, image_size: int = 16, norm: Norm = "none") -> Network:
    """The ConvNet with 2 blocks of 16 channels and 48 hidden neurons, for laptops."""
    sizes: dict[str, Any] = {"width": 16, "depth": 2, "hidden": 48, "first_padding": 1}
    return convnet(num_classes, in_chans, image_size, norm=norm, **sizes)


def vgg11(num_classes: int, in_chans: int = 3, image_size: int = 32) -> Network:
    """VGG11 with a GroupNorm of single channels, for images of 32 pixels: 9,231,114 parameters."""
    if image_size != 32:
        raise Problem(f"vgg11 on images of {image_size} pixels", "network", "use 32 pixels, or another victim_net")
    layers: list[nn.Module] = []
    for width, pooled in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        layers += [nn.Conv2d(in_chans, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * pooled
        in_chans = width
    return Network(nn.Sequential(*layers), nn.Sequential(nn.Linear(512, num_classes)))


def resnet18(num_classes: int, in_chans: int = 3, image_size: int = 32) -> Network:
    """ResNet18 with a GroupNorm of single channels and a 3 x 3 stem without pooling, for images of any size."""
    layers = dict(
        ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=lambda width: nn.GroupNorm(width, width)).named_children()
    )
    stem = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
    stages = [layers[name] for name in ("layer1", "layer2", "layer3", "layer4", "avgpool")]
    features = nn.Sequential(stem, layers["bn1"], nn.ReLU(), *stages)
    return Network(features, nn.Sequential(nn.Linear(512, num_classes)))


NETWORKS: dict[str, Callable[..., Network]] = {
    "mini": mini,
    "alexnet": alexnet,
    "convnet": convnet,
    "vgg11": vgg11,
    "resnet18": resnet18,
}
NORMED = ("mini", "convnet")
"""Networks whose norm can be chosen."""


def network(name: str, num_classes: int, in_chans: int, image_size: int, norm: Norm = "none") -> Network:
    """A network by its name, with PyTorch's default initialisation.

    Raises:
        Problem: no such network, images of a size that it cannot take, or a norm that it does not have.

    Example:
        >>> sum(p.numel() for p in network("alexnet", 10, 3, 32).parameters())
        1756426
    """
    if name not in NETWORKS:
        raise Problem(f"no network {name!r}", "network", f"choose from {', '.join(NETWORKS)}")
    if norm != "none" and name not in NORMED:
        raise Problem(f"norm={norm} with {name}", "network", f"only {' and '.join(NORMED)} have a choice of norms")
    options: dict[str, Any] = {"norm": norm} if name in NORMED else {}
    check_whole("network", num_classes=num_classes, in_chans=in_chans, image_size=image_size)
    net = NETWORKS[name](num_classes, in_chans, image_size, **options)
    net.takes = (in_chans, image_size)
    return net


def freeze_statistics(net: nn.Module, x: Tensor) -> None:
    """Update the running statistics of batch norms with one batch (the reference's: 16 per class), then freeze them."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        net.train()
        with torch.no_grad():
            net(x)
        for norm in norms:
            norm.eval()
