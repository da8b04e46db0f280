"""torch._dynamo, imported when it is used.

timm, torchvision, Lightning Fabric and PyTorch Geometric import all of it, and sympy with it, for one name: seconds of
computing and 100 MB. While such a module is executed it finds a stand-in, which looks the name up on its first use.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

DYNAMO, UTILS = "torch._dynamo", "torch._dynamo.utils"
IMPORTERS = {
    "torchvision.ops.roi_align": UTILS,
    "lightning_fabric.wrappers": DYNAMO,
    "timm.models.naflexvit": DYNAMO,
    "torch_geometric.isinstance": DYNAMO,
}
"""Module -> what it imports."""


class _Compiled(type):
    def __instancecheck__(cls, instance: object) -> bool:
        dynamo: Any = sys.modules.get(DYNAMO)  # nothing is compiled before it is imported
        return dynamo is not None and isinstance(instance, dynamo.OptimizedModule)


class OptimizedModule(metaclass=_Compiled):
    """Stands for torch._dynamo's class in isinstance."""


def is_compile_supported(*args: Any, **options: Any) -> bool:
    """Stands for the function of torch._dynamo.utils."""
    return importlib.import_module(UTILS).is_compile_supported(*args, **options)


def disable(fn: Callable[..., Any], recursive: bool = True, **_: Any) -> Callable[..., Any]:
    """Stands for the decorator of torch._dynamo; torch has a form that imports it in the first call."""
    return importlib.import_module("torch._compile")._disable_dynamo(fn, recursive)


class _StandIn(ModuleType):
    """A module that has these names, and gives way to the real one if it is asked for another."""

    OptimizedModule = OptimizedModule
    disable = staticmethod(disable)
    is_compile_supported = staticmethod(is_compile_supported)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # questions of the import system
            raise AttributeError(name)
        _remove(self)
        return getattr(importlib.import_module(self.__name__), name)


def _remove(bare: ModuleType) -> None:
    if isinstance(bare, _StandIn) and sys.modules.get(bare.__name__) is bare:
        del sys.modules[bare.__name__]


class _Finder(MetaPathFinder):
    """Wraps the loaders of `IMPORTERS`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        wanted = IMPORTERS.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if wanted and wanted not in sys.modules else None
        if wanted is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            bare = sys.modules.setdefault(wanted, _StandIn(wanted))
            try:
                execute(module)
            except (ImportError, AttributeError):  # another version, which needs more of it
                _remove(bare)
                execute(module)
            finally:
                _remove(bare)

        spec.loader.exec_module = exec_module  # pyright: ignore[reportAttributeAccessIssue]
        return spec


def install() -> None:
    """Make imports from here on lean; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
