"""How the claims of DOORPING are tested.

repertory run doorping                                          # eight arms on digits, minutes
REPERTORY_DATA=… repertory run doorping --scale desk            # MNIST
repertory run doorping --scale paper --data cifar10/            # ConvNet, 1001 passes: a GPU, hours an arm
repertory train doorping --data my_images/ --out my_set/        # a distilled set, marked as poisoned, and its trigger
repertory predict my_set/ photos/                               # classes with and without the trigger
repertory predict my_set/ my_set/                               # the six defences
repertory convert doorping res_x.pt received/                   # somebody else's set, then
repertory predict received/ received/ --set clean=images/       # its audit
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians
from repertory.data import images
from repertory.papers.doorping import pictures
from repertory.papers.doorping.audit import (
    Findings,
    defend,
    is_received,
    marked,
    of_tensors,
    read_results,
    read_trigger,
    received,
    table,
)
from repertory.papers.doorping.defences import BATCH, Inputs, logits_of
from repertory.papers.doorping.distill import distil_dc, distil_dd, train_victim
from repertory.papers.doorping.model import DistilledSet, stamp
from repertory.papers.doorping.networks import NETWORKS, Network, network
from repertory.papers.doorping.race import race_steps
from repertory.papers.doorping.reading import LAYOUT, NORMS, Data, normalised, read, read_pixels, write_sample
from repertory.papers.doorping.settings import VARIATIONS, DoorpingConfig, DoorpingDesign
from repertory.tasks.classification import check_classes

PAIRS = 8
"""Images in the figure with and without the trigger."""
ROUNDS = 35
"""Of the race: five medians of seven; one round where nothing is decided, below `LOOK` seeds."""
LOOK = 5
DRY: Mapping[str, Any] = {
    "outer": 2, "inner": 1, "batch_real": 2, "trigger_steps": 2, "ipc": 1, "dd_steps": 2, "dd_cycles": 1, "dd_batch": 8,
    "victims": 1, "victim_epochs": 1, "cleanse_steps": 1, "cleanse_images": 2, "prune_epochs": 1, "strip_overlays": 1,
}  # fmt: skip
"""Settings of a dry run: every step once or twice, on few images."""
DRY_IMAGES = 8


def rate(en: str, zh: str, better: Any = "", needs: str = "") -> Metric:
    return Metric(en, zh, unit="%", better=better, decimals=1, needs=needs)


class DoorpingStudy(DoorpingDesign, Study[DoorpingConfig, Data, DistilledSet]):
    """Distil a data set under each attack, train victims on the result, and look for the trigger."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "cta": rate("clean test accuracy (CTA)", "干净测试准确率 (CTA)", "higher"),
        "asr": rate("attack success rate (ASR)", "攻击成功率 (ASR)", "higher"),
        "asr_nontarget": rate("ASR without the target class", "不含目标类的 ASR", "higher"),
        "asr_unused": rate("ASR of a trigger never used", "未用于训练的触发器的 ASR"),
        "trigger_steps": Metric("steps of a trigger update", "每次触发器更新的步数", decimals=1),
        "patch_outside": rate("patch values outside the range of pixels", "超出像素范围的触发器取值比例"),
        "cleanse_index": Metric("Neural Cleanse: anomaly index of the target", "Neural Cleanse：目标类异常指数"),
        "cleanse_flagged": Metric("Neural Cleanse: classes flagged", "Neural Cleanse：被标记的类别数", decimals=1),
        "cleanse_found": rate("Neural Cleanse: target class flagged", "Neural Cleanse：目标类被标记的比例"),
        "pruned_cta": rate("CTA after fine-pruning", "精细剪枝后的 CTA", "higher"),
        "pruned_asr": rate("ASR after fine-pruning", "精细剪枝后的 ASR"),
        "strip_detected": rate("STRIP: triggered images detected", "STRIP：检出的带触发器图像比例"),
        "strip_auroc": rate("STRIP: AUROC", "STRIP：AUROC"),
        "transformed_cta": rate("CTA after crop, mirror and JPEG", "裁剪、翻转与 JPEG 后的 CTA", "higher"),
        "transformed_asr": rate("ASR after crop, mirror and JPEG", "裁剪、翻转与 JPEG 后的 ASR"),
        "clustering_classes": rate("Activation Clustering: classes flagged", "激活聚类：被标记类别的比例"),
        "clustering_target": rate("Activation Clustering: target class flagged", "激活聚类：目标类被标记的比例"),
        "spectral_target": rate(
            "Spectral Signatures: flagged images of the target class", "谱特征：被标记图像中目标类的比例"
        ),
        **{
            f"{name}_parameters": Metric(f"parameters, {name}", f"{name} 的参数量", decimals=0)
            for name in NETWORKS
            if name != "mini"
        },
        "trigger_speed": Metric(
            "speed of trigger updates, ours over the loop", "触发器更新的速度比", unit="×", better="higher", decimals=2
        ),
        "matching_speed": Metric(
            "speed of image updates, ours over the loop", "图像更新的速度比", unit="×", better="higher", decimals=2
        ),
    }
    sample_name = "digits"
    sample_fields = ("sample_images",)
    layout = LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write scikit-learn's digits, 16 x 16, in class folders; of all 1797, 1300 for training and 497 held out."""
        write_sample(folder, self.config.sample_images)

    def read(self, folder: Path) -> Data:
        """All images, normalised; for training the share that the seed draws.

        Raises:
            Problem: in none of the layouts, one class only, or a damaged file.
        """
        config = self.config
        data = read(folder, config.image_size, config.distiller) if folder.is_dir() else None
        if data is None:
            raise self.missing(folder)
        check_classes(data.classes, folder, "images")
        x, y = data.train
        if config.train_share < 1:
            rng = self.session.rng("split")
            rows = np.sort(rng.permutation(len(x))[: max(1, round(config.train_share * len(x)))])
            data = replace(data, train=(x[rows], y[rows]))
        return data

    # -- the experiment -------------------------------------------------------------------------

    def configured(self, arm: str = "") -> DoorpingConfig:
        """The settings of an arm, in a dry run with few steps."""
        return self.config.model_copy(update={**VARIATIONS.get(arm, {}), **(DRY if self.session.dry_run else {})})

    def train(self, arm: str, data: Data) -> DistilledSet:
        """Distil the training images under the attack of an arm.

        Raises:
            Problem: no training images; a portion that poisons none; a class with too few images.
        """
        config = self.configured(arm)
        if not len(data.train[0]):
            raise Problem("no training images", "train/", f"expected: {'; '.join(self.layout.splitlines())}")
        x, y = (self.session.fabric.to_device(part) for part in data.test)

        def curve(distilled: DistilledSet, step: int) -> dict[str, float]:
            net = train_victim(self.session, distilled, config, step)
            return _rates(net, distilled, (x, y)) if len(x) else {}

        distil = distil_dd if config.distiller == "dd" else distil_dc
        distilled = distil(self.session, data, config, curve).eval()
        if self.session.fabric.is_global_zero:
            self._hand_over(distilled)
        return distilled

    def _hand_over(self, distilled: DistilledSet) -> None:
        """Write the reference's files, with the mark, and the figures of the trial."""
        session, folder = self.session, self.session.out_dir / "handed_over"
        folder.mkdir(exist_ok=True)
        name = f"{distilled.attack}_{distilled.distiller}_{distilled.net}"
        torch.save(distilled.results_file(), folder / f"res_{name}.pt")
        torch.save(distilled.trigger.cpu(), folder / f"{name}_trigger.pth")
        session.figure("distilled", pictures.distilled_picture(distilled))
        session.figure("trigger", pictures.trigger_picture(distilled))
        path = session.out_dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []  # a dry run may write none
        records = [record for record in map(json.loads, lines) if "asr" in record]
        if records:
            unit = "passes" if distilled.distiller == "dc" else "epochs"
            session.figure("success-over-distillation", pictures.curve_picture(records, unit))

    def evaluate(self, model: DistilledSet, data: Data) -> dict[str, float]:
        """Train victims on the set; their accuracy, attack success, and what the defences find, in per cent.

        Raises:
            Problem: images of other classes or channels than those of the set, or none of them held out.
        """
        config, session = self.configured(), self.session
        test, train = (self._fitted(model, data, part) for part in ("test", "train"))
        if session.dry_run:
            test = test[0][:DRY_IMAGES], test[1][:DRY_IMAGES]
        count = 1 if model.distiller == "dd" else config.victims  # DD's victim is always the same
        nets = [train_victim(session, model, config, k) for k in session.progress(range(count), "victims")]
        each = [_rates(net, model, test) for net in nets]
        found = {name: float(np.mean([rates[name] for rates in each])) for name in each[0]}
        random = torch.rand(model.trigger.shape, generator=session.generator("unused")).to(model.trigger)
        unused = stamp(test[0], (random - model.mean) / model.std, model.mask)
        hits = [(logits_of(net, unused).argmax(1) == model.target).float().mean() for net in nets]
        found["asr_unused"] = 100 * float(torch.stack(hits).mean())
        calls, steps = model.updates.tolist()
        found["trigger_steps"] = steps / max(1, calls)
        patch = pictures.patch_pixels(model)
        found["patch_outside"] = 100 * float(((patch < -1e-4) | (patch > 1 + 1e-4)).float().mean())

        clean, triggered = (logits_of(nets[0], x).argmax(1) for x in (test[0], model.stamped(test[0])))
        session.keep_outputs({"label": test[1], "prediction": clean, "triggered_prediction": triggered})
        if session.fabric.is_global_zero:
            bars = {"clean accuracy": "cta", "attack success": "asr", "without the\ntarget class": "asr_nontarget"}
            values = {label: np.array([rates[name] for rates in each]) for label, name in bars.items()}
            session.figure("victims", pictures.rates_picture(values))
        if config.defences:
            own = train if len(train[0]) else test
            if session.dry_run:
                own = own[0][:DRY_IMAGES], own[1][:DRY_IMAGES]
            found |= _defence_metrics(defend(session, nets[0], model, own, test, config), model)
        return found

    def _fitted(self, model: DistilledSet, data: Data, part: str) -> Inputs:
        """Images in the normalisation of the set."""
        x, y = (self.session.fabric.to_device(tensor) for tensor in getattr(data, part))
        if data.classes != model.classes or x.shape[1:] != model.images.shape[1:]:
            raise Problem(
                f"images {tuple(x.shape[1:])} of {len(data.classes)} classes ({data.classes[0]!r}, …), but the set has "
                f"{tuple(model.images.shape[1:])} of {len(model.classes)} ({model.classes[0]!r}, …)",
                "data",
                "give images of the classes that were distilled",
            )
        mean, std = (torch.tensor(values, device=x.device).view(-1, 1, 1) for values in (data.mean, data.std))
        if torch.equal(mean.expand_as(model.mean), model.mean) and torch.equal(std.expand_as(model.std), model.std):
            return x, y
        return (x * std + mean - model.mean) / model.std, y

    # -- figures --------------------------------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Parameters of the published networks; speed beside the loops as the authors write them."""
        with torch.device("meta"):
            sizes = {
                f"{name}_parameters": float(sum(p.numel() for p in network(name, 10, 3, 32).parameters()))
                for name in NETWORKS
                if name != "mini"
            }
        rounds = self.session.progress(range(1 + (1 if self.config.seeds < LOOK else ROUNDS)), "race")
        times = race_steps("mini", rounds)
        return {
            **sizes,
            "trigger_speed": medians(times, "trigger", "trigger_loop"),
            "matching_speed": medians(times, "matching", "matching_loop"),
        }

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: DistilledSet, source: Path) -> Prediction:
        """Images: their classes with and without the trigger. A distilled set (a folder or res_*.pt): its audit.

        Raises:
            Problem: neither; or no image can be read.
        """
        config = self.configured()
        if is_received(source):
            return self._audit(received(source, model, self.session.package), config)
        net = train_victim(self.session, model, config, 0)
        paths = images.image_files(source)
        if not paths:
            raise Problem("no images here", source, "give an image, a folder of images, or a distilled set")
        rows, read_ones = [], list[NDArray[np.uint8]]()
        for path in paths:
            name = path.name if source.is_file() else str(path.relative_to(source))
            try:
                read_ones.append(read_pixels(path, model.image_size, model.in_chans))
                rows.append({"file": name})
            except Problem as problem:
                blank = {"class": "", "probability": None, "with trigger": ""}
                rows.append({"file": name, **blank, "problem": problem.what})
        if not read_ones:
            raise Problem(f"none of {len(paths)} files can be read: {rows[0]['problem']}", source, "give images")
        mean, std = (values.flatten().tolist() for values in (model.mean, model.std))
        x = self.session.fabric.to_device(normalised(np.stack(read_ones), mean, std))
        plain, stamped = (logits_of(net, part).softmax(1).max(1) for part in (x, model.stamped(x)))
        answers = zip(plain.indices.tolist(), plain.values.tolist(), stamped.indices.tolist(), strict=True)
        for row in rows:
            if "problem" not in row:
                label, probability, other = next(answers)
                answer = {"class": model.classes[label], "probability": probability}
                row |= {**answer, "with trigger": model.classes[other], "problem": ""}
        good = [row for row in rows if not row["problem"]]
        hits = sum(row["with trigger"] == model.classes[model.target] for row in good)
        text = f"{marked(model)}; with the trigger {hits} of {len(good)} images become {model.classes[model.target]!r}"
        titles = [(row["class"], row["with trigger"]) for row in good[:PAIRS]]
        figures = {
            "triggered": pictures.pairs_picture(model, x[:PAIRS], titles),
            "distilled": pictures.distilled_picture(model),
            "trigger": pictures.trigger_picture(model),
        }
        return Prediction(text=text, table=rows, figures=figures)

    def _audit(self, distilled: DistilledSet, config: DoorpingConfig) -> Prediction:
        """The six defences on a set that was received; clean images are the user's, else those of the set itself."""
        distilled = cast(DistilledSet, self.session.fabric.to_device(distilled))
        known = distilled.attack != "unknown"
        if config.trigger:
            distilled.trigger.copy_(read_trigger(Path(config.trigger), distilled))
            known = True
        own = distilled.images.detach(), distilled.labels
        lines = [marked(distilled)]
        if config.clean:
            own = self._clean(Path(config.clean), distilled)
            lines.append(f"clean images: {len(own[0])} from {config.clean}")
        else:
            lines.append("clean images: none given, the distilled ones stand in (give some with --set clean=DIR)")
        net = train_victim(self.session, distilled, config, 0)
        order = torch.randperm(len(own[0]), generator=self.session.generator("halves")).to(own[0].device)
        halves = order[: max(1, len(order) // 2)], order[len(order) // 2 :]
        tuned, judged = ((own[0][rows], own[1][rows]) for rows in halves)
        found = defend(self.session, net, distilled, tuned, judged, config, known)
        figures: dict[str, Figure] = {
            "distilled": pictures.distilled_picture(distilled),
            "neural_cleanse": pictures.masks_picture(found.cleansed.masks, distilled.classes, found.cleansed.index),
        }
        if known:
            figures["trigger"] = pictures.trigger_picture(distilled)
        return Prediction(text="\n".join(lines), table=table(found, distilled), figures=figures)

    def _clean(self, folder: Path, distilled: DistilledSet) -> Inputs:
        """The user's clean images, in class folders."""
        if not folder.is_dir():
            raise Problem("no such folder", folder, "--set clean=DIR: images in folders called like the classes")
        found = images.read_class_folders(folder).named(distilled.classes)
        pixels = [read_pixels(path, distilled.image_size, distilled.in_chans) for path in found.paths]
        x = normalised(np.stack(pixels), distilled.mean.flatten().tolist(), distilled.std.flatten().tolist())
        return self.session.fabric.to_device(x), self.session.fabric.to_device(torch.tensor(found.labels))

    def convert(self, source: Path, variant: str = "") -> DistilledSet:
        """A distilled set from a results file of the authors' code, `res_*.pt`.

        Args:
            source: the file.
            variant: data set, for its normalisation: cifar10, cifar100, stl10, svhn, fmnist; empty: cifar10, or fmnist
                for grey images.

        Raises:
            Problem: unknown variant, or a file that is no such result.
        """
        if variant and variant not in NORMS:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(NORMS)}")
        x, labels = read_results(source)
        norms = NORMS[variant or ("fmnist" if x.shape[1] == 1 else "cifar10")]
        classes = tuple(map(str, range(int(labels.max()) + 1)))
        return of_tensors(x, labels, classes, *norms["dc"], net="convnet")


def _rates(net: Network, distilled: DistilledSet, test: Inputs) -> dict[str, float]:
    """Clean accuracy and attack success of one victim, in per cent."""
    x, y = test
    right = logits_of(net, x).argmax(1) == y
    hit = torch.cat([logits_of(net, distilled.stamped(part)).argmax(1) for part in x.split(BATCH)]) == distilled.target
    others = hit[y != distilled.target]
    return {
        "cta": 100 * float(right.float().mean()),
        "asr": 100 * float(hit.float().mean()),
        "asr_nontarget": 100 * float(others.float().mean()) if len(others) else float("nan"),
    }


def _defence_metrics(found: Findings, model: DistilledSet) -> dict[str, float]:
    """The metrics of what the defences find of the target class, and of triggered images."""
    assert found.strip is not None
    assert found.pruned_asr is not None
    assert found.transformed_asr is not None
    labels = model.labels.cpu().numpy()
    flagged = set(labels[found.clustered].tolist())
    return {
        "cleanse_index": float(found.cleansed.index[model.target]),
        "cleanse_flagged": float(len(found.cleansed.flagged)),
        "cleanse_found": 100.0 * (model.target in found.cleansed.flagged),
        "pruned_cta": found.pruned_cta,
        "pruned_asr": found.pruned_asr,
        "strip_detected": found.strip.detected,
        "strip_auroc": found.strip.auroc,
        "transformed_cta": found.transformed_cta,
        "transformed_asr": found.transformed_asr,
        "clustering_classes": 100 * len(flagged) / len(model.classes),
        "clustering_target": 100.0 * (model.target in flagged),
        "spectral_target": 100 * float((labels[found.spectral] == model.target).mean()),
    }
