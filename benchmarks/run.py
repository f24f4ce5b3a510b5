"""Compares Ingot with onnxruntime (and PyTorch eager with --torch) on the benchmark models.

    python benchmarks/run.py                        every model, both batch sizes
    python benchmarks/run.py resnet50 --threads 1   one model, one thread

Systems run in separate processes and take turns, so that they share the machine's good and bad moments; medians
over all turns are compared. Compile time is measured with an empty kernel cache and again with a full one;
loading in five fresh processes, imports excluded. Errors are relative L2 against the float64 interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


class Worker:
    """A process of ``worker.py``; ``facts`` is what it reported when ready."""

    def __init__(self, system: str, model: str, batch: int, threads: int, env: dict[str, str], **paths: str) -> None:
        command = [
            sys.executable,
            str(HERE / "worker.py"),
            system,
            model,
            "--batch",
            str(batch),
            "--threads",
            str(threads),
        ]
        for key, value in paths.items():
            command += [f"--{key}", value]
        self.system = system
        self.times: list[float] = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
        )
        self.facts = self._read()["ready"]

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.system} died with code {self.process.wait()}")
        return json.loads(line)

    def turn(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self.process.stdin.flush()
        self.times += self._read()["times"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times) * 1e3


def export_onnx(model: str, folder: Path) -> str:
    """The model as ONNX with a free batch; returns the path."""
    import ingot
    import models
    from worker import example, seeded_model

    path = folder / f"{model}.onnx"
    x = example(models.MODELS[model][1], 1)
    ingot.onnx.export(seeded_model(model), (ingot.from_numpy(x),), path, dynamic_axes={"x": {0: "N"}})
    return str(path)


def oracle(model: str) -> np.ndarray:
    """Batch-1 result in float64."""
    import models
    from ingot.driver import as_spec, trace_inference
    from ingot.ir.interpreter import interpret
    from worker import example, seeded_model

    x = example(models.MODELS[model][1], 1)
    return interpret(trace_inference(seeded_model(model), [as_spec(x)]).graph, [x], float64=True)[0]


def relative_error(path: str, want: np.ndarray) -> float:
    return float(np.linalg.norm(np.load(path).astype(np.float64) - want) / np.linalg.norm(want))


def measure(model: str, batch: int, args: argparse.Namespace, folder: Path) -> dict:
    """One row of the table."""
    onnx = folder / f"{model}.onnx"
    if not onnx.exists():
        export_onnx(model, folder)
    artifact = str(folder / f"{model}-{batch}.ingot")
    cache = {"INGOT_CACHE_DIR": str(folder / f"cache-{model}-{batch}")}
    out = {s: str(folder / f"{model}-{batch}-{s}.npy") for s in ("ingot", "onnxruntime", "torch")}
    cold = Worker("ingot", model, batch, args.threads, cache, artifact=artifact, output=out["ingot"])
    systems = [cold, Worker("onnxruntime", model, batch, args.threads, {}, onnx=str(onnx), output=out["onnxruntime"])]
    if args.torch:
        systems.append(Worker("torch", model, batch, args.threads, {}, output=out["torch"]))
    for _ in range(args.turns):
        for worker in systems:
            worker.turn(args.seconds)
    for worker in systems:
        worker.close()
    row = {"model": model, "batch": batch, "cold": cold.facts["compile_seconds"], **cold.facts}
    row.update({w.system: w.median_ms for w in systems})
    if batch == 1:
        want = oracle(model)
        row["errors"] = {w.system: relative_error(out[w.system], want) for w in systems}
    warm, load, first = [], [], []
    for _ in range(args.repeats):
        worker = Worker("ingot", model, batch, args.threads, cache)
        warm.append(worker.facts["compile_seconds"])
        worker.close()
        worker = Worker("load", model, batch, args.threads, {}, artifact=artifact)
        load.append(worker.facts["load_seconds"])
        first.append(worker.facts["first_call_seconds"])
        worker.close()
    row["warm"], row["load"], row["first"] = map(statistics.median, (warm, load, first))
    return row


def call_overhead_us() -> float:
    """Median microseconds of a call that does next to nothing: one kernel on one element."""
    import time

    import ingot

    exe = ingot.compile(lambda x: x + 1.0, ingot.zeros(1))
    x = np.zeros(1, np.float32)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(100):
            exe(x)
        times.append((time.perf_counter() - start) / 100)
    return statistics.median(times) * 1e6


def print_table(rows: list[dict], torch: bool) -> None:
    head = ["model", "batch", "Ingot ms", "onnxruntime ms", "ratio"] + (["torch ms"] if torch else [])
    head += [
        "GFLOP/s",
        "error Ingot",
        "error ort",
        "cold s",
        "cached s",
        "load ms",
        "first call ms",
        "arena MiB",
        "efficiency",
    ]
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for r in rows:
        errors = r.get("errors", {})
        cells = [
            r["model"],
            r["batch"],
            f"{r['ingot']:.3f}",
            f"{r['onnxruntime']:.3f}",
            f"{r['onnxruntime'] / r['ingot']:.2f}",
        ]
        cells += [f"{r['torch']:.3f}"] if torch else []
        cells += [f"{r['flops'] / r['ingot'] / 1e6:.0f}"]
        cells += [f"{errors[s]:.1e}" if s in errors else "" for s in ("ingot", "onnxruntime")]
        cells += [f"{r['cold']:.2f}", f"{r['warm']:.2f}", f"{r['load'] * 1e3:.1f}", f"{r['first'] * 1e3:.1f}"]
        cells += [f"{r['arena'] / 2**20:.1f}", f"{r['arena_efficiency']:.3f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    import models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(models.MODELS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, action="append", help="only these batch sizes")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.4, help="per turn and system")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for cached compile and load times")
    parser.add_argument("--torch", action="store_true", help="also PyTorch eager")
    args = parser.parse_args()
    if unknown := set(args.models) - set(models.MODELS):
        parser.error(f"unknown models {sorted(unknown)}; there are {', '.join(models.MODELS)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        for model in args.models:
            for batch in args.batch or models.MODELS[model][2]:
                rows.append(measure(model, batch, args, Path(folder)))
                print(f"{model} batch {batch}: done", file=sys.stderr)
    print(
        f"{args.threads} threads, medians of {args.turns} interleaved turns of {args.seconds} s; "
        "ratio > 1: Ingot is faster\n"
    )
    print_table(rows, args.torch)
    ratios = [r["onnxruntime"] / r["ingot"] for r in rows]
    print(f"\ngeometric mean of the ratios: {statistics.geometric_mean(ratios):.2f}; "
          f"call overhead {call_overhead_us():.1f} us")  # fmt: skip


if __name__ == "__main__":
    main()
