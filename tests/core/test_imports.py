"""torch._dynamo is imported when it is used, and works then."""

import subprocess
import sys

import pytest

LEAN = """
import sys
import repertory.core.fabric, repertory.core.training, timm, torchvision.ops
print([name for name in ("torch._dynamo", "torch._dynamo.utils", "sympy", "fvcore") if name in sys.modules])
"""
USED = """
import torch, repertory.core.training
from repertory.core.fabric import Fabric
from torchvision.ops import roi_align
fabric = Fabric(devices=1, accelerator="cpu")
plain = torch.nn.Linear(2, 2)
print(type(fabric.setup(plain)).__name__)
compiled = torch.compile(plain, backend="eager")
wrapped = fabric.setup(compiled)
print(type(wrapped._forward_module).__name__, torch.equal(wrapped(torch.ones(1, 2)), plain(torch.ones(1, 2))))
torch.use_deterministic_algorithms(True)
print(tuple(roi_align(torch.zeros(1, 1, 4, 4), [torch.tensor([[0.0, 0, 3, 3]])], 2).shape))
from timm.models.naflexvit import NaFlexRopeIterator
print("disable" in dir(torch._dynamo))
"""
OTHER = """
import sys
from types import ModuleType
import repertory.core.imports as imports
stand_in = imports._StandIn("torch._dynamo")
sys.modules["torch._dynamo"] = stand_in
print(stand_in.reset is sys.modules["torch._dynamo"].reset, sys.modules["torch._dynamo"] is not stand_in)
imports.install()
print(sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path))
"""


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        (LEAN, ["[]"]),
        (USED, ["_FabricModule", "OptimizedModule True", "(1, 1, 2, 2)", "True"]),
        (OTHER, ["True True", "1"]),
    ],
    ids=["lean", "used", "other names"],
)
def test_torch_dynamo_comes_when_it_is_used(script: str, printed: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed
