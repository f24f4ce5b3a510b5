"""Comparisons with peers: worker processes, turns, errors, what is said when something cannot run, the reports."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ingot.cli import main
from ingot.cli_arguments import Request
from ingot.measure import comparison, systems
from ingot.measure.systems import System, ingot_systems, peer_systems
from ingot.measure.turns import Worker, WorkerError
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
MODEL = """
import ingot
from ingot import nn

print("the model's own words must not disturb the protocol")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 64, 5)

    def forward(self, image, scale):
        x = nn.functional.relu(self.bn(self.conv(image)))
        return self.fc(ingot.flatten(x, 1)) * scale, x


def one():
    ingot.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def only_ingot():
    return nn.Sequential(nn.Linear(4, 4)) if ingot.compile_step else None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("tiny", None)


def request_for(*inputs: str, model: str = "tiny.py:Net", dims: tuple[str, ...] = (), **more: Any) -> Request:
    settings = {"weights": None, "target": "host", "precision": "float32", "threads": 1, "disable": (),
                "no_cache": False}  # fmt: skip
    return Request(model=model, inputs=inputs, dims=dims, **{**settings, **more})


def subject_for(folder: Path, request: Request, **more: Any) -> comparison.Subject:
    return comparison.prepare(request, "tiny.py:Net", folder, threads=1, **more)


INPUTS = ("scale:1x1", "image:2x3x8x8")  # not in the order of forward


def installed(*names: str) -> list[System]:
    return [s for s in peer_systems(names) if s.obstacle() is None]


def test_every_system_computes_the_same_with_the_same_weights(folder: Path) -> None:
    """Random weights differ per process unless they travel; inputs are given by name in another order."""
    subject = subject_for(folder, request_for(*INPUTS))
    columns = [*ingot_systems(("float32",)), *installed("onnxruntime", "openvino", "torch")]
    said: list[str] = []
    results = comparison.compare(subject, columns, seconds=0.02, report=said.append)
    assert list(results) == [s.name for s in columns]
    for name, entry in results.items():
        # OpenVINO's default computes in bfloat16 where the CPU has instructions for it.
        bound = 2e-2 if name.startswith("openvino-default") else 1e-5
        assert entry.get("l2_error", 1.0) < bound, (name, entry)
        if "same_as" not in entry:
            assert entry["calls"] >= 1 and 0 < entry["p10_ms"] <= entry["median_ms"] <= entry["p90_ms"]
            assert entry["turns"] >= 1 and entry["facts"]["peak_mib"] > 10
    assert results["ingot-float32"]["turns"] >= comparison.LEAST_TURNS
    assert any("starting" in s for s in said)
    if "openvino" in results:
        assert results["openvino"]["facts"]["precision"] == "f32"


def test_rows_of_the_oracle_and_symbolic_extents(folder: Path) -> None:
    """The float64 results may be those of the first rows only; onnxruntime gets free axes."""
    one = "tiny.py:one"
    small = comparison.prepare(request_for("1x3x2x2", model=one), one, folder, threads=1)
    many = request_for("input:Nx3x2x2", model=one, dims=("N=1..8",))
    subject = comparison.prepare(many, one, folder, threads=1, extent=4, oracle=False)
    subject = replace(subject, oracle=small.oracle, rows=1)
    results = comparison.compare(subject, [*ingot_systems(("float32",)), *installed("onnxruntime")], seconds=0.0)
    assert all(entry["l2_error"] < 1e-5 for entry in results.values()), results


def test_precisions_that_change_no_kernel_are_measured_once(folder: Path) -> None:
    subject = subject_for(folder, request_for(*INPUTS), oracle=False)
    twice = [replace(ingot_systems(("float32",))[0], name=name) for name in ("first", "second")]
    results = comparison.compare(subject, twice, seconds=0.0)
    assert results["second"] == {"same_as": "first", "l2_error": None}
    assert comparison.median_ms(results, "second") == results["first"]["median_ms"]


