"""Functions of square matrices and decompositions, over any leading axes, by NumPy's LAPACK.

A singular matrix is an error where PyTorch has one: ``numpy.linalg.LinAlgError``, which the front end rewords.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError, UnsupportedError
from ..registry import Attr, Fusion, OpDef, register
from ..types import TensorType
from .common import check_kind, check_same_dtype, rounds_once, show

if TYPE_CHECKING:
    from ..builder import GraphBuilder
    from ..graph import Node, Value

Grads = list["Value | None"]


def _check_square(op: str, x: TensorType) -> None:
    check_kind(op, x.dtype, "f")
    if x.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{op}: takes square matrices over leading axes, got {show(x.shape)}")


def _swapped(g: GraphBuilder, x: Value) -> Value:
    rank = x.type.rank
    return g.permute(x, dims=(*range(rank - 2), rank - 1, rank - 2))


def _column(g: GraphBuilder, x: Value) -> Value:
    """One number per matrix, to multiply the matrices with."""
    return g.reshape(x, shape=(*x.shape, 1, 1))


# -- inverse, determinants ------------------------------------------------------------------------------
def _inverse_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("inverse", types[0])
    return [types[0].with_shape(types[0].shape)]


def _inverse_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    if grads[0] is None:
        return [None]
    turned = _swapped(g, node.output)
    return [g.neg(g.matmul(g.matmul(turned, grads[0]), turned))]


register(
    OpDef(
        "inverse", _inverse_infer, rounds_once(np.linalg.inv), Fusion.OPAQUE, vjp=_inverse_vjp,
        doc="the matrix y with x @ y = 1, over leading axes",
    )
)  # fmt: skip


def _det_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("det", types[0])
    return [types[0].with_shape(types[0].shape[:-2])]


def _det_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    return [grads[0] and g.mul(_column(g, grads[0]), g.cofactor(node.inputs[0]))]


register(
    OpDef(
        "det", _det_infer, rounds_once(lambda x: np.asarray(np.linalg.det(x), x.dtype)), Fusion.OPAQUE, vjp=_det_vjp,
        doc="determinants of matrices, over leading axes",
    )
)  # fmt: skip


def _cofactor_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("cofactor", types[0])
    return [types[0].with_shape(types[0].shape)]


@rounds_once
def _cofactor(x: np.ndarray) -> np.ndarray:
    n = x.shape[-1]
    if x.size == 0:
        return np.zeros(x.shape, x.dtype)
    u, s, vh = np.linalg.svd(x)
    others = np.broadcast_to(s[..., None, :], (*s.shape, n)).copy()
    others[..., np.arange(n), np.arange(n)] = 1  # row i: all singular values but the i-th
    sign = np.linalg.det(u) * np.linalg.det(vh)
    return np.asarray(sign[..., None, None] * ((u * others.prod(-1)[..., None, :]) @ vh), x.dtype)


def _cofactor_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    if grads[0] is None:
        return [None]
    (x,) = node.inputs
    turned = _swapped(g, g.inverse(x))
    inner = g.sum(g.mul(grads[0], turned), axes=(x.type.rank - 2, x.type.rank - 1), keepdims=True)
    through = g.matmul(g.matmul(turned, _swapped(g, grads[0])), turned)
    return [g.sub(g.mul(inner, node.output), g.mul(_column(g, g.det(x)), through))]


register(
    OpDef(
        "cofactor", _cofactor_infer, _cofactor, Fusion.OPAQUE, vjp=_cofactor_vjp,
        doc="matrices of cofactors, the derivative of det: det(x) x^-T, also of singular x (no gradient there)",
    )
)  # fmt: skip


def _slogdet_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("slogdet", types[0])
    return [types[0].with_shape(types[0].shape[:-2])] * 2


@rounds_once
def _slogdet(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sign, logarithm = np.linalg.slogdet(x)
    return np.asarray(sign, x.dtype), np.asarray(logarithm, x.dtype)


def _slogdet_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    if grads[1] is None:
        return [None]
    return [g.mul(_column(g, grads[1]), _swapped(g, g.inverse(node.inputs[0])))]


register(
    OpDef(
        "slogdet", _slogdet_infer, _slogdet, Fusion.OPAQUE, vjp=_slogdet_vjp, num_outputs=2,
        doc="(sign, log |det x|), over leading axes",
    )
)  # fmt: skip


# -- linear systems -------------------------------------------------------------------------------------
def _solve_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    a, b = types
    check_same_dtype("solve", a, b)
    _check_square("solve", a)
    if b.rank != a.rank or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"solve: {show(a.shape)} needs right sides of shape {show(a.shape[:-1])} and one more axis, "
                         f"got {show(b.shape)}")  # fmt: skip
    return [b.with_shape(b.shape)]


def _solve_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    if grads[0] is None:
        return [None, None]
    right = g.solve(_swapped(g, node.inputs[0]), grads[0])
    return [g.neg(g.matmul(right, node.output, transpose_b=True)), right]


register(
    OpDef(
        "solve", _solve_infer, rounds_once(np.linalg.solve), Fusion.OPAQUE, vjp=_solve_vjp, arity=(2, 2),
        doc="x with a @ x = b for square a, over equal leading axes",
    )
)  # fmt: skip


def _pinv_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    check_kind("pinv", x.dtype, "f")
    if x.rank < 2:
        raise ShapeError(f"pinv: takes matrices over leading axes, got {show(x.shape)}")
    return [x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-2]))]


@rounds_once
def _pinv(x: np.ndarray, rcond: float) -> np.ndarray:
    if x.size == 0:
        return np.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
    return np.linalg.pinv(x, rcond)


def _pinv_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    """For matrices whose rank does not change nearby."""
    if grads[0] is None:
        return [None]
    (x,), p, dy = node.inputs, node.output, grads[0]
    turned, up = _swapped(g, p), _swapped(g, dy)
    straight = g.matmul(g.matmul(turned, dy), turned)
    left = g.matmul(up, g.matmul(p, turned))
    left = g.sub(left, g.matmul(x, g.matmul(p, left)))
    right = g.matmul(g.matmul(turned, p), up)
    right = g.sub(right, g.matmul(g.matmul(right, p), x))
    return [g.sub(g.add(left, right), straight)]


register(
    OpDef(
        "pinv", _pinv_infer, _pinv, Fusion.OPAQUE, attrs={"rcond": Attr("float", 1e-15)}, vjp=_pinv_vjp,
        doc="Moore-Penrose inverses; singular values below rcond times the largest count as zero",
    )
)  # fmt: skip


# -- exponential ----------------------------------------------------------------------------------------
def _exp_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("matrix_exp", types[0])
    return [types[0].with_shape(types[0].shape)]


@rounds_once
def _matrix_exp(x: np.ndarray) -> np.ndarray:
    """Taylor's series after halving the matrix until its norm is below 1/2; then squared as often."""
    if x.size == 0:
        return x.copy()
    x, kept = x.astype(np.float64), x.dtype
    norm = np.abs(x).sum(-2).max(-1)
    finite = np.where(np.isfinite(norm) & (norm > 0.5), norm, 0.5)
    halvings = np.ceil(np.log2(finite) + 1).astype(int)
    small = x * np.exp2(-halvings.astype(x.dtype))[..., None, None]
    out = np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape).copy()
    for k in range(18, 0, -1):  # 2**-18 / 18! is below float64's precision
        out = np.eye(x.shape[-1], dtype=x.dtype) + small @ out / k
    for step in range(int(halvings.max())):
        out = np.where((halvings > step)[..., None, None], out @ out, out)
    return np.asarray(out, kept)


