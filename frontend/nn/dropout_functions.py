"""Dropout; ``nn.functional`` exports it. Masks come from the counter-based generator: the same eager and compiled."""

from __future__ import annotations

import warnings
from typing import Any

from .. import dispatch, elementwise, random
from ..tape.names import named
from ..tensor import Tensor

_ALPHA = 1.7580993408473766  # -(the limit of selu at -infinity)


def _check_p(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _keep(shape: tuple[Any, ...], p: float, like: Tensor) -> Tensor:
    """1 with probability 1 - p, else 0. Drawn in float32 whatever the dtype, so that the mask does not depend on it."""
    return dispatch.cast(elementwise.ge(random.uniform(shape), p), like.dtype)


def _run(function: Any, input: Tensor, p: float, training: bool, inplace: bool, name: str) -> Tensor:
    """``function(x)`` where there is something to drop, written into ``input`` if ``inplace``."""
    _check_p(p)
    if not training or p == 0:
        return input
    compute = (lambda x: elementwise.mul(x, 0.0)) if p == 1 else function
    return dispatch.inplace(compute, f"{name}_")(input) if inplace else compute(input)


def _drop(input: Tensor, lead: int, p: float, training: bool, inplace: bool, name: str) -> Tensor:
    """Zeroes elements that share the first ``lead`` indices together."""

    @named("MulBackward0")
    def compute(x: Tensor) -> Tensor:
        mask = _keep((*x._extents[:lead], *(1,) * (x.dim() - lead)), p, x)
        return elementwise.mul(x, elementwise.mul(mask, 1.0 / (1.0 - p)))

    return _run(compute, input, p, training, inplace, name)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes each element with probability p and scales the rest by 1 / (1 - p); identity if not training."""
    return _drop(input, input.dim(), p, training, inplace, "dropout")


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes whole channels of [N, C, L] (or [C, L]); RuntimeError for other ranks."""
    _check_p(p)
    rank = input.dim()
    if rank not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, but received a {rank}D input. Note that dropout1d "
                           "exists to provide channel-wise dropout on inputs with 1 spatial dimension, a channel "
                           "dimension, and an optional batch dimension (i.e. 2D or 3D inputs).")  # fmt: skip
    return _drop(input, rank - 1, p, training, inplace, "dropout1d")


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes whole channels of [N, C, H, W]. As in PyTorch, 3-d input is read as [N, C, L], with a warning."""
    _check_p(p)
    rank = input.dim()
    if rank not in (3, 4):
        warnings.warn(f"dropout2d: Received a {rank}-D input to dropout2d, which is deprecated and will result in an "
                      "error in a future release. To retain the behavior and silence this warning, please use dropout "
                      "instead. Note that dropout2d exists to provide channel-wise dropout on inputs with 2 spatial "
                      "dimensions, a channel dimension, and an optional batch dimension (i.e. 3D or 4D inputs).",
                      stacklevel=2)  # fmt: skip
    if rank == 3:
        warnings.warn("dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior "
                      "is desired - input is interpreted as shape (N, C, L), where C is the channel dim. This behavior "
                      "will change in a future release to interpret the input as one without a batch dimension, i.e. "
                      "shape (C, H, W). To maintain the 1D channel-wise dropout behavior, please switch to using "
                      "dropout1d instead.", stacklevel=2)  # fmt: skip
    return _drop(input, 2, p, training, inplace, "dropout2d")


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes whole channels of [N, C, D, H, W] (or [C, D, H, W])."""
    _check_p(p)
    rank = input.dim()
    if rank not in (4, 5):
        warnings.warn(f"dropout3d: Received a {rank}-D input to dropout3d, which is deprecated and will result in an "
                      "error in a future release. To retain the behavior and silence this warning, please use dropout "
                      "instead. Note that dropout3d exists to provide channel-wise dropout on inputs with 3 spatial "
                      "dimensions, a channel dimension, and an optional batch dimension (i.e. 4D or 5D inputs).",
                      stacklevel=2)  # fmt: skip
    return _drop(input, 1 if rank == 4 else 2, p, training, inplace, "dropout3d")


def _alpha_drop(input: Tensor, lead: int, p: float, training: bool, inplace: bool, name: str) -> Tensor:
    """Elements become selu's negative limit, and all are scaled so that mean 0 and variance 1 are kept."""

    def compute(x: Tensor) -> Tensor:
        a = ((_ALPHA * _ALPHA * p + 1) * (1 - p)) ** -0.5
        keep = _keep((*x._extents[:lead], *(1,) * (x.dim() - lead)), p, x)
        shift = elementwise.add(elementwise.mul(elementwise.sub(keep, 1), _ALPHA * a), _ALPHA * a * p)
        return elementwise.add(elementwise.mul(x, elementwise.mul(keep, a)), shift)

    return _run(compute, input, p, training, inplace, name)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout for self-normalising networks: sets elements to selu's negative limit, keeping mean and variance."""
    return _alpha_drop(input, input.dim(), p, training, inplace, "alpha_dropout")


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """``alpha_dropout`` of whole channels of [N, C, ...]; RuntimeError below two axes."""
    if training and p and input.dim() < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return _alpha_drop(input, 2, p, training, inplace, "feature_alpha_dropout")


__all__ = [
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
]  # fmt: skip
