"""Folds batch norm with constant statistics into the weights of a neighbouring convolution or linear layer.

With s = weight / sqrt(var + eps) and t = bias - mean * s, per channel:

    behind:    bn(conv(x, w) + b)   =  conv(x, w * s) + (b * s + t)
    in front:  conv(bn(x), w)       =  conv(x, w * s) + sum(w * t)
    otherwise: bn(x)                =  x * s + t

(conv stands for conv, conv_transpose and matmul with a constant right operand.) In front is exact only where the
convolution reads no padding, because padded zeros come after the shift; with padding, or in front of a
transposed convolution, it needs t = 0. All of it is computed in float64 and rounded once. The weight must be
a constant with no other user, and the value in between must be used once: nothing is ever computed twice and a
shared weight is never copied. Each ``check`` returns the reason why it does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.builder import GraphBuilder
from ..ir.graph import Graph, Node, Value
from ..ir.source import UNKNOWN
from .manager import Pass, PassContext
from .rewrite import remove_dead, single_use

BEHIND = "bn(conv(x, w) + b) = conv(x, w * s) + (b * s + t)"
IN_FRONT = "conv(bn(x), w) = conv(x, w * s) + sum(w * t)"
SCALE_SHIFT = "bn(x) = x * s + t"
_LINEAR = ("conv", "conv_transpose", "matmul")


class FoldBatchNorm(Pass):
    """See the module's text; order of preference: behind, in front, scale and shift."""

    name = "fold-batch-norm"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        count = 0
        for node in graph.find("batch_norm"):
            affine = affine_of(node)
            if isinstance(affine, str):
                ctx.refused(SCALE_SHIFT, node, affine)
                continue
            for rule, fold in ((BEHIND, fold_behind), (IN_FRONT, fold_in_front), (SCALE_SHIFT, scale_shift)):
                reason = fold(graph, node, affine)
                if reason is None:
                    ctx.fired(rule, node)
                    break
                ctx.refused(rule, node, reason)
            remove_dead(graph, node)
            count += 1
        return count


@dataclass(frozen=True)
class Affine:
    """y = x * scale + shift per channel, in float64, and the name the new constants derive from."""

    scale: np.ndarray
    shift: np.ndarray
    name: str


def affine_of(node: Node) -> Affine | str:
    """The scale and shift of a ``batch_norm`` node, or why there is none."""
    if any(not v.type.layout.is_dense for v in (*node.inputs, *node.outputs)):
        return "layouts are already assigned"
    parameters = []
    for role, value in zip(("weight", "bias", "mean", "var"), node.inputs[1:], strict=True):
        array = constant_vector(value, value.shape[0])
        if array is None:
            return f"{role} %{value.name} is not constant"
        parameters.append(array)
    weight, bias, mean, var = parameters
    with np.errstate(all="ignore"):
        scale = weight / np.sqrt(var + float(node.attrs["eps"]))
        shift = bias - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return "its scale or shift is not finite"
    return Affine(scale, shift, node.inputs[2].name)


def constant_vector(value: Value, channels: int) -> np.ndarray | None:
    """A constant with at most one axis that is not 1, seen through reshape and expand, as float64 [channels]."""
    if not isinstance(channels, int):
        return None
    while value.producer is not None and value.producer.op in ("reshape", "expand"):
        value = value.producer.inputs[0]
    if not value.is_constant or value.constant.size not in (1, channels):
        return None
    return np.broadcast_to(value.constant.astype(np.float64).reshape(-1), (channels,))


# -- behind -----------------------------------------------------------------------------------------
def fold_behind(graph: Graph, bn: Node, affine: Affine) -> str | None:
    """Fold into the operator in front of ``bn``; None when done, else the reason."""
    x = bn.inputs[0]
    found = _through_bias(graph, x, channel_axis=1)
    if isinstance(found, str):
        return found
    linear, bias = found
    reason = check_linear(graph, linear) or _check_channels_out(linear)
    if reason:
        return reason
    new_weight = _scaled(linear.inputs[1].constant, _per_output(linear, affine.scale))
    new_bias = affine.shift if bias is None else bias * affine.scale + affine.shift
    return _replace(graph, linear, linear.inputs[0], new_weight, new_bias, affine, bn)


