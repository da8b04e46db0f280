"""What GHSC can be told, and the settings of its two releases: "ws" (workshop, H-GNNs) and "pami" (journal, GHSC)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig


class Setting(NamedTuple):
    """How one network is trained."""

    lr: float
    hidden: int
    layers: int
    weight_decay: float
    deep_weight_decay: float
    epochs: int
    dropout: float = 0.5
    alpha: float = 0.1
    lamda: float = 0.5
    patience: int = 0
    clip_norm: float = 0.0
    plateau: int = 0


WS_HABITS: dict[str, Any] = {"patience": 100, "clip_norm": 40.0, "plateau": 100}

WS = {
    "h-gcnii": Setting(0.01, 64, 32, 5e-4, 0.01, 1000, **WS_HABITS),
    "others": Setting(0.01, 128, 2, 5e-4, 5e-4, 1000, **WS_HABITS),
    "visual h-gcnii": Setting(1e-3, 64, 32, 1e-3, 1e-3, 1000, **WS_HABITS),
    "visual others": Setting(1e-3, 128, 2, 1e-3, 1e-3, 1000, **WS_HABITS),
}
"""Released commands, by network and kind of data (visual: hyperedges are built from features)."""

PAMI = {
    "cocitation-cora": Setting(1e-3, 128, 32, 1e-3, 1e-3, 500),
    "cocitation-citeseer": Setting(1e-3, 128, 2, 1e-3, 1e-3, 500),
    "cocitation-pubmed": Setting(1e-3, 512, 4, 1e-3, 1e-3, 600),
    "coauthorship-cora": Setting(1e-3, 128, 32, 1e-3, 1e-3, 500),
    "coauthorship-dblp": Setting(1e-3, 128, 32, 1e-3, 1e-3, 500),
    "NTU2012 gvcnn": Setting(1e-3, 128, 2, 5e-3, 5e-3, 500),
    "NTU2012 mvcnn": Setting(1e-3, 256, 4, 5e-3, 5e-3, 500),
    "NTU2012 both": Setting(1e-3, 256, 4, 5e-3, 5e-3, 500),
    "ModelNet40 mvcnn": Setting(1e-3, 128, 2, 5e-3, 5e-3, 500, dropout=0.2, alpha=0.05, lamda=0.5),
    "ModelNet40 gvcnn": Setting(1e-3, 256, 2, 5e-3, 5e-3, 500),
    "ModelNet40 both": Setting(1e-3, 128, 2, 5e-3, 5e-3, 500, alpha=0.3, lamda=0.55),
}
"""Released commands for H-GCNII, by data set and, for visual objects, by view; every other network here takes the same
learning rate, width, decay and epochs."""


class GHSCConfig(StudyConfig):
    """How the vertices of a hypergraph are classified. What is empty comes from the release's table."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "epochs",
            "lr",
            "dropout",
            "weight_decay",
            "deep_weight_decay",
            "patience",
            "clip_norm",
            "plateau",
        ),
        "prediction": ("protocol",),
        "data": ("validation_ids", "train_share", "valid_share", "views"),
        "sample": ("sample", "sample_vertices"),
    }

    release: Literal["ws", "pami"] = Field(
        default="ws",
        description="ws: clipping, plateau schedule, early stopping, uniform initialisation; pami: none of the three, "
        "Glorot initialisation, and a hyperedge of its own for each vertex",
    )
    protocol: Literal["validation", "released"] = Field(
        default="validation",
        description="whose best epoch `predict` uses: on ids held out from the test list, or on the test list itself, "
        "as the authors do; both are reported",
    )
    validation_ids: int = Field(
        default=500, ge=1, description="random ids of the test list that choose the epoch; at most half of the list"
    )
    train_share: float = Field(
        default=0.5, gt=0, lt=1, description="of the labelled vertices, where the data have no split"
    )
    valid_share: float = Field(default=0.25, gt=0, lt=1, description="likewise; the rest is for test")
    views: Literal["both", "mvcnn", "gvcnn"] = Field(default="both", description="features of visual objects to use")
    knn: int | None = Field(
        default=None,
        ge=1,
        description="vertices of a hyperedge built from nearest neighbours; empty: 6 where the data have no "
        "hyperedges, else none are built",
    )
    gamma: float = Field(default=0.5, gt=0, description="γ of the vertex weights in hyperedges of nearest neighbours")
    sigma: float = Field(default=-1.0, ge=-10, le=10, description="ρ(x) = x^σ of the hyperedge degrees")
    renormalise: bool = Field(default=True, description="add the identity to the graph's weights")
    self_hyperedges: bool | None = Field(
        default=None, description="a hyperedge of its own for each vertex; empty: as the release does"
    )
    epochs: int | None = Field(default=None, ge=1, description="full-batch steps, at most")
    lr: float | None = Field(default=None, gt=0, description="of Adam")
    hidden: int | None = Field(default=None, ge=1, description="width of the hidden layers")
    gcn_layers: int = Field(default=2, ge=2, le=1000, description="of H-GCN")
    layers: int | None = Field(default=None, ge=1, le=1000, description="of H-GCNII and H-RevGNN")
    dropout: float | None = Field(default=None, ge=0, lt=1, description="after hidden layers")
    alpha: float | None = Field(default=None, ge=0, le=1, description="α of H-GCNII")
    lamda: float | None = Field(default=None, gt=0, description="λ of H-GCNII")
    variant: bool = Field(default=False, description="H-GCNII with the weights of GCNII*")
    weight_decay: float | None = Field(default=None, ge=0, description="of all weights but H-GCNII's inner ones")
    deep_weight_decay: float | None = Field(default=None, ge=0, description="of H-GCNII's inner weights")
    patience: int | None = Field(
        default=None, ge=0, description="stop after more than so many epochs without a better validation; 0: never"
    )
    clip_norm: float | None = Field(default=None, ge=0, description="largest gradient norm; 0: no clipping")
    plateau: int | None = Field(
        default=None, ge=0, description="epochs without a lower training loss before lr falls to a fifth; 0: never"
    )
    sample: Literal["citation", "objects"] = Field(
        default="objects", description="which sample is written: papers with hyperedges, or objects with two views"
    )
    sample_vertices: int = Field(default=240, ge=60, le=5000, description="of the sample")


