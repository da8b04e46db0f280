"""ASCEND and IU-ViT: plain vision transformers as backbones of image diffusion (Cao et al., 2022), and U-ViT."""

from repertory.papers.ascend.diffusion import SCHEDULES, Diffuser, Schedule, dpm_solver, euler, noise_loss
from repertory.papers.ascend.model import VARIANTS, DiffusionViT, UViT, ascend, iu_vit, matched, vit

__all__ = [
    "SCHEDULES",
    "VARIANTS",
    "Diffuser",
    "DiffusionViT",
    "Schedule",
    "UViT",
    "ascend",
    "dpm_solver",
    "euler",
    "iu_vit",
    "matched",
    "noise_loss",
    "vit",
]
