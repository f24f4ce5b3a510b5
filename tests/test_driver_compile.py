"""``ingot.compile`` with examples: frozen weights, structures, inputs of every kind, threads."""

from __future__ import annotations

import threading
from collections import namedtuple
from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import close, eager, images, mlp, net, rows
from ingot import nn
from ingot.ir.errors import InputError, UnsupportedError

Pair = namedtuple("Pair", ["first", "second"])


def test_numpy_gives_numpy_and_tensors_give_tensors() -> None:
    model, x = mlp(), rows(4)
    exe = ingot.compile(model, x)
    out = exe(x)
    assert type(out) is np.ndarray
    close(out, eager(model, x))
    tensor = exe(ingot.from_numpy(x))
    assert isinstance(tensor, ingot.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), out)
    assert "Sequential" in repr(exe) and "float32[4, 3]" in repr(exe)
    assert exe.report.compiled + exe.report.reused == len(exe.program.kernels) - 1
    assert {"trace", "passes", "kernels"} == set(exe.report.seconds)


def test_a_mixture_gives_tensors() -> None:
    exe = ingot.compile(lambda a, b: a + b, rows(2), rows(2, 1))
    assert isinstance(exe(rows(2), ingot.from_numpy(rows(2, 1))), ingot.Tensor)


def test_weights_are_frozen() -> None:
    model, x = mlp(), rows(3)
    exe = ingot.compile(model, x)
    before = exe(x)
    for p in model.parameters():
        p.data.fill_(7.0)
    np.testing.assert_array_equal(exe(x), before)


