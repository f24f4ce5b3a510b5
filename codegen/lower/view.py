"""A single node and a fused group seen alike: which values a kernel reads and writes, and where they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir import registry
from ...ir.builder import GraphBuilder
from ...ir.graph import Graph, Node, Value
from ...ir.types import TensorType
from ..loopir import LoopBuilder, Val
from . import arithmetic
from .common import Access, Extents, RegionEvaluator, constant_number
from .position import Position

SMALL = 4096  # constants beyond this many elements are not scanned for being one repeated number


@dataclass(frozen=True)
class Result:
    """A result that the kernel writes: ``inner`` is the region's value, ``outer`` the node's (its type counts)."""

    inner: Value
    outer: Value


def region_of(node: Node) -> Graph | None:
    """The body of a fused node; for an operator without an own rule, its decomposition as one; else None."""
    if node.op == "fused":
        return node.regions[0]
    record = registry.get(node.op)
    if node.op in arithmetic.RULES or record.decompose is None:
        return None
    region = Graph(node.op)
    builder = GraphBuilder(region)
    inputs = [region.add_input(TensorType(v.dtype, v.shape), v.name) for v in node.inputs]
    copy = region.create(node.op, inputs, node.attrs, [TensorType(o.dtype, o.shape) for o in node.outputs])
    for value in record.decompose(builder, copy):
        region.add_output(value)
    region.remove(copy)
    return region


class View:
    """The operands and wanted results of a node.

    Attributes:
        stored: region value -> the value whose type says how it lies in memory (a node operand, or a constant of the
            region that is not one repeated number).
        immediates: region values whose number is known.
        results: results that somebody uses, in order.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.region = region = region_of(node)
        inputs = region.inputs if region is not None else node.inputs
        outputs = region.outputs if region is not None else node.outputs
        self.stored: dict[Value, Value] = {}
        self.immediates: dict[Value, float | int | bool] = {}
        for inner, outer in zip(inputs, node.inputs, strict=True):
            number = _small_number(outer)
            if number is not None:
                self.immediates[inner] = number
            else:
                self.stored[inner] = outer
        wanted = node.graph.output_set()
        self.results = [
            Result(inner, outer)
            for inner, outer in zip(outputs, node.outputs, strict=True)
            if outer.users or outer in wanted
        ]
        if not self.results:  # a dead node: write everything, as it was asked to be lowered
            self.results = [Result(i, o) for i, o in zip(outputs, node.outputs, strict=True)]
        self.nodes = list(region) if region is not None else [node]
        if region is not None:
            for v in region.values():
                if v.is_constant and constant_number(v) is None:
                    self.stored[v] = v

    def stops(self, value: Value) -> bool:
        """Whether ``value`` is in memory."""
        return value in self.stored

    def given(self, builder: LoopBuilder) -> dict[Value, Callable[[Position], Val]]:
        """The immediates, for a RegionEvaluator."""

        def maker(value: Value, number: float | int | bool) -> Callable[[Position], Val]:
            return lambda pos: arithmetic.constant(builder, value.dtype, number, pos.lanes)

        return {v: maker(v, n) for v, n in self.immediates.items()}


def _small_number(value: Value) -> float | int | bool | None:
    if not value.is_constant or value.constant.size > SMALL:
        return None
    return constant_number(value)


class Buffers:
    """The kernel's buffers: one per value in memory that is really touched, operands first."""

    def __init__(self, builder: LoopBuilder, extents: Extents, view: View, touched: list[Value]) -> None:
        self.builder = builder
        self.view = view
        self.values: list[Value] = []
        self.accesses: dict[Value, Access] = {}
        self.targets: dict[Value, Access] = {}
        by_outer: dict[Value, Access] = {}
        wanted = set(touched)
        for inner, outer in view.stored.items():
            if inner not in wanted:
                continue
            if outer not in by_outer:
                pointer = builder.buffer(outer.name, outer.dtype)
                by_outer[outer] = Access(builder, extents, outer.type, pointer)
                self.values.append(outer)
            self.accesses[inner] = by_outer[outer]
        for result in view.results:
            pointer = builder.buffer(result.outer.name, result.outer.dtype)
            self.targets[result.outer] = Access(builder, extents, result.outer.type, pointer)
            self.values.append(result.outer)

    def evaluator(self, extents: Extents) -> RegionEvaluator:
        """An evaluator over these buffers; take a ``scope()`` of it per loop body."""
        return RegionEvaluator(self.builder, extents, self.accesses, self.view.given(self.builder))
