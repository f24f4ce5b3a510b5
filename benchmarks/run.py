"""Ingot beside onnxruntime, OpenVINO and PyTorch on the benchmark models.

    python benchmarks/run.py --out results.jsonl                         everything: 2 threads and 1, both batch sizes
    python benchmarks/run.py --threads 2 --minutes 25 --out results.jsonl
    python benchmarks/run.py resnet50 --batch 1 --peers onnxruntime      a part, printed at the end
    python benchmarks/run.py --report --out results.jsonl                the tables of what is there, as markdown

Every system runs in a process of its own; they take short turns, so that they share the machine's good and bad
moments, and medians of all calls are compared. onnxruntime and OpenVINO get the file that ingot.onnx.export wrote, also
with malloc on huge pages; PyTorch runs models.py itself in the faster of its memory formats. Errors are relative L2
of the first image against the float64 interpreter.

A row (model, batch, threads) is appended to ``--out`` when it is done, and rows that are there are not measured again:
the same command continues what was broken off, or what did not fit ``--minutes``. torch.compile takes half a minute
to a minute per row and is left out unless ``--peers`` names it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ingot
import numpy as np
from ingot.cli_arguments import Request, random_inputs
from ingot.ir.interpreter import interpret
from ingot.measure import comparison
from ingot.measure.systems import PEERS, ingot_systems, peer_systems

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import models  # noqa: E402
import report  # noqa: E402

# Quick ones first: what they leave of their share of the time goes to the slow ones.
ORDER = ("mlp", "lenet", "resnet20", "mobilenet_v2", "encoder", "resnet18", "resnet50", "unet", "vgg16")
MOST_SECONDS = 3.0  # of measuring, per row and system


def request_for(name: str, batch: int, **settings: Any) -> Request:
    """The model with reproducible weights, batch statistics included (so that folding them matters)."""
    make, shape, _ = models.MODELS[name]
    ingot.manual_seed(0)
    shown = "x".join(map(str, (batch, *shape)))
    arguments = {
        "dims": (), "weights": None, "target": "host", "precision": "float32", "threads": None, "disable": (),
        "no_cache": False,
    }  # fmt: skip
    request = Request(model=spec_of(make), inputs=[f"x:{shown}"], **{**arguments, **settings})
    rng = np.random.default_rng(1)
    for key, buffer in request.model.named_buffers():
        if key.endswith("running_mean"):
            buffer.numpy()[...] = rng.standard_normal(buffer.shape) * 0.1
        elif key.endswith("running_var"):
            buffer.numpy()[...] = rng.uniform(0.5, 1.5, tuple(buffer.shape))
    return request


def spec_of(make: Any) -> str:
    return f"{HERE / 'models.py'}:{make.__name__}"


def oracle(name: str) -> list[np.ndarray]:
    """Float64 results of the first input, which is the same in every batch."""
    request = request_for(name, 1)
    return interpret(request.trace().graph, random_inputs([s.type for s in request.specs], 0), float64=True)


def measure_row(
    name: str, batch: int, threads: int, want: list[np.ndarray], peers: list[str], seconds: float, deadline: float
) -> dict[str, Any]:
    """One line of the results file."""
    systems = [*ingot_systems(), *peer_systems(peers)]
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        request = request_for(name, batch)
        subject = comparison.prepare(request, spec_of(models.MODELS[name][0]), Path(folder), threads=threads,
                                     oracle=False)  # fmt: skip
        del request  # workers need the memory
        subject = replace(subject, oracle=want, rows=1)
        results = comparison.compare(subject, systems, seconds=seconds, deadline=deadline)
    return {"model": name, "batch": batch, "threads": threads, "date": time.strftime("%F %R"), "machine": machine(),
            "results": results}  # fmt: skip


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(models.MODELS)}; default: all")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--batch", type=int, nargs="+", help="only these batch sizes")
    parser.add_argument("--peers", default="onnxruntime,openvino,torch", help=f"of {','.join(PEERS)}")
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="most to measure, per row and system")
    parser.add_argument("--minutes", type=float, help="start no row after this time, and share it between the rows")
    parser.add_argument("--out", type=Path, help="results file (JSON lines) to continue")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    args = parser.parse_args()
    if unknown := set(args.models) - set(models.MODELS):
        parser.error(f"unknown models {sorted(unknown)}; there are {', '.join(models.MODELS)}")
    rows = report.read(args.out) if args.out is not None and args.out.exists() else []
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    if not args.report:
        rows += measure_all(args, {report.key(r) for r in rows})
    print(report.markdown(rows))


def measure_all(args: argparse.Namespace, done: set[tuple[str, int, int]]) -> list[dict[str, Any]]:
    todo = [
        (name, batch, threads)
        for name in ORDER
        if name in (args.models or models.MODELS)
        for batch in args.batch or models.MODELS[name][2]
        for threads in args.threads
        if (name, batch, threads) not in done
    ]
    end = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
    rows: list[dict[str, Any]] = []
    wants: dict[str, list[np.ndarray]] = {}
    for i, (name, batch, threads) in enumerate(todo):
        now = time.monotonic()
        if now >= end:
            say(f"out of time: {len(todo) - i} rows are left; the same command continues")
            break
        if name not in wants:
            wants = {name: oracle(name)}
        deadline = now + (end - now) / (len(todo) - i)
        row = measure_row(name, batch, threads, wants[name], args.peers.split(","), args.seconds, deadline)
        rows.append(row)
        if args.out is not None:
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        say(f"{i + 1}/{len(todo)} {report.summary(row)}; {time.monotonic() - now:.0f} s")
    return rows


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
