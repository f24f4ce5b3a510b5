"""The import rules of docs/architecture.md, checked on every module's syntax tree (imports in functions included)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 700

# Room -> rooms it may import. "driver" stands for the modules at the root (driver.py, cli.py, export.py...).
ROOMS: dict[str, set[str]] = {
    "ir": set(),
    "frontend": {"ir", "runtime"},
    "passes": {"ir"},
    "codegen": {"ir"},
    "runtime": {"ir"},
    "measure": {"ir", "frontend", "passes", "codegen", "runtime", "driver"},
    "driver": {"ir", "frontend", "passes", "codegen", "runtime", "measure"},
}
# runtime/ reads compiled programs, not graphs: of ir/ it sees plain data only.
RUNTIME_SEES = {"abi", "types", "plan", "dims", "dtypes", "layout", "errors", "target"}

THIRD_PARTY: dict[str, set[str]] = {
    "ir": {"numpy", "ml_dtypes", "networkx"},
    "frontend": {"numpy", "safetensors", "mpi4py", "PIL"},
    "passes": {"numpy", "networkx"},
    "codegen": {"numpy", "llvmlite", "onnx"},
    "runtime": {"numpy", "platformdirs", "filelock"},
    "measure": {"numpy", "rich", "onnxruntime", "openvino", "torch"},
    "driver": {"numpy", "click", "rich"},
}
# Heavy packages may be imported at the top of these files only (each is itself imported lazily); anywhere else in
# codegen/ and measure/ the import stands in the function that needs it.
LAZY = {"PIL", "mpi4py", "llvmlite", "onnx", "onnxruntime", "openvino", "torch"}
TOP_LEVEL_ALLOWED = {
    "codegen/onnx_export.py": "loaded by ingot.export when a model is exported",
    "codegen/onnx_rules.py": "loaded by onnx_export",
    "codegen/onnx_rules_index.py": "loaded by onnx_export",
    "codegen/onnx_rules_nn.py": "loaded by onnx_export",
    "codegen/onnx_emit.py": "loaded by onnx_export",
}


def module_files() -> list[Path]:
    files = [p for p in ROOT.glob("*.py")]
    for room in ROOMS:
        files += (ROOT / room).rglob("*.py")
    return sorted(files)


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0] if parts and parts[0] in ROOMS and parts[0] != "driver" else "driver"


def imports(path: Path) -> Iterator[tuple[int, bool, tuple[str, ...] | str]]:
    """(line, inside a function, target): a tuple of names below the package for our own modules, else a string."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]  # for a package's __init__ the package is itself
    tree = ast.parse(path.read_text(encoding="utf-8"))
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, inside = stack.pop()
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, inside, alias.name
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.lineno, inside, node.module or ""
            else:
                if node.level - 1 > len(package):
                    raise AssertionError(f"{path}:{node.lineno} leaves the package")
                base = package[: len(package) - (node.level - 1)]
                target = base + tuple((node.module or "").split(".") if node.module else ())
                # `from . import a, b` names modules, and `from .ir import dims` may.
                for alias in node.names:
                    yield node.lineno, inside, (*target, alias.name)
        stack.extend((child, inside) for child in ast.iter_child_nodes(node))


def violations(path: Path) -> list[str]:
    relative = path.relative_to(ROOT)
    room = room_of(relative.parts)
    name = str(relative)
    found = []
    for line, inside, target in imports(path):
        place = f"{name}:{line}"
        if isinstance(target, str):
            top = target.split(".")[0]
            if top == "ingot":
                found.append(f"{place}: imports {target}; inside the package imports are relative")
            elif top not in sys.stdlib_module_names and top not in THIRD_PARTY[room]:
                found.append(f"{place}: {room} may not import {top}")
            elif top in LAZY and not inside and name not in TOP_LEVEL_ALLOWED:
                found.append(f"{place}: {top} is heavy; import it inside the function that needs it")
            continue
        other = room_of(target)
        if name == "__init__.py" or other == room != "driver":
            continue
        if other == "driver":
            if "driver" not in {room, *ROOMS[room]}:
                found.append(f"{place}: {room} may not import {'.'.join(target)}; nothing imports the driver")
        elif other not in ROOMS[room]:
            found.append(f"{place}: {room} may not import {other}")
        elif room == "runtime" and target[1:2] and target[1] not in RUNTIME_SEES:
            found.append(f"{place}: runtime sees {sorted(RUNTIME_SEES)} of ir, not {target[1]}")
    return found


