"""``ingot.linalg``: inverses, determinants, linear systems, norms, decompositions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims, dtypes
from ..ir.dtypes import DType
from ..ir.errors import ShapeError
from . import autocasting, creation, dispatch, elementwise, linalg, reduce, shaping, viewing
from .distance import vector_norm
from .linalg import matmul
from .return_types import named_result
from .size import is_int
from .tape.names import named

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "LinAlgError", "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "inv_ex",
    "lstsq", "matmul", "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv", "qr",
    "slogdet", "solve", "solve_triangular", "svd", "svdvals", "tensorinv", "tensorsolve", "vander", "vecdot",
    "vector_norm",
]  # fmt: skip

_SVD = named_result("linalg_svd", "U", "S", "Vh")
_SLOGDET = named_result("linalg_slogdet", "sign", "logabsdet")
_EIGH = named_result("linalg_eigh", "eigenvalues", "eigenvectors")
_QR = named_result("linalg_qr", "Q", "R")


class LinAlgError(RuntimeError):
    """A matrix without what was asked for: an inverse, a solution."""


def _guarded(name: str, op: str, *tensors: Tensor) -> Any:
    try:
        return dispatch.apply(op, *tensors)
    except np.linalg.LinAlgError:
        raise LinAlgError(f"{name}: The diagonal element is zero, the {'inversion' if op == 'inverse' else 'solve'} "
                          "could not be completed because the input matrix is singular.") from None  # fmt: skip


def _square(name: str, x: Tensor) -> Tensor:
    dispatch.require_tensor(x, name)
    if x.dim() < 2:
        raise RuntimeError(f"{name}: The input tensor A must have at least 2 dimensions.")
    if x._extents[-1] != x._extents[-2]:
        raise RuntimeError(f"{name}: A must be batches of square matrices, but they are {x._extents[-2]} by "
                           f"{x._extents[-1]} matrices")  # fmt: skip
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"{name}: Expected a floating point or complex tensor as input. Got "
                           f"{dispatch.type_word(x.dtype)}")  # fmt: skip
    return x


# -- inverses, determinants, systems --------------------------------------------------------------------
@named("LinalgInvExBackward0")
def inv(A: Tensor) -> Tensor:
    """The inverse of square matrices over leading axes; LinAlgError if one is singular."""
    return _guarded("linalg.inv", "inverse", _square("linalg.inv", A))


@named("LinalgDetBackward0")
def det(A: Tensor) -> Tensor:
    """Determinants of square matrices over leading axes."""
    return dispatch.apply("det", _square("linalg.det", A))


def slogdet(A: Tensor) -> Any:
    """(sign, log |det|) of square matrices."""
    return _SLOGDET(*dispatch.apply("slogdet", _square("linalg.slogdet", A)))


@named("LinalgSolveExBackward0")
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A @ X = B (``left=False``: X @ A = B) for matrices B, or vectors if B has one axis less than A;
    leading axes broadcast. LinAlgError if a matrix is singular."""
    _square("linalg.solve", A)
    if A.dtype is not B.dtype:
        raise RuntimeError("linalg.solve: Expected A and B to have the same dtype, but found A of type "
                           f"{dispatch.type_word(A.dtype)} and B of type {dispatch.type_word(B.dtype)} "
                           "instead")  # fmt: skip
    vector = B.dim() == 1 or (A.dim() - 1 == B.dim() and B._extents == A._extents[:-1])
    if vector and not left:
        raise RuntimeError("linalg.solve: Vector broadcasting of the left hand side is not supported for left=False. "
                           "In this case linalg.solve is equivalent to B / A.squeeze(-1)")  # fmt: skip
    right = shaping.unsqueeze(B, -1) if vector else B
    a = A if left else A.mT
    right = right if left else right.mT
    if right._extents[-2] != a._extents[-1]:
        raise RuntimeError("linalg.solve: Incompatible shapes of A and B for the equation "
                           f"{'AX' if left else 'XA'} = B ({A._extents[-2]}x{A._extents[-1]} and "
                           f"{B._extents[-2]}x{B._extents[-1]})")  # fmt: skip
    lead = _common(a._extents[:-2], right._extents[:-2])
    a = shaping.expand(a, *lead, *a._extents[-2:])
    right = shaping.expand(right, *lead, *right._extents[-2:])
    out = _guarded("torch.linalg.solve", "solve", a, right)
    return shaping.squeeze(out, -1) if vector else out if left else out.mT


def _common(*shapes: Sequence[Any]) -> tuple[Any, ...]:
    from ..ir.ops.common import broadcast_shapes

    return broadcast_shapes("linalg", *shapes)


