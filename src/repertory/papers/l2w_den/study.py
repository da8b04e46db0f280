"""Tests of L2W-DEN's claims.

repertory run l2w_den                                                     # four arms on cluttered digits, minutes
repertory run l2w_den --set arch=ranet_mini --set constraint=mat
repertory run l2w_den --scale paper --data cifar/ --arms uniform --arms l2w        # 300 epochs of CIFAR
repertory run l2w_den --scale paper --data cifar/ --set imbalance=100              # long-tailed
repertory run l2w_den --scale imagenet --data imagenet/ --arms l2w --devices 8 --precision 16-mixed
repertory train l2w_den --scale paper --data my_images/ --set arch=timm:resnet18 --out my_model/
repertory predict my_model/ photos/ --set budget=20e6 --set export=true
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import transforms

from repertory.core import checkpoint
from repertory.core.files import read_json, write_json
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.timing import race, ratio, seconds_a_sample
from repertory.data import cifar, images
from repertory.data.images import ImageSet
from repertory.nn.imagenet import label_names
from repertory.papers.l2w_den import pictures
from repertory.papers.l2w_den.classifier import (
    CIFAR100_MEAN,
    CIFAR100_STD,
    EarlyExit,
    ExitClassifier,
    default_cfg,
    export_early,
)
from repertory.papers.l2w_den.loop import WEIGHTING, Trainer, judge
from repertory.papers.l2w_den.model import MSDNet, build, exit_costs
from repertory.papers.l2w_den.protocols import Curve, all_thresholds, budgeted_curve, nominal_budgets
from repertory.papers.l2w_den.sample import write_cluttered_digits
from repertory.papers.l2w_den.settings import VARIANTS, L2WConfig, L2WDesign
from repertory.papers.l2w_den.weighting import (
    MetaObjective,
    PseudoStep,
    WeightPredictionNetwork,
    meta_gradient,
    meta_gradient_by_double_backward,
    target_shares,
)
from repertory.papers.l2w_den.weights import read_released
from repertory.tasks.classification import check_classes, readable, relative_name, with_problems
from repertory.tasks.images import (
    ImageData,
    as_picture,
    label_texts,
    matching_variant,
    network_facts,
    preprocessing,
    unlabelled,
)
from repertory.tasks.settings import fitted

PREDICT_BATCH = 64
CIFAR_BATCH = 1024
"""Of the published recipe for CIFAR."""
LEAST_UPDATES, LEAST_VALID = 5, 40
"""Updates of the weight prediction network in an epoch, and validation images, on one's own small data."""
META_COST = 3.0
"""About so many passes more take the batches on which the weight prediction network is updated."""
COUNTED = ("msdnet_cifar", "msdnet_imagenet_4", "msdnet_imagenet_6", "msdnet_imagenet_7", "ranet_cifar")
"""Networks whose size is a figure; those of CIFAR with the classes that the references have."""
COUNTED_CLASSES = {"msdnet_cifar": 100, "ranet_cifar": 10}
EQUAL_SHARES = 20
TIMED_INDICES = (1, 12, EQUAL_SHARES, 28, 39)
"""Target proportions at which the early-exiting model is timed."""
TIMED_ROUNDS = 3