def setting(config: GHSCConfig, network: str, data: str, visual: bool) -> Setting:
    """The release's setting for a network on some data, with what the configuration says put in its place.

    Args:
        config: its fields that are not empty come first.
        network: a key of `model.NETWORKS`.
        data: name of the data set; those that the release's table does not have are treated as co-citation Cora or,
            if they are visual, as NTU2012.
        visual: hyperedges are built from features.
    """
    if config.release == "ws":
        found = WS[("visual " if visual else "") + ("h-gcnii" if network == "h-gcnii" else "others")]
    elif visual:
        known = next((name for name in ("NTU2012", "ModelNet40") if name.lower() in data.lower()), "NTU2012")
        found = PAMI[f"{known} {config.views}"]
    else:
        found = PAMI.get(data, PAMI["cocitation-cora"])
    return found._replace(**{name: value for name in Setting._fields if (value := getattr(config, name)) is not None})


DEPTHS = (2, 4, 8, 16)


class Arm(NamedTuple):
    """What an arm trains, and on which operator."""

    what: str
    network: str
    operator: str = "unified"
    changes: dict[str, Any] = {}
    """Fields of the configuration, or `edvw`, that differ."""


ARMS = {
    "mlp": Arm("two-layer perceptron with batch normalisation: sees no hyperedge", "mlp"),
    "gcn-clique": Arm("GCN on the unweighted clique graph", "h-gcn", "clique"),
    "hgnn": Arm("GCN on HGNN's operator; a vertex in no hyperedge gets one of its own", "h-gcn", "hgnn"),
    "hypergraph-conv": Arm("PyTorch Geometric's HypergraphConv; lone vertices as in hgnn", "hypergraph-conv", "pyg"),
    "h-gcn": Arm("GCN on the unified operator", "h-gcn"),
    "h-sgc": Arm("SGC on the unified operator", "h-sgc"),
    "h-ssgc": Arm("SSGC on the unified operator", "h-ssgc"),
    "h-appnp": Arm("APPNP on the unified operator", "h-appnp"),
    "h-chebnet": Arm("ChebNet on the unified operator", "h-chebnet"),
    "h-gin": Arm("GIN on the unified operator", "h-gin"),
    "h-revgnn": Arm("reversible GCN on the unified operator", "h-revgnn"),
    "h-gcnii": Arm("GCNII on the unified operator: the paper's strongest", "h-gcnii"),
    "h-gcn-eivw": Arm("h-gcn, all weights of vertices inside hyperedges 1", "h-gcn", changes={"edvw": False}),
    "h-gcnii-eivw": Arm("h-gcnii, all weights of vertices inside hyperedges 1", "h-gcnii", changes={"edvw": False}),
    "h-gcn-sigma-half": Arm("h-gcn with σ = −0.5", "h-gcn", changes={"sigma": -0.5}),
    "h-gcn-sigma-zero": Arm("h-gcn with σ = 0", "h-gcn", changes={"sigma": 0.0}),
    "h-gcn-no-identity": Arm("h-gcn without + I", "h-gcn", changes={"renormalise": False}),
    "depth": Arm(f"h-gcn and h-gcnii with {', '.join(map(str, DEPTHS))} layers each", "both"),
}


class GHSCDesign(Design[GHSCConfig]):
    """What is compared, and at which scales."""

    paper = "ghsc"
    arms: ClassVar[Mapping[str, str]] = {name: arm.what for name, arm in ARMS.items()}
    method = "h-gcnii"
    Config = GHSCConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": GHSCConfig(seeds=1, sample="citation", sample_vertices=60, epochs=5, layers=4, hidden=16),
        "laptop": GHSCConfig(seeds=5, first_seed=100, layers=8, epochs=200, lr=0.01),
        "desk": GHSCConfig(seeds=12, real="cocitation-cora"),
        "paper": GHSCConfig(seeds=12, real="cocitation-cora", release="pami"),
    }
