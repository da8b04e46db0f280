"""SPAIC at run time: agreement of all ways of computation, delays, gradients, plasticity, carried state, NIR."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.nn.spiking import Stca
from repertory.papers.spaic import (
    RULES,
    AvgPool,
    BackpropRSTDP,
    BatchNorm,
    Conv,
    Dropout,
    Electrical,
    FirstOrder,
    Flatten,
    Full,
    FullSTDP,
    Group,
    Input,
    Lateral,
    NearestSTDP,
    Net,
    Null,
    OneToOne,
    Poisson,
    Random,
    RateToSpikes,
    Scale,
    SecondOrder,
    Source,
    Sparse,
    SpikesToRate,
    SumPool,
    Tempotron,
    Uniform,
    compile_net,
    from_nir,
    from_text,
    graph_picture,
    pictures,
    race,
    to_nir,
)
from repertory.papers.spaic.describe.neurons import MODELS
from repertory.papers.spaic.run import events
from tests.fidelity.fill import probe

FLAT = ("if", "lif", "plif", "clif", "pclif", "aclif", "lifm", "izh", "glif")


def spikes(*shape: int) -> Tensor:
    return (probe(*shape) > 0.2).float()


def weight_of(module: nn.Module, number: int = 0) -> Any:
    """Weights of a projection."""
    return module.get_parameter(f"projections.{number}.weight")


def trained(module: nn.Module, x: Tensor, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and gradients of its sum of squares."""
    module.zero_grad()
    y = module(x, **options)
    y.square().sum().backward()
    return y.detach(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def deep(model: Any, **options: Any) -> Net:
    with Net(0.5) as net:
        x = Input(6)
        a, b = Group(8, model), Group(4, model)
        _ = x >> Full(init=("normal", 0.3, 0.3), bias=True) >> a >> Full(init=("normal", 0.3, 0.3), **options) >> b
        _ = x >> Full(init=("normal", 0.1, 0.3)) >> FirstOrder(3.0) >> b
        b.read("spike_counts")
        net.record(a, "v", "spike")
    return net


# -- ways of computation -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", FLAT)
@pytest.mark.parametrize("latency", [0, 1])
def test_layerwise_equals_stepwise(model: str, latency: Any) -> None:
    net, x = deep(model, delay=Uniform(0.5, 2.0)), 5 * spikes(15, 3, 6)
    torch.manual_seed(0)
    layers = compile_net(net, "layerwise", Stca(), latency)
    steps = compile_net(net, "step", Stca(), latency)
    steps.load_state_dict(layers.state_dict())
    (y, grads), (z, others) = trained(layers, x), trained(steps, x)
    assert torch.allclose(y, z)
    assert torch.allclose(layers.trace["a.v"], steps.trace["a.v"], atol=1e-4, rtol=1e-4)
    assert set(grads) == set(others)
    for name, grad in grads.items():
        assert torch.allclose(grad, others[name], rtol=1e-3, atol=1e-3 * float(grad.abs().max()) + 1e-6), name


def test_the_gradient_of_the_lif_scan_is_that_of_the_unrolled_graph() -> None:
    def unrolled(s: Any, current: Tensor, p: Any, dt: float) -> Any:
        u = math.exp(-dt / 8.0) * s["v"] + current
        fired = p.fire(u - 1.0)
        return {"v": u * (1 - fired) - 0.3 * fired}, fired

    from repertory.papers.spaic import custom

    x = 2 * spikes(30, 4, 6)
    results = []
    for model in (MODELS["lif"](v_reset=-0.3), custom(unrolled, {"v": 0.0})):
        torch.manual_seed(0)
        results.append(trained(compile_net(deep(model), surrogate=Stca()), x))
    (y, grads), (z, others) = results
    assert torch.equal(y, z)
    for name, grad in grads.items():
        assert torch.allclose(grad, others[name], rtol=1e-3, atol=1e-4), name
    assert all(grad.abs().sum() > 0 for grad in grads.values())


def test_a_constant_input_is_multiplied_once() -> None:
    torch.manual_seed(0)
    with Net() as net:
        x = Input(6, "current")
        g = Group(5, "lif")
        _ = x >> Full(init=0.2) >> Dropout(0.5) >> g
        net.record(g, "current")
    module = compile_net(net)
    module.eval()(probe(3, 6), steps=10)
    assert module.trace["g.current"].stride(0) == 0
    module.train()(probe(3, 6), steps=10)
    assert module.trace["g.current"].stride(0) != 0, "dropout is anew at every step"


def reservoir(size: int = 60, **options: Any) -> Net:
    with Net() as net:
        x = Input(4)
        r = Group(size, "lif")
        _ = x >> Full(init=("uniform", 0.0, 0.6)) >> r
        _ = r >> Sparse(0.1, init=("normal", 0.05, 0.3), delay=Uniform(1, 5), **options) >> r
        r.read("spike_counts")
        net.record(r, "v", "spike", "current")
    return net


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("latency", [0, 1])
def test_events_equal_matrices(batch: int, latency: Any) -> None:
    torch.manual_seed(0)
    module, x = compile_net(reservoir(), latency=latency).eval(), spikes(50, batch, 4)
    plan = module.plans[False]
    assert [stage.stepwise for stage in plan] == [True]
    assert float((module.projections[1].mask != 0).float().mean()) == pytest.approx(0.1, abs=0.02)  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]
    slow = module(x)
    with torch.no_grad():
        assert events.applies(plan[0], module._call(x, None, 1, None, False))
    recorded = dict(module.trace)
    with torch.no_grad():
        assert torch.equal(module(x), slow)
    assert slow.sum() > 20 * batch
    for name, value in module.trace.items():
        assert torch.allclose(value, recorded[name], atol=1e-5), name


