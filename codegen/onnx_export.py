"""An IR graph as an ONNX model: one rule per operator (``onnx_rules*``), parameters as named initializers.

The graph is the one before fusion and layouts: what the tracer gives, with its states frozen to constants or passed
as arrays. Nothing here runs a pass; the reader of the file optimises for itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from ..ir.builder import GraphBuilder
from ..ir.dims import Dim, Extent
from ..ir.dtypes import bfloat16, float32
from ..ir.errors import UnsupportedError
from ..ir.graph import Graph, Node, Value
from ..ir.registry import get
from . import (  # noqa: F401  (fill the registry)
    onnx_rules,
    onnx_rules_elementary,
    onnx_rules_index,
    onnx_rules_nn,
    onnx_rules_resize,
)
from .onnx_emit import ONNX_TYPES, RULES, Emitter
from .onnx_rules_nn import is_gemm

OLDEST_OPSET = 17
DEFAULT_OPSET = 18
# Operators whose ONNX counterparts take bfloat16 only from opset 22 on.
_BFLOAT16_SINCE_22 = frozenset(
    {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh"}
    | {"round", "hardsigmoid", "hardswish", "elu", "softplus", "floor_divide", "det"}
    | {"conv", "conv_transpose", "max_pool", "avg_pool"}
    | {"tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "atan2"}
)
_PROTOBUF_LIMIT = 2**31 - 2**26

# Operators without a rule of their own, and why.
DECOMPOSED = {
    "batch_norm_train": "its batch statistics are results; exported as the arithmetic it stands for",
    "strided_view": "exported as a Gather from the flat operand",
}
_NO_SCAN = "ONNX has CumSum and no other running reduction"
NOT_EXPORTED = {
    "fused": "made by passes that run after export's graph is taken",
    "layout_cast": "made by passes that run after export's graph is taken",
    "random_uniform": "ONNX has no counter-based generator, so the same numbers could not be drawn",
    **dict.fromkeys(("cumprod", "logcumsumexp", "cummax", "cummin"), _NO_SCAN),
    "linear_recurrence": "a gradient; occurs in training graphs only",
    "conv_weight_grad": "a gradient; occurs in training graphs only",
    **dict.fromkeys(
        ("lgamma", "digamma", "polygamma", "igamma", "igammac", "i0", "i1", "erfinv", "gcd", "nextafter", "exponent"),
        "ONNX has no operator for it",
    ),
    "avg_pool_grad": "a gradient; occurs in training graphs only",
    "bitcast": "ONNX reads no value as another type",
    "cofactor": "a gradient; occurs in training graphs only",
    **dict.fromkeys(
        ("inverse", "slogdet", "solve", "pinv", "matrix_exp", "svd", "cholesky", "eigh", "qr"),
        "ONNX has no such operator",
    ),
}


def graph_to_onnx(
    graph: Graph,
    states: Mapping[str, np.ndarray] | None = None,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int = DEFAULT_OPSET,
    producer_version: str = "",
) -> onnx.ModelProto:
    """The model of an inference graph.

    Args:
        graph: unfused, without updates; not changed. Constants become initializers under their values' names.
        states: arrays for the graph inputs whose role is not ``"input"``, by name; they become initializers too.
        input_names, output_names: names instead of the graph's own, in order.
        opset_version: version of the ONNX operator set, 17 or newer.

    Raises:
        UnsupportedError: lists every operator that cannot be exported, with module path and line.
        ValueError: a wrong number of names, names that are not unique, or an unknown opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset_version <= newest:
        raise ValueError(f"opset_version must lie between {OLDEST_OPSET} and {newest}, not {opset_version}")
    if graph.updates:
        changed = [graph.output_names[i] for i in graph.updates]
        raise UnsupportedError("ONNX export: the graph overwrites its states; export the model in eval mode", changed)
    graph = _prepared(graph, opset_version)
    _check_supported(graph)

    model = onnx.ModelProto(producer_name="ingot", producer_version=producer_version)
    model.opset_import.append(helper.make_opsetid("", opset_version))
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    model.graph.name = graph.name
    emitter = Emitter(graph, opset_version, model.graph)
    inputs = [v for v, role in zip(graph.inputs, graph.roles, strict=True) if role == "input"]
    in_names = _chosen("input", [v.name for v in inputs], input_names)
    parameters = {v.name for v, role in zip(graph.inputs, graph.roles, strict=True) if role != "input"}
    parameters |= {node.output.name for node in graph if node.op == "constant"}
    used = parameters | set(in_names)
    own = [f"{n}_out" if n in used else n for n in graph.output_names]
    out_names = _chosen("output", own, output_names)
    clashes = (set(in_names) & parameters) | (set(out_names) & used)
    if clashes:
        raise ValueError(f"input and output names must differ from each other and from parameters: {sorted(clashes)}")
    emitter.reserve(in_names, out_names)
    emitter.names.update(zip(inputs, in_names, strict=True))
    for value, role in zip(graph.inputs, graph.roles, strict=True):
        if role != "input":
            emitter.names[value] = emitter.initializer(_state(states, value), value.name)

    _emit_nodes(emitter, graph, dict(zip(graph.outputs, out_names, strict=True)))
    model.graph.input.extend(_info(v, n) for v, n in zip(inputs, in_names, strict=True))
    for value, name in zip(graph.outputs, out_names, strict=True):
        if emitter.names[value] != name:  # an input, a constant, or a value that is returned twice
            emitter.nodes.append(helper.make_node("Identity", [emitter.names[value]], [name], name=f"output/{name}"))
        model.graph.output.append(_info(value, name))
    model.graph.node.extend(emitter.nodes)
    return model


