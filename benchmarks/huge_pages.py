"""What huge pages give: the benchmark models with arena and weights on huge and on normal pages, in turns.

    python benchmarks/huge_pages.py [model ...] [--batch 1 16] [--threads 2] [--seconds 3]

Prints a markdown table. ``huge MiB``: memory that the system really gave as huge pages.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import models
from ingot.measure import comparison
from ingot.measure.systems import System
from run import ORDER, request_for, spec_of

HUGE = System("huge", "huge pages", "ingot", settings={"precision": "float32"})
NORMAL = System("normal", "normal pages", "ingot", settings=HUGE.settings, variables={"INGOT_HUGE_PAGES": "0"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*ORDER, []], help="default: all")
    parser.add_argument("--batch", type=int, nargs="+", help="only these batch sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure, per model and kind of pages")
    args = parser.parse_args()
    print("| model | batch | huge pages ms | normal pages ms | ratio | huge MiB |\n|" + " --- |" * 6)
    for name in args.models or ORDER:
        for batch in args.batch or models.MODELS[name][2]:
            with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
                subject = comparison.prepare(request_for(name, batch), spec_of(models.MODELS[name][0]), Path(folder),
                                             threads=args.threads, oracle=False)  # fmt: skip
                found = comparison.compare(subject, [HUGE, NORMAL], seconds=args.seconds)
            huge, normal = (found[s.name]["median_ms"] for s in (HUGE, NORMAL))
            given = found["huge"]["facts"].get("huge_page_mib", 0.0)
            print(f"| {name} | {batch} | {huge:.3f} | {normal:.3f} | {normal / huge:.2f} | {given:.0f} |", flush=True)


if __name__ == "__main__":
    main()
