"""Compile, load and first-call times of the benchmark models, their memory, and what a call costs at least.

    python benchmarks/loading.py [models...] [--threads N] [--repeats N]

Every number comes from fresh processes; imports are not included. *cold*: an empty kernel cache; *cached*: a full
one; *load*: ``ingot.load_executable``; *first call*: the first run after that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ingot
import models
import numpy as np
from ingot.measure.turns import Worker
from run import spec_of


def measure(name: str, batch: int, threads: int, repeats: int, folder: Path) -> list[str]:
    """One row of the table."""
    make, shape, _ = models.MODELS[name]
    shown = "x".join(map(str, (batch, *shape)))
    artifact = str(folder / f"{name}-{batch}.ingot")
    arguments = {"model": spec_of(make), "inputs": [f"x:{shown}"], "dims": [], "weights": None, "target": "host",
                 "disable": [], "no_cache": False}  # fmt: skip
    job = {"arguments": arguments, "threads": threads, "seed": 0, "extent": None, "artifact": artifact}
    cache = {"INGOT_CACHE_DIR": str(folder / f"cache-{name}-{batch}")}

    def facts(kind: str, environment: dict[str, str]) -> dict[str, Any]:
        worker = Worker({**job, "kind": kind, "settings": {"precision": "float32"}}, environment)
        try:
            return worker.ready()
        finally:
            worker.close()

    cold = facts("ingot", cache)
    cached = statistics.median(facts("ingot", cache)["compile_seconds"] for _ in range(repeats))
    loads = [facts("artifact", {}) for _ in range(repeats)]
    os.unlink(artifact)
    load, first = (statistics.median(f[key] for f in loads) * 1e3 for key in ("load_seconds", "first_call_seconds"))
    return [
        name, str(batch), f"{cold['compile_seconds']:.2f}", f"{cached:.2f}", f"{load:.1f}", f"{first:.1f}",
        str(cold["steps"]), f"{cold['arena'] / 2**20:.1f}", f"{cold['arena_efficiency']:.3f}",
    ]  # fmt: skip


def call_overhead_us() -> float:
    """Median microseconds of a call that does next to nothing: one kernel on one element."""
    exe = ingot.compile(lambda x: x + 1.0, ingot.zeros(1))
    x = np.zeros(1, np.float32)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(100):
            exe(x)
        times.append((time.perf_counter() - start) / 100)
    return statistics.median(times) * 1e6


def show(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(models.MODELS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, nargs="+", help="only these batch sizes")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for cached compile and load times")
    args = parser.parse_args()
    head = ["model", "batch", "cold s", "cached s", "load ms", "first call ms", "kernels", "arena MiB", "efficiency"]
    show(head)
    show(["---"] * len(head))
    with tempfile.TemporaryDirectory(prefix="ingot-loading-") as folder:
        for name in args.models:
            for batch in args.batch or models.MODELS[name][2]:
                show(measure(name, batch, args.threads, args.repeats, Path(folder)))
    print(f"\nA call of one kernel on one element takes {call_overhead_us():.1f} us.")


if __name__ == "__main__":
    main()
