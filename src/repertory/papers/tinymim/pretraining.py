"""Pre-training: two views of an image, the student against its teacher, and MAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import fit
from repertory.data.images import CACHE_BYTES, ImageSet
from repertory.papers.tinymim.model import Distillation, MaskedAutoencoder, Teacher, random_patches

TEACHER_PART, STUDENT_PART = "teacher", "student"
"""Names of the loops in the records of a trial."""


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Views of each image for teacher and student, (C, H, W) each: the same crop; colour jitter for the student alone.

    Args:
        images: labels are ignored.
        size: height and width.
        cfg: mean and standard deviation of the student's input, under timm's keys.
        teacher_cfg: of the teacher's; None: the same.
        crop_scale: smallest area of a random crop; 1: the image is resized, without crop or mirroring.
        flip: probability of mirroring.
        color_jitter: strength of the changes of brightness, contrast and saturation.
    """

    def __init__(
        self,
        images: ImageSet,
        size: int,
        cfg: Mapping[str, Any],
        teacher_cfg: Mapping[str, Any] | None = None,
        crop_scale: float = 0.2,
        flip: float = 0.5,
        color_jitter: float = 0.4,
    ) -> None:
        self.images = images
        bicubic = InterpolationMode.BICUBIC
        self.geometry = (
            transforms.Resize((size, size), bicubic)
            if crop_scale == 1
            else transforms.Compose(
                [
                    transforms.RandomResizedCrop(size, (crop_scale, 1.0), interpolation=bicubic),
                    transforms.RandomHorizontalFlip(flip),
                ]
            )
        )
        jitter = [transforms.ColorJitter(color_jitter, color_jitter, color_jitter)] if color_jitter else []
        self.teacher = transforms.Compose(_normalised(teacher_cfg or cfg))
        self.student = transforms.Compose([*jitter, *_normalised(cfg)])
        self.draws = crop_scale < 1 or color_jitter > 0
        fits = 2 * 4 * 3 * size**2 * len(images) <= CACHE_BYTES
        self.remembered: dict[int, tuple[Tensor, Tensor]] | None = {} if fits and not self.draws else None
        """Views, where nothing about them is random."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.remembered is not None and index in self.remembered:
            return self.remembered[index]
        image = self.geometry(self.images.image(index))
        views = cast(tuple[Tensor, Tensor], (self.teacher(image), self.student(image)))
        if self.remembered is not None:
            self.remembered[index] = views
        return views


def _normalised(cfg: Mapping[str, Any]) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(cfg["mean"], cfg["std"])]


def distil(
    session: Session,
    student: VisionTransformer,
    teacher: Teacher,
    views: TwoViews,
    recipe: Recipe,
    *,
    mask_ratio: float = 0.0,
    part: str = STUDENT_PART,
    **options: Any,
) -> VisionTransformer:
    """Pre-train a student against a frozen teacher; records, progress and resume points as in `fit`.

    Args:
        session: of the trial.
        student: trained in place.
        teacher: on any device; moved to the session's.
        views: of the unlabelled images.
        recipe: of the pre-training.
        mask_ratio: share of the patches that neither sees, drawn anew for each image; 0: none.
        part: name of the loop.
        **options: of `Distillation`.
    """
    model = Distillation(student, teacher, **options)
    session.fabric.to_device(teacher)  # in place
    patches = student.patch_embed.num_patches

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        plain, jittered = batch
        keep = random_patches(len(plain), patches, mask_ratio, plain.device) if mask_ratio else None
        with session.fabric.autocast():
            signals = teacher(plain, keep)
        return module(jittered, signals, keep)

    fit(session, model, views, recipe, loss, part=part)
    return model.finished()


def pretrain_mae(
    session: Session, model: MaskedAutoencoder, views: TwoViews, recipe: Recipe, part: str
) -> VisionTransformer:
    """Pre-train an encoder by masked image modelling, on the views without jitter."""
    fit(session, model, views, recipe, lambda module, batch: module(batch[0]), part=part)
    return model.finished()
