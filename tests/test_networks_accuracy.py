"""Compiled networks against the float64 oracle, onnxruntime being the measure; targets, threads, batch sizes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import onnx
import pytest
from ingot import nn
from ingot.ir.dtypes import float32, tolerance
from networks import LARGE, SMALL, example, oracle, relative_error, runnable_targets, seeded


def names(quick: Iterable[str], slow: Iterable[str]) -> list[Any]:
    return [*quick, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


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


@pytest.mark.parametrize("name", names(SMALL, LARGE))
def test_as_near_to_the_oracle_as_onnxruntime(name: str, tmp_path: Path) -> None:
    model, x, wanted = case(name, 1 if name in LARGE else 2)
    ours = relative_error(ingot.compile(model, x)(x), wanted)
    assert ours <= WITHOUT_ORT, f"{name}: relative error {ours:.2e}"
    session = onnxruntime_session(model, x, tmp_path / "model.onnx")
    theirs = relative_error(session.run(None, {"x": x})[0], wanted)
    print(f"{name}: relative error {ours:.2e}, onnxruntime {theirs:.2e}")
    assert ours <= max(2 * theirs, FLOOR), f"{name}: relative error {ours:.2e}, onnxruntime's is {theirs:.2e}"


@pytest.mark.parametrize("name", names(SMALL, LARGE))
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
@pytest.mark.parametrize("name", names(["mlp", "lenet", "mobilenet_thin", "encoder_small"], ["resnet20", "unet_small"]))
def test_every_target_of_this_cpu(name: str, target: str) -> None:
    model, x, wanted = case(name)
    exe = ingot.compile(model, x, target=target)
    assert exe.program.target_name == target
    assert relative_error(exe(x), wanted) <= WITHOUT_ORT


@pytest.mark.parametrize("name", SMALL)
def test_calls_and_threads_do_not_change_a_bit(name: str) -> None:
    model, x, _ = case(name)
    exe = ingot.compile(model, x, threads=1)
    first = exe(x)
    exe(-x)  # leaves other values in the arena
    assert np.array_equal(first, exe(x)), f"{name}: a call depends on the one before"
    two = ingot.compile(model, x, threads=2)(x)
    assert np.array_equal(first, two), f"{name}: {np.count_nonzero(first != two)} of {two.size} elements differ"


def test_operands_that_are_one_repeated_number() -> None:
    """Such a constant has no memory of its own, in elementwise and reduction kernels alike."""

    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = nn.Parameter(ingot.full((48,), 0.3)), nn.Parameter(ingot.full((48,), 0.7))
            self.norm = nn.LayerNorm(48)

        def forward(self, x: Any) -> Any:
            return ingot.relu(x * self.scale + self.shift), self.norm(x) * self.scale + self.shift

    model, x = Affine(), np.random.default_rng(0).standard_normal((2, 21, 48)).astype(np.float32)
    rtol, atol = tolerance(float32, depth=48)
    for found, wanted in zip(ingot.compile(model, x)(x), model(ingot.from_numpy(x)), strict=True):
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=rtol, atol=atol)


def test_outputs_that_are_views() -> None:
    """A reshape of a result shares its memory; a reshape of an input is copied."""

    class Views(nn.Module):
        def forward(self, x: Any) -> Any:
            y = ingot.relu(x)
            return y.view(-1), y, x.view(6), (x + 1).view(3, 2)

    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    for found, wanted in zip(ingot.compile(Views(), x)(x), Views()(ingot.from_numpy(x)), strict=True):
        assert np.array_equal(found, wanted.numpy())


@pytest.mark.parametrize("name", names(["lenet", "resnet20", "encoder_small"], ["unet_small", "mobilenet_thin"]))
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
