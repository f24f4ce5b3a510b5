"""ConvTranspose1d/2d/3d and their functions against PyTorch: values, gradients, output_size, names, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.codegen.host import target_named
from ingot.ir.dims import Dim
from layer_parity import check_compiled, check_onnx, check_training, close, copy_state, values

torch = pytest.importorskip("torch")
F, TF = nn.functional, torch.nn.functional
pytestmark = pytest.mark.parity

# rank, (C, O, kernel), options, spatial extents
CASES: list[tuple[int, tuple[int, int, Any], dict[str, Any], tuple[int, ...]]] = [
    (1, (3, 5, 4), {}, (7,)),
    (1, (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "bias": False}, (9,)),
    (1, (4, 2, 3), {"stride": 2, "dilation": 3, "output_padding": 2}, (5,)),
    (2, (16, 32, 2), {"stride": 2}, (6, 7)),
    (2, (5, 16, 4), {"stride": 2, "padding": 1}, (5, 6)),
    (2, (16, 8, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (4, 9)),
    (2, (6, 4, (3, 5)), {"stride": (1, 3), "padding": (2, 1), "output_padding": (0, 2), "groups": 2}, (5, 4)),
    (2, (17, 17, 3), {"stride": 2, "padding": 1, "groups": 17}, (5, 5)),
    (2, (4, 3, 3), {"dilation": (2, 1), "padding": (3, 0), "stride": (2, 2), "output_padding": (1, 1)}, (4, 4)),
    (2, (3, 4, 1), {"stride": 3, "output_padding": 2}, (3, 3)),
    (3, (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (3, 2, 4)),
    (3, (16, 16, (1, 2, 2)), {"stride": (1, 2, 2)}, (2, 3, 3)),
]


def pair_of(rank: int, args: tuple[int, int, Any], options: dict[str, Any]) -> tuple[Any, Any]:
    name = f"ConvTranspose{rank}d"
    mine, twin = getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    copy_state(mine, twin)
    return mine, twin


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eager_and_repr(case: Any) -> None:
    rank, args, options, extents = case
    mine, twin = pair_of(rank, args, options)
    assert repr(mine) == repr(twin)
    for lead, dtype in itertools.product(((2,), ()), (np.float32, np.float64)):
        x = values((*lead, args[0], *extents), 3, dtype)
        ours, theirs = (mine.double(), twin.double()) if dtype is np.float64 else (mine.float(), twin.float())
        close(ours(ingot.from_numpy(x)), theirs(torch.from_numpy(x)), what=f"{case} {lead} {dtype}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled(case: Any) -> None:
    rank, args, options, extents = case
    mine, twin = pair_of(rank, args, options)
    check_compiled(mine, twin, values((2, args[0], *extents), 4))


def test_compiled_with_a_free_batch_and_on_weaker_targets() -> None:
    mine, twin = pair_of(2, (16, 32, 4), {"stride": 2, "padding": 1})
    exe = ingot.compile(mine.eval(), ingot.InputSpec((Dim("N", 1, 4), 16, 5, 6)))
    for n in (1, 3):
        x = values((n, 16, 5, 6), n)
        close(exe(x), twin(torch.from_numpy(x)))
    for name in ("x86-64", "x86-64-avx2"):
        check_compiled(mine, twin, values((1, 16, 5, 6)), target=target_named(name))
    batchless = values((16, 5, 6), 8)
    check_compiled(mine, twin, batchless)


@pytest.mark.parametrize("case", [CASES[1], CASES[5], CASES[7], CASES[10]], ids=str)
def test_training_step(case: Any) -> None:
    rank, args, options, extents = case
    check_training(lambda lib: getattr(lib, f"ConvTranspose{rank}d")(*args, **options), values((2, args[0], *extents)))


@pytest.mark.parametrize("case", CASES[:2] + CASES[3:8] + CASES[9:], ids=str)
def test_onnx(case: Any, tmp_path: Path) -> None:
    rank, args, options, extents = case
    model = check_onnx(pair_of(rank, args, options)[0], values((3, args[0], *extents)), tmp_path)
    assert [n.op_type for n in model.graph.node] == ["ConvTranspose"]  # the bias is an operand


def test_output_size() -> None:
    mine, twin = pair_of(2, (4, 3, 3), {"stride": 3, "padding": 1})
    x = values((2, 4, 5, 6))
    for size in ([13, 17], [14, 18], [15, 16], [2, 3, 13, 16]):
        close(mine(ingot.from_numpy(x), size), twin(torch.from_numpy(x), size))
    close(mine(ingot.from_numpy(x[0]), [3, 14, 17]), twin(torch.from_numpy(x[0]), [3, 14, 17]))
    for size in ([12, 16], [13, 19], [13]):
        with pytest.raises(ValueError) as ours:
            mine(ingot.from_numpy(x), size)
        with pytest.raises(ValueError) as theirs:
            twin(torch.from_numpy(x), size)
        assert str(ours.value)[:40] == str(theirs.value)[:40]
    exe = ingot.compile(lambda x: mine(x, output_size=[14, 18]), ingot.from_numpy(x))
    close(exe(x), twin(torch.from_numpy(x), [14, 18]))


def test_functions() -> None:
    x, w, b = values((2, 6, 7)), values((6, 2, 3), 1), values((4,), 2)
    for bias, *rest in ((None,), (b[:2],), (None, 2), (b, (2,), 1, 1, 2, 1), (b, 1, 0, 0, 2)):
        ours = F.conv_transpose1d(*(None if a is None else ingot.from_numpy(a) for a in (x, w, bias)), *rest)
        theirs = TF.conv_transpose1d(*(None if a is None else torch.from_numpy(a) for a in (x, w, bias)), *rest)
        close(ours, theirs)


def test_initialisation_has_pytorchs_bounds() -> None:
    ingot.manual_seed(0)
    layer = nn.ConvTranspose2d(64, 32, 3, groups=2)
    bound = 1 / np.sqrt(16 * 9)
    for p in (layer.weight.detach(), layer.bias.detach()):
        assert abs(p.numpy()).max() <= bound and abs(p.numpy()).max() > 0.8 * bound
    assert layer.weight.detach().numpy().std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


BAD_MODULES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((4, 4, 3), {"padding_mode": "reflect"}),
    ((4, 4, 3), {"padding_mode": "nonsense"}),
    ((4, 4, 3), {"groups": 3}),
    ((6, 4, 3), {"groups": 3}),
    ((4, 4, 3), {"groups": 0}),
]


@pytest.mark.parametrize("case", BAD_MODULES, ids=str)
def test_module_errors(case: Any) -> None:
    args, options = case
    with pytest.raises(ValueError) as theirs:
        torch.nn.ConvTranspose2d(*args, **options)
    with pytest.raises(ValueError) as ours:
        nn.ConvTranspose2d(*args, **options)
    assert str(ours.value) == str(theirs.value)


BAD_CALLS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 4, 4), (4, 2, 3, 3), {}),
    ((4, 4), (4, 2, 3, 3), {}),
    ((2, 4, 4, 4), (4, 2, 3, 3), {"output_padding": 1}),
    ((2, 4, 4, 4), (4, 2, 3, 3), {"output_padding": 2, "stride": 2}),
    ((2, 4, 4, 4), (4, 2, 3, 3), {"padding": -1}),
    ((2, 4, 4, 4), (4, 2, 3, 3), {"stride": 0}),
    ((2, 4, 4, 4), (4, 2, 3, 3), {"groups": 3}),
]


@pytest.mark.parametrize("case", BAD_CALLS, ids=str)
def test_function_errors(case: Any) -> None:
    x, w, options = case
    with pytest.raises(RuntimeError) as theirs:
        TF.conv_transpose2d(torch.zeros(x), torch.zeros(w), **options)
    with pytest.raises((RuntimeError, ValueError)) as ours:
        F.conv_transpose2d(ingot.zeros(*x), ingot.zeros(*w), **options)
    assert str(ours.value)[:24] == str(theirs.value)[:24]
