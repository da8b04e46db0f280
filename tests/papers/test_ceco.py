"""CeCo: fidelity to the authors' code, the branch, hosts, collapse metrics, use, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repertory.papers.ceco.hosts import UPerHead
from repertory.papers.ceco.model import CeCoLoss, pixel_loss
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

CLASSIFIERS = {"UPerHead_ceco": "etf", "UPerHead_cecol": "random"}


# -- fidelity -----------------------------------------------------------------------------------


def labels_of(images: int, size: int, classes: int) -> Tensor:
    """The labels of the reference cases."""
    v = probe(images, size, size)
    labels = (((v + 1) / 2 * classes).trunc().clamp(0, classes - 1) * v.abs()).trunc().long()
    labels[:, :4] = 255
    return labels


@pytest.mark.parametrize("case", cases("ceco"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    c = case["config"]
    head = UPerHead(c["in_channels"], c["num_classes"], c["channels"], c["pool_scales"], drop_rate=0.0)
    branch = CeCoLoss(
        c["num_classes"], c["channels"], c["frequency"], CLASSIFIERS[c["head"]], weight=c["img_cls_weight"],
        scale=c["scale"], smooth=c["smooth"], drop_rate=0.0,
    )  # fmt: skip
    model = fill_(nn.ModuleDict({"head": head, "branch": branch}))
    branch.prior.copy_(torch.tensor(c["frequency"]))
    levels = [probe(*shape) for shape in case["input"]]
    labels = labels_of(case["input"][0][0], 64, c["num_classes"])
    with torch.no_grad():
        assert_agrees(head.eval()(levels), case)
        model.train()
        features = head.forward_features(levels)
        centres, count = branch.centres(features, labels)
        present = count.nonzero()[:, 0]
        logits = branch.logits(centres)
        losses = pixel_loss(head.classifier(features), labels), branch.loss(logits, count)
    assert present.tolist() == case["present_classes"]
    assert_agrees(logits[present], {"output": case["center_logits"]})
    assert [float(x) for x in losses] == pytest.approx(list(case["losses"].values()), rel=1e-4)
    # Their prior is a parameter, ours a buffer.
    assert sum(p.numel() for p in model.parameters()) + c["num_classes"] == case["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case["params_trainable"]