def pinv(A: Tensor, *, atol: float | None = None, rtol: float | None = None, hermitian: bool = False,
         rcond: float | None = None) -> Tensor:  # fmt: skip
    """Moore-Penrose inverse; singular values below ``rtol`` times the largest count as zero (default: eps times the
    larger extent). ``atol`` is not supported."""
    if atol is not None:
        raise NotImplementedError("pinv: atol is not supported; give rtol")
    cut = rtol if rtol is not None else rcond
    if cut is None:
        cut = float(np.finfo(np.float64 if A.dtype is dtypes.float64 else np.float32).eps) * max(A._extents[-2:])  # type: ignore[type-var, operator]
    return dispatch.apply("pinv", A, rcond=float(cut))


def matrix_exp(A: Tensor) -> Tensor:
    """1 + A + A @ A / 2 + ... of square matrices over leading axes."""
    return dispatch.apply("matrix_exp", _square("linalg.matrix_exp", A))


def matrix_power(A: Tensor, n: int) -> Tensor:
    """A @ ... @ A, n times; of the inverse for negative ``n``."""
    if A.dim() < 2 or A._extents[-1] != A._extents[-2]:
        _square("linalg.matrix_power", A)
    if n == 0:
        size = A._extents[-1]
        return A.clone().copy_(creation.eye(size, dtype=A.dtype))  # type: ignore[arg-type]
    if n < 0:
        return matrix_power(inv(A), -n)
    out, square, rest = None, A, n
    while rest:
        if rest & 1:
            out = square if out is None else matmul(out, square)
        rest >>= 1
        square = matmul(square, square) if rest else square
    assert out is not None
    return out.clone() if out is A else out


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of matrices in the cheapest order; the first and the last may be vectors."""
    if len(tensors) < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {len(tensors)}")
    parts = list(tensors)
    first, last = parts[0].dim() == 1, parts[-1].dim() == 1
    if first:
        parts[0] = shaping.unsqueeze(parts[0], 0)
    if last:
        parts[-1] = shaping.unsqueeze(parts[-1], 1)
    for i, p in enumerate(parts):
        if p.dim() != 2:
            raise RuntimeError(f"multi_dot(): tensor {i} must be 2D but got {tensors[i].dim()}D")
    out = _chain(parts)
    shape = out._extents
    return shaping.reshape(out, *(shape[1 if first else 0 : 1 if last else 2]))


def _chain(parts: list[Tensor]) -> Tensor:
    """Dynamic programming over where the last product is."""
    sizes = [p._extents[0] for p in parts] + [parts[-1]._extents[1]]
    n = len(parts)
    cost: Any = [[0] * n for _ in range(n)]
    cut = [[0] * n for _ in range(n)]
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            cost[i][j], cut[i][j] = min(
                (cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)  # type: ignore[operator, type-var]
            )

    def build(i: int, j: int) -> Tensor:
        return parts[i] if i == j else linalg.mm(build(i, cut[i][j]), build(cut[i][j] + 1, j))

    return build(0, n - 1)


@named("LinalgCrossBackward0")
def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The vector product along an axis of extent 3; the others broadcast."""
    if input.dim() != other.dim():
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    axis = shaping.axis_of(dim, input.dim())
    if input._extents[axis] != 3 or other._extents[axis] != 3:
        raise RuntimeError(f"linalg.cross: inputs dimension {dim} must have length 3. Got {input._extents[axis]} and "
                           f"{other._extents[axis]}")  # fmt: skip
    a = [shaping.slice_axis(input, axis, i, i + 1) for i in range(3)]
    b = [shaping.slice_axis(other, axis, i, i + 1) for i in range(3)]
    parts = [
        elementwise.sub(elementwise.mul(a[i], b[j]), elementwise.mul(a[j], b[i])) for i, j in ((1, 2), (2, 0), (0, 1))
    ]
    return shaping.cat(parts, axis)


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """``torch.diagonal`` of the last two axes."""
    return viewing.diagonal(A, offset, dim1, dim2)


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Sums of products along an axis; the others broadcast."""
    return reduce.sum(elementwise.mul(x, y), dim)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """Powers 0 to N - 1 of the elements, in a new last axis."""
    count: Any = x._extents[-1] if N is None else N
    base = x if x.dtype.is_floating_point else dispatch.cast(x, dtypes.int64)
    powers = [creation.ones_like(base)]
    for _ in range(count - 1):
        powers.append(elementwise.mul(powers[-1], base))
    return shaping.stack(powers, -1)


def inv_ex(A: Tensor, *, check_errors: bool = False) -> Any:
    """(inverse, info): info counts from 1 which matrix is singular (0: none); its inverse is then NaN."""
    return _with_info("linalg_inv_ex", "inverse", inv, A, A._extents, check_errors)


def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """(L, info): info is 1 for the whole batch if a matrix is not positive definite; L is then NaN."""
    return _with_info("linalg_cholesky_ex", "L", lambda x: cholesky(x, upper=upper), A, A._extents, check_errors)


def _with_info(
    name: str, field: str, fn: Callable[[Tensor], Tensor], A: Tensor, shape: Sequence[Any], check_errors: bool
) -> Any:
    result = named_result(name, field, "info")
    batch = A._extents[:-2]
    try:
        return result(fn(A), creation.zeros(batch, dtype=dtypes.int32))
    except LinAlgError:
        if check_errors:
            raise
        nothing = creation.full(shape, float("nan"), dtype=A.dtype)
        return result(nothing, creation.ones(batch, dtype=dtypes.int32))


def solve_triangular(A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """``solve`` with the given triangle of A (``unitriangular``: with ones on its diagonal)."""
    from . import triangles

    part = triangles.triu(A, int(unitriangular)) if upper else triangles.tril(A, -int(unitriangular))
    if unitriangular:
        part = elementwise.add(part, creation.eye(A._extents[-1], dtype=A.dtype))  # type: ignore[arg-type]
    a, b = (part, B) if left else (part.mT, B.mT)
    out = solve(a, b)
    return out if left else out.mT


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number: the norm times the inverse's norm (by singular values for ``p`` None, 2, -2)."""
    if p in (None, 2, -2):
        values = svdvals(A)
        first, last = shaping.narrow(values, -1, 0, 1), shaping.narrow(values, -1, -1, 1)
        return shaping.squeeze(elementwise.div(last, first) if p == -2 else elementwise.div(first, last), -1)
    return elementwise.mul(matrix_norm(A, p), matrix_norm(inv(A), p))


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse of A as a map from its last axes to its first ``ind`` ones."""
    if ind <= 0:
        raise RuntimeError("linalg.tensorinv: Expected a strictly positive integer for 'ind'")
    first, last = A._extents[:ind], A._extents[ind:]
    if dims.product(first) != dims.product(last):
        raise RuntimeError("linalg.tensorinv: Expected self to satisfy the requirement prod(self.shape[ind:]) == "
                           f"prod(self.shape[:ind]), but got {dims.product(last)} != "
                           f"{dims.product(first)}")  # fmt: skip
    square = shaping.reshape(A, dims.product(first), dims.product(last))
    return shaping.reshape(inv(square), *last, *first)


def tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """X with tensordot(A, X, X.dim()) = B; ``dims``: axes of A moved to its end first."""
    if dims is not None:
        A = shaping.movedim(A, list(dims), list(range(A.dim() - len(dims), A.dim())))
    rest = A._extents[B.dim() :]
    flat = shaping.reshape(B, -1)
    return shaping.reshape(solve(shaping.reshape(A, flat._extents[0], -1), flat), *rest)


# -- norms ----------------------------------------------------------------------------------------------
def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Sequence[int] = (-2, -1), keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Norms of matrices in two axes: "fro", "nuc", 1, -1, inf, -inf (sums of columns or rows), 2, -2 (singular
    values)."""
    if ord not in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    if dtype is not None:
        A = dispatch.cast(A, dtype)
    if A.dim() < 2:
        raise RuntimeError("linalg.matrix_norm: The input tensor A must have at least 2 dimensions.")
    if not A.dtype.is_floating_point:
        raise RuntimeError("linalg.matrix_norm: Expected a floating point or complex tensor as input. Got "
                           f"{dispatch.type_word(A.dtype)}")  # fmt: skip
    a, b = (shaping.axis_of(d, A.dim()) for d in dim)
    if a == b:
        raise RuntimeError("linalg.matrix_norm: dims must be different. Got (" + f"{dim[0]}, {dim[1]})")
    if ord == "fro":
        return vector_norm(A, 2, (a, b), keepdim)
    if ord in (1, -1, math.inf, -math.inf):
        summed, other = (a, b) if abs(ord) == 1 else (b, a)
        sums = reduce.sum(elementwise.abs(A), summed, keepdim)
        axis = other - 1 if summed < other and not keepdim else other
        return _largest(sums, axis, keepdim) if ord > 0 else reduce.amin(sums, axis, keepdim)
    values = svdvals(shaping.movedim(A, (a, b), (-2, -1)))
    out = {"nuc": reduce.sum, 2: _largest, -2: reduce.amin}[ord](values, -1)
    for axis in sorted((a, b)) if keepdim else ():
        out = shaping.unsqueeze(out, axis)
    return out


