"""What CeCo's branch costs, and how its form beside the authors' does.

    python benchmarks/ceco.py

- branch: a training step (forward, losses, backward) with the branch. Peer: the same with the branch as the authors
  compute it: the map is reduced, upsampled to the labels, and averaged. Both give the same loss and gradients.
- cost: the same training step. Peer: the step without a branch; no goal, the ratio tells what the branch costs.
- inference: peer is the network without a branch, which then does not take part: the goal is no difference.

Networks: the sample's at 48 pixels (batch 12, 20 classes), UPerNet with ResNet-18 and torchvision's DeepLabv3 on
MobileNetV3 at 64 pixels (batch 2, 150 classes).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from repertory.core.bench import Race, bench
from repertory.papers.ceco import CeCoLoss, CeCoNet
from repertory.papers.ceco.hosts import DEEPLABS

NETWORKS: dict[str, tuple[str, int, int, int]] = {
    "sample": ("mini", 12, 48, 20),
    "UPerNet": ("resnet18", 2, 64, 150),
    "DeepLabv3": (DEEPLABS[0], 2, 64, 150),
}
"""Title -> network, batch, side of the images, classes."""


class Literal(CeCoLoss):
    """The branch on the upsampled map."""

    def centres(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert self.reduce is not None
        assert self.norm is not None
        x = self.norm(self.reduce(features))
        x = F.interpolate(x, labels.shape[-2:], mode="bilinear", align_corners=True).movedim(1, -1).flatten(0, -2)
        flat = labels.flatten()
        count = torch.bincount(flat, minlength=self.num_classes)
        return x.new_zeros(self.num_classes, x.shape[1]).index_add(0, flat, x) / count.clamp(min=1)[:, None], count


def batch_of(title: str) -> tuple[Tensor, Tensor]:
    """Images, and labels in blobs of 8 pixels."""
    _, count, side, classes = NETWORKS[title]
    labels = torch.randint(classes, (count, side // 8, side // 8))
    return torch.rand(count, 3, side, side), labels.repeat_interleave(8, 1).repeat_interleave(8, 2)


def network_of(title: str, options: dict[str, object] | None) -> CeCoNet:
    torch.manual_seed(0)
    arch, _, _, classes = NETWORKS[title]
    return CeCoNet(arch, classes, options)


def step(network: CeCoNet, images: Tensor, labels: Tensor) -> None:
    """Forward, losses and backward."""
    network(images, labels)["loss"].backward()
    for parameter in network.parameters():
        parameter.grad = None


def branch(title: str) -> Race:
    images, labels = batch_of(title)
    ours, peer = (network_of(title, {}) for _ in range(2))
    literal = Literal(NETWORKS[title][3], peer.host.num_features)
    assert ours.branch is not None
    literal.load_state_dict(ours.branch.state_dict())
    peer.branch = literal
    ours.branch.dropout.p = literal.dropout.p = 0.0
    features = torch.rand(len(images), peer.host.num_features, images.shape[2] // 4, images.shape[2] // 4)
    results = []
    for loss in (ours.branch, literal):
        leaf = features.clone().requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        results.append((value, leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    return Race(
        partial(step, ours, images, labels),
        {"authors' form": partial(step, peer, images, labels)},
        memory=title == "UPerNet",
        facts={"batch": len(images)},
    )


def cost(title: str) -> Race:
    ours, plain = (partial(step, network_of(title, options), *batch_of(title)) for options in ({}, None))
    return Race(ours, {"without branch": plain}, goal=None, memory=False)


def inference(title: str) -> Race:
    images, _ = batch_of(title)
    ours, plain = (torch.inference_mode()(network_of(title, options).eval()) for options in ({}, None))
    return Race(partial(ours, images), {"without branch": partial(plain, images)}, memory=False)


RACES: dict[str, Callable[[], Race]] = {
    f"{race.__name__}, {title}": partial(race, title) for title in NETWORKS for race in (branch, cost, inference)
}

if __name__ == "__main__":
    bench(__doc__, RACES)
