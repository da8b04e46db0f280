"""Latent attention: reference values, modules by hand, generators, experiments, use, and bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.settings import changed
from repertory.core.study import Session
from repertory.papers.latent_attention import (
    CMEAttention,
    MeanPool,
    NearestKey,
    SoftmaxAttention,
    draw_tokens,
    laboratory,
    linear_gaussian,
    log_posterior,
    masked_token,
    resultant_length,
    token_world,
)
from repertory.papers.latent_attention.arrays import read_file, sequence_files
from repertory.papers.latent_attention.digits import digit_images, position_keys, visible_pixels
from repertory.papers.latent_attention.generators import WORLDS, TokenSequences, masked_covariance
from repertory.papers.latent_attention.laboratory import condition_number, fitted_slope
from repertory.papers.latent_attention.settings import LatentAttentionConfig, LatentAttentionDesign
from repertory.papers.latent_attention.study import LatentAttentionStudy, ReadOut
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import probe

# -- fidelity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("latent_attention"))
def test_agrees_with_the_closed_forms(case: dict[str, Any]) -> None:
    config, model = case["config"], None
    if "pairs" in config:
        output = torch.tensor([resultant_length(int(d), kappa) for d, kappa in config["pairs"]])
    else:
        d, m, kappa = config["d"], config["m"], config["kappa"] or 1.0
        if "ridge" in config:
            kernel = "linear" if config["kernel"] == "linear" else "exponential"
            model = CMEAttention(d, m, kernel=kernel, kappa=kappa, ridge=config["ridge"])
        else:
            model = SoftmaxAttention(d, m, kappa=kappa)
        keys, values, query = (probe(*shape).double() for shape in case["input"])
        keys, query = (x / x.norm(dim=-1, keepdim=True) for x in (keys, query))
        output = model(query[None], keys, values)[0]
    assert_agrees(output, case, model)


# -- read-outs by hand --------------------------------------------------------------------------------


def sequence(length: int = 12, d: int = 4, m: int = 3, batch: tuple[int, ...] = (2,)) -> tuple[Tensor, Tensor, Tensor]:
    q, k = (F.normalize(probe(*batch, rows, d).double(), dim=-1) for rows in (2, length))
    return q, k, probe(*batch, length, m).double()


@pytest.mark.parametrize("kernel", ["linear", "exponential", "rbf", "features"])
def test_both_forms_and_the_weights_agree(kernel: Any) -> None:
    """With more tokens than features the p×p form is solved; the weights always come from the L×L form."""
    attention = CMEAttention(4, 3, kernel=kernel, ridge=0.3, features=8)
    for length in (3, 12):
        q, k, v = sequence(length)
        torch.testing.assert_close(attention(q, k, v), attention.weights(q, k) @ v)
        gram = attention.gram(k, k) + 0.3 * torch.eye(length)
        by_hand = attention.gram(q, k) @ torch.linalg.inv(gram) @ v
        torch.testing.assert_close(attention(q, k, v), by_hand)


def test_on_the_sphere_the_gaussian_kernel_is_the_exponential_one() -> None:
    q, k, v = sequence()
    rbf, exponential = (CMEAttention(4, 3, kernel=kernel) for kernel in ("rbf", "exponential"))
    torch.testing.assert_close(rbf(q, k, v), exponential(q, k, v))


def test_softmax_is_the_nadaraya_watson_estimator_on_the_sphere() -> None:
    q, k, v = sequence()
    near = (-(torch.cdist(q, k) ** 2)).exp()  # κ = 2
    torch.testing.assert_close(SoftmaxAttention(4, 3)(q, k, v), near / near.sum(-1, keepdim=True) @ v)
    rescaled = SoftmaxAttention(4, 3, rescaled=True)
    torch.testing.assert_close(rescaled(q, k, v), SoftmaxAttention(4, 3)(q, k, v) / resultant_length(4, 2.0))
    torch.testing.assert_close(rescaled(q, k, v), rescaled.weights(q, k) @ v)


def test_positive_features_estimate_the_exponential_kernel() -> None:
    q, k, _ = sequence()
    wide = CMEAttention(4, 3, kernel="features", features=20_000, kappa=0.5)  # the variance grows as exp(4 κ)
    assert (wide.gram(q, k) - CMEAttention(4, 3, kernel="exponential", kappa=0.5).gram(q, k)).abs().max() < 0.1
    assert (wide.gram(q, k) > 0).all()


def test_the_ridge_follows_its_schedule() -> None:
    attention = CMEAttention(4, 3, ridge=0.05, ridge_schedule=0.5)
    assert [attention.ridge(length) for length in (16, 64)] == pytest.approx([0.2, 0.4])
    q, k, v = sequence(16)
    torch.testing.assert_close(attention(q, k, v), CMEAttention(4, 3, ridge=0.2)(q, k, v))


def test_controls_by_hand() -> None:
    q, k, v = sequence()
    torch.testing.assert_close(MeanPool(4, 3)(q, k, v), v.mean(1, keepdim=True).expand(2, 2, 3))
    nearest = (q @ k.mT).argmax(-1)
    torch.testing.assert_close(NearestKey(4, 3)(q, k, v), v.gather(1, nearest[..., None].expand(2, 2, 3)))
    twice = torch.cat([k, k], 1), torch.cat([v, -v], 1)
    assert NearestKey(4, 3)(q, *twice).abs().max() < 1e-12  # equally near keys share the weight
    hard = SoftmaxAttention(4, 3, kappa=1e4)(q, k, v)
    torch.testing.assert_close(NearestKey(4, 3)(q, k, v), hard, atol=1e-3, rtol=0)


@pytest.mark.parametrize("module", [CMEAttention, SoftmaxAttention])
def test_heads_and_learned_maps(module: Any) -> None:
    q, k, v = sequence(batch=(2, 3))
    plain, learned = module(4, 3, heads=3), module(4, 3, heads=3, learned=True).double()
    torch.testing.assert_close(learned(q, k, v), plain(q, k, v))  # the maps start as the identity
    torch.testing.assert_close(plain(q, k[:, :1], v), plain(q, k[:, :1].expand_as(k), v))  # one factor for all heads
    with torch.no_grad():
        learned.W_v[1] = 0
    assert (learned(q, k, v)[:, 1] == 0).all()
    learned(q, k, v).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned.parameters())


@pytest.mark.parametrize("module", [CMEAttention(4, 3), CMEAttention(4, 3, kernel="linear"), SoftmaxAttention(4, 3)])
def test_compiles_exports_and_takes_an_empty_batch(module: torch.nn.Module) -> None:
    q, k, v = sequence()
    assert module(q[:0], k[:0], v[:0]).shape == (0, 2, 3)
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(q, k, v), module(q, k, v))
    size = torch.export.Dim("batch")
    exported = torch.export.export(module, (q, k, v), dynamic_shapes=({0: size}, {0: size}, {0: size})).module()
    more = sequence(batch=(5,))
    torch.testing.assert_close(exported(*more), module(*more))


def test_a_ridge_too_small_for_float32_is_solved_in_float64() -> None:
    q, k, v = (x.float() for x in sequence())
    attention = CMEAttention(4, 3, ridge=1e-9)
    with pytest.warns(UserWarning, match="float64"):
        out = attention(q, k, v)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), attention(q.double(), k.double(), v.double()), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: CMEAttention(4, 3, ridge=0.0), "ridge=0.0"),
        (lambda: CMEAttention(4, 3, ridge=float("nan")), "ridge=nan"),
        (lambda: CMEAttention(4, 3, kernel="rbff"), "did you mean rbf"),  # pyright: ignore[reportArgumentType]
        (lambda: SoftmaxAttention(4, 3, kappa=-1), "kappa=-1"),
        (lambda: SoftmaxAttention(4, 3, rescaled=True, learned=True), "learned=True"),
        (lambda: SoftmaxAttention(4, 3, rescaled=True)(*(2 * x for x in sequence())), "differs from 1 by 1"),
        (lambda: MeanPool(4, 3)(torch.ones(1, 5), torch.ones(2, 4), torch.ones(2, 3)), "(1, 5)"),
        (lambda: CMEAttention(4, 3, heads=2)(*sequence(batch=(3,))), "2, L, 4"),
        (lambda: fitted_slope({2: 1.0, 4: 1.0, 8: 1.0}), "3 lengths"),
        (lambda: fitted_slope({2: 1.0, 4: 1.0, 8: 0.0, 16: 1.0}), "0 at 8"),
    ],
)
def test_bad_arguments_are_named(build: Any, said: str) -> None:
    with pytest.raises(Problem) as problem:
        build()
    assert said in str(problem.value)


# -- generators and experiments -----------------------------------------------------------------------


def test_the_latent_is_drawn_for_each_sequence_and_explains_the_values() -> None:
    for name, generate in WORLDS.items():
        data = generate(np.random.default_rng(0), 50, 200, sigma=0.1)
        assert data.latent is not None
        assert data.mean is not None
        assert np.abs(data.latent[0] - data.latent[1]).max() > 0.1
        np.testing.assert_allclose(np.linalg.norm(data.keys, axis=-1), 1)
        truth = (
            np.sin(2 * data.keys @ data.latent[..., :-1].swapaxes(1, 2) + data.latent[:, None, :, -1])
            if name == "g2"
            else data.keys @ data.latent.swapaxes(1, 2)
        )
        assert (data.values - truth).std() == pytest.approx(0.1, rel=0.02)
        assert (data.target - data.mean).std() == pytest.approx(0.1, rel=0.2)


def test_masked_keys_have_the_stated_covariance() -> None:
    assert masked_covariance(6, 16).sum() == pytest.approx(1)
    assert [round(condition_number(6, skew)) for skew in (1, 4, 16, 64, 256)] == [6, 13, 36, 113, 382]
    query = masked_token(np.random.default_rng(0), 20_000, 2, d=3, skew=9.0).query
    np.testing.assert_allclose(query.var(0), masked_covariance(3, 9.0), rtol=0.05)


def test_tokens_follow_their_world_and_the_posterior_is_bayes() -> None:
    rng = np.random.default_rng(0)
    world = token_world(rng)
    drawn = draw_tokens(rng, world, 4000, 20)
    assert drawn.latent is not None
    seen = np.bincount(drawn.tokens[drawn.latent == 2].ravel(), minlength=30)
    np.testing.assert_allclose(seen / seen.sum(), world.emission[2], atol=0.02)
    posterior = np.exp(log_posterior(drawn.tokens, world))
    likelihood = world.emission[:, drawn.tokens[0, :3]].prod(1)
    np.testing.assert_allclose(posterior[0, 2], likelihood / likelihood.sum())
    assert (posterior[:, -1].argmax(1) == drawn.latent).mean() > 0.99


def test_identities_hold_and_can_fail() -> None:
    rng = np.random.default_rng(0)
    assert laboratory.bayes_difference(rng, (16, 64), 0.5, 1.0) < 1e-10
    data, order = linear_gaussian(rng, 4, 32), rng.permutation(32)
    for module in (CMEAttention(4, 3), SoftmaxAttention(4, 3)):
        assert laboratory.permutation_difference(module, data, order) < 1e-10
        assert laboratory.position_difference(module, data, order) > 1e-2
    world = token_world(rng)
    assert laboratory.minimality_difference(rng, 200, 20, world) < 1e-12
    excess = laboratory.code_excess(rng, 4000, 5, world)
    assert excess["posterior"] < 1e-12
    assert min(excess[code] for code in ("argmax", "merged", "token")) > 1e-4


def test_the_token_network_attends_to_tokens() -> None:
    """From counts it gives what softmax attention over the single tokens gives."""
    network = laboratory.TokenClassifier(5, 3)
    tokens = torch.tensor([[0, 2, 2, 4, 1, 2]])
    v = network.values(F.one_hot(tokens, 5).float())[0]  # (L, h)
    with torch.no_grad():
        network.log_kappa.fill_(0.7)
    weights = (math.exp(0.7) * v @ network.query).softmax(0)
    pooled = torch.cat([weights @ v, v.sum(0), torch.tensor([math.log(6)])])
    counts = torch.from_numpy(laboratory.token_counts(tokens.numpy(), 5)).float()
    assert counts.tolist() == [[1, 1, 3, 0, 1]]
    torch.testing.assert_close(network.represent(counts)[0], network.mlp(pooled))


def test_slopes_of_the_theory() -> None:
    """−1/2 for CME attention with a linear kernel and for rescaled softmax, a plateau for raw softmax."""
    lengths = (32, 64, 128, 256, 512)
    slopes = {}
    for name, module in {
        "cme": CMEAttention(4, 3, kernel="linear"),
        "rescaled": SoftmaxAttention(4, 3, rescaled=True),
        "softmax": SoftmaxAttention(4, 3),
    }.items():
        curve = laboratory.error_curve(module, linear_gaussian, np.random.default_rng, lengths, lambda _: 200)
        slopes[name] = fitted_slope(curve)
    assert slopes["cme"] == pytest.approx(-0.5, abs=0.1)
    assert slopes["rescaled"] == pytest.approx(-0.5, abs=0.1)
    assert slopes["softmax"] > -0.15
    assert laboratory.local_slopes({2.0: 4.0, 4.0: 2.0, 8.0: 2.0}) == pytest.approx({4.0: -1.0, 8.0: 0.0})


def test_the_gap_is_the_plain_one_with_less_noise() -> None:
    """Bounded norms stay bounded, and more sequences leave a smaller gap."""
    options: dict[str, Any] = {
        "repeats": 4, "steps": 30, "test": 500, "bounds": (math.inf, 1.0), "d": 4, "m": 3, "sigma": 0.5, "tau": 1.0,
        "progress": lambda items, _: items,
    }  # fmt: skip
    few, many = (laboratory.generalisation_gap(np.random.default_rng(0), n, 16, **options) for n in (8, 128))
    assert few[0] > few[1] > 0
    assert few[0] > 2 * many[0]


def test_transfer_stays_below_the_condition_number() -> None:
    ratios = laboratory.transfer(np.random.default_rng(0), (1, 16, 256), 400, 2000, 0.5)
    assert all(ratio <= condition_number(6, skew) for skew, ratio in ratios.items())
    assert ratios[256] > ratios[1]


def test_digits_are_read_without_the_masked_pixel() -> None:
    rng = np.random.default_rng(0)
    images, centre = digit_images(rng, 5)
    data = visible_pixels(rng, images, centre, 63)
    np.testing.assert_allclose(np.linalg.norm(position_keys(), axis=1), 1)
    assert len(np.unique(position_keys().round(6), axis=0)) == 64
    assert not (data.keys == data.query[:, None]).all(-1).any()
    np.testing.assert_allclose(data.values.sum((1, 2)) + data.target[:, 0], images.sum(1) - 64 * centre)


# -- files and use ------------------------------------------------------------------------------------


def study(tmp_path: Path, data: Path | None = None, **settings: Any) -> LatentAttentionStudy:
    config = LatentAttentionConfig.model_validate({**LatentAttentionStudy.scales["smoke"].model_dump(), **settings})
    return LatentAttentionStudy(config, Session(0, tmp_path / "session", data))


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    made = linear_gaussian(np.random.default_rng(0), 40, 6)
    known = {"keys": made.keys, "values": made.values, "query": made.query, "target": made.target}
    return {name: array for name, array in {**known, **changes}.items() if array is not None}


def holed(shape: tuple[int, ...], place: tuple[int, ...], value: float = np.nan) -> np.ndarray:
    array = np.zeros(shape)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (arrays(target=None), "has no target; it holds keys"),
        (arrays(values=np.zeros((40, 5, 3))), "values (40, 5, 3)"),
        (arrays(query=np.zeros((40, 3))), "query (40, 3)"),
        (arrays(keys=np.zeros((40, 1, 4)), values=np.zeros((40, 1, 3))), "40 sequences of 1 tokens"),
        (arrays(keys=holed((40, 6, 4), (2, 1, 3))), "keys[2, 1, 3] is nan"),
        (arrays(target=holed((40, 3), (1, 2), np.inf)), "target[1, 2] is inf"),
        (arrays(keys=np.full((40, 6, 4), "a")), "keys holds <U1"),
        ({"tokens": np.zeros((3, 4), int)}, "no emission"),
        ({"tokens": np.full((3, 4), 9), "emission": np.eye(2), "labels": np.eye(2)}, "tokens[0, 0] is 9"),
        ({"tokens": np.zeros((3, 4), int), "emission": np.ones((2, 2)), "labels": np.eye(2)}, "emission (2, 2)"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: dict[str, np.ndarray], said: str) -> None:
    path = tmp_path / "my.npz"
    np.savez(path, allow_pickle=False, **cast(Any, content))
    with pytest.raises(Problem) as problem:
        study(tmp_path, path).data()
    assert said in str(problem.value)


def test_the_sample_is_read_back(tmp_path: Path) -> None:
    room = study(tmp_path)
    room.write_sample(tmp_path)
    assert [path.name for path in sequence_files(tmp_path)] == ["g1.npz", "g2.npz", "g3.npz", "g4.npz"]
    for path in sequence_files(tmp_path):
        found = read_file(path)
        assert isinstance(found, TokenSequences) == (path.name == "g3.npz")
        assert found.latent is not None
    data = study(tmp_path, tmp_path, file="g4").data()
    assert data.train.keys.shape == (48, 16, 4)
    assert len(data.test) == 16
    with pytest.raises(Problem, match="none is 'mine'"):
        study(tmp_path, tmp_path, file="mine").data()
    with pytest.raises(Problem, match="holds tokens"):
        study(tmp_path, tmp_path / "g3.npz").data()


def test_fitting_recovers_scaled_keys(tmp_path: Path) -> None:
    """Keys of another scale and a linear relation: fitted attention has half the error of attention as it comes."""
    made = linear_gaussian(np.random.default_rng(0), 200, 16, sigma=0.3)
    path = tmp_path / "my.npz"
    scaled = {"keys": 30 * made.keys, "query": 30 * made.query, "values": made.values, "target": made.target}
    np.savez(path, allow_pickle=False, **cast(Any, scaled))
    room = study(tmp_path, path, laboratory=False, epochs=15)
    data = room.data()
    model = room.train("cme_rbf", data)
    metrics = room.evaluate(model, data)
    assert metrics["rmse_data"] < 0.7 * metrics["rmse_data_unfitted"]
    assert metrics["permutation"] < 1e-10
    checkpoint.save(model, tmp_path / "saved")
    query, keys, values = (torch.from_numpy(x).float() for x in (made.query[:, None], made.keys, made.values))
    torch.testing.assert_close(checkpoint.load(tmp_path / "saved")(query, keys, values), model(query, keys, values))
    assert "parameters" in " ".join(room.preview("cme_rbf", data))
    with pytest.raises(Problem, match="differs from 1 by 29"):
        room.train("softmax_rescaled", data)


def test_predict_gives_rows_pictures_and_reasons(tmp_path: Path) -> None:
    room = study(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    room.write_sample(data)
    (data / "broken.npz").write_bytes(b"nothing")
    np.savez(
        data / "wide.npz", allow_pickle=False, **cast(Any, arrays(keys=np.ones((40, 6, 5)), query=np.ones((40, 5))))
    )
    np.savez(data / "blank.npz", allow_pickle=False, **cast(Any, arrays(target=None)))
    model = ReadOut("softmax", 4, 3, {})
    prediction = room.predict(model, data)
    by_file = {
        name: [row for row in prediction.table if row["file"] == name]
        for name in sorted({r["file"] for r in prediction.table})
    }
    assert "not a readable" in by_file["broken.npz"][0]["problem"]
    assert "keys of 5" in by_file["wide.npz"][0]["problem"]
    assert len(by_file["g1.npz"]) == 64
    assert by_file["g1.npz"][0]["error"] > 0
    assert by_file["blank.npz"][0]["error"] == ""
    assert by_file["g3.npz"][0]["P(z)"] <= 1
    assert prediction.arrays["g1-read-outs"].shape == (64, 3)
    assert {"g1-weights", "g3-posterior"} <= set(prediction.figures)
    with pytest.raises(Problem, match="not a readable"):
        room.predict(model, data / "broken.npz")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("lengths", (16, 32, 64), "a slope needs 4"),
        ("lengths", (1, 2, 4, 8), "needs 2 tokens"),
        ("digits_lengths", (4, 8, 16, 64), "64 pixels"),
        ("skews", (0.5,), "1 or more"),
        ("ridge", -1.0, "greater than or equal to 0"),
    ],
)
def test_bad_settings_are_named(setting: str, value: Any, said: str) -> None:
    with pytest.raises(Problem) as problem:
        changed(LatentAttentionDesign, LatentAttentionConfig(), {setting: value})
    assert said in str(problem.value)
