"""Tests of TCP's claims.

repertory run tcp                                           # nine arms on moving textures, minutes
repertory run tcp --scale paper --data kinetics400/ --arms gap,tcp --devices 8 --precision 16-mixed
                                                            # TSN, ResNet-50, 8 frames; published 72.4, 75.3 %
repertory run tcp --scale k400-tea --data kinetics400/ --arms tcp --devices 8      # published 73.9, 76.8 %
repertory run tcp --scale hmdb51 --data hmdb51/ --set pretrained=K400_TCP_TSN_R50_8f.pth.tar
repertory train tcp --data my_videos/ --set pretrained=resnet50.pth --set flip=0.5 --out my_model/
repertory predict my_model/ clip.mp4
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core import checkpoint
from repertory.core.printing import figure_text
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Session, Study
from repertory.core.timing import medians, race
from repertory.core.training import fit, loader
from repertory.data import motions, videos
from repertory.data.videos import VideoSet
from repertory.nn.second_order import UpperTriangle, covariance, newton_schulz_sqrt
from repertory.papers.tcp import pictures
from repertory.papers.tcp.clips import Clips, EvaluationViews, TrainingViews, sampler
from repertory.papers.tcp.model import TCP, TCPNet, TemporalAttention
from repertory.papers.tcp.settings import TCPConfig, TCPDesign
from repertory.papers.tcp.weights import load_pretrained, parameter_groups, released_network
from repertory.tasks.classification import check_classes, top_k_accuracy
from repertory.tasks.images import MAX_PICTURES, as_picture, predictions_picture

PLAIN: dict[str, Any] = {"spatial": False, "channel": False, "conv": False}
ARMS: dict[str, dict[str, Any]] = {
    "gap": {"pool": "gap"},
    "covariance": {**PLAIN, "iterations": 0},
    "gcp": PLAIN,
    "no_tsa": {"spatial": False},
    "no_tca": {"channel": False},
    "no_conv": {"conv": False},
    "tcp": {},
    "tsm_gap": {"pool": "gap", "temporal": "shift"},
    "tsm_tcp": {"temporal": "shift"},
}
"""Changes of each arm to the network."""

MAX_NAMED = 20
"""Classes of which each has a metric of its own; with more there is the figure alone."""
DRY_SIZE = 64
"""Height and width of the input in a dry run, which checks that a recipe builds."""
RACE_SHAPE = (4, 128, 8, 14, 14)
"""Videos, channels, frames, height, width in the race: the published maps at 224 pixels."""
VIEWS_NEEDED = "clips or crops above 1"
PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}


@dataclass(frozen=True)
class VideoData:
    """Training and held-out videos."""

    train: VideoSet
    test: VideoSet


@dataclass(frozen=True)
class Shown:
    """A video in the figures of `predict`."""

    row: dict[str, Any]
    """Of the table."""
    clip: Tensor
    """Its middle view, preprocessed, (T, 3, S, S)."""
    numbers: list[int]
    """Of these frames in the video, from 0."""


class TCPStudy(TCPDesign, Study[TCPConfig, VideoData, TCPNet]):
    """Classify videos with each pooling; count parameters; show what sees the order of frames; race the covariance."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1": Metric("top-1 accuracy", "top-1 准确率", **PER_CENT),
        "top5": Metric("top-5 accuracy", "top-5 准确率", **PER_CENT),
        "top1_views": Metric("top-1 accuracy, all views", "多视角 top-1 准确率", **PER_CENT, needs=VIEWS_NEEDED),
        "top5_views": Metric("top-5 accuracy, all views", "多视角 top-5 准确率", **PER_CENT, needs=VIEWS_NEEDED),
        "top1_class_{x}": Metric("accuracy, class {x}", "类别 {x} 的准确率", **PER_CENT),
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "head_parameters": Metric("parameters of TCP", "TCP 的参数量", better="lower", decimals=0),
        "tsn_r50_parameters": Metric(
            "parameters, TSN-R50 with TCP, 400 classes", "TSN-R50 加 TCP（400 类）的参数量", better="lower", decimals=0
        ),
        "vector_length": Metric("length of the pooled vector", "池化向量的长度", decimals=0),
        "order_change_gcp": Metric(
            "relative change by reversed frames, plain covariance", "帧序反转的相对变化，普通协方差", better="lower"
        ),
        "order_change_tcp": Metric(
            "relative change by reversed frames, TCP", "帧序反转的相对变化，TCP", better="higher"
        ),
        "cross_frame_difference": Metric(
            "relative difference from the sum of cross-frame covariances", "与跨帧协方差加权和的相对差", better="lower"
        ),
        "covariance_speed": Metric(
            "speed of covariance pooling over a centring matrix", "协方差池化相对中心化矩阵形式的速度",
            unit="×", better="higher", decimals=1,
        ),
    }  # fmt: skip
    sample_name = "moving textures"
    sample_fields = ("sample_motions", "sample_pool", "sample_val")
    seeded_data = False
    layout = videos.LAYOUT

    def __init__(self, config: TCPConfig, session: Session) -> None:
        super().__init__(config.completed(sample=session.data_dir is None and not config.real), session)

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write moving textures as folders of frames with lists."""
        c = self.config
        motions.write_motions(folder, c.sample_pool, c.sample_val, c.sample_motions)

    def read(self, folder: Path) -> VideoData:
        if not folder.is_dir():
            raise self.missing(folder)
        return VideoData(*videos.read_splits(folder, self.config.image_pattern))

    # -- the experiment -------------------------------------------------------------------------

    def build(self, arm: str, classes: tuple[str, ...]) -> TCPNet:
        """The untrained network of an arm."""
        c = self.config
        size = DRY_SIZE if self.session.dry_run else c.image_size or 224
        arguments: dict[str, Any] = {
            "frames": c.frames, "temporal": c.temporal, "dim": c.dim, "dim_inner": c.dim_inner,
            "iterations": c.iterations, "level": c.level, "last_stride": c.last_stride, "drop_rate": c.drop_rate,
            "partial_bn": c.partial_bn, "input_bn": c.input_bn,
        }  # fmt: skip
        cfg = {
            "input_size": [3, size, size],
            "crop_pct": 0.875 if size >= 112 else 1.0,
            "label_names": list(classes),
        }
        return TCPNet(c.arch, len(classes), **{**arguments, **ARMS[arm]}, pretrained_cfg=cfg)

    def train(self, arm: str, data: VideoData) -> TCPNet:
        """Train one arm.

        Raises:
            Problem: videos of one class only; `pretrained` does not fit the backbone.
        """
        c, train = self.config, data.train.long_enough()
        check_classes(train.classes, "training data", "videos")
        if c.sample_train and self.session.data_dir is None and not c.real:
            train = train.drawn(c.sample_train, self.session.rng("videos"))
        self.session.reseed("weights")
        model = self.build(arm, train.classes)
        if c.pretrained:
            load_pretrained(model, Path(c.pretrained))
        cfg = model.pretrained_cfg
        augment = TrainingViews(cfg["input_size"][-1], c.crop, c.flip, cfg["mean"], cfg["std"])
        choose = sampler(c.frames, dense=c.sampling == "dense", training=True)
        return fit(
            self.session,
            model,
            Clips(train, choose, augment),
            c,
            loss,
            evaluate=(lambda module: self.accuracy(module, data.test)) if c.keep_best or c.patience else None,
            monitor="top1" if c.keep_best or c.patience else "",
            groups=partial(parameter_groups, decay=c.weight_decay, factor=c.head_lr),
        )

    def evaluate(self, model: TCPNet, data: VideoData) -> dict[str, float]:
        """Accuracy in per cent on the held-out videos: one central clip, and all views if there are several.

        Raises:
            Problem: videos of a class that the model does not know; more classes than it has.
        """
        names = model.pretrained_cfg.get("label_names")
        if not names and len(data.test.classes) > model.num_classes:
            what = f"{len(data.test.classes)} classes, and the model has {model.num_classes}"
            raise Problem(what, data.test.where, "give data of the classes that the weights were made for")
        test = data.test.named(names) if names else data.test  # released weights do not say what their classes are
        by_class: dict[str, list[bool]] = {}
        metrics = self.accuracy(model, test, by_class)
        rates = {name: 100 * sum(right) / len(right) for name, right in by_class.items()}
        if model.num_classes <= MAX_NAMED:
            metrics |= {"top1_class_" + re.sub(r"[^\w.+-]", "_", name): rate for name, rate in rates.items()}
        if rates:
            self.session.figure("accuracy-by-class", pictures.class_picture(dict(sorted(rates.items())[:60])))
        if self._views > 1 and not self.session.dry_run:
            metrics |= self._accuracy_of_views(model, test)
        return {**metrics, "parameters": float(sum(p.numel() for p in model.parameters()))}

    def accuracy(
        self, model: nn.Module, test: VideoSet, by_class: dict[str, list[bool]] | None = None
    ) -> dict[str, float]:
        """Top-1 and top-5 accuracy of one central clip a video, in per cent; `by_class` takes up who was right."""
        assert isinstance(model, TCPNet)
        c = self.config
        batches = loader(
            self.session, self._clips(model, test, 1, 1), c.batch_size, workers=c.workers, shard=by_class is None
        )

        def scored() -> Iterator[tuple[Tensor, Tensor]]:
            for x, y in batches:
                logits = model(x)
                if by_class is not None:
                    for label, right in zip(y.tolist(), (logits.argmax(1) == y).tolist(), strict=True):
                        by_class.setdefault(test.classes[label], []).append(right)
                yield logits, y

        top1, top5 = top_k_accuracy(scored(), model.num_classes, self.session.fabric.device, top=(1, 5))
        return {"top1": top1, "top5": top5}

    @property
    def _views(self) -> int:
        return self.config.clips * self.config.crops

    def _accuracy_of_views(self, model: TCPNet, test: VideoSet) -> dict[str, float]:
        clips = self._clips(model, test, self.config.clips, self.config.crops, views=True)
        batches = loader(self.session, clips, 1, workers=self.config.workers, label="views", shard=True)
        scored = ((self._fused(model, x[0]), y) for x, y in batches)
        top1, top5 = top_k_accuracy(scored, model.num_classes, self.session.fabric.device, top=(1, 5))
        return {"top1_views": top1, "top5_views": top5}

    def _fused(self, model: TCPNet, views: Tensor) -> Tensor:
        """Probabilities (1, K) of a video from its views (V, T, 3, S, S)."""
        scores = torch.cat([model(few) for few in views.split(self.config.batch_size)]).softmax(1)
        return (scores.amax(0) if self.config.fusion == "max" else scores.mean(0))[None]

    def _clips(self, model: TCPNet, data: VideoSet, clips: int, crops: int, views: bool = False) -> Clips:
        cfg = model.pretrained_cfg
        size = cfg["input_size"][-1]
        transform = EvaluationViews(size, round(size / cfg["crop_pct"]), crops, cfg["mean"], cfg["std"])
        choose = sampler(model.frames, dense=self.config.sampling == "dense", clips=clips)
        return Clips(data, choose, transform, views)

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, float | list[float]]:
        """Sizes of the published networks, what the order of frames changes, and the race of the covariance."""
        with torch.device("meta"):
            sizes = {"head_parameters": TCP(2048), "tsn_r50_parameters": TCPNet("resnet50", 400)}
        figures: dict[str, float | list[float]] = {
            name: float(sum(p.numel() for p in module.parameters())) for name, module in sizes.items()
        }
        figures["vector_length"] = float(TCP(2048).num_features)
        figures |= self._order() | {"cross_frame_difference": self._cross_frames()}
        if self.config.speed_rounds:
            figures["covariance_speed"] = self._speed()
        return figures

    def _order(self) -> dict[str, float]:
        """How much the pooled vector changes where the frames of a clip come in reverse."""
        x = torch.rand(8, 64, 7, 7, generator=self.session.generator("order"))
        changes: dict[str, float] = {}
        for name, options in {"gcp": PLAIN, "tcp": {}}.items():
            self.session.reseed("order")
            pool = TCP(64, 32, dim_inner=64, **options).double().eval()
            if pool.attention.conv is not None:  # it starts at 0, and BN of TSA too
                nn.init.normal_(pool.attention.conv.weight, std=0.05)
            with torch.no_grad():
                forward, backward = pool(x.double()), pool(x.double().flip(0))
            changes[f"order_change_{name}"] = float((forward - backward).norm() / forward.norm())
        return changes

    def _cross_frames(self) -> float:
        """Covariance after the convolution over time, against the weighted sum of covariances between frames.

        With y_t = sum_i W_i x_(t+i), circularly: P = sum_(i,j) W_i C_(j-i) W_j^T, where C_s is the covariance between
        the places of the frames t and the same places of the frames t + s.
        """
        draw = self.session.generator("cross frames")
        attention = TemporalAttention(8, 8, spatial=False, channel=False)
        conv = attention.conv
        assert conv is not None
        nn.init.normal_(conv.weight, std=0.2, generator=draw)
        x = torch.rand(1, 8, 8, 4, 4, generator=draw, dtype=torch.float64)  # (1, d, T, h, w)
        with torch.no_grad():
            y = conv.double()(x)
            found = covariance(y[0].flatten(1).mT)
            centred = x - x.mean((2, 3, 4), keepdim=True)
            kernel = conv.weight[..., 0, 0].unbind(2)  # (d, d) each
            half = len(kernel) // 2
            shifted = [centred.roll(half - i, 2)[0].flatten(1) for i in range(len(kernel))]
            expected = sum(
                a @ (s @ r.mT / s.shape[1]) @ b.mT
                for a, s in zip(kernel, shifted, strict=True)
                for b, r in zip(kernel, shifted, strict=True)
            )
        return float((found - expected).norm() / found.norm())

    def _speed(self) -> list[float]:
        """Covariance, square root and triangle, forward and backward: ours over the form with a centring matrix."""
        videos_, channels, frames, height, width = RACE_SHAPE
        draw = self.session.generator("speed")
        x = torch.randn(videos_, channels, frames * height * width, generator=draw, requires_grad=True)
        triangle = UpperTriangle(channels)

        def step(centred: bool) -> None:
            p = covariance(x.mT) if centred else covariance_by_matrix(x)
            triangle(newton_schulz_sqrt(p)).sum().backward()

        contestants = {"ours": partial(step, True), "matrix": partial(step, False)}
        times = race(contestants, self.session.progress(range(1 + self.config.speed_rounds), "race"))
        return medians(times, "ours", "matrix") if len(times["ours"]) >= 5 else []

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: TCPNet, source: Path) -> Prediction:
        """Classify a video file, a folder of frames, or all of them below a folder.

        A video that cannot be read has a row with the reason. The attention is drawn of the first that can.

        Raises:
            Problem: no videos, or the only one cannot be read.
        """
        names = model.pretrained_cfg.get("label_names") or [str(k) for k in range(model.num_classes)]
        paths = videos.find_videos(source)
        if not paths:
            remedy = f"give a video ({', '.join(sorted(videos.SUFFIXES))}), a folder of frames, or a folder of them"
            raise Problem("no videos here", source, remedy)
        table: list[dict[str, Any]] = []
        shown: list[Shown] = []
        for path in self.session.progress(paths, "predict"):
            row: dict[str, Any] = {
                "file": path.name if path == source else str(path.relative_to(source)),
                "class": "", "probability": float("nan"), "top5": "", "problem": "",
            }  # fmt: skip
            table.append(row)
            try:
                video = videos.open_video(path, self.config.image_pattern)
                if video is None:
                    raise Problem("not a video", path, f"give one of {', '.join(sorted(videos.SUFFIXES))}")
                data = VideoSet((video,), (0,), tuple(names), path)
                clips = self._clips(model, data, self.config.clips, self.config.crops, views=True)
                views = clips.clips(0)
            except Problem as problem:
                if len(paths) == 1:
                    raise
                row["problem"] = problem.what
                continue
            best = self._fused(model, self.session.fabric.to_device(views))[0].cpu().topk(min(5, len(names)))
            ranked = list(zip(best.values.tolist(), (names[k] for k in best.indices.tolist()), strict=True))
            row["probability"], row["class"] = ranked[0]
            row["top5"] = "; ".join(f"{name} {100 * p:.1f} %" for p, name in ranked)
            if len(shown) < MAX_PICTURES:
                chosen = clips.choose(video.count)
                crop = views.unflatten(0, (len(chosen), -1))[len(chosen) // 2, self.config.crops // 2]
                shown.append(Shown(row, crop.clone(), chosen[len(chosen) // 2]))
        return Prediction(table=table, figures=self._figures(model, shown))

    def _figures(self, model: TCPNet, shown: list[Shown]) -> dict[str, Figure]:
        """The first videos with their classes; attention and covariance of the first one."""
        if not shown:
            return {}
        row, clip, numbers = shown[0].row, shown[0].clip, shown[0].numbers
        c = self.config
        inside = pictures.look_inside(model, self.session.fabric.to_device(clip), c.place_row, c.place_column)
        title = figure_text(f"{row['file']}: {row['class']}, {100 * row['probability']:.0f} %")
        frames = np.stack([as_picture(model, frame) for frame in clip])
        figures = {"attention": pictures.attention_picture(frames, numbers, inside, title)}
        if inside is not None:
            figures["covariance"] = pictures.covariance_picture(inside)
        if len(shown) > 1:
            titles = [f"{figure_text(one.row['class'])}\n{100 * one.row['probability']:.0f} %" for one in shown]
            middle = [as_picture(model, one.clip[len(one.clip) // 2]) for one in shown]
            figures["predictions"] = predictions_picture(middle, titles)
        return figures

    def convert(self, source: Path, variant: str = "") -> TCPNet:
        """Build a model from the authors' weights (K400_TCP_TSN_R50_8f.pth.tar and the like).

        Args:
            source: the file.
            variant: none are needed: frames and classes follow from the tensors.

        Raises:
            Problem: weights of something else.
        """
        checkpoint.refuse_variant(variant)
        return released_network(source)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of clips."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def covariance_by_matrix(x: Tensor) -> Tensor:
    """The covariance with an explicit centring matrix for each video, O(M^2 d): (B, d, M) -> (B, d, d)."""
    size = x.shape[-1]
    centring = (torch.eye(size) / size - torch.ones(size, size) / size**2).expand(len(x), size, size)
    return x @ centring.contiguous() @ x.mT
