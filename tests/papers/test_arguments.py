"""Networks of all rooms answer nonsense arguments and inputs of another shape with a Problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.apb import APBConv2d, APBLinear, APBNet
from repertory.papers.ccgc import CCGC, GraphClustering, high_confidence, kmeans, smooth, warmup_loss
from repertory.papers.ceco import CeCoNet
from repertory.papers.doorping import network
from repertory.papers.eca import ECA, ECAResNet, channel_attention
from repertory.papers.eca.model import MINI as ECA_MINI
from repertory.papers.emo import EMO, iRMB
from repertory.papers.event_aug import EST, EventClassifier
from repertory.papers.gapgc import (
    GIN,
    AdaptiveClassifier,
    Augmenter,
    GraphClassifier,
    Graphs,
    Projector,
    group_contrast,
    info_nce,
    own_contrast,
)
from repertory.papers.ghsc import (
    HGCN,
    HGCNII,
    HAPPNPConv,
    HChebConv,
    HGCNConv,
    HGCNIIConv,
    HGINConv,
    HRevGNN,
    HSGConv,
    HSSGConv,
    UnifiedHypergraph,
    build_network,
    knn_incidence,
)
from repertory.papers.ghsc.model import NETWORKS
from repertory.papers.l2w_den import MSDNet, RANet
from repertory.papers.pmt_iqa import PMTIQA
from repertory.papers.proton_dose import DoseRNN, EnergyFit
from repertory.papers.reliant import GCN, PLP, SGC, Discriminators, Distilled, GraphSAGE
from repertory.papers.reliant import Graph as Neighbours
from repertory.papers.revcol import RevCol
from repertory.papers.spaic import SpikingClassifier, mlp, to_json, winner_take_all
from repertory.papers.spaic.model import Perceptron
from repertory.papers.tcp import GAP, TCA, TCP, TSA, TCPNet, TemporalAttention
from repertory.papers.tinymim import TinyMIM
from repertory.papers.unlearnable_clusters import Generator, SmallCNN
from repertory.papers.vgnet import VGNet

NAN = math.nan
EMO_SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1), "dims": (16, 16, 20, 20), "exp_ratios": (1.0,) * 4, "dim_heads": (16, 16, 20, 20),
}  # fmt: skip
EVENTS: dict[str, Any] = {"names": ["a", "b"], "size": [16, 20], "plan": "4C3-AP2"}
SPIKING: dict[str, Any] = {
    "network": to_json(mlp((1, 4, 4), [6], 3, "poisson", "lif")), "labels": ["a", "b", "c"], "steps": 3,
}  # fmt: skip


POPULATIONS: dict[str, Any] = {"shape": (4,), "widths": [3], "classes": 2, "encode": "poisson", "model": "lif"}
PROTOTYPES: dict[str, Any] = {
    "shape": (4,), "neurons": 3, "encode": "poisson", "rate": 0.1, "w_norm": 1.0, "theta_plus": 0.1,
}  # fmt: skip
MOMENTS: dict[str, Any] = {"in_features": 4, "clusters": 2, "smoothing_steps": 1, "hidden": {"last": 3, "stop": 0}}
WIDTHS = [{"in_features": 0}, {"in_features": -1}, {"classes": 0}, {"name": "no"}]
ADAPTIVE: dict[str, Any] = {"arm": "gapgc", "tasks": ["a"], "layers": 1, "dim": 4}
EDGES = np.array([[0, 0, 1, 1, 1, 2, 2], [0, 1, 0, 1, 2, 1, 2]])


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
        (EnergyFit, {"lowest": 50.0, "highest": 60.0, "fwhm_mm": 0}, [{"fwhm_mm": 1e9}, {"fwhm_mm": float("nan")}]),
        (channel_attention, {"kind": "eca", "channels": 16}, [{"kernel_size": k} for k in (0, 2, 2.5, "3", True)]),
        (channel_attention, {"kind": "se", "channels": 16}, [{"reduction": r} for r in (0, -2, 2.5, "a")]),
        (channel_attention, {"kind": "se", "channels": 16}, [{"bias": "no"}, {"kind": "cbam", "reduction": 0}]),
        (ECA, {"channels": 16}, [{"channels": 0}, {"channels": -4, "kernel_size": 3}]),
        (SpikingClassifier, SPIKING, [{"labels": ["a"]}, {"surrogate": "no"}, {"steps": 0}, {"alpha": 0.0}]),
        (Perceptron, {"shape": [1, 4, 4], "widths": [4], "labels": ["a"]}, [{"widths": [0]}, {"shape": []}]),
        (APBNet, {"names": ["a"], "plan": "4C3", "size": (8, 8)}, [{"where": "no"}, {"steps": 0}, {"size": (8,)}]),
        (APBConv2d, {"in_channels": 2, "out_channels": 3, "kernel_size": 3}, [{"kernel_size": 0}]),
        (
            TinyMIM,
            {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
            [{"depth": 0}, {"patch_size": 0}, {"global_pool": "no"}],
        ),
        (CeCoNet, {"arch": "mini", "num_classes": 3}, [{"num_classes": 0}, {"image_size": -1}]),
        (PMTIQA, {"backbone": "resnet18"}, [{"hidden": 0}, {"drop_rate": -0.5}]),
        (Generator, {"ngf": 4, "n_blocks": 1}, [{"ngf": 0}, {"act": "no"}]),
        (SmallCNN, {}, [{"classes": -1}]),
        (mlp, POPULATIONS, [{"dt": d} for d in (NAN, 0.0, -1.0, math.inf, "1")]),
        (mlp, POPULATIONS, [{"widths": [w]} for w in (0, -1, 2.5)]),
        (mlp, POPULATIONS, [{"classes": 0}, {"shape": (2.5,)}, {"model": "no"}, {"encode": "no"}]),
        (CCGC, {"in_features": 4}, [{"in_features": 0}, {"in_features": 2.5}, {"hidden": -1}]),
        (GraphClustering, MOMENTS, [{"clusters": 0}, {"smoothing_steps": -1}, {"hidden": {"last": -1}}]),
        (HGCNConv, {"in_features": 4, "out_features": 3}, [{"in_features": 0}, {"out_features": -3}]),
        (HGCNIIConv, {"channels": 4, "alpha": 0.1, "beta": 0.3}, [{"alpha": 2.0}, {"beta": NAN}, {"init": "no"}]),
        (HSSGConv, {"in_features": 4, "out_features": 3}, [{"hops": 0}, {"alpha": -0.1}]),
        (HAPPNPConv, {}, [{"hops": 0}, {"alpha": NAN}]),
        (HChebConv, {"in_features": 4, "out_features": 3}, [{"terms": 0}]),
        (HGINConv, {"in_features": 4, "hidden": 5, "out_features": 3}, [{"hidden": 0}]),
        *((build_network, {"name": name, "in_features": 4, "classes": 3}, WIDTHS) for name in NETWORKS),
        (HGCN, {"in_features": 4, "classes": 3}, [{"layers": 1}, {"hidden": -2}, {"dropout": 1.0}]),
        (HGCNII, {"in_features": 4, "classes": 3}, [{"layers": 0}, {"lamda": NAN}, {"lamda": -0.5}, {"dropout": NAN}]),
        (HRevGNN, {"in_features": 4, "classes": 3}, [{"layers": 0}, {"hidden": 3}, {"hidden": -2}]),
        (UnifiedHypergraph, {"Q": torch.ones(3, 2)}, [{"Q": torch.ones(3)}, {"w": [1.0]}, {"sigma": NAN}]),
        (GCN, {"in_features": 4, "hidden": 3, "classes": 2}, [{"in_features": 0}, {"hidden": -1}, {"dropout": 1.0}]),
        (GraphSAGE, {"in_features": 4, "hidden": 3, "classes": 2}, [{"classes": 0}, {"dropout": NAN}]),
        (SGC, {"in_features": 4, "hidden": 3, "classes": 2}, [{"in_features": -1}, {"hidden": 0}]),
        (PLP, {"nodes": 3, "in_features": 4}, [{"nodes": -1}, {"emb": 0}, {"mlp_layers": 3}, {"feat_drop": 1.0}]),
        (Distilled, {"features": 4}, [{"teacher": "no"}, {"student": "no"}, {"proxy": "no"}, {"known": -1}]),
        (Distilled, {"features": 4}, [{"features": 0}, {"features": 2, "replaces": True}, {"classes": 0}]),
        (Discriminators, {"classes": 2, "hidden": 3}, [{"classes": 0}, {"hidden": -1}]),
        (Neighbours, {"edges": EDGES, "size": 3}, [{"edges": e} for e in (EDGES.T, EDGES[0], EDGES - 1, EDGES * 1.0)]),
        (Neighbours, {"edges": EDGES, "size": 3}, [{"size": 0}, {"size": 2}, {"size": 4}, {"edges": EDGES[:, ::-1]}]),
        (Neighbours, {"edges": EDGES, "size": 3}, [{"edges": EDGES[:, 1:]}, {"edges": np.delete(EDGES, 2, 1)}]),
        (GIN, {"layers": 1, "dim": 4}, [{"layers": 0}, {"dim": -3}, {"dropout": 1.0}, {"jk": "no"}, {"pool": "no"}]),
        (GraphClassifier, {"layers": 1, "dim": 4}, [{"tasks": 0}, {"jk": "no"}]),
        (Projector, {"width": 4}, [{"width": 0}]),
        (Augmenter, {"encoder": GIN(1, 4)}, [{"scorer": "no"}, {"tau": 0.0}, {"tau": NAN}, {"keep_bias": NAN}]),
        (AdaptiveClassifier, ADAPTIVE, [{"arm": "no"}, {"tasks": []}, {"dim": 0}, {"augmenter_tau": -1.0}]),
        (winner_take_all, PROTOTYPES, [{"rate": -0.1}, {"rate": NAN}, {"rate": math.inf}, {"dt": NAN}]),
        (winner_take_all, PROTOTYPES, [{"w_norm": 0.0}, {"w_norm": NAN}, {"theta_plus": -0.1}, {"theta_plus": NAN}]),
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
    for net in (DoseRNN(("activity", "hu")), EnergyFit(50.0, 60.0)):
        with pytest.raises(Problem, match="no hu"):
            net(zeros(2, 30))


def test_a_scanner_without_blur() -> None:
    dose = EnergyFit(50.0, 60.0, fwhm_mm=0)(torch.ones(2, 30), zeros(2, 30))
    assert dose.isfinite().all()
    assert dose.amax(1).tolist() == [1.0, 1.0]


def test_a_transformer_of_one_size_is_refused_where_it_is_built() -> None:
    with pytest.raises(Problem, match=r"(?s)vit_tiny_patch16_224 takes no images of 16 x 20.*set side=224"):
        EventClassifier(**EVENTS, network="vit_tiny_patch16_224")
    net = EventClassifier(**EVENTS, network="vit_tiny_patch16_224", side=224)
    assert net.training
    assert net(zeros(1, 4, 2, 16, 20)).shape == (1, 2)


def test_heads_of_another_kind() -> None:
    net = TinyMIM(img_size=32, embed_dim=32, depth=1, num_heads=2)
    for bad in ((-1, None), (3, "no")):
        with pytest.raises(Problem):
            net.reset_classifier(*bad)
    net.reset_classifier(3, "")
    assert net(zeros(2, 3, 32, 32)).shape == (2, 5, 3)


def test_attention_needs_whole_videos() -> None:
    with pytest.raises(Problem):
        TCA(8, 2)(zeros(3, 8, 2, 2), zeros(3, 8, 2, 2))


@pytest.mark.parametrize("shape", [(5, 3), (4,), (2, 5, 4)])
def test_features_of_another_shape(shape: tuple[int, ...]) -> None:
    graph, hypergraph = Neighbours(EDGES, 3), UnifiedHypergraph(torch.ones(5, 2)).operator()
    incidence = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 1]])
    known, labels = torch.tensor([0]), torch.tensor([[1.0, 0.0]])
    with torch.no_grad():
        for net in (CCGC(4, 3), GraphClustering(**MOMENTS), CCGC(4, 3).embed):
            net(zeros(5, 4))
            with pytest.raises(Problem):
                net(zeros(*shape))
        for layer in (HGCNConv(4, 3), HSGConv(4, 3), HSSGConv(4, 3), HChebConv(4, 3), HGINConv(4, 3, 3)):
            for T in (hypergraph, incidence):
                layer(zeros(5, 4), T)
                with pytest.raises(Problem):
                    layer(zeros(*shape), T)
        for name in NETWORKS:
            T = incidence if name == "hypergraph-conv" else hypergraph
            net = build_network(name, 4, 3).eval()
            net(zeros(5, 4), T)
            with pytest.raises(Problem):
                net(zeros(*shape), T)
            if name != "mlp":  # which does not look at its neighbours
                with pytest.raises(Problem):
                    net(zeros(4, 4), T)
        students = [Distilled(4, 3, student=student) for student in ("plp", "sgc", "")]
        for net in (GCN(4, 3, 2), GraphSAGE(4, 3, 2), SGC(4, 3, 2), *students):
            net.eval()(zeros(3, 4), graph)
            for bad in (zeros(*shape), zeros(5, 4)):
                with pytest.raises(Problem):
                    net(bad, graph)
        plp = PLP(3, 4).eval()
        plp(zeros(3, 4), graph, known, labels)
        for x, ids, given in (
            (zeros(*shape), known, labels),
            (zeros(3, 4), known + 3, labels),
            (zeros(3, 4), known, zeros(1, 3)),
        ):
            with pytest.raises(Problem):
                plp(x, graph, ids, given)


def test_parts_of_another_shape() -> None:
    graph = Neighbours(EDGES, 3)
    judges, gate, operator = (
        Discriminators(2, 3),
        HGCNIIConv(4, 0.1, 0.3),
        UnifiedHypergraph(torch.ones(3, 2)).operator(),
    )
    z = zeros(4, 3)
    wrong: list[Callable[[], Any]] = [
        lambda: CCGC(4, 3)(zeros(5, 4), zeros(4, 4)),
        lambda: GraphClustering(**MOMENTS)(zeros(5, 4), "no"),
        lambda: smooth(sparse.csr_array(np.ones((3, 3))), np.ones((4, 2)), 1),
        lambda: kmeans(zeros(5), 2),
        lambda: kmeans(zeros(5, 2), 2, centres=zeros(2, 3)),
        lambda: high_confidence(zeros(5, 2), NAN),
        lambda: warmup_loss(zeros(5, 3), zeros(1, 3)),
        lambda: gate(zeros(3, 4), operator, x0=zeros(2, 4)),
        lambda: knn_incidence(np.ones(3), k=2),
        lambda: Distilled(4, 3)(zeros(3, 4), graph, zeros(3, 3)),
        lambda: judges.logits(zeros(3, 3)),
        lambda: judges.local_scores(zeros(4, 3), graph),
        lambda: judges.global_scores(zeros(3, 3), zeros(4)),
        lambda: graph.product(zeros(7), zeros(4, 2)),
        lambda: Projector(4)(zeros(2, 3)),
        lambda: Augmenter(GIN(1, 4)).keep(zeros(5), zeros(2, 4)),
        lambda: group_contrast(z, zeros(4, 5), z > 0, z > 0),
        lambda: group_contrast(z, z, (z > 0)[:2], z > 0),
        lambda: group_contrast(z, z, z > 0, z > 0, tau=0.0),
        lambda: own_contrast(z, zeros(5, 3)),
        lambda: info_nce(z, z[:3]),
    ]
    for call in wrong:
        with pytest.raises(Problem):
            call()


INCIDENCE = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 1]])


@pytest.mark.parametrize("bad", [INCIDENCE.T, INCIDENCE[0], INCIDENCE.float(), INCIDENCE - 1, INCIDENCE + 2])
def test_hyperedges_of_another_shape(bad: Tensor) -> None:
    for net in (HGCNConv(4, 3), HAPPNPConv(), build_network("hypergraph-conv", 4, 3)):
        net(zeros(3, 4), INCIDENCE)
        with pytest.raises(Problem):
            net(zeros(3, 4), bad)
    with pytest.raises(Problem):
        HGCNConv(4, 3)(zeros(3, 4), INCIDENCE, None, zeros(3))


MOLECULE = Graphs(
    torch.tensor([[5, 0], [6, 1], [7, 2]]), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.tensor([[0, 0]] * 4),
    torch.tensor([0, 0, 0]), 1,
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"x": x}
            for x in (MOLECULE.x[:, :1], MOLECULE.x[:, 0], MOLECULE.x.float(), MOLECULE.x + 115, MOLECULE.x - 6)
        ),
        *({"edge_index": e} for e in (MOLECULE.edge_index.T, MOLECULE.edge_index[0], MOLECULE.edge_index + 1)),
        *({"edge_index": e} for e in (MOLECULE.edge_index - 1, MOLECULE.edge_index.float())),
        *({"edge_attr": a} for a in (MOLECULE.edge_attr[:3], MOLECULE.edge_attr[:, :1], MOLECULE.edge_attr + 3)),
        *({"batch": b} for b in (MOLECULE.batch[:2], MOLECULE.batch + 1, MOLECULE.batch - 1, MOLECULE.batch[:, None])),
        {"num_graphs": 0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_molecules_that_the_embeddings_do_not_cover(changes: dict[str, Any]) -> None:
    encoder = GIN(1, 4).eval()
    bad = MOLECULE._replace(**changes)
    for net in (encoder, encoder.embed, GraphClassifier(1, 1, 4).eval(), Augmenter(encoder).logits):
        net(MOLECULE)
        with pytest.raises(Problem):
            net(bad)
    with pytest.raises(Problem):
        encoder(MOLECULE, torch.ones(3))
