"""Products of vectors and matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir.errors import DTypeError, ShapeError
from . import dispatch, elementwise, reduce, shaping
from .deprecated import old_order

if TYPE_CHECKING:
    from .tensor import Tensor


def _same_dtype(a: Tensor, b: Tensor) -> None:
    if a.dtype is not b.dtype:
        names = [dispatch.type_word(x.dtype).lower() for x in (a, b)]
        raise DTypeError(f"expected m1 and m2 to have the same dtype, but got: {names[0]} != {names[1]}")


def _product(a: Tensor, b: Tensor, **attrs: bool) -> Tensor:
    rows = a._extents[-2] if not attrs.get("transpose_a") else a._extents[-1]
    inner_a = a._extents[-1]
    inner_b = b._extents[-1 if attrs.get("transpose_b") else -2]
    if inner_a != inner_b and isinstance(inner_a, int) and isinstance(inner_b, int):
        cols = b._extents[-2 if attrs.get("transpose_b") else -1]
        raise ShapeError(f"mat1 and mat2 shapes cannot be multiplied ({rows}x{inner_a} and {inner_b}x{cols})")
    return dispatch.apply("matmul", a, b, **attrs)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Matrix product: vector-vector gives a scalar, a vector counts as a row (left) or column (right), leading
    axes broadcast."""
    dispatch.require_tensor(input, "matmul")
    dispatch.require_tensor(other, "matmul", "other")
    a, b = input, other
    if a.dim() == 0 or b.dim() == 0:
        raise ShapeError("both arguments to matmul need to be at least 1D, but they are "
                         f"{a.dim()}D and {b.dim()}D")  # fmt: skip
    _same_dtype(a, b)
    left, right = a.dim() == 1, b.dim() == 1
    out = _product(shaping.unsqueeze(a, 0) if left else a, shaping.unsqueeze(b, 1) if right else b)
    if left or right:
        shape = list(out._extents)
        if right:
            del shape[-1]
        if left:
            del shape[-1 if right else -2]
        out = shaping.reshape(out, *shape)
    return out


def _ranks(name: str, a: Tensor, b: Tensor, want: tuple[int, int]) -> None:
    if (a.dim(), b.dim()) != want:
        raise ShapeError(
            f"{name}: expected a {want[0]}-D and a {want[1]}-D tensor, but got {a.dim()}-D and {b.dim()}-D"
        )


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """[n, k] times [k, m]."""
    _ranks("mm", input, mat2, (2, 2))
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """[b, n, k] times [b, k, m]; no broadcasting."""
    _ranks("bmm", input, mat2, (3, 3))
    if input._extents[0] != mat2._extents[0]:
        raise ShapeError(f"Expected size for first two dimensions of batch2 tensor to be: [{input._extents[0]}, "
                         f"{input._extents[2]}] but got: [{mat2._extents[0]}, {mat2._extents[1]}].")  # fmt: skip
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """[n, k] times [k]."""
    _ranks("mv", input, vec, (2, 1))
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Sum of products of two vectors."""
    _ranks("dot", input, tensor, (1, 1))
    _same_dtype(input, tensor)
    if input._extents != tensor._extents:
        raise ShapeError(f"inconsistent tensor size, expected tensor {list(input.shape)} and src "
                         f"{list(tensor.shape)} to have the same number of elements")  # fmt: skip
    return reduce.sum(elementwise.mul(input, tensor), dtype=input.dtype)


@old_order
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    product = mm(mat1, mat2)
    if alpha != 1:
        product = elementwise.mul(product, alpha)
    return elementwise.add(product, input if beta == 1 else elementwise.mul(input, beta))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias over the last axis; weight is [out, in] (or [in]: the out axis is dropped)."""
    dispatch.require_tensor(input, "linear")
    if weight.dim() == 1:
        out = matmul(input, weight)
        return out if bias is None else elementwise.add(out, bias)
    _same_dtype(input, weight)
    if input.dim() == 0:
        raise ShapeError("both arguments to linear need to be at least 1D, but they are 0D and 2D")
    if input.dim() == 1:
        return shaping.squeeze(linear(shaping.unsqueeze(input, 0), weight, bias), 0)
    if input.dim() > 2 and input._extents[-1] != weight._extents[-1]:
        raise ShapeError(f"mat1 and mat2 shapes cannot be multiplied ({'x'.join(map(str, input._extents))} and "
                         f"{weight._extents[1]}x{weight._extents[0]})")  # fmt: skip
    out = _product(input, weight, transpose_b=True)
    return out if bias is None else elementwise.add(out, bias)

# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = ("addmm", "bmm", "dot", "matmul", "mm", "mv")
METHODS = ("addmm", "bmm", "dot", "matmul", "mm", "mv")
IN_PLACE = ("addmm",)
