"""Model directories (config.json + model.safetensors), and the way in for weights that others released.

A model is an `nn.Module` with `huggingface_hub.PyTorchModelHubMixin`: its constructor takes JSON values,
so `save_pretrained`, `from_pretrained` and `push_to_hub` work. `repertory.json` beside the weights names
the class and the paper, so that `repertory predict my_model/ photo.jpg` needs no further word.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from repertory.core.files import give_default_mode, read_json, replace_folder, write_json
from repertory.core.problem import Damaged, Problem, system_problem

# What a model directory says of itself is read without torch; functions that need torch import it.
if TYPE_CHECKING:
    import torch
    from torch import nn

ABOUT = "repertory.json"


def save(model: nn.Module, folder: Path, *, empty: bool = False, **about: Any) -> None:
    """Write a model directory atomically.

    Args:
        model: with the interface of the hub.
        folder: the model directory.
        empty: replace nothing but an empty folder.
        about: JSON values for repertory.json: paper, arm, config.

    Raises:
        Problem: the disk is full, or not writable.
    """
    from huggingface_hub import PyTorchModelHubMixin
    from safetensors import SafetensorError

    if not isinstance(model, PyTorchModelHubMixin):
        raise TypeError(f"{type(model).__name__} cannot be saved: derive it from PyTorchModelHubMixin")
    try:
        with replace_folder(Path(folder), empty=empty) as fresh:
            model.save_pretrained(fresh)
            give_default_mode(fresh)  # safetensors writes for its owner alone
            write_json(fresh / ABOUT, {"class": f"{type(model).__module__}:{type(model).__qualname__}", **about})
    except (OSError, SafetensorError) as error:
        raise write_problem(error, folder) from error


def write_problem(error: Exception, path: Path) -> Exception:
    """The Problem behind an error of `torch.save` or safetensors, which say in their own ways that a disk is full.

    An error that is none of the file system's is returned as it is.
    """
    if isinstance(error, OSError):
        return system_problem(error, path)
    place = next(folder for folder in Path(path).absolute().parents if folder.exists())
    full = shutil.disk_usage(place).free < 2**20 or "os error 28" in str(error)
    if full:
        return system_problem(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    return error


def about(folder: Path) -> dict[str, Any]:
    """What repertory.json says of a model directory.

    Raises:
        Damaged: not a model directory.
        Problem: not readable.
    """
    remedy = "give the folder that `repertory train --out` wrote"
    try:
        return read_json(Path(folder) / ABOUT, remedy)
    except Damaged as damage:
        raise Damaged(f"not a model directory of repertory: {damage.what}", folder, remedy) from damage
    except FileNotFoundError as error:
        raise Damaged("not a model directory of repertory", folder, remedy) from error
    except OSError as error:
        raise system_problem(error, folder) from error


def load(folder: Path, package: str = "repertory") -> Any:
    """Load a model directory: the module that was saved, in evaluation mode, on the CPU.

    Only classes below `package` (or repertory itself) are built: a model directory from a stranger names
    a class, and naming one must not be a way to import anything else.

    Raises:
        Damaged: not a model directory, or weights that do not fit.
        Problem: a class outside `package`, or files that may not be read.
    """
    from huggingface_hub import PyTorchModelHubMixin
    from safetensors import SafetensorError

    name = str(about(folder).get("class", ""))
    module, _, qualname = name.partition(":")
    foreign = Problem(f"the model directory names a foreign class: {name!r}", folder, "load it with its own package")
    if module.split(".")[0] not in {"repertory", package.split(".")[0]}:
        raise foreign
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError, ValueError) as error:
        raise Damaged(
            f"the model directory cannot be loaded: {error}", folder, "it may be damaged, or of another version"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, PyTorchModelHubMixin) and cls.__module__ == module):
        raise foreign  # something that our own modules import
    try:
        for path in Path(folder).iterdir():
            if path.is_file():
                path.open("rb").close()  # the hub and safetensors call a file absent that may not be read
        with contextlib.redirect_stdout(io.StringIO()):  # the hub prints where it loads from
            return cast("nn.Module", cls.from_pretrained(str(folder), strict=True)).eval()
    except PermissionError as error:
        raise system_problem(error) from error
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise Damaged(
            f"the model directory cannot be loaded: {reason}", folder, "it may be damaged, or of another version"
        ) from error


def read_weights(path: Path, prefer: tuple[str, ...] = ("state_dict", "model", "net")) -> dict[str, torch.Tensor]:
    """Tensors of a released checkpoint: safetensors, or a pickle of tensors (`weights_only`).

    Args:
        path: `.safetensors`, or anything that `torch.load` reads.
        prefer: keys under which releases wrap their state dict; the first that is present is taken.

    Raises:
        Problem: unreadable, not weights, or a pickle that holds more than tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if Path(path).suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; all mean the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Problem(
            f"cannot read weights: {reason}", path, "give a .safetensors or a .pth of tensors only"
        ) from error
    for key in prefer:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = (
        {k.removeprefix("module."): v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise Problem("the file holds no weights", path, "give the state dict that the authors released")
    return state


def rename(state: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> dict[str, torch.Tensor]:
    r"""Rename the keys of a state dict by regular expressions, applied in order, each to every key.

    Raises:
        Problem: two tensors would get the same name.

    Example:
        >>> import torch
        >>> rename({"stem.conv.weight": torch.zeros(1)}, {r"^stem\.conv\.": "stem."}).keys()
        dict_keys(['stem.weight'])
    """
    renamed = {}
    for key, tensor in state.items():
        for pattern, replacement in table.items():
            key = re.sub(pattern, replacement, key)
        if key in renamed:
            raise Problem(f"two tensors would be called {key!r}", "weights", "give the file that the authors released")
        renamed[key] = tensor
    return renamed


def fit_weights(
    model: nn.Module, state: Mapping[str, torch.Tensor], where: object = "", spare: tuple[str, ...] = ()
) -> list[str]:
    """Load a state dict strictly, except for tensors below the prefixes `spare` whose shape differs.

    Returns:
        The keys left at their initial values: a head with another number of classes, say.

    Raises:
        Problem: keys are missing, unknown, or of another shape; names the first of each.
    """
    own = model.state_dict()
    left = (
        [k for k in own if k.startswith(spare) and (k not in state or state[k].shape != own[k].shape)] if spare else []
    )
    state = {k: v for k, v in state.items() if k not in left}
    missing = [k for k in own if k not in state and k not in left]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} against {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    complaints = [
        f"{len(found)} {word} (first: {found[0]})"
        for found, word in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
        if found
    ]
    if complaints:
        raise Problem(
            f"the weights do not fit: {'; '.join(complaints)}", where, "choose the variant they were made for"
        )
    model.load_state_dict(dict(state), strict=False)
    return left
