"""Running sums, products and extremes, differences, and the rules of numerical integration and differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from ..ir.dtypes import DType
from . import dispatch, elementwise, return_types, shaping
from .elementwise import add, div, mul, sub
from .keywords import numpy_names
from .reduce import require_kernel, sum
from .shaping import axis_of, slice_axis
from .size import wrap

if TYPE_CHECKING:
    from .tensor import Tensor


# -- scans --------------------------------------------------------------------------------------------
def _scan(op: str, x: Tensor, dim: int) -> Any:
    axis = axis_of(dim, x.dim())
    if x.dim():
        return dispatch.apply(op, x, axis=axis)
    outs = dispatch.apply(op, shaping.reshape(x, 1), axis=0)
    return tuple(shaping.reshape(o, ()) for o in outs) if isinstance(outs, tuple) else shaping.reshape(outs, ())


def _accumulated(op: str, input: Tensor, dim: int, dtype: DType | None) -> Tensor:
    target = dtype or (input.dtype if input.dtype.is_floating_point else dtypes.int64)
    if target is dtypes.bool_:
        raise NotImplementedError(f"\"{op}_out_cpu\" not implemented for 'Bool'")
    return _scan(op, dispatch.cast(input, target), dim)


@numpy_names
def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running sums along ``dim``; integers and bool are summed in int64."""
    return _accumulated("cumsum", input, dim, dtype)


@numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running products along ``dim``; integers and bool are multiplied in int64."""
    return _accumulated("cumprod", input, dim, dtype)


@numpy_names
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """Logarithms of the running sums of exp(input) along ``dim``, without overflow."""
    axis_of(dim, input.dim())
    require_kernel("logcumsumexp_out_cpu", input, "iub")
    return _scan("logcumsumexp", input, dim)


def _running_extreme(op: str, input: Tensor, dim: int, result: Any) -> Any:
    if input.dim() == 0 and dim not in (0, -1):
        raise IndexError(f"{op}(): Expected reduction dim -1 or 0 for scalar but got {dim}")
    if input.dtype is not dtypes.bool_:
        return result(*_scan(op, input, dim))
    values, indices = _scan(op, dispatch.cast(input, dtypes.uint8), dim)
    return result(dispatch.cast(values, dtypes.bool_), indices)


@numpy_names
def cummax(input: Tensor, dim: int) -> Any:
    """(values, indices) of the largest element so far along ``dim``, the last of equals."""
    return _running_extreme("cummax", input, dim, return_types.cummax)


@numpy_names
def cummin(input: Tensor, dim: int) -> Any:
    """(values, indices) of the smallest element so far along ``dim``, the last of equals."""
    return _running_extreme("cummin", input, dim, return_types.cummin)


# -- differences --------------------------------------------------------------------------------------
def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """All but the last, and all but the first."""
    extent = x._extents[axis]
    return slice_axis(x, axis, 0, extent - 1), slice_axis(x, axis, 1, extent)


@numpy_names
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbours along ``dim``, ``n`` times over; of bools: whether they differ."""
    if input.dim() == 0:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    axis = axis_of(dim, input.dim())
    if n == 0:
        return input.clone()
    parts = [x for x in (prepend, input, append) if x is not None]
    if [x for x in parts if x.dim() != input.dim()]:
        raise RuntimeError("diff expects prepend or append to be the same dimension as input")
    out = shaping.cat(parts, axis) if len(parts) > 1 else input
    for _ in range(n):
        extent = out._extents[axis]
        if isinstance(extent, int) and extent <= 1:
            return slice_axis(out, axis, 0, 0).clone()
        before, after = _neighbours(out, axis)
        out = elementwise.logical_xor(after, before) if out.dtype is dtypes.bool_ else sub(after, before)
    return out


# -- integration --------------------------------------------------------------------------------------
def _panels(name: str, y: Tensor, x: Tensor | None, dx: Any, axis: int) -> Tensor:
    """Twice the area between each pair of neighbours."""
    if y.dtype is dtypes.bool_ or (x is not None and x.dtype is dtypes.bool_):
        raise RuntimeError(f"{name}: received a bool input for `{'y' if y.dtype is dtypes.bool_ else 'x'}`, but bool "
                           "is not supported")  # fmt: skip
    before, after = _neighbours(y, axis)
    if x is None:
        return mul(add(before, after), 1 if dx is None else dx)
    if x.dim() == 1 and x._extents[0] != y._extents[axis]:
        raise RuntimeError(f"{name}: There must be one `x` value for each sample point")
    if x.dim() == 1:
        x = shaping.reshape(x, *(-1 if a == axis else 1 for a in range(y.dim())))
    elif x.dim() < y.dim():
        x = shaping.reshape(x, *[1] * (y.dim() - x.dim()), *x._extents)
    start, stop = _neighbours(x, axis)
    return mul(sub(stop, start), add(before, after))


def _axis(name: str, y: Tensor, x: Tensor | None, dx: Any, dim: int) -> int:
    if y.dim() == 0:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    if x is not None and dx is not None:
        raise TypeError(f"{name}() received an invalid combination of arguments: x and dx exclude each other")
    return axis_of(dim, y.dim())


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """Integral along ``dim`` by the trapezoidal rule, over sample points ``x`` or steps of ``dx`` (1)."""
    axis = _axis("trapezoid", y, x, dx, dim)
    if y._extents[axis] == 0:
        return dispatch.cast(sum(y, axis), y.dtype)
    return div(sum(_panels("trapezoid", y, x, dx, axis), axis), 2)


