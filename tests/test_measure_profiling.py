"""Profiles: every kernel with its work, the measured limits, totals, and the command that prints them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.cli import main
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32
from ingot.ir.graph import Graph
from ingot.ir.types import TensorType
from ingot.ir.work import direct_flops
from ingot.measure import profiling
from ingot.measure.limits import LEVELS, Limits, Probe, tile_loop
from rich.console import Console

MODEL = """
from ingot import nn


def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))
"""


@pytest.fixture(scope="module")
def limits() -> Limits:
    probe = Probe(2)
    probe.sample(2)
    return probe.limits()


def test_limits_are_plausible(limits: Limits) -> None:
    assert limits.threads == 2
    assert 1e8 < limits.flops < 1e14
    assert limits.bf16_flops == 0.0 or limits.bf16_flops > limits.flops
    assert set(limits.bandwidth) == set(LEVELS)
    assert all(1e7 < rate < 1e13 for rate in limits.bandwidth.values())
    assert limits.level(1) == "L2" and limits.level(1 << 50) == "memory"
    assert limits.level(limits.capacity["L2"] + 1) == "L3"


def test_the_tile_loop_is_tile_code() -> None:
    """Compiled for the unit on any machine; run where there is one."""
    from ingot.codegen.assemble import assembly_text
    from ingot.codegen.host import target_named
    from ingot.codegen.llvm_emit import emit

    target = target_named("x86-64-amx")
    text = assembly_text(emit(tile_loop(target)), target)
    assert text.count("tdpbf16ps") == 4 and "tilerelease" in text


def node(op: str, *shapes: tuple[object, ...], **attrs: object) -> object:
    g = Graph("work")
    return GraphBuilder(g).emit(op, [g.add_input(TensorType(float32, s), "x") for s in shapes], **attrs)


CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}


@pytest.mark.parametrize(
    ("made", "multiply_adds"),
    [
        (node("matmul", (5, 2, 3), (3, 4)), 5 * 2 * 4 * 3),
        (node("matmul", (3, 2), (4, 3), transpose_a=True, transpose_b=True), 2 * 4 * 3),
        (node("conv", (2, 4, 8, 8), (6, 2, 3, 3), groups=2, **CONV), 2 * 6 * 64 * 2 * 9),
        (node("conv_transpose", (2, 6, 8, 8), (6, 2, 3, 3), groups=2, output_padding=(0, 0), **CONV), 2 * 6 * 64 * 18),
        (node("conv_weight_grad", (2, 4, 8, 8), (2, 6, 8, 8), kernel=(3, 3), groups=2, **CONV), 2 * 6 * 64 * 2 * 9),
        (node("matmul", (Dim("N", 1, 10).expr, 3), (3, 4)), 10 * 4 * 3),
        (node("matmul", (Dim("N").expr, 3), (3, 4)), 0),
        (node("relu", (5,)), 0),
    ],
)
def test_direct_flops(made: object, multiply_adds: int) -> None:
    assert direct_flops(made) == 2 * multiply_adds  # type: ignore[arg-type]


def small() -> nn.Module:
    ingot.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))


def test_profile_of_a_model(tmp_path: Path) -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    exe = ingot.compile(small(), x, threads=2)
    exe.save(tmp_path / "m.ingot")
    loaded = ingot.load_executable(tmp_path / "m.ingot", threads=2)
    found = [profiling.profile(e.executable, [x], 0.05) for e in (exe, loaded)]
    for p in found:
        assert p.threads == 2 and p.runs >= 10 and len(p.kernels) == len(exe.program.steps)
        assert p.call_seconds > 0 and p.outside_seconds < p.call_seconds
        assert p.kernel_seconds == pytest.approx(sum(k.seconds for k in p.kernels))
        conv = next(k for k in p.kernels if "conv" in k.operators)
        assert conv.layers.startswith("0") and conv.schedule.startswith("conv")
        assert conv.direct == 2 * 2 * 8 * 64 * 27
        assert all(k.bound in ("compute", *LEVELS) and k.share > 0 and k.best <= k.seconds for k in p.kernels)
    columns = ("layers", "operators", "schedule", "flops", "direct", "bytes")
    assert [[getattr(k, c) for c in columns] for k in found[0].kernels] == [
        [getattr(k, c) for c in columns] for k in found[1].kernels
    ]


def test_symbolic_extents_have_known_work_at_their_upper_bounds() -> None:
    exe = ingot.compile(small(), np.zeros((1, 3, 8, 8), np.float32), dynamic=Dim("N", 1, 4), threads=1)
    unknown = profiling.profile(exe.executable, [np.zeros((2, 3, 8, 8), np.float32)], 0.02)
    assert all(k.flops is None and k.bytes is None and k.bound == "" for k in unknown.kernels)
    known = profiling.profile(exe.executable, [np.zeros((4, 3, 8, 8), np.float32)], 0.02)
    assert all(k.bytes and k.bound for k in known.kernels)


def kernel(**changes: object) -> profiling.KernelTime:
    fields = {
        "index": 0, "kernel": "k", "layers": "body.conv1", "operators": "conv+relu", "schedule": "winograd",
        "seconds": 1e-3, "best": 9e-4, "flops": 5e7, "direct": 1e8, "bytes": 1e6, "bound": "compute",
        "limit_seconds": 5e-4,
    }  # fmt: skip
    return profiling.KernelTime(**(fields | changes))  # type: ignore[arg-type]


def table(limits: Limits, *kernels: profiling.KernelTime, **options: object) -> str:
    from ingot.measure.tables import print_profile

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    p = profiling.Profile("net", "x86-64", 2, 10, list(kernels), 4e-3, 1e-4, limits)
    print_profile(p, console, **options)  # type: ignore[arg-type]
    return console.export_text()


def test_table(limits: Limits) -> None:
    text = table(limits, kernel(), kernel(index=1, layers="", seconds=2e-3, flops=1e7, direct=1e7), by_time=True)
    assert text.index("body.conv1") > text.index("conv+relu")  # the slower one, without layers, comes first
    assert "direct" in text and "50%" in text and "3000" in text and "outside kernels" in text
    assert "direct" not in table(limits, kernel(direct=5e7))
    assert "2 more" in table(limits, *[kernel(index=i) for i in range(3)], top=1)
    unknown = table(limits, kernel(flops=None, direct=None, bytes=None, bound="", limit_seconds=0.0))
    assert "upper bounds" in unknown and "%" in unknown


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "small_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        sys.modules.pop("small_model", None)
        out, err = capsys.readouterr()
        return stop.value.code, out, err  # type: ignore[return-value]

    return call


def test_command(run) -> None:
    code, out, err = run("profile", "small_model.py:make", "-i", "2x3x8x8", "--seconds", "0.02", "--threads", "1")
    assert code == 0 and "conv+add+relu" in out and "GFLOP/s" in out and "outside kernels" in out, err
    code, out, _ = run("profile", "small_model.py:make", "-i", "2x3x8x8", "--seconds", "0.02", "--json")
    data = json.loads(out)
    assert code == 0 and data["kernels"][0]["seconds"] > 0 and data["limits"]["flops"] > 0
    assert run("compile", "small_model.py:make", "-i", "Nx3x8x8", "--dim", "N=1..4", "-o", "m.ingot")[0] == 0
    code, out, err = run("profile", "m.ingot", "--seconds", "0.02", "--extent", "4", "--sort", "time", "--top", "1")
    assert code == 0 and "more" in out and "schedule" not in err, err
    code, out, err = run("bench", "m.ingot", "--seconds", "0.02")
    assert code == 0 and "median ms" in out, err
    code, _, err = run("profile", "m.ingot", "-i", "2x3x8x8")
    assert code == 2 and "compiled already" in err
    code, _, err = run("profile", "none.ingot")
    assert code == 2 and "there is no file none.ingot" in err
