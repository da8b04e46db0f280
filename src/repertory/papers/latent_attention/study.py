"""Tests of the theory's claims on generators with a known latent, and attention fitted to data.

repertory run latent_attention                               # the laboratory, minutes
repertory run latent_attention --scale desk                  # L to 4096, more sequences
repertory train latent_attention --data my.npz --out model/  # κ, ridge, W_q, W_k, W_v by empirical risk minimisation
repertory predict model/ my.npz
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.training import fit
from repertory.papers.latent_attention import laboratory, pictures
from repertory.papers.latent_attention.arrays import (
    LAYOUT,
    read_file,
    sequence_files,
    write_sequences,
    write_tokens,
)
from repertory.papers.latent_attention.digits import digit_images, visible_pixels
from repertory.papers.latent_attention.generators import (
    WORLDS,
    Array,
    Sequences,
    TokenSequences,
    draw_tokens,
    linear_gaussian,
    log_posterior,
    smooth,
    token_world,
)
from repertory.papers.latent_attention.model import (
    Attention,
    BayesRegression,
    CMEAttention,
    MeanPool,
    NearestKey,
    SoftmaxAttention,
    check_sphere,
)
from repertory.papers.latent_attention.settings import (
    ARMS,
    LEAST_LENGTHS,
    LatentAttentionConfig,
    LatentAttentionDesign,
)

MAX_FIGURES = 8
"""Pictures of one prediction."""
LONG = 1024
"""From this L on a curve has `draws_longest` sequences."""


def build(
    arm: str, d: int, m: int, config: LatentAttentionConfig, *, learned: bool = False, kappa: float | None = None
) -> Attention:
    """The read-out of an arm.

    Args:
        arm: a key of `ARMS`.
        d, m: dimensions of keys and values.
        config: κ, ridge and its schedule, σ, τ.
        learned: with parameters, where the arm has any.
        kappa: κ in place of the configuration's.
    """
    what = ARMS[arm]
    kappa = kappa or config.kappa
    match what.module:
        case "cme":
            schedule = what.options.get("schedule", False)
            return CMEAttention(
                d,
                m,
                kernel=what.options["kernel"],
                ridge=config.schedule_constant if schedule else config.fixed_ridge,
                ridge_schedule=config.schedule_exponent if schedule else 1.0,
                kappa=kappa,
                learned=learned,
            )
        case "softmax":
            rescaled = what.options.get("rescaled", False)
            return SoftmaxAttention(d, m, kappa=kappa, learned=learned and not rescaled, rescaled=rescaled)
        case "mean":
            return MeanPool(d, m)
        case "nearest":
            return NearestKey(d, m)
        case "bayes":
            return BayesRegression(d, m, config.sigma, config.tau)


class ReadOut(nn.Module, PyTorchModelHubMixin):
    """What `train` gives: an arm's attention, fitted to the data where it can be.

    Args:
        arm: a key of `ARMS`.
        d, m: dimensions of keys and values.
        settings: fields of the configuration that `build` needs.
    """

    trained_on: Tensor

    def __init__(self, arm: str, d: int, m: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.arm, self.settings = arm, settings
        self.attention = build(arm, d, m, LatentAttentionConfig.model_validate(settings), learned=ARMS[arm].learned)
        self.register_buffer("trained_on", torch.zeros((), dtype=torch.long))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (..., Q, d), k (..., L, d), v (..., L, m) -> read-outs (..., Q, m)."""
        return self.attention(q, k, v)


@dataclass(frozen=True)
class Data:
    train: Sequences
    test: Sequences


RMSE = Metric("RMSE", "均方根误差", better="lower", decimals=3)
SLOPE = Metric("fitted exponent", "拟合指数", decimals=3)
GAP = Metric("generalisation gap", "泛化差距", better="lower", decimals=3)
DIFFERENCE = Metric("largest difference", "最大差异", better="lower")
EXCESS = Metric("excess log-loss", "超额对数损失", unit="nats", better="lower", decimals=4)


def _named(metric: Metric, en: str, zh: str) -> Metric:
    return replace(metric, en=f"{metric.en}, {en}", zh=f"{metric.zh}（{zh}）")


