"""Lightning Fabric, without what its import costs.

It imports all of torchmetrics, and with it transformers, to read its version: a bare module tells that here. And it has
torch count GPUs through NVML, which opens a library in every optimizer step; that serves processes that are forked, and
ours are spawned.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from types import ModuleType

NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"

wanted = os.environ.get(NVML)
bare = ModuleType("torchmetrics")
bare.__dict__["__version__"] = version("torchmetrics")
known = sys.modules.setdefault("torchmetrics", bare)
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision
    from lightning_fabric.strategies import SingleDeviceStrategy
finally:
    if known is bare:
        del sys.modules["torchmetrics"]
    if wanted is None:
        os.environ.pop(NVML, None)

__all__ = ["Fabric", "adds_nothing"]


def adds_nothing(fabric: Fabric) -> bool:
    """Whether Fabric leaves forward pass, backward pass and step as they are: one device, full precision.

    Then its wrappers are left out; on small networks they take longer than the layers.
    """
    strategy = fabric.strategy
    return type(strategy) is SingleDeviceStrategy and type(strategy.precision) is Precision and not fabric._callbacks
