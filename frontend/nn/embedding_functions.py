"""Tables read by index, and the bilinear form; ``nn.functional`` exports them."""

from __future__ import annotations

from typing import Any

from ...ir.dtypes import int64
from .. import creation, dispatch, elementwise, linalg, reduce, shaping
from ..distance import vector_norm
from ..elementwise import where
from ..grad_mode import no_grad
from ..tape.names import named, rename
from ..tensor import Tensor


def _flat_index(input: Tensor, rows: Any) -> Tensor:
    """The indices as one int64 axis; IndexError (eager) for one outside of the table."""
    if not input.dtype.is_integer:
        raise RuntimeError("Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, "
                           f"Int; but got {input.type()} instead")  # fmt: skip
    flat = dispatch.cast(shaping.reshape(input, -1), int64)
    if flat._value is None and flat._data.size and not 0 <= flat._data.min() <= flat._data.max() < rows:
        raise IndexError("index out of range in self")
    return flat


def _row_of_padding(padding_idx: int | None, rows: Any) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx + rows if padding_idx < 0 else padding_idx


def _counts(flat: Tensor, weight: Tensor) -> Tensor:
    """[V]: how often each row is read."""
    one = dispatch.scalar(1, weight.dtype)
    zeros = creation.zeros(weight.shape[0], dtype=weight.dtype)
    return dispatch.apply("scatter_add", zeros, flat, dispatch.apply("expand", one, shape=flat._extents), axis=0)


@no_grad()
def _limit(weight: Tensor, flat: Tensor, max_norm: float, norm_type: float) -> None:
    """Scales, in place, the rows that are read and longer than ``max_norm``."""
    size = vector_norm(weight, norm_type, 1, True)
    read = shaping.unsqueeze(_counts(flat, weight) > 0, 1)
    long = elementwise.logical_and(read, size > max_norm)
    dispatch.write(weight, where(long, weight * (max_norm / (size + 1e-7)), weight), "embedding_renorm_")


