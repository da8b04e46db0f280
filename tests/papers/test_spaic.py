"""SPAIC: fidelity, neuron models, equations, encoders, decoders, the front end, and bad input."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.spaic import (
    ACTIONS,
    AvgPool,
    BatchNorm,
    Bernoulli,
    Constant,
    Conv,
    ConvTranspose,
    Dropout,
    Full,
    Group,
    Input,
    Latency,
    Lateral,
    MaxPool,
    Net,
    Null,
    OneToOne,
    Periodic,
    Poisson,
    PoissonNoise,
    Ramp,
    RelativeLatency,
    Sine,
    Source,
    Sparse,
    SpikeTime,
    SpikeTimes,
    Uniform,
    circuits,
    compile_net,
    custom,
    from_json,
    from_text,
    to_json,
)
from repertory.papers.spaic.describe.decoders import Readout, first_times
from repertory.papers.spaic.describe.network import Assembly, positions
from repertory.papers.spaic.describe.neurons import MODELS, neuron
from repertory.papers.spaic.describe.rules import RULES
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import probe

# -- fidelity ---------------------------------------------------------------------------------------


def tensor_of(text: str) -> Tensor:
    """The tensor that a case describes in words: "x=abs(probe(40,2,4))*0.3+0 (time,batch,in)", "probe(30,1,6)>0.6"."""
    text = re.sub(r"^\w+=", "", text)
    text = re.sub(r"\s*\((?=[a-z]+,).*$|, (?=[a-z]).*$", "", text)
    return torch.as_tensor(eval(text, {"probe": probe, "abs": torch.abs, "__builtins__": {}})).float()


RULE_WORDS = {"Apost": "a_post", "Apre": "a_pre", "w_norm": "w_norm", "tau": "tau", "trace_decay": "tau"}


@pytest.mark.parametrize("case", cases("spaic"))
def test_agrees_with_the_official_code(case: dict[str, Any]) -> None:
    config = case["config"]
    x = tensor_of(config["input"])
    plastic = "rule" in config
    weight = tensor_of(config["w0" if plastic else "weight"])
    model = config.get("model", config.get("neuron", "lif").split()[0])
    rule = (
        RULES[config["rule"]](**{own: config[k] for k, own in RULE_WORDS.items() if k in config}) if plastic else None
    )
    with Net(config["dt"]) as net:
        source = Input(weight.shape[1], "spikes")
        g = Group(weight.shape[0], neuron(model)(**config.get("params", {})))
        _ = source >> Full(weight=weight, rule=rule) >> g
        potential = "v" if "v" in g.model.start else "u"
        net.record(g, "spike", potential)
    module = compile_net(net, latency=1, compat="spaic").train(plastic)
    with torch.no_grad():
        module(x[: config["T"]])
    output = (
        module.get_parameter("projections.0.weight") if plastic else module.trace[f"g.{potential}"].permute(1, 2, 0)
    )
    assert_agrees(output, case)
    spikes = config.get("total_spikes", config.get("post_spikes"))
    assert spikes is None or module.trace["g.spike"].sum() == spikes
    assert sum(p.numel() for p in module.projections.parameters()) == case["params"]


def test_input_reaches_the_second_layer_two_steps_later_under_latency_1() -> None:
    with Net() as net:
        x = Input(1, "spikes")
        a, b = Group(1, "if"), Group(1, "if")
        _ = x >> Full(init=2.0) >> a >> Full(init=2.0) >> b
        net.record(a, "spike")
        net.record(b, "spike")
    x = torch.zeros(5, 1, 1)
    x[0] = 1
    for latency in (0, 1):
        module = compile_net(net, latency=latency).eval()
        module(x)
        fired = [module.trace[f"{name}.spike"].flatten().nonzero().item() for name in "ab"]
        assert fired == [latency, 2 * latency]


# -- neuron models ----------------------------------------------------------------------------------


def driven(model: Any, current: Tensor, dt: float = 1.0, compat: str = "", **record: Any) -> dict[str, Tensor]:
    """Records (T, B, N) of a population under a given current."""
    with Net(dt) as net:
        x = Input(current.shape[2:], "spikes")
        g = Group(current.shape[2:], model)
        _ = x >> g
        net.record(g, "spike", "current", *g.model.start)
    module = compile_net(net, compat=compat).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        module(current)
    return {name.partition(".")[2]: value for name, value in module.trace.items()}


def by_hand(name: str, current: list[float]) -> list[tuple[float, float]]:
    """(V, O) of models in scalar code, from the equations of the official code."""
    p = {k: float(v) for k, v in MODELS[name].params.items()}
    e = {k: math.exp(-1 / v) for k, v in p.items() if k.startswith("tau")}
    v = m = s = r = i2 = a = 0.0
    o = 0.0
    out = []
    ratio = p.get("tau_p", 0) / p["tau_q"] if "tau_q" in p else p.get("tau_m", 0) / p["tau_s"] if "tau_s" in p else 2.0
    v0 = ratio ** (ratio / (ratio - 1)) / (ratio - 1)
    for i in current:
        if name in ("if", "ifsoftreset", "ifb"):
            u = v + i - p.get("d", 0) + p.get("bias", 0)
            o = float(u > p["v_th"])
            v = u * (1 - o)
        elif name == "nonspikingifb":
            v += i + p["bias"]
            o = v
        elif name == "lif":
            u = e["tau_m"] * v + i
            o = float(u > 1)
            v = u * (1 - o)
        elif name == "plif":
            u = v + (i - v) / p["tau"]
            o = float(u > 1)
            v = u * (1 - o)
        elif name == "lifm":
            i2 = e["tau_p"] * i2 + i
            u = e["tau_m"] * v + i2
            o = float(u > 1)
            v = u * (1 - o)
        elif name == "constantcurrentlif":
            u = v + (i - v) / p["tau_m"]
            v, o = u - u * o, float(u > 1)
        elif name in ("clif", "clif2k", "aclif"):
            a = e["tau_a"] * a + o if name == "aclif" else 0.0
            slow, fast = ("tau_m", "tau_s") if name == "clif2k" else ("tau_p", "tau_q")
            m, s = e[slow] * m + v0 * i, e[fast] * s + v0 * i
            v = m - s - p.get("beta", 0) * a - r
            o = float(v > 1)
            r = e["tau_m"] * r + o
        elif name == "pclif":
            m, s, r = p["k_m"] * (m + i), p["k_s"] * (s + i), p["k_m"] * r + o
            v = m - s - r
            o = float(v > 1)
        else:  # nonspikinglif
            m, s = e["tau_p"] * m + v0 * i, e["tau_q"] * s + v0 * i
            v += (m - s - v) / p["tau_m"]
            o = v
        out.append((v, o))
    return out


@pytest.mark.parametrize(
    "name",
    ["if", "ifsoftreset", "ifb", "nonspikingifb", "lif", "plif", "lifm", "constantcurrentlif", "clif", "clif2k",
     "pclif", "aclif", "nonspikinglif"],
)  # fmt: skip
def test_models_equal_scalar_code(name: str) -> None:
    current = probe(60, 1, 1).abs() * {"constantcurrentlif": 5.0, "plif": 3.0}.get(name, 0.9)
    found = driven(name, current)
    wanted = torch.tensor(by_hand(name, current.flatten().tolist()))
    assert torch.allclose(found["v"].flatten(), wanted[:, 0], atol=2e-4)
    assert torch.allclose(found["spike"].flatten(), wanted[:, 1], atol=2e-4)
    assert found["spike"].any()


def test_resets_and_shifts_are_honoured() -> None:
    current = torch.full((4, 1, 1), 2.0)
    assert driven(MODELS["lif"](v_reset=-0.5), current)["v"].flatten().tolist() == [-0.5] * 4
    assert driven(MODELS["if"](d=1.5, v_th=0.9), current)["v"].flatten().tolist() == [0.5, 0, 0.5, 0]
    thresholds = torch.tensor([0.5, 3.0])
    found = driven(MODELS["lif"](v_th=thresholds), torch.full((1, 1, 2), 2.0))
    assert found["spike"].flatten().tolist() == [1, 0]


def test_the_published_models_scale_with_dt_and_the_official_ones_do_not() -> None:
    current = torch.full((1, 1, 1), 5.0)
    for name, variable in (("izh", "u"), ("hh", "v")):
        published, official = (driven(name, current, 0.1, compat)[variable].item() for compat in ("", "spaic"))
        start = MODELS[name].start[variable]
        assert isinstance(start, float)
        if name == "izh":
            assert (official - start) == pytest.approx(10 * (published - start), rel=1e-4)
        else:
            assert official - published == pytest.approx(5.0 * 0.9, rel=1e-4)


def test_glif_by_hand() -> None:
    found = driven("glif", torch.full((1, 1, 1), 300.0))
    i1, i2 = 0.2 * 0.08, 0.4 * 0.06
    v = (300 + i1 + i2) / 60
    th_s, th_v = 0.98 * 0.1, 0.2 + (0 - 0.3 * 0.2)
    assert v > 1 + th_s + th_v
    assert found["spike"].item() == 1
    assert found["v"].item() == pytest.approx(0.1 * v - 0.05, rel=1e-5)
    assert found["th_s"].item() == pytest.approx(th_s + 0.2, rel=1e-5)
    assert found["th_v"].item() == pytest.approx(th_v, rel=1e-5)
    assert (found["i1"].item(), found["i2"].item()) == pytest.approx((i1 + 0.1, i2 + 0.1), rel=1e-5)


def test_adex_stays_finite_in_its_upswing() -> None:
    found = driven("adex", torch.full((60, 1, 1), 1e5))
    assert all(value.isfinite().all() for value in found.values())
    assert found["spike"].any()
    assert (found["v"][found["spike"] > 0] == -70.6).all()


def test_hodgkin_huxley_rates_are_finite_at_their_singularities() -> None:
    for v in (25.0, 10.0, 25.00001):
        found = driven(MODELS["hh"](start={"v": v}), torch.zeros(1, 1, 1), 0.01)
        assert all(value.isfinite().all() for value in found.values())


def test_unsupervised_models_keep_their_thresholds_across_runs_while_training() -> None:
    with Net() as net:
        x = Input(1, "spikes")
        g = Group(1, "lifstdp_ex")
        _ = x >> Full(init=20.0) >> g
        net.record(g, "theta")
    module = compile_net(net)
    for training, wanted in ((True, 0.05), (True, 0.10), (False, 0.15), (False, 0.15)):
        module.train(training)(torch.ones(1, 1, 1))
        assert module.trace["g.theta"].item() == pytest.approx(wanted, rel=1e-4)
    inhibited = driven("lifstdp_ih", torch.full((1, 1, 1), 30.0))
    assert inhibited["v"].item() == -45
    winner = driven(MODELS["lifstdp_ex"](winner=1.0), torch.tensor([[[20.0, 30.0, 25.0]]]))
    assert winner["spike"].flatten().tolist() == [0, 1, 0]


def test_fields() -> None:
    current = torch.tensor([[[100.0, 200.0]]])
    found = driven("cann_field", current)
    power = np.array([2.0, 4.0]) ** 2
    assert found["spike"].flatten().tolist() == pytest.approx((power / (1 + 0.01 * power.sum())).tolist(), rel=1e-5)
    assert driven("meanfield", -current)["spike"].flatten().tolist() == [0, 0]


def test_spellings_of_parameters_and_unknown_ones() -> None:
    lif = MODELS["lif"]
    assert lif(Vth=2.0).params["v_th"] == lif(v_th=2.0).params["v_th"] == 2
    assert lif(tau=5.0).params["tau_m"] == lif(tau_m=5.0).params["tau_m"] == 5
    assert MODELS["aeif"](Dt=3.0, gL=20.0).params["d_t"] == 3
    with pytest.raises(Problem, match="lif has no parameter 'v_thr'") as caught:
        lif(v_thr=1.0)
    assert "'vth'" in caught.value.remedy or "'v_th'" in caught.value.remedy
    with pytest.raises(Problem, match="unknown neuron model 'liff'") as caught:
        neuron("liff")
    assert "did you mean 'lif'" in caught.value.remedy
    with pytest.raises(Problem, match="no state variable"):
        lif(start={"w": 1.0})
    with pytest.raises(Problem, match="unstable: dt=30, tau_m=20"), Net(30.0):
        Group(1, "constantcurrentlif")
    with pytest.raises(Problem, match="not positive"), Net():
        Group(1, lif(tau=-1.0))
    with pytest.raises(Problem, match="plif needs tau above 1"), Net():
        Group(1, MODELS["plif"](tau=0.5))


def test_circuits_with_reference_solutions() -> None:
    _, spikes, expected = circuits.lif_trains(tau=5.0, count=40, duration=100)
    assert torch.equal(spikes, expected)
    assert not spikes[:, 0].any()
    assert spikes[:, -1].mean() > 0.5
    izhikevich = circuits.izhikevich(duration=200)
    assert izhikevich["late_ms"] <= 0.25
    assert izhikevich["adaptation"] > 1
    hh = circuits.hodgkin_huxley(duration=25)
    assert hh["peak_mv"] == pytest.approx(100, abs=12)


# -- custom models -------------------------------------------------------------------------------------


def test_a_function_and_equations_give_the_same_as_the_built_in_model() -> None:
    def plain(s: Any, current: Tensor, p: Any, dt: float) -> Any:
        u = math.exp(-dt / p.tau) * s["v"] + current
        spikes = p.fire(u - p.v_th)
        return {"v": u * (1 - spikes)}, spikes

    current = probe(30, 2, 3).abs()
    reference = driven(MODELS["lif"](tau=5.0), current)
    function = driven(custom(plain, {"v": 0.0}, tau=5.0, v_th=1.0), current)
    assert torch.allclose(function["v"], reference["v"], atol=1e-6)
    # (1 - a) R I of the exponential step is I for R = 1 / (1 - a).
    gain = 1 / (1 - math.exp(-1 / 5))
    text = from_text("dv/dt = (-v + R * I) / tau : 1", "v > 1", "v = 0", tau=5.0, R=gain)
    assert torch.allclose(driven(text, current)["v"], reference["v"], atol=1e-5)


def test_equations_choose_their_step() -> None:
    zero = torch.zeros(3, 1, 1)
    linear = from_text("dv/dt = (v_rest - v + I) / tau : mV", v_rest=-65.0, tau=10.0)
    found = driven(linear, zero, dt=2.0)["v"].flatten()
    assert found.tolist() == pytest.approx([-65 * (1 - math.exp(-0.2 * n)) for n in (1, 2, 3)], rel=1e-5)
    euler = driven(from_text("dv/dt = -v / 10 + 1", method="euler"), zero)["v"].flatten()
    assert euler.tolist() == pytest.approx([1, 1.9, 2.71], rel=1e-6)
    square = driven(from_text("dv/dt = 1 - v**2"), zero, dt=0.1)["v"].flatten()
    assert square[:2].tolist() == pytest.approx([0.1, 0.1 + 0.1 * (1 - 0.01)], rel=1e-5)
    constant = driven(from_text("dv/dt = 0 * v + 2"), zero, dt=0.5)["v"].flatten()
    assert constant.tolist() == pytest.approx([1, 2, 3])


def test_equations_in_two_variables_make_an_izhikevich_neuron() -> None:
    text = from_text(
        "rise = (0.04 * v + 5) * v + 140\ndv/dt = rise - u + I : mV\ndu/dt = a * (b * v - u) : mV",
        "v > 30", "v = -65; u = u + 8", "euler", start={"v": -65.0, "u": 1.0}, a=0.02, b=0.2,
    )  # fmt: skip
    current = torch.full((400, 1, 1), 10.0)
    ours, built_in = driven(text, current, 0.25), driven("izh", current, 0.25)
    assert torch.allclose(ours["v"][:20], built_in["v"][:20], atol=1e-3)
    assert torch.equal(ours["spike"], built_in["spike"])
    assert ours["spike"].sum() > 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"equations": "dv/dt = w"}, "'w' has no value"),
        ({"equations": "v = 1"}, "no differential equation"),
        ({"equations": "dv/dt"}, "not an equation"),
        ({"equations": "dv/dt = open('x')"}, "cannot read"),
        ({"equations": "dv/dt = v.real"}, "cannot read"),
        ({"equations": "dv/dt = 1 +"}, "not an expression"),
        ({"equations": "dv/dt = v**2", "method": "exp_euler"}, "not linear"),
        ({"equations": "dv/dt = 1", "threshold": "v"}, "not a comparison"),
        ({"equations": "dv/dt = 1", "threshold": "v > 1", "reset": "w = 0"}, "not a reset"),
    ],
)
def test_bad_equations(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Problem, match=complaint):
        from_text(**words)


# -- encoders, generators, decoders -------------------------------------------------------------------


def test_encoders() -> None:
    x, generator = torch.tensor([[0.0, 0.25, 1.0]]), torch.Generator().manual_seed(0)
    many = Poisson(0.5)(x, 4000, 1.0, generator).mean(0)[0]
    assert many.tolist() == pytest.approx([0, 0.125, 0.5], abs=0.03)
    assert Poisson(0.5)(x, 4000, 0.5, generator).mean(0)[0, 2] == pytest.approx(0.25, abs=0.03)
    assert Bernoulli(0.5)(4 * x, 4000, 1.0, generator).mean(0)[0].tolist() == pytest.approx([0, 0.125, 0.5], abs=0.03)
    assert Latency()(x, 11, 1.0, None).argmax(0)[0].tolist() == [10, 7, 0]
    assert Latency(cut_off=True)(x, 11, 1.0, None).sum(0)[0].tolist() == [0, 1, 1]
    assert RelativeLatency(2.0)(x, 11, 1.0, None).argmax(0)[0].tolist() == [10, 6, 1]
    assert Periodic()(x, 100, 1.0, None).sum(0)[0].tolist() == [0, 30, 100]
    times = torch.tensor([[0.0, 2.6, -1.0]])
    assert SpikeTime()(times, 4, 1.0, None).nonzero().tolist() == [[0, 0, 0], [2, 0, 1]]
    several = torch.tensor([[[0.0, 2.0], [1.0, -1.0]]])
    assert SpikeTimes()(several, 3, 1.0, None)[:, 0].tolist() == [[1, 0], [0, 1], [1, 0]]
    with pytest.raises(Problem, match=r"negative input \(-1\) to Poisson"):
        Poisson()(torch.tensor([[-1.0]]), 2, 1.0, None)


def test_given_spikes_come_batch_first_or_time_first() -> None:
    spikes = (probe(7, 2, 3) > 0).float()
    records = []
    for encode, x in (("spikes", spikes), ("null", spikes.transpose(0, 1))):
        with Net() as net:
            a = Input(3, encode)
            g = Group(3, "lif")
            _ = a >> g
            net.record(g, "v")
        module = compile_net(net)
        module(x)
        records.append(module.trace["g.v"])
    assert torch.equal(*records)


def test_generators_drive_a_network_without_data() -> None:
    for generate, wanted in ((Constant(2.0), [2, 2, 2]), (Ramp(0, 2), [0, 1, 2]), (Sine(3.0, 4.0), [0, 3, 0])):
        with Net() as net:
            source = Source((2,), generate)
            g = Group(2, "nonspikingifb")
            _ = source >> OneToOne(init=1.0) >> g
            net.record(g, "current")
        module = compile_net(net)
        assert module(steps=3, batch=4) is None
        assert module.trace["g.current"].shape == (3, 4, 2)
        assert module.trace["g.current"][:, 0, 0].tolist() == pytest.approx(wanted, abs=1e-6)
    noise = PoissonNoise(2.0)((1, 1), 5000, 1.0, torch.zeros(()), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.2, abs=0.02)


def test_decoders_by_hand() -> None:
    spikes = torch.tensor([[0.0, 1, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])[:, None]
    assert first_times(spikes).tolist() == [[2, 0, 4, 0]]
    assert Readout("spike_counts")(spikes).tolist() == [[1, 3, 0, 1]]
    assert Readout("spike_counts", pop_size=2, bias=1.0, scale=10.0)(spikes).tolist() == [[30, 15]]
    assert Readout("spike_rate")(spikes).tolist() == [[0.25, 0.75, 0, 0.25]]
    assert Readout("first_spike")(spikes).tolist() == [[0.5, 1, 0, 1]]
    weighted = 0.1 * math.exp(-2 / 2)
    assert Readout("time_spike_counts")(spikes)[0, 0].item() == pytest.approx(weighted)
    assert Readout("time_softmax")(spikes).sum().item() == pytest.approx(4)
    assert Readout("null")(spikes).shape == (4, 1, 4)
    assert Readout("final_step_voltage")(spikes).tolist() == [[0, 0, 0, 0]]
    assert Readout("voltage_sum")(spikes).tolist() == [[1, 3, 0, 1]]
    generator = torch.Generator().manual_seed(0)
    chosen = {kind: Readout(kind, action=True)(spikes, generator).item() for kind in ACTIONS}
    assert {chosen[k] for k in ("pop_rate", "highest_spikes", "first_spike")} == {1}
    assert all(0 <= action < 4 for action in chosen.values())
    with pytest.raises(Problem, match="unknown read-out 'spike_count'"):
        Readout("spike_count")


# -- the front end --------------------------------------------------------------------------------------


def test_shapes_are_checked_as_projections_are_built() -> None:
    with Net():
        x, h = Input((1, 8, 8)), Group((4, 3, 3))
        assert (x >> Conv(3) >> MaxPool() >> h) is h
        with pytest.raises(Problem, match=r"\(4, 6, 6\) arrives, .* is \(4, 3, 3\)"):
            _ = x >> Conv(3) >> h
        with pytest.raises(Problem, match="2 connections in one chain"):
            _ = x >> Conv(3) >> Full() >> h
        with pytest.raises(Problem, match="shapes do not match"):
            _ = x >> h
        with pytest.raises(Problem, match="a convolution of shape"):
            _ = Input(4) >> Conv(3) >> h
        with pytest.raises(Problem, match=r"a delay of 0\.5 ms is below dt = 1 ms"):
            _ = x >> Full(delay=0.5) >> h
        with pytest.raises(Problem, match="has one delay for all"):
            _ = x >> Conv(3, delay=Uniform(1, 2)) >> MaxPool() >> h
        with pytest.raises(Problem, match="a population cannot have shape"):
            Group(0)
        assert (h >> ConvTranspose(2, 2, maps=2) >> AvgPool(3, 3) >> BatchNorm() >> Group((2, 2, 2))).shape == (2, 2, 2)
    with pytest.raises(Problem, match="outside a network"):
        Group(3)


def test_bad_networks_and_calls() -> None:
    with Net() as net:
        x = Input(3, "current")
        g = Group(2)
        _ = x >> Full() >> g
    with pytest.raises(Problem, match="no read-out"):
        compile_net(net)
    with pytest.raises(Problem, match="has no variable 'w'"):
        net.record(g, "w")
    g.read("spike_counts")
    module = compile_net(net)
    with pytest.raises(Problem, match="no data for the input x"):
        module(steps=3)
    with pytest.raises(Problem, match="None steps"):
        module(torch.ones(1, 3))
    with pytest.raises(Problem, match=r"data of shape \(1, 4\) for the input x of \(3,\)"):
        module(torch.ones(1, 4), steps=3)
    with pytest.raises(Problem, match="unknown encoder 'poison'"), Net():
        Input(3, "poison")
    with Net() as wrong:
        h = Group(2)
        _ = Input(3) >> Full(weight=torch.ones(3, 2)) >> h
        h.read("spike_counts")
    with pytest.raises(Problem, match="weights of shape"):
        compile_net(wrong)


def test_nodes_get_the_names_of_their_variables() -> None:
    with Net() as net:
        stimulus = Input(3)
        hidden = Group(2, name="cortex")
        _ = stimulus >> Full() >> hidden
    assert [node.name for node in net.nodes] == ["stimulus", "cortex"]
    assert str(net.projections[0]) == "stimulus >> Full >> cortex"
    assert "cortex" in net.summary()


def test_an_assembly_connects_its_members_by_label() -> None:
    with Net() as net:
        x = Input(2)
        exc, inh = Group(4, labels=["exc"]), Group(1, labels=["inh", "fast"])
        area = Assembly(exc, inh)
        _ = x >> Full() >> area
        _ = area.select(include=["exc"]) >> Full() >> area.select(exclude=["exc"])
    assert [str(p) for p in net.projections] == ["x >> Full >> exc", "x >> Full >> inh", "exc >> Full >> inh"]
    with pytest.raises(Problem, match="no member has such labels"):
        area.select(include=["slow"])


def test_positions_shape_the_weights_that_depend_on_distance() -> None:
    from repertory.papers.spaic import ContinuousLocal, DistanceDependent

    with Net() as net:
        g = Group(10, "cann_field")
        _ = g >> ContinuousLocal(2.0, 0.1) >> g
        _ = g >> DistanceDependent(a=0.3, b=0.2) >> g
        g.read("null")
    ring, line = (p.detach() for p in compile_net(net, latency=1).projections.parameters())
    assert positions(g).flatten().tolist() == pytest.approx([0.05 + 0.1 * n for n in range(10)])
    assert torch.allclose(ring[0, 1], ring[0, 9])  # around the ring
    assert ring[0].sum().item() / 10 == pytest.approx(2.0, rel=1e-3)
    assert line[0, 0].item() == pytest.approx(0.3)
    assert line[0, 3].item() == pytest.approx(0.3 * math.exp(-(0.3**2) / (2 * 0.2**2)), rel=1e-4)


def test_json_round_trip() -> None:
    with Net(0.5) as net:
        x = Input((1, 6, 6), Poisson(0.7))
        noise = Source(5, Sine(2.0))
        h = Group((2, 4, 4), MODELS["clif"](tau_p=10.0), labels=["exc"])
        o = Group(5, from_text("dv/dt = (I - v) / tau", "v > 1", "v = 0", tau=torch.arange(1.0, 6.0)))
        _ = (
            x
            >> Conv(3, init=0.5, bias=True)
            >> h
            >> Dropout(0.2)
            >> Full(init=0.5, delay=Uniform(1, 3), train_delay=True)
            >> o
        )
        _ = o >> Lateral(delay=1.0) >> o
        _ = h >> Null() >> o
        _ = noise >> OneToOne(rule=RULES["rstdp"](batch_rule="sum")) >> o
        _ = o >> Sparse(0.5, delay=torch.full((5, 5), 2.0)) >> o
        o.read("spike_counts", scale=2.0)
        net.record(h, "v")
        net.reward(o, "da")
    words = json.loads(json.dumps(to_json(net)))
    again = from_json(words)
    assert to_json(again) == to_json(net)
    first, second = compile_net(net).eval(), compile_net(again).eval()
    second.load_state_dict(first.state_dict())
    image = probe(2, 1, 6, 6).abs()
    answers = [m(image, 20, generator=torch.Generator().manual_seed(0)) for m in (first, second)]
    assert torch.equal(*answers)
    assert answers[0].any()
    with pytest.raises(Problem, match="not the description of a network"):
        from_json({"dt": 1.0, "nodes": [{"kind": "Group"}]})
    with Net() as own:
        Group(1, custom(lambda s, current, p, dt: (s, current), {"v": 0.0}))
    with pytest.raises(Problem, match="is a Python function"):
        to_json(own)
