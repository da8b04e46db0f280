"""Networks by name: frozen surrogates, and the hackers' classifiers.

`small` is a convolutional network of 64 features for images of 32 pixels. `rn50`, torchvision's ResNet-50, and
`clip_rn50`, the image tower of CLIP, are the surrogates of the paper. timm:NAME and torchvision:NAME are any
classifiers of these libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torchvision
from huggingface_hub import PyTorchModelHubMixin
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, checkpoint_filter_fn
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.arguments import check_whole
from repertory.core.problem import Problem, reason, suggest
from repertory.nn.backbone import check_images

HALF = (0.5, 0.5, 0.5)
SHORT = {"rn50": "torchvision:resnet50", "clip_rn50": "timm:resnet50_clip.openai"}
EXPECTED = {
    "rn50": "torchvision's resnet50-0676ba61.pth (keys conv1.weight, layer1.0.conv1.weight, …, fc.bias)",
    "clip_rn50": "OpenAI's RN50.pt (keys visual.conv1.weight, …, visual.attnpool.c_proj.bias)",
}
"""The files that hold the paper's surrogates."""


class SmallCNN(nn.Sequential):
    """Three 3 x 3 convolutions of stride 2 with batch norm; (B, 3, H, W) -> (B, classes), or 64 features."""

    def __init__(self, classes: int = 0) -> None:
        check_whole("SmallCNN", 0, classes=classes)

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

        head = nn.Linear(64, classes) if classes else nn.Identity()
        super().__init__(*stage(3, 32), *stage(32, 64), *stage(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return super().forward(check_images(input, 3, "SmallCNN"))


def clip_resnet(
    layers: tuple[int, int, int, int] = (3, 4, 6, 3),
    output_dim: int = 1024,
    input_resolution: int = 224,
    width: int = 64,
    heads: int | None = None,
) -> ByobNet:
    """The image tower of CLIP's ResNets, with the names of timm's `resnet50_clip`.

    Args:
        layers: bottlenecks of each stage.
        output_dim: channels of the attention-pooled embedding.
        input_resolution: height and width of the images; other sizes resample the positions.
        width: channels of the stem.
        heads: of the attention; they have 64 channels each, so there are width / 2 of them. None: so many.

    Shape:
        (B, 3, H, W) -> (B, output_dim).

    Raises:
        Problem: another number of heads.
    """
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=depth, c=256 * 2**k, s=min(2, k + 1), br=0.25) for k, depth in enumerate(layers)
    )
    cfg = ByoModelCfg(
        blocks=blocks,
        stem_chs=(32, 32, 64),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="attn_abs",
        width_factor=width / 64,
    )
    if heads not in (None, width // 2):
        raise Problem(f"{heads} heads for a width of {width}", "clip_resnet", f"give {width // 2}: 64 channels a head")
    return ByobNet(cfg, num_classes=output_dim, img_size=input_resolution)


def build(name: str, classes: int = 0, *, pretrained: bool = False) -> nn.Module:
    """A network by name.

    Args:
        name: small, rn50, clip_rn50, timm:NAME or torchvision:NAME.
        classes: outputs; 0: features, the input of the classifier (of CLIP the embedding).
        pretrained: download the weights.

    Raises:
        Problem: unknown name (gives the closest ones), or weights that cannot be downloaded.
    """
    library, _, model = SHORT.get(name, name).partition(":")
    if name == "small":
        return SmallCNN(classes)
    if library not in ("timm", "torchvision") or not model:
        known = ("small", *SHORT, "timm:NAME", "torchvision:NAME")
        raise Problem(f"no network {name!r}{suggest(name, known)}", "network", f"choose from {', '.join(known)}")
    try:
        if library == "timm":
            keep = "_clip" in model and "_ft_" not in model and not classes  # the last layer is part of the embedding
            return timm.create_model(model, pretrained=pretrained, num_classes=None if keep else classes)
        network = torchvision.models.get_model(model, weights=_published(model) if pretrained else None)
    except Exception as error:  # each library has its own
        if pretrained:
            raise no_download(name, error) from error
        known = timm.list_models() if library == "timm" else torchvision.models.list_models()
        remedy = f"check the name{suggest(model.partition('.')[0], known)}"
        raise Problem(f"{library} gives no model {model!r}: {reason(error)}", name, remedy) from error
    return _with_head(network, classes)


def _published(model: str) -> Any:
    weights = torchvision.models.get_model_weights(model)
    return weights.IMAGENET1K_V1 if "IMAGENET1K_V1" in weights.__members__ else weights.DEFAULT  # pyright: ignore


def no_download(name: str, error: Exception) -> Problem:
    """The Problem of weights that are not here and cannot be had: names the file and its keys."""
    expected = EXPECTED.get(name, f"a state dict of {name}")
    remedy = f"set surrogate_weights to a file: {expected}; or set surrogate=small, a weak one that is trained here"
    return Problem(f"the weights of {name} cannot be downloaded: {reason(error)}", name, remedy)


def _with_head(network: nn.Module, classes: int) -> nn.Module:
    """A network of torchvision with another last linear layer, or none."""
    path, last = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Linear(last.in_features, classes) if classes else nn.Identity())
    return network


