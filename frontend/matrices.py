"""Functions of matrices under the names of the package itself: ``inverse``, ``det``, ``matrix_exp``... (``linalg`` has
the others)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir.dtypes import DType
from . import creation, dispatch, elementwise, linear_algebra, return_types, shaping
from .distance import vector_norm
from .keywords import numpy_names
from .linear_algebra import det, matrix_exp, matrix_power  # noqa: F401 - names of this module, too
from .reduce import Dims
from .size import provably, wrap
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor


def inverse(input: Tensor) -> Tensor:
    """The inverse of square matrices over leading axes."""
    return linear_algebra.inv(input)


def slogdet(input: Tensor) -> Any:
    """(sign, log |det|) of square matrices."""
    return return_types.slogdet(*linear_algebra.slogdet(input))


def logdet(input: Tensor) -> Tensor:
    """log(det): NaN for negative determinants, -inf for zero."""
    sign, logarithm = linear_algebra.slogdet(input)
    return elementwise.where(elementwise.lt(sign, 0), dispatch.scalar(float("nan"), logarithm.dtype), logarithm)


def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """Moore-Penrose inverse; singular values below rcond times the largest count as zero."""
    return linear_algebra.pinv(input, rcond=rcond)


def _is_three(extent: Any) -> bool:
    return provably(lambda: wrap(extent) == 3)


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product along ``dim``, the first axis of extent 3 by default."""
    if dim is None:
        dim = next((a for a, e in enumerate(input._extents) if _is_three(e)), None)
        if dim is None:
            raise RuntimeError("no dimension of size 3 in input")
    return linear_algebra.cross(input, other, dim=dim)


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices in the cheapest order."""
    return matrices[0] if len(matrices) == 1 else linear_algebra.multi_dot(matrices)


@numpy_names
@named("LinalgVectorNormBackward0")
def norm(
    input: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False, dtype: DType | None = None
) -> Tensor:
    """p-norm over axes, of all elements by default: a number, inf, -inf, "fro" (2), or "nuc" (of matrices)."""
    if p == "nuc" or (isinstance(p, str) and p != "fro"):
        axes = list(range(input.dim())) if dim is None else dim
        return linear_algebra.matrix_norm(input, p, axes, keepdim, dtype=dtype)  # type: ignore[arg-type]
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """``linalg.cholesky``."""
    return linear_algebra.cholesky(input, upper=upper)


def cholesky_solve(input: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """X with A @ X = input, where L is the Cholesky factor of A."""
    low = L.mT if upper else L
    inner = linear_algebra.solve_triangular(low, input, upper=False)
    return linear_algebra.solve_triangular(low.mT, inner, upper=True)


def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """The inverse of the matrix whose Cholesky factor is given."""
    one = creation.eye(input._extents[-1], dtype=input.dtype)  # type: ignore[arg-type]
    return cholesky_solve(shaping.expand(one, *input._extents), input, upper)


def qr(input: Tensor, some: bool = True) -> Any:
    """``linalg.qr``."""
    return return_types.qr(*linear_algebra.qr(input, "reduced" if some else "complete"))


def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> Any:
    """(U, S, V) with input = U diag(S) V.mT."""
    u, s, vh = linear_algebra.svd(input, full_matrices=not some)
    return return_types.svd(u, s, vh.mT)


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "chain_matmul", "cholesky", "cholesky_inverse", "cholesky_solve", "cross", "det", "inverse", "logdet",
    "matrix_exp", "matrix_power", "norm", "pinverse", "qr", "slogdet", "svd",
)  # fmt: skip
METHODS = (
    "cholesky", "cholesky_inverse", "cholesky_solve", "cross", "det", "inverse", "logdet", "matrix_exp",
    "matrix_power", "norm", "pinverse", "qr", "slogdet", "svd",
)  # fmt: skip
IN_PLACE = ()
