"""The allocator keeps memory where it can, and says so."""

import sys
from pathlib import Path

import pytest
import torch

from repertory.core.allocator import VARIABLE, keep_memory, release_memory
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
    release_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of Linux")
def test_freed_memory_can_be_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])

    keep_memory()
    kept = [torch.ones(1_000_000) for _ in range(30)]  # 4 MB each
    assert kept
    del kept
    before = resident()
    release_memory()
    assert resident() < before
