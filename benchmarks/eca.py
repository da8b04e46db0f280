"""ECA compared with timm: whole networks at 224 pixels, and single attention layers.

    python benchmarks/eca.py [--threads 1] [--batch 8] [--rounds 9] [--networks …] [--output FILE.json]

Inference, and a training step (forward and backward, no optimizer). The contestants alternate on one batch; results
are medians of the paired ratios (above 1: the first is faster). The peers:

    ResNet-50    timm's resnet50 without attention, with its SE and with its ECA; ecaresnet50d has another stem
    ResNet-101   timm's resnet101, without attention and with its ECA
    MobileNetV2  timm's mobilenetv2_100
    layers       timm's EcaModule, on the outputs of ResNet-50's four stages

"fused" has the batch norms folded into the convolutions by `fuse`. If our network is slower than a peer, the operators
with the most CPU time are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import EcaModule
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.timing import race, ratio, where_the_time_goes
from repertory.papers.eca import channel_attention, network

LAYERS = ("eca", "se", "se_var1", "se_var2", "se_var3", "se_gc1", "se_gc2", "se_gc3", "cbam", "eca_ns")
STAGES = ((256, 56), (512, 28), (1024, 14), (2048, 7))


def resnet50() -> dict[str, nn.Module]:
    return {
        "ours": network("eca_resnet50"),
        "ours without attention": network("eca_resnet50", attention="none"),
        "ours with SE": network("eca_resnet50", attention="se"),
        "resnet50": timm.create_model("resnet50"),
        "resnet50 with SE": timm.create_model("resnet50", block_args={"attn_layer": "se"}),
        "resnet50 with ECA": timm.create_model("resnet50", block_args={"attn_layer": "eca"}),
        "ecaresnet50d": timm.create_model("ecaresnet50d"),
    }


def resnet101() -> dict[str, nn.Module]:
    return {
        "ours": network("eca_resnet101"),
        "resnet101": timm.create_model("resnet101"),
        "resnet101 with ECA": timm.create_model("resnet101", block_args={"attn_layer": "eca"}),
    }


def mobilenet_v2() -> dict[str, nn.Module]:
    return {
        "ours": network("eca_mobilenet_v2"),
        "ours without attention": network("eca_mobilenet_v2", attention="none"),
        "mobilenetv2_100": timm.create_model("mobilenetv2_100"),
    }


NETWORKS: dict[str, Callable[[], dict[str, nn.Module]]] = {
    "resnet50": resnet50,
    "resnet101": resnet101,
    "mobilenet_v2": mobilenet_v2,
}


def inference(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        model(x)


def training(model: nn.Module, x: Tensor) -> None:
    model(x).sum().backward()


def compare(models: dict[str, nn.Module], x: Tensor, work: Callable[..., None], rounds: int) -> dict[str, float]:
    """Milliseconds of each model, and the speed of the first relative to each other one."""
    times = race({name: partial(work, model, x) for name, model in models.items()}, range(1 + rounds))
    first = next(iter(models))
    row = {f"{name}, ms": 1000 * float(np.median(times[name])) for name in models}
    return row | {f"{first} over {peer}": ratio(times, first, peer) for peer in models if peer != first}


def show(title: str, row: dict[str, float]) -> None:
    print(title)
    for name, value in row.items():
        print(f"  {name:38s} {value:9.2f}")


def explain(model: nn.Module, x: Tensor, work: Callable[..., None]) -> None:
    """Print the operators with the most CPU time."""
    for operator, share in where_the_time_goes(lambda: work(model, x)).items():
        print(f"    {operator:44s} {share:5.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rounds, found = max(7, arguments.rounds), dict[str, Any]()

    x = torch.randn(arguments.batch, 3, 224, 224)
    for name in arguments.networks:
        models = NETWORKS[name]()
        for work in (inference, training):
            chosen = {key: model.train(work is training) for key, model in models.items()}
            if work is inference:
                fused: Any = NETWORKS[name]()["ours"].eval()
                chosen["ours, fused"] = fused.fuse()
            row = compare(chosen, x, work, rounds)
            found[f"{name}, {work.__name__}"] = row
            show(f"{name}, {work.__name__}, batch {arguments.batch}, {arguments.threads} thread(s)", row)
            if any(value < 1 for key, value in row.items() if key.startswith("ours over") and "over ours" not in key):
                print("  where the time of ours goes:")
                explain(chosen["ours"], x, work)

    for channels, size in STAGES:
        x = torch.randn(arguments.batch, channels, size, size, requires_grad=True)
        for work in (inference, training):
            layers = {"eca": channel_attention("eca", channels), "timm's eca": EcaModule(channels)}
            layers |= {kind: channel_attention(kind, channels) for kind in LAYERS[1:]}
            row = compare(layers, x, work, 3 * rounds)
            found[f"layer {channels} x {size} x {size}, {work.__name__}"] = row
            show(f"layers on {channels} x {size} x {size}, {work.__name__}", row)
    if arguments.output:
        write_json(arguments.output, {"threads": arguments.threads, "batch": arguments.batch, **found})


if __name__ == "__main__":
    main()
