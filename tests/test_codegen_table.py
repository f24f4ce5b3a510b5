"""Every operator through its lowering, on every target this CPU runs, against the references in float64."""

from __future__ import annotations

import numpy as np
import pytest
from ingot.codegen.assemble import assembly_text
from ingot.codegen.host import target_named
from ingot.codegen.llvm_emit import emit
from ingot.codegen.lower import table
from ingot.ir import dtypes
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph
from ingot.ir.layout import Layout
from ingot.ir.registry import OPS
from ingot.ir.types import TensorType
from kernel_harness import case_graph, check_case, host_targets
from op_cases import Case, cases, ops_with_cases

SEED = 20
CONTRACTIONS = {"matmul", "conv", "conv_transpose", "conv_weight_grad"}
TESTED_ELSEWHERE = {**dict.fromkeys(CONTRACTIONS, "test_codegen_contraction"), "constant": "has no kernel"}
OPERATORS = [op for op in ops_with_cases() if op not in {*TESTED_ELSEWHERE, *table.NOT_LOWERED}]


def defined(case: Case) -> bool:
    """Whether a narrow run can agree with the float64 reference at all."""
    if case.special and case.op == "cast":
        return case.attrs["dtype"].kind not in "iu"  # out of range: unspecified
    if case.special and case.op in ("sin", "cos", "tan"):
        return False  # arguments beyond the range of accuracy; test_codegen_vmath has the bounds
    return not (case.special and case.op == "prod")  # intermediate overflow depends on the order


def sample(op: str, share: int, only: tuple[dtypes.DType, ...] | None = None) -> list[Case]:
    return [c for c in cases(op, SEED, only) if defined(c)][::share]


@pytest.mark.parametrize("op", OPERATORS)
def test_float32_on_the_host(op: str) -> None:
    for k, case in enumerate(sample(op, 4, (dtypes.float32, dtypes.bool_))):
        check_case(case, host_targets()[-1], seed=k)


@pytest.mark.parametrize("op", OPERATORS)
def test_other_dtypes_on_the_host(op: str) -> None:
    others = tuple(d for d in dtypes.ALL if d not in (dtypes.float32, dtypes.bool_))
    every = [c for c in cases(op, SEED, others) if defined(c)]
    by_dtype: dict[str, list[Case]] = {}
    for c in every:
        by_dtype.setdefault(c.inputs[-1].dtype.name if c.inputs else str(c.attrs.get("dtype")), []).append(c)
    for k, found in enumerate(by_dtype.values()):
        check_case(found[(k * 7 + 3) % len(found)], host_targets()[-1], seed=k)


@pytest.mark.parametrize("op", OPERATORS)
def test_weaker_targets(op: str) -> None:
    for target in host_targets()[:-1]:
        found = sample(op, 1)
        for k, case in enumerate(found[:: max(1, len(found) // 2)]):
            check_case(case, target, seed=k)


@pytest.mark.parametrize("op", OPERATORS)
def test_compiles_for_aarch64(op: str) -> None:
    target = target_named("aarch64")
    found = sample(op, 1, (dtypes.float32,)) or sample(op, 1)
    _, node = case_graph(found[len(found) // 2])
    assert "ret" in assembly_text(emit(table.lower(node, target).function), target)


def test_every_operator_has_a_lowering_or_a_reason() -> None:
    assert set(OPS) == {*table.LOWERINGS, *table.NOT_LOWERED}
    assert not set(table.LOWERINGS) & set(table.NOT_LOWERED)
    assert all(table.NOT_LOWERED.values())


def test_refusals_name_the_node_and_the_reason() -> None:
    graph = Graph()
    value = graph.constant(np.zeros(3, np.float32))
    with pytest.raises(UnsupportedError, match=r"constant.*nothing is computed"):
        table.lower(value.producer, host_targets()[-1])
    case = next(iter(cases("max_pool", SEED, (dtypes.float32,))))
    _, node = case_graph(case, [Layout(blocks=((2, 4),))])
    assert "spatial" in (table.supports(node, host_targets()[-1]) or "")


def test_values_are_operands_and_results_in_order() -> None:
    case = Case("add", "", (np.ones((3, 4), np.float32), np.ones(4, np.float32)))
    _, node = case_graph(case)
    lowered = table.lower(node, host_targets()[-1])
    assert lowered.values == [*node.inputs, *node.outputs]
    assert lowered.inplace == {0: 0}
    assert node.output.type == TensorType(dtypes.float32, (3, 4))