@pytest.mark.parametrize("model", ["li", from_text("dv/dt = (I - v) / 4")], ids=["li", "equations"])
def test_a_population_without_spikes_drives_others_by_its_potential(model: Any) -> None:
    with Net() as net:
        x = Input(3)
        a, b = Group(5, model), Group(5, "lif")
        _ = x >> Full(init=0.5) >> a >> Sparse(0.2, delay=2.0) >> b >> Sparse(0.2, init=0.5, delay=1.0) >> a
        net.record(a, "spike")
        net.record(b, "v")
    torch.manual_seed(0)
    module = compile_net(net).eval()
    module(spikes(20, 2, 3))
    by_matrices = dict(module.trace)
    with torch.no_grad():
        assert events.applies(module.plans[False][0], module._call(spikes(20, 2, 3), None, 1, None, False))
        module(spikes(20, 2, 3))
    assert all(torch.allclose(by_matrices[name], value, atol=1e-5) for name, value in module.trace.items())


def test_stages() -> None:
    with Net() as net:
        x = Input(3)
        a, b, c, d = (Group(3) for _ in range(4))
        _ = x >> a >> Full() >> b >> Full(delay=1.0) >> c >> Full() >> d
        _ = c >> Full() >> b
        d.read("spike_counts")
    plan = compile_net(net).plans[True]
    assert [(stage.groups, stage.stepwise) for stage in plan] == [([a], False), ([c, b], True), ([d], False)]
    with pytest.raises(Problem, match=r"c, b: a loop cannot be computed layer by layer"):
        compile_net(net, "layerwise")
    with Net() as loop:
        h = Group(3)
        _ = Input(3) >> h >> Full() >> h
        h.read("spike_counts")
    with pytest.raises(Problem, match="cycle h -> h needs latency 1 or a delay"):
        compile_net(loop)
    assert compile_net(loop, latency=1)(spikes(4, 1, 3)).shape == (1, 3)
    with pytest.raises(Problem, match="mode='fast'"):
        compile_net(loop, "fast")  # pyright: ignore[reportArgumentType]


def test_shapes_of_pictures_and_all_kinds_of_synapses() -> None:
    torch.manual_seed(0)
    with Net() as net:
        x = Input((2, 8, 8), Poisson())
        c = Group((3, 8, 8), "lif")
        p, q = Group((3, 4, 4), "lif"), Group((3, 2, 2), "lif")
        o = Group(7, "nonspikinglif")
        _ = x >> Conv(3, padding=1, init=0.2, bias=True) >> BatchNorm() >> c
        _ = c >> AvgPool() >> Scale(3.0) >> p >> SumPool() >> q >> Flatten() >> Full() >> SecondOrder() >> o
        _ = c >> Random(0.2) >> BatchNorm() >> o
        _ = c >> Null() >> o
        o.read("voltage_sum")
        net.record(c, "spike")
    x = probe(2, 2, 8, 8).abs()
    module = compile_net(net)
    out, grads = trained(module, x, steps=6)
    assert out.shape == (2, 7)
    assert set(grads) == {name for name, p in module.named_parameters() if p.numel()}
    module.eval()
    with torch.no_grad():
        answers = [
            m(x, 6, generator=torch.Generator().manual_seed(0))
            for m in (module, compile_net(net, "step").eval())
            if not m.load_state_dict(module.state_dict())[0]
        ]
    assert torch.allclose(*answers, atol=1e-5)
    assert module.trace["c.spike"].sum() > 0


