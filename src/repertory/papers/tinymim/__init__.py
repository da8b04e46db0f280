"""TinyMIM: small ViTs distilled from the attention relations of MAE teachers (Ren et al., CVPR 2023)."""

from repertory.papers.tinymim.model import (
    TARGETS,
    VARIANTS,
    Distillation,
    MaskedAutoencoder,
    Teacher,
    TinyMIM,
    relations,
    sincos_position,
    tinymim_vit_base_patch16,
    tinymim_vit_small_patch16,
    tinymim_vit_tiny_patch16,
)

__all__ = [
    "TARGETS",
    "VARIANTS",
    "Distillation",
    "MaskedAutoencoder",
    "Teacher",
    "TinyMIM",
    "relations",
    "sincos_position",
    "tinymim_vit_base_patch16",
    "tinymim_vit_small_patch16",
    "tinymim_vit_tiny_patch16",
]
