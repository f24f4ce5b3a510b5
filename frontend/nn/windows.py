"""What convolution, pooling and folding have in common: sizes given as one int or several, and inputs without batch."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ShapeError
from .. import dispatch, shaping
from ..tape.names import named, rename
from ..tensor import Tensor


def pair(value: Any, name: str, n: int = 2) -> tuple[int, ...]:
    """``value`` as n ints; RuntimeError if it is neither one int nor n of them."""
    if isinstance(value, (tuple, list)):
        if len(value) == 1:
            value = tuple(value) * n
        if len(value) != n:
            raise RuntimeError(f"{name} must be one int or {n} of them, got {tuple(value)}")
        return tuple(int(v) for v in value)
    return (int(value),) * n


def batched(input: Tensor, name: str, rank: int) -> tuple[Tensor, bool]:
    """Input as [N, C, spatial...] with ``rank`` spatial axes, and whether a batch axis was added."""
    dispatch.require_tensor(input, name)
    if input.dim() == rank + 2:
        return input, False
    if input.dim() == rank + 1:
        return shaping.unsqueeze(input, 0), True
    raise ShapeError(f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {name}, but got input of "
                     f"size: {list(input.shape)}")  # fmt: skip


def unbatched(output: Tensor, added: bool) -> Tensor:
    """The result without the batch axis that ``batched`` added."""
    return named("SqueezeBackward1")(shaping.reshape)(output, *output._extents[1:]) if added else output


def label(output: Tensor, rank: int, word: str, since: int) -> None:
    """Names the last node since ``since`` as PyTorch does: over one axis it squeezes what has two."""
    rename(output, "SqueezeBackward1" if rank == 1 else f"{word.format(rank)}Backward0", since)