class L2WStudy(L2WDesign, Study[L2WConfig, ImageData, ExitClassifier]):
    """Train a network with several exits under four sample weightings; compare accuracy against cost."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "budgeted": Metric(
            "accuracy with early exits, mean over budgets", "早退准确率（对预算取平均）",
            unit="%", better="higher", decimals=2
        ),
        "anytime": Metric("accuracy, mean over exits", "各出口准确率的平均", unit="%", better="higher", decimals=2),
        "anytime_{x}": Metric("accuracy of exit {x}", "第 {x} 个出口的准确率", unit="%", better="higher", decimals=1),
        "low_budget": Metric(
            "accuracy at the lowest quarter of the budgets", "最低四分之一预算下的准确率",
            unit="%", better="higher", decimals=2
        ),
        "plateau": Metric("best accuracy with early exits", "早退的最高准确率", unit="%", better="higher", decimals=2),
        "saving": Metric(
            "operations of all exits over those of early exits, equal accuracy",
            "准确率相同时全出口与早退的运算量之比",
            unit="×", better="higher", decimals=2,
        ),
        "early_exit_speedup": Metric(
            "time of all exits over time of early exits, equal shares", "全出口与早退（等比例）的耗时之比",
            unit="×", better="higher", decimals=2, needs="timed_images above 0",
        ),
        "correlation_{x}": Metric(
            "rank correlation of weight and loss at exit {x}", "第 {x} 个出口处权重与损失的秩相关", decimals=2,
            needs="weights that differ",
        ),
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "macs": Metric("operations of all exits", "全部出口的运算量", better="lower", decimals=0),
        **{
            f"{name}_parameters": Metric(f"parameters, {name}", f"{name} 的参数量", better="lower", decimals=0)
            for name in COUNTED
        },
        **{
            f"{name}_macs_{{x}}": Metric(
                f"operations to exit {{x}}, {name}", f"{name} 到第 {{x}} 个出口的运算量", better="lower", decimals=0
            )
            for name in COUNTED
        },
        "meta_gradient_difference": Metric(
            "relative difference of the meta gradient to double backward", "元梯度与二次反向传播的相对差异",
            better="lower",
        ),
    }  # fmt: skip
    sample_name = "cluttered digits"
    sample_fields = ("sample_batch", "sample_test")
    seeded_data = False
    layout = f"{cifar.LAYOUT}\n{images.LAYOUT}"

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write cluttered digits in CIFAR-10's format."""
        write_cluttered_digits(folder, self.config.sample_batch, self.config.sample_test)

    def read(self, folder: Path) -> ImageData:
        """Read CIFAR-10, CIFAR-100, or class folders."""
        if cifar.is_cifar(folder):
            return ImageData(*cifar.read_cifar(folder))
        if not images.is_labelled(folder):
            raise self.missing(folder)
        return ImageData(*images.read_splits(folder))

    def scaled(self, data: ImageData, given: Collection[str]) -> L2WConfig:
        """The published recipe for these images: that of ImageNet for photographs, that of CIFAR for CIFAR."""
        published, batch = cast(L2WConfig, self.own), self.own_batch
        config = self.config
        if cifar.is_cifar(self.data_folder()):
            published, batch = cast(L2WConfig, self.scales["paper"]), CIFAR_BATCH
            config = published.model_copy(update={name: getattr(config, name) for name in given})
        world, count = self.session.fabric.world_size, len(data.train)
        config = fitted(config, published, count, world, batch, given)
        steps = max(1, count // (world * config.batch_size))
        changes: dict[str, Any] = {"meta_interval": min(config.meta_interval, max(1, steps // LEAST_UPDATES))}
        # The published share leaves few of a small set to fit the thresholds of the exits on.
        changes["valid_share"] = max(config.valid_share, min(0.2, LEAST_VALID / max(1, count)))
        return config.model_copy(update={name: value for name, value in changes.items() if name not in given})

    def preview(self, arm: str, data: ImageData) -> list[str]:
        """Parameters, pixels, and minutes."""
        if not len(data.train):
            return []
        cfg = self._cfg(data.train)
        model = ExitClassifier(self.config.arch, len(data.train.classes), cfg)
        channels, height, width = model.pretrained_cfg["input_size"]
        device = self.session.fabric.device
        network, x = model.network.to(device).train(), torch.randn(2, channels, height, width, device=device)
        seconds = seconds_a_sample(lambda: torch.stack([logits.sum() for logits in network(x)]).sum(), 2, device)
        meta = 1 + META_COST / self.config.meta_interval if arm == "l2w" else 1
        seen = len(data.train) * self.config.epochs * meta / self.session.fabric.world_size
        return network_facts(model, height, width, seconds * seen / 60)

    def split(self, pool: ImageSet) -> tuple[ImageSet, ImageSet]:
        """The training and the validation images of this seed.

        Raises:
            Problem: no images are left for one of them.
        """
        config = self.config
        order = self.session.rng("split").permutation(len(pool))
        order = order[: config.train_images or len(pool)]
        held = round(config.valid_share * len(order))
        if not 0 < held < len(order):
            raise Problem(
                f"{len(order)} training images, {held} of them for validation",
                f"valid_share={config.valid_share}",
                "give more images, or another share: exit thresholds are fitted on the validation images",
            )
        train, val = pool.subset(order[held:].tolist()), pool.subset(order[:held].tolist())
        return (long_tailed(train, config.imbalance) if config.imbalance > 1 else train), val

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: ImageData) -> ExitClassifier:
        """Train one arm, then fit the exit thresholds.

        Raises:
            Problem: images of one class only, too few images, or images too small for the network.
        """
        config, session = self.config, self.session
        check_classes(data.train.classes, "training data", "images")
        train, val = self.split(data.train)
        session.reseed("weights")
        model = ExitClassifier(config.arch, len(train.classes), self._cfg(data.train))
        session.fabric.to_device(model)
        plain, augmented = preprocessing(model), self._augmentation(model)
        trainer = Trainer(session, config, model.network, WEIGHTING[arm])
        trainer.fit(train.with_transform(augmented))

        held = val.with_transform(plain) if config.threshold_set == "val" else train.with_transform(augmented)
        confidences, correct = self._judge(model, held, "thresholds")
        model.thresholds.copy_(all_thresholds(confidences))
        curve = budgeted_curve(confidences, correct, model.thresholds, model.costs)
        model.budgets.copy_(torch.from_numpy(curve.budgets))
        model.accuracies.copy_(torch.from_numpy(curve.accuracies))
        model.correlation.copy_(trainer.correlation(train.with_transform(plain)))
        return model.eval()

    def _judge(self, model: ExitClassifier, data: ImageSet, label: str) -> tuple[Tensor, Tensor]:
        config = self.config
        return judge(self.session, model, data, config.batch_size, config.workers, label)

    def _cfg(self, pool: ImageSet) -> dict[str, Any]:
        """What is stored with the weights: class names, input size, statistics of CIFAR-100 where it is that."""
        cfg: dict[str, Any] = {"label_names": list(pool.classes)}
        if self.config.image_size:
            cfg["input_size"] = [3, self.config.image_size, self.config.image_size]
        if pool.paths and pool.paths[0].parent.name == "cifar-100-python" and "mean" in default_cfg(self.config.arch):
            cfg |= {"mean": CIFAR100_MEAN, "std": CIFAR100_STD}
        return cfg

    def _augmentation(self, model: ExitClassifier) -> Callable[[Any], Any]:
        cfg, plain = model.pretrained_cfg, preprocessing(model)
        match self.config.augment:
            case "none":
                return plain
            case "cifar":
                size = cfg["input_size"][-1]
                shift = [transforms.RandomCrop(size, padding=size // 8), transforms.RandomHorizontalFlip()]
                to_size, *rest = plain.transforms  # pyright: ignore[reportFunctionMemberAccess]
                return transforms.Compose([to_size, transforms.CenterCrop(size), *shift, *rest])
            case "imagenet":
                statistics = {name: cfg[name] for name in ("mean", "std") if name in cfg}
                return images.augmentation(
                    input_size=tuple(cfg["input_size"]), interpolation="bilinear", color_jitter=0.0, **statistics
                )

    def evaluate(self, model: ExitClassifier, data: ImageData) -> dict[str, float]:
        """Accuracy against cost on the held-out images, anytime and with early exits.

        Raises:
            Problem: images of a class that the model does not know.
        """
        test = data.test.named(model.pretrained_cfg["label_names"]).with_transform(preprocessing(model))
        confidences, correct = self._judge(model, test, "evaluate")
        curve = budgeted_curve(confidences, correct, model.thresholds, model.costs)
        self._draw(curve)
        low, high = nominal_budgets(model.costs)
        quarter = low + (high - low) / 4
        reached = curve.budgets[curve.accuracies >= curve.anytime[-1]]
        metrics = {
            "budgeted": curve.area(low, high),
            "anytime": float(curve.anytime.mean()),
            "low_budget": curve.area(low, quarter),
            "plateau": float(max(curve.accuracies.max(), curve.anytime[-1])),
            "saving": float(curve.costs[-1] / min(reached, default=curve.costs[-1])),
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "macs": float(curve.costs[-1]),
        }
        metrics |= {f"anytime_{k}": float(value) for k, value in enumerate(curve.anytime, start=1)}
        metrics |= {
            f"correlation_{k}": value
            for k, value in enumerate(model.correlation.tolist(), start=1)
            if not np.isnan(value)
        }
        if self.config.timed_images:
            metrics |= self._time(model, test, curve)
        return metrics

    def _draw(self, curve: Curve) -> None:
        """The curves of all arms of this seed that are finished."""
        here = self.session.out_dir
        write_json(here / "curve.json", {name: value.tolist() for name, value in vars(curve).items()})
        arm, _, seed = here.name.rpartition("-")
        finished = {other: here.parent / f"{other}-{seed}" / "curve.json" for other in self.arms}
        curves = {other: read_curve(path) for other, path in finished.items() if path.exists() and arm in self.arms}
        self.session.figure("accuracy-vs-cost", pictures.curves_picture(curves or {"this network": curve}))

    def _time(self, model: ExitClassifier, test: ImageSet, curve: Curve) -> dict[str, float]:
        """Time the early-exiting model on single images at several target shares, and with all exits, in turns."""
        device = self.session.fabric.device
        chosen = range(0, len(test), -(-len(test) // self.config.timed_images))
        single = [test[i][0][None].to(device) for i in chosen]
        thresholds = {0: model.thresholds_for(0), **{i: model.thresholds[i - 1] for i in TIMED_INDICES}}
        runs = {str(i): partial(run_all, EarlyExit(model.network, row).eval(), single) for i, row in thresholds.items()}
        times = race(runs, self.session.progress(range(1 + TIMED_ROUNDS), "time"))
        ms = {int(i): 1000 * float(np.median(seconds)) / len(single) for i, seconds in times.items()}
        points = [(ms[i], float(curve.accuracies[i - 1])) for i in TIMED_INDICES]
        self.session.figure("time-vs-accuracy", pictures.timing_picture(points, (ms[0], float(curve.anytime[-1]))))
        return {"early_exit_speedup": ratio(times, str(EQUAL_SHARES), "0")}

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """Size and cost of the published networks; the meta gradient beside that of double backward."""
        figures: dict[str, float] = {}
        for name in COUNTED:
            with torch.device("meta"):
                network = build(name, COUNTED_CLASSES.get(name, 1000))
            figures[f"{name}_parameters"] = float(sum(p.numel() for p in network.parameters()))
            costs = exit_costs(network, size=224 if "imagenet" in name else 32)
            figures |= {f"{name}_macs_{k}": float(cost) for k, cost in enumerate(costs, start=1)}
        return {**figures, "meta_gradient_difference": self._gradient_difference()}

    def _gradient_difference(self) -> float:
        self.session.reseed("meta gradient")
        network, wpn = build("msdnet_mini", 10).train(), WeightPredictionNetwork(4)
        x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
        buffers = {name: 0.01 * torch.randn_like(p) for name, p in network.named_parameters()}
        objective, step = MetaObjective(target_shares(15, 4)), PseudoStep(0.1, 0.9, 1e-4)
        with torch.enable_grad():
            ours, reference = (
                torch.cat([g.flatten() for g in find(
                    network, wpn, (x[:16], y[:16]), (x[16:], y[16:]), objective, step, buffers
                )[0]])
                for find in (meta_gradient, meta_gradient_by_double_backward)
            )  # fmt: skip
        return float((ours - reference).norm() / reference.norm())

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: ExitClassifier, source: Path) -> Prediction:
        """Classify one image, all images below a folder, or the test images of CIFAR; tell the exit that each took.

        A file that cannot be read gets a row with the reason.

        Raises:
            Problem: no images, none that can be read, or a budget below the cost of the first exit.
        """
        names = label_texts(model)
        early = model.early(self.config.budget)
        found = cifar.read_cifar(source)[1] if cifar.is_cifar(source) else unlabelled(source, names)
        good, problems = readable(found.paths, found.image, source)
        data = found.subset(good).with_transform(preprocessing(model))
        table: list[dict[str, Any]] = []
        exits: list[int] = []
        device = self.session.fabric.device
        starts = range(0, len(data), PREDICT_BATCH)
        for start in self.session.progress(starts, "predict"):
            rows = range(start, min(start + PREDICT_BATCH, len(data)))
            logits, left = early(torch.stack([data[i][0] for i in rows]).to(device))
            probabilities = logits.softmax(1).max(1)
            for i, k, label, p in zip(
                rows, left.tolist(), probabilities.indices.tolist(), probabilities.values.tolist(), strict=True
            ):
                table.append(
                    {"file": relative_name(data.paths[i], source), "class": names[label], "probability": p,
                     "exit": k + 1, "operations": int(model.costs[k]), "problem": ""}
                )  # fmt: skip
                exits.append(k)
        left_at = Counter(exits)
        count = len(model.costs)
        shown = [[i for i, k in enumerate(exits) if k == exit][: pictures.IMAGES_PER_EXIT] for exit in range(count)]
        rows = [
            [
                (as_picture(model, data[i][0]), f"{table[i]['class']}, {100 * table[i]['probability']:.0f} %")
                for i in here
            ]
            for here in shown
        ]
        figures = {"exits": pictures.exits_picture(rows, [left_at[k] for k in range(count)])}
        spent = float(np.mean([row["operations"] for row in table]))
        shares = ", ".join(f"{100 * left_at[k] / len(exits):.0f} %" for k in range(count))
        text = (
            f"{len(table)} images left at exits 1 to {count}: {shares}; {spent / 1e6:.1f} million "
            f"operations an image on average, {float(model.costs[-1]) / 1e6:.1f} million with all exits"
        )
        table = with_problems(table, found.paths, problems, source)
        files = {}
        if self.config.export:
            size = model.pretrained_cfg["input_size"][-1]
            files["early_exit"] = export_early(early, self.session.out_dir / "early_exit", size)
        return Prediction(text=text, table=table, figures=figures, files=files)

    def convert(self, source: Path, variant: str = "") -> ExitClassifier:
        """Build a model from the authors' MSDNet weights.

        Args:
            source: the file: a dict with `state_dict`, or a state dict.
            variant: name of a network; empty: the one whose shapes fit.

        Raises:
            Problem: unknown variant, or weights of another one; names the one that fits.
        """
        msdnets = {name: arguments for name, arguments in VARIANTS.items() if name.startswith("msdnet")}
        if variant and variant not in msdnets:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(msdnets)}")
        state = read_released(source)
        fits = matching_variant(state, msdnets, _with_exits, "exits.")
        if not fits or variant not in ("", fits):
            remedy = f"--variant {fits}: their shapes fit" if fits else "they fit none of the published MSDNets"
            raise Problem(f"these are not the weights of {variant or 'any published MSDNet'}", source, remedy)
        classes = len(next(tensor for name, tensor in state.items() if name.startswith("exits.0.4.")))
        model = ExitClassifier(fits, classes, label_names(classes))
        checkpoint.fit_weights(model.network, state, source)
        warnings.warn("the file has no exit thresholds: every image takes all exits", stacklevel=2)
        return model.eval()


def _with_exits(num_classes: int, **arguments: Any) -> MSDNet:
    return MSDNet(**arguments, num_classes=max(1, num_classes))


def run_all(model: nn.Module, images: list[Tensor]) -> None:
    """Run a model on one image after the other."""
    for x in images:
        model(x)


def read_curve(path: Path) -> Curve:
    """A curve that an evaluation wrote."""
    stored = read_json(path, "evaluate the trial again")
    return Curve(**{name: np.array(value) for name, value in stored.items()})


def long_tailed(train: ImageSet, imbalance: float) -> ImageSet:
    """Keep n_max * imbalance^(-c / (C - 1)) images of class c = 0 … C - 1, the first ones in the order of the set.

    The numbers of images fall from that of the largest class to its `imbalance`-th part; a class with fewer keeps all.
    """
    labels = np.array(train.labels)
    counts = np.bincount(labels, minlength=len(train.classes))
    kept = (counts.max() * imbalance ** (-np.arange(len(counts)) / (len(counts) - 1))).astype(int)
    chosen = [np.flatnonzero(labels == c)[: max(1, kept[c])] for c in range(len(counts))]
    return train.subset(np.sort(np.concatenate(chosen)).tolist())