def _through_bias(graph: Graph, x: Value, channel_axis: int) -> tuple[Node, np.ndarray | None] | str:
    """The linear operator that makes ``x``, with the constant bias added in between, if any."""
    node = x.producer
    if node is None:
        return f"its operand %{x.name} is a graph input"
    bias = None
    if node.op == "add":
        for linear, other in (node.inputs, node.inputs[::-1]):
            if linear.producer is not None and linear.producer.op in _LINEAR:
                bias = bias_vector(other, x, channel_axis)
                if bias is None:
                    return f"%{other.name}, added in between, is not a constant per channel"
                if not single_use(graph, x):
                    return f"%{x.name} has other users"
                x, node = linear, linear.producer
                break
    if node.op not in _LINEAR:
        return f"its operand is made by {node.op}"
    if not single_use(graph, x):
        return f"%{x.name} has other users"
    return node, bias


def bias_vector(value: Value, like: Value, axis: int) -> np.ndarray | None:
    """``value`` as float64 [channels] if it broadcasts against ``like`` as one number per channel, else None."""
    lead = like.type.rank - value.type.rank
    if lead < 0 or any(e != 1 for i, e in enumerate(value.shape, lead) if i != axis):
        return None
    channels = like.shape[axis]
    return constant_vector(value, channels) if isinstance(channels, int) else None


# -- in front ---------------------------------------------------------------------------------------
def fold_in_front(graph: Graph, bn: Node, affine: Affine) -> str | None:
    """Fold into the operator that reads ``bn``; None when done, else the reason."""
    y = bn.output
    if not single_use(graph, y):
        return f"%{y.name} has other users or is a result"
    (linear,) = y.users
    if linear.op not in _LINEAR or linear.inputs[0] is not y:
        return f"its user is {linear.op}"
    reason = check_linear(graph, linear)
    if reason:
        return reason
    if linear.op == "matmul" and (linear.attrs["transpose_a"] or y.type.rank != 2):
        return "the channels are not the summed axis of the matmul"
    if affine.shift.any():
        if linear.op == "conv_transpose":
            return "the shift is not zero, and at the borders of a transposed convolution fewer terms overlap"
        if linear.op == "conv" and any(any(pair) for pair in linear.attrs["padding"]):
            return "the shift is not zero and the convolution pads with zeros"
    weight = linear.inputs[1].constant
    scale, shift = (_per_input(linear, v) for v in (affine.scale, affine.shift))
    bias = None
    if affine.shift.any():
        contracted = 0 if linear.op == "matmul" and not linear.attrs["transpose_b"] else 1
        axes = (contracted,) if linear.op == "matmul" else tuple(range(1, weight.ndim))
        bias = (weight.astype(np.float64) * shift).sum(axis=axes)
    target, own = _following_bias(graph, linear)
    if own is not None:
        bias = own if bias is None else own + bias
    return _replace(graph, linear, bn.inputs[0], _scaled(weight, scale), bias, affine, target)


def _following_bias(graph: Graph, linear: Node) -> tuple[Node, np.ndarray | None]:
    """The ``add`` of a constant bias behind ``linear`` with that bias; ``linear`` itself if there is none."""
    if single_use(graph, linear.output):
        (add,) = linear.output.users
        if add.op == "add":
            other = add.inputs[1] if add.inputs[0] is linear.output else add.inputs[0]
            axis = linear.output.type.rank - 1 if linear.op == "matmul" else 1
            bias = bias_vector(other, add.output, axis) if add.output.shape == linear.output.shape else None
            if bias is not None:
                return add, bias
    return linear, None


# -- otherwise --------------------------------------------------------------------------------------
def scale_shift(graph: Graph, bn: Node, affine: Affine) -> str | None:
    """Replace ``bn`` by mul and add of constants; always applies."""
    x = bn.inputs[0]
    shape = (len(affine.scale), *[1] * (x.type.rank - 2))
    g = GraphBuilder(graph, bn, bn.source)
    y = x
    for op, vector, name in (("mul", affine.scale, bn.inputs[1].name), ("add", affine.shift, affine.name)):
        constant = _constant(graph, bn, vector.reshape(shape), x, name, bn)
        y = g.emit(op, [y, constant], name=bn.output.name).output
    graph.replace_uses(bn.output, y)
    return None


