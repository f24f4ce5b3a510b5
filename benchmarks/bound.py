"""How near the benchmark models are to the multiply-add rate of the machine, and what that leaves to gain on a peer.

    python benchmarks/bound.py [model ...] [--batch 1 16] [--threads 2] [--results results.jsonl]

Per model: the operations that its contractions have in direct form and those that Ingot executes (Winograd: fewer), the
time both would take at the multiply-add rate measured in turns with the model (``ingot.measure.limits``), the time
of a call, and with a results file of run.py the time of the fastest float32 peer. *most*: that peer's time over the
executed operations' time, the largest ratio that any schedule of these operations can reach if all else took no time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ingot
import models
import report
from ingot.cli_arguments import random_inputs
from ingot.measure.comparison import fastest_peer, median_ms
from ingot.measure.profiling import profile
from run import ORDER, request_for

HEAD = (
    "model", "batch", "direct MFLOP", "executed MFLOP", "FMA GFLOP/s", "direct ms", "executed ms", "Ingot ms", "share",
    "peer ms", "ratio", "most",
)  # fmt: skip


def row(name: str, batch: int, threads: int, seconds: float, peer: float | None) -> list[str]:
    request = request_for(name, batch, threads=threads)
    exe = ingot.compile(request.model, *request.specs, threads=threads)
    found = profile(exe.executable, random_inputs([s.type for s in request.specs], 0), seconds)
    sums = [step for step in exe.program.steps if step.direct]  # all else counts as free
    executed, direct = sum(step.flops for step in sums), sum(step.direct for step in sums)
    rate, ours = found.limits.flops, found.call_seconds * 1e3
    least = executed / rate * 1e3
    cells = [f"{direct / 1e6:.1f}", f"{executed / 1e6:.1f}", f"{rate / 1e9:.0f}", f"{direct / rate * 1e3:.3f}",
             f"{least:.3f}", f"{ours:.3f}", f"{100 * least / ours:.0f}%"]  # fmt: skip
    tail = ["", "", ""] if peer is None else [f"{peer:.3f}", f"{peer / ours:.2f}", f"{peer / least:.2f}"]
    return [name, str(batch), *cells, *tail]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*ORDER, []], help="default: all")
    parser.add_argument("--batch", type=int, nargs="+", help="only these batch sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure, per model")
    parser.add_argument("--results", type=Path, help="results of run.py on this machine")
    args = parser.parse_args()
    peers = {report.key(r): median_ms(r["results"], fastest_peer(r["results"], report.EXACT) or "")
             for r in (report.read(args.results) if args.results else [])}  # fmt: skip
    print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
    for name in args.models or ORDER:
        for batch in args.batch or models.MODELS[name][2]:
            cells = row(name, batch, args.threads, args.seconds, peers.get((name, batch, args.threads)))
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