def save_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Check ``model`` (onnx.checker, types and shapes inferred strictly) and write it to ``path`` atomically.

    Weights beyond protobuf's 2 GiB go to ``<path>.data`` beside it, as the format provides.
    """
    target = Path(path)
    large = sum(_nbytes(t) for t in model.graph.initializer) > _PROTOBUF_LIMIT
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        if large:
            data = f"{target.name}.data"
            onnx.save_model(model, temporary, save_as_external_data=True, location=data, convert_attribute=False)
            onnx.checker.check_model(str(temporary), full_check=True)
            os.replace(Path(folder) / data, target.parent / data)
        else:
            content = model.SerializeToString()
            onnx.checker.check_model(content, full_check=True)
            temporary.write_bytes(content)
        os.replace(temporary, target)


def _nbytes(tensor: onnx.TensorProto) -> int:
    return prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _chosen(what: str, own: Sequence[str], given: Sequence[str] | None) -> list[str]:
    names = list(own if given is None else given)
    if len(names) != len(own):
        raise ValueError(f"{what}_names has {len(names)} names {names}; the model has {len(own)} {what}s {list(own)}")
    if len(set(names)) != len(names):
        raise ValueError(f"{what} names are not unique: {names}")
    return names


def _state(states: Mapping[str, np.ndarray] | None, value: Value) -> np.ndarray:
    array = None if states is None else states.get(value.name)
    if array is None:
        raise ValueError(f"no array for the graph input %{value.name}; pass it in states or freeze it to a constant")
    array = np.asarray(array)
    if array.dtype != value.dtype.numpy or array.shape != value.shape:
        raise ValueError(f"%{value.name} is {value.type}, its array is {array.dtype}{list(array.shape)}")
    return array


def _prepared(graph: Graph, opset: int) -> Graph:
    """The graph with what ONNX lacks written in other operators; the same object if there is nothing to do."""

    def narrow(node: Node) -> bool:
        return opset < 22 and node.op in _BFLOAT16_SINCE_22 and node.inputs[0].dtype is bfloat16

    if not any(node.op in DECOMPOSED or narrow(node) for node in graph):
        return graph
    graph, _ = graph.clone()
    for node in graph.nodes:
        builder = GraphBuilder(graph, node, node.source)
        decompose = get(node.op).decompose
        if node.op in DECOMPOSED and decompose is not None:
            results = decompose(builder, node)
        elif narrow(node):
            results = _in_float32(builder, node)
        else:
            continue
        for old, new in zip(node.outputs, results, strict=True):
            graph.replace_uses(old, new)
            new.name, old.name = old.name, new.name  # the user's name stays with the user's value
    graph.prune()
    return graph


def _in_float32(builder: GraphBuilder, node: Node) -> list[Value]:
    """The same operator between casts; the IR's own rule for 16-bit floats is to round once at the end."""
    operands = [builder.cast(v, dtype=float32) if v.dtype is bfloat16 else v for v in node.inputs]
    results = builder.emit(node.op, operands, **node.attrs).outputs
    return [
        builder.cast(new, dtype=bfloat16) if old.dtype is bfloat16 else new
        for old, new in zip(node.outputs, results, strict=True)
    ]


