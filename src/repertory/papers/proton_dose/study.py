"""Tests of the claims of the sensitivity study: immunity to washout and to depth selection.

repertory run proton_dose                                   # simulated beams, minutes
repertory run proton_dose --scale paper --data my_cases/    # case folders of a Monte-Carlo code or a scanner
repertory run proton_dose --set snr=4                       # the noise of Hu et al. 2020
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.training import fit
from repertory.data.dose import PET, Case, find_cases, read_case, write_case
from repertory.papers.proton_dose import metrics, plots
from repertory.papers.proton_dose.model import DoseRNN, EnergyFit
from repertory.papers.proton_dose.settings import VARIANTS, ProtonDoseConfig, ProtonDoseDesign
from repertory.papers.proton_dose.simulator import (
    ISOTOPES,
    Array,
    pet,
    proton_range,
    simulate,
    stopping_power,
    water_depth,
)
from repertory.papers.proton_dose.washout import Washout, activity, depth_window, select_depth


@dataclass(frozen=True)
class Condition:
    """A disturbance of the activity at test time."""

    group: str
    varied: str
    minutes: float = 0.0
    washout: Washout = "none"
    window_mm: int = 0
    """0: all depths."""


CONDITIONS = {
    "raw": Condition("undisturbed", "raw"),
    **{f"B{t}": Condition("washout B", f"{t} min", t, "B") for t in range(1, 6)},
    **{f"A{t}": Condition("washout A", f"{t} min", t, "A") for t in range(1, 6)},
    **{f"decay{t}": Condition("decay only", f"{t} min", t, "none") for t in range(1, 6)},
    **{f"w{w}": Condition("window", f"{w} mm", window_mm=w) for w in (100, 125, 150)},
    "B5w125": Condition("both", "B 5 min, 125 mm", 5, "B", 125),
}
"""Washout of 1 to 5 minutes, windows of 100 to 150 mm, and both, the paper's worst case."""


@dataclass(frozen=True)
class Profiles:
    """B beams along depth, L samples of 1 mm."""

    cases: Sequence[Case]
    hu: Array
    """(B, L)"""
    dose: Array
    """(B, L) relative to the maximum; NaN if unknown."""
    emitters: Array | None
    """(B, isotopes, L) at the end of the beam; None: the activity is `measured`."""
    measured: Array | None
    """(B, L) measured by a scanner, relative to the maximum; None: see `emitters`."""

    def __len__(self) -> int:
        return len(self.cases)

    def subset(self, index: NDArray[np.intp]) -> Profiles:
        """Some of the beams."""
        emitters, measured = (None if a is None else a[index] for a in (self.emitters, self.measured))
        return Profiles([self.cases[i] for i in index], self.hu[index], self.dose[index], emitters, measured)


@dataclass(frozen=True)
class DoseData:
    train: Profiles
    test: Profiles


NETWORKS: dict[str, dict[str, Any]] = {
    "uni_hu_sp": {"inputs": ("activity", "hu", "sp"), "bidirectional": False},
    "bi": {"inputs": ("activity",)},
    "bi_hu": {"inputs": ("activity", "hu")},
    "bi_sp": {"inputs": ("activity", "sp")},
    "bi_hu_sp": {"inputs": ("activity", "hu", "sp")},
}


MAX_FIGURES = 20
"""Largest number of figures of one prediction."""

DOSE_ERRORS = {
    "range": Metric("range error", "射程误差", unit="mm", better="lower", decimals=2),
    "range_sd": Metric("spread of the range error", "射程误差的标准差", unit="mm", better="lower", decimals=2),
    "range_bias": Metric("signed range error", "带符号射程误差", unit="mm", decimals=2),
    "range_signed_sd": Metric(
        "spread of the signed range error", "带符号射程误差的标准差", unit="mm", better="lower", decimals=2
    ),
    "mae": Metric("dose error, of the maximum", "剂量误差（占最大值）", unit="%", better="lower", decimals=2),
    "mre": Metric("relative dose error", "剂量相对误差", unit="%", better="lower", decimals=2),
    "mre50": Metric("relative dose error, high dose", "高剂量区的剂量相对误差", unit="%", better="lower", decimals=2),
}


