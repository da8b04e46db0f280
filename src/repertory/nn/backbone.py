"""timm's interface to backbones that are a stem, stages, and something behind them."""

from __future__ import annotations

from typing import ClassVar

from timm.models._features import feature_take_indices
from torch import Tensor, nn

from repertory.core.problem import Problem


class StagedBackbone(nn.Module):
    """What the networks of several papers have in common: they derive from it and define `stem`, `stages` and `head`.

    With `build_model_with_cfg(..., feature_cfg={"feature_cls": "getter"})` it serves timm's `features_only=True`.
    """

    post_stage: ClassVar[str]
    """Name of the module between the last stage and the pooling; `norm`: it normalises the last map."""
    stem: nn.Sequential
    stages: nn.ModuleList
    head: nn.Module

    def checked(self, x: Tensor) -> Tensor:
        """Images as the stem wants them; refuses what is too small."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> the last map (N, num_features, H / 32, W / 32)."""
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
        """The maps of the stages, as detectors and segmenters want them.

        Args:
            x: images (N, in_chans, H, W).
            indices: which stages, from 0; an int: the last so many; None: all.
            norm: normalise the last stage's map, where the network does so before it pools.
            stop_early: compute no stage beyond the last one wanted.
            output_fmt: "NCHW".
            intermediates_only: leave out the last map.

        Raises:
            Problem: another format.
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
        """Remove what the maps of the stages `indices` do not need; returns these as absolute indices."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or last + 1 < len(self.stages):
            self.set_submodule(self.post_stage, nn.Identity())
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Put a fresh head of `num_classes` outputs in place; 0: none. Pooling is always the mean."""
        raise NotImplementedError


def check_format(output_fmt: str) -> None:
    """Maps lie as (N, C, H, W).

    Raises:
        Problem: another format is asked for.
    """
    if output_fmt != "NCHW":
        raise Problem(f"maps are NCHW, not {output_fmt}", "forward_intermediates", 'output_fmt="NCHW"')
