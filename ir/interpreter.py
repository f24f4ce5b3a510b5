"""Runs a graph with the operators' NumPy references: the oracle that every compiled result is held against.

With ``float64=True`` everything floating is lifted to float64 (inputs, constants, casts, generated
numbers), so the run has no float32 rounding in it; integer and bool values keep their types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import ops as _ops  # noqa: F401  (registers the operators)
from . import registry
from .dims import Dim, DimExpr, Extent, assignment, evaluate, symbols
from .dtypes import dtype_from_numpy, float64
from .errors import IngotError, InputError
from .graph import Graph, Node, Value
from .types import TensorType

__all__ = ["bind_symbols", "eval_node", "interpret"]

Observer = Callable[[Node, "list[np.ndarray]"], None]

# Operators whose numbers depend on the dtype they are drawn in: run as declared, then lift the result.
_DRAWN_IN_OWN_DTYPE = frozenset({"random_uniform"})


def interpret(
    graph: Graph,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    float64: bool = False,
    observer: Observer | None = None,
) -> list[np.ndarray]:
    """Evaluate ``graph``; returns its outputs in order (``updates`` are not written back). The results may share memory
    with inputs and constants: copy before changing them.

    Args:
        inputs: one array per graph input, in order, or a mapping from input name to array. With
            ``float64`` any floating dtype is accepted for a floating input.
        float64: compute in float64 throughout.
        observer: called as ``observer(node, outputs)`` after each node; a node with regions counts as one.

    Raises:
        InputError: an input is missing, has the wrong shape or dtype, or a symbolic extent is bound to two values
            or lies outside its declared range, or the inputs are too small: some value would have a negative extent.
        IngotError: an operator's reference failed or gave another shape or dtype than the node declares.
    """
    arrays = [_check_input(v, a, float64) for v, a in zip(graph.inputs, _ordered(graph, inputs), strict=True)]
    env = bind_symbols(graph, [a.shape for a in arrays])
    with np.errstate(all="ignore"):
        return _Run(env, float64).graph(graph, arrays, observer)


def eval_node(
    node: Node, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None, *, float64: bool = False
) -> list[np.ndarray]:
    """The results of one node for the given operand arrays; ``env`` gives the symbols its attributes and types use."""
    with np.errstate(all="ignore"):
        return _Run(env or {}, float64).node(node, list(arrays))


def bind_symbols(graph: Graph, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Values of the graph's symbols from the shapes of its inputs, all shapes checked; InputError otherwise."""
    env: dict[str, int] = {}
    waiting: list[tuple[Value, int, DimExpr, int]] = []
    for value, shape in zip(graph.inputs, shapes, strict=True):
        if len(shape) != value.type.rank:
            raise InputError(
                f"input %{value.name}: expected {value.type} (rank {value.type.rank}), got shape {tuple(shape)}"
            )
        for axis, (extent, actual) in enumerate(zip(value.shape, shape, strict=True)):
            if isinstance(extent, DimExpr):
                waiting.append((value, axis, extent, int(actual)))
            elif extent != actual:
                raise InputError(
                    f"input %{value.name}: axis {axis} must be {extent}, got {actual} (expected {value.type}, "
                    f"got shape {tuple(shape)})"
                )
    # An extent with one unknown in it binds that unknown; repeat while that makes progress.
    pending = waiting
    while pending:
        stuck = []
        for item in pending:
            value, axis, extent, actual = item
            unknown = [d for d in symbols(extent) if d.name not in env]
            if len(unknown) == 1:
                solution = _solve(extent, unknown[0], actual, env)
                if solution is not None:
                    _check_range(value, axis, unknown[0], solution)
                    env[unknown[0].name] = solution
                    continue
            if unknown:
                stuck.append(item)
        if len(stuck) == len(pending):
            value, axis, extent, actual = stuck[0]
            raise InputError(
                f"input %{value.name}: cannot derive {', '.join(sorted(d.name for d in symbols(extent)))} from axis "
                f"{axis} = {extent} (extent {actual}); give some input a plain symbolic extent"
            )
        pending = stuck
    for value, axis, extent, actual in waiting:
        expected = evaluate(extent, env)
        if expected != actual:
            bound = ", ".join(f"{d.name} = {env[d.name]}" for d in sorted(symbols(extent), key=lambda d: d.name))
            raise InputError(
                f"input %{value.name}: axis {axis} must be {extent} = {expected} (with {bound} from the inputs), "
                f"got {actual}"
            )
    return env


def _solve(extent: DimExpr, unknown: Dim, actual: int, env: Mapping[str, int]) -> int | None:
    """The value of ``unknown`` that makes ``extent`` equal ``actual`` if extent is linear in it, else None."""
    slope = 0
    offset = 0
    for mono, coef in extent.terms:
        term: Extent = DimExpr(((mono, coef),)) if mono else coef
        if unknown not in symbols(term):
            offset += evaluate(term, env)
        elif dict(mono).get(unknown) == 1:
            rest = tuple((atom, power) for atom, power in mono if atom != unknown)
            if unknown in symbols(DimExpr(((rest, 1),))):
                return None
            slope += evaluate(DimExpr(((rest, coef),)), env)
        else:
            return None
    if slope == 0 or (actual - offset) % slope:
        return None
    return (actual - offset) // slope


def _check_range(value: Value, axis: int, dim: Dim, actual: int) -> None:
    if actual < dim.min or (dim.max is not None and actual > dim.max):
        upper = "" if dim.max is None else dim.max
        raise InputError(
            f"input %{value.name}: axis {axis} makes {dim.name} = {actual}, outside its declared range "
            f"[{dim.min}..{upper}]"
        )


