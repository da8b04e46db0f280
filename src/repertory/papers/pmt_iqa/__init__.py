"""PMT-IQA: image quality without a reference, by multi-scale features and a progressive loss (Pan et al., 2023)."""

from repertory.papers.pmt_iqa.model import (
    PMTIQA,
    MultiScaleResNet,
    Quality,
    multi_task_loss,
    pmt_iqa_resnet18,
    pmt_iqa_resnet50,
    task_weights,
)

__all__ = [
    "PMTIQA",
    "MultiScaleResNet",
    "Quality",
    "multi_task_loss",
    "pmt_iqa_resnet18",
    "pmt_iqa_resnet50",
    "task_weights",
]
