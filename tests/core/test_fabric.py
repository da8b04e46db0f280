"""Lightning Fabric is imported without torchmetrics, which still imports whole afterwards."""

import subprocess
import sys

SCRIPT = """
import sys
from repertory.core.fabric import Fabric
print([name for name in ("torchmetrics", "transformers") if name in sys.modules])
from torchmetrics import MeanMetric
print(Fabric(devices=1, accelerator="cpu").setup_module(MeanMetric()).compute.__name__)
"""


def test_fabric_comes_without_torchmetrics() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "compute"]
