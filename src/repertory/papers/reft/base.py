"""The base detector: Mask2Former of transformers, built from a table of sizes or from a folder of Hugging Face.

Cheng, Misra, Schwing, Kirillov, Girdhar: Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repertory.core.arguments import check_choice
from repertory.core.files import read_json
from repertory.core.problem import Problem, reason, require
from repertory.nn.encoders import config_of

EXTRA = "instances"
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _resnet(depths: tuple[int, ...]) -> dict[str, Any]:
    return {"model_type": "resnet", "depths": list(depths), "out_features": STAGES}


def _swin(dim: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int = 7, **more: Any) -> dict[str, Any]:
    sizes = {"embed_dim": dim, "depths": list(depths), "num_heads": list(heads), "window_size": window}
    return {"model_type": "swin", **sizes, "drop_path_rate": 0.3, "out_features": STAGES, **more}


VARIANTS: Mapping[str, dict[str, Any]] = {
    "tiny": {
        "backbone_config": {
            "model_type": "resnet", "embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1],
            "layer_type": "basic", "out_features": STAGES,
        },
        "feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_layers": 1, "decoder_layers": 3,
        "num_attention_heads": 4, "encoder_feedforward_dim": 128, "dim_feedforward": 128, "num_queries": 8,
        "train_num_points": 96, "class_weight": 5.0, "mask_weight": 3.0, "dice_weight": 3.0, "no_object_weight": 0.2,
    },
    "r50": {"backbone_config": _resnet((3, 4, 6, 3))},
    "r101": {"backbone_config": _resnet((3, 4, 23, 3))},
    "swin_t": {"backbone_config": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24))},
    "swin_s": {"backbone_config": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24))},
    "swin_b": {"backbone_config": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32), window=12, image_size=384)},
}  # fmt: skip
"""Name -> arguments of `transformers.Mask2FormerConfig`; all but tiny as published: 256 channels, 6 layers in the pixel
decoder, 9 in the decoder, 100 queries, losses 2, 5 and 5, no-object 0.1, 12 544 points."""


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the warning that ResNet is no supported backbone: it works."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def _mask2former() -> Any:
    """transformers, checked to have Mask2Former: a torchvision or torchaudio of another torch breaks its import."""
    transformers = require("transformers", EXTRA)
    try:
        _ = transformers.Mask2FormerForUniversalSegmentation
    except (AttributeError, ImportError, RuntimeError) as error:
        raise Problem(
            f"transformers cannot import Mask2Former: {reason(error)}",
            "import transformers",
            "install versions of torch, torchvision and torchaudio that go together, or remove torchaudio",
        ) from error
    return transformers


def build_network(variant: str, network: Mapping[str, Any] | None, classes: int) -> Any:
    """An untrained `Mask2FormerForUniversalSegmentation`.

    Args:
        variant: one of `VARIANTS`.
        network: arguments of `Mask2FormerConfig` that replace the variant's, such as those of a converted checkpoint.
        classes: C, without "no object".

    Raises:
        Problem: transformers is not installed, or cannot build it.
    """
    check_choice("RefT", VARIANTS, variant=variant)
    transformers = _mask2former()
    arguments = {**VARIANTS[variant], **(network or {})}
    backbone = dict(arguments.pop("backbone_config"))
    try:
        with _quiet(transformers):
            config = transformers.Mask2FormerConfig(
                backbone_config=transformers.AutoConfig.for_model(backbone.pop("model_type"), **backbone),
                num_labels=classes,
                **arguments,
            )
            return transformers.Mask2FormerForUniversalSegmentation(config)
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(f"transformers cannot build Mask2Former: {reason(error)}", "network", "check network") from error


def load_network(folder: Path) -> Any:
    """A trained `Mask2FormerForUniversalSegmentation`.

    Args:
        folder: as `save_pretrained` of transformers writes it.

    Raises:
        Problem: no such folder, or another network in it.
    """
    transformers = _mask2former()
    if not (folder / "config.json").is_file():
        raise Problem(
            "no Mask2Former of Hugging Face here", folder, "give a folder with config.json and model.safetensors"
        )
    try:
        with _quiet(transformers):
            network, told = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
                str(folder), local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # transformers and safetensors raise many kinds on a damaged file
        what = f"Mask2Former cannot be loaded: {reason(error)}"
        raise Problem(what, folder, "give a folder that transformers wrote") from error
    if missing := sorted(told["missing_keys"]):
        what = f"{len(missing)} weights of Mask2Former are missing (first: {missing[0]})"
        raise Problem(what, folder, "give a folder of Mask2FormerForUniversalSegmentation")
    return network.float()


def load_backbone(encoder: Any, folder: Path) -> None:
    """Load a trained image network into that of a Mask2Former.

    Args:
        encoder: changed in place.
        folder: of a ResNet or Swin, as `save_pretrained` of transformers writes it.

    Raises:
        Problem: no such folder, or a network of another size.
    """
    try:
        trained, told = type(encoder).from_pretrained(
            str(folder), config=encoder.config, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise many kinds
        what = f"the image network cannot be loaded: {reason(error)}"
        raise Problem(what, folder, "give a folder of the variant's ResNet or Swin") from error
    if left := [*told["missing_keys"], *told["mismatched_keys"]]:
        what = f"{len(left)} weights of the image network are missing or of another shape (first: {left[0]})"
        raise Problem(what, folder, "give a folder of the variant's ResNet or Swin")
    encoder.load_state_dict(trained.float().state_dict())


def is_mask2former(folder: Path) -> bool:
    """Whether a folder of Hugging Face holds a Mask2Former.

    Raises:
        Problem: no folder of Hugging Face.
    """
    if not (folder / "config.json").is_file():
        raise Problem("no folder of Hugging Face", folder, "give a folder with config.json and model.safetensors")
    return read_json(folder / "config.json", "save it again with save_pretrained").get("model_type") == "mask2former"


def network_arguments(network: Any) -> dict[str, Any]:
    """What `build_network` takes to build the same network again, as JSON values."""
    dropped = {"id2label", "label2id", "architectures", "model_type"}
    found = {name: value for name, value in config_of(network).items() if name not in dropped}
    found["backbone_config"] = {
        name: value
        for name, value in found["backbone_config"].items()
        if name not in {"id2label", "label2id", "architectures", "transformers_version", "dtype", "out_indices"}
        and not name.startswith("_")
    }
    return found


def class_names(network: Any) -> list[str]:
    """Names of the classes that a trained network tells apart, in the order of its rows."""
    names = network.config.id2label
    return [str(names[k]) for k in range(len(names))]