def _rows(
    weight: Tensor, flat: Tensor, padding: int | None, max_norm: float | None, norm_type: float, by_frequency: bool
) -> Tensor:
    """[n, D]; no gradient goes to the row of padding, and with ``by_frequency`` it is divided by the row's count."""
    if max_norm is not None:
        _limit(weight, flat, max_norm, norm_type)
    rows = dispatch.apply("index_select", weight, flat, axis=0)
    if padding is not None:
        rows = where(shaping.unsqueeze(flat == padding, 1), rows.detach(), rows)
    if by_frequency:
        fixed = rows.detach()
        often = dispatch.apply("index_select", _counts(flat, weight), flat, axis=0)
        rows = fixed + (rows - fixed) / shaping.unsqueeze(often, 1)
    return rows


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of ``weight`` [V, D] named by the integer ``input`` of any shape: [*, D].

    ``padding_idx``: a row without gradient. ``max_norm`` shortens, in place, rows that are read. ``sparse`` is
    accepted; gradients are dense all the same. IndexError (eager) for an index outside of the table.
    """
    padding = _row_of_padding(padding_idx, weight.shape[0])
    flat = _flat_index(input, weight.shape[0])
    rows = _rows(weight, flat, padding, max_norm, norm_type, scale_grad_by_freq)
    out = shaping.reshape(rows, *input._extents, *weight._extents[1:])
    rename(out, "EmbeddingBackward0")
    return out


@named("EmbeddingBagBackward0")
def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """Sums, means or maxima of bags of rows: [B, D].

    Input [B, n], a bag per row; or [n] with ``offsets`` [B], where each bag begins (its end included behind them with
    ``include_last_offset``). Rows of ``padding_idx`` count nowhere; an empty bag gives zeros.
    """
    if weight.dtype.is_integer and input.is_floating_point():
        raise TypeError("Argument order of nn.functional.embedding_bag was changed. Usage is "
                        "embedding_bag(input, weight, ...)")  # fmt: skip
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum or mean")
    if mode == "max" and (scale_grad_by_freq or sparse):
        what = "sparse weights" if sparse else "scaling the gradient by the frequency"
        raise ValueError(f"max mode does not support {what}")
    if per_sample_weights is not None:
        if input.shape != per_sample_weights.shape:
            raise ValueError(f"embedding_bag: If per_sample_weights ({list(per_sample_weights.shape)}) is not None, "
                             f"then it must have the same shape as the input ({list(input.shape)})")  # fmt: skip
        if mode != "sum":
            raise NotImplementedError(
                "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' "
                f"(got mode='{mode}'). Please open a feature request on GitHub."
            )
    padding = _row_of_padding(padding_idx, weight.shape[0])
    bags, of_bag = _bags(input, offsets, include_last_offset)
    flat = _flat_index(input, weight.shape[0])
    rows = _rows(weight, flat, padding, max_norm, float(norm_type), scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * shaping.reshape(per_sample_weights, -1, 1)
    if mode == "max":
        return _largest(rows, bags, of_bag, None if padding is None else flat != padding)
    if padding is not None:
        rows = where(shaping.unsqueeze(flat == padding, 1), 0.0, rows)
    index = shaping.expand(shaping.unsqueeze(of_bag, 1), *rows.shape)
    zeros = creation.zeros(bags, weight.shape[1], dtype=weight.dtype)
    total = dispatch.apply("scatter_add", zeros, index, rows, axis=0)
    if mode == "sum":
        return total
    counted = (flat == flat if padding is None else flat != padding).to(weight.dtype)
    size = dispatch.apply("scatter_add", creation.zeros(bags, dtype=weight.dtype), of_bag, counted, axis=0)
    return total / shaping.unsqueeze(size.clamp(min=1), 1)


def _bags(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Any, Tensor]:
    """(number of bags, the bag of every index)."""
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError("if input is 2D, then offsets has to be None, as input is treated is a mini-batch of "
                             f"fixed length sequences. However, found offsets of type {type(offsets)}")  # fmt: skip
        bags, size = input.shape
        rows = shaping.expand(shaping.reshape(creation.arange(bags), -1, 1), bags, size)
        return bags, shaping.reshape(rows, -1)
    if input.dim() != 1:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {input.dim()}")
    if offsets is None or offsets.dim() != 1:
        raise ValueError("offsets has to be a 1D Tensor but got None" if offsets is None else
                         "offsets has to be a 1D Tensor")  # fmt: skip
    if offsets._value is None and offsets._data.size and offsets._data[0] != 0:
        raise RuntimeError(f"offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from "
                           f"position 0. However, got {offsets._data[0]}")  # fmt: skip
    bags = offsets.shape[0] - include_last_offset
    begun = shaping.reshape(creation.arange(input.shape[0]), -1, 1) >= offsets[:bags]
    return bags, reduce.sum(begun, 1) - 1


def _largest(rows: Tensor, bags: Any, of_bag: Tensor, counted: Tensor | None) -> Tensor:
    if rows.shape[0] == 0:
        return creation.zeros(bags, rows.shape[1], dtype=rows.dtype)
    member = shaping.reshape(creation.arange(bags), -1, 1) == of_bag  # [B, n]
    if counted is not None:
        member = elementwise.logical_and(member, counted)
    # The position of the first maximum, so that one row gets the gradient.
    candidates = where(shaping.unsqueeze(member, 2), shaping.unsqueeze(rows.detach(), 0), -float("inf"))
    picked = dispatch.apply("gather", rows, reduce.argmax(candidates, 1), axis=0)
    return where(reduce.any(member, 1, keepdim=True), picked, 0.0)


@named("BilinearBackward0")
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W x2 + b over the last axes; weight [out, in1, in2], inputs [*, in1] and [*, in2]."""
    if input1._extents[:-1] != input2._extents[:-1]:
        raise RuntimeError("bilinear(): input batch dimensions do not match: "
                           f"got {list(input1.shape)} and {list(input2.shape)}")  # fmt: skip
    out, in1, in2 = weight.shape
    for i, (x, size) in enumerate(((input1, in1), (input2, in2)), 1):
        if x.shape[-1] != size:
            raise RuntimeError(f"bilinear(): input{i} size does not match weight size: got {x.shape[-1]} but expected "
                               f"{size}")  # fmt: skip
    rows = shaping.reshape(shaping.transpose(weight, 1, 2), out * in2, in1)
    part = shaping.reshape(linalg.linear(input1, rows), *input1.shape[:-1], out, in2)
    product = part * shaping.unsqueeze(input2, -2)
    result = reduce.sum(product, -1, dtype=product.dtype)
    return result if bias is None else result + bias


__all__ = ["bilinear", "embedding", "embedding_bag"]
