"""Attention; ``nn.functional`` exports it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dtypes import DType, bool_, float32, int64
from .. import dispatch, elementwise, linalg, reduce, shaping, tracing
from .activation_functions import softmax
from .dropout_functions import dropout

if TYPE_CHECKING:
    from ...ir.dims import Extent
    from ..tensor import Tensor

_NAME = "_scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key^T * scale + mask) @ value over the last two axes; compiled, it is one kernel.

    Args:
        query: [..., L, E]; key: [..., S, E]; value: [..., S, Ev]; the leading axes broadcast.
        attn_mask: broadcasts to [..., L, S]; bool (True takes part) or added to the scores. A query that no key
            takes part for gives zeros, as in PyTorch.
        dropout_p: weights dropped, whether or not the module trains.
        is_causal: query i sees keys 0 to i; not together with attn_mask.
        scale: 1 / sqrt(E) by default.
        enable_gqa: key and value may have fewer heads (third last axis), a divisor of query's.

    Raises:
        RuntimeError: ranks, dtypes, heads or masks do not fit, in PyTorch's words.
    """
    tensors = (query, key, value)
    for name, t in zip(("query", "key", "value"), tensors, strict=True):
        dispatch.require_tensor(t, "scaled_dot_product_attention", name)
    ranks = [t.dim() for t in tensors]
    if min(ranks) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{ranks[0]} key.dim: {ranks[1]} and value.dim: {ranks[2]} instead."
        )
    if len({t.dtype for t in tensors}) != 1:
        kinds = [dispatch.type_word(t.dtype).lower() for t in tensors]
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{kinds[0]} key.dtype: {kinds[1]} and value.dtype: {kinds[2]} instead."
        )
    if is_causal and attn_mask is not None:
        raise RuntimeError(f"{_NAME}: Explicit attn_mask should not be set when is_causal=True")
    if enable_gqa:
        key, value = _repeated(key, query), _repeated(value, query)
    size = query._extents[-1]
    if scale is None:
        if not isinstance(size, int):
            raise RuntimeError("scaled_dot_product_attention: give scale= where the size of a head is symbolic")
        scale = 1.0 / math.sqrt(size) if size else 1.0
    dtype = query.dtype
    if dtype.bits == 16 and query._value is None and tracing.current() is None:
        # The compiled kernel keeps scores and weights in float32; eager operators would round each of them.
        query, key, value = (dispatch.cast(t, float32) for t in (query, key, value))
    scores = elementwise.mul(linalg.matmul(query, shaping.transpose(key, -2, -1)), scale)
    seen = None
    if is_causal:
        rows, columns = _positions(scores, -2), _positions(scores, -1)
        scores = elementwise.where(elementwise.ge(rows, columns), scores, -math.inf)
    elif attn_mask is not None:
        scores, seen = _masked(scores, attn_mask, dtype)
    weights = dropout(softmax(scores, -1), dropout_p)
    out = dispatch.cast(linalg.matmul(weights, value), dtype)
    return out if seen is None else elementwise.where(seen, out, 0.0)


def _repeated(t: Tensor, query: Tensor) -> Tensor:
    """``t`` with each head repeated next to itself until there are as many as in ``query``."""
    if t.dim() < 3 or query.dim() < 3:
        raise RuntimeError("scaled_dot_product_attention: enable_gqa needs an axis of heads, the third last")
    have, want = t._extents[-3], query._extents[-3]
    if not isinstance(have, int) or not isinstance(want, int):
        raise RuntimeError("scaled_dot_product_attention: enable_gqa needs known numbers of heads")
    if have == 0 or want % have:
        raise RuntimeError("Number of heads in key and value must divide the number of heads in query")
    if have == want:
        return t
    lead, tail = t._extents[:-3], t._extents[-2:]
    wide = shaping.expand(shaping.unsqueeze(t, -3), *lead, have, want // have, *tail)
    return shaping.reshape(wide, *lead, want, *tail)


def _positions(scores: Tensor, axis: int) -> Tensor:
    """The index along an axis of the scores, [L, 1] or [1, S]; traced, so that the kernel computes it."""
    extent = scores._extents[axis]
    shape: tuple[Extent, Extent] = (extent, 1) if axis == -2 else (1, extent)
    attrs = {"shape": shape, "axis": axis + 2, "dtype": int64}
    tracer = tracing.current()
    return dispatch.apply("iota", **attrs) if tracer is None else tracer.record("iota", [], attrs)


def _masked(scores: Tensor, mask: Tensor, dtype: DType) -> tuple[Tensor, Tensor | None]:
    """The masked scores of a query of this dtype, and which queries have a key at all (None: all). Those without keep
    their scores, so that neither their weights nor their gradients become NaN."""
    dispatch.require_tensor(mask, "scaled_dot_product_attention", "attn_mask")
    if mask.dtype not in (bool_, dtype, float32):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{dispatch.type_word(mask.dtype).lower()} and  query.dtype: "
            f"{dispatch.type_word(dtype).lower()} instead."
        )
    given = mask if mask.dtype is bool_ else elementwise.gt(mask, -math.inf)
    seen = reduce.any(given, -1, keepdim=True)
    if seen._value is None and bool(np.all(seen.numpy())):
        found = None
    else:
        found = seen
        mask = (
            elementwise.logical_or(mask, elementwise.logical_not(seen))
            if mask.dtype is bool_
            else elementwise.where(seen, mask, 0.0)
        )
    if mask.dtype is bool_:
        return elementwise.where(mask, scores, -math.inf), found
    return elementwise.add(scores, dispatch.cast(mask, scores.dtype)), found


__all__ = ["scaled_dot_product_attention"]