def trapz(y: Tensor, x: Tensor | None = None, *, dx: Any = 1.0, dim: int = -1) -> Tensor:
    """``trapezoid``."""
    return trapezoid(y, x, dx=None if x is not None else dx, dim=dim)


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """Running integrals along ``dim`` by the trapezoidal rule."""
    axis = _axis("cumulative_trapezoid", y, x, dx, dim)
    if y._extents[axis] == 0:
        return y.clone()
    return div(cumsum(_panels("cumulative_trapezoid", y, x, dx, axis), axis), 2)


# -- differentiation ----------------------------------------------------------------------------------
def gradient(
    input: Tensor, *, spacing: Any = None, dim: int | Sequence[int] | None = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """Estimates of the derivative along each of ``dim`` (all): second-order differences inside, ``edge_order`` 1 or 2
    at the ends. ``spacing``: the step, one per axis, or tensors of coordinates."""
    rank = input.dim()
    if edge_order not in (1, 2):
        raise RuntimeError("torch.gradient only supports edge_order=1 and edge_order=2.")
    axes = [axis_of(d, rank) for d in (range(rank) if dim is None else [dim] if isinstance(dim, int) else dim)]
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"dim {next(a for a in axes if axes.count(a) > 1)} appears multiple times in the list of "
                           "dims")  # fmt: skip
    steps = list(spacing) if _is_list(spacing) else [1 if spacing is None else spacing] * len(axes)
    if len(steps) != len(axes):
        if dim is None:
            raise RuntimeError("torch.gradient expected spacing to be unspecified, a scalar, or a list of length equal "
                               f"to 'self.dim() = {rank}', since dim argument was not given, but got a list of length "
                               f"{len(steps)}")  # fmt: skip
        raise RuntimeError("torch.gradient expected spacing to be unspecified, a scalar or it's spacing and dim "
                           f"arguments to have the same length, but got a spacing argument of length {len(steps)} and "
                           f"a dim argument of length {len(axes)}.")  # fmt: skip
    for a in axes:
        if not wrap(input._extents[a]) >= edge_order + 1:
            raise RuntimeError("torch.gradient expected each dimension size to be at least edge_order+1")
    return tuple(_derivative(input, a, step, edge_order) for a, step in zip(axes, steps, strict=True))


def _is_list(x: Any) -> bool:
    return isinstance(x, (tuple, list))


def _part(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """x[start:stop] along ``axis``; negative numbers count from the end, as does a ``stop`` of 0."""
    n = x._extents[axis]
    return slice_axis(x, axis, start if start >= 0 else n + start, stop if stop > 0 else n + stop)


def _derivative(x: Tensor, axis: int, step: Any, edge_order: int) -> Tensor:
    gaps = None
    if dispatch.is_tensor(step):
        line = shaping.reshape(step, *(x._extents[axis] if a == axis else 1 for a in range(x.dim())))
        gaps = sub(*reversed(_neighbours(line, axis)))
    at = [_part(x, axis, 0, 1), _part(x, axis, 1, 2), _part(x, axis, -2, -1), _part(x, axis, -1, 0)]
    steps = [step, step] if gaps is None else [_part(gaps, axis, 0, 1), _part(gaps, axis, -1, 0)]
    if edge_order == 1:
        ends = [div(sub(at[1], at[0]), steps[0]), div(sub(at[3], at[2]), steps[1])]
    else:
        inner = steps if gaps is None else [_part(gaps, axis, 1, 2), _part(gaps, axis, -2, -1)]
        ends = [
            _one_sided(at[0], at[1], _part(x, axis, 2, 3), steps[0], inner[0]),
            elementwise.neg(_one_sided(at[3], at[2], _part(x, axis, -3, -2), steps[1], inner[1])),
        ]
    if x._extents[axis] == 2:
        return shaping.cat(ends, axis)
    if gaps is None:
        between = div(sub(_part(x, axis, 2, 0), _part(x, axis, 0, -2)), step * 2)
    else:
        between = _uneven(x, gaps, axis)
    return shaping.cat([ends[0], between, ends[1]], axis)


def _uneven(x: Tensor, gaps: Tensor, axis: int) -> Tensor:
    left, right = _neighbours(gaps, axis)
    both = add(left, right)
    terms = [
        mul(_part(x, axis, 0, -2), div(elementwise.neg(right), mul(left, both))),
        mul(_part(x, axis, 1, -1), div(sub(right, left), mul(left, right))),
        mul(_part(x, axis, 2, 0), div(left, mul(right, both))),
    ]
    return add(add(terms[0], terms[1]), terms[2])


def _one_sided(a: Tensor, b: Tensor, c: Tensor, near: Any, far: Any) -> Tensor:
    """Slope at ``a`` of the parabola through a, b, c; ``near`` and ``far`` are the steps between them."""
    both = near + far
    return add(add(mul(a, -(2 * near + far) / (near * both)), mul(b, both / (near * far))),
               mul(c, -near / (far * both)))  # fmt: skip


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = (
    "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "diff", "gradient", "logcumsumexp", "trapezoid",
    "trapz",
)  # fmt: skip
METHODS = ("cummax", "cummin", "cumprod", "cumsum", "diff", "logcumsumexp")
IN_PLACE = ("cumprod", "cumsum")
