"""Model directories, and weights that others released."""

from __future__ import annotations

import argparse
import builtins
import errno
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections import defaultdict
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Damaged, Problem
from tests.toy import ToyNet

PACKAGE = "tests"


@pytest.fixture
def saved(tmp_path: Path) -> tuple[ToyNet, Path]:
    model = ToyNet(hidden=4)
    checkpoint.save(model, tmp_path / "model", paper="toy", arm="wide")
    return model, tmp_path / "model"


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.target),)


# -- model directories --------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was(saved: tuple[ToyNet, Path]) -> None:
    model, folder = saved
    again = checkpoint.load(folder, PACKAGE)
    assert type(again) is ToyNet
    assert not again.training
    assert list(again.state_dict()) == list(model.state_dict())
    x = torch.randn(3, 2)
    assert torch.equal(again(x), model.eval()(x))
    about = checkpoint.about(folder)
    assert about == {"class": "tests.toy:ToyNet", "paper": "toy", "arm": "wide"}
    assert json.loads((folder / "config.json").read_text()) == {"hidden": 4}
    assert sorted(load_file(folder / "model.safetensors")) == sorted(model.state_dict())


def test_weights_that_share_one_buffer_are_saved(tmp_path: Path) -> None:
    """As cuDNN keeps the weights of an LSTM."""
    model = ToyNet(hidden=4)
    buffer, at = torch.zeros(100), 0
    for parameter in model.parameters():
        part = buffer[at : at + parameter.numel()].view_as(parameter).copy_(parameter.detach())
        parameter.data, at = part, at + parameter.numel()
    checkpoint.save(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model", PACKAGE)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert len({parameter.untyped_storage().data_ptr() for parameter in model.parameters()}) == 1  # untouched


def test_a_model_comes_back_in_another_process(toy: Path, tmp_path: Path) -> None:
    """Of a class that lives in another package, named by its import path alone."""
    from toy_room.study import ToyNet as Foreign  # pyright: ignore[reportMissingImports]

    model = Foreign(hidden=3)
    checkpoint.save(model, tmp_path / "model")
    script = (
        "import sys, torch; from pathlib import Path; from repertory.core import checkpoint\n"
        "print(checkpoint.load(Path(sys.argv[1]), 'toy_room')(torch.ones(1, 2)).tolist())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == model(torch.ones(1, 2)).tolist()  # and nothing else was printed


def test_saving_again_replaces_the_whole_folder(saved: tuple[ToyNet, Path]) -> None:
    _, folder = saved
    (folder / "stray.txt").write_text("")
    checkpoint.save(ToyNet(), folder)
    assert not (folder / "stray.txt").exists()
    assert checkpoint.load(folder, PACKAGE).body.__class__ is nn.Identity
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_only_modules_with_the_hub_interface_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="PyTorchModelHubMixin"):
        checkpoint.save(nn.Linear(2, 2), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3"])
def test_what_is_no_model_directory_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / checkpoint.ABOUT).write_text(content)
    with pytest.raises(Problem, match="not a model directory"):
        checkpoint.load(tmp_path)
    with pytest.raises(Problem, match="not a model directory"):
        checkpoint.about(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    [
        "os:system", "tests_evil.model:Net", "torch.nn:Linear", "repertoryx.model:Net", "", ":", "subprocess",
        # What our own modules import is foreign all the same.
        "repertory.core.study:os", "repertory.core.checkpoint:re",
        "repertory.papers.proton_dose.model:PyTorchModelHubMixin",
        "repertory.core.study:Session",
    ],
)  # fmt: skip
def test_a_foreign_class_is_refused(saved: tuple[ToyNet, Path], name: str) -> None:
    _, folder = saved
    (folder / checkpoint.ABOUT).write_text(json.dumps({"class": name}))
    with pytest.raises(Problem, match="foreign class"):
        checkpoint.load(folder)


def test_naming_a_foreign_module_does_not_import_it(
    saved: tuple[ToyNet, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = saved
    (tmp_path / "stranger.py").write_text(f"import os; os.mkdir({str(tmp_path / 'hacked')!r})")
    monkeypatch.syspath_prepend(tmp_path)
    (folder / checkpoint.ABOUT).write_text(json.dumps({"class": "stranger:Net"}))
    with pytest.raises(Problem, match="foreign class"):
        checkpoint.load(folder, PACKAGE)
    assert not (tmp_path / "hacked").exists()


def test_a_class_that_is_no_longer_there_is_a_problem(saved: tuple[ToyNet, Path]) -> None:
    _, folder = saved
    for name in ("tests.toy:Gone", "tests.gone:ToyNet", "tests.toy:nn.Module", "tests.toy:os.mkdir"):
        (folder / checkpoint.ABOUT).write_text(json.dumps({"class": name}))
        with pytest.raises(Problem, match="cannot be loaded"):
            checkpoint.load(folder, PACKAGE)


def test_a_damaged_model_directory_is_a_problem(saved: tuple[ToyNet, Path]) -> None:
    model, folder = saved
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()

    def refused() -> str:
        with pytest.raises(Problem, match="cannot be loaded") as caught:
            checkpoint.load(folder, PACKAGE)
        assert len(str(caught.value).splitlines()) == 3
        return caught.value.what

    weights.write_bytes(whole[: len(whole) // 2])
    refused()
    weights.write_bytes(b"")
    refused()
    weights.unlink()
    refused()
    save_file({k: v for k, v in model.state_dict().items() if k != "head.bias"}, weights)
    assert "head.bias" in refused()  # a tensor that is missing must not stay at random values
    save_file({**model.state_dict(), "extra": torch.zeros(1)}, weights)
    assert "extra" in refused()
    save_file({**model.state_dict(), "head.bias": torch.zeros(7)}, weights)
    assert "head.bias" in refused()
    weights.write_bytes(whole)
    config.write_text('{"hidden": 4, "unknown": 1}')
    checkpoint.load(folder, PACKAGE)  # the hub leaves unknown names out: another version may have added them
    config.write_text('{"hidden": "many"}')
    refused()
    config.write_text('{"hidden"')
    refused()


def test_a_malicious_pickle_in_a_model_directory_is_not_opened(saved: tuple[ToyNet, Path], tmp_path: Path) -> None:
    _, folder = saved
    payload = pickle.dumps(Evil(tmp_path / "hacked"))
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.safetensors"):
        (folder / name).write_bytes(payload)
        with pytest.raises(Problem, match="cannot be loaded"):
            checkpoint.load(folder, PACKAGE)
    assert not (tmp_path / "hacked").exists()


def test_files_have_the_mode_that_the_user_gives_by_default(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        checkpoint.save(ToyNet(), tmp_path / "model")
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
        os.umask(0o027)
        checkpoint.save(ToyNet(), tmp_path / "model")
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o640}
    finally:
        os.umask(before)
    assert modes == {0o644}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", checkpoint.ABOUT])
def test_a_file_that_may_not_be_read_is_called_so(
    saved: tuple[ToyNet, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _, folder = saved
    opened = Path.open

    def forbid(self: Path, *args: object, **options: object) -> object:
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *args, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(Problem, match="Permission denied") as caught:
        checkpoint.load(folder, PACKAGE)
    assert not isinstance(caught.value, Damaged), "nothing is set aside for that"
    assert caught.value.where == str(folder / name)


def test_a_full_disk_is_a_problem_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ToyNet, folder: Path) -> None:
        (Path(folder) / "half").write_text("")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(ToyNet, "save_pretrained", full)
    with pytest.raises(Problem, match="No space left on device"):
        checkpoint.save(ToyNet(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -- released weights ---------------------------------------------------------------------------

STATE = {"stem.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([1.0, -1.0])}


def same(state: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in expected)


def test_weights_of_plain_and_nested_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    parallel = {f"module.{k}": v for k, v in STATE.items()}
    for content in (
        STATE,
        parallel,
        {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": torch.tensor(1.0)}},
        {"model": parallel, "args": {"lr": 0.1}},
        {"net": STATE, "acc": 93.1},
        {**STATE, "epoch": 3, "note": "text"},
    ):
        torch.save(content, path)
        assert same(checkpoint.read_weights(path))


def test_weights_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    assert same(checkpoint.read_weights(path))
    save_file({f"module.{k}": v for k, v in STATE.items()}, path)
    assert same(checkpoint.read_weights(path))


def test_one_can_say_which_of_several_state_dicts_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    average = {k: v + 1 for k, v in STATE.items()}
    torch.save({"state_dict": STATE, "state_dict_ema": average}, path)
    assert same(checkpoint.read_weights(path))
    assert same(checkpoint.read_weights(path, prefer=("state_dict_ema", "state_dict")), average)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "module.model.net.", "backbone.",
        "_forward_module.model._orig_mod.", "module.module.", "_fsdp_wrapped_module.",
    ],
)  # fmt: skip
def test_wrappers_are_taken_off_in_any_nesting(prefix: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {prefix + k: v for k, v in STATE.items()}}, tmp_path / "w.pth")
    assert same(checkpoint.read_weights(tmp_path / "w.pth"))
    save_file({prefix + k: v for k, v in STATE.items()}, tmp_path / "w.safetensors")
    assert same(checkpoint.read_weights(tmp_path / "w.safetensors"))


def test_what_compiles_wraps_or_averages_a_network_is_read(tmp_path: Path) -> None:
    net = ToyNet()
    wrapped = {
        "compiled": torch.compile(net),
        "parallel": nn.DataParallel(net),
        "averaged": torch.optim.swa_utils.AveragedModel(net),
        "both": nn.DataParallel(torch.compile(net)),  # pyright: ignore[reportArgumentType]
    }
    for name, module in wrapped.items():
        torch.save(module.state_dict(), tmp_path / f"{name}.pth")  # pyright: ignore[reportFunctionMemberAccess]
        assert same(checkpoint.read_weights(tmp_path / f"{name}.pth"), net.state_dict()), name
    inner = {k.replace("body.", "body._orig_mod."): v for k, v in net.state_dict().items()}
    assert same(checkpoint.unwrapped(inner), net.state_dict())


def test_parts_of_a_network_are_no_wrappers(tmp_path: Path) -> None:
    for state in (
        {"backbone.weight": STATE["stem.weight"], "head.bias": STATE["head.bias"]},
        {"features.weight": STATE["stem.weight"]},
        {"module": STATE["stem.weight"]},
    ):
        assert same(checkpoint.unwrapped(state), state)
    with pytest.raises(Problem, match=r"two tensors would be called 'a\.weight'"):
        checkpoint.unwrapped({"module.a.weight": torch.zeros(1), "a.weight": torch.ones(1)})
    save_file({f"net.{k}": v for k, v in STATE.items()}, tmp_path / "model.safetensors")
    (tmp_path / checkpoint.ABOUT).write_text("{}")
    assert set(checkpoint.read_weights(tmp_path / "model.safetensors")) == {f"net.{k}" for k in STATE}


class Settings(dict[str, Any]):
    """A configuration of a kind that nobody has."""


class Listing(list[Any]):
    """A list of a kind that nobody has."""


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_objects_beside_the_tensors_are_not_built(
    old: bool, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Listing([1, Settings(a=1)])
    content = {
        "model": {f"module.{k}": nn.Parameter(v) for k, v in STATE.items()},
        "args": argparse.Namespace(lr=1, path=Path("x"), when=datetime(2020, 1, 1, tzinfo=UTC)),
        "best": np.float64(93.1),
        "curve": np.arange(3),
        "config": Settings(a=Settings(b={1, 2}), c=listing),
        "colour": Colour.RED,
        "groups": defaultdict(list, a=[1]),
        "scheduler": partial(print, "x"),
        "half": torch.float16,
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old, pickle_protocol=protocol)
    for forbidden in (Settings, Listing):
        monkeypatch.setattr(forbidden, "__init__", lambda *_: pytest.fail("built"))
    assert same(checkpoint.read_weights(tmp_path / "w.pth"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_tensors_of_all_types_and_views_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.arange(12).reshape(3, 4).to(dtype)
    state = {"whole": whole, "view": whole[:, 1:].T, "empty": whole[:0], "scalar": whole[1, 2]}
    for old in (False, True):
        torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        assert same(checkpoint.read_weights(tmp_path / "w.pth"), state)


def test_programs_in_torchscript_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(Problem, match="cannot read weights: this is a program in TorchScript"):
        checkpoint.read_weights(tmp_path / "w.pt")


def test_a_mapping_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(Problem, match="holds no weights"):
        checkpoint.read_weights(tmp_path / "w.pth")


def test_a_malicious_pickle_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"state_dict": Evil(tmp_path / "hacked")}, protocol=protocol))
        with pytest.raises(Problem, match="cannot read weights"):
            checkpoint.read_weights(path)
    torch.save({"state_dict": STATE, "extra": Evil(tmp_path / "hacked")}, path)
    with pytest.raises(Problem, match="cannot read weights"):
        checkpoint.read_weights(path)
    for call in (subprocess.check_call, builtins.eval, builtins.exec, sys.exit):
        Evil.__reduce__ = lambda self, call=call: (call, ("exit 3",))
        torch.save({"state_dict": STATE, "extra": Evil(tmp_path)}, path)
        with pytest.raises(Problem, match="a way to run programs"):
            checkpoint.read_weights(path)
    torch.save(ToyNet(), path)  # a whole module is code too
    with pytest.raises(Problem, match="cannot read weights") as caught:
        checkpoint.read_weights(path)
    assert not (tmp_path / "hacked").exists()
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)], 7, {"state_dict": {}}, {0: torch.zeros(1)}])
def test_files_without_weights_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(Problem, match="holds no weights"):
        checkpoint.read_weights(path)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        with pytest.raises(Problem, match="cannot read weights"):
            checkpoint.read_weights(tmp_path / name)
        (tmp_path / name).write_bytes(b"these are no weights")
        with pytest.raises(Problem, match="cannot read weights"):
            checkpoint.read_weights(tmp_path / name)


def test_renaming_applies_each_pattern_in_order_to_each_key() -> None:
    table = {r"^backbone\.": "", r"\.norm(\d)\.": r".norms.\1.", r"^layer": "stage"}
    state = {"backbone.layer1.norm2.weight": torch.zeros(1), "backbone.layerless": torch.ones(1)}
    renamed = checkpoint.rename(state, table)
    assert list(renamed) == ["stage1.norms.2.weight", "stageless"]
    assert renamed["stageless"] is state["backbone.layerless"]


def test_renaming_must_not_lose_a_tensor() -> None:
    with pytest.raises(Problem, match=r"a\.weight"):
        checkpoint.rename({"a.weight": torch.zeros(1), "b.weight": torch.ones(1)}, {r"^b\.": "a."})


# -- fitting ------------------------------------------------------------------------------------


def test_weights_that_fit_are_loaded() -> None:
    source, target = ToyNet(4), ToyNet(4)
    assert checkpoint.fit_weights(target, source.state_dict()) == []
    assert same(target.state_dict(), source.state_dict())


def test_weights_that_do_not_fit_are_refused_with_the_first_of_each_kind_and_change_nothing() -> None:
    model = ToyNet(4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = dict(ToyNet(4).state_dict())
    del state["body.0.weight"], state["body.0.bias"]
    state["neck.weight"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(2, 9)
    with pytest.raises(Problem) as caught:
        checkpoint.fit_weights(model, state, where="released.pth")
    what = caught.value.what
    assert "2 missing (first: body.0.weight)" in what
    assert "1 unknown (first: neck.weight)" in what
    assert "1 of another shape (first: head.weight (2, 9) against (2, 4))" in what
    assert caught.value.where == "released.pth"
    assert same(model.state_dict(), before)


def test_a_spare_head_may_differ_or_be_absent() -> None:
    model = ToyNet(4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: torch.full_like(v, 2.0) for k, v in model.state_dict().items()}
    state["head.weight"] = torch.zeros(10, 4)  # ten classes
    state["head.bias"] = torch.zeros(10)
    assert checkpoint.fit_weights(model, state, spare=("head.",)) == ["head.weight", "head.bias"]
    assert torch.equal(model.head.weight, before["head.weight"])
    assert bool((model.state_dict()["body.0.weight"] == 2).all())
    body_only = {k: v for k, v in state.items() if k.startswith("body.")}
    assert checkpoint.fit_weights(model, body_only, spare=("head.",)) == ["head.weight", "head.bias"]
    # One that fits is taken.
    assert checkpoint.fit_weights(model, ToyNet(4).state_dict(), spare=("head.",)) == []
    with pytest.raises(Problem, match=r"1 missing \(first: body.0.bias\)"):
        checkpoint.fit_weights(model, {k: v for k, v in state.items() if k != "body.0.bias"}, spare=("head.",))


class Tied(nn.Module, PyTorchModelHubMixin):
    """Two names for one tensor, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_survive_saving(tmp_path: Path) -> None:
    model = Tied()
    checkpoint.save(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model", PACKAGE)
    assert isinstance(again, Tied)
    assert again.head.weight is again.embed.weight
    assert torch.equal(again.head.weight, model.head.weight)


# -- single tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_one_tensor_is_read_or_mapped(tmp_path: Path, zipped: bool, mapped: bool) -> None:
    path = tmp_path / "features.pt"
    torch.save(torch.arange(6).view(2, 3), path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(checkpoint.read_tensor(path, mapped=mapped), torch.arange(6).view(2, 3))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"x": torch.ones(2)}, "no single dense tensor"),
        ([torch.ones(2)], "no single dense tensor"),
        (torch.ones(2, 2).to_sparse(), r"x\.pt"),
        (Path("x"), "whole object|no single dense tensor"),
    ],
)
def test_what_is_no_tensor_is_refused(tmp_path: Path, content: object, match: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(Problem, match=match):
        checkpoint.read_tensor(tmp_path / "x.pt")


def test_a_tensor_that_is_missing_or_cut_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"x\.pt is missing"):
        checkpoint.read_tensor(tmp_path / "x.pt")
    torch.save(torch.ones(1000), tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:2000])
    with pytest.raises(Problem, match=r"x\.pt is damaged"):
        checkpoint.read_tensor(tmp_path / "x.pt", mapped=True)
