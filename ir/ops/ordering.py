"""``sort``: everything that has to do with the order of elements (top-k, medians, quantiles, ...) is built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import int64
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import check_axis, rounds_once, zeros

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value


def _infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    check_axis("sort", attrs["axis"], x.rank)
    return [x.with_shape(x.shape), TensorType(int64, x.shape)]


@rounds_once
def _reference(x: np.ndarray, axis: int, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    if descending:  # from the back, so that equal elements keep their order
        backwards = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
        indices = x.shape[axis] - 1 - np.flip(backwards, axis)
    else:
        indices = np.argsort(x, axis=axis, kind="stable")
    return np.take_along_axis(x, indices, axis), indices.astype(np.int64, copy=False)


def _vjp(g: GraphBuilder, node: Node, grads: list[Value | None]) -> list[Value | None]:
    dy = grads[0]
    if dy is None or not dy.dtype.is_floating_point:
        return [None]
    x = node.inputs[0]
    return [g.scatter_add(zeros(g, x.type), node.outputs[1], dy, axis=node.attrs["axis"])]


register(
    OpDef(
        "sort",
        _infer,
        _reference,
        Fusion.OPAQUE,
        attrs={"axis": Attr("int"), "descending": Attr("bool", False)},
        vjp=_vjp,
        num_outputs=2,
        doc="elements in order along axis, and where they were; equal ones keep their order, NaN counts as the largest",
    )
)
