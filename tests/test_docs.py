"""The documents: generated pages are current, their Python blocks and commands run, links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
# Pages whose Python blocks are one program, run from top to bottom.
PROGRAMS = [
    "README.md", "docs/getting-started.md", "docs/debugging.md", "docs/adding-an-operator.md", "docs/adding-a-pass.md",
]  # fmt: skip
COMMANDS = ["README.md", "docs/getting-started.md"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel cache for all documents."""
    return tmp_path_factory.mktemp("kernels")


def script(name: str) -> types.ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # inspect.getsource looks there
    spec.loader.exec_module(module)
    return module


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def file_blocks(page: str) -> dict[str, str]:
    """Blocks that start with ``# file: NAME``."""
    found = (re.match(r"# file: (\S+)\n", b) and b for b in blocks(page, "python"))
    return {re.match(r"# file: (\S+)\n", b)[1]: b for b in found if b}


def run(command: list[str], folder: Path, cache: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "INGOT_CACHE_DIR": str(cache)}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_current(path: Path, text: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    hint = f"{path.relative_to(ROOT)} is not current; pytest tests/test_docs.py --update-golden rewrites it"
    assert path.read_text(encoding="utf-8") == text, hint


def test_worked_example_is_current(request: pytest.FixtureRequest) -> None:
    module = script("worked_example")
    check_current(module.PAGE, module.page(), request)


def test_reference_pages_are_current(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an example of errors.md writes a file
    for name, text in script("reference_pages").pages().items():
        check_current(DOCS / name, text, request)


@pytest.mark.parametrize("page", PROGRAMS)
def test_python_blocks_run(page: str, tmp_path: Path, cache: Path) -> None:
    """In a process of its own: one page registers an operator."""
    program = "\n".join(b for b in blocks(page, "python") if not b.startswith("# file: "))
    assert program
    (tmp_path / "blocks.py").write_text(program, encoding="utf-8")
    run([sys.executable, "blocks.py"], tmp_path, cache)


@pytest.mark.parametrize("page", COMMANDS)
def test_commands_run(
    page: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ``ingot`` commands, in this process; ``python -c`` lines between them in one of their own."""
    from ingot.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INGOT_CACHE_DIR", str(cache))
    monkeypatch.setattr(sys, "path", list(sys.path))
    files = file_blocks(page)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith(("ingot ", "python -c"))]
    assert len(lines) > 5
    try:
        for line in lines:
            command = shlex.split(line)
            if command[0] == "python":
                run([sys.executable, *command[1:]], tmp_path, cache)
                continue
            with pytest.raises(SystemExit) as stopped:
                main(command[1:])
            captured = capsys.readouterr()
            assert stopped.value.code == 0, f"{line}\n{captured.out}\n{captured.err}"
            assert captured.out or "-o" in command, line
    finally:
        for name in files:
            sys.modules.pop(Path(name).stem, None)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        known = path.exists()
        if known and anchor and path.suffix == ".md":
            known = anchor in anchors(path.read_text(encoding="utf-8"))
        if not known:
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_paths_of_a_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|work|tmp|root|Users)/", page.read_text(encoding="utf-8"))


def test_every_page_is_on_the_map() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in DOCS.glob("*.md") if f"docs/{p.name}" not in readme] == []


def test_architecture_names_what_exists() -> None:
    """The pass list, the modules at the root and the files of each room that the contract names."""
    from ingot.passes.pipeline import standard

    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    listed = re.search(r"### Passes, in order\n(.*?)\. Inference", text, re.S)
    assert listed is not None
    assert re.findall(r"`([\w-]+)`", listed[1]) == [p.name for p in standard()]
    folders = (ROOT, ROOT / "codegen", ROOT / "codegen/lower", ROOT / "runtime")
    for path in (p for folder in folders for p in folder.glob("[a-z]*.py")):
        if not path.stem.startswith("onnx_rules"):
            assert f"`{path.name}`" in text, f"docs/architecture.md does not say what {path.relative_to(ROOT)} is"


def test_every_error_class_is_documented() -> None:
    import ingot
    from ingot.ir.errors import IngotError

    for info in pkgutil.walk_packages(ingot.__path__, "ingot."):
        if info.name.split(".")[1] in ("ir", "frontend", "passes", "codegen", "runtime"):
            importlib.import_module(info.name)
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    found, stack = [], [IngotError]
    while stack:
        cls = stack.pop()
        found.append(cls)
        # Tests define subclasses of their own.
        stack += [c for c in cls.__subclasses__() if c.__module__.startswith("ingot.")]
    assert [c.__name__ for c in found if c.__name__ not in text] == []


def test_environment_variables_are_documented() -> None:
    used = set()
    rooms = ("codegen", "runtime", "frontend", "passes", "ir")
    for path in [*ROOT.glob("*.py"), *(p for room in rooms for p in (ROOT / room).rglob("*.py"))]:
        used |= set(re.findall(r"\bINGOT_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
    text = (DOCS / "debugging.md").read_text(encoding="utf-8")
    assert [name for name in sorted(used) if f"`{name}" not in text] == []


def test_coverage_page_is_current(request: pytest.FixtureRequest) -> None:
    """The specification's rows name tests, and the tests exist."""
    sys.path.insert(0, str(DOCS))
    try:
        import coverage_page
    finally:
        sys.path.remove(str(DOCS))
    text = coverage_page.PAGE.read_text(encoding="utf-8")
    wanted = coverage_page.rendered(text)
    if request.config.getoption("--update-golden"):
        coverage_page.PAGE.write_text(wanted, encoding="utf-8")
    else:
        assert text == wanted, "docs/coverage.md is not current: python docs/coverage_page.py"
    rows = set(re.findall(r"^\| ([A-Z]{1,2}\d+) \|", text, re.M))
    for row, tests in coverage_page.named_tests().items():
        assert row in rows, f"{row} is no row of the specification"
        for test in tests:
            if test == coverage_page.REMARK:
                continue
            path, _, name = test.partition("::")
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {re.escape(name.partition('[')[0])}\b", source, re.M), f"{row}: {test}"