def test_filters_and_their_gradients() -> None:
    cases: list[Any] = [
        (FirstOrder(2.0), lambda n: math.exp(-n / 2)),
        (SecondOrder(), lambda n: math.exp(-n / 9) - math.exp(-n / 2)),
    ]
    for op, wanted in cases:
        link = op.module((1,), (1,), 1.0)
        x = torch.zeros(6, 1, 1, dtype=torch.double)
        x[0] = 1
        y, _ = link.block(x, None)
        assert y.flatten().tolist() == pytest.approx([wanted(n) for n in range(6)])
        state, ticks = None, []
        for now in x:
            out, state = link.tick(now, state)
            ticks.append(out)
        assert torch.allclose(torch.stack(ticks), y)
        inputs = probe(5, 2, 1).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, link=link: link.block(z, None)[0], inputs)


def test_gap_junctions_synchronise_and_conserve_current() -> None:
    with Net() as net:
        a, b = Group(1, MODELS["li"](tau_m=1e9)), Group(1, MODELS["li"](tau_m=1e9))
        _ = Source(1, "constant_current") >> OneToOne(init=1.0) >> a
        _ = a >> Electrical(init=0.1) >> b
        net.record(a, "v")
        net.record(b, "v")
    module = compile_net(net)
    module(steps=40)
    va, vb = (module.trace[f"{name}.v"].flatten() for name in "ab")
    assert torch.allclose(va + vb, torch.arange(1.0, 41.0), rtol=1e-4)
    assert (va - vb)[-1].item() == pytest.approx(5.0, rel=1e-2)  # 1 = 2 w (Va - Vb)
    with pytest.raises(Problem, match="a gap junction connects two groups"), Net():
        _ = Input(1) >> Electrical() >> Group(1)


def test_spikes_to_rate_and_back() -> None:
    with Net() as net:
        x = Input(10)
        m, s = Group(2, "meanfield"), Group(500, "if")
        _ = x >> SpikesToRate() >> m >> RateToSpikes(init=2.0, trainable=False) >> s
        net.record(m, "current")
        s.read("spike_rate")
    torch.manual_seed(0)
    x = torch.zeros(40, 1, 10)
    x[..., :5] = 1
    module = compile_net(net)
    rate = module(x)
    assert (module.trace["m.current"] == 0.5).all()
    assert rate.mean().item() == pytest.approx(0.05, abs=0.01)  # rho = 0.1


# -- delays -------------------------------------------------------------------------------------------


def test_a_delay_costs_one_product_and_delivers_on_time() -> None:
    delay = torch.tensor([[1.0, 2.9], [3.0, 1.0]])
    with Net(0.1) as net:
        x = Input(2)
        g = Group(2, "nonspikingifb")
        _ = x >> Full(weight=torch.tensor([[1.0, 10.0], [100.0, 1000.0]]), delay=delay) >> g
        net.record(g, "current")
    x = torch.zeros(40, 1, 2)
    x[0] = 1
    for mode in ("layerwise", "step"):
        for latency in (0, 1):
            module = compile_net(net, mode, latency=latency)
            assert len(module.wires()[0].taps()) == 3
            module(x)
            arrivals = {
                (t - latency, i): v
                for (t, i), v in np.ndenumerate(module.trace["g.current"][:, 0].detach().numpy())
                if v
            }
            assert arrivals == {(10, 0): 1, (10, 1): 1000, (29, 0): 10, (30, 1): 100}


@pytest.mark.parametrize("mode", ["layerwise", "step"])
def test_a_trained_delay_learns(mode: Any) -> None:
    """One synapse whose target arrives later: training finds the delay."""
    with Net() as net:
        x = Input(1)
        g = Group(1, "li")
        w = Full(init=1.0, delay=2.0, train_delay=True, trainable=False)
        _ = x >> w >> g
        g.read("v_t")
    module = compile_net(net, mode)
    x = torch.zeros(20, 1, 1)
    x[2] = 1
    with torch.no_grad():
        delay: Any = module.projections[0].delay
        delay.fill_(6.0)
        target = module(x).clone()
        delay.fill_(3.5)
    optimizer = torch.optim.Adam([delay], lr=0.2)
    for _ in range(80):
        optimizer.zero_grad()
        F.mse_loss(module(x), target).backward()
        optimizer.step()
    assert delay.item() == pytest.approx(6, abs=0.3)


