"""PMT-IQA: features of four scales, one trunk, a score and a quality level, and the loss that moves between the two.

    images (B, 3, H, W)
      MultiScaleResNet   a vector of each stage, concatenated (B, 112)
      fcs                shared trunk (B, 14)
      fc_mos, fc_cls     score (B, 1), logits of the quality level (B, K)

Source: Pan et al., "PMT-IQA: Progressive Multi-task Learning for Blind Image Quality Assessment", PRICAI 2023, and the
authors' code (pqy000/PMT-IQA). Submodules have the names of that code, so that its state dicts load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._manipulate import checkpoint_seq
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_range, check_rates, check_whole
from repertory.core.problem import Problem, suggest
from repertory.nn.backbone import check_images
from repertory.nn.imagenet import IMAGENET

TaskWeights = Literal["progressive", "reversed", "static", "regression"]

BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "mini": {"block": BasicBlock, "layers": (2, 2, 2, 2), "channels": (16, 32, 64, 128)},
    "resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    "resnet34": {"block": BasicBlock, "layers": (3, 4, 6, 3)},
    "resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "resnet101": {"block": Bottleneck, "layers": (3, 4, 23, 3)},
}
"""Arguments of timm's ResNet, in torchvision's layout; `mini` is a ResNet-18 of a quarter of the width."""

GRIDS: Mapping[int, int] = {1: 8, 2: 4, 3: 2, 4: 1}
"""Stage -> rows and columns that its map is averaged to: those of 7 x 7 windows at 224 pixels."""
SQUEEZED: Mapping[int, int] = {1: 16, 2: 32, 3: 64}
"""Stage -> channels of its 1 x 1 convolution; the last stage has none."""


class MultiScaleResNet(ResNet):
    """A ResNet of timm that gives a vector of local distortions for each of its stages, concatenated.

    Branch of stage 1 to 3: 1 x 1 convolution, average pooling to a grid of 8, 4 or 2, linear. Of stage 4: global
    average, linear. No activation. The published vector has 4 x 28 = 112 entries.

    Args:
        backbone: key of `BACKBONES`.
        vector: length of the output.
        scale_dim: entries of each branch but the last, which has the rest.
        stages: those that have a branch; (4,) is a plain ResNet with a linear layer.
        in_chans: channels of the images.

    Shape:
        (B, in_chans, H, W) -> (B, vector).

    Raises:
        Problem: unknown backbone; stages that are none; a vector too short for the branches.

    Example:
        >>> net = MultiScaleResNet("resnet50")
        >>> sum(p.numel() for p in net.parameters())
        23701680
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        vector: int = 112,
        scale_dim: int = 28,
        stages: Sequence[int] = (1, 2, 3, 4),
        in_chans: int = 3,
    ) -> None:
        _check_branches(backbone, vector, scale_dim, stages)
        arguments = dict(BACKBONES[backbone])
        width = arguments.setdefault("channels", (64, 128, 256, 512))[0]
        # timm ties the width of a plain stem to 64; that of a deep one can be chosen, and gives way to a plain one.
        deep: dict[str, Any] = {} if width == 64 else {"stem_type": "deep", "stem_width": width // 2}
        super().__init__(
            **arguments, **deep, num_classes=0, in_chans=in_chans, global_pool="", zero_init_last=False
        )  # fmt: skip
        if deep:
            self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

        self.stages, self.vector = tuple(stages), vector
        widths = [int(info["num_chs"]) for info in self.feature_info[1:]]
        for stage in self.stages:
            grid, channels = GRIDS[stage], SQUEEZED.get(stage, widths[stage - 1])
            pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(grid)]
            if stage in SQUEEZED:
                pool.insert(0, nn.Conv2d(widths[stage - 1], channels, 1, bias=False))
            last = stage == self.stages[-1]
            length = vector - scale_dim * (len(self.stages) - 1) if last else scale_dim
            self.add_module(f"lda{stage}_pool", nn.Sequential(*pool))
            self.add_module(f"lda{stage}_fc", nn.Linear(channels * grid**2, length))
        self.reset_branches()

    def reset_branches(self) -> None:
        """Kaiming normal (fan-in) weights of the branches."""
        for name, weight in self.named_parameters():
            if name.startswith("lda") and weight.ndim > 1:
                nn.init.kaiming_normal_(weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))  # (B, 64, H/2, W/2)
        x = self.maxpool(x)
        vectors: list[Tensor] = []
        for stage in GRIDS:
            layer = self.get_submodule(f"layer{stage}")
            x = checkpoint_seq(layer, x) if self.grad_checkpointing else layer(x)  # (B, C, H/4, W/4) ... H/32
            if stage in self.stages:
                pooled = self.get_submodule(f"lda{stage}_pool")(x)  # (B, c, g, g)
                vectors.append(self.get_submodule(f"lda{stage}_fc")(pooled.flatten(1)))  # (B, 28)
        return torch.cat(vectors, 1)