class LatentAttentionStudy(LatentAttentionDesign, Study[LatentAttentionConfig, Data, ReadOut]):
    """Read-outs of the query's conditional mean against known truths, and fitted to data."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "rmse_{x}": _named(RMSE, "G1, L = {x}", "G1，L = {x}"),
        "slope": _named(SLOPE, "G1", "G1"),
        "rmse_smooth_{x}": _named(RMSE, "G2, L = {x}", "G2，L = {x}"),
        "slope_smooth": _named(SLOPE, "G2", "G2"),
        "rmse_digits_{x}": _named(RMSE, "digits, {x} visible pixels", "digits，可见像素 {x}"),
        "slope_digits": _named(SLOPE, "digits", "digits"),
        "rmse_data": _named(RMSE, "held-out sequences", "留出序列"),
        "rmse_data_unfitted": _named(RMSE, "held-out sequences, before fitting", "留出序列，拟合前"),
        "rmse_data_{x}": _named(RMSE, "held-out sequences, first {x} tokens", "留出序列，前 {x} 个词元"),
        "permutation": _named(DIFFERENCE, "tokens permuted", "置换词元"),
        "permutation_digits": _named(DIFFERENCE, "pixels permuted", "置换像素"),
        "position": replace(_named(DIFFERENCE, "positions added after permuting", "置换后再加位置"), better=""),
        "permutation_cme": _named(DIFFERENCE, "CME attention, tokens permuted", "CME 注意力，置换词元"),
        "permutation_softmax": _named(DIFFERENCE, "softmax attention, tokens permuted", "softmax 注意力，置换词元"),
        "position_cme": replace(
            _named(DIFFERENCE, "CME attention, positions added after permuting", "CME 注意力，置换后再加位置"),
            better="",
        ),
        "position_softmax": replace(
            _named(DIFFERENCE, "softmax attention, positions added after permuting", "softmax 注意力，置换后再加位置"),
            better="",
        ),
        "bayes_difference": _named(DIFFERENCE, "CME attention and posterior mean", "CME 注意力与后验均值"),
        "posterior_excess": _named(EXCESS, "posterior as the code", "以后验为编码"),
        "minimality": _named(DIFFERENCE, "P(y|X) of equal posteriors", "后验相同时的 P(y|X)"),
        "excess_argmax_{x}": _named(EXCESS, "argmax of the posterior, L = {x}", "后验的 argmax，L = {x}"),
        "excess_merged_{x}": _named(EXCESS, "posterior, two classes merged, L = {x}", "合并两类的后验，L = {x}"),
        "excess_token_{x}": _named(EXCESS, "most frequent token, L = {x}", "最常见词元，L = {x}"),
        "posterior_r2_{x}": Metric("R² of the learned posterior, L = {x}", "学得后验的 R²，L = {x}", better="higher"),
        "gap_n_{x}": _named(GAP, "n = {x}", "n = {x}"),
        "gap_length_{x}": _named(GAP, "log₂ L = {x}", "log₂ L = {x}"),
        "gap_bounded_n_{x}": _named(GAP, "norms bounded, n = {x}", "范数受限，n = {x}"),
        "gap_bounded_length_{x}": _named(GAP, "norms bounded, log₂ L = {x}", "范数受限，log₂ L = {x}"),
        "transfer_ratio_{x}": Metric(
            "downstream / pre-training excess, skew {x}", "下游与预训练超额风险之比，偏斜 {x}"
        ),
        "condition_{x}": Metric("κ_c, skew {x}", "κ_c，偏斜 {x}"),
        "transfer_share": Metric("largest ratio / κ_c", "最大的 比值 / κ_c", better="lower"),
        "transfer_bound": Metric("bound of ratio / κ_c", "比值 / κ_c 的上界", better="lower"),
    }
    sample_name = "generators with a known latent"
    sample_fields = ("sequences", "length", "d", "m", "sigma", "tau")
    layout = LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """g1, g2, g4: sequences; g3: tokens. The same for every seed, which draws the split."""
        config = self.config
        sizes = (config.sequences, config.length, config.d, config.m, config.sigma, config.tau)
        for seed, (name, generate) in enumerate(WORLDS.items()):
            write_sequences(folder / f"{name}.npz", generate(np.random.default_rng(seed), *sizes))
        rng = np.random.default_rng(len(WORLDS))
        write_tokens(folder / "g3.npz", draw_tokens(rng, token_world(rng), config.sequences, config.length))

    def read(self, folder: Path) -> Data:
        files = sequence_files(folder)
        named = [path for path in files if path.stem == self.config.file]
        if not files:
            raise self.missing(folder)
        if len(files) > 1 and not named:
            listed = ", ".join(path.stem for path in files)
            raise Problem(f"several files, and none is {self.config.file!r}", folder, f"--set file= one of {listed}")
        path = files[0] if len(files) == 1 else named[0]
        found = read_file(path)
        if isinstance(found, TokenSequences):
            raise Problem(f"{path.name} holds tokens", path, "train on keys and values; predict reads tokens")
        held_out = round(self.config.test_fraction * len(found))
        if not 1 <= held_out < len(found):
            what = f"{len(found)} sequences, {held_out} of them held out"
            raise Problem(what, path, "give more sequences, or change test_fraction")
        order = self.session.rng("split").permutation(len(found))
        return Data(found.subset(order[held_out:]), found.subset(order[:held_out]))

    def preview(self, arm: str, data: Data) -> list[str]:
        """Sizes of the data, the read-out and its parameters."""
        n, length, d = data.train.keys.shape
        model = self._read_out(arm, data)
        count = sum(p.numel() for p in model.parameters())
        what = f"{count} parameters, {self.config.epochs} passes" if count else "no parameters: nothing is fitted"
        split = f"{n} sequences to train, {len(data.test)} held out"
        return [f"{split}; {length} tokens, keys of {d}, values of {data.train.values.shape[2]}", f"{arm}: {what}"]

    # -- the experiment -------------------------------------------------------------------------

    def _read_out(self, arm: str, data: Data) -> ReadOut:
        if arm == "softmax_rescaled":
            for name in ("keys", "query"):
                check_sphere(torch.from_numpy(getattr(data.train, name)), name, "the data")
        names = ("kappa", "ridge", "schedule_constant", "schedule_exponent", "sigma", "tau")
        settings = {name: getattr(self.config, name) for name in names}
        return ReadOut(arm, data.train.keys.shape[2], data.train.values.shape[2], settings)

    def train(self, arm: str, data: Data) -> ReadOut:
        """Fit κ, ridge and the maps by the squared loss to the targets; arms without parameters stay as they are."""
        model = self._read_out(arm, data)
        model.trained_on.fill_(len(data.train))
        if not ARMS[arm].learned:
            return model
        typical = float(np.sqrt(np.square(data.train.keys).sum(-1).mean()))
        if not typical > 0:
            raise Problem("all keys are 0", "keys", "give keys that differ")
        model.attention.reset_parameters(typical)
        arrays = (data.train.query, data.train.keys, data.train.values, data.train.target)
        return fit(
            self.session, model, TensorDataset(*(torch.from_numpy(x).float() for x in arrays)), self.config, _loss
        )

    def evaluate(self, model: ReadOut, data: Data) -> dict[str, float]:
        exact = copy.deepcopy(model).cpu().double()
        results = self._on_data(exact, data.test)
        if self.config.laboratory:
            results |= self._curves(model.arm)
            results |= self._digits(model.arm) if ARMS[model.arm].digits else {}
            experiments: dict[str, Callable[[], dict[str, float]]] = {
                "softmax": self._trained_in_the_laboratory,
                "cme_linear": self._transfer,
                "bayes": self._codes,
            }
            results |= experiments.get(model.arm, dict)()
        return results

    def _on_data(self, model: ReadOut, data: Sequences) -> dict[str, float]:
        """Error on the held-out sequences, of their prefixes, and T1 on them."""

        def rmse(attention: nn.Module, part: Sequences) -> float:
            return float(np.sqrt(np.square(laboratory.read_out(attention, part) - part.target).sum(-1).mean()))

        length, d = data.keys.shape[1:]
        order = self.session.rng("order").permutation(length)
        results = {
            "rmse_data": rmse(model, data),
            "permutation": laboratory.permutation_difference(model, data, order),
            "position": laboratory.position_difference(model, data, order),
        }
        if ARMS[model.arm].learned:
            start = build(model.arm, d, data.values.shape[2], self.config)
            results["rmse_data_unfitted"] = rmse(start, data)
        prefixes = sorted({round(length / 2**k) for k in range(5)} - {0, 1})
        curve = {float(x): rmse(model, data.prefix(x)) for x in prefixes}
        error = np.square(laboratory.read_out(model, data) - data.target).sum(-1)
        self.session.keep_outputs({"squared_error": error})
        return results | {f"rmse_data_{x:g}": y for x, y in curve.items()}

    def _over_lengths(self, name: str, arm: str, curve: Mapping[float, float]) -> dict[str, float]:
        """The points of a curve, and its slope where it has enough of them (a dry run has two)."""
        suffix = f"_{name}" if name else ""
        results = {f"rmse{suffix}_{x:g}": y for x, y in curve.items()}
        if len(curve) >= LEAST_LENGTHS:
            results[f"slope{suffix}"] = laboratory.fitted_slope(curve)
            predicted = None if name else ARMS[arm].predicted
            title = f"{arm}, {name or 'G1'}"
            figure = pictures.error_figure(title, curve, predicted, ARMS[arm].origin)
            self.session.figure(f"error{suffix}", figure)
        return results

    def _curves(self, arm: str) -> dict[str, float]:
        """T3, T4, T5: errors against L on G1 and G2, at the parameters that the predictions are about."""
        config, results = self.config, {}
        sizes = {"d": config.d, "m": config.m, "sigma": config.sigma, "tau": config.tau}

        def count(length: int) -> int:
            return min(config.draws, config.draws_longest) if length >= LONG else config.draws

        for name, generate in (("", linear_gaussian), ("smooth", smooth)):
            attention = build(arm, config.d, config.m, config)
            if arm == "bayes" and name == "smooth":
                # The prior covariance of v_i is exp(−2 τ² ‖k − k'‖²) / 2: the best linear predictor.
                attention = CMEAttention(config.d, config.m, ridge=2 * config.sigma**2, kappa=4 * config.tau**2)
            curve = laboratory.error_curve(
                attention,
                partial(generate, **sizes),
                lambda length, key=name: self.session.rng("curve", key, length),
                self._progress(config.lengths, f"{arm}, lengths"),
                count,
            )
            results |= self._over_lengths(name, arm, curve)
        return results

    def _digits(self, arm: str) -> dict[str, float]:
        """Masked pixels of real digits from L visible ones."""
        config = self.config
        attention = build(arm, 4, 1, config, kappa=config.digits_kappa)
        images, centre = digit_images(self.session.rng("split", "digits"), config.digits_images)
        results: dict[str, float] = {}

        def draw(rng: np.random.Generator, n: int, length: int) -> Sequences:
            return visible_pixels(rng, images, centre, length)

        curve = laboratory.error_curve(
            attention,
            draw,
            lambda length: self.session.rng("pixels", length),
            self._progress(config.digits_lengths, f"{arm}, digits"),
            lambda _: config.digits_images,
        )
        rng = self.session.rng("pixels", "order")
        some = visible_pixels(rng, images, centre, config.digits_lengths[-1])
        order = rng.permutation(config.digits_lengths[-1])
        results["permutation_digits"] = laboratory.permutation_difference(attention, some, order)
        return results | self._over_lengths("digits", arm, curve)

    def _trained_in_the_laboratory(self) -> dict[str, float]:
        """T7, the generalisation gap of softmax attention; T6, the posterior in what a network learns from labels."""
        config, session = self.config, self.session
        common = {
            "repeats": config.gap_repeats, "steps": config.gap_steps, "bounds": (math.inf, config.gap_bound),
            "d": config.d, "m": config.m, "sigma": config.sigma, "tau": config.tau, "progress": session.progress,
        }  # fmt: skip
        over_n: dict[float, list[float]] = {}
        over_length: dict[float, list[float]] = {}
        r2: dict[float, float] = {}
        with torch.inference_mode(False), torch.enable_grad():
            for n in self._progress(config.gap_sequences, "gap, n"):
                rng = session.rng("gap", "n", n)
                over_n[n] = laboratory.generalisation_gap(rng, n, config.gap_at_length, test=config.gap_test, **common)
            for length in self._progress(config.gap_lengths, "gap, L"):
                test = config.gap_test if length < 512 else max(2 * config.gap_test // 5, 2)
                rng = session.rng("gap", "length", length)
                over_length[length] = laboratory.generalisation_gap(
                    rng, config.gap_at_sequences, length, test=test, **common
                )
            for length in self._progress(config.learned_lengths, "learned posterior"):
                rng = session.rng("learned", length)
                world = token_world(session.rng("learned", "world"))
                r2[length] = laboratory.learned_posterior(
                    rng, world, length, config.learned_sequences, config.learned_epochs, session.progress
                )
        kinds = {"free": "", f"norms at most {config.gap_bound:g}": "bounded_"}
        curves_n, curves_length = (
            {kind: {x: gaps[i] for x, gaps in curve.items()} for i, kind in enumerate(kinds)}
            for curve in (over_n, over_length)
        )
        session.figure("gap", pictures.gap_figure(curves_n, curves_length))
        results = {f"posterior_r2_{x:g}": y for x, y in r2.items()}
        for kind, prefix in kinds.items():
            results |= {f"gap_{prefix}n_{x:g}": y for x, y in curves_n[kind].items()}
            results |= {f"gap_{prefix}length_{math.log2(x):g}": y for x, y in curves_length[kind].items()}
        return results

    def _transfer(self) -> dict[str, float]:
        """T8: pre-training excess risk against the worst downstream one, for several condition numbers."""
        config, d = self.config, 6
        skews = self._progress(config.skews, "transfer")
        ratios = laboratory.transfer(
            self.session.rng("transfer"), skews, config.transfer_sequences, config.transfer_test, config.sigma, d
        )
        kappa = {skew: laboratory.condition_number(d, skew) for skew in ratios}
        figure = pictures.transfer_figure({kappa[skew]: ratio for skew, ratio in ratios.items()})
        self.session.figure("transfer", figure)
        return {
            **{f"transfer_ratio_{skew:g}": ratio for skew, ratio in ratios.items()},
            **{f"condition_{skew:g}": value for skew, value in kappa.items()},
            "transfer_share": max(ratio / kappa[skew] for skew, ratio in ratios.items()),
            "transfer_bound": 1.0,
        }

    def _codes(self) -> dict[str, float]:
        """T6: log-loss of codes that are coarser than the posterior."""
        config, world = self.config, token_world(self.session.rng("codes", "world"))
        results = {}
        for length in self._progress(config.code_lengths, "codes"):
            rng = self.session.rng("codes", length)
            excess = laboratory.code_excess(rng, config.code_draws, length, world)
            results |= {f"excess_{code}_{length:g}": excess[code] for code in ("argmax", "merged", "token")}
        one = draw_tokens(self.session.rng("codes", "picture"), world, 1, config.code_lengths[-1])
        posterior = np.exp(log_posterior(one.tokens, world)[0])
        self.session.figure("posterior", pictures.posterior_figure(posterior, "posterior of z as tokens arrive"))
        return results

    def measure(self) -> dict[str, float]:
        """T1, T2, T6: differences that are 0 by an identity, in float64."""
        config, rng = self.config, self.session.rng("identities")
        world = token_world(rng)
        results = {}
        for name, arm in (("cme", "cme_rbf"), ("softmax", "softmax")):
            attention = build(arm, config.d, config.m, config)
            data = linear_gaussian(rng, 16, 128, config.d, config.m, config.sigma, config.tau)
            order = rng.permutation(128)
            results[f"permutation_{name}"] = laboratory.permutation_difference(attention, data, order)
            results[f"position_{name}"] = laboratory.position_difference(attention, data, order)
        return {
            **results,
            "bayes_difference": laboratory.bayes_difference(rng, config.lengths[:7], config.sigma, config.tau),
            "posterior_excess": laboratory.code_excess(rng, config.code_draws, config.code_lengths[-1], world)[
                "posterior"
            ],
            "minimality": laboratory.minimality_difference(rng, 2000, config.code_lengths[-1], world),
        }

    def _progress(self, items: Iterable[Any], label: str) -> Iterable[Any]:
        return self.session.progress(items, label)

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: ReadOut, source: Path) -> Prediction:
        """Read-outs of the queries of each file; of a file of tokens the posterior of z. A broken file gets a row."""
        files = sequence_files(source)
        if not files:
            raise self.missing(source)
        prediction = Prediction()
        exact = copy.deepcopy(model).cpu().double()
        for path in self.session.progress(files, "predict"):
            try:
                found = read_file(path, need_target=False)
                rows = (
                    self._posterior_rows(path, found, prediction)
                    if isinstance(found, TokenSequences)
                    else self._read_out_rows(path, exact, found, prediction)
                )
            except Problem as problem:
                if not source.is_dir():
                    raise
                rows = [{"file": path.name, "problem": problem.what}]
            prediction.table += rows
        if not any("problem" not in row for row in prediction.table):
            raise Problem("none of the files can be read", source, prediction.table[0]["problem"])
        keys = dict.fromkeys(key for row in prediction.table for key in row)
        prediction.table = [{key: row.get(key, "") for key in keys} for row in prediction.table]
        return prediction

    def _read_out_rows(
        self, path: Path, model: ReadOut, data: Sequences, prediction: Prediction
    ) -> list[dict[str, Any]]:
        d, m = data.keys.shape[2], data.values.shape[2]
        attention = model.attention
        if (d, m) != (attention.d, attention.m):
            what = f"{path.name} has keys of {d} and values of {m}"
            raise Problem(what, path, f"the model was trained on keys of {attention.d} and values of {attention.m}")
        outputs = laboratory.read_out(model, data)
        prediction.arrays[f"{path.stem}-read-outs"] = outputs
        known = np.isfinite(data.target).all()
        rows = []
        for i, output in enumerate(outputs):
            row: dict[str, Any] = {"file": path.name, "sequence": i}
            row |= {f"v{j}": float(value) for j, value in enumerate(output)}
            row |= {"error": float(np.linalg.norm(output - data.target[i]))} if known else {}
            rows.append(row)
        if len(prediction.figures) < MAX_FIGURES:
            query, keys = laboratory.tensors(data.query[:1, None], data.keys[:1])
            compared = {
                model.arm: attention,
                "CME": CMEAttention(d, m, ridge=self.config.fixed_ridge, kappa=self.config.kappa),
                "softmax": SoftmaxAttention(d, m, kappa=self.config.kappa),
            }
            weights = {name: read.weights(query, keys)[0, 0].detach().numpy() for name, read in compared.items()}
            near = (data.keys[0] @ data.query[0]).astype(float)
            figure = pictures.weights_figure(weights, near, f"{path.name}, sequence 0")
            prediction.figures[f"{path.stem}-weights"] = figure
        return rows

    def _posterior_rows(self, path: Path, data: TokenSequences, prediction: Prediction) -> list[dict[str, Any]]:
        posterior: Array = np.exp(log_posterior(data.tokens, data.world))  # (n, L, C)
        last = posterior[:, -1]
        labels = last @ data.world.labels
        prediction.arrays[f"{path.stem}-posterior"] = last
        if len(prediction.figures) < MAX_FIGURES:
            figure = pictures.posterior_figure(posterior[0], f"{path.name}, sequence 0")
            prediction.figures[f"{path.stem}-posterior"] = figure
        return [
            {"file": path.name, "sequence": i, "z": int(z), "P(z)": float(last[i, z]), "y": int(y),
             "P(y)": float(labels[i, y])}
            for i, (z, y) in enumerate(zip(last.argmax(1), labels.argmax(1), strict=True))
        ]  # fmt: skip


def _loss(model: nn.Module, batch: Any) -> Tensor:
    """Squared loss of the read-outs, mean over sequences."""
    query, keys, values, target = batch
    out = cast(ReadOut, model)(query[:, None], keys, values)[:, 0]
    return (out - target).square().sum(-1).mean()
