"""Networks of all rooms answer nonsense arguments and inputs of another shape with a Problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.apb import APBConv2d, APBLinear, APBNet
from repertory.papers.ceco import CeCoNet
from repertory.papers.doorping import network
from repertory.papers.eca import ECAResNet
from repertory.papers.eca.model import MINI as ECA_MINI
from repertory.papers.emo import EMO, iRMB
from repertory.papers.event_aug import EST, EventClassifier
from repertory.papers.l2w_den import MSDNet, RANet
from repertory.papers.pmt_iqa import PMTIQA
from repertory.papers.proton_dose import DoseRNN, EnergyFit
from repertory.papers.revcol import RevCol
from repertory.papers.spaic import SpikingClassifier, mlp, to_json
from repertory.papers.spaic.model import Perceptron
from repertory.papers.tcp import GAP, TCA, TCP, TSA, TCPNet, TemporalAttention
from repertory.papers.tinymim import TinyMIM
from repertory.papers.unlearnable_clusters import Generator, SmallCNN
from repertory.papers.vgnet import VGNet

EMO_SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1), "dims": (16, 16, 20, 20), "exp_ratios": (1.0,) * 4, "dim_heads": (16, 16, 20, 20),
}  # fmt: skip
EVENTS: dict[str, Any] = {"names": ["a", "b"], "size": [16, 20], "plan": "4C3-AP2"}
SPIKING: dict[str, Any] = {
    "network": to_json(mlp((1, 4, 4), [6], 3, "poisson", "lif")), "labels": ["a", "b", "c"], "steps": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "good", "bad"),
    [
        (EMO, EMO_SMALL, [{"depths": ()}, {"dims": (0,) * 4}, {"norm_layers": ("no",) * 4}, {"drop_rate": -1.0}]),
        (iRMB, {"dim_in": 16, "dim_out": 16}, [{"dim_out": -1}, {"act_layer": "no"}, {"exp_ratio": float("nan")}]),
        (ECAResNet, ECA_MINI, [{"depths": (0, 0, 0)}, {"in_chans": -3}, {"drop_path_rate": float("nan")}]),
        (VGNet, {"channels": (8, 16, 16, 16, 16), "layers": (1,) * 4}, [{"layers": ()}, {"num_classes": -1}]),
        (RevCol, {"channels": (8,) * 4, "layers": (1,) * 4, "columns": 1}, [{"columns": 0}, {"drop_rate": 1.0}]),
        (TCPNet, {"backbone": "mini", "dim": 8, "dim_inner": 8}, [{"frames": 0}, {"pool": "no"}, {"temporal": "no"}]),
        (TCP, {"dim_in": 8, "dim_out": 8}, [{"dim_out": 0}, {"level": "no"}, {"iterations": -1}]),
        (TSA, {"dim": 8, "frames": 2}, [{"dim": 0}, {"affinity": "no"}]),
        (MSDNet, {"n_exits": 2}, [{"n_exits": 0}, {"bn_factor": (1,)}, {"stem": "no"}, {"reduction": float("nan")}]),
        (RANet, {"n_blocks": 1}, [{"scale_list": ()}, {"gr_factor": (0, 0, 0)}, {"step_mode": "no"}]),
        (EventClassifier, EVENTS, [{"names": []}, {"size": [16]}, {"bins": 0}, {"representation": "no"}]),
        (EventClassifier, {**EVENTS, "network": "snn"}, [{"plan": "4X3"}]),
        (EST, {"bins": 4, "size": (8, 8)}, [{"kernel": "no"}, {"size": (0, 8)}]),
        (DoseRNN, {}, [{"cell": "no"}, {"layers": 0}, {"hidden": -1}, {"inputs": ()}, {"inputs": ("no",)}]),
        (EnergyFit, {"lowest": 50.0, "highest": 60.0}, [{"step": 0.0}, {"highest": 40.0}, {"fwhm_mm": -1.0}]),
        (SpikingClassifier, SPIKING, [{"labels": ["a"]}, {"surrogate": "no"}, {"steps": 0}, {"alpha": 0.0}]),
        (Perceptron, {"shape": [1, 4, 4], "widths": [4], "labels": ["a"]}, [{"widths": [0]}, {"shape": []}]),
        (APBNet, {"names": ["a"], "plan": "4C3", "size": (8, 8)}, [{"where": "no"}, {"steps": 0}, {"size": (8,)}]),
        (APBConv2d, {"in_channels": 2, "out_channels": 3, "kernel_size": 3}, [{"kernel_size": 0}]),
        (TinyMIM, {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}, [{"depth": 0}, {"patch_size": 0}]),
        (CeCoNet, {"arch": "mini", "num_classes": 3}, [{"num_classes": 0}, {"image_size": -1}]),
        (PMTIQA, {"backbone": "resnet18"}, [{"hidden": 0}, {"drop_rate": -0.5}]),
        (Generator, {"ngf": 4, "n_blocks": 1}, [{"ngf": 0}, {"act": "no"}]),
        (SmallCNN, {}, [{"classes": -1}]),
        (network, {"name": "mini", "num_classes": 3, "in_chans": 3, "image_size": 32}, [{"num_classes": 0}]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nonsense_arguments(make: Callable[..., Any], good: dict[str, Any], bad: list[dict[str, Any]]) -> None:
    make(**good)
    for changes in bad:
        with pytest.raises(Problem):
            make(**{**good, **changes})


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("net", "good", "bad"),
    [
        (iRMB(16, 16), zeros(2, 16, 8, 8), [zeros(16, 8, 8), zeros(2, 15, 8, 8), zeros(2, 16, 0, 8)]),
        (MSDNet(2), zeros(2, 3, 32, 32), [zeros(3, 32, 32), zeros(2, 4, 32, 32), zeros(2, 3, 8, 8)]),
        (TCP(8, 8, 2), zeros(4, 8, 3, 3), [zeros(8, 3, 3), zeros(4, 7, 3, 3), zeros(3, 8, 3, 3)]),
        (TSA(8, 2), zeros(4, 8, 3, 3), [zeros(8, 3, 3), zeros(4, 7, 3, 3), zeros(3, 8, 3, 3)]),
        (TemporalAttention(8, 2), zeros(4, 8, 3, 3), [zeros(8, 3, 3), zeros(4, 7, 3, 3), zeros(3, 8, 3, 3)]),
        (GAP(8), zeros(4, 8, 3, 3), [zeros(8, 3, 3), zeros(4, 7, 3, 3)]),
        (TCPNet("mini", 3, 2, dim=8, dim_inner=8), zeros(1, 2, 3, 64, 64), [zeros(1, 2, 3, 0, 64), zeros(2, 3)]),
        (
            EventClassifier(**EVENTS),
            zeros(2, 4, 2, 16, 20),
            [zeros(2, 16, 20), zeros(2, 4, 3, 16, 20), zeros(2, 5, 2, 16, 20), zeros(2, 4, 2, 20, 20), zeros(3, 5)],
        ),
        (
            EventClassifier(**EVENTS, network="snn"),
            zeros(2, 4, 2, 16, 20),
            [zeros(2, 4, 3, 16, 20), zeros(2, 3, 2, 16, 20)],
        ),
        (EventClassifier(**EVENTS, representation="frame"), zeros(2, 1, 16, 20), [zeros(2, 2, 16, 20), zeros(16, 20)]),
        (EST(4, (8, 8)), torch.tensor([[1.0, 1, 0.5, 1, 0]]), [zeros(3, 4), zeros(5)]),
        (SpikingClassifier(**SPIKING), zeros(2, 1, 4, 4), [zeros(1, 4, 4), zeros(2, 2, 4, 4), zeros(2, 1, 5, 4)]),
        (Perceptron([1, 4, 4], [4], ["a"]), zeros(2, 1, 4, 4), [zeros(2, 3, 4, 4), zeros(1, 4, 4)]),
        (APBLinear(4, 3), zeros(2, 4), [zeros(2, 5)]),
        (APBConv2d(2, 3, 3), zeros(2, 2, 8, 8), [zeros(2, 3, 8, 8), zeros(8, 8)]),
        (CeCoNet("mini", 3), zeros(1, 3, 32, 32), [zeros(3, 32, 32), zeros(1, 4, 32, 32)]),
        (PMTIQA("resnet18"), zeros(1, 3, 64, 64), [zeros(3, 64, 64), zeros(1, 4, 64, 64)]),
        (SmallCNN(3), zeros(1, 3, 32, 32), [zeros(3, 32, 32), zeros(1, 4, 32, 32)]),
        (network("mini", 3, 3, 32), zeros(1, 3, 32, 32), [zeros(3, 32, 32), zeros(1, 4, 32, 32), zeros(1, 3, 40, 40)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_inputs_of_another_shape(net: nn.Module, good: Tensor, bad: list[Tensor]) -> None:
    with torch.no_grad():
        net.eval()(good)
        for x in bad:
            with pytest.raises(Problem):
                net(x)


def test_depths_of_a_beam() -> None:
    doses: list[tuple[nn.Module, int]] = [(DoseRNN(("activity", "hu")), 30), (EnergyFit(50.0, 60.0), 30)]
    for net, depth in doses:
        net(torch.ones(2, depth), zeros(2, depth))
        for bad in ((2, depth - 1), (3, depth), (2, depth, 1), (depth,)):
            with pytest.raises(Problem):
                net(torch.ones(2, depth), zeros(*bad))
    with pytest.raises(Problem, match="no hu"):
        DoseRNN(("activity", "hu"))(zeros(2, 30))


def test_attention_needs_whole_videos() -> None:
    with pytest.raises(Problem):
        TCA(8, 2)(zeros(3, 8, 2, 2), zeros(3, 8, 2, 2))
