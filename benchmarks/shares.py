"""Contraction kernels inside the benchmark models, with any number of threads, beside the FMA rate of as many.

    python benchmarks/shares.py [model ...] [--batch 1 16] [--threads 2] [--seconds 4]

``kernels.py`` runs each kernel on its own; here whole models run, in turns with FMA loops on all threads
(``ingot.measure.profiling``), so kernels find their data where the one before left them, and threads share the work
of one kernel at a time. Equal kernels are one row. Its time is the 10th percentile, the FMA rate the 90th.
Operations are those executed: products of Winograd and Strassen, not those of the direct form.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import ingot
import models
from ingot.cli_arguments import random_inputs
from ingot.measure.profiling import KernelTime, profile
from run import ORDER, request_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*ORDER, []], help="default: all")
    parser.add_argument("--batch", type=int, nargs="+", help="only these batch sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32", choices=["float32", "float32-fast"])
    parser.add_argument("--seconds", type=float, default=4.0, help="to measure, per model")
    args = parser.parse_args()
    for name in args.models or ORDER:
        for batch in args.batch or models.MODELS[name][2]:
            request = request_for(name, batch)
            exe = ingot.compile(
                request.model, *request.specs, precision=args.precision, threads=args.threads
            ).executable
            found = profile(exe, random_inputs([s.type for s in request.specs], 0), args.seconds)
            # Only of contractions is known what they take in direct form.
            contractions = [k for k, step in zip(found.kernels, exe.program.steps, strict=True) if step.direct]
            report(f"{name}, batch {batch}", contractions, found.limits.undisturbed_flops, args.threads)


def report(title: str, kernels: list[KernelTime], rate: float, threads: int) -> None:
    """Rows by lost time, then the sum."""
    same: dict[str, list[KernelTime]] = defaultdict(list)
    for k in kernels:
        same[k.kernel].append(k)
    rows = []
    for group in same.values():
        spent, flops = sum(k.best for k in group), sum(k.flops or 0.0 for k in group)
        rows.append((spent - flops / rate, spent, flops, group))
    print(f"\n{title}: {threads} thread(s), {rate / 1e9:.0f} GFLOP/s")
    for lost, spent, flops, group in sorted(rows, key=lambda row: -row[0]):
        share, each, first = 100 * flops / spent / rate, spent / len(group) * 1e6, group[0]
        print(
            f"{len(group):3} x {each:9.1f} us {flops / spent / 1e9:7.1f} GFLOP/s {share:4.0f}% "
            f"lost {lost * 1e6:8.1f} us  {first.layers}: {first.operators}; {first.schedule[:90]}"
        )
    spent, flops = max(sum(row[1] for row in rows), 1e-12), sum(row[2] for row in rows)
    print(f"all: {spent * 1e3:.3f} ms, {100 * flops / spent / rate:.0f}% of the FMA rate", flush=True)


if __name__ == "__main__":
    main()
