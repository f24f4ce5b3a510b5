"""Building blocks of the ONNX export: names, initializers, symbolic extents as ONNX arithmetic, the rule registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..ir import dtypes
from ..ir.dims import Dim, DimExpr, Extent, FloorDiv, Max, Mod
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from ..ir.graph import Graph, Node, Value

ONNX_TYPES: dict[DType, int] = {
    dtypes.float64: TensorProto.DOUBLE,
    dtypes.float32: TensorProto.FLOAT,
    dtypes.float16: TensorProto.FLOAT16,
    dtypes.bfloat16: TensorProto.BFLOAT16,
    dtypes.int64: TensorProto.INT64,
    dtypes.int32: TensorProto.INT32,
    dtypes.int16: TensorProto.INT16,
    dtypes.int8: TensorProto.INT8,
    dtypes.uint64: TensorProto.UINT64,
    dtypes.uint32: TensorProto.UINT32,
    dtypes.uint16: TensorProto.UINT16,
    dtypes.uint8: TensorProto.UINT8,
    dtypes.bool_: TensorProto.BOOL,
}

# A rule gets the emitter, the node and the names of its operands; it returns the names of the results it emitted.
Rule = Callable[["Emitter", Node, list[str]], "str | list[str]"]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators of the IR."""

    def add(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"two ONNX rules for {op!r}")
            RULES[op] = function
        return function

    return add


