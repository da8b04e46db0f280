"""RefT from trained networks of transformers: Mask2Former with its classes, and image networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repertory.core.problem import Problem
from repertory.papers.reft.base import class_names, is_mask2former, load_backbone, load_network, network_arguments
from repertory.papers.reft.model import CosineClassifier, RefT


def from_mask2former(folder: Path, **options: Any) -> RefT:
    """RefT whose shared part is a trained Mask2Former: with new references it gives that network's predictions.

    Args:
        folder: of `Mask2FormerForUniversalSegmentation`, as transformers writes it.
        options: further arguments of `RefT`.

    Raises:
        Problem: no such folder, or another network in it.
    """
    network = load_network(folder)
    model = RefT(class_names(network), network=network_arguments(network), **options)
    state = network.state_dict()
    missing, unknown = model.net.load_state_dict(state, strict=False)
    if left := [*missing, *unknown]:
        raise Problem(f"{len(left)} weights do not fit (first: {left[0]})", folder, "save it with another transformers")
    return model.eval()


def start_from(model: RefT, folder: Path) -> None:
    """Load an image network, or all of a Mask2Former but its classifier, into a network of the same size.

    Raises:
        Problem: no such folder, or another size.
    """
    if not is_mask2former(folder):
        load_backbone(model.net.model.pixel_level_module.encoder, folder)
        return
    try:
        model.net.model.load_state_dict(load_network(folder).model.state_dict())
    except RuntimeError as error:
        what = "Mask2Former of another size"
        raise Problem(what, folder, "set variant to its image network") from error


def with_references(base: RefT, model: RefT) -> RefT:
    """Give a new network the shared part of a trained one; a cosine classifier starts from the rows of the linear one.

    Args:
        base: with a linear classifier, of the same size and classes.
        model: changed in place, and returned.
    """
    state = base.net.state_dict()
    if model.cosine:
        cosine = CosineClassifier.from_linear(base.net.class_predictor)
        state = {name: tensor for name, tensor in state.items() if not name.startswith("class_predictor.")}
        state |= {f"class_predictor.{name}": tensor for name, tensor in cosine.state_dict().items()}
    model.net.load_state_dict(state)
    return model