def _matrix_exp_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    """The upper right block of exp([[x^T, dy], [0, x^T]])."""
    if grads[0] is None:
        return [None]
    (x,) = node.inputs
    rank, n = x.type.rank, x.shape[-1]
    turned = _swapped(g, x)
    upper = g.concat(turned, grads[0], axis=rank - 1)
    lower = g.concat(g.full(x.shape, 0, x.dtype), turned, axis=rank - 1)
    whole = g.matrix_exp(g.concat(upper, lower, axis=rank - 2))
    lead = x.shape[:-2]
    return [g.slice(whole, starts=(*(0,) * len(lead), 0, n), stops=(*lead, n, n + n), steps=(1,) * rank)]


register(
    OpDef(
        "matrix_exp", _exp_infer, _matrix_exp, Fusion.OPAQUE, vjp=_matrix_exp_vjp,
        doc="1 + x + x @ x / 2 + ..., over leading axes",
    )
)  # fmt: skip


# -- singular values ------------------------------------------------------------------------------------
def _svd_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    (x,) = types
    check_kind("svd", x.dtype, "f")
    if x.rank < 2 or not all(isinstance(e, int) for e in x.shape[-2:]):
        raise ShapeError(f"svd: takes matrices of fixed size over leading axes, got {show(x.shape)}")
    lead, (m, n) = x.shape[:-2], x.shape[-2:]
    k = min(m, n)  # type: ignore[type-var]
    return [x.with_shape((*lead, m, k)), x.with_shape((*lead, k)), x.with_shape((*lead, k, n))]