@pytest.mark.parametrize("path", module_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    assert violations(path) == []


def test_the_check_itself_finds_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    cases = {
        "ir/a.py": ("from ..frontend import tensor", "ir may not import frontend"),
        "ir/ops/b.py": ("def f():\n    from ...codegen.host import x", "ir may not import codegen"),
        "passes/c.py": ("import scipy.sparse", "passes may not import scipy"),
        "runtime/d.py": ("from ..ir.graph import Graph", "not graph"),
        "runtime/e.py": ("def f():\n    import llvmlite", "runtime may not import llvmlite"),
        "codegen/f.py": ("import llvmlite.binding as llvm", "inside the function"),
        "codegen/g.py": ("from .. import driver", "nothing imports the driver"),
        "frontend/h.py": ("import ingot.ir", "relative"),
        "runtime/i.py": ("from ..measure import limits", "runtime may not import measure"),
        "measure/j.py": ("import torch", "inside the function"),
    }
    for name, (text, expected) in cases.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (message,) = violations(path)
        assert expected in message
    for name, text in {
        "codegen/ok.py": "def f():\n    import llvmlite\nfrom ..ir.graph import Graph\nfrom .host import x",
        "runtime/ok.py": "from ..ir import dims, plan\nimport mmap",
        "measure/ok.py": "from .. import driver\ndef f():\n    import torch",
        "driver.py": "from .ir import graph\nfrom .codegen import host\nfrom . import options",
        "cli.py": "from .measure import limits",
        "__init__.py": "from .driver import compile",
    }.items():
        (tmp_path / name).write_text(text)
        assert violations(tmp_path / name) == []


def loaded_after(statement: str, cwd: Path) -> set[str]:
    code = f"import sys; {statement}; print(*{{m.split('.')[0] for m in sys.modules}} | {{m for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def submodules(room: str) -> str:
    return f"""
import importlib, pkgutil, ingot.{room} as room
for info in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    importlib.import_module(info.name)
"""


@pytest.mark.parametrize("room", ["runtime", "ir", "frontend", "passes"])
def test_rooms_load_without_the_code_generator(room: str, tmp_path: Path) -> None:
    """Every module of the room, in a fresh process: neither LLVM nor onnx, and nothing of codegen or the driver."""
    loaded = loaded_after(f"exec({submodules(room)!r})", tmp_path)
    assert not loaded & {"llvmlite", "onnx", "torch", "ingot.codegen", "ingot.driver", "ingot.cli"}
    if room == "runtime":
        assert not loaded & {"ingot.ir.graph", "ingot.frontend", "ingot.passes", "networkx"}


def test_lists_of_exceptions_are_not_stale() -> None:
    assert all((ROOT / name).exists() for name in TOP_LEVEL_ALLOWED)
    assert all((ROOT / "ir" / f"{name}.py").exists() for name in RUNTIME_SEES)


def test_importing_codegen_loads_nothing_heavy(tmp_path: Path) -> None:
    assert not loaded_after("import ingot.codegen", tmp_path) & LAZY


def test_no_file_is_too_long() -> None:
    folders = [*ROOMS, "tests", "examples", "benchmarks"]
    files = [*ROOT.glob("*.py"), *(p for f in folders for p in (ROOT / f).rglob("*.py"))]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_tests_import_the_package_by_its_name() -> None:
    """`import ir` would make a second copy of a module when the root happens to be on sys.path."""
    own = {r for r in ROOMS if r != "driver"} | {p.stem for p in ROOT.glob("*.py")}
    wrong = []
    for folder in ("tests", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for line, _, target in imports(path):
                if isinstance(target, str) and target.split(".")[0] in own:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: import {target}")
    assert wrong == []
