"""The SSA graph: values, nodes in a doubly linked list, graphs with regions.

Invariants (checked by ``ir.verifier``): a node's inputs are defined before it in the same graph (or are
inputs of the region it lives in: regions are closed, they see outer values only through their
inputs); every value has one producer; users lists are exact. Only the methods here edit the links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .dims import Dim
from .dtypes import dtype_from_numpy
from .layout import DENSE, Layout
from .source import UNKNOWN, Source
from .types import TensorType


class Value:
    """One tensor in a graph: a graph input or an output of a node."""

    __slots__ = ("index", "name", "producer", "type", "users")

    def __init__(self, type: TensorType, name: str = "", producer: Node | None = None, index: int = 0) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.index = index
        self.users: dict[Node, int] = {}  # node -> number of operand positions that use this value

    @property
    def shape(self) -> tuple:
        return self.type.shape

    @property
    def dtype(self) -> Any:
        return self.type.dtype

    @property
    def is_constant(self) -> bool:
        return self.producer is not None and self.producer.op == "constant"

    @property
    def constant(self) -> np.ndarray:
        """The array of a constant value, in its *logical* shape; raises ValueError for others."""
        if not self.is_constant:
            raise ValueError(f"%{self.name} is not a constant")
        return self.producer.attrs["value"]  # type: ignore[union-attr]

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One application of an operator.

    ``attrs`` are the typed attributes that the op's record declares (ints, floats, bools, strings,
    DTypes, Layouts, extents, tuples of those; ``constant`` holds an ndarray). ``regions`` are closed sub-graphs
    (bodies of ``fused``; later If/Loop/Scan).
    """

    __slots__ = ("_graph", "_next", "_prev", "attrs", "inputs", "op", "outputs", "regions", "source")

    def __init__(
        self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Any], source: Source, regions: Sequence[Graph] = ()
    ) -> None:
        self.op = op
        self.inputs: list[Value] = list(inputs)
        self.attrs: dict[str, Any] = dict(attrs)
        self.outputs: list[Value] = []
        self.regions: list[Graph] = list(regions)
        self.source = source
        self._graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None

    @property
    def graph(self) -> Graph:
        if self._graph is None:
            raise ValueError(f"node {self.op} has been removed from its graph")
        return self._graph

    @property
    def output(self) -> Value:
        """The single output; ValueError if there are several."""
        (out,) = self.outputs
        return out

    def replace_input(self, index: int, value: Value) -> None:
        """Make operand ``index`` read ``value``."""
        old = self.inputs[index]
        if old is value:
            return
        _drop_user(old, self)
        self.inputs[index] = value
        value.users[self] = value.users.get(self, 0) + 1

    def __repr__(self) -> str:
        outs = ", ".join(f"%{o.name}" for o in self.outputs)
        ins = ", ".join(f"%{i.name}" for i in self.inputs)
        return f"{outs} = {self.op}({ins})"


def _drop_user(value: Value, node: Node) -> None:
    count = value.users[node] - 1
    if count:
        value.users[node] = count
    else:
        del value.users[node]