@rounds_once
def _svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    return u, s, vh


def _svd_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    """Of u and v only what does not depend on the choice of their signs; distinct singular values."""
    u, s, vh = node.outputs
    du, ds, dvh = grads
    if du is None and ds is None and dvh is None:
        return [None]
    (x,) = node.inputs
    k = s.shape[-1]
    eye = g.constant(np.eye(k), x.dtype)
    row = g.reshape(s, shape=(*s.shape[:-1], 1, k))
    column = g.reshape(s, shape=(*s.shape, 1))
    middle = g.mul(eye, g.reshape(ds, shape=row.shape)) if ds is not None else None
    # 1 / (s_j^2 - s_i^2) off the diagonal, 0 on it
    gap = g.add(g.mul(g.sub(row, column), g.add(row, column)), eye)
    inverse_gap = g.div(g.sub(g.constant(np.ones((k, k)), x.dtype), eye), gap)
    out = None
    if du is not None:
        turn = g.mul(inverse_gap, g.matmul(u, du, transpose_a=True))
        part = g.mul(g.add(turn, _swapped(g, turn)), row)
        middle = part if middle is None else g.add(middle, part)
        if x.shape[-2] > k:
            rest = g.sub(du, g.matmul(u, g.matmul(u, du, transpose_a=True)))
            out = g.matmul(g.div(rest, row), vh)
    if dvh is not None:
        turn = g.mul(inverse_gap, g.matmul(vh, dvh, transpose_b=True))
        part = g.mul(column, g.add(turn, _swapped(g, turn)))
        middle = part if middle is None else g.add(middle, part)
        if x.shape[-1] > k:
            rest = g.sub(dvh, g.matmul(g.matmul(dvh, vh, transpose_b=True), vh))
            more = g.matmul(u, g.div(rest, column))
            out = more if out is None else g.add(out, more)
    main = g.matmul(g.matmul(u, middle), vh)
    return [main if out is None else g.add(main, out)]


register(
    OpDef(
        "svd", _svd_infer, _svd, Fusion.OPAQUE, vjp=_svd_vjp, num_outputs=3,
        doc="(u, s, vh) with x = u diag(s) vh, min(m, n) columns, s descending; over leading axes",
    )
)  # fmt: skip


# -- symmetric matrices; orthogonal columns ---------------------------------------------------------------
def _symmetric(g: GraphBuilder, x: Value) -> Value:
    return g.mul(g.add(x, _swapped(g, x)), 0.5)


def _mean_with_transpose(x: np.ndarray) -> np.ndarray:
    return (x + np.swapaxes(x, -1, -2)) / 2


def _cholesky_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("cholesky", types[0])
    return [types[0].with_shape(types[0].shape)]


