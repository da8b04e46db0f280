"""timm's interface for backbones made of a stem, stages and a last module before pooling."""

from __future__ import annotations

from typing import ClassVar

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from repertory.core.problem import Problem


class StagedBackbone(nn.Module):
    """Base class of staged backbones: subclasses define `stem`, `stages`, `head` and `post_stage`.

    With `build_model_with_cfg(..., feature_cfg={"feature_cls": "getter"})` it supports timm's `features_only=True`.
    """

    post_stage: ClassVar[str]
    """Name of the module between the last stage and pooling; if it is "norm", `forward_intermediates` can apply it."""
    stem: nn.Sequential
    stages: nn.ModuleList
    head: nn.Module

    def checked(self, x: Tensor) -> Tensor:
        """Images in the memory format of the stem.

        Raises:
            Problem: the images are too small.
        """
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> last feature map (N, num_features, H / 32, W / 32)."""
        x = self.stem(self.checked(x))
        for stage in self.stages:
            x = stage(x)
        return self.get_submodule(self.post_stage)(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stages, for detection and segmentation.

        Args:
            x: images (N, in_chans, H, W).
            indices: stages, from 0; an int n: the last n; None: all.
            norm: normalise the map of the last stage, if the network normalises before pooling.
            stop_early: skip the stages after the last of `indices`.
            output_fmt: "NCHW".
            intermediates_only: return only the list of maps.

        Returns:
            (output of `forward_features`, maps), or the maps.

        Raises:
            Problem: another `output_fmt`.
        """
        check_format(output_fmt)
        wanted, last = feature_take_indices(len(self.stages), indices)
        post_stage = self.get_submodule(self.post_stage)
        normalised = len(self.stages) - 1 if norm and self.post_stage == "norm" else None
        x, maps = self.stem(self.checked(x)), []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early or intermediates_only else self.stages):
            x = stage(x)
            if i in wanted:
                maps.append(post_stage(x) if i == normalised else x)
        return maps if intermediates_only else (post_stage(x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the maps of stages `indices` do not need; returns the absolute indices."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or last + 1 < len(self.stages):
            self.set_submodule(self.post_stage, nn.Identity())
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def get_classifier(self) -> nn.Module:
        """The classification head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0: none. Pooling is always the mean."""
        raise NotImplementedError


def channels_last(x: Tensor) -> Tensor:
    """Maps in channels-last memory; under `torch.func`, which cannot change the memory format, unchanged."""
    return x if torch._C._are_functorch_transforms_active() else x.contiguous(memory_format=torch.channels_last)


def check_format(output_fmt: str) -> None:
    """Require the layout (N, C, H, W).

    Raises:
        Problem: another layout is requested.
    """
    if output_fmt != "NCHW":
        raise Problem(f"maps are NCHW, not {output_fmt}", "forward_intermediates", 'set output_fmt="NCHW"')
