"""The arms, settings and scales of the proton dose network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, Recipe, StudyConfig

Cell = Literal["rnn", "lstm", "gru"]
VARIANTS: dict[str, dict[str, Any]] = {
    "liu19": {"cell": "rnn", "layers": 3, "hidden": 10},  # Liu et al., Med. Phys. 2019: three layers of ten neurons
    "laptop": {"cell": "lstm", "layers": 2, "hidden": 16},
}


class ProtonDoseConfig(Recipe):
    """The network, the scanner, and which beams are used."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "data": ("length", "beams", "test_fraction", "snr", "blur_mm", "scan_minutes", "dose", "radius_mm"),
        "sample": ("pool",),
    }

    epochs: int = Field(default=60, ge=1, description="passes over the training beams")
    optimizer: str = Field(default="adam", description="name of an optimizer in timm")
    lr: float = Field(default=1e-2, gt=0, description="peak learning rate")
    schedule: Literal["constant", "cosine", "onecycle", "poly", "step"] = Field(
        default="onecycle", description="learning rate over steps"
    )
    clip_norm: float = Field(default=1.0, ge=0, description="largest gradient norm; 0: no clipping")
    cell: Cell = Field(default="lstm", description="recurrent cell: rnn (tanh), lstm, gru")
    layers: int = Field(default=2, ge=1, le=10, description="layers of the network")
    hidden: int = Field(default=16, ge=1, le=1024, description="width of each direction")
    length: int = Field(default=220, ge=80, le=1000, description="depth of the profiles in mm")
    beams: int = Field(default=500, ge=0, description="beams drawn from the cases per seed; 0: all")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="held-out share of the beams, by patient")
    snr: float = Field(default=20.0, ge=0, le=1000, description="PET signal-to-noise ratio at the maximum; 0: no noise")
    blur_mm: float = Field(default=4.0, ge=0, le=20, description="PET resolution, full width at half maximum")
    scan_minutes: float = Field(default=0.0, ge=0, le=60, description="duration of the PET scan; 0: instantaneous")
    dose: Literal["integrated", "axis"] = Field(
        default="integrated", description="dose integrated over the plane, or on the axis"
    )
    radius_mm: float = Field(
        default=10.0, gt=0, le=200, description="radius around the axis within which activity is summed"
    )
    pool: int = Field(default=500, ge=2, le=100_000, description="beams in the sample, simulated anew for each seed")


class ProtonDoseDesign(Design[ProtonDoseConfig]):
    """What is compared, and at which scales."""

    paper = "proton_dose"
    arms: ClassVar[Mapping[str, str]] = {
        "energy_fit": "no learning: the simulator's dose at the energy whose activity fits best",
        "uni_hu_sp": "one direction of twice the width; activity, CT numbers and stopping power",
        "bi": "both directions; activity alone",
        "bi_hu": "both directions; activity and CT numbers",
        "bi_sp": "both directions; activity and stopping power",
        "bi_hu_sp": "both directions; activity, CT numbers and stopping power: the framework of the paper",
    }
    method = "bi_hu_sp"
    Config = ProtonDoseConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": ProtonDoseConfig(seeds=1, epochs=2, beams=40, pool=40, length=120, **VARIANTS["laptop"]),
        "laptop": ProtonDoseConfig(seeds=5, first_seed=100, **VARIANTS["laptop"]),
        "paper": ProtonDoseConfig(seeds=5, epochs=200, beams=0, pool=1500, length=300, **VARIANTS["liu19"]),
    }
