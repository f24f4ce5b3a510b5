"""Normalisation, dropout, embedding; ``nn.functional`` exports them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ...ir import dims, dtypes
from ...ir.errors import ShapeError
from .. import dispatch, elementwise, promotion, random, shaping
from ..size import provably, wrap
from ..tensor import Tensor


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalises axis 1 of [N, C, ...] by batch statistics (training) or the running ones.

    In training the running tensors move by ``momentum`` (a number or 0-d tensor) towards the batch mean
    and the unbiased batch variance. ValueError for a single value per channel in training.
    """
    dispatch.require_tensor(input, "batch_norm")
    shape = input._extents
    if len(shape) < 2:
        raise ShapeError(f"batch_norm: expected at least 2 axes [N, C, ...], got input of size {list(input.shape)}")
    channels = shape[1]
    scale = weight if weight is not None else _constant(1, channels, input)
    shift = bias if bias is not None else _constant(0, channels, input)
    scale, shift = dispatch.cast(scale, input.dtype), dispatch.cast(shift, input.dtype)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        mean, var = dispatch.cast(running_mean, input.dtype), dispatch.cast(running_var, input.dtype)
        return dispatch.apply("batch_norm", input, scale, shift, mean, var, eps=eps)
    count = wrap(dims.product((shape[0], *shape[2:])))
    if provably(lambda: count == 1):
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
    out, mean, var = dispatch.apply("batch_norm_train", input, scale, shift, eps=eps)
    if running_mean is not None:
        _move(running_mean, mean, momentum)
    if running_var is not None:
        if isinstance(count, int):
            unbiased = elementwise.mul(var, count / (count - 1))
        else:
            n = promotion.operand(count, var.dtype)
            unbiased = elementwise.mul(var, elementwise.div(n, elementwise.sub(n, 1)))
        _move(running_var, unbiased, momentum)
    return out


def _constant(value: int, channels: Any, like: Tensor) -> Tensor:
    return dispatch.apply("expand", dispatch.scalar(value, like.dtype), shape=(channels,))


def _move(running: Tensor, batch: Tensor, momentum: Any) -> None:
    kept = elementwise.mul(running, 1 - momentum if not isinstance(momentum, Tensor) else elementwise.sub(1, momentum))
    running._assign(elementwise.add(kept, elementwise.mul(dispatch.cast(batch, running.dtype), momentum)))


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalises over the trailing axes, which must have ``normalized_shape``."""
    tail = tuple(normalized_shape)
    if input.dim() < len(tail) or tuple(input._extents[input.dim() - len(tail) :]) != tail:
        raise ShapeError(f"Given normalized_shape={list(tail)}, expected input with shape [*, "
                         f"{', '.join(map(str, tail))}], but got input of size{list(input.shape)}")  # fmt: skip
    if (weight is None) == (bias is None):
        operands = () if weight is None else (weight, bias)
        return dispatch.apply("layer_norm", input, *operands, ndim=len(tail), eps=eps)
    out = dispatch.apply("layer_norm", input, ndim=len(tail), eps=eps)
    return elementwise.mul(out, weight) if weight is not None else elementwise.add(out, bias)


def _drop(input: Tensor, mask_shape: tuple[Any, ...], p: float, inplace: bool, name: str) -> Tensor:
    if p == 1.0:
        out = elementwise.mul(input, 0.0)
    else:
        # float32 whatever the input's dtype, so that the mask does not depend on it.
        keep = elementwise.ge(random.uniform(mask_shape), p)
        out = elementwise.mul(elementwise.mul(input, dispatch.cast(keep, input.dtype)), 1.0 / (1.0 - p))
    return dispatch.write(input, out, name) if inplace else out


def _check_p(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes each element with probability p and scales the rest by 1 / (1 - p); identity if not training."""
    _check_p(p)
    return _drop(input, input._extents, p, inplace, "dropout_") if training and p else input


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes whole channels of [N, C, H, W] (or [C, H, W])."""
    _check_p(p)
    rank = input.dim()
    if rank not in (3, 4):
        warnings.warn(f"dropout2d: Received a {rank}-D input to dropout2d, which is deprecated and will result in an "
                      "error in a future release.", stacklevel=2)  # fmt: skip
    if not training or not p:
        return input
    # The mask spans the first two axes; PyTorch reads 3-d input as [N, C, L] here, with a warning elsewhere.
    lead = 1 if rank == 3 else 2
    shape = (*input._extents[:lead], *([1] * (rank - lead)))
    return _drop(input, shape, p, inplace, "dropout2d_")


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of ``weight`` [V, D] named by the integer ``input`` of any shape: [*, D].

    IndexError (eager) for an index outside the table; renormalisation and sparse gradients are refused.
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding: max_norm, scale_grad_by_freq and sparse are not supported")
    if not input.dtype.is_integer:
        raise RuntimeError("Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, "
                           f"Int; but got {input.type()} instead")  # fmt: skip
    flat = dispatch.cast(shaping.reshape(input, -1), dtypes.int64)
    if (
        flat._value is None
        and flat._data.size
        and not 0 <= int(flat._data.min()) <= int(flat._data.max()) < weight.shape[0]
    ):
        raise IndexError("index out of range in self")
    rows = dispatch.apply("index_select", weight, flat, axis=0)
    return shaping.reshape(rows, *input._extents, *weight._extents[1:])


__all__ = ["batch_norm", "dropout", "dropout2d", "embedding", "layer_norm"]
