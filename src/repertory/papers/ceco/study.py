"""Tests of CeCo's claims.

repertory run ceco                                # five arms on small scenes with a long tail, minutes
repertory run ceco --scale paper --data ADEChallengeData2016/ --arms ce,ceco --devices 4 --precision 16-mixed
                                                  # UPerNet with Swin-T, 160,000 steps
repertory run ceco --scale paper --data ADEChallengeData2016/ --arms ceco \\
    --set view_scales=[0.5,0.75,1,1.25,1.5,1.75] --set view_flip=true
repertory train ceco --data my_scenes/ --set arch=resnet50 --out my_model/
repertory predict my_model/ photo.jpg
repertory run ceco --scale points --arms ce,ceco  # point clouds: small rooms in ScanNet's layout
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from repertory.core import checkpoint
from repertory.core.files import write_text
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Session, Study
from repertory.core.training import fit, loader
from repertory.data import ade20k, scannet
from repertory.data.ade20k import IGNORE, SceneSet
from repertory.data.images import image_files, read_image
from repertory.data.scannet import RoomSet
from repertory.nn.macs import count_macs
from repertory.papers.ceco import points
from repertory.papers.ceco.collapse import (
    COLLAPSE_METRICS,
    Features,
    collapse_metrics,
    cosines,
    cosines_picture,
    curves_picture,
)
from repertory.papers.ceco.hosts import CHANNELS
from repertory.papers.ceco.model import VARIANTS, WIDTH, CeCoLoss, simplex_etf
from repertory.papers.ceco.network import CeCoNet, parameter_groups
from repertory.papers.ceco.points import CeCoPoints, Points
from repertory.papers.ceco.sample import write_ade_tiny
from repertory.papers.ceco.settings import CeCoConfig, CeCoDesign
from repertory.papers.ceco.weights import load_pretrained, released_network
from repertory.tasks import segmentation
from repertory.tasks.classification import check_classes
from repertory.tasks.segmentation import SEGMENTATION_METRICS

ARMS: dict[str, dict[str, Any] | None] = {
    "ce": None,
    "rr": VARIANTS["rr"],
    "ceco": VARIANTS["ceco"],
    "learned_projection": {**VARIANTS["ceco"], "project": "learned"},
    "no_prior": {**VARIANTS["ceco"], "prior": "none"},
}
"""The branch of each arm."""

SCANS = "scans"
"""Folder by which ScanNet's layout is known."""
MAX_NAMED = 20
"""Classes of which each has a metric of its own; with more there is the picture alone."""
MAX_PICTURES = 6
"""Overlays among the figures of a prediction; all of them are files."""
CENTRE_IMAGES = 200
"""Held-out images in the picture of cosines before and after training."""
DRY_SIZE = 64
"""Side of the input in a dry run, which checks that a recipe builds."""


Network = CeCoNet | CeCoPoints
Data = SceneSet | RoomSet


Item = tuple[Any, Tensor | None, Callable[[NDArray[Any], str], Figure]]
"""What the network takes, labels if there are any, and what draws the answer under a title."""
Source = tuple[Path, Callable[[], Item]]
"""A file, and what reads it."""


@dataclass(frozen=True)
class SceneData:
    """Training and held-out photographs, or rooms."""

    train: Data
    test: Data
    counts: Mapping[str, list[int]]
    """"image", "pixel": training images (rooms) and pixels (points) of each class."""


