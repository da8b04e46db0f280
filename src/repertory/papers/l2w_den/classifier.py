"""A trained network with what it needs to stop early: thresholds, costs, class names; and its export.

model = ExitClassifier.from_pretrained("my_model/")
early = model.early(budget=10e6)                         # a module: images -> logits, exit of each
folder = export_early(early, Path("exported"), size=32)  # the same as torch.export programs, one per exit
logits, exits = ExportedEarlyExit(folder)(images)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.files import read_json, replace_folder, write_json
from repertory.core.problem import Problem
from repertory.nn.backbone import check_images
from repertory.papers.l2w_den.model import MultiExitNetwork, State, build, exit_costs
from repertory.papers.l2w_den.protocols import ALWAYS, NEVER
from repertory.papers.l2w_den.settings import INDICES
from repertory.papers.l2w_den.weighting import confidence


class ExitClassifier(nn.Module, PyTorchModelHubMixin):
    """A network by name, and the thresholds that were fitted to it.

    Args:
        arch: see `build`.
        num_classes: of the exits.
        pretrained_cfg: timm's keys, and `label_names`; `input_size` decides the costs.

    Shape:
        (B, 3, H, W) -> K tensors (B, num_classes).

    Example:
        >>> model = ExitClassifier("msdnet_mini", num_classes=10).eval()
        >>> [round(cost / 1e6, 1) for cost in model.costs.tolist()]
        [3.0, 6.9, 12.5, 18.5]
    """

    costs: Tensor
    """Operations up to each exit, (K,) float64."""
    thresholds: Tensor
    """(39, K); NaN before training."""
    budgets: Tensor
    """Average cost on the threshold set, (39,)."""
    accuracies: Tensor
    """Accuracy on the threshold set in per cent, (39,)."""
    correlation: Tensor
    """Spearman's correlation of weight and loss over the training images at each exit, (K,); NaN without weights."""

    def __init__(self, arch: str, num_classes: int, pretrained_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.arch, self.num_classes = arch, num_classes
        self.network = build(arch, num_classes)
        self.pretrained_cfg = {**default_cfg(arch), **(pretrained_cfg or {})}
        size = self.pretrained_cfg["input_size"][-1]
        if size < self.network.min_size:
            raise Problem(
                f"images of {size} x {size} pixels are too small for {arch}",
                "image_size",
                f"give {self.network.min_size} or more",
            )
        costs = torch.tensor(exit_costs(self.network, size=size), dtype=torch.float64)
        self.register_buffer("costs", costs)
        self.register_buffer("thresholds", torch.full((INDICES, len(costs)), torch.nan))
        self.register_buffer("budgets", torch.full((INDICES,), torch.nan, dtype=torch.float64))
        self.register_buffer("accuracies", torch.full((INDICES,), torch.nan, dtype=torch.float64))
        self.register_buffer("correlation", torch.full((len(costs),), torch.nan))

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class.

        Raises:
            Problem: images of another shape, or too small.
        """
        return self.network(check_images(x, 3, self.arch))

    def thresholds_for(self, budget: float) -> Tensor:
        """The thresholds (K,) with the best accuracy on the threshold set whose average cost is within `budget`.

        Args:
            budget: operations per image; 0: every image takes all exits.

        Raises:
            Problem: less than the first exit costs, or the model is not trained.
        """
        exits = len(self.costs)
        if budget == 0:
            return self.thresholds.new_tensor([NEVER] * (exits - 1) + [ALWAYS])
        cheapest = float(self.costs[0])
        if budget < cheapest:
            raise Problem(
                f"a budget of {budget:,.0f} operations is less than the first exit costs",
                "budget",
                f"give {cheapest:,.0f} or more; all exits cost {float(self.costs[-1]):,.0f}",
            )
        if self.thresholds.isnan().any():
            raise Problem(
                "the model has no thresholds", "budget", "train it: repertory train l2w_den; or give budget=0"
            )
        within = (self.budgets <= budget).nonzero().flatten()
        if not len(within):
            return self.thresholds.new_full((exits,), ALWAYS)
        return self.thresholds[within[self.accuracies[within].argmax()]]

    def early(self, budget: float) -> EarlyExit:
        """The module that stops early within an average budget, see `thresholds_for`."""
        return EarlyExit(self.network, self.thresholds_for(budget)).eval()


def default_cfg(arch: str) -> dict[str, Any]:
    """timm's keys for CIFAR networks (32 pixels, CIFAR-10's statistics) and all others (224 pixels, ImageNet's)."""
    if "imagenet" in arch or arch.startswith("timm:"):
        return {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear"}
    return {
        "input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear",
        "mean": CIFAR10_MEAN, "std": CIFAR10_STD,
    }  # fmt: skip


CIFAR10_MEAN, CIFAR10_STD = [0.4914, 0.4824, 0.4467], [0.2471, 0.2435, 0.2616]
CIFAR100_MEAN, CIFAR100_STD = [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]


Stage = Callable[[State], tuple[Tensor, State]]
"""From the state before an exit to its logits and the state after it."""


class EarlyExit(nn.Module):
    """A batch that shrinks: samples that reach the threshold of an exit leave, the others go on.

    Args:
        network: shares its weights.
        thresholds: of each exit (K,).

    Shape:
        (B, C, H, W) -> logits (B, num_classes) and exits (B,), from 0.
    """

    thresholds: Tensor

    def __init__(self, network: MultiExitNetwork, thresholds: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("thresholds", thresholds.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        stages = [partial(self.network.stage, k) for k in range(len(self.thresholds))]
        return run_early(stages, self.thresholds, x, self.network.num_classes)


def run_early(stages: Sequence[Stage], thresholds: Tensor, x: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Logits (B, num_classes) and exits (B,) of images; stages after the last exit that is taken do not run."""
    outputs = x.new_empty(len(x), num_classes)
    exits = torch.full((len(x),), len(stages) - 1, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    state: State = [[x]]
    for k, stage in enumerate(stages):
        if not len(rows):
            break
        logits, state = stage(state)
        leave = confidence([logits])[:, 0] >= thresholds[k]
        if leave.any():
            outputs[rows[leave]], exits[rows[leave]] = logits[leave].to(outputs), k
            rows = rows[~leave]
            state = [[maps[~leave] for maps in part] for part in state]
    return outputs, exits


# -- export ---------------------------------------------------------------------------------------

ABOUT = "early_exit.json"


class _Flat(nn.Module):
    """One stage between flat lists of maps: what is exported."""

    def __init__(self, network: MultiExitNetwork, k: int, sizes: list[int]) -> None:
        super().__init__()
        self.network, self.k, self.sizes = network, k, sizes

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(maps)
        state = [[next(remaining) for _ in range(size)] for size in self.sizes]
        logits, state = self.network.stage(self.k, state)
        return logits, *(x for part in state for x in part)


@torch.no_grad()
def export_early(early: EarlyExit, folder: Path, size: int, in_chans: int = 3) -> Path:
    """Write a model that stops early as `torch.export` programs, one per exit, for batches of any size.

    Args:
        early: the model.
        folder: exit_<k>.pt2 and early_exit.json are written into it; it replaces an older one.
        size: height and width of an image.
        in_chans: of the images.

    Returns:
        The folder, for `load_early`.
    """
    network = early.network.eval()
    state: State = [[torch.zeros(2, in_chans, size, size, device=early.thresholds.device)]]
    with replace_folder(folder) as fresh:
        for k in range(len(early.thresholds)):
            maps = tuple(x for part in state for x in part)
            stage = _Flat(network, k, [len(part) for part in state])
            dynamic = {"maps": tuple({0: torch.export.Dim("batch")} for _ in maps)}
            torch.export.save(torch.export.export(stage, maps, dynamic_shapes=dynamic), fresh / f"exit_{k}.pt2")
            _, state = network.stage(k, state)
        about = {"thresholds": early.thresholds.tolist(), "num_classes": network.num_classes, "size": size}
        write_json(fresh / ABOUT, about)
    return folder


class ExportedEarlyExit:
    """A folder that `export_early` wrote, ready to run: images (B, C, H, W) -> logits and exits."""

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / ABOUT, "give the folder that export_early wrote")
        self.thresholds, self.num_classes = torch.tensor(about["thresholds"]), about["num_classes"]
        self.stages = [
            partial(_run_exported, torch.export.load(folder / f"exit_{k}.pt2").module())
            for k in range(len(self.thresholds))
        ]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return run_early(self.stages, self.thresholds, x, self.num_classes)


def _run_exported(program: nn.Module, state: State) -> tuple[Tensor, State]:
    logits, *maps = program(*state[0])
    return logits, [maps]