def test_what_cannot_run_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_for(folder, request_for(*INPUTS), oracle=False)
    subject.onnx, subject.onnx_error = None, "no rule for sort"
    broken = replace(ingot_systems(("float32",))[0], name="broken", settings={"precision": "float3"})
    absent = System("absent", "Absent", "absent", "no_such_package")
    columns = [broken, absent, System("reader", "Reader", "onnxruntime", needs="onnx")]
    results = comparison.compare(subject, columns, seconds=0.0)
    assert "float3" in results["broken"]["failed"]
    assert "pip install" in results["absent"]["failed"] and "no_such_package" in results["absent"]["failed"]
    assert "no rule for sort" in results["reader"]["failed"]
    from ingot.measure.tables import print_comparison

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(results, columns, console)
    assert "Absent: no_such_package is not installed" in console.export_text()
    with pytest.raises(ValueError, match="unknown peer 'tvm'"):
        peer_systems(["tvm"])


@pytest.mark.parity
def test_torch_twins(folder: Path) -> None:
    """A file that needs Ingot itself has none, which is said; another file can be named."""
    pytest.importorskip("torch")
    request = request_for("x:2x4", model="tiny.py:only_ingot")
    columns = installed("torch")
    subject = comparison.prepare(request, "tiny.py:only_ingot", folder, threads=1)
    results = comparison.compare(subject, columns, seconds=0.0)
    assert "compile_step" in results["torch"]["failed"]
    (folder / "twin.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 4))\n")
    subject = comparison.prepare(request, "tiny.py:only_ingot", folder, threads=1, twin="twin.py:make")
    results = comparison.compare(subject, columns, seconds=0.0)
    assert results["torch"]["l2_error"] < 1e-5


def test_torch_in_place_is_undone() -> None:
    pytest.importorskip("torch")
    from ingot.measure.twin import torch_in_place

    before = {n: m for n, m in sys.modules.items() if n.startswith("ingot")}
    with torch_in_place():
        scope: dict[str, Any] = {}
        exec("import ingot, ingot.nn.functional as F\nfrom ingot import nn", scope)
        assert scope["ingot"].__name__ == "torch" and scope["nn"].__name__ == "torch.nn"
        assert scope["F"].__name__ == "torch.nn.functional"
        with pytest.raises(ModuleNotFoundError):
            exec("import ingot.driver", {})
    assert {n: m for n, m in sys.modules.items() if n.startswith("ingot")} == before
    exec("import ingot.nn as nn\nassert nn.__name__ == 'ingot.frontend.nn'", {})


def test_workers_that_die_or_hang_are_reported(folder: Path) -> None:
    job = {"kind": "none", "seed": 0, "extent": None, "arguments": {"inputs": ["x:2"], "dims": []}}
    worker = Worker(job, {})
    with pytest.raises(WorkerError, match=r"^KeyError: 'none'$"):
        worker.ready()
    worker.close()
    worker = Worker(subject_for(folder, request_for(*INPUTS), oracle=False).job(ingot_systems(("float32",))[0]), {})
    with pytest.raises(WorkerError, match="gave no answer"):
        worker.ready(timeout=0.01)
    worker.close()
    assert worker._process.returncode is not None


def test_workers_end_with_their_parent(folder: Path) -> None:
    """They wait on a pipe; when the parent is gone it closes."""
    code = """
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "ingot.measure.worker"], stdin=subprocess.PIPE)
child.stdin.write(json.dumps(json.loads(sys.argv[1])).encode() + b"\\n")
child.stdin.flush()
"""
    job = subject_for(folder, request_for(*INPUTS), oracle=False).job(ingot_systems(("float32",))[0])
    done = subprocess.run([sys.executable, "-c", code, json.dumps(job)], capture_output=True, text=True, timeout=60)
    # run() returns only when every holder of the pipes, the orphan included, is gone
    assert done.returncode == 0 and '"ready"' in done.stdout, done.stderr


def test_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacle = systems.huge_page_obstacle()
    assert obstacle is None or "huge pages" in obstacle or "glibc" in obstacle
    (huge,) = [s for s in peer_systems(["onnxruntime"]) if s.huge_pages]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert huge.environment(1)["GLIBC_TUNABLES"].startswith("glibc.malloc.check=0:glibc.malloc.hugetlb=1:")
    assert "GLIBC_TUNABLES" not in peer_systems(["onnxruntime"])[0].environment(1)
    systems.huge_page_obstacle.cache_clear()
    monkeypatch.setitem(systems._TUNABLES, "glibc.malloc.no_such_setting", 1)
    if obstacle is None:
        assert "glibc.malloc.no_such_setting" in (systems.huge_page_obstacle() or "")
    systems.huge_page_obstacle.cache_clear()


