"""The errors of every precision on every benchmark model beside those of onnxruntime and PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import run  # noqa: E402  found through the line above
from ingot.measure.systems import peer_systems  # noqa: E402

# Many kernels add up; a precision promises errors per kernel.
BOUNDS = {"ingot-float32-fast": 1e-4, "ingot-bfloat16": 5e-2}


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", run.ORDER)
def test_errors_are_those_of_the_precision(name: str) -> None:
    """Float32: at most 1.5 times the worse of onnxruntime's and torch's."""
    missing = [s.obstacle() for s in peer_systems(["onnxruntime", "torch"]) if not s.huge_pages and s.obstacle()]
    if missing:
        pytest.skip(str(missing[0]))
    row = run.measure_row(name, 1, 2, run.oracle(name), ["onnxruntime", "torch"], 0.0, 0.0)
    errors = {system: entry.get("l2_error") for system, entry in row["results"].items()}
    assert None not in errors.values(), row["results"]
    assert errors["ingot-float32"] <= 1.5 * max(errors["onnxruntime"], errors["torch"]), errors
    for system, bound in BOUNDS.items():
        assert errors[system] <= bound, errors
