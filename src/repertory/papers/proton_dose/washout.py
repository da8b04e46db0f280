"""Biological washout and depth selection: disturbances of the activity between beam and network.

Between irradiation and scan the emitters decay, and blood flow removes them: a fast, a medium and a slow component of
each isotope (three-component model of Mizuno et al., Phys. Med. Biol. 2003). Half-lives depend on the isotope and blood
flow on the tissue, so the *shape* of the activity changes. A scanner with a short field of view measures only a window
of depths.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repertory.core.problem import Problem
from repertory.papers.proton_dose.simulator import ISOTOPES, Array

Washout = Literal["A", "B", "none"]
"""Set A: Mizuno 2003. Set B: by tissue. none: physical decay only."""

HALF_LIFE = {"C11": 1221.8, "O15": 122.2, "N13": 597.9, "C10": 19.3}
"""Isotope -> half-life in seconds."""

# -- tissue regions -----------------------------------------------------------------------------

REGIONS = ("air", "fat", "soft tissue", "soft bone", "compact bone")
_BORDERS = (-150, -30, 200, 1000)  # HU


def region(hu: NDArray) -> NDArray[np.intp]:
    """CT numbers in HU -> indices into `REGIONS`."""
    return np.digitize(hu, _BORDERS)


# -- rate constants -----------------------------------------------------------------------------
# Component = (fraction M, biological decay constant per second); 0: no washout.

_STAYS = ((1.0, 0.0),)
_LN2 = math.log(2)

# Mizuno 2003, rabbit muscle, 11C: fractions (rescaled to sum 1) and biological half-lives in seconds. Used for
# all isotopes in fat and soft tissue; no washout in bone and air.
_MUSCLE = tuple((m / 1.01, _LN2 / half_life) for m, half_life in ((0.30, 10.0), (0.19, 195.0), (0.52, 3175.0)))


def _carbon(slow: float, half_life: float) -> tuple[tuple[float, float], ...]:
    """Carbon by tissue: Toramatsu 2018 (fast, medium; per minute) and Parodi 2007 (slow; half-life in seconds)."""
    fast, medium = (share / (0.20 + 0.32) * (1 - slow) for share in (0.20, 0.32))
    return (fast, 21.04 / 60), (medium, 0.30 / 60), (slow, _LN2 / half_life)


_CARBON = (_STAYS, _carbon(0.90, 15000), _carbon(0.35, 10000), _carbon(0.60, 8000), _carbon(0.90, 15000))
_OXYGEN = (_STAYS, *[((0.62, 0.72 / 60), (0.38, 0.024 / 60))] * 4)  # 15O and 13N have no fast component

COMPONENTS = {
    "none": dict.fromkeys(ISOTOPES, (_STAYS,) * len(REGIONS)),
    "A": dict.fromkeys(ISOTOPES, (_STAYS, _MUSCLE, _MUSCLE, _STAYS, _STAYS)),
    "B": {"C11": _CARBON, "C10": _CARBON, "O15": _OXYGEN, "N13": _OXYGEN},
}
"""Set -> isotope -> region -> components."""


def decay_factor(isotope: str, minutes: float = 0.0, washout: Washout = "B", scan_minutes: float = 0.0) -> Array:
    r"""Activity per nucleus present at the end of the beam, for each of `REGIONS`.

    $$A/N = \sum_c M_c \lambda e^{-(\lambda + \lambda_c) t}$$

    in decays per second, or, for a scan of duration T that starts at t, the number of decays:

    $$\sum_c M_c \frac{\lambda}{\lambda + \lambda_c} e^{-(\lambda + \lambda_c) t} (1 - e^{-(\lambda + \lambda_c) T}).$$

    Only physical decays are measured, hence $\lambda$ in the numerator.

    Args:
        isotope: one of `ISOTOPES`.
        minutes: time t from the end of the beam.
        washout: set of biological constants.
        scan_minutes: duration T of the scan; 0: the activity at t.

    Raises:
        Problem: a time is negative, or above 60 minutes.

    Example:
        >>> float(decay_factor("C11", washout="none")[2]) * 1221.8  # times the half-life in s: ln 2
        0.693147
    """
    for name, value in (("minutes", minutes), ("scan_minutes", scan_minutes)):
        if not 0 <= value <= 60:
            raise Problem(
                f"{value:g} minutes after the beam there is hardly any activity; is this a time in seconds?"
                if value > 60
                else f"a negative time: {value:g}",
                name,
                "give minutes, 0 to 60",
            )
    decay = _LN2 / HALF_LIFE[isotope]
    factors = []
    for components in COMPONENTS[washout][isotope]:
        fraction, biological = np.array(components).T
        rate = decay + biological
        counted = 1 - np.exp(-rate * scan_minutes * 60) if scan_minutes else rate
        factors.append(np.sum(fraction * decay / rate * np.exp(-rate * minutes * 60) * counted))
    return np.array(factors)


def activity(
    nuclei: Array, hu: NDArray, minutes: float = 0.0, washout: Washout = "B", scan_minutes: float = 0.0
) -> Array:
    """Total activity of all isotopes, some time after the beam.

    Normalise only after this sum: washout changes the proportions of the isotopes.

    Args:
        nuclei: positron emitters at the end of the beam, (..., isotopes, L), in the order of `ISOTOPES`.
        hu: CT numbers (..., L), which determine the tissue.
        minutes, washout, scan_minutes: see `decay_factor`.

    Returns:
        (..., L) in Bq, or counts if there is a scan.
    """
    where = region(hu)
    return sum(
        (
            nuclei[..., i, :] * decay_factor(isotope, minutes, washout, scan_minutes)[where]
            for i, isotope in enumerate(ISOTOPES)
        ),
        start=np.zeros(np.shape(hu)),
    )


# -- depth selection ----------------------------------------------------------------------------

BEYOND_EDGE = 20
"""Distance in mm from the distal edge of the activity to the end of the window."""


def depth_window(profile: Array, window_mm: int) -> NDArray[np.bool_]:
    """Mask of a depth window that ends 20 mm beyond the most distal depth with more than half the maximum activity.

    Args:
        profile: activity (..., L) on a grid of 1 mm.
        window_mm: length of the window. If it is not shorter than the profile: the whole profile, with a warning.

    Returns:
        (..., L)
    """
    length = profile.shape[-1]
    if window_mm >= length:
        warnings.warn(
            f"a window of {window_mm} mm does not shorten a profile of {length} mm; nothing is cut", stacklevel=2
        )
        return np.ones(profile.shape, dtype=bool)
    above = profile > 0.5 * profile.max(axis=-1, keepdims=True)
    edge = length - 1 - np.argmax(above[..., ::-1], axis=-1)
    end = np.minimum(edge + BEYOND_EDGE, length - 1)[..., None]
    depth = np.arange(length)
    return (depth <= end) & (depth > end - window_mm)


def select_depth(profile: Array, window: NDArray[np.bool_]) -> Array:
    """Activity inside a window, 0 outside, relative to the remaining maximum: (..., L) -> (..., L)."""
    cut = np.where(window, profile, 0.0)
    return cut / cut.max(axis=-1, keepdims=True)
