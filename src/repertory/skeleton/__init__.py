"""The skeleton of a paper: a room with all its furniture, which runs and passes every check as it stands."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template

from repertory import catalog
from repertory.core.files import write_text
from repertory.core.problem import Problem

WHERE = "repertory new"


@dataclass(frozen=True)
class Task:
    """What the card of a paper of this kind says."""

    topic: str
    keywords: tuple[str, ...]
    metric: str
    usage: str
    """The card's snippet, after the imports."""


TASKS = {
    "plain": Task(
        "theory",
        ("classification", "分类", "MLP"),
        "accuracy",
        "model = $Class(features=64, classes=10)\nprint(model(torch.rand(2, 64)).shape)  # (2, 10)",
    ),
    "images": Task(
        "vision",
        ("image classification", "图像分类", "CNN"),
        "top1",
        "model = $Class(num_classes=10)\nprint(model(torch.rand(2, 3, 32, 32)).shape)  # (2, 10)",
    ),
    "graphs": Task(
        "graphs",
        ("node classification", "节点分类", "GNN"),
        "accuracy",
        "model = $Class(features=64, classes=10)\n"
        "edges = torch.tensor([[0, 1], [1, 0]])\n"
        "print(model(torch.rand(2, 64), edges).shape)  # (2, 10)",
    ),
}


def write_skeleton(paper: str, into: Path, task: str = "plain", package: str = "") -> list[Path]:
    """Write a new paper: folder, card, study and test.

    Args:
        paper: identifier: lower-case letters, digits, underscores.
        into: root of a source checkout, which holds src/repertory/papers and tests/papers. With `package`: the
            folder in which the project of that name is made.
        task: "plain", "images" or "graphs".
        package: name of a package of its own, which registers the paper under an entry point; empty: a built-in paper.

    Returns:
        The files written.

    Raises:
        Problem: a name that is no identifier, is taken, or would hide another; an unknown task; not a checkout.
    """
    if task not in TASKS:
        raise Problem(f"no task {task!r}", "--task", f"choose from {', '.join(TASKS)}")
    templates = {name: _template(f"{task}/{name}.py") for name in ("model", "settings", "study", "test")}
    _demand_identifier(paper, "the identifier of a paper")
    if paper in catalog.packages():
        raise Problem(f"the paper {paper} is there already", catalog.folder(paper), "choose another identifier")
    class_name = "".join(word.capitalize() for word in paper.split("_"))
    used = {word for text in templates.values() for word in re.findall(r"\b[A-Z]\w*", text)}
    if paper == "baseline" or class_name in used or keyword.iskeyword(class_name):
        raise Problem(f"{paper!r} would hide the name {class_name}", WHERE, "choose another identifier")

    if package:
        _demand_identifier(package, "the name of a package")
        if package in sys.stdlib_module_names or importlib.util.find_spec(package):
            raise Problem(f"there is a module {package} already", f"--package {package}", "choose another name")
        root, module = into / package, package
        room, test = root / "src" / package, root / "tests" / f"test_{paper}.py"
        if root.exists():
            raise Problem("the folder is there already", root, "choose another name, or another --into")
    else:
        root, module = into, f"repertory.papers.{paper}"
        rooms = root / "src" / "repertory" / "papers"
        room, test = rooms / paper, root / "tests" / "papers" / f"test_{paper}.py"
        if not rooms.is_dir():
            raise Problem("not a checkout of repertory", into, "run it in one, give --into, or --package NAME")
        if room.exists() or test.exists():
            raise Problem(f"the paper {paper} is there already", room, "choose another identifier")

    targets = {
        room / "__init__.py": _template("__init__.py"),
        room / "card.toml": _template("card.toml"),
        room / "model.py": templates["model"],
        room / "settings.py": templates["settings"],
        room / "study.py": templates["study"],
        test: templates["test"],
    }
    if package:
        targets |= {
            room / "py.typed": "",
            root / "pyproject.toml": _template("package/pyproject.toml"),
            root / "README.md": _template("package/README.md"),
            root / "tests" / "test_contract.py": _template("package/test_contract.py"),
        }
    kind = TASKS[task]
    names = {
        "id": paper,
        "Class": class_name,
        "module": module,
        "distribution": module.partition(".")[0].replace("_", "-"),
        "year": str(datetime.now(UTC).year),
        "today": datetime.now(UTC).date().isoformat(),
        "topic": kind.topic,
        "metric": kind.metric,
        "keywords": ", ".join(f'"{word}"' for word in kind.keywords),
    }
    names["usage"] = Template(f"import torch\nfrom $module import $Class\n\n{kind.usage}").substitute(names)
    for path, text in targets.items():
        filled = Template(text).substitute(names)
        write_text(path, _with_sorted_imports(filled, module.partition(".")[0]) if path.suffix == ".py" else filled)
    return list(targets)


def _template(name: str) -> str:
    return (files(__name__) / "templates" / f"{name}.txt").read_text(encoding="utf-8")


def _demand_identifier(name: str, what: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        remedy = "use lower-case letters, digits and _, and no word of Python"
        raise Problem(f"not {what}: {name!r} is not an identifier", WHERE, remedy)


def _with_sorted_imports(text: str, own: str) -> str:
    """Import lines in the order that ruff wants: standard library, other packages, the package `own`.

    Which of them a module is depends on where the room is: `repertory` is a package like others to another package.
    """
    lines = text.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if re.match(r"(from|import) (?!__future__)", line)]
    if not places:
        return text

    def group(line: str) -> int:
        root = line.split()[1].partition(".")[0]
        return 0 if root in sys.stdlib_module_names else 2 if root == own else 1

    first, last = places[0], places[-1]
    imports = sorted((lines[i] for i in places), key=lambda line: (group(line), line.startswith("from"), line))
    blocks = ["".join(line for line in imports if group(line) == k) for k in range(3)]
    return "".join([*lines[:first], "\n".join(filter(None, blocks)), *lines[last + 1 :]])
