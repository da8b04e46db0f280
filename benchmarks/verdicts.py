"""How often verdicts are wrong, and how often they are reached: simulated studies, judged as recorded ones are.

    python benchmarks/verdicts.py              # errors at the margin, controls, claims of several tests, power
    python benchmarks/verdicts.py calibrate    # the critical values of repertory.verdicts.sequential

Prints one JSON line a simulation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from repertory.core.card import Claim
from repertory.verdicts import sequential
from repertory.verdicts.decisions import Word
from repertory.verdicts.evidence import Evidence
from repertory.verdicts.judge import judge_claim
from repertory.verdicts.sequential import ERROR, LOOKS, anytime_critical

Array = NDArray[np.float64]


def t_paths(rng: np.random.Generator, paths: int, effect: float = 0.0) -> Array:
    """t statistics (paths, 30) of the first 1 to 30 of normal differences with standard deviation 1; the first is 0."""
    x = rng.normal(effect, 1, (paths, LOOKS[-1]))
    n = np.arange(1, LOOKS[-1] + 1)
    mean, square = np.cumsum(x, 1) / n, np.cumsum(x * x, 1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean * np.sqrt((n - 1) / np.maximum(square - mean**2, 0))
    t[:, 0] = 0
    return t


def critical_values(paths: int, seed: int = 0) -> dict[int, float]:
    """|t| at each look such that looks up to n seeds have spent ERROR * n / 30 together."""
    t = np.abs(t_paths(np.random.default_rng(seed), paths))
    undecided, found = np.ones(paths, dtype=bool), {}
    for n in LOOKS:
        spend = round(paths * ERROR * n / LOOKS[-1]) - int((~undecided).sum())
        found[n] = float(np.sort(t[undecided, n - 1])[-spend])
        undecided &= t[:, n - 1] < found[n]
    return found


def stopping_errors(paths: int = 100_000) -> dict[str, float]:
    """Share of studies that end on one wrong side, per cent, with the true effect on the margin; nominal 2.5."""
    t = t_paths(np.random.default_rng(1), paths)
    n = np.arange(1, LOOKS[-1] + 1)
    naive = stats.t.ppf(1 - ERROR / 2, np.maximum(n - 1, 1))
    anytime = np.array([anytime_critical(int(k)) for k in n])
    group = np.array([sequential.CRITICAL.get(int(k), np.inf) for k in n])
    every = slice(2, None)  # from 3 seeds on, a look after each
    return {
        name: round(100 * float((t[:, every] > limit[every]).any(1).mean()), 2)
        for name, limit in (("naive", naive), ("group_sequential", group), ("anytime_valid", anytime))
    }


def power(effects: tuple[float, ...] = (0.5, 1.0, 2.0), paths: int = 20_000) -> dict[str, dict[str, float]]:
    """Share of studies that end with "holds" by each look, per cent, at true effects in standard deviations."""
    rng, found = np.random.default_rng(2), {}
    for effect in effects:
        t = t_paths(rng, paths, effect)
        reached = np.cumsum([t[:, n - 1] > sequential.CRITICAL[n] for n in LOOKS], axis=0) > 0
        found[f"{effect:g} sd"] = {str(n): round(100 * float(reached[k].mean()), 1) for k, n in enumerate(LOOKS)}
    return found


def judged(draw: Callable[[np.random.Generator], dict[str, Array]], claim: Claim, studies: int, word: Word) -> float:
    """Share of studies, per cent, that end with `word` when they are looked at until decided.

    Args:
        draw: gives the metric "m" of each arm, 30 seeds.
        claim: the claim to judge.
    """
    rng, ended = np.random.default_rng(3), 0
    for _ in range(studies):
        arms = draw(rng)
        for look, n in enumerate(LOOKS):
            trials = {arm: {k: {"m": float(v)} for k, v in enumerate(x[:n])} for arm, x in arms.items()}
            verdict = judge_claim(claim, Evidence(trials, looks=LOOKS[:look]), "simulated", "laptop")
            if verdict.word != "undecided":
                ended += verdict.word == word
                break
    return round(100 * ended / studies, 2)


def claim_of(controls: list[str], tests: int = 1, **fields: object) -> Claim:
    """A claim that `new` is better than every control, stated `tests` times over arms new0, new1, ..."""
    arms = ["new"] if tests == 1 else [f"new{k}" for k in range(tests)]
    listed = [{"kind": "compare", "metric": "m", "arm": arm, "over": controls, **fields} for arm in arms]
    return Claim.model_validate({"id": "simulated", "en": "It is better.", "zh": "它更好。", "test": listed})


def strongest_control(studies: int = 20_000) -> dict[str, float]:
    """Wrong "holds", per cent: a noisy control equals the arm, two steady ones are worse; nominal 2.5.

    Choosing the control with the best mean after the fact, at 3 seeds, takes a steady one whenever the noisy one is
    unlucky.
    """
    controls = {"noisy": (0.0, 1.0), "steady1": (-0.5, 0.1), "steady2": (-0.5, 0.1)}
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(studies):
        new = rng.normal(0, 0.1, 3)
        best = max((rng.normal(mean, sd, 3) for mean, sd in controls.values()), key=lambda x: x.mean())
        wrong += stats.ttest_rel(new, best, alternative="greater").pvalue < ERROR / 2

    def draw(rng: np.random.Generator) -> dict[str, Array]:
        arms = {"new": (0.0, 0.1), **controls}
        return {arm: rng.normal(mean, sd, LOOKS[-1]) for arm, (mean, sd) in arms.items()}

    every = judged(draw, claim_of(list(controls), least=0.5), 1000, "holds")
    return {"strongest_chosen_after": round(100 * wrong / studies, 2), "every_control": every}


def union_of_tests(tests: int = 6) -> dict[str, float]:
    """Wrong "fails" of a claim of several tests, per cent, each with the least effect that matters; nominal 2.5."""

    def draw(rng: np.random.Generator) -> dict[str, Array]:
        arms = {f"new{k}": rng.normal(0.5, 1, LOOKS[-1]) for k in range(tests)}
        return {"old": rng.normal(0, 1, LOOKS[-1]), **arms}

    return {"shared_error": judged(draw, claim_of(["old"], tests, least=0.5), 300, "fails")}


def dummy(studies: int = 200) -> dict[str, float]:
    """An arm equal to its control: share of studies, per cent, that end with "holds" and with "fails"."""

    def draw(rng: np.random.Generator) -> dict[str, Array]:
        split = rng.normal(0, 2, LOOKS[-1])
        return {arm: split + rng.normal(0, 1, LOOKS[-1]) for arm in ("new", "old")}

    claim = claim_of(["old"], least=1.0)
    return {word: judged(draw, claim, studies, word) for word in ("holds", "fails")}


def main() -> None:
    if sys.argv[1:] == ["calibrate"]:
        print(json.dumps({"critical": {n: round(c, 3) for n, c in critical_values(4_000_000).items()}}))
        return
    for name, simulate in (
        ("wrong at the margin, looks at 3 to 30 seeds, %", stopping_errors),
        ("holds by look, %", power),
        ("wrong holds, three controls, %", strongest_control),
        ("wrong fails, six tests, %", union_of_tests),
        ("an arm equal to its control, 200 studies, %", dummy),
    ):
        print(json.dumps({name: simulate()}), flush=True)


if __name__ == "__main__":
    main()