def test_a_half_step_delay_is_half_of_each_neighbour() -> None:
    with Net() as net:
        x = Input(1)
        g = Group(1, "nonspikingifb")
        _ = x >> Full(init=1.0, delay=2.25, train_delay=True) >> g
        net.record(g, "current")
    x = torch.zeros(5, 1, 1)
    x[0] = 1
    module = compile_net(net)
    module(x)
    assert module.trace["g.current"].flatten().tolist() == pytest.approx([0, 0, 0.75, 0.25, 0])


# -- carried state, copies, precision, vmap, jit -----------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "step"])
@pytest.mark.parametrize("latency", [0, 1])
def test_carried_runs_equal_one_run(mode: Any, latency: Any) -> None:
    net, x = deep("lif", delay=Uniform(0.5, 3)), 2 * spikes(20, 2, 6)
    torch.manual_seed(0)
    module = compile_net(net, mode, latency=latency)
    whole = module(x)
    v = module.trace["a.v"]
    parts = [module(x[:7], carry=True), module(x[7:9], carry=True), module(x[9:], carry=True)]
    assert torch.allclose(sum(parts, torch.zeros(())), whole)
    assert torch.allclose(module.trace["a.v"], v[9:], atol=1e-6)
    parts[-1].sum().backward()  # the graph ends at the last call
    with pytest.raises(Problem, match="a batch of 1 after one of 2"):
        module(x[:, :1], carry=True)
    module.reset()
    assert torch.equal(module(x), whole)


def test_carried_loops_equal_one_run() -> None:
    torch.manual_seed(0)
    module, x = compile_net(reservoir()).eval(), spikes(30, 2, 4)
    with torch.no_grad():
        whole = module(x)
        parts = module(x[:11], carry=True) + module(x[11:], carry=True)
    assert torch.equal(whole, parts)


def test_copies_and_half_precision() -> None:
    torch.manual_seed(0)
    module, x = compile_net(deep("lif")), 2 * spikes(10, 3, 6)
    y = module(x)
    twin = copy.deepcopy(module)
    assert twin.trace == {}
    assert torch.equal(twin(x), y)
    half = twin.to(torch.bfloat16)(x)
    assert half.dtype == torch.bfloat16
    half.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("net", [deep("lif", delay=Uniform(0.5, 2)), deep("clif")], ids=["lif", "clif"])
def test_an_ensemble_by_vmap_equals_its_members(net: Net) -> None:
    torch.manual_seed(0)
    members, x = [compile_net(net, surrogate=Stca()) for _ in range(3)], 2 * spikes(8, 2, 6)
    delay = members[0].state_dict().get("projections.1.delay")
    for member in members:  # delays make the graph: they are shared
        if delay is not None:
            member.projections[1].delay.copy_(delay)  # pyright: ignore[reportCallIssue]
    stacked, _ = torch.func.stack_module_state(members)  # pyright: ignore[reportArgumentType]

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(members[0], parameters, (x,)).square().sum()

    losses, grads = torch.vmap(lambda p: (loss(p), torch.func.grad(loss)(p)))(stacked)
    for n, member in enumerate(members):
        y, alone = trained(member, x)
        assert losses[n].item() == pytest.approx(y.square().sum().item())
        for name, grad in alone.items():
            assert torch.allclose(grads[name][n], grad, rtol=1e-4, atol=1e-5), name


def test_a_step_that_torch_cannot_compile_is_run_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    torch.manual_seed(0)
    net, x = deep("lif"), spikes(5, 1, 6)
    module = compile_net(net, "step", jit=True)
    with pytest.warns(UserWarning, match="Python runs the step: no compiler here"):
        y = module(x)
    assert torch.equal(module(x), y)


# -- plasticity ---------------------------------------------------------------------------------------


def plastic(rule: Any, model: Any = "lif", size: tuple[int, int] = (4, 3), **options: Any) -> Any:
    with Net() as net:
        x = Input(size[0])
        g = Group(size[1], model)
        w = Full(init=("uniform", 0.3, 0.9), rule=rule)
        _ = x >> w >> g
        g.read("spike_counts")
        net.record(g, "spike")
        net.record(w, "weight")
        if options:
            net.reward(g, options["reward"])
    torch.manual_seed(0)
    return compile_net(net)