class Emitter:
    """Collects ONNX nodes and initializers of one graph.

    Results of a rule get fresh names first; ``bind`` then gives them the names of the IR's values.
    """

    def __init__(self, graph: Graph, opset: int, proto: onnx.GraphProto) -> None:
        self.graph = graph
        self.proto = proto
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self._counters: dict[str, int] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._dims: dict[str, str] = {}
        self._extents: dict[Extent, str] = {}
        self._node: Node | None = None
        self._first = 0
        self._node_names: dict[str, int] = {}

    # -- names ---------------------------------------------------------------------------------------
    def fresh(self, hint: str) -> str:
        """A name nothing has yet."""
        name = hint
        while name in self.taken:
            count = self._counters.get(hint, 0) + 1
            self._counters[hint] = count
            name = f"{hint}_{count}"
        self.taken.add(name)
        return name

    def begin(self, node: Node) -> None:
        """Start the rule of ``node``: its source goes into the ONNX nodes that follow."""
        self._node = node
        self._first = len(self.nodes)

    def reserve(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Keep the names of the model's inputs and outputs for them. (Names made up here contain a slash, which no
        value of the IR has, so parameters always get theirs.)"""
        self.taken.update(inputs, outputs)

    def bind(self, value: Value, result: str, output: str | None, hint: str) -> None:
        """``value`` is ``result``; if this rule made that, it is renamed to ``output`` or a name like ``hint``."""
        made = self.nodes[self._first :]
        self.names[value] = result
        if any(result in proto.output for proto in made):
            name = output or self.fresh(hint)
            for proto in made:
                _rename(proto.input, result, name)
                _rename(proto.output, result, name)
            self.taken.discard(result)
            self.names[value] = name

    # -- nodes ---------------------------------------------------------------------------------------
    def op(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Emit a node with one result and return the result's name."""
        return self.ops(op_type, inputs, 1, **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Emit a node with several results."""
        names = [self.fresh(f"{op_type}/out") for _ in range(outputs)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        proto = helper.make_node(op_type, list(inputs), names, name=self._node_name(op_type), **attributes)
        if self._node is not None and self._node.source.file:
            proto.doc_string = f"{self._node.source.file}:{self._node.source.line}"
        self.nodes.append(proto)
        return names

    def _node_name(self, op_type: str) -> str:
        module = self._node.source.module if self._node is not None else ""
        base = f"{module}/{op_type}" if module else op_type
        count = self._node_names.get(base, 0)
        self._node_names[base] = count + 1
        return f"{base}_{count}" if count else base

    # -- constants -----------------------------------------------------------------------------------
    def initializer(self, array: np.ndarray, name: str) -> str:
        """A named initializer of its own (a parameter)."""
        name = self.fresh(name)
        # Made in place: weights are large, and protobuf copies what it is given.
        proto = self.proto.initializer.add()
        proto.name = name
        proto.data_type = ONNX_TYPES[dtypes.dtype_from_numpy(array.dtype)]
        proto.dims.extend(array.shape)
        proto.raw_data = array.tobytes()  # row-major; ONNX wants little-endian, as every machine that we run on is
        return name

    def const(self, value: Any, dtype: DType) -> str:
        """A small constant; equal ones are shared."""
        array = np.asarray(value, dtype.numpy)
        key = (dtype.name, array.shape, array.tobytes())
        if key not in self._small:
            self._small[key] = self.initializer(array, "const/value")
        return self._small[key]

    def ints(self, values: Sequence[int]) -> str:
        """A one-dimensional int64 constant."""
        return self.const(np.asarray(values, np.int64).reshape(-1), dtypes.int64)

    def scalar(self, value: float, like: DType) -> str:
        """A 0-d constant."""
        return self.const(value, like)

    def cast(self, name: str, dtype: DType) -> str:
        return self.op("Cast", [name], to=ONNX_TYPES[dtype])

    # -- extents -------------------------------------------------------------------------------------
    def extents(self, values: Sequence[Extent]) -> str:
        """A one-dimensional int64 tensor of extents: a constant, or computed from the inputs' shapes."""
        if all(isinstance(v, int) for v in values):
            return self.ints(values)  # type: ignore[arg-type]
        return self.op("Concat", [self.extent(v) for v in values], axis=0)

    def extent(self, value: Extent) -> str:
        """An extent as an int64 tensor of shape [1]."""
        if isinstance(value, int):
            return self.ints([value])
        if value not in self._extents:
            terms = []
            for atoms, coefficient in value.terms:
                factors = [self._atom(atom) for atom, power in atoms for _ in range(power)]
                if coefficient != 1 or not factors:
                    factors.append(self.ints([coefficient]))
                terms.append(self._chain("Mul", factors))
            self._extents[value] = self._chain("Add", terms)
        return self._extents[value]

    def _chain(self, op_type: str, names: list[str]) -> str:
        out = names[0]
        for name in names[1:]:
            out = self.op(op_type, [out, name])
        return out

    def _atom(self, atom: Any) -> str:
        if isinstance(atom, Dim):
            return self._dim(atom)
        if isinstance(atom, Max):
            return self.op("Max", [self.extent(atom.a), self.extent(atom.b)])
        assert isinstance(atom, (FloorDiv, Mod))
        top, bottom = self.extent(atom.num), self.extent(atom.den)
        rest = self.op("Mod", [top, bottom])
        if isinstance(atom, Mod):
            return rest
        # ONNX divides integers towards zero; without the remainder the division is exact.
        return self.op("Div", [self.op("Sub", [top, rest]), bottom])

    def _dim(self, dim: Dim) -> str:
        """The run-time value of a Dim, read off the first input axis that is ``a * dim + b``."""
        if dim.name in self._dims:
            return self._dims[dim.name]
        for value, role in zip(self.graph.inputs, self.graph.roles, strict=True):
            for axis, extent in enumerate(value.shape):
                found = _affine(extent, dim) if role == "input" else None
                if found is None:
                    continue
                scale, offset = found
                name = self.op("Gather", [self.op("Shape", [self.names[value]]), self.ints([axis])], axis=0)
                if offset:
                    name = self.op("Sub", [name, self.ints([offset])])
                if scale != 1:
                    name = self.op("Div", [name, self.ints([scale])])
                self._dims[dim.name] = name
                return name
        raise UnsupportedError(
            f"ONNX export: no axis of an input has the extent {dim.name} (or {dim.name} times a number), so the model "
            "could not compute it; declare the Dim on an input axis of its own"
        )


def _affine(extent: Extent, dim: Dim) -> tuple[int, int] | None:
    """(a, b) if ``extent`` is a * dim + b with a > 0."""
    if not isinstance(extent, DimExpr):
        return None
    scale = offset = 0
    for atoms, coefficient in extent.terms:
        if not atoms:
            offset = coefficient
        elif atoms == ((dim, 1),):
            scale = coefficient
        else:
            return None
    return (scale, offset) if scale > 0 else None


def _rename(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new
