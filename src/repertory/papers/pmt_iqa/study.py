"""Tests of PMT-IQA's claims.

    repertory run pmt_iqa                                        # six arms on distorted photographs, minutes
    repertory run pmt_iqa --scale paper --data CSIQ/ --arms pmt_iqa          # published SRCC 0.949, PLCC 0.951
    repertory run pmt_iqa --scale paper --data ChallengeDB_release/          # LIVE-C; published SRCC 0.866, PLCC 0.893
    repertory run pmt_iqa --scale paper --data BID/ --arms pmt_iqa           # published SRCC 0.874, PLCC 0.894
    repertory train pmt_iqa --data my_ratings.csv --set score_low=1 --set score_high=5 --out my_model/
    repertory predict my_model/ photo.jpg

`srcc` is that of the last epoch, `srcc_official` that of the epoch with the best SRCC on the test part, as published.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

from repertory.core.printing import figure_text
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Session, Study
from repertory.data.distortions import write_quality_database
from repertory.data.images import image_files, read_image
from repertory.data.quality import (
    LAYOUT,
    RESIZED,
    QualitySet,
    ScoreScale,
    image_header,
    read_quality,
    shortened,
    split_quality,
)
from repertory.nn.macs import count_macs
from repertory.papers.pmt_iqa import pictures
from repertory.papers.pmt_iqa.model import PMTIQA
from repertory.papers.pmt_iqa.patches import Corner, Patches, Rated, corners_of, cut, prepared, rate, rate_all
from repertory.papers.pmt_iqa.settings import ARMS, PMTConfig, PMTDesign
from repertory.papers.pmt_iqa.training import OFFICIAL, fit_quality
from repertory.papers.pmt_iqa.weights import load_backbone
from repertory.tasks.quality import CORRELATIONS, correlations

DRY_SIZE = 64
"""Height and width of a patch in a dry run, which checks that a recipe builds."""
MAX_PLACES = 256
"""Patches of a heat map, about."""
BATCH = 32
"""Patches at once in a heat map."""
THUMBNAIL = 192
"""Longest side of an image on a contact sheet."""


@dataclass(frozen=True)
class QualityData:
    """Rated images to train on, and to test on."""

    train: QualitySet
    test: QualitySet


class PMTStudy(PMTDesign, Study[PMTConfig, QualityData, PMTIQA]):
    """Predict quality scores by each arm, of distortions of pictures that training has not seen."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **CORRELATIONS,
        **{
            f"{name}_official": Metric(
                f"{metric.en}, epoch chosen on the test part",
                f"{metric.zh}，按测试集选轮次",
                better="higher",
                decimals=3,
                needs="a training on the same split",
            )
            for name, metric in CORRELATIONS.items()
        },
        "official_epoch": Metric("epoch chosen on the test part", "按测试集选出的轮次", decimals=0),
        "level_accuracy": Metric(
            "accuracy of the quality level", "质量等级准确率", unit="%", better="higher", decimals=1,
            needs="a classifier: not the arms with regression alone",
        ),
        "laplacian_srcc": Metric(
            "SRCC of sharpness (variance of the Laplacian), no learning", "清晰度（拉普拉斯方差）的 SRCC，无学习",
            better="higher", decimals=3,
        ),
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "macs": Metric("multiply-accumulates of a patch", "单块乘加次数", better="lower", decimals=0),
        **{
            f"{part}_parameters": Metric(f"parameters, {en}", f"{zh}的参数量", better="lower", decimals=0)
            for part, (en, zh) in {
                "network": ("ResNet-50, 10 levels", "整个网络（ResNet-50，10 级）"),
                "features": ("backbone and branches", "主干与分支"),
                "trunk": ("shared trunk", "共享层"),
                "classifier": ("classifier", "分类头"),
                "regression": ("regression", "回归头"),
            }.items()
        },
    }  # fmt: skip
    sample_name = "distorted-photographs"
    sample_fields = ("sample_photographs", "sample_versions", "sample_size")
    layout = LAYOUT

    def __init__(self, config: PMTConfig, session: Session) -> None:
        super().__init__(config.completed(sample=session.data_dir is None and not config.real), session)

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write distorted photographs in the layout of CSIQ; the score is 1 - SSIM plus observer noise."""
        c = self.config
        write_quality_database(folder, c.sample_photographs, c.sample_versions, c.sample_size)

    def read(self, folder: Path) -> QualityData:
        """A database or a CSV, split by the seed.

        Raises:
            Problem: no labels here, damaged ones, a file that is no image, or nothing to split.
        """
        c = self.config
        data = read_quality(folder, c.score_low, c.score_high, c.better or None)
        self._look_at(data)
        return QualityData(*split_quality(data, c.test_share, self.session.rng("split"), c.split_by, c.allow_leak))

    def _look_at(self, data: QualitySet) -> None:
        """Warn of images that are converted or padded.

        Raises:
            Problem: a file is no image.
        """
        changed: dict[str, list[str]] = {}
        resize = self._resize(data.name)
        for path in self.session.progress(data.paths, "images"):
            size, changes = image_header(path)
            if changes:
                changed.setdefault(f"converted ({changes})", []).append(path.name)
            if not resize and min(size) < self._patch:
                changed.setdefault(f"smaller than a patch of {self._patch}, padded by reflection", []).append(path.name)
        for what, names in changed.items():
            warnings.warn(f"{data.root}: {len(names)} images {what}: {shortened(names)}", stacklevel=3)

    @property
    def _patch(self) -> int:
        assert self.config.patch is not None
        return DRY_SIZE if self.session.dry_run else self.config.patch

    def _resize(self, name: str) -> tuple[int, int] | None:
        return self.config.resize or RESIZED.get(name)

    # -- the experiment -------------------------------------------------------------------------

    def build(self, arm: str, data: QualitySet, official: Mapping[str, float] | None = None) -> PMTIQA:
        """The untrained network of an arm.

        Args:
            arm: name of the arm.
            data: tells scale, direction and levels of the scores.
            official: what the published protocol found, to be stored with the weights.
        """
        c, variation = self.config, ARMS[arm]
        assert c.score_unit is not None
        resize = self._resize(data.name)
        return PMTIQA(
            c.arch,
            0 if variation.weights == "regression" else c.num_classes or data.classes,
            c.scale_dim,
            c.vector,
            c.hidden,
            c.head,
            variation.stages,
            c.score_unit,
            pretrained_cfg={
                "input_size": [3, self._patch, self._patch],
                "scores": data.scale.as_dict(),
                "resize": list(resize) if resize else None,
                OFFICIAL: dict(official or {}),
            },
        )

    def train(self, arm: str, data: QualityData) -> PMTIQA:
        """Train one arm; of the last epoch, or with protocol=official of the one with the best test SRCC.

        Raises:
            Problem: fewer than three test images; a level beyond `num_classes`; weights that do not fit.
        """
        c, session = self.config, self.session
        _check_test(data.test)
        if c.num_classes and ARMS[arm].weights != "regression":
            _check_levels(data, c.num_classes)
        session.reseed("weights")
        model = self.build(arm, data.train)
        self._load_backbone(model)
        watched = self._patches(model, data.test)
        picks = fit_quality(
            session,
            c,
            model,
            self._patches(model, data.train, training=True),
            ARMS[arm].weights,
            lambda: self._correlations(model, watched),
        )
        if OFFICIAL not in picks.picked:  # a dry run
            return model
        best = picks.steps[OFFICIAL]
        record = next(record for record in picks.history if record["step"] == best)
        found = {name: record[name] for name in CORRELATIONS} | {"epoch": best, "split": _fingerprint(data.test)}
        session.figure("course", pictures.course_picture(picks.history, best))
        final = self.build(arm, data.train, found)
        final.load_state_dict(picks.state(OFFICIAL) if c.protocol == "official" else model.state_dict())
        session.fabric.to_device(final)
        return final.eval()

    def _load_backbone(self, model: PMTIQA) -> None:
        """Load `pretrained`. Where the default cannot be had, warn and keep the random weights."""
        c = self.config
        if c.pretrained == "none" or self.session.dry_run:
            return
        try:
            load_backbone(model, c.pretrained)
        except Problem as problem:
            if c.pretrained != f"timm:{c.arch}.tv_in1k":
                raise
            warnings.warn(
                f"{problem.what}; training starts from random weights, far worse than published: "
                "--set pretrained=FILE gives weights",
                stacklevel=3,
            )

    def _patches(self, model: PMTIQA, data: QualitySet, training: bool = False) -> Patches:
        c, cfg = self.config, model.pretrained_cfg
        assert c.patches is not None
        how: dict[str, Any] = {"crops": "random", "flip": c.flip} if training else {"crops": c.test_crops}
        count = c.patches if training else c.test_patches
        how["resize"] = cfg["resize"]
        return Patches(data, cfg["input_size"][-1], count, cfg["mean"], cfg["std"], **how)

    def _rate_all(self, model: PMTIQA, data: Patches, label: str = "evaluate") -> Rated:
        assert self.config.batch_size is not None
        return rate_all(self.session, model, data, self.config.batch_size, self.config.workers, label)

    def _correlations(self, model: PMTIQA, data: Patches) -> dict[str, float]:
        predicted = self._rate_all(model, data, "watch").scores
        return correlations(predicted, data.scores[: len(predicted)])  # a dry run ends early

    def evaluate(self, model: PMTIQA, data: QualityData) -> dict[str, float]:
        """Correlations on the test images; those of the published protocol where the model was trained on this split.

        Where better images have higher scores in one of model and data and lower ones in the other, the sign of the
        predictions is changed, with a warning.

        Raises:
            Problem: fewer than three test images.
        """
        cfg, test = model.pretrained_cfg, data.test
        _check_test(test)
        rated = self._rate_all(model, self._patches(model, test))
        count = len(rated.scores)  # a dry run ends early
        scores = np.array(test.scores[:count])
        scale = ScoreScale(**cfg["scores"])
        predicted = rated.scores
        if scale.better != test.scale.better:
            warnings.warn(
                f"{scale.name} of the model: {scale.better} is better; of the data: {test.scale.better}; "
                "predictions change their sign",
                stacklevel=2,
            )
            predicted = -predicted
        metrics = correlations(predicted, scores)
        self.session.keep_outputs({"score": scores, "predicted": predicted})
        figure = pictures.scatter_picture(predicted, scores, metrics, self.data_name(), test.scale)
        self.session.figure("predicted-vs-true", figure)
        if model.num_classes and scale == test.scale:
            right = rated.probabilities.argmax(1) == test.levels[:count]
            metrics["level_accuracy"] = 100 * float(right.mean())
        official = cfg[OFFICIAL]
        if official and official["split"] == _fingerprint(test):
            metrics |= {f"{name}_official": official[name] for name in CORRELATIONS}
            metrics["official_epoch"] = float(official["epoch"])
        x = torch.zeros(1, *cfg["input_size"], device=self.session.fabric.device)
        return {
            **metrics,
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "macs": float(count_macs(model, x)),
        }

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """Parameters of the published network and of its parts."""
        with torch.device("meta"):
            model = PMTIQA("resnet50", 10)
        parts = {
            "network": model, "features": model.res, "trunk": model.fcs, "classifier": model.fc_cls,
            "regression": model.fc_mos,
        }  # fmt: skip
        return {f"{name}_parameters": float(sum(p.numel() for p in part.parameters())) for name, part in parts.items()}

    def measure_data(self, data: QualityData) -> dict[str, float]:
        """SRCC of sharpness on the test images of the first seed: the variance of the Laplacian of the grey image."""
        sharpness = [
            float(laplace(np.asarray(read_image(path).convert("L"), np.float64)).var()) for path in data.test.paths
        ]
        sign = 1 if data.test.scale.better == "higher" else -1
        return {"laplacian_srcc": sign * correlations(sharpness, data.test.scores)["srcc"]}

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: PMTIQA, source: Path) -> Prediction:
        """Score one image, or rank all images below a folder from best to worst.

        An image that cannot be read has a row with the reason, after the others.

        Raises:
            Problem: no images, or the only one cannot be read.
        """
        paths = image_files(source)
        if not paths:
            raise Problem("no images here", source, "give an image, or a folder that holds some")
        scale = ScoreScale(**model.pretrained_cfg["scores"])
        rows: list[dict[str, Any]] = []
        broken: list[dict[str, Any]] = []
        places: list[Path] = []
        levels: list[NDArray[np.float64]] = []
        for path in self.session.progress(paths, "predict"):
            file = path.name if path == source else str(path.relative_to(source))
            try:
                note = self._note(path)
                pixels = self._pixels(model, path)
            except Problem as problem:
                if len(paths) == 1:
                    raise
                broken.append(_row(file, problem=problem.what))
                continue
            corners = self._corners(pixels, file)
            rated = self._rate(model, pixels, corners)
            places.append(path)
            levels.append(rated.probabilities[0])
            rows.append(_row(file, scale, rated, note))
        if not rows:
            raise Problem(f"none of {len(paths)} images can be read", source, broken[0]["problem"])

        order = scale.best_first([row["score"] for row in rows])
        rows, places, levels = ([things[i] for i in order] for things in (rows, places, levels))
        for rank, row in enumerate(rows, 1):
            row["rank"] = rank
        arrays = {"level_probabilities": _level_table(rows, levels)} if model.num_classes else {}
        return Prediction(table=rows + broken, figures=self._figures(model, rows, places, scale), arrays=arrays)

    def _note(self, path: Path) -> str:
        """What is done to an image before it is rated, in words."""
        size, changes = image_header(path)
        notes = [f"converted: {changes}"] if changes else []
        return "; ".join(
            notes + ([f"padded by reflection from {size[0]} x {size[1]}"] if min(size) < self._patch else [])
        )

    def _pixels(self, model: PMTIQA, path: Path) -> NDArray[np.uint8]:
        cfg = model.pretrained_cfg
        return prepared(read_image(path), cfg["input_size"][-1], cfg["resize"])

    def _corners(self, pixels: NDArray[np.uint8], file: str) -> list[Corner]:
        """Where the patches of an image lie, wherever it stands among the others."""
        self.session.reseed("crops", file)
        return corners_of(pixels, self._patch, self.config.test_patches, self.config.test_crops)

    def _rate(self, model: PMTIQA, pixels: NDArray[np.uint8], corners: Sequence[Corner]) -> Rated:
        cfg = model.pretrained_cfg
        patches = cut(pixels, corners, cfg["input_size"][-1], cfg["mean"], cfg["std"])
        return rate(model, self.session.fabric.to_device(patches[None]))

    def _figures(
        self, model: PMTIQA, rows: Sequence[Mapping[str, Any]], places: Sequence[Path], scale: ScoreScale
    ) -> dict[str, Figure]:
        """The images from best to worst; where the worst one is good and bad."""
        pixels = self._pixels(model, places[-1])
        row = rows[-1]
        title = figure_text(f"{row['file']}: {row['score']:.3g}, {row['quality']}")
        heat = pictures.heat_picture(pixels, self._heat(model, pixels), title, scale)
        if len(rows) == 1:
            return {"heat-map": heat}
        half = self.config.shown // 2
        shown = range(len(rows))
        if len(rows) > self.config.shown:
            shown = [*shown[:half], *shown[-half:]]
        titles = [
            f"{rows[i]['rank']}. {rows[i]['score']:.3g} {rows[i]['quality']}\n{_short(rows[i]['file'])}" for i in shown
        ]
        sheet = pictures.contact_sheet([_thumbnail(places[i]) for i in shown], titles, len(rows) - len(shown))
        return {"contact-sheet": sheet, "heat-map-of-the-worst": heat}

    def _heat(self, model: PMTIQA, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mean score of the patches that cover each pixel, (H, W); they overlap by half, or less in a large image."""
        size = model.pretrained_cfg["input_size"][-1]
        height, width = pixels.shape[:2]
        stride = max(size // 2, math.ceil(math.sqrt((height - size + 1) * (width - size + 1) / MAX_PLACES)))
        rows, columns = (sorted({*range(0, length - size, stride), length - size}) for length in (height, width))
        corners = [(row, column) for row in rows for column in columns]
        total, count = np.zeros((height, width)), np.zeros((height, width))
        for start in range(0, len(corners), BATCH):
            few = corners[start : start + BATCH]
            patches = cut(pixels, few, size, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
            scores = rate(model, self.session.fabric.to_device(patches[:, None])).scores
            for (row, column), score in zip(few, scores, strict=True):
                window = np.s_[row : row + size, column : column + size]
                total[window] += score
                count[window] += 1
        return total / np.where(count, count, np.nan)


def _check_test(test: QualitySet) -> None:
    if len(test) < 3:
        what = f"{len(test)} test image{'' if len(test) == 1 else 's'}: a correlation needs three"
        raise Problem(what, test.root, "rate more images, or raise test_share")


def _check_levels(data: QualityData, classes: int) -> None:
    for part in (data.train, data.test):
        beyond = np.flatnonzero(part.levels >= classes)
        if len(beyond):
            i = int(beyond[0])
            what = f"the score {part.scores[i]:g} of {part.paths[i].name} is of level {part.levels[i]}"
            remedy = f"--set num_classes={part.classes}, or leave it out"
            raise Problem(f"{what}, and num_classes={classes} ends at {classes - 1}", part.root, remedy)


def _fingerprint(data: QualitySet) -> int:
    """A number of names and scores, in order."""
    rows = zip(data.paths, data.scores, strict=True)
    return zlib.crc32("\n".join(f"{path.name} {score!r}" for path, score in rows).encode())


def _row(
    file: str, scale: ScoreScale | None = None, rated: Rated | None = None, note: str = "", problem: str = ""
) -> dict[str, Any]:
    """A row of the table of predictions."""
    row: dict[str, Any] = {
        "rank": "", "file": file, "score": math.nan, "quality": "", "level": "", "level_probability": math.nan,
        "spread": math.nan, "note": note, "problem": problem,
    }  # fmt: skip
    if scale is None or rated is None:
        return row
    score, probabilities = float(rated.scores[0]), rated.probabilities[0]
    row |= {"score": score, "quality": scale.grade(score), "spread": float(rated.spread[0])}
    level = int(probabilities.argmax()) if len(probabilities) else int(scale.levels([score])[0])
    low, high = scale.span(level)
    row["level"] = f"{level} ({low:g} to {high:g})"
    if len(probabilities):
        row["level_probability"] = float(probabilities[level])
    return row


def _level_table(rows: Sequence[Mapping[str, Any]], levels: Sequence[NDArray[np.float64]]) -> np.ndarray:
    """Probabilities of the levels of each image, with named columns."""
    names = [str(row["file"]) for row in rows]
    columns = [("file", f"U{max(map(len, names))}"), *((f"level_{k}", "f8") for k in range(len(levels[0])))]
    return np.array([(name, *values) for name, values in zip(names, levels, strict=True)], dtype=columns)


def _short(name: str, most: int = 26) -> str:
    return figure_text(name if len(name) <= most else f"…{name[1 - most :]}")


def _thumbnail(path: Path) -> NDArray[np.uint8]:
    image = read_image(path)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)