def test_eval_mode_while_tracing_and_every_mode_restored() -> None:
    seen = []

    class Watch(nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(self.training)
            return nn.functional.dropout(x, 0.5, self.training)

    model = nn.Sequential(Watch(), nn.BatchNorm1d(6), Watch())
    model[1].eval()
    x = rows(4)
    exe = ingot.compile(model, x)
    assert seen == [False, False]
    assert [m.training for m in model.modules()] == [True, True, False, True]
    close(exe(x), eager(model.eval(), x))


def test_modes_are_restored_after_a_failure() -> None:
    class Bad(nn.Module):
        def forward(self, x: Any) -> Any:
            raise KeyError("mine")

    model = nn.Sequential(Bad())
    with pytest.raises(KeyError, match="mine"):
        ingot.compile(model, rows(1))
    assert all(m.training for m in model.modules())
    close(ingot.compile(mlp(), rows(1))(rows(1)), eager(mlp(), rows(1)))  # and the next trace starts clean


def test_nested_structures_in_and_out() -> None:
    def model(batch: Any, pair: Any, scale: float) -> Any:
        a, b = batch["a"], batch["rest"][0]
        return {"sum": a + b, "list": [a * scale, (b, None)], "pair": Pair(pair.first - a, pair.second), "text": "kept"}

    a, b, c, d = (rows(2, s) for s in range(4))
    exe = ingot.compile(model, {"a": a, "rest": [b]}, Pair(c, d), 2.5)
    out = exe({"a": a, "rest": [b]}, Pair(c, d), 2.5)
    assert list(out) == ["sum", "list", "pair", "text"] and out["text"] == "kept"
    close(out["sum"], a + b)
    close(out["list"][0], a * np.float32(2.5))
    assert isinstance(out["list"], list) and isinstance(out["list"][1], tuple) and out["list"][1][1] is None
    assert isinstance(out["pair"], Pair)
    close(out["pair"].first, c - a)
    np.testing.assert_array_equal(out["pair"].second, d)
    turned = exe({"rest": [b], "a": a}, Pair(c, d), 2.5)  # the order of a dict means nothing
    np.testing.assert_array_equal(turned["list"][0], out["list"][0])
    for batch in ({"a": a, "rest": (b,)}, {"a": a}, {"a": a, "rest": [b], "more": a}, [a, b], {"a": 1.0, "rest": [b]}):
        with pytest.raises(InputError, match="structure"):
            exe(batch, Pair(c, d), 2.5)
    with pytest.raises(InputError, match="structure"):
        exe({"a": a, "rest": [b]}, (c, d), 2.5)
    with pytest.raises(InputError, match="structure"):
        exe({"a": a, "rest": [b]}, Pair(c, d), 3.0)


def test_keyword_inputs() -> None:
    def model(x: Any, *, mask: Any, bias: Any) -> Any:
        return ingot.where(mask, x, bias)

    x, bias = rows(3), rows(3, 1)
    mask = x > 0
    exe = ingot.compile(model, x, kwargs={"mask": mask, "bias": bias})
    np.testing.assert_array_equal(exe(x, bias=bias, mask=mask), np.where(mask, x, bias))
    with pytest.raises(InputError, match=r"\['mask'\] given; compiled for \['bias', 'mask'\]"):
        exe(x, mask=mask)
    with pytest.raises(InputError, match="compiled for"):
        exe(x, mask=mask, bias=bias, other=x)


def test_run_into() -> None:
    model, x = net().eval(), images(2)
    exe = ingot.compile(model, x)
    want, out = exe(x), np.zeros((2, 5), np.float32)
    assert exe.run_into(out, x) is None
    np.testing.assert_array_equal(out, want)
    tensor = ingot.zeros(2, 5)
    exe.run_into(tensor, ingot.from_numpy(x))
    np.testing.assert_array_equal(tensor.numpy(), want)
    for bad, message in [
        (np.zeros((2, 4), np.float32), r"expected float32\[2, 5\], got float32\[2, 4\]"),
        (np.zeros((2, 5), np.float64), r"expected float32\[2, 5\], got float64"),
        (np.zeros((5, 2), np.float32).T, "contiguous"),
        ([out], "structure"),
        (None, "structure"),
    ]:
        with pytest.raises(InputError, match=message):
            exe.run_into(bad, x)
    read_only = np.zeros((2, 5), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        exe.run_into(read_only, x)


def test_run_into_refuses_an_output_over_an_input() -> None:
    exe = ingot.compile(lambda x: {"twice": x * 2, "half": x / 2}, rows(4))
    memory = np.zeros((6, 6), np.float32)
    with pytest.raises(InputError, match="shares memory"):
        exe.run_into({"twice": memory[2:6], "half": np.zeros((4, 6), np.float32)}, memory[:4])
    same = np.zeros((4, 6), np.float32)
    with pytest.raises(InputError, match="shares memory"):
        exe.run_into({"twice": same, "half": same}, rows(4))
    out = {"twice": np.zeros((4, 6), np.float32), "half": np.zeros((4, 6), np.float32)}
    exe.run_into({"half": out["half"], "twice": out["twice"]}, rows(4))
    np.testing.assert_array_equal(out["half"], rows(4) / 2)


def test_scalars_and_empty_tensors() -> None:
    exe = ingot.compile(lambda a, b: a * b + 1, np.float32(2).reshape(()), np.float32(3).reshape(()))
    out = exe(np.array(2, np.float32), np.array(4, np.float32))
    assert out.shape == () and float(out) == 9.0
    assert float(exe(np.float32(5), np.float32(1))) == 6.0  # NumPy scalars count as 0-d arrays
    empty = ingot.compile(lambda x: (x * 2, x.sum()), np.zeros((0, 3), np.float32))
    doubled, total = empty(np.zeros((0, 3), np.float32))
    assert doubled.shape == (0, 3) and float(total) == 0.0


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "int8", "bool"])
def test_integer_and_bool_inputs(dtype: str) -> None:
    x = np.array([[0, 1, 1], [1, 0, 3]]).astype(dtype)

    def model(x: Any) -> Any:
        return (x if dtype == "bool" else x + x), x == x, x.float() * 0.5

    exe = ingot.compile(model, x)
    for got, want in zip(exe(x), model(ingot.from_numpy(x)), strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_array_equal(got, want.numpy())


def test_float64_models() -> None:
    model, x = mlp(ingot.float64), rows(3, dtype=np.float64)
    exe = ingot.compile(model, x)
    assert exe(x).dtype == np.float64
    close(exe(x), eager(model, x), 1e-13)
    with pytest.raises(InputError, match=r"input 'input'.*float64\[3, 6\].*float32"):
        exe(rows(3))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    model, x = net().eval(), images(17)
    one, two = (ingot.compile(model, x, threads=n)(x) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_several_threads_call_one_executable() -> None:
    model = net().eval()
    exe = ingot.compile(model, images(4), threads=2)
    inputs = [images(4, seed) for seed in range(6)]
    wanted = [exe(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(40):
            if not np.array_equal(exe(inputs[i]), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_wrong_inputs_are_named() -> None:
    exe = ingot.compile(lambda image, mask: image * mask, rows(2), rows(2))
    x = rows(2)
    for arguments, message in [
        ((x,), r"takes 2 positional inputs, got 1.*image: float32\[2, 6\], mask: float32\[2, 6\]"),
        ((x, x, x), "got 3"),
        ((x, rows(3)), r"input 'mask': expected float32\[2, 6\], got \[3, 6\]"),
        ((x, x[0]), r"input 'mask'.*1 axes"),
        ((x.astype(np.int64), x), r"input 'image': expected float32\[2, 6\], got int64"),
        ((x, None), "structure|mask"),
        ((x, [1.0, 2.0]), "structure|mask"),
    ]:
        with pytest.raises(InputError, match=message):
            exe(*arguments)
    turned = np.asfortranarray(x)
    np.testing.assert_array_equal(exe(turned, x[::1]), x * x)  # non-contiguous inputs are copied


class Elsewhere:
    """What another library's tensor looks like."""

    shape, device = (2, 6), "cuda:0"


def test_tensors_of_other_libraries_and_devices_are_refused() -> None:
    exe = ingot.compile(lambda image: image + 1, rows(2))
    with pytest.raises(InputError, match=r"input 'image'.*Elsewhere on device 'cuda:0'; convert it with"):
        exe(Elsewhere())
    with pytest.raises(InputError, match="Elsewhere"):
        ingot.compile(mlp())(Elsewhere())
    with pytest.raises(UnsupportedError, match="device 'cuda'"):
        ingot.from_numpy(rows(2)).to("cuda")


def test_compiled_code_is_not_traced() -> None:
    exe = ingot.compile(lambda x: x + 1, rows(2))
    with pytest.raises(InputError, match="input 'x' is a tensor of a running trace"):
        ingot.compile(lambda x: exe(x), rows(2))


def test_options_are_checked() -> None:
    x = rows(1)
    with pytest.raises(UnsupportedError, match="precision 'int4'"):
        ingot.compile(mlp(), x, precision="int4")
    with pytest.raises(ValueError, match="unknown target 'z80'"):
        ingot.compile(mlp(), x, target="z80")
    with pytest.raises(ValueError, match="threads"):
        ingot.compile(mlp(), x, threads=0)
    with pytest.raises(ValueError, match="dynamic needs examples"):
        ingot.compile(mlp(), dynamic=True)
    with pytest.raises(ingot.IngotError, match="unknown pass nonsense"):
        ingot.compile(mlp(), x, disable=["nonsense"])
    with pytest.raises(TypeError, match="colour"):
        ingot.compile(mlp(), x, colour="red")


def test_a_pass_can_be_left_out() -> None:
    model, x = net().eval(), images(2)
    plain = ingot.compile(model, x)
    bare = ingot.compile(model, x, disable=["fuse-contraction", "fuse-elementwise", "fold-batch-norm"])
    assert len(bare.program.steps) > len(plain.program.steps)
    close(bare(x), plain(x))


def test_dump_writes_numbered_graphs(tmp_path: Any) -> None:
    ingot.compile(net(), images(1), dump=tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names[0] == "00-input.txt" and any("fold-batch-norm" in n for n in names)


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int, str]] = []
    exe = ingot.compile(net(), images(1), progress=lambda *a: seen.append(a))
    assert [s[0] for s in seen] == list(range(len(exe.program.steps)))
    assert any("conv" in s[2] for s in seen)


def test_state_that_changes_in_eval_mode_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", ingot.zeros(1))

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return x * self.calls

    with pytest.raises(UnsupportedError, match=r"cannot be frozen(.|\n)*calls"):
        ingot.compile(Counter(), rows(1))


def test_two_threads_compile_one_model_and_leave_its_mode_alone() -> None:
    first_is_inside, second_has_begun = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            if not first_is_inside.is_set():
                first_is_inside.set()
                second_has_begun.wait(0.2)
            return self.drop(x)

    model, x, results = Slow(), rows(2), []

    def first() -> None:
        results.append(ingot.compile(model, x)(x))

    def second() -> None:
        first_is_inside.wait()
        results.append(ingot.compile(model, x)(x))
        second_has_begun.set()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 2 and all(np.array_equal(r, x) for r in results)
    assert model.training and model.drop.training


def test_functions_and_methods_are_compiled_in_eval_mode() -> None:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.BatchNorm1d(6)), rows(4)

    def body(x: Any) -> Any:
        return model(x) + x @ model[0].weight

    compiled = [ingot.compile(body, x), ingot.compile(model.forward, x)]
    assert all(m.training for m in model.modules())
    model.eval()
    close(compiled[0](x), eager(body, x))
    close(compiled[1](x), eager(model, x))


def test_an_argument_of_forward_may_have_a_parameters_name() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(ingot.ones(6) * 3)

        def forward(self, x: Any) -> Any:
            return x * self.x

    close(ingot.compile(Scale(), rows(2))(rows(2)), 3 * rows(2))
    close(ingot.compile(Scale())(rows(2)), 3 * rows(2))
