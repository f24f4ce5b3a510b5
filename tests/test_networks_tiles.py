"""Networks on bfloat16 units, tiles emulated: the error of each precision for whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.codegen import layouts
from ingot.codegen.host import host_target
from ingot.ir.graph import Node
from ingot.ir.kernels import LayoutChoice
from ingot.ir.target import Target
from networks import example, oracle, relative_error, seeded
from tile_harness import dot_target, emulated_target

pytestmark = [
    pytest.mark.isa("x86_64"),
    pytest.mark.skipif(not set(host_target().features) >= {"avx2", "fma"}, reason="needs AVX2"),
]
BOUNDS = {"float32-fast": 1e-5, "bfloat16": 5e-3}  # relative L2 against float64; measured: 8.1e-6 and 3.6e-3 at most
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mlp", "resnet20", "mobilenet_thin", "unet_small")]


@pytest.mark.parametrize(
    ("unit", "precision"), [("tiles", "float32-fast"), ("tiles", "bfloat16"), ("dot products", "bfloat16")]
)
@pytest.mark.parametrize("name", ["lenet", "encoder_small", *SLOW])
def test_error_of_a_network(name: str, unit: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as the cost rule chooses, once with every layer on the unit that can be."""
    model, x = seeded(name), example(name, 2)
    target = emulated_target() if unit == "tiles" else dot_target()
    wanted, rule = oracle(model, x), layouts.tile_choices

    def free(node: Node, target: Target, precision: str) -> list[LayoutChoice]:
        return [replace(choice, cost=0.0) for choice in rule(node, target, precision)]

    used = []
    for choices in (rule, free):
        monkeypatch.setattr(layouts, "tile_choices", choices)
        exe: Any = ingot.compile(model, x, target=target, precision=precision, cache=False, threads=2)
        error = relative_error(np.asarray(exe(x)), wanted)
        notes = [exe.program.kernels[step.kernel].description for step in exe.program.steps]
        used.append(sum(f"bfloat16 {unit}" in note for note in notes))
        print(f"{name}, {precision}: relative error {error:.2e}, {used[-1]} of {len(notes)} kernels on {unit}")
        assert error <= BOUNDS[precision]
    assert used[1] >= max(used[0], 3)
