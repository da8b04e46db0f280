"""Tests of RefT's claims; the method is a reconstruction, see `model.py`.

repertory run reft                                              # twelve shapes, nine arms
repertory run reft --scale paper --data coco/ --devices 8 --arms ft_full,reft --set pretrained=resnet-50/
                                                                # COCO, R-50, 10 shots: published novel AP 16.7 and 18.4
repertory train reft --data my_coco/ --set base_json=base.json --set shots_json=shots.json --out my_model/
repertory predict my_model/ photo.jpg --set support=my_supports/
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from repertory.core.checkpoint import refuse_variant
from repertory.core.files import write_json
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.data import few_shot_coco
from repertory.data.coco import packed_masks
from repertory.data.few_shot_coco import FewShotData
from repertory.data.images import image_files, read_image
from repertory.papers.reft import pictures
from repertory.papers.reft.base import STAGES, VARIANTS
from repertory.papers.reft.episodes import Batch, Crops, Episodes, Jitter, Scenes, SupportSet, Ways, on_square
from repertory.papers.reft.model import Detections, RefT, detections
from repertory.papers.reft.sample import write_sample
from repertory.papers.reft.settings import ARMS, Arm, RefTConfig, RefTDesign
from repertory.papers.reft.supports import read_supports
from repertory.papers.reft.training import DensePretraining, Objective, Plan, Pretraining, run, trained_part
from repertory.papers.reft.weights import from_mask2former, start_from, with_references
from repertory.tasks.settings import fitted

PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}
SUBSETS = {
    "nAP": ("AP of novel classes", "新类 AP"),
    "bAP": ("AP of base classes", "基类 AP"),
    "AP": ("AP of all classes", "全部类别 AP"),
}
EVALUATED = 8
"""Images of a batch in evaluation."""
MAX_PICTURES = 6
DRY_SIZE, DRY_BATCH = 64, 2
"""Input and batch of a dry run, which checks that a recipe builds."""
DRY_NETWORK = {
    "encoder_layers": 1, "decoder_layers": 2, "train_num_points": 96, "num_queries": 20, "feature_size": 64,
    "mask_feature_size": 64, "hidden_dim": 64, "dim_feedforward": 128, "encoder_feedforward_dim": 128,
}  # fmt: skip
"""Of the base detector in a dry run; its image network has one block a stage."""
COLUMNS = ("image", "class", "score", "x", "y", "width", "height", "area", "problem")
"""Of the table of predictions, in pixels."""


class RefTStudy(RefTDesign, Study[RefTConfig, FewShotData, RefT]):
    """Train on base classes, fine-tune on K shots by one of three protocols, score masks and boxes as COCO does."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **{name: Metric(f"mask {en}", f"掩码{zh}", **PER_CENT) for name, (en, zh) in SUBSETS.items()},
        **{f"box_{name}": Metric(f"box {en}", f"框{zh}", **PER_CENT) for name, (en, zh) in SUBSETS.items()},
        "AR": Metric("mask recall regardless of class", "不分类别的掩码召回率", **PER_CENT),
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "mask2former_parameters": Metric(
            "parameters of Mask2Former, R-50, 80 classes", "Mask2Former（R-50，80 类）参数量", decimals=0
        ),
        "reference_parameters": Metric(
            "parameters that both references add, R-50", "两次参照增加的参数量（R-50）", decimals=0
        ),
    }
    sample_name = "twelve shapes"
    sample_fields = ("sample_train", "sample_val", "sample_shots")
    layout = few_shot_coco.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write scenes of twelve shapes in COCO's layout. Each seed draws its own."""
        c = self.config
        write_sample(folder, self.session.seed, c.sample_train, c.sample_val, c.sample_shots)

    def sample_key(self) -> str:
        return f"{super().sample_key()}-seed{self.session.seed}"

    def read(self, folder: Path) -> FewShotData:
        """Read base images, held-out images and the K shots of the files that belong to the seed."""
        c = self.config
        if not c.base_json and not any((folder / part).is_dir() for part in ("annotations", "cocosplit")):
            raise self.missing(folder)
        return few_shot_coco.read_few_shot(
            folder, self._shots(folder), self.session.seed, self.session.rng("split", "shots"), novel=c.novel,
            base_json=c.base_json, shots_json=c.shots_json, boxes_as_masks=c.boxes_as_masks,
        )  # fmt: skip

    def _shots(self, folder: Path) -> int:
        """K; in a dry run, one for which the folder has files, since the sample has no published number of shots."""
        files = sorted(folder.glob("cocosplit/*/full_box_*shot_*"))
        if self.session.dry_run and files:
            return int(files[0].name.removeprefix("full_box_").split("shot_")[0])
        return self.config.shots

    # -- the experiment -------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return min(self.config.image_size, DRY_SIZE) if self.session.dry_run else self.config.image_size

    @property
    def support_size(self) -> int:
        return min(self.config.support_size, DRY_SIZE) if self.session.dry_run else self.config.support_size

    @property
    def batch_size(self) -> int:
        return min(self.config.batch_size, DRY_BATCH) if self.session.dry_run else self.config.batch_size

    def scenes(self, data: Any, classes: Collection[str], training: bool = True) -> Scenes:
        """Images with the objects of some classes, as items of the network."""
        c = self.config
        jitter = Jitter((c.smallest_scale, c.largest_scale), c.flip) if training else None
        return Scenes(data, list(classes), self.size, self.support_size, jitter)

    def episodes(self, scenes: Scenes, refers: bool, steps: int, part: str) -> Episodes:
        """The batches of a loop; with supports where the network refers to them."""
        c, fabric = self.config, self.session.fabric
        ways = Ways(2, 1) if self.session.dry_run else Ways(c.ways, c.support_shots)
        seed = int(self.session.rng("episodes", part).integers(2**32))
        return Episodes(
            scenes, self.batch_size, ways if refers else None, seed, steps, fabric.global_rank, fabric.world_size
        )

    def plan(self, lr: float, **changes: Any) -> Plan:
        c = self.config
        return replace(Plan(lr, c.backbone_rate, c.weight_decay, c.clip_norm, c.schedule, c.workers), **changes)

    def steps(self, scenes: Scenes, epochs: int) -> int:
        return epochs * max(1, len(scenes) // (self.batch_size * self.session.fabric.world_size))

    def train(self, arm: str, data: FewShotData) -> RefT:
        """Train on base classes, then fine-tune on the shots by the arm's protocol; the network keeps its supports.

        Raises:
            Problem: no objects of base classes, weights to start from that do not fit, or an empty mask.
        """
        given = ARMS[arm]
        kind = "".join(f"-{name}" for name in ("mdw", "loq", "cosine") if getattr(given, name))
        model = self.session.shared(f"episodes{kind}", partial(self._by_episodes, given, data, f"episodes{kind}"))
        return self._fine_tuned(given, model, data)

    def _network(self, data: FewShotData, **options: Any) -> RefT:
        c = self.config
        sizes: dict[str, Any] = {"variant": c.variant, "top_k": c.top_k, "ffn": c.ffn, "gamma": c.gamma}
        if self.session.dry_run:
            backbone = {**VARIANTS[c.variant]["backbone_config"], "depths": [1] * len(STAGES)}
            sizes["network"] = {**DRY_NETWORK, "backbone_config": backbone}
        return RefT(list(data.base), **{"mdw": False, "loq": False, **sizes, **options})

    def _base(self, data: FewShotData) -> RefT:
        """Plain Mask2Former: its image network pre-trained on crops, all of it trained on base classes."""
        c, fabric = self.config, self.session.fabric
        model = self._network(data)
        fabric.to_device(model)
        scenes = self.scenes(data.train, data.base)
        if c.pretrained and not self.session.dry_run:
            start_from(model, Path(c.pretrained))
        else:
            self._pretrain(model, scenes)
        steps = self.steps(scenes, c.base_epochs)
        run(self.session, Objective(model), self.episodes(scenes, False, steps, "base"), steps, self.plan(c.lr), "base")
        return model

    def _pretrain(self, model: RefT, scenes: Scenes) -> None:
        """The stand-in for ImageNet weights: classify crops of base objects, then the pixels of base images."""
        c, fabric = self.config, self.session.fabric
        batch = min(c.pretrain_batch, 2 * DRY_BATCH) if self.session.dry_run else c.pretrain_batch
        plan = Plan(c.pretrain_lr, clip_norm=1.0, workers=c.workers)
        seed = int(self.session.rng("episodes", "crops").integers(2**32))
        crops = Crops(scenes, batch, min(c.crop_size, self.size), seed, c.pretrain_steps, fabric.global_rank)
        encoder = model.net.model.pixel_level_module.encoder
        objects = Pretraining(encoder, len(model.classes), model.mean, model.std)
        run(self.session, objects, crops, c.pretrain_steps, plan, "crops")
        images = Episodes(scenes, batch, None, seed, c.dense_steps, fabric.global_rank, fabric.world_size)
        run(self.session, DensePretraining(model), images, c.dense_steps, plan, "pixels")

    def _by_episodes(self, given: Arm, data: FewShotData, part: str) -> RefT:
        """Go on with base classes by episodes, with the arm's references; without any, by plain batches."""
        c = self.config
        base = self.session.shared("base", partial(self._base, data))
        model = self._network(data, mdw=given.mdw, loq=given.loq, cosine=given.cosine)
        self.session.fabric.to_device(model)
        with_references(base, model)
        scenes = self.scenes(data.train, data.base)
        steps = self.steps(scenes, c.epochs)
        run(
            self.session, Objective(model), self.episodes(scenes, model.refers, steps, part), steps, self.plan(c.lr),
            part,
        )  # fmt: skip
        return model

    def _fine_tuned(self, given: Arm, model: RefT, data: FewShotData) -> RefT:
        """The second stage: novel classes are added by their shots, then the arm's part is trained on them."""
        c, fabric = self.config, self.session.fabric
        incremental = given.protocol == "ifsis"
        classes = [*data.base, *data.novel]
        base, novel = range(len(data.base)), range(len(data.base), len(classes))
        shots = self.scenes(data.shots, classes)
        teacher = None
        if incremental and model.refers:  # the base classes' supports are kept; base data are not there any more
            self._remember(model, shots, base)
        if given.distilled:
            teacher = copy.deepcopy(model)
        model.adopt(data.novel, *fabric.to_device(shots.supports(novel)))
        learnt = shots if given.protocol == "gfsis" else shots.of_labels(novel)
        steps = c.tune_steps_a_shot * data.count
        plan = self.plan(c.tune_lr, **({} if given.tuned == "all" else {"weight_decay": 0.0}))
        objective = Objective(model, teacher, c.distillation)
        with trained_part(model, given.tuned, len(data.base)):
            run(
                self.session, objective, self.episodes(learnt, model.refers, steps, "shots"), steps, plan, "shots"
            )  # fmt: skip
        if model.refers:
            self._remember(model, shots, [*base, *novel] if given.protocol == "gfsis" else novel)
        return model.eval()

    def _remember(self, model: RefT, shots: Scenes, labels: Collection[int]) -> None:
        """Encode all shots of some classes, and keep them with the network."""
        supports = self.session.fabric.to_device(shots.supports(list(labels)))
        model.eval()
        model.remember(model.encode_all(*supports), supports.pictures())

    # -- evaluation -----------------------------------------------------------------------------

    def evaluate(self, model: RefT, data: FewShotData) -> dict[str, float]:
        """COCO's AP of masks and boxes over novel, base and all classes, and recall regardless of class, in per cent.

        FSIS reports novel classes only: a network that was fine-tuned by it forgets base classes, and is not meant to
        keep them.

        Returns:
            nAP, bAP, AP, box_nAP, box_bAP, box_AP, AR, parameters; without those of classes that are not held out.

        Raises:
            Problem: the model was trained on other classes.
        """
        if set(model.classes) != {*data.base, *data.novel}:
            raise Problem(
                f"the model knows {', '.join(model.classes[:5])}, ...; the data have {', '.join(data.base[:5])}, ...",
                "data", "give data with the same classes",
            )  # fmt: skip
        model.eval()
        scenes = self.scenes(data.test, model.classes, training=False)
        results: list[dict[str, Any]] = []
        kept: list[tuple[int, int, float]] = []
        numbers = torch.tensor([data.test.classes.index(name) + 1 for name in model.classes])
        starts = range(0, len(scenes), EVALUATED)
        seen = 0
        for start in self.session.progress(starts, "evaluate"):
            indices = range(start, min(start + EVALUATED, len(scenes)))
            images = [scenes.raw(index).image for index in indices]
            for index, found in zip(indices, self._detected(model, images, scenes.size), strict=True):
                output = {"boxes": found.boxes, "labels": numbers[found.labels.cpu()], "scores": found.scores.cpu()}
                output["masks"] = found.masks[:, None].float()
                results += data.test.results(data.test.images[index].id, output)
                kept += [(index, *row) for row in zip(found.labels.tolist(), found.scores.tolist(), strict=True)]
            seen = indices.stop
        test = data.test if seen == len(scenes) else data.test.subset(range(seen))  # a dry run stops early
        metrics: dict[str, float] = {}
        subsets = {"nAP": data.novel, "bAP": data.base, "AP": model.classes}
        kinds: tuple[tuple[str, Literal["segm", "bbox"]], ...] = (("", "segm"), ("box_", "bbox"))
        for prefix, kind in kinds:
            by_class = test.class_precision(results, kind)
            if kind == "segm":
                figure = pictures.precision_picture(by_class, data.novel, f"{len(test)} held-out images")
                self.session.figure("precision-by-class", figure)
            for name, members in subsets.items():
                known = [by_class[member] for member in members if not np.isnan(by_class[member])]
                metrics |= {f"{prefix}{name}": float(np.mean(known))} if known else {}
        recall = test.recall(results, "segm")
        metrics |= {} if np.isnan(recall) else {"AR": recall}
        table = np.array(kept, float).reshape(-1, 3)
        self.session.keep_outputs(
            {"image": table[:, 0].astype(int), "class": table[:, 1].astype(int), "score": table[:, 2]}
        )
        return {**metrics, "parameters": float(sum(p.numel() for p in model.parameters()))}

    @torch.no_grad()
    def _detected(self, model: RefT, images: Sequence[Tensor], side: int) -> list[Detections]:
        """Instances of images (3, H, W) of 8 bits, in their pixels; the network sees squares of `side`."""
        squares = [on_square(image, side) for image in images]
        output = model(self.session.fabric.to_device(torch.stack([square.image for square in squares])))
        found = zip(output.logits[-1], output.masks[-1], squares, images, strict=True)
        return [
            detections(logits, masks, (side, side), square.shown, (image.shape[1], image.shape[2]), self.config.most)
            for logits, masks, square, image in found
        ]

    def measure(self) -> dict[str, float]:
        """Parameters of the published Mask2Former with ResNet-50, and of what RefT adds."""
        with torch.device("meta"):  # initial values would take most of the time
            model = RefT([str(k) for k in range(80)], "r50")
        added = sum(p.numel() for part in (model.weighting, model.linking) if part for p in part.parameters())
        return {
            "mask2former_parameters": float(sum(p.numel() for p in model.net.parameters())),
            "reference_parameters": float(added),
        }

    # -- use ------------------------------------------------------------------------------------

    def scaled(self, data: FewShotData, given: Collection[str]) -> RefTConfig:
        """The published recipe for these images: see `repertory.tasks.settings.fitted`."""
        world = self.session.fabric.world_size
        return fitted(self.config, self.own or self.config, len(data.train), world, self.own_batch, given)

    def preview(self, arm: str, data: FewShotData) -> list[str]:
        """Parameters, input, images, objects, shots, and the minutes of the training by the time of a step."""
        c, device = self.config, self.session.fabric.device
        options = {name: getattr(ARMS[arm], name) for name in ("mdw", "loq", "cosine")}
        model = self._network(data, **options).to(device).train()
        scenes = self.scenes(data.train, data.base)
        objective = Objective(model)
        batch: Batch = self.session.fabric.to_device(self.episodes(scenes, model.refers, 1, "preview")[0])
        seconds = seconds_a_sample(lambda: objective(batch)["loss"], 1, device)
        tuning = c.tune_steps_a_shot * data.count
        steps = self.steps(scenes, c.base_epochs) + self.steps(scenes, c.epochs) + tuning
        return [
            f"network: {c.variant}, {sum(p.numel() for p in model.parameters()):,} parameters",
            f"input: {c.image_size} x {c.image_size} pixels, supports {c.support_size} x {c.support_size}",
            f"images: {len(data.train)} to train with, {len(data.test)} held out",
            f"classes: {len(data.base)} base, {len(data.novel)} novel ({', '.join(data.novel[:8])})",
            f"shots: {data.count} a class, {len(data.shots)} images",
            f"training: {steps} steps, {tuning} of them on the shots, about {seconds * steps / 60:.0f} minutes",
        ]

    @torch.no_grad()
    def predict(self, model: RefT, source: Path) -> Prediction:
        """Find instances in a photograph, in those of a folder, or in the held-out images of a data folder.

        With the setting `support`, a folder of images with masks, its classes are added first, without training.
        The table has a row for each instance from `least_score` on; an image that cannot be read has a row with the
        reason. Files: results.json in COCO's format. Pictures: masks, classes and scores beside a strip of supports.

        Raises:
            Problem: no image, or the only one cannot be read.
        """
        c = self.config
        model = copy.deepcopy(model).eval()
        self.session.fabric.to_device(model)
        if c.support:
            names, supports = read_supports(Path(c.support), self.support_size, len(model.classes))
            supports = SupportSet(*self.session.fabric.to_device(supports))
            model.adopt(names, *supports)
            if model.refers:
                model.remember(model.encode_all(*supports), supports.pictures())
        sources, numbers = _sources(source, model.classes)
        table: list[dict[str, Any]] = []
        figures: dict[str, Figure] = {}
        results: list[dict[str, Any]] = []
        for path, (image_id, upright) in self.session.progress(sources.items(), "predict"):
            try:
                image = np.array(read_image(path, upright=upright))
            except Problem as problem:
                if len(sources) == 1:
                    raise
                table.append({**dict.fromkeys(COLUMNS, ""), "image": path.name, "problem": problem.what})
                continue
            found = self._instances(model, image)
            rows = _rows(path.name, model, found)
            table += rows or [{**dict.fromkeys(COLUMNS, ""), "image": path.name}]
            results += _results(image_id, rows, found, numbers)
            if len(figures) < MAX_PICTURES:
                figures |= self._figures(model, image, found, path.name, f"image-{len(figures) + 1}")
        out = self.session.out_dir / "results.json"
        write_json(out, results)
        bad = sum(bool(row["problem"]) for row in table)
        text = f"{len(sources) - bad} images, {len(results)} instances with a score of {c.least_score:g} or more"
        return Prediction(text=text, table=table, figures=figures, files={"results.json": out})

    def _instances(self, model: RefT, image: np.ndarray) -> Detections:
        """Instances of one image (H, W, 3) from the least score on."""
        (found,) = self._detected(model, [torch.from_numpy(image).permute(2, 0, 1)], self.config.image_size)
        shown = found.scores >= self.config.least_score
        return Detections(*(part[shown].cpu() for part in found))

    def _figures(
        self, model: RefT, image: np.ndarray, found: Detections, title: str, name: str
    ) -> dict[str, Figure]:  # fmt: skip
        labels = model.support_labels.tolist()
        strip = model.support_pictures.cpu().numpy()
        figures = {name: pictures.instance_picture(image, found, model.classes, title, strip, labels)}
        if self.config.attention and model.weighting is not None and labels:
            square = on_square(torch.from_numpy(image).permute(2, 0, 1), self.config.image_size).image
            maps = model.attention_maps(self.session.fabric.to_device(square[None]))[0].cpu().numpy()
            classes = [model.classes[label] for label in sorted(set(labels))]
            figures[f"{name}-attention"] = pictures.attention_picture(image, maps, classes, title)
        return figures

    def convert(self, source: Path, variant: str = "") -> RefT:
        """Build a network from a Mask2Former of transformers; new references leave its predictions as they are.

        Args:
            source: a folder, such as one of facebook/mask2former-*-coco-instance.
            variant: none; the folder says which it is.

        Raises:
            Problem: another network in the folder.
        """
        refuse_variant(variant)
        return from_mask2former(source)


def _sources(source: Path, classes: Collection[str]) -> tuple[dict[Path, tuple[Any, bool]], dict[str, int]]:
    """Images to look at -> their numbers, and whether photographs are to be turned upright; numbers of the categories.

    A data folder has such numbers for its categories; else, and for further classes, they follow the labels from 1.

    Raises:
        Problem: there are no images.
    """
    ids = {name: number for number, name in enumerate(classes, 1)}
    if any((source / part).is_dir() for part in ("annotations", "cocosplit")):
        train, test = few_shot_coco.splits(source)
        data = few_shot_coco.read_file(source, test or train, boxes_as_masks=True)
        free = max(data.category_ids) + 1
        ids = {name: free + number for number, name in enumerate(classes)}
        ids |= dict(zip(data.classes, data.category_ids, strict=True))
        return {data.root / info.file_name: (info.id, False) for info in data.images}, ids
    paths = image_files(source)
    if not paths:
        raise Problem("no images here", source, "give an image, or a folder with images")
    return {path: (int(path.stem) if path.stem.isdecimal() else path.name, True) for path in paths}, ids


def _rows(name: str, model: RefT, found: Detections) -> list[dict[str, Any]]:
    """A row for each instance."""
    rows = []
    parts = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), found.masks, strict=True)
    for (x1, y1, x2, y2), label, score, mask in parts:
        values = (name, model.classes[label], round(score, 4), x1, y1, x2 - x1, y2 - y1, int(mask.sum()), "")
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _results(image_id: Any, rows: list[dict[str, Any]], found: Detections, ids: Mapping[str, int]) -> list[Any]:
    """The same in COCO's results format."""
    return [
        {
            "image_id": image_id, "category_id": ids[row["class"]], "category_name": row["class"],
            "score": row["score"], "bbox": [row[name] for name in ("x", "y", "width", "height")], "segmentation": run,
        }
        for row, run in zip(rows, packed_masks(found.masks), strict=True)
    ]  # fmt: skip
