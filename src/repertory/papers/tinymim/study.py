"""Tests of TinyMIM's claims.

    repertory run tinymim                                              # eleven arms on digits, minutes
    repertory run tinymim --scale paper --data imagenet/ --arms tinymim --devices 8 --precision bf16-mixed \\
        --set teacher=mae_pretrain_vit_base.pth                        # TinyMIM-T; published top-1 74.4 (100 epochs)
    repertory run tinymim --scale paper --data imagenet/ --arms tinymim --devices 8 --precision bf16-mixed \\
        --set teacher=mae_pretrain_vit_large.pth --set 'chain=["base", "small"]'      # published top-1 75.8
    repertory train tinymim --scale paper --data my_images/ --set stage=pretrain --set teacher=mae.pth --out encoder/
    repertory train tinymim --scale paper --data my_classes/ --set stage=finetune --set pretrained=encoder/ --out model/
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from matplotlib.figure import Figure
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Metric, Prediction
from repertory.core.training import loader
from repertory.data import images
from repertory.data.images import ImageSet
from repertory.nn.imagenet import label_names
from repertory.nn.macs import count_macs
from repertory.papers.tinymim import pictures
from repertory.papers.tinymim.model import (
    CFG,
    HEADS,
    TARGETS,
    TEACHERS,
    VARIANTS,
    Decoder,
    MaskedAutoencoder,
    Teacher,
    TinyMIM,
    default_block,
)
from repertory.papers.tinymim.pretraining import STUDENT_PART, TEACHER_PART, TwoViews, distil, pretrain_mae
from repertory.papers.tinymim.settings import VARIATIONS, TinyMIMConfig, TinyMIMDesign
from repertory.papers.tinymim.weights import load_encoder, read_state, shape_of, take_encoder
from repertory.tasks.classification import readable, relative_name, spread, with_problems
from repertory.tasks.images import (
    IMAGE_METRICS,
    PREDICT_BATCH,
    ImageData,
    ImageStudy,
    as_picture,
    preprocessing,
    unlabelled,
)
from repertory.tasks.settings import fitted

PRETRAIN_BATCH = 4096
"""Of the published pre-training."""
TEACHER_FORWARD, TEACHER_COST = 1.3, 2.0
"""About so many passes of a ViT-Ti cost a ViT-S teacher's pass forward, and a step of its own training by MAE."""