def test_nearest_stdp_equals_loops() -> None:
    module, x = plastic(NearestSTDP(a_post=0.1, a_pre=0.05, w_norm=2.0)), spikes(20, 1, 4)
    w = weight_of(module).detach().clone().numpy()
    module(x)
    post, d = module.trace["g.spike"][:, 0].numpy(), math.exp(-1 / 20)
    a, b = np.zeros(4), np.zeros(3)
    for pre_t, post_t, seen in zip(x[:, 0].numpy(), post, module.trace["x >> Full >> g.weight"].numpy(), strict=True):
        a, b = d * a * (1 - pre_t) + pre_t, d * b * (1 - post_t) + post_t
        w = w + 0.1 * np.outer(post_t, a) - 0.05 * np.outer(b, pre_t)
        w = np.clip(w * (2.0 / np.abs(w).sum(1, keepdims=True)), 0, 1)
        assert seen == pytest.approx(w, abs=1e-5)
    assert weight_of(module).detach().numpy() == pytest.approx(w, abs=1e-5)
    before = weight_of(module).clone()
    module.eval()(x)
    assert torch.equal(weight_of(module), before), "nothing is learned in evaluation mode"


def test_full_stdp_sums_traces_and_rescales_at_the_end() -> None:
    module, x = plastic(FullSTDP(w_norm=1.5)), torch.ones(6, 1, 4)
    module(x)
    seen = module.trace["x >> Full >> g.weight"]
    assert not torch.allclose(seen[-1].sum(1), torch.full((3,), 1.5))
    assert torch.allclose(weight_of(module).sum(1), torch.full((3,), 1.5))


def test_batch_rules() -> None:
    x = spikes(12, 3, 4)
    results = {}
    for batch_rule in ("mean", "sum", "own"):
        module = plastic(NearestSTDP(a_post=1e-3, a_pre=1e-3, w_norm=None, batch_rule=batch_rule))
        start = weight_of(module).detach().clone()
        module(x)
        results[batch_rule] = weight_of(module).detach() - start
        if batch_rule == "own":
            own = module.own_weights["x >> Full >> g"]
            assert own.shape == (3, 3, 4)
            assert torch.equal(weight_of(module), start)
            for n in range(3):
                alone = plastic(NearestSTDP(a_post=1e-3, a_pre=1e-3, w_norm=None))
                alone(x[:, n : n + 1])
                assert torch.allclose(own[n], weight_of(alone), atol=1e-6)
    assert torch.allclose(results["sum"], 3 * results["mean"], rtol=0.1, atol=1e-4)
    with pytest.raises(Problem, match="NearestSTDP with a batch of 3"):
        plastic(NearestSTDP())(x)


@pytest.mark.parametrize("name", ["rstdp", "rstdpet"])
def test_the_sign_of_the_reward_is_that_of_the_change(name: str) -> None:
    x, changes = spikes(15, 1, 4), {}
    for reward in (1.0, -1.0, 0.0):
        module = plastic(RULES[name](lr=1e-3, low=None, high=None))  # pyright: ignore[reportCallIssue]
        start = weight_of(module).detach().clone()
        module(x, reward=reward)
        changes[reward] = weight_of(module).detach() - start
    assert not changes[0.0].any()
    assert changes[1.0].abs().sum() > 0
    assert torch.allclose(changes[1.0], -changes[-1.0], atol=1e-4)
    with pytest.raises(Problem, match="without a reward"):
        plastic(RULES[name]())(x)


def test_r_stdp_with_rewards_per_sample_equals_loops() -> None:
    module, x = plastic(RULES["rstdp"](lr=0.01, low=None, high=None, batch_rule="sum")), spikes(10, 2, 4)
    w = weight_of(module).detach().clone().numpy()
    reward = probe(10, 2)
    module(x, reward=reward)
    post, d = module.trace["g.spike"].numpy(), math.exp(-1 / 20)
    plus, minus = np.zeros((2, 4)), np.zeros((2, 3))
    for t in range(10):
        plus, minus = d * plus + x[t].numpy(), d * minus - post[t]
        for b in range(2):
            w = w + 0.01 * reward[t, b].item() * (np.outer(post[t, b], plus[b]) + np.outer(minus[b], x[t, b].numpy()))
    assert weight_of(module).detach().numpy() == pytest.approx(w, abs=1e-5)


def test_rewards_from_labels_and_from_an_environment() -> None:
    from repertory.papers.spaic.describe.rules import reward_of

    scores, labels = torch.tensor([[3.0, 1.0], [0.0, 0.0], [1.0, 2.0]]), torch.tensor([0, 0, 0])
    assert reward_of("global", scores, labels).tolist() == [1, -1, -1]
    assert reward_of("da", scores, labels).tolist() == [1, 0, 0]
    assert reward_of("classify", scores, labels).tolist() == [2, 0, -1]
    assert reward_of("xor", scores, torch.tensor([1, 0, 0])).tolist() == [1, 1, -1]
    module = plastic(RULES["rstdp"](batch_rule="mean"), reward="global")
    start = weight_of(module).detach().clone()
    module(spikes(10, 2, 4), labels=torch.tensor([0, 1]))
    assert not torch.equal(weight_of(module), start)
    asked = []

    def environment(t: int, scores: Tensor) -> Tensor:
        asked.append((t, scores.shape))
        return torch.ones(2)

    module(spikes(4, 2, 4), reward=environment)
    assert asked == [(t, (2, 3)) for t in range(4)]


