"""Simulated proton pencil beams in lines of tissue: CT numbers, dose and positron emitters, from published physics.

It replaces the Monte-Carlo code of the papers and does not depend on any network.

Sources: tissue table after Schneider et al. (CT number to density, stopping power and elements); range-energy relation
and depth-dose curve of Bortfeld, Med. Phys. 1997; cross sections from measurements collected in EXFOR, smoothed by hand
(that of 10C: from memory). Formulas use centimetres; profiles have a grid of 1 mm, with sample i at depth (i + 0.5) mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import gamma, pbdv

Array = NDArray[np.float64]

DZ = 0.1
"""Grid spacing in cm."""
AVOGADRO = 6.02214076e23
GRAY = 1.602176634e-10
"""One MeV/g in Gy."""
FLUENCE = 1e9
"""Protons per cm^2 of a simulated beam."""

# -- tissue -------------------------------------------------------------------------------------

ELEMENTS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999}
"""Element -> molar mass in g/mol, in the order of the table's mass fractions."""

# CT number; density in g/cm^3; stopping power relative to water; mass % of H, C, N, O
TISSUE_TABLE = np.array(
    [
        (-1000, 0.0012, 0.0011, 0.0, 0.0, 76.5, 23.5),
        (-750, 0.251, 0.248, 9.9, 10.1, 5.7, 73.1),
        (-500, 0.508, 0.511, 10.7, 28.2, 2.2, 58.0),
        (-120, 0.899, 0.923, 11.3, 56.1, 0.9, 31.3),
        (-80, 0.940, 0.968, 11.4, 59.1, 0.7, 28.5),
        (-50, 0.971, 1.003, 11.5, 63.1, 0.7, 24.4),
        (-20, 0.990, 1.006, 11.3, 30.7, 0.3, 57.5),
        (10, 1.026, 1.037, 10.5, 38.4, 3.3, 47.1),
        (40, 1.050, 1.045, 10.4, 11.9, 2.4, 74.5),
        (60, 1.068, 1.061, 10.2, 13.4, 3.5, 72.0),
        (100, 1.101, 1.082, 9.6, 10.3, 2.2, 73.9),
        (200, 1.150, 1.128, 8.9, 29.1, 2.6, 50.7),
        (300, 1.209, 1.178, 8.2, 37.7, 3.0, 38.6),
        (500, 1.331, 1.270, 7.0, 34.4, 2.8, 36.9),
        (700, 1.473, 1.379, 5.9, 29.7, 3.3, 38.3),
        (1000, 1.676, 1.531, 4.6, 20.0, 4.1, 43.5),
        (1300, 1.871, 1.678, 3.6, 16.4, 4.2, 43.5),
    ]
)


@dataclass(frozen=True)
class Tissue:
    """Physical properties along depth; all arrays have the shape of the CT numbers."""

    density: Array
    """g/cm^3"""
    stopping_power: Array
    """Relative to water."""
    atoms: dict[str, Array]
    """Element -> atoms per cm^3."""


def stopping_power(hu: NDArray) -> Array:
    """Proton stopping power relative to water, from CT numbers in HU; linear interpolation of `TISSUE_TABLE`.

    Example:
        >>> stopping_power(np.array([-1000, 40, 1300]))
        array([1.100e-03, 1.045e+00, 1.678e+00])
    """
    return np.interp(hu, TISSUE_TABLE[:, 0], TISSUE_TABLE[:, 2])


def tissue(hu: NDArray) -> Tissue:
    """Density, stopping power and atoms per volume, from CT numbers in HU; linear interpolation of `TISSUE_TABLE`."""
    density, _, *percent = (np.interp(hu, TISSUE_TABLE[:, 0], column) for column in TISSUE_TABLE[:, 1:].T)
    atoms = {
        element: density * mass / 100 * AVOGADRO / molar
        for (element, molar), mass in zip(ELEMENTS.items(), percent, strict=True)
    }
    return Tissue(density, stopping_power(hu), atoms)