class Normalised(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A network that takes images in [0, 1] and normalises them itself.

    Args:
        name: see `build`.
        classes: outputs; 0: features.
        mean: of the channels; None: as the weights of this name were trained.
        std: of the channels.

    Shape:
        (B, 3, H, W) in [0, 1] -> (B, classes) or (B, D).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        classes: int = 0,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.network = build(name, classes)
        own_mean, own_std = _normalisation(name, self.network)
        self.register_buffer("mean", torch.tensor(mean or own_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or own_std).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def _normalisation(name: str, network: nn.Module) -> tuple[Any, Any]:
    if name == "small":
        return HALF, HALF
    if "clip" in name:
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    cfg = cast("Mapping[str, Any]", getattr(network, "pretrained_cfg", {}))
    return cfg.get("mean", IMAGENET_DEFAULT_MEAN), cfg.get("std", IMAGENET_DEFAULT_STD)


class Surrogate(Normalised):
    """A frozen network whose features tell images apart: (B, 3, H, W) in [0, 1] -> (B, D). Always in evaluation mode.

    Only the perturbation needs a gradient: with frozen weights a third of the backward pass is not computed.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Surrogate:
        """Stay in evaluation mode."""
        return super().train(False)  # type: ignore[return-value]


def load_surrogate(name: str, weights: str = "", *, download: bool = True) -> Surrogate:
    """A surrogate with its weights.

    Args:
        name: see `build`.
        weights: file of the weights; "": download those of this name.
        download: False: leave random weights where no file is given (a dry run).

    Raises:
        Problem: the weights are not to be had, or do not fit; names the file wanted and its keys.
    """
    surrogate = Surrogate(name)
    if weights:
        load_weights(surrogate.network, Path(weights), EXPECTED.get(name, f"a state dict of {name}"))
    elif download:
        surrogate.network.load_state_dict(build(name, pretrained=True).state_dict())
    return surrogate


def load_weights(network: nn.Module, path: Path, expected: str) -> None:
    """Load a surrogate's weights in place: a state dict, or OpenAI's TorchScript archive of CLIP.

    Raises:
        Problem: unreadable, or of another network; says what is expected.
    """
    state = _read_archive(path) or checkpoint.read_weights(path)
    if isinstance(network, ByobNet):
        state = checkpoint_filter_fn(state, network)
    own = network.state_dict()
    state = {key: tensor.to(own[key].dtype) for key, tensor in state.items() if key in own}  # CLIP's are float16
    try:
        checkpoint.fit_weights(network, state, path)
    except Problem as problem:
        raise Problem(problem.what, path, f"give {expected}") from problem


def _read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive, whose code is not run; {} if the file is none."""
    try:
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except (RuntimeError, ValueError, OSError):
        return {}
