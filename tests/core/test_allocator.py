"""The allocator keeps memory where it can, and says so."""

import sys

import pytest
import torch

from repertory.core.allocator import VARIABLE, keep_memory
from repertory.core.problem import Problem


def test_results_do_not_change() -> None:
    x = torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    before = torch.nn.functional.conv2d(x, weight)
    keep_memory()
    assert torch.equal(torch.nn.functional.conv2d(x, weight), before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of Linux")
def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "system")
    assert not keep_memory()
    monkeypatch.setenv(VARIABLE, "mimalloc")
    with pytest.raises(Problem, match="no allocator mode 'mimalloc'"):
        keep_memory()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_memory()