def test_bench_peers_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["bench", "tiny.py:Net", "-i", "image:2x3x8x8", "-i", "scale:1x1", "--seconds", "0.01", *arguments])
        sys.modules.pop("tiny", None)
        out, err = capsys.readouterr()
        return stop.value.code, out.removeprefix("the model's own words must not disturb the protocol\n"), err

    code, out, err = run("--peers", "onnxruntime", "--threads", "1")
    assert code == 0 and "Ingot float32" in out and "onnxruntime" in out, err
    if find_spec("onnxruntime"):
        assert "times as fast as the fastest comparable peer" in out
    code, out, err = run("--peers", "onnxruntime", "--no-errors", "--all-precisions", "--json")
    data = json.loads(out)
    assert code == 0 and "ingot-bfloat16" in data and data["ingot-float32"]["l2_error"] is None, err
    code, out, err = run("--peers", "tvm")
    assert code == 2 and "tvm; there are onnxruntime, openvino, torch, torch.compile" in err


# -- benchmarks/run.py -----------------------------------------------------------------------------------
def row(model: str, batch: int, threads: int, **ms: float) -> dict[str, Any]:
    results: dict[str, Any] = {
        name.replace("_", "-"): {"median_ms": t, "p10_ms": t, "p90_ms": t, "calls": 9, "turns": 3, "l2_error": 1e-7,
                                 "facts": {"version": "1"}} for name, t in ms.items()
    }  # fmt: skip
    results["ingot-bfloat16"] = {"same_as": "ingot-float32", "l2_error": 1e-7}
    results["torch"] = {"failed": "torch is not installed"}
    return {"model": model, "batch": batch, "threads": threads, "date": "d", "machine": "m", "results": results}


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import models
    import report

    assert set(report.MODELS) <= set(models.MODELS)  # not the variants of the U-Net
    rows = [
        row("lenet", 1, 1, ingot_float32=2.0, onnxruntime=4.0, openvino=3.0, openvino_default=1.0),
        row("vgg16", 1, 2, ingot_float32=2.0, onnxruntime=16.0, openvino=20.0),
        row("mlp", 1, 2, ingot_float32=2.0, onnxruntime=2.0, openvino=1.8),
    ]
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + '\n{"model": "cut')
    assert report.read(file) == rows
    text = report.markdown(rows)
    assert text.index("### 2 threads") < text.index("mlp") < text.index("vgg16") < text.index("### 1 thread\n")
    assert "| mlp | 1 | 2.000 | 2.000 | **1.800** | 0.90 |" in text
    assert "geometric mean 2.68, least 0.90, 1 of 2 rows at least as fast (0.97 counts); over" in text
    assert "vgg16, unet, encoder: 8.00" in text
    assert "geometric mean 1.50, least 1.50" in text  # the fastest peer in float32, not OpenVINO's default
    assert "torch is not installed" in text and "### Errors" in text
    assert "mlp batch 1, 2 threads: Ingot 2.000 ms, openvino 1.800 ms, ratio 0.90; failed: torch" in report.summary(
        rows[2]
    )
    assert report.markdown([]) == ""


def test_benchmark_run_continues(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "mlp", "--threads", "1", "--peers", "onnxruntime",
               "--seconds", "0.01", "--out", str(out)]  # fmt: skip
    first = subprocess.run([*command, "--batch", "1"], capture_output=True, text=True)
    assert first.returncode == 0 and "1/1 mlp batch 1, 1 threads" in first.stderr, first.stderr
    assert "| mlp | 1 |" in first.stdout
    assert json.loads(out.read_text())["results"]["ingot-float32"]["l2_error"] < 1e-5
    again = subprocess.run([*command, "--minutes", "0"], capture_output=True, text=True)
    assert "1 rows are left" in again.stderr and "| mlp | 1 |" in again.stdout, again.stderr