def _ordered(graph: Graph, inputs: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    names = [v.name for v in graph.inputs]
    if isinstance(inputs, Mapping):
        missing = [n for n in names if n not in inputs]
        extra = [n for n in inputs if n not in set(names)]
        if missing or extra:
            raise InputError(f"graph {graph.name}: missing inputs {missing}, unknown inputs {extra}; it takes {names}")
        return [inputs[n] for n in names]
    if len(inputs) != len(names):
        raise InputError(f"graph {graph.name}: takes {len(names)} inputs {names}, got {len(inputs)}")
    return list(inputs)


def _check_input(value: Value, array: Any, lift: bool) -> np.ndarray:
    array = np.asarray(array)
    try:
        dtype = dtype_from_numpy(array.dtype)
    except TypeError as error:
        raise InputError(f"input %{value.name}: {error}") from None
    if lift and dtype.is_floating_point and value.dtype.is_floating_point:
        return array.astype(np.float64, copy=False)
    if dtype is not value.dtype:
        raise InputError(f"input %{value.name}: expected {value.dtype.name}, got {dtype.name}")
    return array


class _Run:
    """One evaluation: the bound symbols, the mode, and constants already lifted."""

    def __init__(self, env: Mapping[str, int], lift: bool) -> None:
        self.env = env
        self.lift = lift
        self._lifted: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # id -> (original, kept alive; float64 copy)

    def graph(self, graph: Graph, arrays: Sequence[np.ndarray], observer: Observer | None = None) -> list[np.ndarray]:
        """Evaluate a graph or region, dropping each intermediate after its last use."""
        live: dict[Value, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
        uses: dict[Value, int] = {}
        for output in graph.outputs:
            uses[output] = uses.get(output, 0) + 1
        for node in graph:
            for v in node.inputs:
                uses[v] = uses.get(v, 0) + 1
        for node in graph:
            results = self.node(node, [live[v] for v in node.inputs])
            if observer is not None:
                observer(node, results)
            for v, array in zip(node.outputs, results, strict=True):
                if v in uses:
                    live[v] = array
            for v in node.inputs:
                uses[v] -= 1
                if not uses[v]:
                    del live[v]
        return [live[o] for o in graph.outputs]

    def node(self, node: Node, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Evaluate one node and check the results against its declared types."""
        record = registry.get(node.op)
        shapes = [self._shape(node, v) for v in node.outputs]
        attrs = {key: self._attr(record, key, value) for key, value in node.attrs.items()}
        if node.regions:
            attrs["regions"] = [self._region(r) for r in node.regions]
        try:
            raw = record.reference(*arrays, **attrs)
        except IngotError:
            raise
        except Exception as error:
            place = f" at {node.source}" if str(node.source) else ""
            operands = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
            raise IngotError(
                f"{node!r}{place}: the reference failed for operands ({operands}): {type(error).__name__}: {error}"
            ) from error
        results = [np.asarray(r) for r in (raw if isinstance(raw, (tuple, list)) else (raw,))]
        if len(results) != len(node.outputs):
            raise IngotError(f"{node!r}: the reference gave {len(results)} results for {len(node.outputs)} outputs")
        for i, (value, array) in enumerate(zip(node.outputs, results, strict=True)):
            if self.lift and value.dtype.is_floating_point and array.dtype != np.float64:
                results[i] = array = array.astype(np.float64)
            self._check(node, value.type, shapes[i], i, array)
        return results

    def _attr(self, record: registry.OpDef, key: str, value: Any) -> Any:
        kind = record.attrs[key].kind if key in record.attrs else ""
        if kind == "extents":
            return tuple(self._extent(record.name, key, e) for e in value)
        if self.lift:
            if kind == "dtype" and value.is_floating_point and record.name not in _DRAWN_IN_OWN_DTYPE:
                return float64
            if kind == "array":
                return self._lift_constant(value)
        return value

    def _extent(self, op: str, key: str, extent: Extent) -> int:
        try:
            return evaluate(extent, self.env)
        except KeyError as error:
            raise IngotError(f"{op}: attribute {key} needs the value of symbol {error}, which no input binds") from None

    def _lift_constant(self, array: np.ndarray) -> np.ndarray:
        if not dtype_from_numpy(array.dtype).is_floating_point or array.dtype == np.float64:
            return array
        found = self._lifted.get(id(array))
        if found is None:
            found = self._lifted[id(array)] = (array, array.astype(np.float64))
        return found[1]

    def _region(self, region: Graph) -> Callable[..., list[np.ndarray]]:
        return lambda *arrays: self.graph(region, arrays)

    def _shape(self, node: Node, value: Value) -> tuple[int, ...]:
        if value.type.is_static:
            return value.shape
        shape = tuple(self._extent(node.op, "shape", e) for e in value.shape)
        for extent, actual in zip(value.shape, shape, strict=True):
            if actual < 0:
                raise InputError(
                    f"{assignment(extent, self.env)} makes the extent {extent} of %{value.name} negative ({actual}): "
                    "the inputs are too small"
                )
        return shape

    def _check(self, node: Node, declared: TensorType, shape: tuple[int, ...], index: int, array: np.ndarray) -> None:
        dtype = float64 if self.lift and declared.dtype.is_floating_point else declared.dtype
        if array.dtype != dtype.numpy:
            raise IngotError(
                f"{node!r}: output {index} is declared {declared.dtype.name} but the reference gave {array.dtype}"
            )
        if array.shape != shape:
            raise IngotError(
                f"{node!r}: output {index} is declared {declared} but the reference gave shape {list(array.shape)}"
            )
