"""Each floor of the house imports only from itself and from floors below; NumPy alone is free."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import minillm

FLOORS = (
    (
        *("arrays", "blocks", "device_memory", "devices", "kernels", "lazily", "machine"),
        *("quantities", "words"),
    ),
    ("tensor",),
    ("op",),
    ("ops",),
    ("testing", "nn", "optim"),
    ("models", "tokenizers", "formats"),
    ("data", "training", "generation", "quant", "distributed"),
    ("tasks", "explain", "privacy"),
    ("cli", "serve", "__main__"),
    ("__init__",),
)
EXTRAS = {
    "serve": ("starlette", "uvicorn", "h11", "prometheus_client")
}  # rooms that are nothing without
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FREE = (*sys.stdlib_module_names, "numpy")
SOURCE = Path(minillm.__file__).parent


def room_of(path: Path, source: Path) -> str:
    return path.relative_to(source).parts[0].removesuffix(".py")


def imported(path: Path, source: Path):
    """(dotted name, line, whether it runs when the module is imported) of every import."""
    package = ("minillm", *path.relative_to(source).parts[:-1])
    for node, deferred in nodes(ast.parse(path.read_text(encoding="utf-8")), False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, not deferred
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) + 1 - node.level] if node.level else ()
            stem += tuple(node.module.split(".")) if node.module else ()
            names = [alias.name for alias in node.names] if stem == ("minillm",) else [None]
            for name in names:
                yield ".".join((*stem, name) if name else stem), node.lineno, not deferred


def nodes(node: ast.AST, deferred: bool):
    """All nodes below, with whether they stand in a function or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        yield child, deferred
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        types_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        yield from nodes(child, deferred or inside or types_only)


def violations(source: Path) -> list[str]:
    found = []
    beside: dict[str, set[str]] = {}  # rooms and what they import on their own floor
    for path in sorted(source.rglob("*.py")):
        room = room_of(path, source)
        if room not in FLOOR_OF:
            found.append(f"{path.name}: room {room} stands on no floor")
            continue
        for name, line, at_import in imported(path, source):
            first, *rest = name.split(".")
            where = f"{path.relative_to(source)}:{line}"
            if first == "minillm":
                target = rest[0] if rest and rest[0] in FLOOR_OF else "__init__"
                if target == "__init__" and rest == ["__version__"]:
                    continue
                if FLOOR_OF[target] > FLOOR_OF[room]:
                    found.append(f"{where}: {room} imports {target} from a floor above")
                elif FLOOR_OF[target] == FLOOR_OF[room] and target != room:
                    beside.setdefault(room, set()).add(target)
            elif at_import and first not in (*FREE, *EXTRAS.get(room, ())):
                found.append(f"{where}: {name} is imported with the module")
    try:
        graphlib.TopologicalSorter(beside).prepare()
    except graphlib.CycleError as error:
        found.append(f"rooms of one floor import each other: {' -> '.join(error.args[1])}")
    return found


def test_the_source_keeps_to_its_floors():
    assert len(list(SOURCE.rglob("*.py"))) > 30
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    "place, line, complaint",
    [
        ("tensor.py", "from minillm.op import Op", "tensor imports op from a floor above"),
        ("ops/arith.py", "from ..nn import module", "ops imports nn from a floor above"),
        ("ops/arith.py", "from .. import optim", "ops imports optim from a floor above"),
        ("nn/layers.py", "def f():\n    import minillm.models.gpt2", "nn imports models"),
        ("nn/layers.py", "from minillm import Tensor", "nn imports __init__ from a floor above"),
        ("formats/hf.py", "import tqdm", "tqdm is imported with the module"),
        ("formats/hf.py", "try:\n    import torch\nexcept ImportError:\n    pass", "torch is"),
        ("cli/serve.py", "import uvicorn", "uvicorn is imported with the module"),
        ("extra/x.py", "", "room extra stands on no floor"),
    ],
)
def test_a_breach_is_found(tmp_path, place, line, complaint):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(line, encoding="utf-8")
    assert len(violations(tmp_path)) == 1
    assert complaint in violations(tmp_path)[0]


def test_what_is_allowed_is_not_a_breach(tmp_path):
    for place, text in {
        "models/gpt2.py": "import numpy, json\nfrom minillm.formats import hf\nfrom . import bert",
        "models/bert.py": "from minillm.models import gpt2\nfrom minillm import __version__, ops",
        "formats/hf.py": "def f():\n    import safetensors\n",
        "serve/app.py": "import uvicorn",
        "data/a.py": "from ..formats.files import g\nif TYPE_CHECKING:\n    import tokenizers",
    }.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text, encoding="utf-8")
    assert violations(tmp_path) == []


def test_two_rooms_that_import_each_other_are_found(tmp_path):
    for room, other in (("models", "formats"), ("formats", "models")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text(f"from minillm.{other} import a", encoding="utf-8")
    assert "import each other" in violations(tmp_path)[0]


def test_the_package_needs_numpy_and_loads_nothing_else_of_weight():
    code = """
import sys
import numpy.random
before = set(sys.modules)
import minillm
for name in minillm.__all__:
    getattr(minillm, name)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert done.stdout.split() == ["minillm"]
