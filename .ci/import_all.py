"""Import every module of the package; a missing optional package may only be named by a Problem with a pip command."""

from __future__ import annotations

import importlib
import pkgutil

import repertory
from repertory.core.problem import Problem

for module in pkgutil.walk_packages(repertory.__path__, "repertory."):
    try:
        importlib.import_module(module.name)
    except Problem as problem:
        if not problem.remedy.startswith("pip install"):
            raise
        print(f"{module.name}: {problem.remedy}")
