"""Gradients of single operators as short programs.

The gradient rules in the operator records are written against a graph builder. For an eager operation its rule is run
once per signature (operator, attributes, operand types, operands that need a gradient) on a graph of that one node;
what remains after removing what nobody needs is a list of operators, replayed on tensors by ``nodes.OpNode``.
The same list says which operands and results have to be saved.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import registry
from ...ir.builder import GraphBuilder
from ...ir.differentiate import gradients
from ...ir.errors import UnsupportedError
from ...ir.graph import Graph, Value
from ...ir.types import TensorType

Slot = int  # a place in the table of values that a replay fills


@dataclass(frozen=True)
class Step:
    """One operator: where its operands are and where its results go."""

    op: str
    operands: tuple[Slot, ...]
    attrs: dict[str, Any]
    results: tuple[Slot, ...]


@dataclass(frozen=True)
class Program:
    """The gradient of one operator.

    Slots: the operands, then the results, then the gradients of the results, then what steps and constants fill.

    Attributes:
        inputs, outputs: numbers of operands and results of the operator.
        slots: how many there are; constants: their values by slot.
        steps: in order; wanted: per operand the slot of its gradient, None where none is needed.
        saved_inputs, saved_outputs: operands and results that the steps read.
        fresh: per operand, whether its gradient is a new array that nobody else holds.
    """

    inputs: int
    outputs: int
    slots: int
    constants: tuple[tuple[Slot, np.ndarray], ...]
    steps: tuple[Step, ...]
    wanted: tuple[Slot | None, ...]
    saved_inputs: tuple[int, ...]
    saved_outputs: tuple[int, ...]
    fresh: tuple[bool, ...]


class NoGradient(Exception):
    """The operator has no gradient rule; the text says which."""


def program(
    op: str, attrs: dict[str, Any], types: Sequence[TensorType], needs: Sequence[bool], given: Sequence[bool] | None
) -> Program:
    """The gradient of ``op`` for those operands that ``needs`` names.

    ``given``: the results that have a gradient (None: all floating ones). NoGradient if there is no rule.
    """
    return _cached(_Key(op, attrs), tuple(types), tuple(needs), None if given is None else tuple(given))


class _Key:
    """An operator with its attributes, hashable: arrays (of constants) never are operands of a differentiated node."""

    __slots__ = ("attrs", "hash", "op", "parts")

    def __init__(self, op: str, attrs: dict[str, Any]) -> None:
        self.op, self.attrs = op, attrs
        # By type as well: 0.0, 0 and False are equal.
        self.parts = (op, *((k, type(v), v) for k, v in attrs.items()))
        self.hash = hash(self.parts)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.parts == other.parts


@functools.lru_cache(8192)
def _cached(
    key: _Key, types: tuple[TensorType, ...], needs: tuple[bool, ...], given: tuple[bool, ...] | None
) -> Program:
    return _build(key.op, key.attrs, types, needs, given)


def _build(
    op: str, attrs: dict[str, Any], types: Sequence[TensorType], needs: Sequence[bool], given: Sequence[bool] | None
) -> Program:
    graph = Graph(f"{op}_gradient")
    operands = [graph.add_input(t, f"x{i}", "input") for i, t in enumerate(types)]
    builder = GraphBuilder(graph)
    node = builder.emit(op, operands, **attrs)
    results = list(node.outputs)
    grads = [graph.add_input(r.type, f"d{i}", "input") for i, r in enumerate(results)]
    through = [
        i for i, r in enumerate(results) if r.dtype.is_floating_point and (given is None or given[i])
    ]
    wrt = [x for x, need in zip(operands, needs, strict=True) if need]
    try:
        found = gradients(graph, [results[i] for i in through], wrt, grad_outputs=[grads[i] for i in through])
    except UnsupportedError as error:
        raise NoGradient(str(error)) from None
    return _flatten(graph, operands, results, grads, wrt, found, needs)


def _flatten(
    graph: Graph,
    operands: list[Value],
    results: list[Value],
    grads: list[Value],
    wrt: list[Value],
    found: list[Value],
    needs: Sequence[bool],
) -> Program:
    slots: dict[Value, Slot] = {v: i for i, v in enumerate((*operands, *results, *grads))}
    live = set()
    stack = list(found)
    while stack:
        producer = stack.pop().producer
        # The operator's own results are saved, not computed again.
        if producer is not None and producer not in live and producer.outputs[0] not in slots:
            live.add(producer)
            stack.extend(producer.inputs)
    constants, steps, used = [], [], set(found)
    for node in graph:
        if node not in live:
            continue
        for v in node.outputs:
            slots[v] = len(slots)
        if node.op == "constant":
            constants.append((slots[node.output], node.output.constant))
            continue
        used.update(node.inputs)
        steps.append(
            Step(node.op, tuple(slots[v] for v in node.inputs), dict(node.attrs), tuple(slots[v] for v in node.outputs))
        )
    by_operand = iter(found)
    wanted = tuple(slots[next(by_operand)] if need else None for need in needs)
    return Program(
        len(operands), len(results), len(slots), tuple(constants), tuple(steps), wanted,
        tuple(i for i, v in enumerate(operands) if v in used),
        tuple(i for i, v in enumerate(results) if v in used),
        _fresh(steps, wanted),
    )  # fmt: skip


_ALIASING = frozenset({"reshape", "permute", "expand", "slice", "strided_view", "bitcast", "identity"})


def _fresh(steps: Sequence[Step], wanted: Sequence[Slot | None]) -> tuple[bool, ...]:
    """Per gradient, whether its memory is new and held by nothing else: neither a view nor viewed, and not shared by
    several operands."""
    made = {slot for step in steps if step.op not in _ALIASING for slot in step.results}
    for step in steps:
        if step.op in _ALIASING:
            made.difference_update(step.operands)
    return tuple(w in made and list(wanted).count(w) == 1 for w in wanted)


def is_differentiable(op: str) -> bool:
    """Whether results of ``op`` may have a history at all (integer results and random numbers have none)."""
    record = registry.get(op)
    return record.vjp is not None or record.decompose is not None
