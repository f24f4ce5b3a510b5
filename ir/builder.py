"""Checked construction of nodes: fills in attributes, infers types, gives names and source lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import registry
from .dtypes import DType
from .errors import IngotError
from .graph import Graph, Node, Value
from .source import UNKNOWN, Source


class GraphBuilder:
    """Appends operators to ``graph``, before ``before`` if given.

    ``b.emit("add", [x, y])`` returns the node; ``b.add(x, y)`` is shorthand for its result (any registered
    operator is a method: tensor operands first, attributes by keyword; a tuple for several results).
    Python numbers among the operands become constants of the first tensor operand's dtype.
    ``source`` is stamped on every node; set it around a group of calls.
    """

    def __init__(self, graph: Graph, before: Node | None = None, source: Source = UNKNOWN) -> None:
        self.graph = graph
        self.before = before
        self.source = source

    def emit(self, op: str, inputs: Sequence[Value], *, name: str = "", **attrs: Any) -> Node:
        """Add one node; ShapeError, DTypeError or IngotError if the operator does not accept it."""
        record = registry.get(op)
        low, high = record.arity
        if len(inputs) < low or (high is not None and len(inputs) > high):
            raise IngotError(f"{op}: takes {low} to {high} inputs, got {len(inputs)}")
        full = record.complete_attrs(attrs)
        types = record.infer([v.type for v in inputs], full)
        return self.graph.create(
            op, inputs, full, types, names=[name] * len(types), source=self.source, before=self.before
        )

    def constant(self, value: Any, dtype: DType | None = None, name: str = "const") -> Value:
        """A constant from an array or number."""
        array = np.asarray(value, dtype.numpy if dtype is not None else None)
        return self.graph.constant(array, name, before=self.before)

    def full(self, shape: Sequence[Any], value: float, dtype: DType) -> Value:
        """A tensor of one repeated number (a broadcast scalar constant; shape may be symbolic)."""
        return self.expand(self.constant(value, dtype), shape=tuple(shape))

    def __getattr__(self, op: str) -> Any:
        if op.startswith("_") or op not in registry.OPS:
            raise AttributeError(f"GraphBuilder has no operator {op!r}")

        def call(*operands: Any, **attrs: Any) -> Any:
            dtype = next((o.dtype for o in operands if isinstance(o, Value)), None)
            values = [o if isinstance(o, Value) else self.constant(o, dtype) for o in operands]
            outs = self.emit(op, values, **attrs).outputs
            return outs[0] if len(outs) == 1 else tuple(outs)

        return call