ARCHS: dict[str, dict[str, Any]] = {
    "mini": {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "mini_middle": {"patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 4},
    "mini_teacher": {"patch_size": 8, "embed_dim": 64, "depth": 6, "num_heads": 4},
    **TEACHERS,
    **{name: {k: v for k, v in sizes.items() if k != "last_heads"} for name, sizes in VARIANTS.items()},
}
"""Sizes of students and teachers; `mini…` for images of 32 pixels."""

BETWEEN: dict[str, tuple[Any, ...]] = {"mini": ("mini_middle",), "tiny": ("small",), "small": ("base",)}
"""The students in between in the arm `sequential`, by the size of the student."""


class TinyMIMStudy(TinyMIMDesign, ImageStudy[TinyMIMConfig, TinyMIM]):
    """Pre-train a student on unlabelled images by each target, fine-tune it on a few labelled ones."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **IMAGE_METRICS,
        "tiny_macs": Metric(
            "multiply-accumulates of an image, ViT-T", "ViT-T 的单图乘加次数", better="lower", decimals=0
        ),
        **{
            f"{name}_trained_parameters": Metric(
                f"parameters without positions, {label}",
                f"{label} 的参数量（不含位置编码）",
                better="lower",
                decimals=0,
            )
            for name, label in {
                **{name: f"student {name}" for name in VARIANTS},
                **{f"teacher_{name}": f"teacher {name}" for name in TEACHERS},
            }.items()
        },
    }
    sample_name = "digits"
    sample_fields = ("sample", "sample_digits")

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write scikit-learn's digits, or crops of photographs, in class folders; tests are by other writers."""
        if self.config.sample == "digits":
            images.write_digits(folder, train=self.config.sample_digits, val=min(84, self.config.sample_digits))
        else:
            super().write_sample(folder)

    def read(self, folder: Path) -> ImageData:
        """Class folders; with stage=pretrain all images below train/, or below the folder itself.

        Raises:
            Problem: no images, or not in the layout.
        """
        if self.config.stage != "pretrain":
            return super().read(folder)
        source = folder / "train" if (folder / "train").is_dir() else folder
        return ImageData(unlabelled(source, ("unlabelled",)), ImageSet((), (), ("unlabelled",)))

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: ImageData, part: str = "") -> TinyMIM:
        """Pre-train on all training images, then fine-tune on the labelled ones.

        Returns:
            The classifier; with stage=pretrain the encoder.

        Raises:
            Problem: images of one class only, or a teacher or encoder that does not fit.
        """
        config = self.config
        if config.stage == "pretrain":
            return self.pretrain(arm, data.train)
        train = self.labelled(data.train)
        encoder = (
            load_encoder(config.pretrained, self.image_size, heads=1)  # tensors do not depend on heads
            if config.stage == "finetune"
            else self.pretrain(arm, data.train)
        )
        self.session.reseed("weights")
        model = self.build(arm, train.classes)
        take_encoder(model, encoder.state_dict(), config.pretrained or "the pre-trained encoder")
        return self.fit_network(model, train, data.test, part)

    @property
    def image_size(self) -> int:
        """Height and width of the input."""
        return self.config.image_size or (32 if self.config.arch.startswith("mini") else 224)

    def build(self, arm: str, classes: tuple[str, ...]) -> TinyMIM:
        """The untrained classifier: mean of the patches, then a norm and the head; no adaptive block."""
        config = self.config
        sizes = ARCHS[config.arch]
        heads = config.finetune_heads or HEADS.get(config.arch, sizes["num_heads"])
        return TinyMIM(
            **{**sizes, "num_heads": heads},
            img_size=self.image_size,
            num_classes=len(classes),
            global_pool="avg",
            drop_path_rate=config.drop_path or 0.0,
            pretrained_cfg={**self._preprocessing(), "label_names": list(classes)},
        )

    def _preprocessing(self) -> dict[str, Any]:
        return {"crop_pct": 1.0 if self.config.arch.startswith("mini") else CFG["crop_pct"]}

    def _encoder(self, arch: str, last_heads: int | None = None) -> TinyMIM:
        return TinyMIM(
            **ARCHS[arch], img_size=self.image_size, last_heads=last_heads, pretrained_cfg=self._preprocessing()
        )

    # -- pre-training ---------------------------------------------------------------------------

    def pretrain(self, arm: str, train: ImageSet) -> TinyMIM:
        """The student's encoder as an arm pre-trains it; labels are not read.

        Raises:
            Problem: the teacher does not fit the student.
        """
        config = self.config.model_copy(update=dict(VARIATIONS[arm]))
        chain = config.chain
        if arm == "sequential" and not chain:
            chain = BETWEEN.get(config.arch, ())
            if not chain:
                what = f"no student of the paper lies between {config.arch} and its teacher"
                raise Problem(what, "arm sequential", "give a smaller arch, or chain")
        if config.pretraining != "distil":
            self.session.reseed("student")
            student = self._encoder(config.arch)
            return student if config.pretraining == "none" else self._mae(student, train, STUDENT_PART)

        network = self._teacher(train)
        for link in chain:
            network = self._link(arm, config, link, network, train)
            # These are of the first teacher.
            config = config.model_copy(update={"target_block": None, "target_heads": None})
        return self._distilled(config, config.arch, network, train, STUDENT_PART, draw=True)

    def _link(
        self, arm: str, config: TinyMIMConfig, link: str, network: VisionTransformer, train: ImageSet
    ) -> VisionTransformer:
        """A student in between, distilled once for all trials of a seed."""
        return self.session.shared(f"{arm}-{link}", lambda: self._distilled(config, link, network, train, link))

    def _teacher(self, train: ImageSet) -> VisionTransformer:
        config = self.config
        if config.teacher:
            return load_encoder(config.teacher, self.image_size, config.teacher_heads)
        return self.session.shared(
            "teacher", lambda: self._mae(self._encoder(config.teacher_arch), train, TEACHER_PART)
        )

    def _mae(self, encoder: TinyMIM, train: ImageSet, part: str) -> TinyMIM:
        config = self.config
        decoder = Decoder(encoder, config.decoder_dim, config.decoder_depth, config.decoder_heads)
        epochs = config.teacher_epochs if part == TEACHER_PART else config.pretrain_epochs
        model = MaskedAutoencoder(encoder, decoder, config.mask_ratio)
        recipe = config.pretraining_recipe(epochs)
        return cast(TinyMIM, pretrain_mae(self.session, model, self._views(encoder, train), recipe, part))

    def _views(self, encoder: TinyMIM, train: ImageSet, teacher: VisionTransformer | None = None) -> TwoViews:
        config = self.config
        return TwoViews(
            train,
            self.image_size,
            encoder.pretrained_cfg,
            None if teacher is None else cast(dict[str, Any], teacher.pretrained_cfg),
            config.pretrain_crop_scale,
            config.pretrain_flip,
            config.pretrain_color_jitter,
        )

    def _distilled(
        self,
        config: TinyMIMConfig,
        arch: str,
        network: VisionTransformer,
        train: ImageSet,
        part: str,
        draw: bool = False,
    ) -> TinyMIM:
        """A student distilled from a network; `draw`: with the figures of the trial."""
        depth, student_depth = len(network.blocks), ARCHS[arch]["depth"]
        block = config.target_block
        if block is None:
            block = default_block(depth, student_depth, config.target)
        elif block < 0:
            block += depth + 1
        teacher = Teacher(network, block, config.target, config.target_heads, config.teacher_drop_path)
        relational = TARGETS[config.target].kind == "relation"
        self.session.reseed(part)
        student = self._encoder(arch, teacher.heads if relational else None)
        decoder = None
        if config.reconstruction:
            decoder = Decoder(student, config.decoder_dim, config.decoder_depth, config.decoder_heads)
        views = self._views(student, train, network)
        distil(
            self.session,
            student,
            teacher,
            views,
            config.pretraining_recipe(config.pretrain_epochs),
            mask_ratio=config.mask_ratio if config.masked_input else 0.0,
            part=part,
            drop_path=config.student_drop_path,
            decoder=decoder,
        )
        if draw and self.session.fabric.is_global_zero:
            self._draw_losses()
            if relational:
                self._draw_relations(student, teacher, views)
        return student

    def _draw_losses(self) -> None:
        path = self.session.out_dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []  # a dry run ends before
        records = [record for record in map(json.loads, lines) if record.get("part") == STUDENT_PART]
        if records:
            self.session.figure("pretraining-losses", pictures.losses_picture(records))

    def _draw_relations(self, student: TinyMIM, teacher: Teacher, views: TwoViews) -> None:
        place = self.config.patch_row, self.config.patch_column
        maps = {
            name: pictures.patch_relations(network, self.session.fabric.to_device(view), len(network.blocks), *place)
            for name, network, view in zip(("teacher", "student"), (teacher.network, student), views[0], strict=True)
        }
        figure = pictures.relations_picture(as_picture(student, views[0][1]), maps, *place)
        self.session.figure("relations-of-teacher-and-student", figure)

    # -- figures --------------------------------------------------------------------------------

    def evaluate(self, model: TinyMIM, data: ImageData) -> dict[str, float]:
        """As `ImageStudy.evaluate`; of an encoder without a head its size and cost alone."""
        if model.num_classes:
            return super().evaluate(model, data)
        x = torch.zeros(1, *model.pretrained_cfg["input_size"], device=self.session.fabric.device)
        return {
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "macs": float(count_macs(model, x)),
        }

    def measure(self) -> dict[str, float]:
        """Parameters of the published students and teachers, and the cost of the smallest."""
        networks = {**VARIANTS, **{f"teacher_{name}": sizes for name, sizes in TEACHERS.items()}}
        figures = {f"{name}_trained_parameters": trained_parameters(sizes) for name, sizes in networks.items()}
        tiny = TinyMIM(**{**ARCHS["tiny"], "num_heads": HEADS["tiny"]}, num_classes=1000, global_pool="avg")
        return {**figures, "tiny_macs": float(count_macs(tiny, torch.zeros(1, 3, 224, 224)))}

    # -- use ------------------------------------------------------------------------------------

    def scaled(self, data: ImageData, given: Collection[str]) -> TinyMIMConfig:
        """The published recipes of pre-training (batch 4096) and fine-tuning for these images."""
        config, published = super().scaled(data, given), cast(TinyMIMConfig, self.own)
        world = self.session.fabric.world_size
        return fitted(config, published, len(data.train), world, PRETRAIN_BATCH, given, "pretrain_")

    def passes(self) -> float:
        """Fine-tuning, pre-training with a teacher's pass forward, and a teacher that is trained here."""
        c = self.config
        passes = float(c.epochs if c.stage != "pretrain" else 0)
        if c.stage != "finetune" and c.pretraining != "none":
            passes += c.pretrain_epochs * (1 + TEACHER_FORWARD) + (0 if c.teacher else TEACHER_COST * c.teacher_epochs)
        return passes

    def pictures(self, model: TinyMIM, x: Tensor, table: list[dict[str, Any]]) -> dict[str, Figure]:
        """Relations of one patch of the first image, in the last block."""
        place = self.config.patch_row, self.config.patch_column
        maps = {"last block": pictures.patch_relations(model, x[0], len(model.blocks), *place)}
        return {"relations": pictures.relations_picture(as_picture(model, x[0]), maps, *place)}

    @torch.inference_mode()
    def predict(self, model: TinyMIM, source: Path) -> Prediction:
        """Classify images; an encoder without a head gives their features, (n, D): the mean of the patches.

        Raises:
            Problem: no images, or none that can be read.
        """
        if model.num_classes:
            return super().predict(model, source)
        found = unlabelled(source, ("unlabelled",))
        good, problems = readable(found.paths, found.image, source)
        data = found.subset(good).with_transform(preprocessing(model))
        batches = loader(self.session, data, PREDICT_BATCH, label="predict")
        features = torch.cat(
            [model.forward_features(x)[:, model.num_prefix_tokens :].mean(1).cpu() for x, _ in batches]
        )
        table = [
            {"file": relative_name(path, source), "feature_norm": float(norm)}
            for path, norm in zip(data.paths, features.norm(dim=1).tolist(), strict=False)
        ]
        text = f"{len(features)} feature vectors of {features.shape[1]} channels; the encoder has no classifier"
        figures = self.pictures(model, self.session.fabric.to_device(data[0][0][None]), table)
        return Prediction(
            text=text,
            table=with_problems(table, found.paths, problems, source),
            figures=figures,
            arrays={"features": spread(features, good, len(found)).numpy()},
        )

    def convert(self, source: Path, variant: str = "") -> TinyMIM:
        """Build a model from the authors' weights: TinyMIM-PT-*.pth (an encoder) or TinyMIM-FT-*.pth (a classifier).

        Args:
            source: the file.
            variant: tiny, small or base; empty: by the width.

        Raises:
            Problem: unknown variant, or weights of another one.
        """
        if variant and variant not in VARIANTS:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(VARIANTS)}")
        state = read_state(source)
        shape = shape_of(state, source)
        fits = next((name for name, sizes in VARIANTS.items() if sizes["embed_dim"] == shape["embed_dim"]), "")
        if not fits or shape["depth"] != VARIANTS[fits]["depth"] or (variant and variant != fits):
            what = f"not weights of {variant or 'TinyMIM'}: {shape['depth']} blocks of {shape['embed_dim']} channels"
            remedy = f"--variant {fits}" if fits and variant else "give a file of TinyMIM-T, -S or -B"
            raise Problem(what, source, remedy)
        sizes = VARIANTS[fits]
        if "head.weight" not in state:
            encoder = TinyMIM(**{**shape, **sizes})
            checkpoint.fit_weights(encoder, state, source)
            return encoder.eval()
        classes = len(state["head.weight"])
        model = TinyMIM(
            **shape, num_heads=HEADS[fits], num_classes=classes, global_pool="avg", pretrained_cfg=label_names(classes)
        )
        checkpoint.fit_weights(model, state, source)
        return model.eval()


def trained_parameters(sizes: Mapping[str, Any]) -> float:
    """Parameters of a published network in pre-training; its positions are fixed."""
    with torch.device("meta"):
        model = TinyMIM(**sizes)
    assert model.pos_embed is not None
    return float(sum(p.numel() for p in model.parameters()) - math.prod(model.pos_embed.shape))