def test_reward_selects_the_stimulus_that_a_neuron_answers() -> None:
    """Two stimuli, one neuron that answers both: reward for the first, punishment for the second."""
    module = plastic(RULES["rstdp"](lr=0.01, a_minus=0.0, batch_rule="mean"), size=(8, 1))
    x = torch.zeros(10, 2, 8)
    x[:, 0, :4], x[:, 1, 4:] = 1, 1
    assert (module.eval()(x) > 0).tolist() == [[True], [True]]
    module.train()
    for _ in range(40):
        module(x, reward=torch.tensor([1.0, -1.0]))
    assert (module.eval()(x) > 0).tolist() == [[True], [False]]


def test_a_kernel_learns_by_the_sum_over_all_places() -> None:
    for name, options in (("conv_stdp", {}), ("conv_rstdp", {"reward": 1.0})):
        with Net() as net:
            x = Input((2, 5, 5))
            g = Group((3, 4, 4), "lif")
            _ = x >> Conv(2, init=0.3, rule=RULES[name](low=None, high=None)) >> g
            net.record(g, "spike")
        module = compile_net(net)
        start = weight_of(module).detach().clone()
        module(spikes(1, 1, 2, 5, 5), **options)
        change = weight_of(module).detach() - start
        fired, x0 = module.trace["g.spike"][0, 0], spikes(1, 1, 2, 5, 5)[0, 0]
        both = torch.stack(
            [
                (fired[o] * x0[c, i : i + 4, j : j + 4]).sum()
                for o in range(3)
                for c in range(2)
                for i in (0, 1)
                for j in (0, 1)
            ]
        )
        factor = 1e-2 - 1e-4 if name == "conv_stdp" else 0.0
        assert change.flatten().tolist() == pytest.approx((factor * both).tolist(), abs=1e-5)


def test_rate_modulation_brings_the_rate_to_its_target() -> None:
    module = plastic(RULES["rate_modulation"](lr=0.05, target=0.1, tau=50.0))
    x = torch.ones(400, 1, 4)
    first = module(x).mean().item() / 400
    for _ in range(5):
        module(x)
    last = module.eval()(x).mean().item() / 400
    assert abs(last - 0.1) < abs(first - 0.1)
    assert last == pytest.approx(0.1, abs=0.1)


def test_a_tempotron_learns_two_patterns() -> None:
    module = plastic(Tempotron(lr=0.05, threshold=1.0), size=(12, 2))
    torch.manual_seed(1)
    x = (torch.rand(30, 4, 12) < 0.08).float()
    labels = torch.tensor([0, 1, 0, 1])
    rule = Tempotron()
    for _ in range(150):
        module(x, labels=labels)
    a = b = torch.zeros(4, 12)
    psp = []
    for now in x:
        a, b = math.exp(-1 / 20) * a + now, math.exp(-1 / 5) * b + now
        psp.append(a - b)
    peak = (torch.stack(psp) @ weight_of(module).mT).amax(0)
    assert ((peak >= 1.0) == F.one_hot(labels).bool()).all()
    assert rule.threshold == 10
    with pytest.raises(Problem, match="Tempotron without labels"):
        module(x)


def test_backpropagated_errors_train_two_layers() -> None:
    with Net() as net:
        x = Input(8)
        h, o = Group(30, "lif"), Group(2, "lif")
        _ = x >> Full(init=("normal", 0.2, 0.3), rule=BackpropRSTDP(lr=2e-3, batch_rule="mean")) >> h
        _ = h >> Full(init=("normal", 0.1, 0.1), rule=BackpropRSTDP(lr=2e-3, batch_rule="mean")) >> o
        o.read("spike_counts")
    torch.manual_seed(0)
    module, x = compile_net(net), torch.zeros(20, 4, 8)
    x[:, 0, :3], x[:, 1, 5:], x[:, 2, 1:4], x[:, 3, 4:7] = 1, 1, 1, 1
    labels = torch.tensor([0, 1, 0, 1])
    for _ in range(60):
        module(x, labels=labels)
    scores = module.eval()(x)
    assert scores.argmax(1).tolist() == labels.tolist()


