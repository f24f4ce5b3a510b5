"""Kernels of scans and of sort: lengths known at run time, results nobody wants, refusals; whole functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ingot as torch
import numpy as np
import pytest
from ingot.codegen.lower import sorting, table
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.graph import Graph
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from kernel_harness import case_graph, check_case, host_targets, run_kernel
from op_cases import Case

targets = pytest.mark.parametrize("target", host_targets(), ids=lambda t: t.name)
SEED = 11


@targets
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["cumsum", "cummax", "sort"])
def test_long_axes(op: str, axis: int, target: Target) -> None:
    x = np.random.default_rng(SEED).standard_normal((1000, 37)).astype(np.float32)
    check_case(Case(op, f"seed {SEED}", (x,), {"axis": axis}, depth=x.shape[axis]), target)


def test_scans_write_over_their_operand() -> None:
    x = np.ones((3, 5), np.float32)
    assert check_case(Case("cumsum", "", (x,), {"axis": 1}), host_targets()[-1]).inplace == {0: 0}
    assert check_case(Case("sort", "", (x,), {"axis": 1}), host_targets()[-1]).inplace == {}


def test_sixteen_bit_sums_round_once() -> None:
    x = np.full((1, 2049), 2.0**-11, np.float16)
    x[0, 0] = 1  # each of the others would be lost beside it
    _, node = case_graph(Case("cumsum", "", (x,), {"axis": 1}))
    out = run_kernel(table.lower(node, host_targets()[-1]), {node.inputs[0]: x})[node.output]
    assert out[0, -1] == 2


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64])
def test_lengths_known_at_run_time(length: int) -> None:
    rng = np.random.default_rng(SEED)
    x = rng.integers(0, 9, (length, 3)).astype(np.float32)

    def fn(x: torch.Tensor) -> tuple:
        return (*torch.sort(x, 0, descending=True), *torch.cummax(x, 0), torch.cumsum(x, 0), torch.median(x, 0)[0])

    exe = torch.compile(fn, np.zeros((5, 3), np.float32), dynamic={"x": {0: Dim("N", 1, 64)}})
    for got, want in zip(exe(x), fn(torch.from_numpy(x)), strict=True):
        np.testing.assert_array_equal(got, want.numpy(), err_msg=f"seed {SEED}")


def test_an_axis_without_bound_cannot_be_sorted_but_scanned() -> None:
    graph = Graph()
    x = graph.add_input(TensorType(dtypes.float32, (Dim("N", 0, 2**30).expr,)), "x")
    g = GraphBuilder(graph)
    values, _ = g.sort(x, axis=0)
    reason = table.supports(values.producer, host_targets()[-1])
    assert reason is not None and str(sorting.LONGEST) in reason
    assert table.supports(g.cumsum(x, axis=0).producer, host_targets()[-1]) is None


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "topk": lambda x: tuple(torch.topk(x, 3, 1)),
    "argsort": lambda x: torch.argsort(x, 0),
    "kthvalue": lambda x: tuple(torch.kthvalue(x, 2, 1)),
    "mode": lambda x: tuple(torch.mode(torch.round(x), 1)),
    "median of all": lambda x: torch.median(x),
    "nanmedian": lambda x: torch.nanmedian(torch.where(x > 0.5, float("nan"), x), 1)[0],
    "quantile": lambda x: torch.quantile(x, torch.tensor([0.1, 0.5]), 1),
    "searchsorted": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])),
    "isin": lambda x: torch.isin(torch.round(x), torch.tensor([1.0, -1.0])),
    "histc": lambda x: torch.histc(x, 5, -2, 2),
    "cumprod": lambda x: torch.cumprod(x, 1),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 0),
    "logsumexp": lambda x: torch.logsumexp(x, (0, 1)),
    "gradient": lambda x: torch.gradient(x, dim=1)[0],
    "trapezoid": lambda x: torch.trapezoid(x, dx=0.5),
    "cdist": lambda x: torch.cdist(x, x, p=3),
    "pdist": lambda x: torch.pdist(x),
    "corrcoef": lambda x: torch.corrcoef(x),
    "renorm": lambda x: torch.renorm(x, 2, 0, 1.5),
    "std_mean": lambda x: torch.std_mean(x, 1),
    "nanmean": lambda x: torch.nanmean(torch.where(x > 0.5, float("nan"), x), 1),
    "aminmax": lambda x: tuple(torch.aminmax(x, dim=0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_functions_agree_with_eager_ones(name: str) -> None:
    x = np.random.default_rng(SEED).standard_normal((6, 9)).astype(np.float32)
    fn = FUNCTIONS[name]
    got, want = torch.compile(fn, x)(x), fn(torch.from_numpy(x))
    got, want = (v if isinstance(v, tuple) else (v,) for v in (got, want))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w.numpy(), rtol=2e-5, atol=2e-6, err_msg=f"seed {SEED}")


@pytest.mark.parametrize(
    "loss",
    [lambda y: torch.sort(y, 1)[0][:, 1:3].sum(), lambda y: torch.cumprod(y, 1).sum(),
     lambda y: torch.logcumsumexp(y, 0).sum(), lambda y: torch.cummax(y, 1)[0].sum(), lambda y: torch.std(y, 1).sum()],
    ids=["sort", "cumprod", "logcumsumexp", "cummax", "std"],
)  # fmt: skip
def test_training_steps_go_through_scans_and_sort(loss: Callable[[Any], Any]) -> None:
    torch.manual_seed(SEED)
    x = torch.randn(4, 5)
    layers = [torch.nn.Linear(5, 6), torch.nn.Linear(5, 6)]
    layers[1].load_state_dict(layers[0].state_dict())
    step = torch.compile_step(
        layers[0], lambda y, t: loss(y) + 0 * t.sum(), torch.optim.SGD(layers[0].parameters(), lr=0.1)
    )
    optimizer = torch.optim.SGD(layers[1].parameters(), lr=0.1)
    for _ in range(2):
        step(x, torch.zeros(4, 6))
        optimizer.zero_grad()
        loss(layers[1](x)).backward()
        optimizer.step()
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-4, atol=1e-5)
