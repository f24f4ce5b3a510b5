"""Compiled networks against the float64 oracle, onnxruntime being the measure; targets, threads, batch sizes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import onnx
import pytest
from ingot.ir.dtypes import float32, tolerance
from networks import LARGE, SMALL, example, oracle, relative_error, runnable_targets, seeded

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in LARGE]
# Where onnxruntime is not installed, or happens to be exact to the last bit: a few roundings of the result.
FLOOR = 4 * float32.eps
WITHOUT_ORT = 16 * float32.eps


@functools.cache
def case(name: str, batch: int = 2) -> tuple[Any, np.ndarray, np.ndarray]:
    """(model, input, float64 result)."""
    model, x = seeded(name), example(name, batch)
    return model, x, oracle(model, x)


def onnxruntime_session(model: Any, x: np.ndarray, path: Path) -> Any:
    ort = pytest.importorskip("onnxruntime")
    ingot.onnx.export(
        model, ingot.from_numpy(x), path, ["x"], ["y"], dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}}
    )
    onnx.checker.check_model(str(path), full_check=True)
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", [*SMALL, *SLOW])
def test_as_near_to_the_oracle_as_onnxruntime(name: str, tmp_path: Path) -> None:
    model, x, wanted = case(name, 1 if name in LARGE else 2)
    ours = relative_error(ingot.compile(model, x)(x), wanted)
    assert ours <= WITHOUT_ORT, f"{name}: relative error {ours:.2e}"
    session = onnxruntime_session(model, x, tmp_path / "model.onnx")
    theirs = relative_error(session.run(None, {"x": x})[0], wanted)
    print(f"{name}: relative error {ours:.2e}, onnxruntime {theirs:.2e}")
    assert ours <= max(2 * theirs, FLOOR), f"{name}: relative error {ours:.2e}, onnxruntime's is {theirs:.2e}"


@pytest.mark.parametrize("name", [*SMALL, *SLOW])
def test_onnxruntime_gives_the_same_at_two_batch_sizes(name: str, tmp_path: Path) -> None:
    model, x, _ = case(name, 1 if name in LARGE else 2)
    session = onnxruntime_session(model, x, tmp_path / "model.onnx")
    exe = ingot.compile(model, x, dynamic=ingot.Dim("N", 1, 8))
    rtol, atol = tolerance(float32, depth=2048)
    for batch in (1, 2) if name in LARGE else (1, 5):
        given = example(name, batch)
        (theirs,) = session.run(None, {"x": given})
        scale = float(np.abs(theirs).max())
        np.testing.assert_allclose(exe(given), theirs, rtol=rtol, atol=atol * scale, err_msg=f"{name}, batch {batch}")


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize("name", SMALL)
def test_every_target_of_this_cpu(name: str, target: str) -> None:
    model, x, wanted = case(name)
    exe = ingot.compile(model, x, target=target)
    assert exe.program.target_name == target
    assert relative_error(exe(x), wanted) <= WITHOUT_ORT


@pytest.mark.parametrize("name", SMALL)
def test_threads_do_not_change_a_bit(name: str) -> None:
    model, x, _ = case(name)
    one, two = (ingot.compile(model, x, threads=n)(x) for n in (1, 2))
    assert np.array_equal(one, two), f"{name}: {np.count_nonzero(one != two)} of {one.size} elements differ"


@pytest.mark.parametrize("name", SMALL)
def test_runs_repeat_to_the_bit(name: str) -> None:
    model, x, _ = case(name)
    exe = ingot.compile(model, x)
    first = exe(x)
    assert all(np.array_equal(first, exe(x)) for _ in range(3))


@pytest.mark.parametrize("name", ["lenet", "resnet20", "encoder_small", "unet_small", "mobilenet_thin"])
def test_one_compile_for_every_batch(name: str) -> None:
    """A declared batch runs at both ends of its range and between, and gives what a compile for that batch gives."""
    model = seeded(name)
    exe = ingot.compile(model, example(name, 2), dynamic=ingot.Dim("N", 1, 64))
    rtol, atol = tolerance(float32, depth=512)
    for batch in (64, 1, 3):  # from large to small: nothing of a larger batch may be left over
        x = example(name, batch)
        fixed = ingot.compile(model, x)(x)
        found = exe(x)
        np.testing.assert_allclose(found, fixed, rtol=rtol, atol=atol * float(np.abs(fixed).max()))
    for batch in (0, 65):
        with pytest.raises(ingot.IngotError, match="N"):
            exe(example(name, 65)[:batch] if batch else example(name, 1)[:0])
