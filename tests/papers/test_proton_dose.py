"""ProtonDose: washout, windows, metrics, networks, and the study on its sample."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.dose import PET, write_case
from repertory.papers.proton_dose import metrics, washout
from repertory.papers.proton_dose.model import CELLS, DoseRNN, EnergyFit
from repertory.papers.proton_dose.settings import VARIANTS
from repertory.papers.proton_dose.simulator import ISOTOPES, Beams, pet, simulate, stopping_power
from repertory.papers.proton_dose.study import NETWORKS, ProtonDoseConfig, ProtonDoseStudy
from repertory.papers.proton_dose.washout import HALF_LIFE, activity, decay_factor, depth_window, select_depth

SETS: tuple[washout.Washout, ...] = ("A", "B", "none")


@pytest.fixture(scope="module")
def beams() -> Beams:
    return simulate(np.random.default_rng(0), 12, 200)


# -- washout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("isotope", ISOTOPES)
def test_activity_halves_in_a_half_life(isotope: str) -> None:
    half_life = HALF_LIFE[isotope] / 60
    start, later = (decay_factor(isotope, t, "none") for t in (0.0, half_life))
    assert start == pytest.approx(np.full(5, math.log(2) / HALF_LIFE[isotope]))
    assert later == pytest.approx(start / 2)


def test_half_lives_are_the_known_ones() -> None:
    minutes = {"C11": 20.36, "O15": 2.037, "N13": 9.965, "C10": 0.322}
    assert all(HALF_LIFE[i] / 60 == pytest.approx(m, rel=0.003) for i, m in minutes.items())


@pytest.mark.parametrize("washout_set", SETS)
@pytest.mark.parametrize("isotope", ISOTOPES)
def test_washout_starts_at_the_decay_and_only_takes_away(isotope: str, washout_set: washout.Washout) -> None:
    decay = math.log(2) / HALF_LIFE[isotope]
    assert decay_factor(isotope, 0, washout_set) == pytest.approx(np.full(5, decay))  # fractions sum to 1
    for minutes in (1, 5, 30):
        factor, physical = (decay_factor(isotope, minutes, s) for s in (washout_set, "none"))
        assert np.all(factor <= physical * (1 + 1e-12))
        assert factor[0] == pytest.approx(physical[0])  # none in air


def test_set_b_in_soft_tissue_by_hand() -> None:
    decay, t = math.log(2) / 1221.8, 300.0
    rest = 0.65 / 0.52
    expected = decay * math.exp(-decay * t) * (
        0.35 * math.exp(-math.log(2) / 10000 * t)
        + rest * 0.20 * math.exp(-21.04 / 60 * t)
        + rest * 0.32 * math.exp(-0.30 / 60 * t)
    )  # fmt: skip
    assert decay_factor("C11", 5, "B")[2] == pytest.approx(expected)
    decay = math.log(2) / 122.2
    expected = decay * math.exp(-decay * t) * (0.62 * math.exp(-0.72 * 5) + 0.38 * math.exp(-0.024 * 5))
    assert decay_factor("O15", 5, "B")[1:] == pytest.approx(np.full(4, expected))


def test_set_a_by_hand() -> None:
    decay, t = math.log(2) / 597.9, 180.0
    parts = ((0.30, 10.0), (0.19, 195.0), (0.52, 3175.0))
    expected = decay * sum(m / 1.01 * math.exp(-(decay + math.log(2) / h) * t) for m, h in parts)
    factor = decay_factor("N13", 3, "A")
    assert factor[1:3] == pytest.approx([expected, expected])
    assert factor[[0, 3, 4]] == pytest.approx(np.full(3, decay * math.exp(-decay * t)))


@pytest.mark.parametrize("washout_set", SETS)
def test_a_scan_counts_the_activity_of_its_duration(washout_set: washout.Washout) -> None:
    times = np.linspace(2, 7, 3001)
    rates = np.array([decay_factor("O15", t, washout_set) for t in times])
    counted = np.trapezoid(rates, times * 60, axis=0)
    assert decay_factor("O15", 2, washout_set, scan_minutes=5) == pytest.approx(counted, rel=1e-5)


def test_physical_decay_counts_every_nucleus_in_the_end() -> None:
    assert decay_factor("C10", 0, "none", scan_minutes=60) == pytest.approx(np.ones(5))


@pytest.mark.parametrize(("minutes", "words"), [(300, "seconds"), (61, "seconds"), (-1, "negative")])
def test_times_in_seconds_are_refused(minutes: float, words: str) -> None:
    with pytest.raises(Problem, match=words):
        decay_factor("C11", minutes)
    with pytest.raises(Problem, match=words):
        decay_factor("C11", 1, scan_minutes=minutes)


def test_regions_are_by_ct_number() -> None:
    hu = np.array([-1000, -151, -150, -31, -30, 199, 200, 999, 1000])
    assert washout.region(hu).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_activity_sums_isotopes_and_changes_shape(beams: Beams) -> None:
    raw = activity(beams.nuclei, beams.ct)
    decay = np.array([math.log(2) / HALF_LIFE[i] for i in ISOTOPES])
    assert np.allclose(raw, np.einsum("bil,i->bl", beams.nuclei, decay))
    assert np.allclose(activity(3 * beams.nuclei, beams.ct, 5), 3 * activity(beams.nuclei, beams.ct, 5))
    late = activity(beams.nuclei, beams.ct, 5, "B")
    shapes = [a / a.max(-1, keepdims=True) for a in (raw, late)]
    assert np.abs(shapes[0] - shapes[1]).max() > 0.05  # the mixture changed
    assert np.allclose(activity(beams.nuclei[0], beams.ct[0], 5), late[0])


# -- depth selection ----------------------------------------------------------------------------


def test_window_ends_20_mm_behind_the_edge() -> None:
    profile = np.zeros((2, 200))
    profile[0, 10:120] = 1.0
    profile[1, 10:190] = 1.0  # nearer to the end than 20 mm
    window = depth_window(profile, 100)
    assert np.flatnonzero(window[0])[[0, -1]].tolist() == [40, 139]
    assert np.flatnonzero(window[1])[[0, -1]].tolist() == [100, 199]
    assert window.sum(1).tolist() == [100, 100]
    assert np.array_equal(depth_window(profile[0], 100), window[0])


def test_selected_activity_is_relative_to_what_is_left() -> None:
    profile = np.full(200, 0.0)
    profile[5], profile[60:120] = 1.0, 0.6  # the highest sample lies in front of the window
    seen = select_depth(profile, depth_window(profile, 100))
    assert seen.max() == 1
    assert seen[5] == 0
    assert seen.shape == profile.shape


def test_a_window_longer_than_the_profile_does_nothing_and_says_so() -> None:
    profile = np.linspace(1, 0, 120)
    with pytest.warns(UserWarning, match="nothing is cut"):
        window = depth_window(profile, 125)
    assert np.array_equal(select_depth(profile, window), profile)


# -- metrics ------------------------------------------------------------------------------------


def test_r80_is_most_distal_and_linear() -> None:
    dose = np.array([[1.0, 0.2, 0.9, 0.7, 0.0], [0.1, 0.8, 1.0, 0.8, 0.0], [0.1, 0.2, 0.3, 0.4, 0.5]])
    # 0.9 -> 0.7 crosses 0.8 half-way between 2.5 and 3.5; exactly on a sample; never falls
    assert metrics.r80(dose) == pytest.approx([3.0, 3.5, 4.5])
    assert metrics.r80(7 * dose) == pytest.approx([3.0, 3.5, 4.5])
    assert metrics.bragg_peak(dose).tolist() == [0.5, 2.5, 4.5]


def test_a_shift_of_the_dose_is_the_range_error(beams: Beams) -> None:
    true = beams.dose / beams.dose.max(-1, keepdims=True)
    moved = np.roll(true, 2, axis=1)
    moved[:4] = np.roll(true, -2, axis=1)[:4]
    found = metrics.compare(moved, true)
    assert found["range"] == pytest.approx(2)
    assert found["range_sd"] == pytest.approx(0, abs=1e-9)
    assert found["range_bias"] == pytest.approx(2 * (8 - 4) / 12)
    assert metrics.compare(true, true) == dict.fromkeys(found, 0.0)


def test_dose_errors_by_hand() -> None:
    true = np.array([[0.5, 1.0, 0.04, 0.2]])
    predicted = np.array([[0.6, 0.9, 0.08, 0.2]])
    found = metrics.compare(predicted, true)
    assert found["mae"] == pytest.approx(100 * 0.24 / 4)
    assert found["mre"] == pytest.approx(100 * (0.2 + 0.1 + 0) / 3)  # 0.04 is below 5 %
    assert found["mre50"] == pytest.approx(100 * 0.1)  # above 50 %
    inside = metrics.compare(predicted, true, np.array([[False, True, True, False]]))
    assert inside["mae"] == pytest.approx(100 * 0.14 / 2)


# -- networks -----------------------------------------------------------------------------------


def _parameters(cell: str, channels: int, hidden: int, layers: int, directions: int) -> int:
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    widths = [channels, *[directions * hidden] * (layers - 1)]
    return sum(directions * gates * hidden * (w + hidden + 2) for w in widths) + directions * hidden + 1


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("inputs", [("activity",), ("activity", "hu"), ("activity", "hu", "sp")])
def test_network_shapes_parameters_and_gradients(cell: str, both: bool, inputs: tuple[str, ...]) -> None:
    net = DoseRNN(inputs, cell=cell, layers=3, hidden=10, bidirectional=both)  # pyright: ignore[reportArgumentType]
    assert sum(p.numel() for p in net.parameters()) == _parameters(cell, len(inputs), 10, 3, 1 + both)
    profiles = torch.rand(3, 5, 90)
    output = net(*profiles)
    assert output.shape == (5, 90)
    F.mse_loss(output, profiles[0]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_liu19_has_three_layers_of_ten_neurons() -> None:
    net = DoseRNN(("activity",), **VARIANTS["liu19"])
    assert (net.rnn.num_layers, net.rnn.hidden_size, net.rnn.mode) == (3, 10, "RNN_TANH")


@pytest.mark.parametrize("both", [True, False])
def test_one_direction_does_not_see_what_lies_behind(both: bool) -> None:
    torch.manual_seed(0)
    net = DoseRNN(("activity",), hidden=8, bidirectional=both).double()
    seen = torch.rand(1, 60, dtype=torch.float64, requires_grad=True)
    net(seen)[0, 20].backward()
    assert seen.grad is not None
    assert seen.grad[0, :21].abs().min() > 0
    assert bool((seen.grad[0, 21:] != 0).any()) is both


def test_channels_that_are_not_named_are_not_used() -> None:
    net = DoseRNN(("activity", "sp"), hidden=4).eval()
    a, sp = torch.rand(2, 50), torch.rand(2, 50)
    assert torch.equal(net(a, torch.rand(2, 50), sp), net(activity=a, sp=sp))


def test_energy_fit_finds_energy_and_range(beams: Beams) -> None:
    seen = pet(activity(beams.nuclei, beams.ct), np.random.default_rng(0))
    fit = EnergyFit()
    inputs = torch.from_numpy(seen).float(), torch.from_numpy(beams.ct).float()
    assert np.abs(fit.energy(*inputs).numpy() - beams.energy).max() < 1.0
    predicted = fit(*inputs).double().numpy()
    assert metrics.compare(predicted, beams.dose / beams.dose.max(-1, keepdims=True))["range"] < 0.5
    window = select_depth(seen, depth_window(seen, 100))
    again = fit.energy(torch.from_numpy(window).float(), inputs[1])
    assert (again - fit.energy(*inputs)).abs().max() < 0.5  # what a window hides does not count as zero


@pytest.mark.parametrize("model", [DoseRNN(("activity", "hu")), EnergyFit(fwhm_mm=3.0)], ids=["rnn", "fit"])
def test_models_survive_the_disk(model: DoseRNN | EnergyFit, beams: Beams, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path / "model")  # pyright: ignore[reportArgumentType]
    loaded = checkpoint.load(tmp_path / "model")
    inputs = torch.rand(12, 200), torch.from_numpy(beams.ct).float()
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), model.eval()(*inputs))


# -- study --------------------------------------------------------------------------------------

TINY = ProtonDoseConfig(epochs=2, beams=24, pool=30, length=120, hidden=4)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    _study(folder / "out", TINY).write_sample(folder / "data")
    return folder / "data"


def _study(out: Path, config: ProtonDoseConfig = TINY, data: Path | None = None, seed: int = 0) -> ProtonDoseStudy:
    return ProtonDoseStudy(config, Session(seed, out, data))


def test_sample_comes_back_as_it_was_simulated(sample: Path, tmp_path: Path) -> None:
    study = _study(tmp_path, TINY.model_copy(update={"beams": 0}), sample)
    data = study.data()
    assert (len(data.train.cases), len(data.test.cases)) == (24, 6)
    simulated = simulate(np.random.default_rng(0), 30, 120)
    for part in (data.train, data.test):
        index = [int(case.name.removeprefix("beam_")) for case in part.cases]
        assert np.array_equal(part.hu, simulated.ct[index])
        assert part.emitters is not None
        assert np.allclose(part.emitters, simulated.nuclei[index], rtol=1e-6)
        assert np.allclose(part.dose, simulated.dose[index] / simulated.dose[index].max(1, keepdims=True), rtol=1e-6)


def test_seeds_draw_their_own_beams(sample: Path, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 0, 1):
        data = _study(tmp_path, data=sample, seed=seed).data()
        names = [case.name for case in (*data.train.cases, *data.test.cases)]
        assert len(set(names)) == 24
        drawn.append(names)
    assert drawn[0] == drawn[1] != drawn[2]


def test_seeds_of_the_sample_simulate_their_own_beams(tmp_path: Path) -> None:
    drawn = [_study(tmp_path / "out", seed=seed).data() for seed in (0, 0, 1)]
    # Two depths identify a beam: the CT's noise differs from beam to beam.
    beams = [{tuple(hu[:2]) for part in (data.train, data.test) for hu in part.hu} for data in drawn]
    assert beams[0] == beams[1]
    assert len(beams[0]) == 24
    assert not beams[0] & beams[2]


def test_a_patient_is_never_on_both_sides(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    for i, path in enumerate(sorted((tmp_path / "data").glob("*/beam.json"))):
        path.write_text(json.dumps({**json.loads(path.read_text()), "patient": f"P{i % 6}"}))
    data = _study(tmp_path / "out", data=tmp_path / "data").data()
    train, test = ({case.beam.patient for case in part.cases} for part in (data.train, data.test))
    assert train
    assert test
    assert not train & test
    for path in (tmp_path / "data").glob("*/beam.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "patient": "P"}))
    with pytest.raises(Problem, match="one patient"):
        _study(tmp_path / "out", data=tmp_path / "data").data()


@pytest.mark.filterwarnings("ignore:a window of")
@pytest.mark.parametrize("arm", ProtonDoseStudy.arms)
def test_every_arm_trains_evaluates_and_survives_the_disk(arm: str, sample: Path, tmp_path: Path) -> None:
    study = _study(tmp_path / "out", data=sample)
    data = study.data()
    study.session.reseed("train")
    model = study.train(arm, data)
    if arm in NETWORKS:
        width = 8 if arm == "uni_hu_sp" else 4
        assert isinstance(model, DoseRNN)
        assert (model.inputs, model.rnn.hidden_size) == (NETWORKS[arm]["inputs"], width)
    checkpoint.save(model, tmp_path / "model")
    found = study.evaluate(model, data)
    assert study.evaluate(checkpoint.load(tmp_path / "model"), data) == found
    assert all(math.isfinite(value) for value in found.values())
    for claim in catalog.card("proton_dose").claim:
        for test in claim.test:
            if test.kind == "compare":
                assert {test.metric, test.over_metric or test.metric} <= set(found)
            elif test.kind == "value":
                assert test.metric in found
    assert found["range_B_worst"] == max(found[f"range_B{t}"] for t in range(1, 6))
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {"beam.png", "range.png"}


def test_training_learns_and_repeats(tmp_path: Path) -> None:
    config = ProtonDoseConfig(epochs=12, beams=0, pool=100, length=120)
    study = _study(tmp_path / "a", config, tmp_path / "data")
    study.write_sample(tmp_path / "data")
    data = study.data()

    def error(model: torch.nn.Module) -> float:
        seen = study._scan(data.test, "test")
        return metrics.compare(study._predict(model, seen, data.test.hu), data.test.dose)["range"]

    study.session.reseed("train")
    model = study.train("bi_hu_sp", data)
    guess = np.abs(metrics.r80(data.test.dose) - metrics.r80(data.train.dose).mean()).mean()
    assert error(model) < 0.35 * guess
    again = _study(tmp_path / "b", config, tmp_path / "data")
    again.session.reseed("train")
    twin = again.train("bi_hu_sp", again.data())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_interrupted_training_ends_like_an_undisturbed_one(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY.model_copy(update={"epochs": 4, "batch_size": 6})

    def trained(out: Path) -> torch.nn.Module:
        study = ProtonDoseStudy(config, Session(0, out, sample, keep_seconds=0.0))
        data = study.data()
        study.session.reseed("train")
        return study.train("bi_hu_sp", data)

    undisturbed = trained(tmp_path / "undisturbed")
    progress = Session.progress
    for _ in range(2):  # killed in the fifth step, and again in the fifth after that

        def fragile(self, items, label, total=None):
            for count, item in enumerate(progress(self, items, label, total)):
                if label == "train" and count == 4:
                    raise KeyboardInterrupt
                yield item

        monkeypatch.setattr(Session, "progress", fragile)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "disturbed")
    monkeypatch.setattr(Session, "progress", progress)
    resumed = trained(tmp_path / "disturbed")
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))


def test_predict_tells_range_peak_and_dose(sample: Path, tmp_path: Path) -> None:
    study = _study(tmp_path / "out")
    model = EnergyFit()
    one = study.predict(model, sample / "beam_00003")
    (row,) = one.table
    assert row["range_error_mm"] == pytest.approx(row["R80_mm"] - row["true_R80_mm"])
    assert abs(row["range_error_mm"]) < 1
    assert 0 < row["R80_mm"] - row["bragg_peak_mm"] < 10
    table = one.arrays["beam_00003-dose"]
    assert table.dtype.names == ("depth_mm", "activity", "dose", "true_dose")
    assert (len(table), table["depth_mm"][0], table["dose"].max()) == (120, 0.5, 1.0)
    assert len(one.figures["beam_00003"].axes) == 2

    many = study.predict(model, sample)
    assert (len(many.table), len(many.arrays), len(many.figures)) == (30, 30, 20)
    assert many.text == "30 cases; figures of the first 20"

    shutil.copytree(sample / "beam_00003", tmp_path / "cases" / "known")
    shutil.copytree(sample / "beam_00003", tmp_path / "cases" / "unknown")
    (tmp_path / "cases" / "unknown" / "dose.mha").unlink()
    both = study.predict(model, tmp_path / "cases")
    assert [row["case"] for row in both.table] == ["known", "unknown"]
    assert math.isnan(both.table[1]["range_error_mm"])
    alone = study.predict(model, tmp_path / "cases" / "unknown")
    assert set(alone.table[0]) == {"case", "R80_mm", "bragg_peak_mm"}


@pytest.mark.filterwarnings("ignore:a window of")
def test_measured_pet_images_train_and_predict(tmp_path: Path) -> None:
    beams = simulate(np.random.default_rng(1), 10, 120)
    seen = pet(activity(beams.nuclei, beams.ct), np.random.default_rng(2)) * 5e3  # Bq/ml
    for i in range(10):
        write_case(tmp_path / f"data/c{i}", beams.energy[i], beams.ct[i], beams.dose[i], {PET: seen[i]})
    study = _study(tmp_path / "out", TINY.model_copy(update={"beams": 0}), tmp_path / "data")
    data = study.data()
    assert data.train.emitters is None
    found = study.evaluate(study.train("bi_hu_sp", data), data)
    assert "range" in found
    assert "range_w100" in found
    assert "range_B5" not in found  # a measured image does not tell its isotopes
    # What a scanner measured is not blurred or made noisy once more.
    shown = study.predict(EnergyFit(), tmp_path / "data/c0").arrays["c0-dose"]["activity"]
    assert np.allclose(shown, seen[0] / seen[0].max(), atol=1e-6)
    write_case(tmp_path / "data/other", beams.energy[0], beams.ct[0], beams.dose[0], {"C11": beams.nuclei[0, 0]})
    with pytest.raises(Problem, match="some cases have isotopes"):
        study.data()


def test_bad_folders_are_refused(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for call in (
        _study(tmp_path, data=tmp_path / "empty").data,
        lambda: _study(tmp_path).predict(EnergyFit(), sample.parent),
    ):
        with pytest.raises(Problem, match=r"beam\.json"):
            call()
    shutil.copytree(sample / "beam_00000", tmp_path / "few" / "a")
    with pytest.raises(Problem, match="cannot be split"):
        _study(tmp_path, data=tmp_path / "few").data()
    shutil.copytree(sample / "beam_00001", tmp_path / "few" / "b")
    (tmp_path / "few" / "a" / "dose.mha").unlink()
    with pytest.raises(Problem, match="no dose to train on"):
        _study(tmp_path, data=tmp_path / "few").data()


def test_an_activity_deeper_than_the_energy_allows_is_refused(beams: Beams, tmp_path: Path) -> None:
    deep = int(beams.energy.argmax())
    nuclei = dict(zip(ISOTOPES, beams.nuclei[deep], strict=True))
    write_case(tmp_path / "case", 75.0, beams.ct[deep], beams.dose[deep], nuclei)
    with pytest.raises(Problem, match="other end"):
        _study(tmp_path / "out", TINY.model_copy(update={"length": 200})).predict(EnergyFit(), tmp_path / "case")


def test_snr_and_stopping_power_are_what_the_network_sees(sample: Path, tmp_path: Path) -> None:
    quiet = _study(tmp_path, TINY.model_copy(update={"snr": 0.0}), sample)
    data = quiet.data()
    assert data.test.emitters is not None
    clean = pet(activity(data.test.emitters, data.test.hu), np.random.default_rng(0), snr=0)
    assert np.allclose(quiet._scan(data.test, "test"), clean)
    noisy = [_study(tmp_path, TINY.model_copy(update={"snr": snr}), sample)._scan(data.test, "test") for snr in (4, 20)]
    assert np.abs(noisy[0] - clean).mean() > 2 * np.abs(noisy[1] - clean).mean() > 0
    assert stopping_power(data.test.hu).max() <= 1.678


def test_measure_counts_parameters(tmp_path: Path) -> None:
    figures = _study(tmp_path).measure()
    assert figures["parameters_liu19"] == _parameters("rnn", 3, 10, 3, 2)
    assert figures["parameters_laptop"] == _parameters("lstm", 3, 16, 2, 2)