def _largest(x: Tensor, axis: int, keepdim: bool = False) -> Tensor:
    """The largest of numbers that are not negative; of none it is 0."""
    return (reduce.sum if reduce.any_empty(x, (axis,)) else reduce.amax)(x, axis, keepdim)


def norm(
    A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """``matrix_norm`` for a pair of axes (or a matrix with ``ord``), else ``vector_norm`` (of the flat tensor without
    ``ord`` and ``dim``)."""
    if dim is not None and not is_int(dim) and len(dim) > 2 and ord is not None:
        raise RuntimeError("linalg.norm: If dim is specified, it must be of length 1 or 2. Got " + str(list(dim)))
    if ord is None and dim is None:
        out = vector_norm(shaping.reshape(A, -1), 2, dtype=dtype)
        return shaping.reshape(out, *(1,) * A.dim()) if keepdim else out
    if ord is not None and dim is None:
        if A.dim() not in (1, 2):
            raise RuntimeError("linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got "
                               f"{A.dim()}D.")  # fmt: skip
        dim = (0, 1) if A.dim() == 2 else None
    if dim is not None and not is_int(dim) and len(dim) == 2 and ord is not None:
        return matrix_norm(A, ord, dim, keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: Order {ord} is for matrices")
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


# -- decompositions -------------------------------------------------------------------------------------
def svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """(U, S, Vh) with A = U diag(S) Vh. ``full_matrices`` (square U and Vh) of matrices that are not square is not
    supported."""
    if full_matrices and A._extents[-1] != A._extents[-2]:
        raise NotImplementedError("linalg.svd: full_matrices=True of matrices that are not square is not supported; "
                                  "pass full_matrices=False")  # fmt: skip
    return _SVD(*dispatch.apply("svd", A))


def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """Singular values in descending order."""
    return dispatch.apply("svd", A)[1]


def matrix_rank(A: Tensor, *, tol: float | None = None, rtol: float | None = None, hermitian: bool = False) -> Tensor:
    """How many singular values are above ``tol`` (default: rtol times the largest; rtol: eps times the larger
    extent)."""
    values = svdvals(A)
    if tol is None:
        eps = float(np.finfo(np.float64 if A.dtype is dtypes.float64 else np.float32).eps)
        share = eps * max(A._extents[-2:]) if rtol is None else rtol  # type: ignore[type-var, operator]
        limit = elementwise.mul(reduce.amax(values, -1, True), share)
        return reduce.sum(elementwise.gt(values, limit), -1)
    return reduce.sum(elementwise.gt(values, tol), -1)


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """L with A = L @ L.mT (``upper``: L.mT) of symmetric positive definite matrices; LinAlgError of others."""
    try:
        out = dispatch.apply("cholesky", _square("linalg.cholesky", A))
    except np.linalg.LinAlgError:
        raise LinAlgError("linalg.cholesky: The factorization could not be completed because the input is not "
                          "positive-definite.") from None  # fmt: skip
    return out.mT if upper else out


def qr(A: Tensor, mode: str = "reduced") -> Any:
    """(Q, R) with A = Q @ R, Q with orthonormal columns, R upper triangular; ``mode`` "reduced"."""
    if mode != "reduced" and not (mode == "complete" and A._extents[-2] <= A._extents[-1]):  # type: ignore[operator]
        raise NotImplementedError(f"linalg.qr: mode {mode!r} is not supported; use 'reduced'")
    return _QR(*dispatch.apply("qr", A))


def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """(eigenvalues in ascending order, eigenvectors in columns) of symmetric matrices, of which one triangle is
    read."""
    from . import triangles

    _square("linalg.eigh", A)
    lower = A if UPLO.upper() == "L" else A.mT
    whole = elementwise.add(triangles.tril(lower), triangles.tril(lower, -1).mT)
    return _EIGH(*dispatch.apply("eigh", whole))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric matrices in ascending order."""
    return eigh(A, UPLO).eigenvalues


def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """An object with the ``solution`` X that makes |A @ X - B| least (by the Moore-Penrose inverse)."""
    result = named_result("linalg_lstsq", "solution")
    if A._extents[:-1] != B._extents[:-1]:
        raise ShapeError(f"linalg.lstsq: A {list(A.shape)} and B {list(B.shape)} must agree but for the last axis")
    return result(matmul(pinv(A, rtol=rcond), B))

globals().update(autocasting.policies({name: globals()[name] for name in __all__}, __name__))
