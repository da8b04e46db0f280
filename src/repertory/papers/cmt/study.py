"""Tests of CMT's claims.

repertory run cmt                                           # five arms in a small town, see the card for the time
repertory run cmt --scale paper --data nuscenes/ --arms fusion --devices 8 --num-nodes 1
                                                            # ResNet-50, 800 x 320; published 67.9 mAP, 70.8 NDS
repertory run cmt --scale vov --data nuscenes/ --arms fusion,lidar,camera --devices 8
                                                            # VoVNet-99, 1600 x 640; published 70.3 mAP, 72.9 NDS
repertory train cmt --data nuscenes/ --set version=v1.0-mini --out my_model/
repertory predict my_model/ nuscenes/ --set frame=TOKEN --set without=lidar
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.core.training import loader
from repertory.data import nuscenes
from repertory.data.nuscenes import CAMERAS, CLASSES, Boxes, Frame, Tables
from repertory.data.towns import Town, write_town
from repertory.papers.cmt import pictures
from repertory.papers.cmt.augmentation import Scene, without_images, without_points
from repertory.papers.cmt.heads import CMTHead, decode
from repertory.papers.cmt.items import Augmentation, Batch, FrameSet, class_balanced, collate
from repertory.papers.cmt.model import CMT, VARIANTS
from repertory.papers.cmt.pasting import Paster
from repertory.papers.cmt.settings import CMTConfig, CMTDesign
from repertory.papers.cmt.training import Trunks, train
from repertory.papers.cmt.weights import load_pretrained, released_network
from repertory.tasks.detection3d import DETECTION_METRICS, Scores, class_agnostic, nuscenes_scores
from repertory.tasks.settings import fitted

ARMS: dict[str, dict[str, Any]] = {
    "fusion": {"sensors": "fusion", "masked": True, "denoising": True},
    "unmasked": {"sensors": "fusion", "masked": False, "denoising": True},
    "lidar": {"sensors": "lidar", "masked": False, "denoising": True},
    "camera": {"sensors": "camera", "masked": False, "denoising": True},
    "no_denoising": {"sensors": "fusion", "masked": False, "denoising": False},
}
"""Sensors and training of each arm."""

DEAD: Mapping[str, Callable[[Scene], Scene]] = {"lidar": without_points, "camera": without_images}
"""Sensor -> what a scene is without it."""
CONDITIONS = {"": "all sensors", "without_lidar": "without LiDAR", "without_cameras": "without cameras"}
"""Suffix of metrics -> what is evaluated."""
EVALUATED = 8
"""Frames of a batch in evaluation."""
MAX_PICTURES = 6
DRY_IMAGE = (64, 160)
"""Input of a published image network in a dry run."""
DRY_GRID = 64


def _suffixed() -> dict[str, Metric]:
    """The metrics under each condition."""
    extra = {
        "agnostic_AP": Metric(
            "average precision regardless of class", "不分类别的平均精度", unit="%", better="higher", decimals=1
        )
    }
    found = {**DETECTION_METRICS, **extra}
    words = {"without_lidar": ("without LiDAR", "无激光雷达"), "without_cameras": ("without cameras", "无相机")}
    for suffix, (en, zh) in words.items():
        for name in ("mAP", "NDS", "agnostic_AP"):
            metric = {**DETECTION_METRICS, **extra}[name]
            found[f"{name}_{suffix}"] = Metric(
                f"{metric.en}, {en}", f"{metric.zh}（{zh}）", metric.unit, metric.better, metric.decimals
            )
    return found


@dataclass(frozen=True)
class DrivingData:
    """Training and held-out key frames."""

    train: list[Frame]
    test: list[Frame]
    classes: tuple[str, ...]
    cameras: tuple[str, ...]


class CMTStudy(CMTDesign, Study[CMTConfig, DrivingData, CMT]):
    """Detect objects with all sensors or one, trained with dead sensors or not; score with all and without each."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **_suffixed(),
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "true_boxes": Metric("true boxes that count", "计入的真值框数", decimals=0),
        "fusion_head_parameters": Metric("parameters of the fusion head", "融合头的参数量", decimals=0),
        "camera_head_parameters": Metric("parameters of the camera head", "相机头的参数量", decimals=0),
        "lidar_head_parameters": Metric("parameters of the LiDAR head", "激光雷达头的参数量", decimals=0),
    }
    sample_name = "small town"
    sample_fields = (
        "train_scenes", "val_scenes", "scene_frames", "kinds", "fewest", "most_objects", "reach", "spread", "azimuths",
    )  # fmt: skip
    seeded_data = False
    layout = nuscenes.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write a small town in nuScenes' tables. Each seed draws its own."""
        c = self.config
        town = Town(
            c.train_scenes, c.val_scenes, c.scene_frames, c.kinds, c.fewest, c.most_objects, c.reach,
            azimuths=c.azimuths, spread=c.spread,
        )  # fmt: skip
        write_town(folder, town, self.session.seed, self.session.progress)

    def sample_key(self) -> str:
        return f"{super().sample_key()}-seed{self.session.seed}"

    def read(self, folder: Path) -> DrivingData:
        c = self.config
        if not any(folder.glob("v1.0-*")):
            raise self.missing(folder)
        tables = Tables(folder, c.version)
        split = nuscenes.scene_split(tables, Path(c.split_file) if c.split_file else None)
        train_frames, test = (nuscenes.read_frames(tables, split[part], c.sweeps) for part in ("train", "val"))
        for frames in (train_frames, test):
            nuscenes.check_files(frames, tables, self.session.progress)
        seen = {name for frame in train_frames for name in frame.truth.name.tolist()}
        classes = c.classes or tuple(name for name in CLASSES if name in seen)
        if unknown := [name for name in classes if name not in CLASSES]:
            raise Problem(f"no class of nuScenes: {unknown[0]}", "classes", f"choose from {', '.join(CLASSES)}")
        if not classes:
            raise Problem(
                "no training frame has a box of the detection task's classes", folder, "check sample_annotation"
            )
        channels = {camera.channel for frame in train_frames for camera in frame.cameras}
        return DrivingData(train_frames, test, classes, tuple(name for name in CAMERAS if name in channels))

    # -- the experiment -------------------------------------------------------------------------

    def options(self, arm: str, data: DrivingData) -> dict[str, Any]:
        """Arguments of an arm's network."""
        c = self.config
        sensors = ARMS[arm]["sensors"]
        options: dict[str, Any] = {
            **VARIANTS[c.arch], "classes": list(data.classes), "cameras": list(data.cameras), "sensors": sensors,
            "lidar_backbone": c.lidar_backbone, "sweeps": c.sweeps, "checkpointing": c.checkpointing,
        }  # fmt: skip
        if c.lidar_backbone == "voxel":
            options["grid"] = 1024 if c.arch == "cmt_r50" else 1440
        if c.queries:
            options["queries"] = c.queries
        if self.session.dry_run and c.arch != "tiny":
            options |= {"image_size": DRY_IMAGE, "grid": DRY_GRID}
        if sensors != "lidar" and not data.cameras:
            raise Problem(f"arm {arm} needs images and there is no camera", "data", "choose the arm lidar")
        return options

    def frames(self, frames: Sequence[Frame], model: CMT, augmentation: Augmentation | None = None) -> FrameSet:
        """Key frames as items for a network."""
        return FrameSet(
            frames, model.classes, model.cameras, model.image_size, model.bounds, model.sweeps, augmentation
        )

    def train(self, arm: str, data: DrivingData) -> CMT:
        """Train one arm.

        Raises:
            Problem: no frames, a class that is unknown, more boxes than queries, or weights that do not fit.
        """
        c = self.config
        if not data.train:
            raise Problem("no training frames", "data", "give scenes with samples, or another split_file")
        self.session.reseed("weights")
        model = CMT(**self.options(arm, data))
        model.denoising = ARMS[arm]["denoising"]
        if c.grid_reference:
            grid_references(model)
        if c.pretrained and not self.session.dry_run:
            load_pretrained(model, c.pretrained)
        stages = self._stages(model, data, masked=ARMS[arm]["masked"])
        if c.pretrain_epochs:
            trunks = self.session.shared("trunks", partial(self._trunks, data))
            for name in ("image_trunk", "lidar_trunk"):
                if hasattr(model, name):
                    getattr(model, name).load_state_dict(getattr(trunks, name).state_dict())
        return train(self.session, model, stages, c, model.parameter_groups(c.weight_decay))

    def _stages(self, model: CMT, data: DrivingData, *, masked: bool) -> list[tuple[FrameSet, int]]:
        """Data sets and their epochs: with pasted objects, then without."""
        c = self.config
        augmentation = Augmentation(
            masked, c.turn, c.scale, c.shift, c.flip, (c.smallest_zoom, c.largest_zoom), c.image_flip, c.grid_mask
        )
        frames = self.frames(data.train, model, augmentation)
        if c.balanced:
            frames = frames.of_rows(class_balanced(data.train, model.classes, self.session.rng("balance")))
        if not c.paste:
            return [(frames, c.epochs)]
        last = min(c.last_epochs, c.epochs - 1)
        pasted = frames.with_changes(
            Augmentation(**{**vars(augmentation), "paste": Paster(self.frames(data.train, model))})
        )
        return [(pasted, c.epochs - last), *([(frames, last)] if last else [])]

    def _trunks(self, data: DrivingData) -> Trunks:
        """Both trunks, pre-trained; all arms of a seed start from them."""
        c = self.config
        options = self.options("fusion", data)
        trunks = Trunks(options)
        frames = self.frames(
            data.train, CMT(**options), Augmentation(turn=c.turn, scale=c.scale, shift=c.shift, flip=c.flip)
        )
        groups = [{"params": list(trunks.parameters()), "lr_scale": 1.0, "weight_decay": c.weight_decay}]
        return train(self.session, trunks, [(frames, c.pretrain_epochs)], c, groups, part="trunks")

    def evaluate(self, model: CMT, data: DrivingData) -> dict[str, float]:
        """Scores on the held-out frames with all sensors, and without each; classes without true boxes do not count.

        A model of one sensor has the same scores without the other.

        Raises:
            Problem: the data have none of the model's classes.
        """
        metrics: dict[str, float] = {}
        curves: dict[str, dict[str, float]] = {}
        frames = self.frames(data.test, model)
        for suffix, label in CONDITIONS.items():
            sensor = {"without_lidar": "lidar", "without_cameras": "camera"}.get(suffix, "")
            only = {"lidar": not model.uses_cameras, "camera": not model.uses_lidar}.get(sensor, False)
            if only:  # its single sensor is dead
                continue
            found = self.detections(model, frames.with_changes(sensor=DEAD.get(sensor)))
            scores, agnostic = self.scores(found, data.test, model)
            if not suffix:
                metrics |= scores.metrics()
                metrics["agnostic_AP"] = 100 * agnostic
                metrics["true_boxes"] = float(len(_truth(data.test, model)))
                self._keep(found, data.test)
            else:
                metrics |= {
                    f"mAP_{suffix}": 100 * scores.mean_ap, f"NDS_{suffix}": 100 * scores.nds,
                    f"agnostic_AP_{suffix}": 100 * agnostic,
                }  # fmt: skip
            by_class = zip(scores.classes, (100 * scores.ap.mean(1)).tolist(), strict=True)
            curves[label] = dict(by_class)
        self.session.figure("precision-by-class", pictures.class_picture(curves, "held-out frames"))
        return {**metrics, "parameters": float(sum(p.numel() for p in model.parameters()))}

    def detections(self, model: CMT, frames: FrameSet) -> Boxes:
        """Detections of all frames, in global coordinates."""
        model.eval()
        rows: list[Boxes] = []
        batches = loader(
            self.session, frames, EVALUATED, collate=collate, workers=self.config.workers, label="evaluate"
        )
        for batch in batches:
            listed = decode(model(batch.images, batch.lidar2img, batch.points), self.config.most, model.beyond)
            for boxes, scores, labels in listed:
                frame = frames.frames[len(rows)]
                names = [model.classes[label] for label in labels.tolist()]
                rows.append(frame.globally(boxes.double().cpu().numpy(), scores.cpu().numpy(), names))
        return Boxes.joined(rows)

    def scores(self, found: Boxes, frames: Sequence[Frame], model: CMT) -> tuple[Scores, float]:
        """Scores over the classes that have true boxes, and the average precision regardless of class.

        Raises:
            Problem: no frame has a box of the classes.
        """
        truth = _truth(frames, model)
        ego = {frame.token: frame.ego for frame in frames}
        racks = {frame.token: frame.racks for frame in frames}
        present = [name for name in model.classes if name in truth.name]
        if not present:
            raise Problem("no held-out frame has a box of the model's classes", "data", ", ".join(model.classes))
        scores = nuscenes_scores(truth, found, ego, present, racks)
        one = present[0]
        pooled = nuscenes_scores(class_agnostic(truth, one), class_agnostic(found, one), ego, [one], racks)
        return scores, float(pooled.mean_ap)

    def _keep(self, found: Boxes, frames: Sequence[Frame]) -> None:
        """Store boxes and scores of each held-out frame."""
        order = {frame.token: number for number, frame in enumerate(frames)}
        numbers = np.array([order[token] for token in found.sample.tolist()], int)
        names = np.array([CLASSES.index(name) for name in found.name.tolist()], int)
        kept = {"frame": numbers, "class": names, "score": found.score, "size": found.size, "centre": found.centre}
        self.session.keep_outputs(kept)

    # -- use ------------------------------------------------------------------------------------

    def scaled(self, data: DrivingData, given: Collection[str]) -> CMTConfig:
        """The published recipe for these frames: see `repertory.tasks.settings.fitted`."""
        world = self.session.fabric.world_size
        return fitted(self.config, self.own or self.config, len(data.train), world, self.own_batch, given)

    def preview(self, arm: str, data: DrivingData) -> list[str]:
        """Parameters, input, boxes of each class, and the minutes of the training by the time that a frame takes."""
        c, device = self.config, self.session.fabric.device
        model = CMT(**self.options(arm, data)).to(device).train()
        frames = self.frames(data.train, model)
        size = f"{model.image_size[1]} x {model.image_size[0]} pixels, {len(model.cameras)} cameras"
        counts = {name: sum(int((frame.truth.name == name).sum()) for frame in data.train) for name in data.classes}
        batch = self.session.fabric.to_device(collate([frames[0]]))
        seconds = seconds_a_sample(lambda: model(*batch)["loss"], 1, device)
        minutes = seconds * len(frames) * c.epochs / self.session.fabric.world_size / 60
        return [
            f"network: {c.arch}, {sum(p.numel() for p in model.parameters()):,} parameters",
            f"input: {size}, {model.sweeps} LiDAR sweeps",
            f"key frames: {len(data.train)} to train with, {len(data.test)} held out",
            f"boxes: {', '.join(f'{count} {name}' for name, count in counts.items())}",
            f"training: {c.epochs} epochs, about {minutes:.0f} minutes",
        ]

    def measure(self) -> dict[str, float]:
        """Parameters of the published heads."""
        kinds = {
            "fusion": CMTHead(),
            "camera": CMTHead(lidar=False),
            "lidar": CMTHead(cameras=False, kernel=3),
        }
        return {f"{k}_head_parameters": float(sum(p.numel() for p in head.parameters())) for k, head in kinds.items()}

    @torch.inference_mode()
    def predict(self, model: CMT, source: Path) -> Prediction:
        """Detect objects in the held-out key frames of a folder in nuScenes' layout, or in the one that `frame` names.

        The table has a row for each box from `least_score` on; a frame whose files cannot be read has a row with the
        reason. Files: results.json, for the official server. Pictures: boxes on the images, above the view from above.

        Raises:
            Problem: no such folder or frame, or the only frame cannot be read.
        """
        c = self.config
        if not any(source.glob("v1.0-*")):
            raise self.missing(source)
        tables = Tables(source, c.version)
        if c.frame:
            chosen = [nuscenes.find_frame(tables, c.frame, c.sweeps)]
        else:
            split = nuscenes.scene_split(tables, Path(c.split_file) if c.split_file else None)
            chosen = nuscenes.read_frames(tables, split["val"], c.sweeps)
        frames = self.frames(chosen, model).with_changes(sensor=DEAD.get(c.without))
        rows: list[Boxes] = []
        table: list[dict[str, Any]] = []
        figures: dict[str, Figure] = {}
        done: list[Frame] = []
        for number, frame in enumerate(self.session.progress(chosen, "predict")):
            try:
                batch: Batch = self.session.fabric.to_device(collate([frames[number]]))
            except Problem as problem:
                if len(chosen) == 1:
                    raise
                table.append({**dict.fromkeys(COLUMNS, ""), "frame": frame.token, "problem": problem.what})
                continue
            boxes, scores, labels = (
                part.double().cpu().numpy()
                for part in model.detect(batch.images, batch.lidar2img, batch.points, c.most)[0]
            )
            names = [model.classes[int(label)] for label in labels]
            rows.append(frame.globally(boxes, scores, names))
            done.append(frame)
            shown = scores >= c.least_score
            kept = [name for name, show in zip(names, shown, strict=True) if show]
            for box, score, name in zip(boxes[shown].tolist(), scores[shown].tolist(), kept, strict=True):
                values = dict(zip(COLUMNS[2:-1], (round(v, 3) for v in (score, *box)), strict=True))
                table.append({"frame": frame.token, "class": name, **values, "problem": ""})
            if len(figures) < MAX_PICTURES:
                x0, y0, _, x1, y1, _ = model.bounds
                truth = pictures.Drawn(frame.boxes, frame.truth.name.tolist()) if len(frame.truth) else None
                found = pictures.Drawn(boxes[shown], kept)
                title = f"{frame.scene}, key frame {frame.token}" + (f", without {c.without}" if c.without else "")
                points = frame.points(c.sweeps)
                figures[f"frame-{len(figures) + 1}"] = pictures.detection_picture(
                    frame.cameras, points, found, truth, (x0, y0, x1, y1), title
                )
        path = self.session.out_dir / "results.json"
        camera = model.uses_cameras and c.without != "camera"
        found = Boxes.joined(rows)
        nuscenes.write_results(
            path, found, [f.token for f in done], camera=camera, lidar=model.uses_lidar and c.without != "lidar"
        )
        text = (
            f"{len(done)} key frames, {sum(1 for row in table if not row['problem'])} boxes from {c.least_score:g} on"
        )
        if len(_truth(done, model)):
            scores, agnostic = self.scores(found, done, model)
            text += f"; mAP {100 * scores.mean_ap:.1f} %, NDS {100 * scores.nds:.1f} %"
            text += f", regardless of class {100 * agnostic:.1f} %"
        return Prediction(text=text, table=table, figures=figures, files={"results.json": path})

    def convert(self, source: Path, variant: str = "") -> CMT:
        """Build a network from a checkpoint of the authors' code.

        Args:
            source: the file.
            variant: cmt_r50, cmt_vov, cmt_c, cmt_l; empty: by the tensors.

        Raises:
            Problem: weights of something else.
        """
        return released_network(source, variant)


COLUMNS = ("frame", "class", "score", "x", "y", "z", "dx", "dy", "dz", "yaw", "vx", "vy", "problem")
"""Of the table of predictions: metres, radians, m/s, in LiDAR coordinates."""


def _truth(frames: Sequence[Frame], model: CMT) -> Boxes:
    """The true boxes of the model's classes within its scene, in all frames."""
    x0, y0, _, x1, y1, _ = model.bounds
    parts = []
    for frame in frames:
        x, y = frame.boxes[:, 0], frame.boxes[:, 1]
        within = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        parts.append(frame.truth[within & np.isin(frame.truth.name, list(model.classes))])
    return Boxes.joined(parts)


@torch.no_grad()
def grid_references(model: CMT) -> None:
    """Put the reference points on a grid over the ground, each at a random place in the middle half of its cell."""
    points: Tensor = model.head.reference_points.weight
    side = math.ceil(math.sqrt(len(points)))
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))[torch.randperm(side**2)[: len(points)]]
    points[:, :2] = (cells + 0.25 + torch.rand(len(points), 2) / 2) / side
