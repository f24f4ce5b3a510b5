"""What cannot be compiled, internal failures and their reproducers, imports and call overhead."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import close, images, mlp, net, rows
from ingot import driver, nn
from ingot.codegen.lower import table
from ingot.ir.errors import DataDependentError, KernelError, PassError, UnsupportedError
from ingot.passes.fold_batch_norm import FoldBatchNorm


def test_operators_without_a_kernel_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    true = table.supports

    def supports(node: Any, target: Any) -> str | None:
        if any(n.op in ("tanh", "sin") for r in node.regions for n in r) or node.op in ("tanh", "sin", "fused"):
            return "not today"
        return true(node, target)

    monkeypatch.setattr(table, "supports", supports)
    model = nn.Sequential(mlp(), nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    with pytest.raises(UnsupportedError) as error:
        ingot.compile(model, rows(2), cache=False)
    assert len(error.value.items) >= 2, error.value
    for item, module in zip(error.value.items, ("0.0", "0.2", "1.0"), strict=False):
        assert module in item and "float32[2, " in item and "test_driver_failures.py:" in item and "not today" in item
    assert "cannot be compiled for x86-64" in str(error.value) or "aarch64" in str(error.value)


def test_things_that_cannot_be_traced_are_listed_at_once() -> None:
    kept = ingot.zeros(6)

    class Two(nn.Module):
        def forward(self, x: Any) -> Any:
            kept.copy_(x[0])
            kept.add_(x[1])
            return x

    with pytest.raises(UnsupportedError) as error:
        ingot.compile(nn.Sequential(Two()), rows(2))
    assert len(error.value.items) == 2
    assert all("0: " in i and "test_driver_failures.py:" in i and "try:" in i for i in error.value.items)


def test_control_flow_on_data_names_the_line_and_module() -> None:
    class Branch(nn.Module):
        def forward(self, x: Any) -> Any:
            if x.sum() > 0:
                return x
            return -x

    for compile in (lambda m: ingot.compile(m, rows(2)), lambda m: ingot.compile(m)(rows(2))):
        with pytest.raises(DataDependentError) as error:
            compile(nn.Sequential(nn.Identity(), Branch()))
        (line,) = re.findall(r"test_driver_failures\.py:(\d+)", str(error.value))
        source = Path(__file__).read_text().splitlines()
        assert "if x.sum() > 0" in source[int(line) - 1] and "module 1" in str(error.value)


# -- internal failures --------------------------------------------------------------------------------
def test_a_failing_pass_leaves_a_reproducer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.passes.manager import replay

    def fail(self: Any, graph: Any, ctx: Any) -> int:
        raise IndexError("seven")

    monkeypatch.setattr(FoldBatchNorm, "run", fail)
    with pytest.raises(PassError, match=r"'fold-batch-norm' failed: IndexError: seven") as error:
        ingot.compile(net(), images(1), dump=tmp_path)
    (path,) = tmp_path.glob("reproduce-*.py")
    assert f"reproducer: {path}" in str(error.value)
    with pytest.raises(IndexError, match="seven"):
        replay(path)
    monkeypatch.undo()
    assert "conv" in str(replay(path))


def test_the_temporary_folder_takes_reproducers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert driver.Options().reproducer_dir.is_relative_to(tmp_path)
    assert driver.Options(dump="d").reproducer_dir == Path("d")


def test_a_kernel_that_fails_leaves_a_reproducer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.codegen.lower import arithmetic

    def fail(b: Any, node: Any, args: Any) -> Any:
        raise AssertionError("no such register")

    monkeypatch.setitem(arithmetic.RULES, "tanh", fail)
    with pytest.raises(KernelError) as error:
        ingot.compile(mlp(), rows(2), dump=tmp_path, cache=False)
    message = str(error.value)
    assert (
        "fused(" in message and "test_driver_failures.py:" in message and "AssertionError: no such register" in message
    )
    (path,) = tmp_path.glob("reproduce-kernel-*.py")
    assert f"reproducer: {path}" in message and isinstance(error.value.__cause__, AssertionError)
    monkeypatch.undo()
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "did not fail" in done.stdout, done.stderr
    monkeypatch.setitem(arithmetic.RULES, "tanh", fail)
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    from ingot.kernel_failure import replay

    with pytest.raises(AssertionError, match="no such register"):
        replay(names["GRAPH"], names["CONSTANTS"], names["TARGET"])


def test_every_kernel_of_a_network_can_be_reproduced(tmp_path: Path) -> None:
    """Layouts, regions with constants and symbolic extents survive the file."""
    from ingot.kernel_failure import replay, write_reproducer
    from ingot.passes.schedule_updates import is_alias

    options = driver.Options()
    graph = driver.optimise(trace := driver.trace_inference(net(), [images(1)], dynamic=True).graph, options)
    assert graph is trace
    count = 0
    for node in graph:
        if node.op != "constant" and not is_alias(node):
            path = write_reproducer(tmp_path, node, options.resolve_target(), "none")
            names: dict[str, Any] = {}
            exec(compile(path.read_text(), str(path), "exec"), names)
            replay(names["GRAPH"], names["CONSTANTS"], names["TARGET"])
            count += 1
    assert count >= 3


def test_an_unwritable_reproducer_does_not_hide_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.codegen.lower import arithmetic

    monkeypatch.setitem(arithmetic.RULES, "tanh", lambda b, node, args: 1 // 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(driver.Options, "reproducer_dir", tmp_path / "file")
    with pytest.raises(KernelError, match=r"ZeroDivisionError(.|\n)*could not be written"):
        ingot.compile(mlp(), rows(2), cache=False)


# -- kernels and constants ----------------------------------------------------------------------------
def test_constants_in_the_code_make_different_kernels() -> None:
    exe = ingot.compile(lambda x: (x * 2, x * 0.5, x.exp() * 2.0), rows(2))
    for got, want in zip(exe(rows(2)), (rows(2) * 2, rows(2) / 2, np.exp(rows(2)) * 2), strict=True):
        close(got, want)
    assert len(exe.program.kernels) == 4  # three and the executor
    layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    assert len(ingot.compile(layers, rows(2)).program.kernels) == 2  # weights are no part of a kernel


def test_a_used_arena_gives_the_same_bits() -> None:
    for n in (1, 2, 5):
        exe = ingot.compile(net(), images(n))
        first = exe(images(n))
        exe(images(n, 1))
        np.testing.assert_array_equal(exe(images(n)), first)


# -- imports and overhead -----------------------------------------------------------------------------
def modules_after(statement: str, cwd: Path) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_imports_are_lazy(tmp_path: Path) -> None:
    heavy = {"llvmlite", "llvmlite.binding", "onnx", "click", "rich", "networkx", "torch"}
    compiler = {"ingot.codegen", "ingot.passes", "ingot.program", "ingot.training"}
    assert not modules_after("import ingot, ingot.driver; ingot.compile", tmp_path) & (heavy | compiler)
    assert "numpy" not in modules_after("import ingot", tmp_path)
    assert not modules_after("import ingot.cli", tmp_path) & {"numpy", "rich", "llvmlite", "ingot.driver"}


def test_call_overhead() -> None:
    """What the wrapper adds to a call (best of many short rounds, with a runtime that does nothing)."""
    x = rows(1)
    exe = ingot.compile(lambda x: x + 1, x)

    class Nothing:
        def run(self, inputs: Any) -> Any:
            return [x]

    exe._executable = Nothing()  # type: ignore[assignment]
    rounds = []
    for _ in range(60):
        start = time.perf_counter()
        for _ in range(300):
            exe(x)
        rounds.append((time.perf_counter() - start) / 300)
    print(f"wrapper {min(rounds) * 1e6:.2f} us")
    assert min(rounds) < 2e-6  # 0.3 us on an idle machine


class Keeps(nn.Module):
    """Writes what it computes into itself, and perhaps fails afterwards."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.last = 1
        self.register_buffer("absent", None)

    def forward(self, x: Any) -> Any:
        if self.how == "buffer":
            self.absent = x.sum(0)
        elif self.how == "register":
            self.register_buffer("fresh", x.sum(0))
        else:
            self.last = x * 2
            self.first = x * 3
            if x.sum() > 0:
                return x
        return x + 1


@pytest.mark.parametrize("how", ["buffer", "register", "attribute"])
def test_nothing_traced_remains_in_a_module_after_a_failure(how: str) -> None:
    model = Keeps(how)
    for function in (model, lambda x: model(x)):
        with pytest.raises((UnsupportedError, DataDependentError)) as error:
            ingot.compile(function, rows(2))
        assert how == "attribute" or ("buffer" in str(error.value) and "register" in str(error.value))
        assert model.absent is None and "fresh" not in model._buffers
        assert model.last == 1 and "first" not in model.__dict__