def water_depth(stopping: Array) -> Array:
    """Water-equivalent depth of the cell centres in cm: (..., L) -> (..., L)."""
    return (np.cumsum(stopping, axis=-1) - 0.5 * stopping) * DZ


# -- protons in water ---------------------------------------------------------------------------

ALPHA, P = 0.0022, 1.77
"""Range-energy relation R0 = alpha E^p, in cm and MeV."""
BETA, GAMMA = 0.012, 0.6
"""Loss of protons to nuclear reactions per cm, and the share of their energy that is absorbed locally."""


def proton_range(energy: Array | float) -> Array:
    """Mean range in water in cm of protons of `energy` MeV (Bortfeld 1997, eq. 4).

    Example:
        >>> proton_range(np.array([100.0, 150.0, 200.0])).round(3)
        array([ 7.628, 15.635, 26.016])
    """
    return ALPHA * np.asarray(energy, dtype=float) ** P


def range_spread(energy: Array | float) -> Array:
    """Standard deviation of the range in cm: straggling in water, and an energy spread of 1 %."""
    energy = np.asarray(energy, dtype=float)
    straggling = 0.012 * proton_range(energy) ** 0.935
    of_energy = 0.01 * energy * ALPHA * P * energy ** (P - 1)
    return np.hypot(straggling, of_energy)


def bragg_curve(depth: Array, energy: Array | float) -> Array:
    """Depth-dose curve of a broad beam in water, in MeV/g per proton/cm^2 (Bortfeld 1997, eqs. 27 and 10).

    Args:
        depth: water-equivalent depth in cm; broadcasts with `energy`.
        energy: MeV.
    """
    depth, energy = np.broadcast_arrays(np.asarray(depth, dtype=float), np.asarray(energy, dtype=float))
    r0, sigma = proton_range(energy), range_spread(energy)
    residual = r0 - depth
    zeta = residual / sigma
    common = ALPHA ** (-1 / P) / (1 + BETA * r0)
    nuclear = BETA / P + GAMMA * BETA

    dose = np.zeros(depth.shape)  # 0 beyond the range
    # exp(-zeta^2/4) underflows and D_nu(-zeta) overflows: far before the range straggling is neglected.
    far = zeta > 10
    near = (zeta >= -5) & ~far
    r = residual[far]
    dose[far] = common[far] * (r ** (1 / P - 1) / P + nuclear * r ** (1 / P))
    z, s = zeta[near], sigma[near]
    scale = common[near] * np.exp(-(z**2) / 4) * s ** (1 / P) * gamma(1 / P) / (np.sqrt(2 * np.pi) * P)
    dose[near] = scale * (pbdv(-1 / P, -z)[0] / s + nuclear * pbdv(-1 / P - 1, -z)[0])
    return dose


# -- positron emitters --------------------------------------------------------------------------

ISOTOPES: tuple[str, ...] = ("C11", "O15", "N13", "C10")


class Reaction(NamedTuple):
    """A nuclear reaction of protons: target, product, and the cross section at energy knots."""

    target: str
    product: str
    energy: tuple[float, ...]
    """MeV, ascending; the first is the threshold."""
    millibarn: tuple[float, ...]


def _reaction(target: str, product: str, knots: str) -> Reaction:
    energy, millibarn = zip(*(map(float, knot.split(":")) for knot in knots.split()), strict=True)
    return Reaction(target, product, energy, millibarn)