class ProtonDoseStudy(ProtonDoseDesign, Study[ProtonDoseConfig, DoseData, nn.Module]):
    """Train on undisturbed activity, test on washed-out and truncated activity."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **DOSE_ERRORS,
        **{
            f"{name}_{condition}{where}": replace(
                DOSE_ERRORS[name],
                en=f"{DOSE_ERRORS[name].en}, {what.group.replace('both', 'washout')} {what.varied}{inside}",
                zh=f"{DOSE_ERRORS[name].zh}，{condition}{'（窗口内）' if where else ''}",
                needs="emitters by isotope" if what.minutes else "",
            )
            for condition, what in CONDITIONS.items()
            if condition != "raw"
            for where, inside in (("", ""), *((("_inside", ", inside the window"),) if what.window_mm else ()))
            for name in (("mae", "mre") if where else ("range", "mae", "mre"))
        },
        **{
            f"range_{key}_worst": replace(
                DOSE_ERRORS["range"], en=f"range error, worst {group}", zh=f"射程误差，{zh}最差情形", needs=needs
            )
            for key, group, zh, needs in (
                ("A", "washout A", "洗脱 A ", "emitters by isotope"),
                ("B", "washout B", "洗脱 B ", "emitters by isotope"),
                ("window", "window", "深度窗口", ""),
            )
        },
        **{
            f"parameters_{name}": Metric(f"parameters ({name})", f"参数量（{name}）", better="lower", decimals=0)
            for name in VARIANTS
        },
    }
    sample_name = "simulated beams"
    sample_fields = ("pool", "length")
    sample_version = 2
    layout = (
        'CASE/beam.json         {"energy_MeV": 120, "axis": "z", "entry_mm": [0, 0, 0], "direction": 1}\n'
        "CASE/ct.mhd            CT numbers in HU\n"
        "CASE/dose.mhd          Gy; to train and to evaluate\n"
        "CASE/activity_C11.mhd  positron emitters per voxel at the end of the beam; likewise O15, N13, C10\n"
        "CASE/activity.mhd      or, in their place, one PET image in Bq/ml\n"
        "each grid as .mhd + .raw, .mha, TOPAS .csv, .dcm, or a folder with a DICOM series"
    )

    def write_sample(self, folder: Path) -> None:
        beams = simulate(np.random.default_rng(self.session.seed), self.config.pool, self.config.length)
        for i, energy in enumerate(beams.energy):
            nuclei = dict(zip(ISOTOPES, beams.nuclei[i], strict=True))
            write_case(folder / f"beam_{i:05d}", energy, beams.ct[i], beams.dose[i], nuclei)

    # -- reading --------------------------------------------------------------------------------

    def data(self) -> DoseData:
        """The user's cases, or a sample of this seed's own: the seeds' beams are independent."""
        if self.data_source() is not None:
            return super().data()
        with TemporaryDirectory(prefix="beams-") as folder:
            self.write_sample(Path(folder))
            return self.read(Path(folder))

    def read(self, folder: Path) -> DoseData:
        cases = find_cases(folder)
        if not cases:
            raise self.missing(folder)
        rng = self.session.rng("beams")
        if 0 < self.config.beams < len(cases):
            cases = [cases[i] for i in sorted(rng.choice(len(cases), self.config.beams, replace=False))]
        profiles = self._profiles([self._case(path) for path in self.session.progress(cases, "read")])
        unknown = np.flatnonzero(np.isnan(profiles.dose[:, 0]))
        if len(unknown):
            raise Problem("no dose to train on", folder / profiles.cases[unknown[0]].name, "add dose.mhd")
        patients = [case.beam.patient or case.name for case in profiles.cases]
        if len(set(patients)) < 2:
            raise Problem(
                f"{len(patients)} case(s) of one patient cannot be split into training and test",
                folder,
                'give more cases; without "patient" in beam.json the split is by beam',
            )
        split = GroupShuffleSplit(1, test_size=self.config.test_fraction, random_state=int(rng.integers(2**31)))
        train, test = next(split.split(patients, groups=patients))
        return DoseData(profiles.subset(train), profiles.subset(test))

    def _case(self, folder: Path) -> Case:
        case = read_case(
            folder,
            self.config.length,
            isotopes=ISOTOPES,
            dose=self.config.dose,
            radius_mm=self.config.radius_mm,
        )
        total = np.sum(list(case.activity.values()), axis=0)
        edge = np.flatnonzero(total > 0.5 * total.max())[-1]
        depth = water_depth(stopping_power(case.hu))[edge]
        if depth > proton_range(case.beam.energy) + 2:
            raise Problem(
                f"the activity extends to {depth:.1f} cm of water, but protons of {case.beam.energy:g} MeV only to "
                f"{proton_range(case.beam.energy):.1f} cm; does the beam enter from the other end?",
                folder,
                "check energy_MeV, entry_mm and direction in beam.json",
            )
        return case

    def _profiles(self, cases: Sequence[Case]) -> Profiles:
        """Stack cases, which must all have emitters, or all a PET image."""
        of_pet = [PET in case.activity for case in cases]
        if len(set(of_pet)) > 1:
            pair = cases[of_pet.index(False)].name, cases[of_pet.index(True)].name
            raise Problem("some cases have isotopes, others PET images", " and ".join(pair), "use separate folders")
        zeros = np.zeros(self.config.length)
        unknown = np.full(self.config.length, np.nan)
        return Profiles(
            cases,
            np.stack([case.hu for case in cases]),
            _relative(np.stack([unknown if case.dose is None else case.dose for case in cases])),
            None if of_pet[0] else np.stack([[c.activity.get(i, zeros) for i in ISOTOPES] for c in cases]),
            _relative(np.stack([case.activity[PET] for case in cases])) if of_pet[0] else None,
        )

    def _scan(self, beams: Profiles, key: str, minutes: float = 0.0, washout: Washout = "none") -> Array:
        """Activity (B, L) as measured by a PET scanner; `key` seeds its noise."""
        if beams.emitters is None:
            assert beams.measured is not None
            return beams.measured
        decays = activity(beams.emitters, beams.hu, minutes, washout, self.config.scan_minutes)
        return pet(decays, self.session.rng("noise", key), self.config.snr, self.config.blur_mm)

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: DoseData) -> nn.Module:
        config = self.config
        if arm == "energy_fit":
            return EnergyFit(fwhm_mm=config.blur_mm)
        network = NETWORKS[arm]
        # A unidirectional network gets the total width of both directions.
        width = config.hidden * (1 if network.get("bidirectional", True) else 2)
        model = DoseRNN(cell=config.cell, layers=config.layers, hidden=width, **network)
        beams = data.train
        profiles = (self._scan(beams, "train"), beams.hu, stopping_power(beams.hu), beams.dose)
        dataset = TensorDataset(*(torch.from_numpy(profile).float() for profile in profiles))
        return fit(self.session, model, dataset, config, _loss)

    def evaluate(self, model: nn.Module, data: DoseData) -> dict[str, float]:
        beams = data.test
        results: dict[str, float] = {}
        errors: dict[str, dict[str, Array]] = defaultdict(dict)
        for name, condition in self.session.progress(CONDITIONS.items(), "evaluate", len(CONDITIONS)):
            if condition.minutes and beams.emitters is None:
                continue  # the isotopes in a measured image are unknown
            scan = self._scan(beams, "test", condition.minutes, condition.washout)
            window = depth_window(scan, condition.window_mm) if condition.window_mm else None
            if window is not None:
                scan = select_depth(scan, window)
            predicted = self._predict(model, scan, beams.hu)
            whole = metrics.compare(predicted, beams.dose)
            if name == "raw":
                results |= whole
                figure = plots.beam_figure(beams.cases[0].name, scan[0], beams.hu[0], predicted[0], beams.dose[0])
                self.session.figure("beam", figure)
            else:
                results |= {f"{metric}_{name}": whole[metric] for metric in ("range", "mae", "mre")}
            if window is not None:
                inside = metrics.compare(predicted, beams.dose, window)
                results |= {f"{metric}_{name}_inside": inside[metric] for metric in ("mae", "mre")}
            self.session.keep_outputs({"range_error": metrics.r80(predicted) - metrics.r80(beams.dose)}, name)
            errors[condition.group][condition.varied] = np.abs(metrics.r80(predicted) - metrics.r80(beams.dose))
        for key, group in {"A": "washout A", "B": "washout B", "window": "window"}.items():
            if group in errors:
                results[f"range_{key}_worst"] = max(float(error.mean()) for error in errors[group].values())
        self.session.figure("range", plots.range_figure(errors))
        return results

    @torch.no_grad()
    def _predict(self, model: nn.Module, scan: Array, hu: Array) -> Array:
        """Dose (B, L) predicted from activity and CT (B, L)."""
        profiles = (torch.from_numpy(profile).float() for profile in (scan, hu, stopping_power(hu)))
        batches = zip(*(profile.split(128) for profile in profiles), strict=True)
        to_device = self.session.fabric.to_device
        return torch.cat([model(*map(to_device, batch)).cpu() for batch in batches]).double().numpy()

    def measure(self) -> dict[str, float]:
        """Trainable parameters for the paper's scenario, of both configurations of the network."""
        return {
            f"parameters_{name}": float(sum(p.numel() for p in DoseRNN(**variant).parameters()))
            for name, variant in VARIANTS.items()
        }

    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """Range, Bragg peak and dose of one case, or of every case in a folder; errors if the dose is known."""
        cases = find_cases(source)
        if not cases:
            raise self.missing(source)
        prediction = Prediction()
        for path in self.session.progress(cases, "predict"):
            beam = self._profiles([self._case(path)])
            scan = self._scan(beam, path.name)
            (dose,) = self._predict(model, scan, beam.hu)
            true = None if np.isnan(beam.dose).any() else beam.dose[0]
            row: dict[str, Any] = {
                "case": path.name,
                "R80_mm": float(metrics.r80(dose)),
                "bragg_peak_mm": float(metrics.bragg_peak(dose)),
            }
            if true is not None:
                row["true_R80_mm"] = float(metrics.r80(true))
                row["range_error_mm"] = row["R80_mm"] - row["true_R80_mm"]
                row["mae_percent"] = metrics.compare(dose[None], true[None])["mae"]
            prediction.table.append(row)
            columns = {"depth_mm": np.arange(len(dose)) + 0.5, "activity": scan[0], "dose": dose}
            columns |= {} if true is None else {"true_dose": true}
            prediction.arrays[f"{path.name}-dose"] = np.rec.fromarrays(
                list(columns.values()), dtype=[(name, "f8") for name in columns]
            )
            if len(prediction.figures) < MAX_FIGURES:
                prediction.figures[path.name] = plots.beam_figure(path.name, scan[0], beam.hu[0], dose, true)
        if len(cases) > MAX_FIGURES:
            prediction.text = f"{len(cases)} cases; figures of the first {MAX_FIGURES}"
        keys = dict.fromkeys(key for row in prediction.table for key in row)
        prediction.table = [{key: row.get(key, math.nan) for key in keys} for row in prediction.table]
        return prediction


def _relative(profiles: Array) -> Array:
    return profiles / profiles.max(axis=-1, keepdims=True)


def _loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Mean squared error of the relative dose."""
    *inputs, dose = batch
    return F.mse_loss(model(*inputs), dose)
