"""The checkout is the package: names, lists, aliases and the promise that every module exists once."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_SHIPPED = {"tests", "docs", "examples", "benchmarks", "build", "dist"}


def package_folders() -> set[str]:
    found = {"ingot"}
    for init in ROOT.glob("*/**/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts[0] not in NOT_SHIPPED and not parts[0].startswith("."):
            found.add(".".join(("ingot", *parts)))
    return found


def run_python(code: str, cwd: Path, env: dict[str, str] | None = None, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_folder_is_listed() -> None:
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(package_folders())


def test_one_version() -> None:
    import ingot

    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ingot.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?\w+)?", ingot.__version__)


def distribution_names() -> set[str]:
    """Import names of everything that we or our tests install."""
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[^\w.-]", spec)[0].lower().replace("-", "_") for spec in wanted}
    return names | {"xdist", "google", "setuptools", "pip", "torchvision", "scipy", "sklearn", "PIL"}


def test_no_top_level_name_hides_another_package() -> None:
    """`python -m x` and editors put the root on sys.path; a folder `onnx` or `code` would then win."""
    taken = set(sys.stdlib_module_names) | distribution_names()
    names = {p.stem for p in ROOT.iterdir() if p.suffix in ("", ".py") and not p.name.startswith((".", "__"))}
    assert not names & taken
    assert not names & {"ingot"}


def test_import_is_light(tmp_path: Path) -> None:
    """`import ingot` looks nothing up; a few milliseconds, so no NumPy, no LLVM."""
    out = run_python("import sys, ingot; print(*sorted(sys.modules))", tmp_path)
    loaded = set(out.split())
    assert not loaded & {"numpy", "llvmlite", "onnx", "networkx", "rich", "click", "ml_dtypes", "safetensors"}
    assert {m for m in loaded if m.startswith("ingot.")} == {"ingot._aliases"}


def test_aliases_are_the_real_modules(tmp_path: Path) -> None:
    code = """
import importlib, sys
import ingot as torch
import ingot.nn as nn
from ingot import nn as nn2
import ingot.frontend.nn as real
assert nn is nn2 is real is torch.nn is sys.modules["ingot.nn"]
assert real.__name__ == real.__spec__.name == "ingot.frontend.nn", real.__spec__
assert importlib.reload(nn) is real
importlib.reload(torch)
assert torch.nn is real
assert sum(getattr(f, "aliases_of", None) == "ingot" for f in sys.meta_path) == 1
import ingot.nn
assert ingot.nn is real
try:
    import ingot.nn.no_such_thing
except ModuleNotFoundError as error:
    assert "ingot.nn.no_such_thing" in str(error), error
else:
    raise AssertionError
try:
    torch.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError
"""
    run_python(code, tmp_path)


ALIAS_PROBE = """
import sys, importlib, pkgutil
import ingot
for alias, real in ingot._MODULES.items():
    a = importlib.import_module("ingot." + alias)
    r = importlib.import_module("ingot." + real)
    assert a is r and getattr(ingot, alias) is r, alias
    for info in pkgutil.iter_modules(getattr(r, "__path__", [])):
        first = importlib.import_module(f"ingot.{alias}.{info.name}")
        assert first is importlib.import_module(f"ingot.{real}.{info.name}"), info.name
        assert first.__spec__.name == first.__name__ == f"ingot.{real}.{info.name}"
files = {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and name.split(".")[0] == "ingot":
        assert files.setdefault(file, module) is module, (name, file)
"""


def test_every_alias_and_submodule_exists_once(tmp_path: Path) -> None:
    run_python(ALIAS_PROBE, tmp_path)


def test_public_names_resolve() -> None:
    import ingot
    from ingot.ir import dtypes

    for name in ingot._NAMES:
        assert getattr(ingot, name) is not None
    assert ingot.float is ingot.float32 is dtypes.float32
    assert pickle.loads(pickle.dumps(ingot.float32)) is ingot.float32
    assert set(ingot._NAMES) <= set(dir(ingot))


PROBE_TEST = """
import os, sys
def test_single_module_object():
    import ingot
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "__init__.py"))
    assert os.path.realpath(ingot.__file__) == root
    same = [n for n, m in sys.modules.items() if getattr(m, "__file__", None) and os.path.realpath(m.__file__) == root]
    assert same == ["ingot"], same
    folder = os.path.dirname(root)
    assert os.path.basename(folder) not in sys.modules
    for room in ("ir", "frontend", "passes", "codegen", "runtime"):
        assert room not in sys.modules
"""


@pytest.mark.parametrize(
    "arguments", [[], ["tests"], ["tests/test_probe.py"], ["tests/test_probe.py::test_single_module_object"]]
)
@pytest.mark.parametrize("folder", ["other-name", "plain"])
def test_pytest_imports_the_package_once(tmp_path: Path, folder: str, arguments: list[str]) -> None:
    """In a clone of another name, run in the ways people do; -p no:cacheprovider keeps the clone clean."""
    clone = tmp_path / folder
    (clone / "tests").mkdir(parents=True)
    for name in ("pyproject.toml", "__init__.py", "_aliases.py", "tests/conftest.py"):
        shutil.copy(ROOT / name, clone / name)
    (clone / "tests" / "test_probe.py").write_text(PROBE_TEST)
    site = tmp_path / "site"
    site.mkdir()
    (site / "ingot").symlink_to(clone, target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
