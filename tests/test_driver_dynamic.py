"""Symbolic extents: one compile for many batches, and what is refused."""

from __future__ import annotations

from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import close, eager, images, mlp, net, rows
from ingot.frontend.tracing import InputSpec
from ingot.ir.errors import DataDependentError, InputError

N = ingot.Dim("N", 1, 64)


@pytest.mark.parametrize("make", [mlp, net])
def test_one_compile_runs_at_every_batch(make: Any) -> None:
    model, data = make().eval(), rows if make is mlp else images
    exe = ingot.compile(model, data(2), dynamic=N)
    for n in (1, 3, 64, 2, 1, 64):
        close(exe(data(n, n)), eager(model, data(n, n)))
    for n in (0, 65):
        with pytest.raises(InputError, match=rf"N = {n} is outside its declared range \[1, 64\]"):
            exe(data(n))


@pytest.mark.parametrize("dynamic", [N, {0: N}, {-2: N}, {"input": {0: N}}, {0: {0: N}}, True, {"input": {0: N}}])
def test_forms(dynamic: Any) -> None:
    model = mlp()
    exe = ingot.compile(model, rows(2), dynamic=dynamic)
    for n in (1, 5):
        close(exe(rows(n)), eager(model, rows(n)))


def test_true_has_no_bound() -> None:
    model = net().eval()
    exe = ingot.compile(model, images(1), dynamic=True)
    for n in (1, 7, 200, 3):
        close(exe(images(n)), eager(model, images(n)))
    assert exe.program.dynamic  # such buffers lie outside the arena


def test_a_dim_shared_by_two_inputs_must_agree() -> None:
    exe = ingot.compile(lambda a, b: a + b, rows(2), rows(2), dynamic=N)
    np.testing.assert_array_equal(exe(rows(5), rows(5)), rows(5) * 2)
    with pytest.raises(InputError, match=r"input 'b'.*axis 0 must be 5 \(N = 5 from axis 0 of input 'a'\)"):
        exe(rows(5), rows(4))


def test_two_dims_in_one_input_and_specs() -> None:
    h = ingot.Dim("H", 2, 16)
    exe = ingot.compile(lambda x: (x.reshape(x.shape[0], -1), x.sum((0, 1))), InputSpec((N, h, 4)))
    for n, k in ((1, 2), (3, 16), (64, 5)):
        x = np.random.default_rng(n).standard_normal((n, k, 4)).astype(np.float32)
        flat, total = exe(x)
        np.testing.assert_array_equal(flat, x.reshape(n, -1))
        close(total, x.sum((0, 1)))


def test_nested_keyword_and_scalar_inputs() -> None:
    def model(batch: Any, *, scale: Any, extra: Any) -> Any:
        return (batch["a"] + batch["b"][0]) * scale + extra

    scale = np.array(2, np.float32)
    exe = ingot.compile(
        model, {"a": rows(2), "b": [rows(2)]}, kwargs={"scale": scale, "extra": rows(2)}, dynamic=N
    )  # an input without axes stays as it is
    x = rows(9)
    close(exe({"a": x, "b": [x]}, scale=scale, extra=x), x * 5)
    named = ingot.compile(
        model, {"a": rows(2), "b": [rows(2)]}, kwargs={"scale": scale, "extra": rows(1)}, dynamic={"batch": {0: N}}
    )
    close(named({"a": x, "b": [x]}, scale=scale, extra=x[:1]), x * 4 + x[:1])


def test_wrong_forms() -> None:
    for dynamic, error, message in [
        ({"image": {0: N}}, ValueError, r"\['image'\]; the inputs are \['input'\]"),
        ({3: {0: N}}, ValueError, "the inputs are"),
        ({2: N}, ValueError, "input 'input' has no axis 2"),
        ({"input": {0: 5}}, TypeError, "must be a Dim, not int"),
    ]:
        with pytest.raises(error, match=message):
            ingot.compile(mlp(), rows(2), dynamic=dynamic)
    with pytest.raises(ValueError, match="two different Dims called 'N'"):
        ingot.compile(lambda a, b: (a, b), InputSpec((N,)), InputSpec((ingot.Dim("N", 1, 8),)))


def test_control_flow_on_a_size_names_the_line() -> None:
    def model(x: Any) -> Any:
        return x * 2 if x.shape[0] > 3 else x

    with pytest.raises(DataDependentError, match=r"test_driver_dynamic\.py:\d+"):
        ingot.compile(model, rows(2), dynamic=N)
    close(ingot.compile(model, rows(4))(rows(4)), rows(4) * 2)  # fine where the size is known


def test_threads_give_the_same_bits_at_every_batch() -> None:
    model = net().eval()
    one, two = (ingot.compile(model, images(1), dynamic=N, threads=t) for t in (1, 2))
    for n in (1, 5, 33):
        np.testing.assert_array_equal(one(images(n)), two(images(n)))
