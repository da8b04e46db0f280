"""The networks that training returns: a host and, in training, the centre branch.

`network(images)` is the host alone, whatever it was trained with: the branch costs nothing in inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from repertory.core.arguments import check_rates, check_whole
from repertory.core.problem import Problem
from repertory.data.ade20k import IGNORE
from repertory.nn.backbone import check_images
from repertory.papers.ceco.hosts import CHANNELS, make_host
from repertory.papers.ceco.model import CeCoLoss, pixel_loss

AUX_WEIGHT = 0.4
LONGEST_RATIO = 4
"""Longest side of the input, relative to the shorter one: 2048 of 512 pixels."""


class CeCoNet(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A segmentation network of images with the centre branch.

    Args:
        arch: "mini", one of torchvision's DeepLabv3, or an encoder of timm, which gets UPerNet's decoder.
        num_classes: K.
        branch: options of `CeCoLoss`; None: the pixels' loss alone.
        channels: of UPerNet's decoder.
        drop_path: rate of an encoder of timm.
        avg_valid: see `pixel_loss`.
        label_names: of the classes.
        counts: training images of each class; for groups by frequency.
        image_size: shorter side of the input in pixels; 0: as it is.

    Shape:
        images (B, 3, H, W) from 0 to 1 -> logits (B, K, H, W); with labels (B, H, W) -> losses "loss", "pixel",
        "centre", "aux": the weighted sum and its parts.

    Raises:
        Problem: no such network; K exceeds the width of the frame; a batch of one image in training.

    Example:
        >>> network = CeCoNet("mini", 5, branch={"prior": [9, 5, 3, 2, 1]}).eval()
        >>> network(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 5, 32, 48])
    """

    ignore = IGNORE

    def __init__(
        self,
        arch: str = "mini",
        num_classes: int = 150,
        branch: dict[str, Any] | None = None,
        channels: int = CHANNELS,
        drop_path: float | None = None,
        avg_valid: bool = False,
        label_names: list[str] | None = None,
        counts: list[int] | None = None,
        image_size: int = 0,
    ) -> None:
        super().__init__()
        check_whole("CeCoNet", num_classes=num_classes, channels=channels)
        check_whole("CeCoNet", 0, image_size=image_size)
        check_rates("CeCoNet", drop_path=drop_path or 0.0)
        self.host = make_host(arch, num_classes, channels, drop_path)
        self.branch = None if branch is None else CeCoLoss(num_classes, self.host.num_features, **branch)
        self.num_classes, self.avg_valid, self.image_size, self.counts = num_classes, avg_valid, image_size, counts
        self.label_names = label_names or [str(k) for k in range(num_classes)]
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map in front of the classifier (B, C, h, w), and that of the auxiliary head, if there is one."""
        check_images(images, 3, "CeCoNet")
        return self.host.forward_features((images - self.mean) / self.std)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        """See the class."""
        features, auxiliary = self.forward_features(images)
        logits = self.host.classifier(features)
        if labels is None:
            return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        losses = {"pixel": pixel_loss(logits, labels, IGNORE, self.avg_valid)}
        if self.branch is not None:
            losses["centre"] = self.branch(features, labels)
        if auxiliary is not None and self.host.auxiliary is not None:
            extra = pixel_loss(self.host.auxiliary(auxiliary), labels, IGNORE, self.avg_valid)
            losses["aux"] = AUX_WEIGHT * extra
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def classifier_rows(self) -> Tensor:
        """Weights of the classifier of the pixels, (K, C)."""
        rows = [m.weight.flatten(1) for m in self.host.classifier.modules() if isinstance(m, nn.Conv2d)]
        return rows[-1].detach()

    def answer(self, image: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False) -> tuple[Tensor, Tensor]:
        """Classes of an image of any size, by the mean probability over scaled and mirrored views.

        Args:
            image: (3, H, W), 0 to 1.
            scales: factors of the shorter side, `image_size`.
            flip: add mirrored views.

        Returns:
            Classes (H, W), and the features of the first view, (C, h, w).
        """
        height, width = image.shape[-2:]
        maps: list[Tensor] = []
        total = image.new_zeros(self.num_classes, height, width)
        for scale in scales:
            side = round((self.image_size or min(height, width)) * scale)
            fits = side == min(height, width)
            view = image if fits else TF.resize(image, [side], max_size=LONGEST_RATIO * side, antialias=False)
            for mirrored in (False, True) if flip else (False,):
                features, _ = self.forward_features((view.flip(-1) if mirrored else view)[None])
                logits = self.host.classifier(features.flip(-1) if mirrored else features)
                total += F.interpolate(logits, (height, width), mode="bilinear", align_corners=False).softmax(1)[0]
                maps.append(features[0])
        return total.argmax(0), maps[0]


class WithCentres(nn.Module):
    """Any segmentation network with the centre branch in training: what its classifier reads is passed on.

    Args:
        network: gives logits (B, K, h, w), or a mapping with "out".
        classifier: name of the layer that gives the logits: "classifier.4" for torchvision's DeepLabv3.
        branch: its `feat_dim` is the number of channels that this layer reads.

    Shape:
        As the network; `with_centres(images, labels)` gives its output, and the loss of the centres.

    Raises:
        Problem: the network has no such layer, or did not use it.

    Example:
        >>> from torchvision.models.segmentation import fcn_resnet50
        >>> network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=4)
        >>> with_centres = WithCentres(network, "classifier.4", CeCoLoss(4, 512))
        >>> output, loss = with_centres(torch.rand(2, 3, 32, 32), torch.randint(4, (2, 32, 32)))
        >>> output["out"].shape, loss.shape
        (torch.Size([2, 4, 32, 32]), torch.Size([]))
    """

    def __init__(self, network: nn.Module, classifier: str, branch: CeCoLoss) -> None:
        super().__init__()
        try:
            network.get_submodule(classifier)
        except AttributeError as error:
            remedy = "give the name of the layer that gives the logits, as in network.named_modules()"
            raise Problem(f"the network has no layer {classifier!r}", "classifier", remedy) from error
        self.network, self.name, self.branch = network, classifier, branch

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        """See the class."""
        if labels is None:
            return self.network(images)
        seen: list[Tensor] = []
        with tapped(self.network.get_submodule(self.name), seen.append):
            output = self.network(images)
        if not seen:
            raise Problem(f"the network did not use its layer {self.name!r}", "classifier", "name the layer in use")
        return output, self.branch(seen[-1], labels)


@contextmanager
def tapped(layer: nn.Module, keep: Callable[[Tensor], Any]) -> Any:
    """Inside, `keep` gets the input of a layer each time that it runs."""
    hook = layer.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]) and None)
    try:
        yield
    finally:
        hook.remove()


def parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Groups with the released weight decay: none for norms and tables of positions, biases included."""
    groups: Mapping[float, list[nn.Parameter]] = {decay: [], 0.0: []}
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = type(modules[name.rpartition(".")[0]]).__name__
        spared = "Norm" in owner or "relative_position_bias_table" in name or "pos_embed" in name
        groups[0.0 if spared else decay].append(parameter)
    return [{"params": members, "weight_decay": rate} for rate, members in groups.items() if members]
