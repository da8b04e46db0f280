"""The simulator against known values of proton physics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from repertory.papers.proton_dose import simulator
from repertory.papers.proton_dose.metrics import r80
from repertory.papers.proton_dose.simulator import (
    BETA,
    DZ,
    ISOTOPES,
    REACTIONS,
    TISSUE_TABLE,
    bragg_curve,
    dose,
    emitters,
    pet,
    phantoms,
    production,
    proton_range,
    range_spread,
    simulate,
    stopping_power,
    tissue,
    water_depth,
)

DEPTH = np.arange(0, 35, 0.001)


@pytest.fixture(scope="module")
def beams() -> simulator.Beams:
    return simulate(np.random.default_rng(0), 60, 220)


@pytest.mark.parametrize(
    ("energy", "r0", "sigma", "peak", "ratio"),
    [(100, 7.628, 0.157, 7.49, 4.4), (150, 15.635, 0.318, 15.35, 3.8), (200, 26.016, 0.525, 25.54, 3.2)],
)
def test_bragg_curve_has_the_known_range_width_and_height(
    energy: float, r0: float, sigma: float, peak: float, ratio: float
) -> None:
    curve = bragg_curve(DEPTH, energy)
    assert proton_range(energy) == pytest.approx(r0, abs=0.001)
    assert range_spread(energy) == pytest.approx(sigma, abs=0.001)
    assert DEPTH[curve.argmax()] == pytest.approx(peak, abs=0.01)
    assert DEPTH[np.flatnonzero(curve >= 0.8 * curve.max())[-1]] == pytest.approx(r0, abs=0.01)
    assert curve.max() / curve[0] == pytest.approx(ratio, abs=0.06)


@pytest.mark.parametrize("energy", [70, 140, 230])
def test_bragg_curve_joins_its_limits_and_keeps_the_energy(energy: float) -> None:
    r0, sigma = float(proton_range(energy)), float(range_spread(energy))
    curve = bragg_curve(DEPTH, energy)
    assert np.isfinite(curve).all()
    assert (curve >= 0).all()
    for zeta, off in ((10, 5e-3), (-5, 1e-5)):
        before, behind = bragg_curve(np.array([r0 - (zeta + s) * sigma for s in (1e-6, -1e-6)]), energy)
        assert before == pytest.approx(behind, abs=off * curve.max())
    # All of the energy is absorbed but for a part of what the protons lost to nuclear reactions carried.
    lost = (1 - 1 / (1 + BETA * r0)) * (1 - simulator.GAMMA)
    assert 1 - lost < trapezoid(curve, DEPTH) / energy < 1


def test_tissue_is_the_table_and_linear_between_its_rows() -> None:
    rows = tissue(TISSUE_TABLE[:, 0])
    assert np.allclose(rows.density, TISSUE_TABLE[:, 1])
    assert np.allclose(rows.stopping_power, TISSUE_TABLE[:, 2])
    carbon = TISSUE_TABLE[:, 1] * TISSUE_TABLE[:, 4] / 100 * 6.02214076e23 / 12.011
    assert np.allclose(rows.atoms["C"], carbon)
    assert stopping_power(np.array([85.0])) == pytest.approx((15 * 1.061 + 25 * 1.082) / 40)
    assert stopping_power(np.array([-3000.0, 3000.0])).tolist() == [0.0011, 1.678]
    listed = TISSUE_TABLE[:, 3:].sum(1)  # % of the mass in H, C, N, O; bone has calcium and phosphorus too
    assert np.all((listed[:11] >= 96) & (listed[:11] <= 100))


def test_range_in_a_phantom_is_where_its_water_equivalent_is_the_range() -> None:
    hu = np.full((1, 300), 40.0)  # RSP 1.045
    assert r80(dose(hu, np.array([120.0])))[0] / 10 * 1.045 == pytest.approx(proton_range(120.0), abs=0.03)


@pytest.mark.parametrize("reaction", REACTIONS, ids=lambda r: f"{r.target}-{r.product}")
def test_production_is_the_cross_section_at_the_energy_that_is_left(reaction: simulator.Reaction) -> None:
    index = REACTIONS.index(reaction)
    assert np.all(np.diff(reaction.energy) > 0)
    assert reaction.millibarn[0] == 0
    # At the entrance the fluence is 1 and the energy, but for the spread, the beam's.
    expected = np.interp(140.0, reaction.energy, reaction.millibarn) * 1e-27
    assert production(np.zeros(1), 140.0)[index, 0] == pytest.approx(expected, rel=0.02)
    below = proton_range(np.array(reaction.energy[0])) * 0.8
    # Deep enough for the slowest and the fastest protons alike to be below the threshold.
    deep = proton_range(140.0) + 3 * range_spread(140.0) - below
    assert production(np.array([deep]), 140.0)[index, 0] == 0


def test_emitters_need_their_target() -> None:
    air = emitters(np.full((1, 50), -1000.0), np.array([100.0]))[0]  # nitrogen and oxygen only
    assert air[ISOTOPES.index("C10")].max() == 0
    assert air[ISOTOPES.index("O15")].min() > 0
    fat, muscle = (emitters(np.full((1, 30), hu), np.array([100.0]))[0, :, 0] for hu in (-100.0, 50.0))
    assert fat[0] / fat[1] > 3 * muscle[0] / muscle[1]  # carbon against oxygen


def test_hand_calculation_of_one_cell() -> None:
    """11C in the first millimetre of fat (HU -80) under 10^9 protons/cm^2 of 100 MeV: C, O and N as targets."""
    mass = {"C": (0.591, 12.011, 62.0), "O": (0.285, 15.999, 14.9), "N": (0.007, 14.007, 20.3)}
    per_cell = sum(0.940 * share * 6.022e23 / molar * mb * 1e-27 for share, molar, mb in mass.values()) * 0.1 * 1e9
    made = emitters(np.full((1, 5), -80.0), np.array([100.0]))[0, ISOTOPES.index("C11"), 0]
    assert made == pytest.approx(per_cell, rel=0.02)


def test_activity_ends_before_the_dose(beams: simulator.Beams) -> None:
    """The fall-offs differ: production stops at some MeV, and which one depends on the tissue."""
    total = beams.nuclei.sum(1)
    edge = [np.flatnonzero(a > 0.5 * a.max())[-1] + 0.5 for a in total]
    gap = r80(beams.dose) - edge
    assert gap.min() > 0
    assert 2 < np.median(gap) < 12


def test_phantoms_begin_with_fat_and_muscle() -> None:
    lines = phantoms(np.random.default_rng(0), 200, 150)
    kinds = {hu for hu, *_ in simulator.LAYERS.values()}
    assert set(np.unique(lines)) == kinds
    fat = (np.cumsum(lines != -100, axis=1) == 0).sum(1)
    assert 4 <= fat.min() <= fat.max() <= 26
    assert all(line[n] == 50 for line, n in zip(lines, fat, strict=True))


@pytest.mark.parametrize("length", [80, 120, 220])
def test_ranges_stay_inside(length: int) -> None:
    beams = simulate(np.random.default_rng(1), 50, length)
    assert beams.ct.shape == beams.dose.shape == (50, length)
    assert np.all(r80(beams.dose) < length - 1)
    assert np.all((beams.energy >= 70) & (beams.energy <= 140))


def test_simulation_is_deterministic_and_each_beam_is_independent(beams: simulator.Beams) -> None:
    again = simulate(np.random.default_rng(0), 60, 220)
    assert np.array_equal(again.ct, beams.ct)
    assert np.array_equal(again.nuclei, beams.nuclei)
    hu = phantoms(np.random.default_rng(3), 4, 200)
    energy = np.array([80.0, 95.0, 110.0, 125.0])
    for function in (dose, emitters):
        alone = np.stack([function(line, e) for line, e in zip(hu, energy, strict=True)])
        assert np.allclose(function(hu, energy), alone)


def test_ct_noise_is_not_in_the_physics(beams: simulator.Beams) -> None:
    nearest = np.array(sorted(hu for hu, *_ in simulator.LAYERS.values()))
    apart = beams.ct[..., None] - nearest
    noise = np.take_along_axis(apart, np.abs(apart).argmin(-1)[..., None], -1)
    assert 8 < noise.std() < 13  # 12; tissues 10 HU apart are mistaken for one another here
    assert beams.dose.max() < 20  # Gy of 1e9 protons/cm^2


def test_water_depth_is_at_the_centres() -> None:
    assert water_depth(np.array([1.0, 2.0, 1.0])) == pytest.approx([0.5 * DZ, 2 * DZ, 3.5 * DZ])


def test_pet_blurs_and_counts() -> None:
    point = np.zeros(101)
    point[50] = 7.0
    seen = pet(point, np.random.default_rng(0), snr=0, fwhm_mm=4)
    assert seen.max() == 1
    assert seen[48] == pytest.approx(0.5, abs=0.02)  # half the maximum at half the width
    plateau = np.ones(20_000)
    noisy = simulator.pet(plateau, np.random.default_rng(0), snr=20, fwhm_mm=0)
    assert noisy.std() / noisy.mean() == pytest.approx(1 / 20, rel=0.03)
    coarse = simulator.pet(plateau, np.random.default_rng(0), snr=4, fwhm_mm=0)
    assert coarse.std() / coarse.mean() == pytest.approx(1 / 4, rel=0.03)
