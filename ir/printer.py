"""Graphs as text that ``ir.parser`` reads back exactly.

One node per line: results, operator, operands, ``{attributes}``, result types, then as a comment the module path and
source line it came from. Arrays of more than eight elements appear as ``@name`` references; their
contents travel separately (``collect_constants``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import registry
from .dims import Dim, DimExpr
from .dtypes import DType, dtype_from_numpy
from .graph import Graph, Node, Value
from .layout import Layout
from .source import UNKNOWN, Source
from .types import TensorType

INLINE_ELEMENTS = 8
_IDENTIFIER = re.compile(r"[^\W\d]\w*\Z")
_SOURCE = re.compile(r"(?P<module>[^()\s]*) ?(?:\((?P<file>.+):(?P<line>\d+)\))?\Z")


def print_graph(graph: Graph) -> str:
    """The text of ``graph``, ending in a newline."""
    return "\n".join(_graph_lines(graph, "graph " + _name(graph.name), "", _Constants(graph), outer=None)) + "\n"


def print_node(node: Node) -> str:
    """One line for a node, without regions; for messages, so it copes with malformed nodes."""
    try:
        return _node_head(node, _Constants(None)) + _source_comment(node.source)
    except Exception:
        return repr(node)


def collect_constants(graph: Graph) -> dict[str, np.ndarray]:
    """Every array that ``print_graph(graph)`` shows as ``@name``, by that name."""
    return _Constants(graph).named


class _Constants:
    """Names for the arrays too large to print: that of the value, made unique; one name per array object."""

    def __init__(self, graph: Graph | None) -> None:
        self.named: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        for node in () if graph is None else _all_nodes(graph):
            for key, value in node.attrs.items():
                if isinstance(value, np.ndarray) and value.size > INLINE_ELEMENTS:
                    hint = node.outputs[0].name if node.op == "constant" else f"{node.outputs[0].name}.{key}"
                    self._add(value, hint)

    def _add(self, array: np.ndarray, hint: str) -> None:
        if id(array) in self._names:
            return
        name, n = hint, 0
        while name in self.named:
            n += 1
            name = f"{hint}_{n}"
        self.named[name] = array
        self._names[id(array)] = name

    def name(self, array: np.ndarray, default: str) -> str:
        return self._names.get(id(array), default)


def _all_nodes(graph: Graph) -> Iterator[Node]:
    graphs = [graph]
    while graphs:
        for node in graphs.pop():
            yield node
            graphs.extend(node.regions)


def _graph_lines(graph: Graph, head: str, indent: str, constants: _Constants, outer: Graph | None) -> list[str]:
    inputs = []
    for value, role in zip(graph.inputs, graph.roles, strict=True):
        shown = "" if outer is not None and role == "input" else f" {role}"
        inputs.append(f"%{value.name}: {value.type}{shown}")
    if len(inputs) > 4 and outer is None:
        head += "(\n" + ",\n".join(f"{indent}    {i}" for i in inputs) + f"\n{indent})"
    else:
        head += f"({', '.join(inputs)})"
    if graph.symbols and (outer is None or graph.symbols != _input_symbols(graph)):
        head += " dims(" + ", ".join(_dim(d) for d in graph.symbols.values()) + ")"
    lines = [head + " {"]
    inner = indent + "  "
    for node in graph:
        lines += _node_lines(node, inner, constants, graph)
    lines.append(inner + " ".join(["return", *_results(graph)]).rstrip())
    lines.append(indent + "}")
    return lines


def _input_symbols(graph: Graph) -> dict[str, Dim]:
    return {d.name: d for v in graph.inputs for d in v.type.symbols()}


def _dim(dim: Dim) -> str:
    return f"{dim.name} in {dim.min}..{'' if dim.max is None else dim.max}"


def _results(graph: Graph) -> Iterator[str]:
    last = len(graph.outputs) - 1
    for i, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        text = f"%{value.name} as {json.dumps(name)}"
        if i in graph.updates:
            text += f" updates %{graph.inputs[graph.updates[i]].name}"
        yield text + ("," if i < last else "")


def _node_lines(node: Node, indent: str, constants: _Constants, graph: Graph) -> list[str]:
    lines = [indent + _node_head(node, constants)]
    for region in node.regions:
        head = "region" if region.name == "main" else f"region {_name(region.name)}"
        body = _graph_lines(region, head, indent, constants, outer=graph)
        lines[-1] += " " + body[0]
        lines += body[1:]
    lines[-1] += _source_comment(node.source)
    return lines


def _node_head(node: Node, constants: _Constants) -> str:
    outs = ", ".join(f"%{o.name}" for o in node.outputs)
    ins = ", ".join(f"%{v.name}" for v in node.inputs)
    attrs = ""
    if node.attrs:
        declared = registry.get(node.op).attrs
        shown = (f"{k} = {_attr(declared[k].kind, v, node, constants)}" for k, v in node.attrs.items())
        attrs = " {" + ", ".join(shown) + "}"
    types = ", ".join(str(o.type) for o in node.outputs)
    return f"{outs} = {node.op}({ins}){attrs}" + (f" : {types}" if types else "")


def _attr(kind: str, value: Any, node: Node, constants: _Constants) -> str:
    if kind == "array":
        return _array(value, node.outputs[0], constants)
    if kind == "pairs":
        return _tuple(_tuple(map(str, p)) for p in value)
    if kind in ("ints", "extents"):
        return _tuple(map(str, value))
    if kind == "floats":
        return _tuple(map(scalar, value))
    return scalar(value)


def scalar(value: Any) -> str:
    """Text of a single attribute value; floats in Python's shortest exact form."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Layout):
        return f"@{value}"
    if isinstance(value, DimExpr):
        return str(value)
    raise TypeError(f"cannot print an attribute of type {type(value).__name__}")


def _tuple(items: Any) -> str:
    return "(" + ", ".join(items) + ")"


def _array(array: np.ndarray, value: Value, constants: _Constants) -> str:
    if array.size > INLINE_ELEMENTS:
        return f"@{constants.name(array, value.name)}"
    dtype = dtype_from_numpy(array.dtype)
    cast = {"f": float, "b": bool}.get(dtype.kind, int)
    return f"{TensorType(dtype, array.shape)}" + _tuple(scalar(cast(x)) for x in array.ravel())


def _name(name: str) -> str:
    return name if _IDENTIFIER.match(name) else json.dumps(name)


def _source_comment(source: Source) -> str:
    if source == UNKNOWN:
        return ""
    text = str(source)
    if parse_source(text) != source or "\n" in text or "\r" in text:
        text = json.dumps([source.module, source.file, source.line])
    return f"  # {text}"


def parse_source(text: str) -> Source:
    """Inverse of the comment behind a node: ``module (file:line)``, or a JSON triple for unusual names."""
    if text.startswith("["):
        try:
            module, file, line = json.loads(text)
            return Source(str(file), int(line), str(module))
        except (ValueError, TypeError):
            return UNKNOWN
    match = _SOURCE.match(text)
    if match is None:
        return UNKNOWN
    return Source(match["file"] or "", int(match["line"] or 0), match["module"] or "")