def test_errors_do_not_go_around_a_loop() -> None:
    with Net() as net:
        x = Input(2)
        a, b, c = Group(2), Group(2), Group(2)
        _ = x >> Full(rule=BackpropRSTDP(batch_rule="mean")) >> a >> Full(delay=1.0) >> b >> Full(delay=1.0) >> a
        _ = b >> Full() >> c
        c.read("spike_counts")
    with pytest.raises(Problem, match="around the loop a -> b -> a"):
        compile_net(net)(torch.ones(3, 1, 2), labels=torch.tensor([0]))


def test_bounds_hold_before_each_run() -> None:
    with Net() as net:
        x = Input(3)
        g = Group(2)
        _ = x >> Full(init=5.0, w_min=-0.5, w_max=0.5) >> g
        _ = g >> Lateral(delay=1.0, trainable=False) >> g
        g.read("spike_counts")
    module = compile_net(net)
    module(torch.ones(2, 1, 3))
    assert weight_of(module).max() == 0.5
    assert weight_of(module, 1).tolist() == [[0, -1], [-1, 0]]
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["projections.0.weight"]


# -- NIR ------------------------------------------------------------------------------------------------


def test_nir_round_trip(tmp_path: Path) -> None:
    nir = pytest.importorskip("nir")
    with Net(0.5) as net:
        x = Input((2, 6, 6))
        c = Group((3, 4, 4), MODELS["lif"](tau_m=5.0, v_reset=-0.2))
        h, r = Group(5, "cubalif"), Group(5, MODELS["if"](v_th=1.5))
        o = Group(3, "li")
        _ = x >> Conv(3, bias=True, init=0.3) >> c >> SumPool() >> Flatten() >> Full(bias=True, delay=1.5) >> h
        _ = h >> OneToOne(init=0.8) >> r >> Full(delay=1.0) >> h
        _ = r >> Scale(2.0) >> r
        _ = r >> Full() >> o
        o.read("final_step_voltage")
    net.projections = [p for p in net.projections if p.source is not p.target]
    torch.manual_seed(0)
    module = compile_net(net).eval()
    nn.init.normal_(module.projections[0].bias, std=0.1)  # pyright: ignore[reportArgumentType]
    graph = to_nir(module, tmp_path / "net.nir")
    assert isinstance(graph, nir.NIRGraph)
    again = from_nir(tmp_path / "net.nir")
    assert again.dt == 0.5
    x = 3 * spikes(20, 2, 2, 6, 6)
    wanted, found = module(x), compile_net(again).eval()(x)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert wanted.abs().sum() > 0


def test_foreign_nir_graphs() -> None:
    nir = pytest.importorskip("nir")
    ones = np.ones(2)
    nodes = {
        "in": nir.Input({"input": np.array([3])}),
        "w": nir.Linear(np.arange(6.0).reshape(2, 3)),
        "n": nir.LIF(tau=10 * ones, r=np.array([1.0, 2.0]), v_leak=0.5 * ones, v_threshold=2 * ones),
        "t": nir.Threshold(0.5 * ones),
        "out": nir.Output({"output": np.array([2])}),
    }
    edges = [("in", "w"), ("w", "n"), ("n", "t"), ("t", "out")]
    graph = nir.NIRGraph(nodes, edges)
    with pytest.raises(Problem, match="the graph has no dt"):
        from_nir(graph)
    net = from_nir(graph, dt=1.0)
    net.record(net.groups[0], "v")
    module, x = compile_net(net), 3 * spikes(10, 1, 3)
    found = module(x)
    v, total = np.zeros(2), np.zeros(2)
    for now in x[:, 0].numpy():  # the exponential step of NIR's own equation
        v = v * math.exp(-0.1) + (1 - math.exp(-0.1)) * (0.5 + np.array([1.0, 2.0]) * (nodes["w"].weight @ now))
        fired = v > 2
        v, total = np.where(fired, 0.0, v), total + fired
    assert found[0].tolist() == total.tolist()
    assert total.sum() > 0
    bare = nir.NIRGraph({k: nodes[k] for k in ("in", "w", "out")}, [("in", "w"), ("w", "out")])
    summed = compile_net(from_nir(bare, dt=1.0))(x)
    assert torch.allclose(summed, (x @ torch.tensor(nodes["w"].weight.T).float()).sum(0))
    two = nir.NIRGraph({k: nodes[k] for k in ("in", "w", "out")} | {"v": nodes["w"]}, [
        ("in", "w"), ("w", "out"), ("in", "v"), ("v", "out"),
    ])  # fmt: skip
    assert torch.allclose(compile_net(from_nir(two, dt=1.0))(x), 2 * summed)
    straight = nir.NIRGraph({"in": nodes["in"], "out": nir.Output({"output": np.array([3])})}, [("in", "out")])
    assert torch.equal(compile_net(from_nir(straight, dt=1.0))(x), x.sum(0))
    extra = {"v": nir.Linear(np.eye(2)), "u": nir.Linear(np.eye(2))}
    loop = nir.NIRGraph(
        {k: nodes[k] for k in ("n", "t", "out")} | extra, [("v", "u"), ("u", "v"), ("u", "n"), *edges[2:]],
        type_check=False,
    )  # fmt: skip
    with pytest.raises(Problem, match="a loop without neurons through u"):
        from_nir(loop, dt=1.0)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (3, 2), (4, 2), (3, 3)])
