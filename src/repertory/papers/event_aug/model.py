"""Classifiers of event streams: a representation, followed by a convolutional network, spiking or not."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem, reason
from repertory.nn.spiking import SpikingConvNet, mean_over_time
from repertory.papers.event_aug.representations import CHANNELS, EST, Kernel, Representation


class EventClassifier(nn.Module, PyTorchModelHubMixin):
    """A classifier of event streams.

    Args:
        names: of the classes.
        size: (H, W) of the sensor.
        representation: see `represent`.
        bins: number of time bins.
        network: "cnn", three convolutions; "snn", spiking, one step per bin of count_frames; or a model name of timm,
            with as many input channels as the representation. The paper uses resnet34; EventDrop's authors also use
            vgg19, mobilenetv2_100 and inception_v3.
        side: height and width of the network's input: the central square of the sensor, resized; 0: the whole sensor.
        plan: layers of the spiking network, a name in `repertory.nn.spiking.PLANS` or a list of layers.
        kernel: kernel of EST.
        arm: augmentation used in training.

    Raises:
        Problem: "snn" with another representation; an unknown network, or one that does not take images of this size;
            in `forward`, a batch of another shape.
    """

    def __init__(
        self,
        names: list[str],
        size: list[int],
        representation: Representation = "count_frames",
        bins: int = 4,
        network: str = "cnn",
        side: int = 0,
        plan: str = "vggsnn",
        kernel: Kernel = "learned",
        arm: str = "none",
    ) -> None:
        super().__init__()
        where = "EventClassifier"
        if not names:
            raise Problem("no classes", where, "give their names")
        if len(size) != 2:
            raise Problem(f"size={size!r}", where, "give height and width of the sensor")
        check_whole(where, size=size, bins=bins)
        check_whole(where, 0, side=side)
        check_choice(where, CHANNELS, representation=representation)
        self.names, self.size = list(names), (size[0], size[1])
        self.representation: Representation = representation
        self.bins, self.side, self.arm = bins, side, arm
        self.spiking = network == "snn"
        fixed, per_bin = CHANNELS[representation]
        channels = fixed + per_bin * bins
        self.channels = channels
        self.est = EST(bins, self.size, kernel) if representation == "est" else None
        if network == "cnn":
            self.network = small_cnn(channels, len(names))
        elif self.spiking:
            if representation != "count_frames":
                raise Problem(f"a spiking network on {representation}", "representation", "set it to count_frames")
            self.network = SpikingConvNet(plan, 2, (side, side) if side else self.size, len(names))
        elif timm.is_model(network):
            self.network = timm.create_model(network, in_chans=channels, num_classes=len(names))
            try_network(self.network, network, (channels, side or size[0], side or size[1]))
        else:
            raise Problem(f"no network is called {network!r}", "network", "give cnn, snn or a model name of timm")

    def forward(self, x: Tensor) -> Tensor:
        """A batch of `represent` -> logits (B, K); of the spiking network (T, B, K).

        Args:
            x: count_frames (B, T, 2, H, W); est (N, 5), see `collate_streams`; otherwise (B, C, H, W).
        """
        if self.est is not None:
            x = self.est(x)  # (B, 2, C, H, W)
        self.check(x)
        if x.ndim == 5:
            steps = x.shape[1]
            x = self.crop_and_resize(x.flatten(1, 2))  # (B, T 2, H, W)
            if self.spiking:
                return self.network(x.unflatten(1, (steps, 2)).transpose(0, 1))
            return self.network(x)
        return self.network(self.crop_and_resize(x))

    def check(self, x: Tensor) -> None:
        """Require a batch of this representation and sensor.

        Raises:
            Problem: another number of dimensions, channels or bins, or another height and width.
        """
        whole = {"count_frames": (self.bins, 2), "est": (2, self.bins)}.get(self.representation, (self.channels,))
        if tuple(x.shape[1:]) != (*whole, *self.size):
            shape = ", ".join(map(str, (*whole, *self.size)))
            remedy = f"give (B, {shape}); crop or pad streams of another sensor"
            raise Problem(f"a batch of shape {tuple(x.shape)}", f"EventClassifier on {self.representation}", remedy)

    def scores(self, x: Tensor) -> Tensor:
        """Logits (B, K); of the spiking network the mean over time."""
        return mean_over_time(self(x))

    def crop_and_resize(self, x: Tensor) -> Tensor:
        """The central square of (B, C, H, W), resized to (B, C, side, side); `side` 0: x unchanged.

        Nearest neighbour, as in EST's code; for the spiking network area averaging, which loses no events.
        """
        if not self.side:
            return x
        height, width = x.shape[-2:]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = x[..., top : top + edge, left : left + edge]
        return F.interpolate(square, (self.side, self.side), mode="area" if self.spiking else "nearest")


@torch.no_grad()
def try_network(model: nn.Module, name: str, image: tuple[int, int, int]) -> None:
    """Require that a network of timm takes images (C, H, W): many transformers take one size only.

    Raises:
        Problem: it does not; names the size that it was made for.
    """
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, *image))
    except (AssertionError, RuntimeError, ValueError) as error:
        wanted = model.pretrained_cfg["input_size"][-1]  # pyright: ignore[reportIndexIssue, reportArgumentType]
        what = f"{name} takes no images of {image[1]} x {image[2]} pixels: {reason(error)}"
        raise Problem(what, "network", f"set side={wanted}, or choose a convolutional network") from error
    model.train(was_training)


def small_cnn(channels: int, classes: int) -> nn.Sequential:
    """3x3 convolutions with 16, 32 and 64 channels, each with batch norm, ReLU and max pooling; a linear layer."""
    layers: list[nn.Module] = []
    for maps in (16, 32, 64):
        layers += [
            nn.Conv2d(channels, maps, 3, padding=1, bias=False),
            nn.BatchNorm2d(maps),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = maps
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