def _check_branches(backbone: str, vector: int, scale_dim: int, stages: Sequence[int]) -> None:
    if backbone not in BACKBONES:
        what = f"no backbone {backbone!r}{suggest(backbone, BACKBONES)}"
        raise Problem(what, "backbone", f"choose from {', '.join(BACKBONES)}")
    if not stages or list(stages) != sorted({*stages} & {*GRIDS}):
        raise Problem(f"stages {tuple(stages)} are none", "stages", "give some of 1, 2, 3, 4, in this order")
    if vector <= scale_dim * (len(stages) - 1):
        what = f"{len(stages)} branches of {scale_dim} entries leave none of {vector} for the last"
        raise Problem(what, "vector, scale_dim", "give a longer vector or shorter branches")


class Quality(NamedTuple):
    """What the network says of a batch."""

    mos: Tensor
    """Scores (B, 1), in the unit of the data set."""
    cls: Tensor
    """Logits of the quality levels (B, K); K = 0 without a classifier."""


class PMTIQA(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Quality of an image without a reference: a score by regression, and its level by classification.

    Args:
        backbone: key of `BACKBONES`.
        num_classes: K, number of quality levels; 0: no classifier.
        scale_dim, vector, stages, in_chans: see `MultiScaleResNet`.
        hidden: width of the trunk.
        head: outputs of the trunk.
        score_unit: the regression gives multiples of it. 1 as published, where scores reach 100; for scores from 0 to
            1, a tenth gives the L1 loss the weight that it has there for scores from 0 to 10.
        drop_rate: dropout before the trunk.
        pretrained_cfg: preprocessing, with timm's keys (`input_size`: of a patch; `mean`, `std`), and what the study
            stores of the scores.

    Shape:
        (B, in_chans, H, W) -> `Quality`: (B, 1), (B, K). Published patches have 224 x 224 pixels; the score of an image
        is the mean over several.

    Raises:
        Problem: see `MultiScaleResNet`.

    Example:
        >>> model = PMTIQA("mini", num_classes=5)
        >>> quality = model(torch.zeros(2, 3, 64, 64))
        >>> quality.mos.shape, quality.cls.shape
        (torch.Size([2, 1]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 10,
        scale_dim: int = 28,
        vector: int = 112,
        hidden: int = 112,
        head: int = 14,
        stages: Sequence[int] = (1, 2, 3, 4),
        score_unit: float = 1.0,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_whole("PMTIQA", scale_dim=scale_dim, vector=vector, hidden=hidden, head=head, in_chans=in_chans)
        check_whole("PMTIQA", 0, num_classes=num_classes)
        check_range("PMTIQA", math.ulp(0), math.inf, score_unit=score_unit)
        check_rates("PMTIQA", drop_rate=drop_rate)
        self.num_classes, self.in_chans, self.score_unit = num_classes, in_chans, score_unit
        self.num_features, self.head_hidden_size = vector, head
        self.pretrained_cfg = {**CFG, "num_classes": num_classes, **(pretrained_cfg or {})}

        self.res = MultiScaleResNet(backbone, vector, scale_dim, stages, in_chans)
        self.feature_info = [{**info, "module": f"res.{info['module']}"} for info in self.res.feature_info]
        self.drop = nn.Dropout(drop_rate)
        self.fcs = nn.Sequential(nn.Linear(vector, hidden), nn.LeakyReLU(), nn.Linear(hidden, head), nn.LeakyReLU())
        self.fc_mos = nn.Linear(head, 1)
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> multi-scale vector (B, vector)."""
        return self.res(check_images(x, self.in_chans, "PMTIQA"))

    def forward_trunk(self, x: Tensor) -> Tensor:
        """Multi-scale vector (B, vector) -> what both tasks share (B, head)."""
        return self.fcs(self.drop(x))

    def forward_head(self, x: Tensor) -> Quality:
        """Multi-scale vector (B, vector) -> score and logits."""
        x = self.forward_trunk(x)
        return Quality(self.score_unit * self.fc_mos(x), self.fc_cls(x) if self.num_classes else x[:, :0])

    def forward(self, x: Tensor) -> Quality:
        return self.forward_head(self.forward_features(x))

    # -- timm's interface -----------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The classifier of the levels."""
        return self.fc_cls

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier of the levels by a new one; 0: none. The regression stays.

        Raises:
            Problem: `global_pool` is given: each stage is pooled to a grid of its own.
        """
        if global_pool:
            raise Problem(f"no pooling {global_pool!r}: each stage has its own", "reset_classifier", "leave it out")
        self.num_classes, width = num_classes, self.head_hidden_size
        self.fc_cls = nn.Identity()
        if num_classes:
            self.fc_cls = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, num_classes))

    def forward_intermediates(self, x: Tensor, indices: int | list[int] | None = None, **options: Any) -> Any:
        """Maps of the stem (0) and of the stages 1 to 4: see timm's `ResNet.forward_intermediates`."""
        return self.res.forward_intermediates(x, indices, **options)

    def prune_intermediate_layers(self, indices: int | list[int] = 1, **options: Any) -> list[int]:
        """Remove the stages after the last of `indices`; returns the absolute indices."""
        return self.res.prune_intermediate_layers(indices, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the stages anew in the backward pass, which saves their memory."""
        self.res.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Parameters that need no weight decay: none by name."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for a layer-wise learning rate."""
        blocks = r"^res\.layer(\d+)" if coarse else r"^res\.layer(\d+)\.(\d+)"
        return {"stem": r"^res\.(?:conv1|bn1)", "blocks": [(blocks, None), (r"^res\.lda|^fc", (99999,))]}


# -- the progressive multi-task loss ------------------------------------------------------------


def task_weights(
    epoch: int, epochs: int, kind: TaskWeights = "progressive", static: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float]:
    """Weights of regression and classification in an epoch, from 0: lambda_1 = t / (E - 1), lambda_2 = 1 - lambda_1.

    From classification, the easy task, to regression, the hard one. One single epoch is all regression.

    Args:
        epoch: t.
        epochs: E.
        kind: progressive as published; reversed: the two change places; static: `static` in every epoch; regression:
            without classification.
        static: weights of both tasks.

    Example:
        >>> [task_weights(t, 5) for t in (0, 1, 4)]
        [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)]
        >>> task_weights(0, 5, "reversed"), task_weights(3, 5, "static")
        ((1.0, 0.0), (1.0, 1.0))
    """
    progress = epoch / (epochs - 1) if epochs > 1 else 1.0
    match kind:
        case "progressive":
            return progress, 1 - progress
        case "reversed":
            return 1 - progress, progress
        case "static":
            return static
        case "regression":
            return 1.0, 0.0


def multi_task_loss(
    quality: Quality, scores: Tensor, levels: Tensor, weights: tuple[float, float], unit: float = 1.0
) -> dict[str, Tensor]:
    """L = lambda_1 L1(mos, y) / unit + lambda_2 CE(cls, level of y).

    Args:
        quality: of B patches.
        scores: y, (B,).
        levels: (B,), whole numbers.
        weights: lambda_1, lambda_2.
        unit: the network's `score_unit`.

    Returns:
        "loss", and its parts "l1" (in units) and "ce" (0 without a classifier).

    Example:
        >>> quality = Quality(torch.tensor([[2.0], [4.0]]), torch.zeros(2, 3))
        >>> parts = multi_task_loss(quality, torch.tensor([1.0, 4.0]), torch.tensor([0, 2]), (0.5, 0.5))
        >>> round(parts["loss"].item(), 4)  # (0.5 + log 3) / 2
        0.7993
    """
    l1 = F.l1_loss(quality.mos.squeeze(-1), scores) / unit
    ce = F.cross_entropy(quality.cls, levels) if quality.cls.shape[1] else torch.zeros_like(l1)
    return {"loss": weights[0] * l1 + weights[1] * ce, "l1": l1.detach(), "ce": ce.detach()}


# -- the published size, in timm's registry -----------------------------------------------------

CFG: dict[str, Any] = {**IMAGENET, "num_classes": 10, "first_conv": "res.conv1", "classifier": "fc_cls.2"}

default_cfgs = generate_default_cfgs({"pmt_iqa_resnet18": CFG, "pmt_iqa_resnet50": CFG})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> PMTIQA:
    backbone = variant.removeprefix("pmt_iqa_")
    features = {"out_indices": (1, 2, 3, 4), "feature_cls": "getter"}
    return build_model_with_cfg(PMTIQA, variant, pretrained, feature_cfg=features, backbone=backbone, **kwargs)


@register_model
def pmt_iqa_resnet18(pretrained: bool = False, **kwargs: Any) -> PMTIQA:
    """For cheap runs."""
    return _create("pmt_iqa_resnet18", pretrained, **kwargs)


@register_model
def pmt_iqa_resnet50(pretrained: bool = False, **kwargs: Any) -> PMTIQA:
    """The published network: 23.7 M parameters, 4.15 G multiply-accumulates."""
    return _create("pmt_iqa_resnet50", pretrained, **kwargs)