# -- shared -----------------------------------------------------------------------------------------
def check_linear(graph: Graph, node: Node) -> str | None:
    """None if the weight of ``node`` may be replaced, else the reason."""
    weight = node.inputs[1]
    if any(not v.type.layout.is_dense for v in (*node.inputs, *node.outputs)):
        return "layouts are already assigned"
    if not weight.is_constant:
        return f"the weight %{weight.name} is not constant"
    if not single_use(graph, weight):
        return f"the weight %{weight.name} is shared"
    if node.op == "matmul" and weight.type.rank != 2:
        return f"the weight %{weight.name} has rank {weight.type.rank}, not 2"
    return None


def _check_channels_out(linear: Node) -> str | None:
    # Batch norm works on axis 1, which is the last axis of a matmul only when that has rank 2.
    if linear.op == "matmul" and linear.output.type.rank != 2:
        return "the channels are not the columns of the matmul"
    return None


def _per_output(linear: Node, vector: np.ndarray) -> np.ndarray:
    """``vector`` over output channels, shaped to broadcast against the weight."""
    shape, rank = linear.inputs[1].shape, linear.inputs[1].type.rank
    if linear.op == "matmul":
        return vector[:, None] if linear.attrs["transpose_b"] else vector
    if linear.op == "conv":
        return vector.reshape(-1, *[1] * (rank - 1))
    # conv_transpose: w is [O, C/g, ...] and makes C channels; block j of O makes block j of C.
    groups = linear.attrs["groups"]
    rows = np.repeat(vector.reshape(groups, -1), shape[0] // groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (rank - 2))


def _per_input(linear: Node, vector: np.ndarray) -> np.ndarray:
    """``vector`` over input channels, shaped to broadcast against the weight."""
    shape, rank = linear.inputs[1].shape, linear.inputs[1].type.rank
    if linear.op == "matmul":
        return vector if linear.attrs["transpose_b"] else vector[:, None]
    if linear.op == "conv_transpose":
        return vector.reshape(-1, *[1] * (rank - 1))
    groups = linear.attrs["groups"]
    rows = np.repeat(vector.reshape(groups, -1), shape[0] // groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (rank - 2))


def _replace(
    graph: Graph, linear: Node, x: Value, weight: np.ndarray, bias: np.ndarray | None, affine: Affine, target: Node
) -> str | None:
    """Put ``linear`` on ``x`` with new weights in the place of ``target``; None when done, else the reason."""
    old = linear.inputs[1]
    limit = old.dtype.max
    if not np.isfinite(weight).all() or (bias is not None and np.abs(bias).max(initial=0) > limit):
        return f"the folded weights do not fit {old.dtype.name}"
    new = _constant(graph, target, weight, old, old.name, old.producer)
    g = GraphBuilder(graph, target, linear.source)
    name = target.output.name
    result = g.emit(linear.op, [x, new], name=linear.output.name, **linear.attrs).output
    if bias is not None:
        shape = (-1,) if linear.op == "matmul" else (-1, *[1] * (result.type.rank - 2))
        g.source = target.source
        result = g.emit(
            "add", [result, _constant(graph, target, bias.reshape(shape), old, affine.name, target)], name=name
        ).output
    graph.replace_uses(target.output, result)
    remove_dead(graph, target)
    return None


def _scaled(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``weight * scale`` computed in float64 and rounded once; the wide values never leave NumPy's buffers."""
    with np.errstate(over="ignore", invalid="ignore"):
        if weight.dtype.kind != "f":  # bfloat16 has no such loop
            return (weight.astype(np.float64) * scale).astype(weight.dtype)
        out = np.empty(np.broadcast_shapes(weight.shape, scale.shape), weight.dtype)
        return np.multiply(weight, scale, out=out, dtype=np.float64, casting="same_kind")


def _constant(graph: Graph, before: Node, array: np.ndarray, like: Value, name: str, origin: Node | None) -> Value:
    """A new constant in the dtype of ``like``, named after what it replaces."""
    rounded = np.ascontiguousarray(array.astype(like.dtype.numpy, copy=False))
    value = graph.constant(rounded, f"{name}_bn", before=before)
    assert value.producer is not None
    value.producer.source = origin.source if origin is not None else UNKNOWN
    return value