REACTIONS = (
    _reaction(
        "C", "C11",
        "20.3:0 23:16 25.4:29 27.7:45 29.8:60 31.9:71 33.8:78 37.3:85 40.6:88 43.7:87 50:84 60:82 70:76 80:72 "
        "100:62 120:56 140:52 160:47 200:39 250:37",
    ),
    _reaction(
        "O", "O15",
        "16.6:0 18:9 20:20 21.7:27 23.5:47 24.8:60 26.8:65 28.8:75 31.6:77 46.8:75 60:70 80:63 110:60 130:48 "
        "160:35 200:29 250:28",
    ),
    _reaction(
        "O", "N13",
        "5.5:0 6.5:1 7.35:6 8:29 8.6:37 9.5:10 10.4:29 11.1:49 12:27 13.4:19 14.2:36 15:26 15.8:16 16.5:6 17.5:19 "
        "18.6:14 22:5 27:13 33:9 38:6 44:3.5 60:4 250:4",
    ),
    _reaction("O", "C11", "27:0 31.6:3.6 38:5 44:10 52:13 59:18 65:18.5 78:17.5 98:15 119:14 146:11.5 160:11 250:11"),
    _reaction(
        "N", "C11",
        "4:0 4.5:1 5.3:31 5.9:39 6.4:54 6.8:154 7.5:223 8:158 8.5:85 9:59 9.5:89 10:64 10.5:106 12:77 13.5:114 "
        "14.5:85 17:68 19:45 24:21 28:15 250:15",
    ),
    _reaction("C", "C10", "34.5:0 40:.9 50:2.3 60:2.8 80:3 200:2.5"),
)  # fmt: skip

_STEPS = np.linspace(-3, 3, 13)
_WEIGHTS = np.exp(-(_STEPS**2) / 2) / np.exp(-(_STEPS**2) / 2).sum()


def production(depth: Array, energy: Array | float) -> Array:
    """Fluence times cross section of each reaction in cm^2, for one proton per cm^2 at the entrance.

    Straggling gives a spectrum of residual ranges at each water-equivalent depth, here 13 points of a Gaussian.
    Nuclear reactions reduce the number of protons.

    Args:
        depth: water-equivalent depth in cm; broadcasts with `energy`.
        energy: MeV.

    Returns:
        (reactions, ...), with the broadcast shape of `depth` and `energy`.
    """
    r0, sigma = proton_range(energy), range_spread(energy)
    total = np.zeros((len(REACTIONS), *np.broadcast_shapes(np.shape(depth), r0.shape)))
    for step, weight in zip(_STEPS, _WEIGHTS, strict=True):
        residual = np.maximum(r0 + step * sigma - depth, 0)
        fluence = (residual > 0) * (1 + BETA * residual) / (1 + BETA * r0)
        at = (residual / ALPHA) ** (1 / P)
        for sums, reaction in zip(total, REACTIONS, strict=True):
            sums += weight * fluence * np.interp(at, reaction.energy, reaction.millibarn, left=0.0)
    return total * 1e-27


def emitters(hu: NDArray, energy: Array | float) -> Array:
    """Positron emitters per cell after a short beam of `FLUENCE` protons per cm^2.

    Args:
        hu: CT numbers (..., L).
        energy: MeV (...).

    Returns:
        Nuclei per cell of 1 cm^2 x 1 mm, (..., isotopes, L), in the order of `ISOTOPES`.
    """
    matter = tissue(hu)
    rates = production(water_depth(matter.stopping_power), np.asarray(energy)[..., None])
    nuclei = np.zeros((*np.shape(hu)[:-1], len(ISOTOPES), np.shape(hu)[-1]))
    for reaction, rate in zip(REACTIONS, rates, strict=True):
        nuclei[..., ISOTOPES.index(reaction.product), :] += matter.atoms[reaction.target] * rate * DZ * FLUENCE
    return nuclei


def dose(hu: NDArray, energy: Array | float) -> Array:
    """Dose to medium in Gy of a beam of `FLUENCE` protons per cm^2: HU (..., L), MeV (...) -> (..., L)."""
    matter = tissue(hu)
    in_water = bragg_curve(water_depth(matter.stopping_power), np.asarray(energy)[..., None])
    return in_water * matter.stopping_power / matter.density * FLUENCE * GRAY


# -- phantoms -----------------------------------------------------------------------------------

