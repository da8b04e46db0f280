"""Tests of SPAIC's claims: supervised and unsupervised training of described networks, speed, reference circuits.

repertory run spaic                                              # scikit-learn's digits as IDX files, minutes
repertory run spaic --set modality=events                        # the same digits as spike trains (SHD's format)
REPERTORY_DATA=... repertory run spaic --scale desk              # a part of MNIST
repertory train spaic --data mnist/ --out model/ --set net=mlp:256,128
repertory train spaic --data mine.npz --out model/ --set net=my_net.py   # a file that defines build(net)
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians, race
from repertory.core.training import fit, loader
from repertory.data import idx, shd
from repertory.papers.spaic import circuits, pictures, sources
from repertory.papers.spaic.describe.encoders import Poisson
from repertory.papers.spaic.describe.network import Input, Net
from repertory.papers.spaic.exchange.json import to_json
from repertory.papers.spaic.model import SURROGATES, Classifier, Perceptron, SpikingClassifier, mlp, winner_take_all
from repertory.papers.spaic.race import step_of_loop, step_of_ours
from repertory.papers.spaic.settings import SpaicConfig, SpaicDesign
from repertory.papers.spaic.sources import Samples, Seeded, SpikeData, collate, collate_seeded
from repertory.tasks.classification import spread, with_problems

EVALUATED = 256
"""Batch size in evaluation."""
SCORE_SCALE = 0.5
"""Factor from spike counts to logits."""
PER_REPEAT = 5
"""Rounds of the race per median."""


class SpaicStudy(SpaicDesign, Study[SpaicConfig, SpikeData, Classifier]):
    """Training by surrogate gradients and learning by STDP, from the same description."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("accuracy", "准确率", unit="%", better="higher", decimals=1),
        "spikes": Metric("spikes of a sample", "每个样本的脉冲数", better="lower", decimals=0),
        "lif_mismatches": Metric(
            "LIF spike trains off the closed form", "与闭式解不符的 LIF 脉冲序列数", better="lower", decimals=0
        ),
        "hh_peak_mv": Metric("peak of the Hodgkin-Huxley spike above rest", "HH 动作电位峰值（相对静息）", unit="mV"),
        "hh_trough_mv": Metric("trough after the Hodgkin-Huxley spike", "HH 动作电位后的谷值（相对静息）", unit="mV"),
        "izhikevich_late_ms": Metric(
            "largest shift of an Izhikevich spike", "Izhikevich 脉冲的最大偏移", unit="ms", better="lower"
        ),
        "izhikevich_adaptation": Metric(
            "last over first interval, Izhikevich", "Izhikevich 末次与首次间隔之比", unit="×"
        ),
        "speed_over_loop": Metric(
            "speed over a loop in time", "相对时间循环的速度", unit="×", better="higher", decimals=2
        ),
    }
    sample_name = "digits"
    sample_fields = ("modality",)
    seeded_data = False
    layout = sources.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """scikit-learn's digits in MNIST's format, or as spike trains in SHD's."""
        if self.config.modality == "static":
            idx.write_sample(folder)
        else:
            shd.write_sample(folder, np.random.default_rng(0))

    def read(self, folder: Path) -> SpikeData:
        """Samples in any of the layouts of `sources.LAYOUT`.

        Raises:
            Problem: no data, unreadable data, or an empty part.
        """
        data = sources.read(folder, self.config.steps, self.config.dt, self.session.seed)
        if data is None:
            raise self.missing(folder)
        for part in (data.train, data.test):
            if not len(part):
                raise Problem("the training or the test part is empty", folder, "give samples for both")
        if self.config.images and self.config.images < len(data.train):
            return SpikeData(data.train.first(self.config.images), data.test.first(self.config.images), data.classes)
        return data

    # -- training -------------------------------------------------------------------------------

    def train(self, arm: str, data: SpikeData) -> Classifier:
        """A `SpikingClassifier`, trained by surrogate gradients or by STDP, or a `Perceptron`."""
        self.session.reseed("weights")
        if arm == "stdp":
            return self._by_stdp(data)
        if arm == "mlp":
            model = self._perceptron(data)
        else:
            model = self._classifier(arm, self._net(data), data, self.config.latency)
        set_range(model, data)

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            x, labels, seeds = batch
            scores = model(x, seeds)
            return F.cross_entropy(scores if arm == "mlp" else SCORE_SCALE * scores, labels)

        seeded, together = Seeded(data.train), partial(collate_seeded, events=data.events)
        return fit(self.session, model, seeded, self.config, loss, collate=together)

    def _net(self, data: SpikeData) -> Net:
        """The network of the configuration.

        Raises:
            Problem: neither mlp:WIDTHS nor a file with build(net), or a network without input or read-out.
        """
        c, shape = self.config, data.train.shape
        kind, _, words = c.net.partition(":")
        if kind == "mlp":
            if not all(word.strip().isdigit() and int(word) for word in words.split(",") if word):
                raise Problem(f"not a list of widths: {words!r}", f"net={c.net}", "write mlp:256 or mlp:256,128")
            widths = [int(word) for word in words.split(",") if word]
            return mlp(shape, widths, len(data.classes), "spikes" if data.events else c.encode, c.model, c.dt)
        path = Path(c.net)
        if path.suffix != ".py" or not path.is_file():
            raise Problem(
                f"unknown network {c.net!r}",
                "net",
                "write mlp:WIDTHS, or a Python file that defines build(net)",
            )
        build = runpy.run_path(str(path)).get("build")
        if not callable(build):
            raise Problem("the file does not define build(net)", path, "define it, with an Input and a read-out")
        with Net(c.dt) as net:
            net.sample_shape, net.classes = shape, len(data.classes)
            build(net)
        if len(net.inputs) != 1 or len(net.readouts) != 1:
            raise Problem(
                f"{len(net.inputs)} inputs and {len(net.readouts)} read-outs; one of each is needed", path,
                f"x = Input({shape}, ...); ...; group.read('spike_counts') with {len(data.classes)} scores",
            )  # fmt: skip
        return net

    def _classifier(
        self, surrogate: str, net: Net, data: SpikeData, latency: Literal[0, 1], votes: bool = False
    ) -> SpikingClassifier:
        alpha = SURROGATES[surrogate]().alpha
        return SpikingClassifier(
            to_json(net), list(data.classes), self.config.steps, self.config.mode, latency, surrogate, alpha, votes,
            data.events,
        )  # fmt: skip

    def _perceptron(self, data: SpikeData) -> Perceptron:
        widths = [int(w) for w in self.config.net.partition(":")[2].split(",") if w.strip().isdigit()]
        return Perceptron(list(data.train.shape), widths or [256], list(data.classes), data.events)

    def _by_stdp(self, data: SpikeData) -> SpikingClassifier:
        """STDP on the training data without labels; then labels assign the neurons to classes."""
        c, session = self.config, self.session
        net = winner_take_all(
            data.train.shape, c.neurons, "spikes" if data.events else Poisson(c.input_rate),
            rate=c.stdp_rate, w_norm=c.stdp_norm, theta_plus=c.theta_plus, dt=c.dt,
        )  # fmt: skip
        model = self._classifier("stca", net, data, latency=1, votes=True)
        set_range(model, data)
        session.fabric.to_device(model)
        batch = 2 if session.dry_run else c.stdp_batch
        per_epoch = -(-len(data.train) // batch)
        saved = session.resume(part="stdp", model=model)
        model.train()
        for step in session.progress(range(saved.get("step", 0), c.epochs * per_epoch), "stdp"):
            epoch, position = divmod(step, per_epoch)
            order = torch.randperm(len(data.train), generator=session.generator("order", epoch))
            rows = order[position * batch : (position + 1) * batch].tolist()
            x, _ = session.fabric.to_device(collate([data.train[i] for i in rows], data.events))
            session.reseed("stdp", step)
            with torch.no_grad():
                counts = model.counts(x)
            if step % 20 == 0:
                session.log(step, part="stdp", spikes=float(counts.sum(1).mean()))
            session.keep(step + 1, part="stdp", model=model)
        model.eval()
        counts, labels = self._outputs(model.counts, data.train, data.events, "assign")
        model.assign(counts.to(model.low.device), labels.to(model.low.device))
        return model

    # -- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def _outputs(
        self, run: Callable[[Tensor, torch.Generator], Tensor], samples: Samples, events: bool, label: str
    ) -> tuple[Tensor, Tensor]:
        """Outputs (n, ...) of `run`, and labels (n,), of all samples; encoders are seeded by the batch number."""
        outputs, labels = [], []
        batches = loader(self.session, samples, EVALUATED, collate=partial(collate, events=events), label=label)
        for n, (x, y) in enumerate(batches):
            outputs.append(run(x, torch.Generator().manual_seed(n)).cpu())
            labels.append(y.cpu())
        return torch.cat(outputs), torch.cat(labels)

    def evaluate(self, model: Classifier, data: SpikeData) -> dict[str, float]:
        """`accuracy` in per cent; `spikes` per sample, summed over all populations."""
        from torchmetrics.functional.classification import multiclass_accuracy  # slow to import, and only used here

        scores, labels = self._outputs(model, data.test, data.events, "evaluate")
        self.session.keep_outputs({"label": labels, "prediction": scores.argmax(1), "score": scores})
        found = {"accuracy": 100 * float(multiclass_accuracy(scores, labels, scores.shape[1], average="micro"))}
        if isinstance(model, SpikingClassifier):
            x, _ = collate([data.test[i] for i in range(min(64, len(data.test)))], data.events)
            found["spikes"] = self._spikes(model, x)
            for name, figure in self._figures(model, x).items():
                self.session.figure(name, figure)
        return found

    @torch.no_grad()
    def _spikes(self, model: SpikingClassifier, x: Tensor) -> float:
        """Mean number of spikes per sample, summed over all recorded populations."""
        model(self.session.fabric.to_device(x), torch.Generator().manual_seed(0))
        trains = {name: t for name, t in model.network.trace.items() if name.endswith(".spike")}
        return float(sum(t.sum() for t in trains.values()) / x.shape[1 if model.events else 0])

    def _figures(self, model: SpikingClassifier, x: Tensor) -> dict[str, Any]:
        """Figures of the last run: graph, raster, potentials, and the weights of an input."""
        net, trace = model.network.net, model.network.trace
        trains = {name.removesuffix(".spike"): t for name, t in trace.items() if name.endswith(".spike")}
        figures = {"network": pictures.graph_picture(net)}
        if trains:
            figures["raster"] = pictures.raster_picture(trains, net.dt)
        potentials = next((t for name, t in trace.items() if name.endswith(".v")), None)
        if potentials is not None:
            figures["potentials"] = pictures.trace_picture(potentials, net.dt)
        for wire in model.network.wires():
            if isinstance(wire.source, Input) and wire.connection is not None:
                weight = wire.current_weight()
                if weight.ndim in (2, 4):
                    figures["weights"] = pictures.weight_picture(weight, wire.source.shape)
        return figures

    # -- measurements without training --------------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Errors of circuits with reference solutions; medians of the speed of a training step over that of a loop."""
        hh, izh = circuits.hodgkin_huxley(), circuits.izhikevich()
        currents, spikes, expected = circuits.lif_trains()
        curve = pictures.current_curve_picture(currents, spikes.mean(0), expected.mean(0))
        self.session.figure("firing-rates", curve)
        found: dict[str, Measured] = {
            "lif_mismatches": float((spikes != expected).any(0).sum()),
            "hh_peak_mv": hh["peak_mv"],
            "hh_trough_mv": hh["trough_mv"],
            "izhikevich_late_ms": izh["late_ms"],
            "izhikevich_adaptation": izh["adaptation"],
        }
        repeats, steps = self.config.speed_repeats, self.config.speed_steps
        rounds = self.session.progress(range(1 + PER_REPEAT * repeats), "speed")
        times = race({"ours": step_of_ours(steps), "loop": step_of_loop(steps)}, rounds)
        if len(times["ours"]) >= repeats:  # not in a dry run
            found["speed_over_loop"] = medians(times, "ours", "loop", repeats)
        return found

    # -- prediction -------------------------------------------------------------------------------------

    def predict(self, model: Classifier, source: Path) -> Prediction:
        """Classes and scores of images, tables, spike trains, or a test part; figures of the first sample.

        An image that cannot be read has a row with the reason.
        """
        if isinstance(model, SpikingClassifier):
            shape, dt = model.network.net.inputs[0].shape, model.network.net.dt
        else:
            shape, dt = tuple(model.shape), self.config.dt
        inputs = sources.read_inputs(source, shape, model.events, self.config.steps, dt)
        samples = inputs.samples
        scores, labels = self._outputs(model, samples, model.events, "predict")
        best = scores.argmax(1).tolist()
        table: list[dict[str, Any]] = []
        called = "file" if inputs.paths else "sample"
        for n, (k, row) in enumerate(zip(best, scores.tolist(), strict=True)):
            words: dict[str, Any] = {
                called: samples.name(n),
                "class": model.labels[k],
                "score": row[k],
            }
            if (label := int(labels[n])) >= 0:
                words["label"] = model.labels[label] if label < len(model.labels) else str(label)
            table.append(words)
        if inputs.paths:
            table = with_problems(table, inputs.paths, inputs.problems, source)
            scores = spread(scores, inputs.good, len(inputs.paths))
        prediction = Prediction(table=table, arrays={"scores": scores.numpy()})
        if isinstance(model, SpikingClassifier):
            x, _ = collate([samples[0]], model.events)
            spikes = self._spikes(model, x)
            prediction.text = f"{len(samples)} samples; sample {samples.name(0)}: {spikes:.0f} spikes, see the raster"
            prediction.figures = self._figures(model, x)
            prediction.arrays |= {name: t[:, 0].cpu().numpy() for name, t in model.network.trace.items()}
        return prediction


def set_range(model: Classifier, data: SpikeData) -> None:
    """Let a model scale the range of the training values, extended to 0, to [0, 1]; spikes have no range."""
    values = data.train.values
    if values is not None:
        low = min(0.0, float(values.min()))
        model.low.fill_(low)
        model.high.fill_(max(float(values.max()), low + 1e-6))