def test_same_padding_of_nir_is_that_of_torch(kernel: int, dilation: int) -> None:
    nir = pytest.importorskip("nir")
    torch.manual_seed(0)
    weight, x = torch.randn(2, 1, kernel, kernel), torch.randn(1, 1, 1, 9, 9)
    net = from_nir(convolution(nir, weight, 1, dilation), dt=1.0)
    expected = torch.nn.functional.conv2d(x[0], weight, padding="same", dilation=dilation)
    torch.testing.assert_close(compile_net(net)(x).view_as(expected), expected)


def test_same_padding_that_does_not_exist_is_refused() -> None:
    nir = pytest.importorskip("nir")
    with pytest.raises(Problem, match="'same' needs unequal sides at dilation 3"):
        from_nir(convolution(nir, torch.zeros(1, 1, 4, 4), 1, 3), dt=1.0)
    with pytest.raises(Problem, match="'same' with stride 2"):
        from_nir(convolution(nir, torch.zeros(1, 1, 3, 3), 2, 1), dt=1.0)


def convolution(nir: Any, weight: torch.Tensor, stride: int, dilation: int) -> Any:
    side = -(-9 // stride)
    nodes = {
        "in": nir.Input({"input": np.array([1, 9, 9])}),
        "c": nir.Conv2d((9, 9), weight.numpy(), stride, "same", dilation, 1, np.zeros(len(weight))),
        "out": nir.Output({"output": np.array([len(weight), side, side])}),
    }
    return nir.NIRGraph(nodes, [("in", "c"), ("c", "out")], type_check=False)


def test_what_nir_has_no_node_for_is_named(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    with pytest.raises(Problem, match="no node for the model 'clif'") as caught:
        to_nir(deep("clif"))
    assert caught.value.where == "a"
    with pytest.raises(Problem, match="no node for FirstOrder"):
        to_nir(deep("lif"))
    (tmp_path / "x.nir").write_bytes(b"nothing")
    with pytest.raises(Problem, match="not a NIR file"):
        from_nir(tmp_path / "x.nir")


# -- pictures, speed ------------------------------------------------------------------------------------


def test_pictures() -> None:
    torch.manual_seed(0)
    net = reservoir(300)
    module = compile_net(net).eval()
    module(spikes(30, 2, 4))
    figures = [
        graph_picture(net),
        pictures.raster_picture({"r": module.trace["r.spike"]}),
        pictures.trace_picture(module.trace["r.v"], threshold=1.0),
        pictures.weight_picture(weight_of(module, 1)),  # pyright: ignore[reportArgumentType]
        pictures.weight_picture(torch.rand(12, 2 * 16), (2, 4, 4)),
        pictures.weight_picture(torch.rand(12, 2, 3, 3)),
        pictures.current_curve_picture(torch.rand(4), torch.rand(4), torch.rand(4)),
    ]
    assert all(figure.axes for figure in figures)
    assert "the first 200 of 300" in figures[1].axes[0].get_title(loc="left")


def test_contestants_of_the_race_compute_the_same() -> None:
    x, labels = race.spikes_and_labels(12)
    results = []
    for model in (race.ours(), race.Loop()):
        y = model(x)
        F.cross_entropy(y, labels).backward()
        results.append((y, [p.grad for p in model.parameters()]))
    (y, grads), (z, others) = results
    assert torch.allclose(y, z)
    assert y.any()
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(grads, others, strict=True))


@pytest.mark.parametrize("model", ["lif", "clif", "glif"])
def test_networks_export_with_other_batches_and_compile_whole(model: str) -> None:
    module, x = compile_net(deep(model)).eval(), 5 * spikes(4, 2, 6)
    more = torch.cat([x, x.flip(1), x], 1)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {1: torch.export.Dim("batch")}}, strict=False)
    run: Any = program.module()
    with torch.no_grad():
        torch.testing.assert_close(run(more), module(more))
        torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
    torch.compiler.reset()