# Tissue of an abdomen: CT number, share of the layers, smallest and largest thickness in mm.
LAYERS = {
    "liver": (60, 0.33, 10, 50),
    "bowel": (35, 0.20, 10, 50),
    "muscle": (50, 0.18, 10, 50),
    "fat": (-100, 0.12, 10, 50),
    "gas": (-950, 0.05, 3, 12),
    "spongiosa": (260, 0.08, 3, 12),
    "cortical": (1150, 0.04, 3, 12),
}
HU_NOISE = 12.0
"""Standard deviation of the CT scanner's noise in HU."""
ENERGIES = (70.0, 140.0)
"""Beam energies are uniform in this interval, MeV."""


@dataclass(frozen=True)
class Beams:
    """Simulated beams, one per row."""

    energy: Array
    """(B,) MeV"""
    ct: NDArray[np.int16]
    """(B, L) HU with the noise of a scanner."""
    dose: Array
    """(B, L) Gy"""
    nuclei: Array
    """(B, isotopes, L) positron emitters at the end of the beam."""


def phantoms(rng: np.random.Generator, count: int, length: int) -> Array:
    """Random lines of tissue, starting at the skin: noiseless CT numbers (count, length) on a grid of 1 mm."""
    names = rng.choice(len(LAYERS), size=(count, length // 3), p=[share for _, share, _, _ in LAYERS.values()])
    hu, _, least, greatest = np.array(list(LAYERS.values())).T
    kinds = np.concatenate([np.full((count, 2), (LAYERS["fat"][0], LAYERS["muscle"][0])), hu[names]], axis=1)
    thick = np.concatenate(
        [rng.uniform((5, 8), (25, 25), size=(count, 2)), rng.uniform(least[names], greatest[names])], axis=1
    )
    ends = np.cumsum(thick, axis=1)  # (count, layers), mm
    centres = np.arange(length) + 0.5
    layer = np.stack([np.searchsorted(row, centres) for row in ends])
    return np.take_along_axis(kinds, layer, axis=1)


def simulate(rng: np.random.Generator, count: int, length: int) -> Beams:
    """Beams of random energy in random phantoms; beams whose range exceeds the phantom are redrawn.

    Args:
        rng: random generator.
        count: number of beams B.
        length: depth L of the phantoms in mm; at least 80, so that some ranges fit.
    """
    hu, energy = np.empty((0, length)), np.empty(0)
    while len(energy) < count:
        lines, drawn = phantoms(rng, count, length), rng.uniform(*ENERGIES, size=count)
        inside = proton_range(drawn) + 3 * range_spread(drawn) < water_depth(stopping_power(lines))[:, -1]
        hu, energy = np.concatenate([hu, lines[inside]]), np.concatenate([energy, drawn[inside]])
    hu, energy = hu[:count], energy[:count]
    ct = np.rint(hu + rng.normal(0, HU_NOISE, hu.shape)).astype(np.int16)
    return Beams(energy, ct, dose(hu, energy), emitters(hu, energy))


# -- PET ----------------------------------------------------------------------------------------


def blurred(activity: Array, fwhm_mm: float) -> Array:
    """Gaussian blur with a full width at half maximum of `fwhm_mm`, zero-padded: (..., L) -> (..., L)."""
    sigma = fwhm_mm / (2 * np.sqrt(2 * np.log(2)))
    return gaussian_filter1d(activity, sigma, axis=-1, mode="constant") if fwhm_mm else activity


def pet(activity: Array, rng: np.random.Generator, snr: float = 20.0, fwhm_mm: float = 4.0) -> Array:
    """PET measurement of an activity profile: blurred, with counting noise, relative to its maximum.

    Args:
        activity: (..., L), any unit.
        rng: random generator of the noise.
        snr: signal-to-noise ratio at the maximum, where snr^2 decays are counted; 0: no noise.
        fwhm_mm: resolution of the scanner.
    """
    image = blurred(activity, fwhm_mm)
    image = image / image.max(axis=-1, keepdims=True)
    if snr:
        image = rng.poisson(image * snr**2) / snr**2
    return image / image.max(axis=-1, keepdims=True)