class Graph:
    """A function on tensors.

    Attributes:
        inputs: graph inputs in call order; ``roles[i]`` says what input i is: ``"input"`` (user data),
            ``"parameter"``, ``"buffer"``, ``"state"`` (optimiser), ``"scalar"`` (host-set number such as a
            learning rate) or ``"rng"``.
        outputs: result values; ``output_names`` run parallel.
        updates: output position -> input position that this output overwrites in place after the run
            (parameters, running statistics, momentum, the random state).
        symbols: declared dims by name.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.roles: list[str] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        self.updates: dict[int, int] = {}
        self.symbols: dict[str, Dim] = {}
        self._head: Node | None = None
        self._tail: Node | None = None
        self._count = 0
        self._names: dict[str, int] = {}

    # -- reading ------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Node]:
        """Nodes in order. The node being visited may be removed and nodes may be inserted before it."""
        node = self._head
        while node is not None:
            following = node._next
            yield node
            node = node._next if node._graph is self else following

    def __reversed__(self) -> Iterator[Node]:
        node = self._tail
        while node is not None:
            before = node._prev
            yield node
            node = node._prev if node._graph is self else before

    @property
    def nodes(self) -> list[Node]:
        """Nodes in order, as a snapshot."""
        return list(self)

    def values(self) -> Iterator[Value]:
        """Inputs, then every node output in order."""
        yield from self.inputs
        for node in self:
            yield from node.outputs

    def find(self, op: str) -> list[Node]:
        return [n for n in self if n.op == op]

    def input_named(self, name: str) -> Value:
        for v in self.inputs:
            if v.name == name:
                return v
        raise KeyError(name)

    # -- building -----------------------------------------------------------------------------------
    def unique_name(self, hint: str) -> str:
        """``hint`` made into an identifier that no value of this graph has."""
        base = "".join(c if c.isalnum() or c in "._" else "_" for c in hint) or "v"
        n = self._names.get(base)
        if n is None:
            self._names[base] = 0
            return base
        while True:
            n += 1
            candidate = f"{base}_{n}"
            if candidate not in self._names:
                self._names[base] = n
                self._names[candidate] = 0
                return candidate

    def add_input(self, type: TensorType, name: str, role: str = "input") -> Value:
        value = Value(type, self.unique_name(name))
        self.inputs.append(value)
        self.roles.append(role)
        for dim in sorted(type.symbols(), key=lambda d: d.name):
            self.add_symbol(dim)
        return value

    def add_symbol(self, dim: Dim) -> None:
        known = self.symbols.setdefault(dim.name, dim)
        if known != dim:
            raise ValueError(f"two different Dims called {dim.name!r}: {known!r} and {dim!r}")

    def add_output(self, value: Value, name: str = "", updates: Value | None = None) -> None:
        """Append a result; ``updates`` names the graph input it overwrites in place."""
        if updates is not None:
            self.updates[len(self.outputs)] = self.inputs.index(updates)
        self.outputs.append(value)
        self.output_names.append(name or value.name)

    def create(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Any],
        types: Sequence[TensorType],
        *,
        names: Sequence[str] = (),
        source: Source = UNKNOWN,
        before: Node | None = None,
        regions: Sequence[Graph] = (),
    ) -> Node:
        """Make a node with the given result types and link it before ``before`` (None: at the end).

        This is the raw constructor: ``ir.builder.GraphBuilder`` checks attributes and infers the types.
        """
        node = Node(op, inputs, attrs, source, regions)
        for v in node.inputs:
            v.users[node] = v.users.get(node, 0) + 1
        for i, t in enumerate(types):
            hint = names[i] if i < len(names) and names[i] else op
            node.outputs.append(Value(t, self.unique_name(hint), node, i))
        self._link(node, before)
        return node

    def _link(self, node: Node, before: Node | None) -> None:
        node._graph = self
        node._next = before
        node._prev = before._prev if before is not None else self._tail
        if node._prev is not None:
            node._prev._next = node
        else:
            self._head = node
        if before is not None:
            before._prev = node
        else:
            self._tail = node
        self._count += 1

    def _unlink(self, node: Node) -> None:
        if node._prev is not None:
            node._prev._next = node._next
        else:
            self._head = node._next
        if node._next is not None:
            node._next._prev = node._prev
        else:
            self._tail = node._prev
        node._graph = None
        self._count -= 1

    def move_before(self, node: Node, before: Node | None) -> None:
        """Relink ``node`` before ``before`` (None: to the end)."""
        if node is before:
            return
        self._unlink(node)
        self._link(node, before)

    # -- editing ------------------------------------------------------------------------------------
    def is_output(self, value: Value) -> bool:
        return any(value is o for o in self.outputs)

    def output_set(self) -> set[Value]:
        """The outputs as a set, for passes that ask often."""
        return set(self.outputs)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Make every user of ``old`` and every graph output read ``new`` instead."""
        if old is new:
            return
        for node in list(old.users):
            for i, v in enumerate(node.inputs):
                if v is old:
                    node.replace_input(i, new)
        for i, o in enumerate(self.outputs):
            if o is old:
                self.outputs[i] = new

    def remove(self, node: Node) -> None:
        """Unlink a node nobody uses; ValueError names the users otherwise."""
        for out in node.outputs:
            if out.users or self.is_output(out):
                users = ", ".join(repr(u) for u in list(out.users)[:3]) or "a graph output"
                raise ValueError(f"cannot remove {node!r}: %{out.name} is used by {users}")
        self._discard(node)

    def _discard(self, node: Node) -> None:
        for v in set(node.inputs):
            v.users.pop(node, None)
        self._unlink(node)

    def prune(self) -> int:
        """Remove every node whose results nobody uses (all operators are pure); returns how many."""
        outputs = self.output_set()
        removed = 0
        for node in reversed(self):
            if not any(o.users or o in outputs for o in node.outputs):
                self._discard(node)
                removed += 1
        return removed

    def clone(self, name: str | None = None) -> tuple[Graph, dict[Value, Value]]:
        """A copy (attributes shared, regions copied) and the map from old values to new ones."""
        out = Graph(name or self.name)
        out.symbols = dict(self.symbols)
        mapping: dict[Value, Value] = {}
        for v, role in zip(self.inputs, self.roles, strict=True):
            mapping[v] = out.add_input(v.type, v.name, role)
        for node in self:
            new = out.create(
                node.op,
                [mapping[v] for v in node.inputs],
                node.attrs,
                [o.type for o in node.outputs],
                names=[o.name for o in node.outputs],
                source=node.source,
                regions=[r.clone()[0] for r in node.regions],
            )
            mapping.update(zip(node.outputs, new.outputs, strict=True))
        out.outputs = [mapping[o] for o in self.outputs]
        out.output_names = list(self.output_names)
        out.updates = dict(self.updates)
        return out, mapping

    def constant(
        self, array: np.ndarray, name: str = "const", *, before: Node | None = None, layout: Layout = DENSE
    ) -> Value:
        """A constant node holding ``array`` (not copied; treat it as read-only)."""
        array = np.asarray(array)
        type_ = TensorType(dtype_from_numpy(array.dtype), array.shape, layout)
        return self.create("constant", [], {"value": array}, [type_], names=[name], before=before).output

    def __str__(self) -> str:
        from .printer import print_graph

        return print_graph(self)
