"""Losses of TENET: winner takes all for the future, a score for each mode, the history in reverse."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.papers.tenet.model import TENET, Forecast, TemporalFlowHeader
from repertory.papers.tenet.scenes import agent_features, lane_features


class Learner(nn.Module):
    """The network with its losses; `net` is what remains after training.

    L = L_reg + score_weight L_score + flow_weight L_flow, on batches of `scenes.collate`:

    - k* is the mode with the least error at the last known step, of several the one with the least mean error.
    - L_reg: smooth L1 (β = 1 m) of mode k*, mean over known steps and both coordinates.
    - L_score: cross entropy with k*, or with softmax(-FDE / 1 m).
    - L_flow: smooth L1 between the observed positions of the focal agent and those that the Temporal Flow Header
      reconstructs from the features of k*, or of all modes.

    Args:
        net: the network.
        flow: the Temporal Flow Header; None: L_flow = 0.
        score_weight: of L_score.
        flow_weight: λ.
        soft: targets of the score.
        all_modes: of the flow.
    """

    def __init__(
        self,
        net: TENET,
        flow: TemporalFlowHeader | None = None,
        score_weight: float = 1.0,
        flow_weight: float = 0.5,
        *,
        soft: bool = False,
        all_modes: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.flow = net, flow
        self.score_weight, self.flow_weight = score_weight, flow_weight
        self.soft, self.all_modes = soft, all_modes

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name; "loss" is their weighted sum."""
        out: Forecast = self.net(agent_features(batch), lane_features(batch))
        truth, known = batch["future"], batch["known"]
        best, fde = winners(out.trajectories, truth, known)
        rows, some = torch.arange(len(best), device=best.device), known.any(1)
        regression = masked_smooth_l1(out.trajectories[rows, best], truth, known)
        target = (-fde).softmax(-1) if self.soft else best
        score = F.cross_entropy(out.logits, target, reduction="none")
        score = (score * some).sum() / some.sum().clamp(min=1)
        losses = {"loss": regression + self.score_weight * score, "regression": regression, "score": score}
        if self.flow is not None:
            flow = self._flow(out.features, best, batch)
            losses = {**losses, "loss": losses["loss"] + self.flow_weight * flow, "flow": flow}
        return losses

    def _flow(self, features: Tensor, best: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        assert self.flow is not None
        past, seen = batch["history"][:, 0, :, :2], batch["seen"][:, 0]
        if self.all_modes:
            modes = features.shape[1]
            past, seen = past.repeat_interleave(modes, 0), seen.repeat_interleave(modes, 0)
            return masked_smooth_l1(self.flow(features.flatten(0, 1)), past, seen)
        return masked_smooth_l1(self.flow(features[torch.arange(len(best), device=best.device), best]), past, seen)


def winners(trajectories: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The mode k* (B,) of each scenario, and the error (B, K) of all modes at the last known step.

    Args:
        trajectories: (B, K, T, 2).
        truth: (B, T, 2).
        known: (B, T).
    """
    error = (trajectories.detach() - truth[:, None]).norm(dim=-1) * known[:, None]  # (B, K, T)
    steps = torch.arange(known.shape[1], device=known.device)
    last = (steps * known).argmax(1)  # (B,)
    fde = error.gather(2, last[:, None, None].expand(-1, error.shape[1], 1)).squeeze(2)
    tied = fde <= fde.amin(1, keepdim=True)
    return error.mean(2).masked_fill(~tied, torch.inf).argmin(1), fde


def masked_smooth_l1(found: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Smooth L1 with β = 1, mean over valid steps and coordinates: (B, T, 2), (B, T, 2), (B, T) -> scalar."""
    error = F.smooth_l1_loss(found, truth, reduction="none").mean(-1)
    return (error * valid).sum() / valid.sum().clamp(min=1)
