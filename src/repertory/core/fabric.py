"""Lightning Fabric, without the seconds that its import costs for torchmetrics.

Fabric imports all of torchmetrics, and with it transformers, to read its version. A bare module tells that here.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import ModuleType

if "torchmetrics" in sys.modules:
    from lightning_fabric import Fabric
else:
    bare = ModuleType("torchmetrics")
    bare.__dict__["__version__"] = version("torchmetrics")
    sys.modules["torchmetrics"] = bare
    try:
        from lightning_fabric import Fabric
    finally:
        del sys.modules["torchmetrics"]

__all__ = ["Fabric"]
