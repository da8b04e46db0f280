"""Model directories (config.json + model.safetensors), and the way in for weights that others released.

A model is an `nn.Module` with `huggingface_hub.PyTorchModelHubMixin`: its constructor takes JSON values,
so `save_pretrained`, `from_pretrained` and `push_to_hub` work. `repertory.json` beside the weights names
the class and the paper, so that `repertory predict my_model/ photo.jpg` needs no further word.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib
import io
import itertools
import os
import pickle
import re
import shutil
from collections import Counter, OrderedDict
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
            _with_own_storage(model).save_pretrained(fresh)
            give_default_mode(fresh)  # safetensors writes for its owner alone
            write_json(fresh / ABOUT, {"class": f"{type(model).__module__}:{type(model).__qualname__}", **about})
    except (OSError, SafetensorError) as error:
        raise write_problem(error, folder) from error


def _with_own_storage(model: Any) -> Any:
    """The model, or a copy of it where a tensor is a part of a larger storage, which safetensors refuses.

    cuDNN keeps all weights of a recurrent layer in one buffer.
    """
    if all(tensor.nbytes == tensor.untyped_storage().nbytes() for tensor in model.state_dict().values()):
        return model
    apart = copy.deepcopy(model)
    for tensor in itertools.chain(apart.parameters(), apart.buffers()):
        tensor.data = tensor.data.clone()
    return apart


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
            elif path.exists() and not path.is_dir():
                raise Damaged(f"{path.name} is not a regular file", folder, "replace it by a file")
        with contextlib.redirect_stdout(io.StringIO()):  # the hub prints where it loads from
            return cast("nn.Module", cls.from_pretrained(str(folder), strict=True)).eval()
    except Problem:
        raise
    except PermissionError as error:
        raise system_problem(error) from error
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise Damaged(
            f"the model directory cannot be loaded: {reason}", folder, "it may be damaged, or of another version"
        ) from error


WRAPPERS = frozenset({"module", "model", "net", "network", "backbone", "encoder"})
"""What modules that hold a whole network call it: DDP, Lightning, detectors, training scripts."""
INNER_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that wrappers of parts put in, anywhere: torch.compile, Fabric, FSDP, activation checkpointing."""
USUAL_KEYS = ("state_dict", "model", "net", "model_state_dict", "network", "weights", "params", "module", "checkpoint")
"""Keys under which training scripts store a state dict."""


def refuse_variant(variant: str) -> None:
    """Raise `Problem` for a variant, where `convert` needs none: the tensors tell which network it is."""
    if variant:
        raise Problem(f"no variant {variant!r}", "--variant", "leave it out: the tensors say which it is")


def read_weights(path: Path, prefer: tuple[str, ...] = USUAL_KEYS[:3]) -> dict[str, torch.Tensor]:
    """Tensors of a released checkpoint, without the names of modules that only wrap the network.

    A pickle is read for its tensors alone: other objects become inert stand-ins, whatever their classes, and no
    function of the file is called.

    Args:
        path: `.safetensors`, or what `torch.save` wrote.
        prefer: keys under which releases wrap their state dict; the first that holds tensors is taken, else the first
            of `USUAL_KEYS`.

    Raises:
        Problem: unreadable, without weights, a whole pickled module, or a pickle that would run a program.
    """
    from safetensors import SafetensorError

    if Path(path).exists() and not Path(path).is_file():  # reading a pipe or a device would never end
        raise Problem("cannot read weights: not a regular file", path, "give a .safetensors or a .pth file")
    try:
        content = _read_safetensors(path) if Path(path).suffix == ".safetensors" else _read_pickle(path)
    except (MemoryError, Problem):
        raise
    except FileNotFoundError as error:
        raise Problem("cannot read weights: no such file", path, "give a .safetensors or a .pth file") from error
    except OSError as error:
        raise Problem(f"cannot read weights: {error.strerror or error}", path, "check the file") from error
    except Exception as error:  # torch.load raises many kinds; all mean the same to the user
        kind = "a safetensors file" if isinstance(error, SafetensorError) else "what torch.save writes"
        remedy = "fetch it again; give a .safetensors or a .pth file"
        raise Problem(f"cannot read weights: the file is damaged, or not {kind}", path, remedy) from error
    state = _find_state(content, prefer)
    if not state:
        raise Problem("the file holds no weights", path, "give the state dict that the authors released")
    if (Path(path).parent / ABOUT).exists():
        return state  # of a model directory of ours: no wrappers
    return unwrapped(state)


def read_tensor(path: Path, *, mapped: bool = False) -> torch.Tensor:
    """The one tensor that `torch.save(tensor, path)` wrote; other objects are treated as in `read_weights`.

    Args:
        path: the file.
        mapped: map the file into memory in place of reading it: only the parts in use are loaded. Files that torch
            wrote before version 1.6 are read as a whole.

    Raises:
        Problem: missing, damaged, no single dense tensor, or a pickle that would run a program.
    """
    import torch

    remedy = "fetch the file again, or write it with torch.save(tensor, path)"
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise Problem("not a regular file", path, "give a file that torch.save wrote")
        content = _read_pickle(path, mapped=mapped)
    except (MemoryError, Problem):
        raise
    except FileNotFoundError as error:
        raise Problem(f"{Path(path).name} is missing", path, "check the path; all files belong together") from error
    except OSError as error:
        raise Problem(f"cannot read {Path(path).name}: {error.strerror or error}", path, "check the file") from error
    except Exception as error:  # torch.load raises many kinds
        raise Problem(f"{Path(path).name} is damaged, or not what torch.save writes", path, remedy) from error
    if not isinstance(content, torch.Tensor) or content.layout != torch.strided or content.is_quantized:
        raise Problem(f"{Path(path).name} holds no single dense tensor", path, remedy)
    return content.detach()


def unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict without the names of wrappers in front of all its tensors, in any nesting.

    Example:
        >>> import torch
        >>> list(unwrapped({"module._orig_mod.model.head.bias": torch.zeros(1)}))
        ['head.bias']
    """
    names = {name: INNER_WRAPPERS.sub("", name) for name in state if name != "n_averaged"}  # the last: of AveragedModel
    while True:
        firsts = {name.partition(".")[0] if "." in name else "" for name in names.values()}
        if "module" in firsts:  # of nn.DataParallel, perhaps around a part of the network
            names = {name: short.removeprefix("module.") for name, short in names.items()}
        elif len(firsts) == 1 and firsts <= WRAPPERS:
            names = {name: short.partition(".")[2] for name, short in names.items()}
        else:
            break
    if len(set(names.values())) < len(names):
        twice = next(short for short, count in Counter(names.values()).items() if count > 1)
        raise Problem(f"two tensors would be called {twice!r}", "weights", "give the file that the authors released")
    return {short: state[name] for name, short in names.items()}


def _find_state(content: object, prefer: tuple[str, ...], depth: int = 4) -> dict[str, torch.Tensor]:
    """The tensors of a state dict that lies in nested mappings, so deep at most; {} if there is none."""
    import torch

    if not isinstance(content, Mapping) or not depth:
        return {}
    for key in dict.fromkeys((*prefer, *USUAL_KEYS)):
        if found := _find_state(content.get(key), prefer, depth - 1):
            return found
    return {name: x for name, x in content.items() if isinstance(name, str) and isinstance(x, torch.Tensor)}


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


# -- pickles ------------------------------------------------------------------------------------


PROGRAMS = frozenset(
    {"commands", "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "runpy", "importlib", "ctypes"}
)
"""Modules whose functions no file of weights needs: a pickle that names one is refused outright. Python 2
called subprocess `commands`."""
CALLS = frozenset({"eval", "exec", "compile", "open", "__import__", "execfile"})
"""Builtin functions of the same kind."""
REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
"""Functions of `torch._utils` that build tensors, and nothing else."""


class Inert:
    """Stands for an object of a pickle that is no tensor. It takes whatever unpickling does to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


def _stand_in(module: str, name: str) -> Any:
    """What a name in a pickle becomes: one of few constructors of tensors and containers, else `Inert`."""
    import torch

    if module == "collections" and name == "OrderedDict":
        return OrderedDict
    if module == "torch._utils" and name in REBUILD:
        return getattr(importlib.import_module(module), name)
    if module == "torch.nn.parameter" and name == "Parameter":
        return torch.nn.Parameter
    if module == "torch.storage" and name == "UntypedStorage":
        return torch.UntypedStorage
    if module == "torch" and name in ("Size", "device"):
        return getattr(torch, name)
    if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
        return found
    if module.split(".")[0] in PROGRAMS or (module in ("builtins", "__builtin__") and name in CALLS):
        raise Problem(f"cannot read weights: the pickle names {module}.{name}, a way to run programs", "", "")
    return Inert


class _Unpickler(pickle.Unpickler):
    """Builds tensors, numbers, text and containers only; see Python's "Restricting Globals"."""

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name)


class _Pickles:
    """In place of the module `pickle`, as `torch.load` expects it."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def _read_pickle(path: Path, *, mapped: bool = False) -> object:
    """What `torch.save` wrote: as a zip, which can be mapped into memory, or before torch 1.6 as a row of pickles."""
    import torch

    with Path(path).open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        # Old files from memory: of a real file, torch.load would unpack one in tar format to disk.
        source: Any = str(path) if zipped else io.BytesIO(file.read())
    if zipped:
        try:
            torch.serialization.get_unsafe_globals_in_checkpoint(source)
        except ValueError as error:  # torch.load would run it
            what = "cannot read weights: this is a program in TorchScript"
            raise Problem(what, path, "give the state dict that the authors released") from error
        except pickle.UnpicklingError:
            pass  # of a protocol that this check does not know; it is a pickle
    try:
        content = torch.load(
            source, map_location="cpu", weights_only=False, pickle_module=_Pickles, mmap=mapped and zipped
        )
    except Problem as problem:
        raise Problem(problem.what, path, "do not load it with other tools either") from problem
    if isinstance(content, Inert):
        what = "cannot read weights: the file holds a whole object, not a dict of tensors"
        raise Problem(what, path, "store model.state_dict(), where the class of the model is at hand")
    return content


# -- names --------------------------------------------------------------------------------------


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