def _check_supported(graph: Graph) -> None:
    items = []
    for node in graph:
        if node.op not in RULES:
            reason = NOT_EXPORTED.get(node.op, "there is no rule for it")
            items.append(f"{node.op} {node.source}: {reason}")
        elif not all(v.type.layout.is_dense for v in (*node.inputs, *node.outputs)):
            items.append(f"{node.op} {node.source}: a blocked layout; export the graph before layout passes")
    if items:
        raise UnsupportedError("ONNX export: these operators cannot be exported:", items)


def _emit_nodes(emitter: Emitter, graph: Graph, wanted: Mapping[Value, str]) -> None:
    biases, absorbed = _find_biases(graph)
    refused = []
    for node in graph:
        if node in absorbed:
            continue
        source, operands = node, list(node.inputs)
        if node in biases:
            source, bias = biases[node]
            operands = [*source.inputs, bias]
        emitter.begin(source)
        try:
            results = RULES[source.op](emitter, source, [emitter.names[v] for v in operands])
        except UnsupportedError as error:
            refused.append(f"{source.op} {source.source}: {error}")
            results = [emitter.fresh("refused") for _ in node.outputs]
        for value, result in zip(node.outputs, [results] if isinstance(results, str) else results, strict=False):
            emitter.bind(value, result, wanted.get(value), value.name)
    if refused:
        raise UnsupportedError("ONNX export: these operators cannot be exported:", refused)


def _find_biases(graph: Graph) -> tuple[dict[Node, tuple[Node, Value]], set[Node]]:
    """Additions that are the bias of a convolution or matrix product.

    Returns add -> (contraction, bias value), and the nodes that this makes superfluous.
    """
    found: dict[Node, tuple[Node, Value]] = {}
    absorbed: set[Node] = set()
    outputs = graph.output_set()
    for add in graph:
        if add.op != "add":
            continue
        for product, other in (add.inputs, reversed(add.inputs)):
            node = product.producer
            if (
                node is None
                or node.op not in ("conv", "conv_transpose", "matmul")
                or product in outputs
                or product.users != {add: 1}
                or product.shape != add.output.shape
            ):
                continue
            bias = _matrix_bias(node, other) if node.op == "matmul" else _channel_bias(product, other)
            if bias is None:
                continue
            found[add] = (node, bias)
            absorbed.add(node)
            break
    # The reshape of a bias goes too when nothing else reads it.
    for add, (_, bias) in found.items():
        for value in add.inputs:
            reshape = value.producer
            if reshape is None or reshape.op != "reshape" or reshape.inputs[0] is not bias or value in outputs:
                continue
            if all(user in found for user in value.users):
                absorbed.add(reshape)
    return found, absorbed


def _channel_bias(product: Value, other: Value) -> Value | None:
    """The vector [C] that ``other`` spreads over axis 1, or None."""
    reshape = other.producer
    if reshape is None or reshape.op != "reshape" or not product.dtype.is_floating_point:
        return None
    (vector,) = reshape.inputs
    channels, spatial = product.shape[1], product.type.rank - 2
    shape = (1,) * (spatial + 2 - other.type.rank) + tuple(other.shape)
    return vector if vector.shape == (channels,) and shape == (1, channels, *(1,) * spatial) else None


def _matrix_bias(node: Node, other: Value) -> Value | None:
    """``other`` if Gemm can broadcast it over the rows, or None."""
    columns = node.output.shape[1] if node.output.type.rank == 2 else None
    return other if is_gemm(node) and other.shape in ((columns,), (1, columns)) else None


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[value.dtype], [_extent(e) for e in value.shape])


def _extent(extent: Extent) -> int | str:
    """A number, or the name or formula of a symbolic extent as ONNX's dimension parameter."""
    if isinstance(extent, (int, Dim)):
        return extent if isinstance(extent, int) else extent.name
    return str(extent)