def _cholesky_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    if grads[0] is None:
        return [None]
    low = node.output
    n = low.shape[-1]
    if not isinstance(n, int):
        raise UnsupportedError("cholesky of matrices of symbolic size has no gradient")
    half = g.constant(np.tri(n) - np.eye(n) / 2, low.dtype)
    inner = _symmetric(g, g.mul(half, g.matmul(low, grads[0], transpose_a=True)))
    turned = _swapped(g, low)
    left = g.solve(turned, inner)  # low^-T inner low^-1 in two steps
    return [_swapped(g, g.solve(turned, _swapped(g, left)))]


register(
    OpDef(
        "cholesky", _cholesky_infer, rounds_once(lambda x: np.linalg.cholesky(_mean_with_transpose(x))), Fusion.OPAQUE,
        vjp=_cholesky_vjp, doc="lower triangular y with y @ y^T = (x + x^T) / 2, positive definite",
    )
)  # fmt: skip


def _eigh_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    _check_square("eigh", types[0])
    return [types[0].with_shape(types[0].shape[:-1]), types[0].with_shape(types[0].shape)]


@rounds_once
def _eigh(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(_mean_with_transpose(x))
    return values, vectors


def _eigh_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    values, vectors = node.outputs
    dvalues, dvectors = grads
    n = values.shape[-1]
    if dvalues is None and dvectors is None:
        return [None]
    if not isinstance(n, int):
        raise UnsupportedError("eigh of matrices of symbolic size has no gradient")
    eye = g.constant(np.eye(n), values.dtype)
    row = g.reshape(values, shape=(*values.shape[:-1], 1, n))
    column = g.reshape(values, shape=(*values.shape, 1))
    inner = None if dvalues is None else g.mul(eye, g.reshape(dvalues, shape=row.shape))
    if dvectors is not None:
        off = g.constant(1 - np.eye(n), values.dtype)
        turn = g.mul(g.div(off, g.add(g.sub(row, column), eye)), g.matmul(vectors, dvectors, transpose_a=True))
        inner = turn if inner is None else g.add(inner, turn)
    return [_symmetric(g, g.matmul(g.matmul(vectors, inner), vectors, transpose_b=True))]


register(
    OpDef(
        "eigh", _eigh_infer, _eigh, Fusion.OPAQUE, vjp=_eigh_vjp, num_outputs=2,
        doc="(values ascending, orthonormal vectors in columns) with (x + x^T) / 2 = vectors diag(values) vectors^T",
    )
)  # fmt: skip


def _qr_infer(types: Sequence[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    q, _, r = _svd_infer(types, attrs)
    return [q, r]


@rounds_once
def _qr(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q, r = np.linalg.qr(x)
    return q, r


def _qr_vjp(g: GraphBuilder, node: Node, grads: Grads) -> Grads:
    q, r = node.outputs
    dq, dr = grads
    if dq is None and dr is None:
        return [None]
    n = r.shape[-1]
    if q.shape[-1] != n:
        raise UnsupportedError("qr of matrices with more columns than rows has no gradient")
    both = None if dr is None else g.matmul(r, dr, transpose_b=True)
    if dq is not None:
        turn = g.neg(g.matmul(dq, q, transpose_a=True))
        both = turn if both is None else g.add(both, turn)
    low = g.constant(np.tri(n, k=-1), q.dtype)  # type: ignore[arg-type]
    strict = g.mul(low, both)
    mirrored = g.add(g.add(strict, _swapped(g, strict)), g.mul(g.constant(np.eye(n), q.dtype), both))  # type: ignore[arg-type]
    total = g.matmul(q, mirrored)
    if dq is not None:
        total = g.add(total, dq)
    return [_swapped(g, g.solve(r, _swapped(g, total)))]


register(
    OpDef(
        "qr", _qr_infer, _qr, Fusion.OPAQUE, vjp=_qr_vjp, num_outputs=2,
        doc="(q, r) with x = q @ r, min(m, n) orthonormal columns, r upper triangular; over leading axes",
    )
)  # fmt: skip