class CeCoStudy(CeCoDesign, Study[CeCoConfig, SceneData, Network]):
    """Segment scenes with each branch; score classes by frequency; measure how near to a simplex ETF they come."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **SEGMENTATION_METRICS,
        **COLLAPSE_METRICS,
        "parameters": Metric("parameters in inference", "推理时的参数量", better="lower", decimals=0),
        "branch_parameters": Metric("parameters of the branch", "分支的参数量", decimals=0),
        "frame_deviation": Metric(
            "largest deviation of the frame's cosines, 150 classes", "框架余弦的最大偏差（150 类）", better="lower"
        ),
        "added_macs": Metric(
            "multiply-accumulates that the branch adds to inference",
            "分支给推理增加的乘加次数",
            better="lower",
            decimals=0,
        ),
        "added_trained_parameters": Metric(
            "trained parameters that the branch adds", "分支增加的可训练参数量", better="lower", decimals=0
        ),
        "added_frozen_parameters": Metric(
            "frozen parameters that the branch adds, UPerNet, 150 classes",
            "分支增加的冻结参数量（UPerNet，150 类）",
            decimals=0,
        ),
    }
    sample_name = "small scenes"
    sample_fields = ("sample", "sample_train", "sample_val", "sample_points")
    seeded_data = False
    layout = f"{ade20k.LAYOUT}\nor, of point clouds: {scannet.LAYOUT}"

    def __init__(self, config: CeCoConfig, session: Session) -> None:
        sampled = session.data_dir is None and not config.real
        rooms = session.data_dir is not None and (session.data_dir / SCANS).is_dir()
        super().__init__(config.completed(sampled, rooms or (sampled and config.sample == "scannet_tiny")), session)

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write small scenes with a long tail of objects in ADE20K's layout, or rooms in ScanNet's.

        Each seed draws its own.
        """
        c = self.config
        if c.sample == "scannet_tiny":
            scannet.write_sample(folder, c.sample_train, c.sample_val, c.sample_points, self.session.seed)
        else:
            write_ade_tiny(folder, c.sample_train, c.sample_val, self.session.seed)

    def sample_key(self) -> str:
        return f"{super().sample_key()}-seed{self.session.seed}"

    def read(self, folder: Path) -> SceneData:
        c = self.config
        if (folder / SCANS).is_dir():
            ids = Path(c.scannet_ids) if c.scannet_ids else None
            rooms, held_out = (scannet.read_split(folder, part, ids) for part in ("train", "val"))
            return SceneData(rooms, held_out, scannet.class_frequency(rooms, self.session.progress))
        root = ade20k.unpacked(folder)
        if not (root / "images").is_dir():
            raise self.missing(folder)
        train, test = (
            ade20k.read_split(folder, part, c.classes or None, c.zero_is_ignore) for part in ("train", "val")
        )
        check_classes(train.classes, root, "pixels")
        return SceneData(train, test, ade20k.class_frequency(train, root, self.session.progress))

    # -- the experiment -------------------------------------------------------------------------

    def build(self, arm: str, data: SceneData) -> Network:
        """The untrained network of an arm."""
        c = self.config
        names, counts = list(data.train.classes), list(data.counts["image"])
        branch = self.branch(arm, data.counts)
        if isinstance(data.train, RoomSet):
            return CeCoPoints(len(names), branch, c.voxel, c.grid, c.avg_valid, names, counts)
        return CeCoNet(
            c.arch,
            len(names),
            branch,
            c.channels,
            c.drop_path,
            c.avg_valid,
            names,
            counts,
            DRY_SIZE if self.session.dry_run else c.image_size,
        )

    def branch(self, arm: str, counts: Mapping[str, list[int]]) -> dict[str, Any] | None:
        """Options of `CeCoLoss` for an arm, with what the configuration changes."""
        options = ARMS[arm]
        if options is None:
            return None
        c = self.config
        changes = {
            "weight": c.centre_weight, "scale": c.centre_scale, "smooth": c.centre_smooth,
            "classifier": c.classifier or None, "project": c.project or None, "prior": c.prior or None,
        }  # fmt: skip
        options = {"prior": "image"} | options | {k: v for k, v in changes.items() if v is not None}
        return options | {"prior": counts.get(options["prior"])}

    def train(self, arm: str, data: SceneData) -> Network:
        """Train one arm; draws how cosines and collapse change.

        Raises:
            Problem: one class only, a batch of one image, or weights that do not fit.
        """
        c = self.config
        if min(c.batch_size, len(data.train)) < 2:
            raise Problem("a batch of one image", "batch_size", "give 2 or more: a pooled map has one pixel")
        unseen = [name for name, count in zip(data.train.classes, data.counts["image"], strict=True) if not count]
        if unseen:
            shown = ", ".join(unseen[:5]) + (", …" if len(unseen) > 5 else "")
            warnings.warn(f"{len(unseen)} classes are in no training image: {shown}", stacklevel=2)
        self.session.reseed("weights")
        model = self.build(arm, data)
        if c.pretrained and not self.session.dry_run:
            if isinstance(model, CeCoPoints):
                raise Problem("no weights to start from for point clouds", "pretrained", "leave it empty")
            load_pretrained(model, c.pretrained)
        self.session.fabric.to_device(model.eval())
        before = self._centres(model, data.test)
        model = fit(
            self.session,
            model,
            self._augmented(data.train),
            c,
            loss,
            collate=points.collate if isinstance(data.train, RoomSet) else None,
            evaluate=lambda module: self.scores(module, data.test, data.counts["image"]),
            groups=partial(parameter_groups, decay=c.weight_decay),
        )
        if self.session.fabric.is_global_zero:
            self._draw_training(before, self._centres(model, data.test), data.test.classes)
        return model

    def _augmented(self, train: Data) -> Data:
        c = self.config
        if isinstance(train, RoomSet):
            return train.with_transform(points.mirrored) if c.flip else train
        size = min(c.crop, DRY_SIZE) if self.session.dry_run else c.crop
        ratio = c.smallest_ratio, max(c.smallest_ratio, c.largest_ratio)
        cropping = [
            segmentation.RandomRatioResize(c.box, ratio),
            segmentation.BalancedCrop(size, c.largest_share, IGNORE),
        ]
        steps = [
            *(cropping if size else []),
            v2.RandomHorizontalFlip(c.flip),
            *([v2.RandomPhotometricDistort()] if c.distort else []),
        ]
        return train.with_transform(v2.Compose(steps))

    @torch.no_grad()
    def _centres(self, model: Network, test: Data) -> dict[int, NDArray[np.float64]]:
        """Class -> mean of its features on the first held-out images."""
        features = Features(model.num_classes)
        for item, labels in islice(self._items(test, "centres"), CENTRE_IMAGES):
            features.add(model.answer(item)[1], labels)
        if not any(features.of_class):
            return {}
        seen, means, _ = features.moments()
        return dict(zip(seen, means, strict=True))

    def _draw_training(self, before: Mapping[int, Any], after: Mapping[int, Any], classes: tuple[str, ...]) -> None:
        both = sorted(before.keys() & after.keys())
        if len(both) < 2:
            return
        panels = {
            title: cosines(np.stack([means[k] for k in both]))
            for title, means in (("before training", before), ("after training", after))
        }
        self.session.figure("cosines-of-centres", cosines_picture(panels, [classes[k] for k in both]))
        path = self.session.out_dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []  # a dry run ends before
        records = [record for record in map(json.loads, lines) if record.get("equiangularity") is not None]
        if records:
            self.session.figure("collapse", curves_picture(records))

    def _items(self, data: Data, label: str, shard: bool = False) -> Iterator[tuple[Any, Tensor]]:
        """Images (3, H, W) and labels (H, W), small in a dry run; or points and labels (N,)."""
        if isinstance(data, RoomSet):
            return loader(self.session, data, 1, collate=points.collate, label=label, shard=shard)
        small = v2.Resize((DRY_SIZE, DRY_SIZE)) if self.session.dry_run else None
        data = data.with_transform(small)
        return loader(self.session, data, 1, collate=_only, workers=self.config.workers, label=label, shard=shard)

    def _answer(self, model: Network, item: Any) -> tuple[Tensor, Tensor]:
        """Classes and features of an image or a room."""
        if isinstance(model, CeCoPoints):
            return model.answer(item)
        return model.answer(item, self.config.view_scales, self.config.view_flip)

    def evaluate(self, model: Network, data: SceneData) -> dict[str, float]:
        """Scores and collapse on the held-out images; sizes.

        Raises:
            Problem: the data have other classes than the model.
        """
        if list(data.test.classes) != model.label_names:
            what = f"{len(data.test.classes)} classes ({data.test.classes[0]}, …), the model has {model.num_classes}"
            raise Problem(what, "data", "give data of the classes that the model was trained on")
        counts = model.counts or data.counts["image"]
        metrics = self.scores(model, data.test, counts, keep=True)
        branch = 0 if model.branch is None else sum(p.numel() for p in model.branch.parameters())
        return {
            **metrics,
            "parameters": float(sum(p.numel() for p in model.parameters()) - branch),
            "branch_parameters": float(branch),
        }

    def scores(self, model: nn.Module, test: Data, counts: list[int], *, keep: bool = False) -> dict[str, float]:
        """IoU of all classes and of groups by frequency, in per cent; collapse. `keep` stores counts of each image."""
        assert isinstance(model, Network)
        matrix = segmentation.confusion(model.num_classes, model.ignore).to(self.session.fabric.device)
        features = Features(model.num_classes)
        kept: list[Tensor] = []
        for item, labels in self._items(test, "evaluate", shard=True):
            predicted, maps = self._answer(model, item)
            matrix.update(predicted, labels)
            features.add(maps, labels)
            if keep:
                kept.append(_counts(predicted, labels, model.num_classes, model.ignore))
        table = matrix.compute()
        metrics = segmentation.segmentation_scores(table)
        metrics |= segmentation.group_scores(table, segmentation.frequency_groups(counts))
        metrics |= collapse_metrics(features, model.classifier_rows())
        if keep:
            hits, predicted, annotated = torch.stack(kept).unbind(1)
            found = {"hits": hits, "predicted": predicted, "annotated": annotated}
            self.session.keep_outputs(found, sharded=True)
            ious = segmentation.class_ious(table)
            self.session.figure("iou-by-class", segmentation.iou_picture(ious, test.classes, counts))
            if model.num_classes <= MAX_NAMED:
                named = zip(test.classes, ious.tolist(), strict=True)
                metrics |= {
                    "iou_class_" + re.sub(r"[^\w.+-]", "_", name): 100 * iou for name, iou in named if iou == iou
                }
        return metrics

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """How exact the frame is, and what the branch adds to a network."""
        classes = 150
        frame = simplex_etf(classes, WIDTH, self.session.generator("frame")).double()
        cosine = -1 / (classes - 1)
        expected = (1 - cosine) * torch.eye(classes, dtype=torch.float64) + cosine
        branch = CeCoLoss(classes, CHANNELS)
        images = torch.zeros(1, 3, DRY_SIZE, DRY_SIZE)
        plain, regularised = (count_macs(CeCoNet("mini", 20, options).eval(), images) for options in (None, {}))
        return {
            "frame_deviation": float((frame @ frame.T - expected).abs().max()),
            "added_macs": float(regularised - plain),
            "added_trained_parameters": float(sum(p.numel() for p in branch.parameters() if p.requires_grad)),
            "added_frozen_parameters": float(sum(p.numel() for p in [*branch.parameters(), branch.prior])),
        }

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: Network, source: Path) -> Prediction:
        """Segment one image, or all images below a folder; of a folder in ADE20K's layout the held-out ones.

        A network of point clouds takes a PLY file, or all below a folder; in ScanNet's layout the held-out ones. The
        table has a row for each class of each image, with its share of the pixels; an image that cannot be read
        has a row with the reason. Files: class maps ("number" of the table) and overlays with legends. Where the
        folder has annotations, they are scored.

        Raises:
            Problem: no images, or the only one cannot be read.
        """
        sources = self._point_sources(source, model) if isinstance(model, CeCoPoints) else self._sources(source, model)
        folders = {name: self.session.out_dir / name for name in ("class-maps", "overlays")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        table: list[dict[str, Any]] = []
        figures: dict[str, Figure] = {}
        matrix, features = segmentation.confusion(model.num_classes, model.ignore), Features(model.num_classes)
        annotated = 0
        for path, read in self.session.progress(sources, "predict"):
            name = path.name if path == source else str(path.relative_to(source))
            try:
                item, labels, draw = read()
            except Problem as problem:
                if len(sources) == 1:
                    raise
                table.append({"file": name, "number": "", "class": "", "share": float("nan"), "problem": problem.what})
                continue
            predicted, maps = (y.cpu() for y in self._answer(model, self.session.fabric.to_device(item)))
            ids = predicted.numpy()
            table += [
                {"file": name, "number": k, "class": model.label_names[k], "share": share, "problem": ""}
                for k, share in segmentation.shares(ids, model.num_classes).items()
            ]
            flat = re.sub(r"[/\\]", "_", str(Path(name).with_suffix("")))
            if ids.ndim == 2:
                segmentation.write_ids(folders["class-maps"] / f"{flat}.png", ids)
            else:
                write_text(folders["class-maps"] / f"{flat}.txt", "".join(f"{k}\n" for k in ids.tolist()))
            picture = draw(ids, name)
            picture.savefig(folders["overlays"] / f"{flat}.png", dpi=100)
            if len(figures) < MAX_PICTURES:
                figures[f"overlay-{len(figures) + 1}"] = picture
            if labels is not None:
                annotated += 1
                matrix.update(predicted, labels)
                features.add(maps, labels)
        found = self._scored(model, matrix.compute(), features) if annotated else None
        rows = model.classifier_rows().double().cpu().numpy()
        if found is None:
            figures["cosines"] = cosines_picture({"classifier": cosines(rows)}, model.label_names)
            return Prediction(table=table, figures=figures, files=folders)
        text, more = found
        return Prediction(text=f"{annotated} annotated: {text}", table=table, figures=figures | more, files=folders)

    def _scored(self, model: Network, matrix: Tensor, features: Features) -> tuple[str, dict[str, Figure]]:
        """Scores of annotated images in words; IoU of the classes by frequency, cosines of centres and classifier."""
        scores = segmentation.segmentation_scores(matrix) | collapse_metrics(features, model.classifier_rows())
        text = "; ".join(
            f"{metric.en} {scores[name]:.{metric.decimals}f}{f' {metric.unit}' if metric.unit else ''}"
            for name, metric in self.metrics.items()
            if name in scores
        )
        counts = model.counts or [0] * model.num_classes
        if not any(features.of_class):
            return text, {}
        seen, means, _ = features.moments()
        rows = model.classifier_rows().double().cpu().numpy()[seen]
        panels = {"class centres": cosines(means), "classifier": cosines(rows)}
        return text, {
            "iou-by-class": segmentation.iou_picture(segmentation.class_ious(matrix), model.label_names, counts),
            "cosines": cosines_picture(panels, [model.label_names[k] for k in seen]),
        }

    def _sources(self, source: Path, model: Network) -> list[Source]:
        """Images to segment, with labels if the folder is in ADE20K's layout and has the model's classes."""
        root, data = ade20k.unpacked(source), None
        if (root / "images").is_dir() and (root / "annotations").is_dir():
            data = ade20k.read_split(root, "val", model.num_classes, self.config.zero_is_ignore)
        paths = data.images if data else image_files(source)
        if not paths:
            raise Problem("no images here", source, "give an image, or a folder that holds some")
        scored = data if data and list(data.classes) == model.label_names else None

        def read(index: int) -> Item:
            pixels = np.array(read_image(paths[index]))
            image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
            labels = scored[index][1] if scored else None
            return image, labels, lambda ids, title: segmentation.overlay_picture(pixels, ids, model.label_names, title)

        return [(path, partial(read, index)) for index, path in enumerate(paths)]

    def _point_sources(self, source: Path, model: CeCoPoints) -> list[Source]:
        """Scans to segment, with labels if the folder is in ScanNet's layout and has the model's classes."""
        data = None
        if (source / SCANS).is_dir():
            ids = Path(self.config.scannet_ids) if self.config.scannet_ids else None
            data = scannet.read_split(source, "val", ids)
        scans = (
            [folder / f"{folder.name}{scannet.PLY}" for folder in data.scenes] if data else scannet.find_scans(source)
        )
        scored = data if data and list(data.classes) == model.label_names else None

        def read(index: int) -> Item:
            places, colours = scannet.read_points(scans[index])
            labels = scored.labels(scored.scenes[index], len(places)) if scored else None
            item = Points(places, colours, torch.zeros(len(places), dtype=torch.long))
            return item, labels, lambda ids, title: points.picture(places, ids, model.label_names, title)

        return [(path, partial(read, index)) for index, path in enumerate(scans)]

    def convert(self, source: Path, variant: str = "") -> CeCoNet:
        """Build a network from a checkpoint of mmsegmentation: UPerNet with Swin-T, -S or -B, with or without branch.

        Args:
            source: the file.
            variant: none are needed: network and classes follow from the tensors.

        Raises:
            Problem: weights of something else.
        """
        checkpoint.refuse_variant(variant)
        return released_network(source)


def loss(model: nn.Module, batch: tuple[Any, Tensor]) -> dict[str, Tensor]:
    """Losses of images (B, 3, H, W) and labels (B, H, W), or of points and labels (N,)."""
    return model(*batch)


def _only(items: list[Any]) -> Any:
    return items[0]


def _counts(predicted: Tensor, labels: Tensor, classes: int, ignore: int) -> Tensor:
    """Of an image: pixels of each class that are hit, predicted, annotated; (3, K). Ignored pixels do not count."""
    valid = labels != ignore
    predicted, labels = predicted[valid], labels[valid]
    groups = predicted[predicted == labels], predicted, labels
    return torch.stack([torch.bincount(group, minlength=classes) for group in groups])
