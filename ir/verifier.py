"""Checks the invariants of a graph. A failure is always a bug in the pass that ran last.

The checks are the tables ``STRUCTURE`` (can the graph be walked at all; regions too) and ``CHECKS`` at the
end, the most fundamental first; later ones rely on the earlier ones having passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import ops as _ops  # noqa: F401  (registers the operators)
from . import registry
from .dims import Dim, DimExpr, symbols
from .dtypes import DType, dtype_from_numpy
from .errors import IngotError, VerifyError
from .graph import Graph, Node, Value
from .layout import FORMS, Layout
from .printer import print_node
from .types import TensorType

__all__ = ["verify"]

ROLES = ("input", "parameter", "buffer", "state", "scalar", "rng")
CONTEXT = 10  # nodes shown on either side of the culprit

Problem = tuple["Node | None", str]
Check = Callable[[Graph, Graph], Iterator[Problem]]  # (graph, the outermost graph) -> what is wrong


def verify(graph: Graph) -> None:
    """Check ``graph`` and its regions; VerifyError names the node, the operand and the cause."""
    graphs = [graph]  # grows by the regions found
    seen = {graph}
    for current in graphs:
        _apply(STRUCTURE, current, graph)
        for node in current:
            for region in node.regions:
                if region in seen:
                    cause = f"its region {region.name} is the graph that holds it, or belongs to another node too"
                    raise VerifyError(_message(current, "bad region", node, cause))
                seen.add(region)
                graphs.append(region)
    for current in graphs:
        _apply(CHECKS, current, graph)


def _apply(checks: Sequence[tuple[str, Check]], graph: Graph, root: Graph) -> None:
    for title, check in checks:
        for node, cause in check(graph, root):
            raise VerifyError(_message(graph, title, node, cause))


def _message(graph: Graph, title: str, node: Node | None, cause: str) -> str:
    if node is None:
        return f"graph {graph.name}: {title}: {cause}"
    source = f"\n  made at {node.source}" if str(node.source) else ""
    return f"graph {graph.name}: {title}: node {node!r}: {cause}{source}\n{_neighbours(graph, node)}"


def _neighbours(graph: Graph, node: Node) -> str:
    """The node with its neighbours, the culprit marked; follows links with a bound, as they may be broken."""
    before: list[Node] = []
    at = node._prev
    while at is not None and len(before) < CONTEXT:
        before.append(at)
        at = at._prev
    after: list[Node] = []
    at = node._next
    while at is not None and len(after) < CONTEXT:
        after.append(at)
        at = at._next
    lines = [f"     {print_node(n)}" for n in reversed(before)]
    lines.append(f"  -> {print_node(node)}")
    lines += [f"     {print_node(n)}" for n in after]
    return "\n".join(lines)


# -- links and ownership --------------------------------------------------------------------------------
def _links(graph: Graph, root: Graph) -> Iterator[Problem]:
    count = 0
    previous: Node | None = None
    node = graph._head
    while node is not None:
        count += 1
        if count > graph._count:
            yield node, f"the node list is longer than the recorded {graph._count} nodes (a cycle, or a lost update)"
            return
        if node._graph is not graph:
            yield node, "the node is linked here but belongs to another graph, or was removed"
        if node._prev is not previous:
            yield node, "its link to the node before it is wrong"
        previous, node = node, node._next
    if graph._tail is not previous:
        yield previous, "the graph's tail is another node"
    if count != graph._count:
        yield None, f"{count} nodes are linked, {graph._count} are recorded"


def _ownership(graph: Graph, root: Graph) -> Iterator[Problem]:
    for i, value in enumerate(graph.inputs):
        if value.producer is not None:
            yield None, f"input {i} (%{value.name}) has a producer, {value.producer!r}"
    for node in graph:
        for i, out in enumerate(node.outputs):
            if out.producer is not node or out.index != i:
                yield node, f"output {i} (%{out.name}) does not point back to its node and position"


def _order(graph: Graph, root: Graph) -> Iterator[Problem]:
    defined: set[Value] = set(graph.inputs)
    if len(defined) != len(graph.inputs):
        yield None, "a value is a graph input twice"
    for node in graph:
        for i, v in enumerate(node.inputs):
            if v not in defined:
                yield node, f"operand {i} (%{v.name}) {_why_undefined(v, graph)}"
        defined.update(node.outputs)
    for i, o in enumerate(graph.outputs):
        if o not in defined:
            yield None, f"graph output {i} (%{o.name}) {_why_undefined(o, graph)}"


def _why_undefined(value: Value, graph: Graph) -> str:
    owner = value.producer
    if owner is None:
        return "is an input of another graph (regions see outer values only through their own inputs)"
    if owner._graph is None:
        return f"was made by {owner!r}, which has been removed"
    if owner._graph is not graph:
        return f"was made by {owner!r} in another graph (regions see outer values only through their inputs)"
    return f"is used before it is defined, by {owner!r} further down"


def _names(graph: Graph, root: Graph) -> Iterator[Problem]:
    seen: dict[str, Value] = {}
    for v in graph.values():
        first = seen.setdefault(v.name, v)
        if not v.name:
            yield v.producer, "a value has no name"
        elif first is not v:
            yield v.producer, f"two values are called %{v.name} (the first: {first.producer or 'a graph input'!r})"


def _users(graph: Graph, root: Graph) -> Iterator[Problem]:
    expected: dict[Value, dict[Node, int]] = {v: {} for v in graph.values()}
    for node in graph:
        for v in node.inputs:
            users = expected[v]
            users[node] = users.get(node, 0) + 1
    for v, users in expected.items():
        if v.users != users:
            recorded = ", ".join(f"{n!r} x{c}" for n, c in list(v.users.items())[:3]) or "nobody"
            actual = ", ".join(f"{n!r} x{c}" for n, c in list(users.items())[:3]) or "nobody"
            yield v.producer, f"users of %{v.name} are recorded as {recorded} but are {actual}"


# -- nodes against their records --------------------------------------------------------------------------
def _is_int(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _tuple_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(test(x) for x in value)


ATTR_KINDS: dict[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "float": lambda x: isinstance(x, float),
    "bool": lambda x: isinstance(x, bool),
    "str": lambda x: isinstance(x, str),
    "dtype": lambda x: isinstance(x, DType),
    "layout": lambda x: isinstance(x, Layout),
    "ints": _tuple_of(_is_int),
    "floats": _tuple_of(lambda x: isinstance(x, float)),
    "extents": _tuple_of(lambda x: _is_int(x) or isinstance(x, DimExpr)),
    "pairs": _tuple_of(lambda p: isinstance(p, tuple) and len(p) == 2 and all(_is_int(x) for x in p)),
    "array": lambda x: isinstance(x, np.ndarray),
    "scalar": lambda x: x is None or isinstance(x, (bool, int, float)),
    "optional_int": lambda x: x is None or _is_int(x),
}


def _attributes(graph: Graph, root: Graph) -> Iterator[Problem]:
    for node in graph:
        record = registry.OPS.get(node.op)
        if record is None:
            yield node, f"there is no operator called {node.op!r}"
            continue
        if set(node.attrs) != set(record.attrs):
            yield node, f"has attributes {sorted(node.attrs)}, the operator declares {sorted(record.attrs)}"
        for key, value in node.attrs.items():
            kind = record.attrs[key].kind
            if not ATTR_KINDS[kind](value):
                yield node, f"attribute {key} must be of kind {kind}, got {value!r} ({type(value).__name__})"
        low, high = record.arity
        if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
            yield node, f"takes {low} to {'any number of' if high is None else high} inputs, has {len(node.inputs)}"


def _constants(graph: Graph, root: Graph) -> Iterator[Problem]:
    for node in graph:
        if node.op != "constant":
            continue
        array, declared = node.attrs["value"], node.output.type
        if array.shape != declared.shape:
            yield node, f"holds an array of shape {list(array.shape)}, its logical type is {declared}"
        elif dtype_from_numpy(array.dtype) is not declared.dtype:
            yield node, f"holds an array of {array.dtype}, its type is {declared}"


def _types(graph: Graph, root: Graph) -> Iterator[Problem]:
    for node in graph:
        if node.regions and node.op == "fused":
            expected = [o.type for o in node.regions[0].outputs]
        else:
            try:
                expected = registry.get(node.op).infer([v.type for v in node.inputs], node.attrs)
            except IngotError as error:
                operands = ", ".join(repr(v) for v in node.inputs)
                yield node, f"the operator does not accept its operands ({operands}): {error}"
                continue
        actual = [o.type for o in node.outputs]
        if len(actual) != len(expected):
            yield node, f"has {len(actual)} outputs, the operator gives {len(expected)}"
            continue
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            if not _same(a, e):
                yield node, f"output {i} (%{node.outputs[i].name}) is declared {a}, the operator gives {e}"


def _same(a: TensorType, b: TensorType) -> bool:
    return a.dtype is b.dtype and a.shape == b.shape


def _layouts(graph: Graph, root: Graph) -> Iterator[Problem]:
    for v in graph.values():
        if not v.type.layout.is_dense or v.type.layout.halo:
            cause = _layout_problem(v.type)
            if v.type.layout.form and v.producer is not None and not v.is_constant:
                cause = f"form {v.type.layout.form} on a computed value; only constants are transformed"
            if cause:
                yield v.producer, f"layout of %{v.name}: {cause}"
    for node in graph.find("layout_cast"):
        if node.output.type.layout != node.attrs["layout"]:
            yield node, f"the result has layout {node.output.type.layout}, the attribute says {node.attrs['layout']}"


def _layout_problem(type_: TensorType) -> str | None:
    rank, layout = type_.rank, type_.layout
    if layout.form and layout.form not in FORMS:
        return f"unknown form {layout.form!r}"
    if layout.order and sorted(layout.order) != list(range(rank)):
        return f"order {layout.order} is not a permutation of the {rank} axes"
    for axis, size in layout.blocks:
        if not 0 <= axis < rank:
            return f"block on axis {axis} of a rank-{rank} tensor"
        if size < 2:
            return f"block of {size} on axis {axis}; a block has at least 2 elements"
    if layout.halo:
        if len(layout.halo) != rank:
            return f"halo has {len(layout.halo)} entries for rank {rank}"
        if not layout.has_halo:
            return "a halo of zeros only must be written as ()"
        blocked = {axis for axis, _ in layout.blocks}
        for axis, (low, high) in enumerate(layout.halo):
            if low < 0 or high < 0:
                return f"negative halo ({low}, {high}) on axis {axis}"
            if axis in blocked and (low or high):
                return f"halo on the blocked axis {axis}"
    return None


# -- regions, symbols, results ------------------------------------------------------------------------------
def _regions(graph: Graph, root: Graph) -> Iterator[Problem]:
    for node in graph:
        if node.op == "fused" and len(node.regions) != 1:
            yield node, f"a fused node has one region, not {len(node.regions)}"
        for region in node.regions:
            if len(region.inputs) != len(node.inputs):
                yield node, f"its region takes {len(region.inputs)} inputs, the node has {len(node.inputs)}"
            else:
                for i, (outer, inner) in enumerate(zip(node.inputs, region.inputs, strict=True)):
                    if not _same(outer.type, inner.type):
                        yield node, f"operand {i} is {outer!r}, its region expects {inner!r}"
            if region.updates:
                yield node, "a region cannot update graph inputs"


def _symbols(graph: Graph, root: Graph) -> Iterator[Problem]:
    declared = root.symbols
    for name, dim in graph.symbols.items():
        if name != dim.name:
            yield None, f"symbol {dim.name} is declared under the name {name}"
        if declared.get(name) != dim:
            yield None, f"symbol {dim!r} of region {graph.name} is not that of graph {root.name}"

    def undeclared(extents: Any) -> Dim | None:
        return next((d for d in symbols(extents) if declared.get(d.name) != d), None)

    for v in graph.values():
        if not v.type.is_static and (unknown := undeclared(v.shape)) is not None:
            yield v.producer, f"type of {v!r} uses symbol {unknown!r}, which the graph does not declare"
    for node in graph:
        for key, value in node.attrs.items():
            if isinstance(value, tuple) and any(isinstance(e, DimExpr) for e in value):
                unknown = undeclared(value)
                if unknown is not None:
                    yield node, f"attribute {key} uses symbol {unknown!r}, which the graph does not declare"


def _results(graph: Graph, root: Graph) -> Iterator[Problem]:
    if len(graph.roles) != len(graph.inputs):
        yield None, f"{len(graph.inputs)} inputs but {len(graph.roles)} roles"
    for v, role in zip(graph.inputs, graph.roles, strict=False):
        if role not in ROLES:
            yield None, f"input %{v.name} has role {role!r}; roles are {', '.join(ROLES)}"
    if len(graph.output_names) != len(graph.outputs):
        yield None, f"{len(graph.outputs)} outputs but {len(graph.output_names)} output names"
    targets: dict[int, int] = {}
    for position, target in graph.updates.items():
        if not 0 <= position < len(graph.outputs) or not 0 <= target < len(graph.inputs):
            yield None, f"update {position} -> {target} is outside the graph's outputs or inputs"
            continue
        if targets.setdefault(target, position) != position:
            yield None, f"input %{graph.inputs[target].name} is updated by two outputs"
        new, old = graph.outputs[position], graph.inputs[target]
        if not _same(new.type, old.type):
            yield new.producer, f"output {position} is {new!r} but updates {old!r}"


STRUCTURE: tuple[tuple[str, Check], ...] = (
    ("broken links", _links),
    ("wrong owner", _ownership),
    ("undefined value", _order),
)
CHECKS: tuple[tuple[str, Check], ...] = (
    ("bad name", _names),
    ("stale users", _users),
    ("bad attributes", _attributes),
    ("bad constant", _constants),
    ("bad region", _regions),
    ("wrong type", _types),
    ("bad layout", _layouts),
    ("undeclared symbol", _symbols),
    ("bad results", _results),
)
