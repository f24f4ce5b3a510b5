"""What the multiply-add rate of this machine leaves to gain on the fastest peer, per benchmark model.

    python benchmarks/run.py --threads 2 --out results.jsonl
    python benchmarks/bound.py [model ...] [--batch 1 16] [--threads 2] --results results.jsonl
    python benchmarks/bound.py --precision float32-fast --results results.jsonl

The operations of the contractions in direct form and those that Ingot executes (Winograd: fewer), the time of these at
the undisturbed multiply-add rate (``ingot.measure.limits``), and from the results file the times of Ingot and of the
fastest float32 peer. *most* is the peer's time over that of the executed operations: no schedule of these operations
reaches a larger ratio, even if all else took no time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ingot
import models
import report
from ingot.measure.comparison import fastest_peer, median_ms
from ingot.measure.limits import Probe
from run import ORDER, request_for

HEAD = (
    "model", "batch", "direct MFLOP", "executed MFLOP", "executed ms", "peer ms", "most", "Ingot ms", "share", "ratio",
)  # fmt: skip


def row(name: str, batch: int, precision: str, rate: float, ours: float | None, peer: float | None) -> list[str]:
    request = request_for(name, batch)
    steps = ingot.compile(request.model, *request.specs, precision=precision).program.steps
    sums = [step for step in steps if step.direct]  # all else counts as free
    executed, direct = sum(step.flops for step in sums), sum(step.direct for step in sums)
    least = executed / rate * 1e3
    cells = [name, str(batch), f"{direct / 1e6:.1f}", f"{executed / 1e6:.1f}", f"{least:.3f}"]
    cells += ["", ""] if peer is None else [f"{peer:.3f}", f"{peer / least:.2f}"]
    cells += ["", ""] if ours is None else [f"{ours:.3f}", f"{100 * least / ours:.0f}%"]
    return [*cells, "" if ours is None or peer is None else f"{peer / ours:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*ORDER, []], help="default: all")
    parser.add_argument("--batch", type=int, nargs="+", help="only these batch sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32", choices=["float32", "float32-fast"])
    parser.add_argument("--results", type=Path, help="results of run.py on this machine")
    args = parser.parse_args()
    results = {report.key(r): r["results"] for r in (report.read(args.results) if args.results else [])}
    probe = Probe(args.threads)
    probe.sample(60)
    rate = probe.limits().undisturbed_flops
    print(f"{args.threads} threads: {rate / 1e9:.0f} GFLOP/s\n\n| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
    for name in args.models or ORDER:
        for batch in args.batch or models.MODELS[name][2]:
            found = results.get((name, batch, args.threads), {})
            names = f"ingot-{args.precision}", fastest_peer(found, report.EXACT) or ""
            ours, peer = (median_ms(found, one) for one in names)
            print("| " + " | ".join(row(name, batch, args.precision, rate, ours, peer)) + " |", flush=True)


if __name__ == "__main__":
    main()
