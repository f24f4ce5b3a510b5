"""Products of vectors and matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir import dtypes
from ..ir.dims import product as dims_product
from ..ir.errors import DTypeError, ShapeError
from . import dispatch, elementwise, promotion, reduce, shaping
from .deprecated import old_order
from .size import is_int
from .tape.names import named

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


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """[n, k] times [k, m]."""
    for word, t in (("self", input), ("mat2", mat2)):
        dispatch.require_tensor(t, "mm", word)
        if t.dim() != 2:
            raise ShapeError(f"{word} must be a matrix")
    return matmul(input, mat2)


@named("BmmBackward0")
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """[b, n, k] times [b, k, m]; no broadcasting."""
    for word, t in (("batch1", input), ("batch2", mat2)):
        if t.dim() != 3:
            raise ShapeError(f"{word} must be a 3D tensor")
    if input._extents[0] != mat2._extents[0]:
        raise ShapeError(f"Expected size for first two dimensions of batch2 tensor to be: [{input._extents[0]}, "
                         f"{input._extents[2]}] but got: [{mat2._extents[0]}, {mat2._extents[1]}].")  # fmt: skip
    return matmul(input, mat2)


@named("MvBackward0")
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """[n, k] times [k]."""
    if (input.dim(), vec.dim()) != (2, 1):
        raise ShapeError(f"vector + matrix @ vector expected, got {vec.dim()}, {input.dim()}, {vec.dim()}")
    if input._extents[1] != vec._extents[0]:
        raise ShapeError(f"size mismatch, got input ({input._extents[0]}), mat ({input._extents[0]}x"
                         f"{input._extents[1]}), vec ({vec._extents[0]})")  # fmt: skip
    return matmul(input, vec)


@named("DotBackward0")
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Sum of products of two vectors."""
    if (input.dim(), tensor.dim()) != (1, 1):
        raise ShapeError(f"1D tensors expected, but got {input.dim()}D and {tensor.dim()}D tensors")
    if input.dtype is not tensor.dtype:
        raise DTypeError("dot : expected both vectors to have same dtype, but found "
                         f"{dispatch.type_word(input.dtype)} and {dispatch.type_word(tensor.dtype)}")  # fmt: skip
    if input._extents != tensor._extents:
        raise ShapeError(f"inconsistent tensor size, expected tensor {list(input.shape)} and src "
                         f"{list(tensor.shape)} to have the same number of elements")  # fmt: skip
    return reduce.sum(elementwise.mul(input, tensor), dtype=input.dtype)


def _scaled_sum(input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """beta * input + alpha * product; with beta 0 the input's values do not matter."""
    if alpha != 1:
        product = elementwise.mul(product, promotion.operand(alpha, product.dtype))
    if beta == 0:
        input = elementwise.mul(shaping.expand(input, *product._extents), dispatch.scalar(0, input.dtype)) \
            if input.requires_grad else dispatch.scalar(0, input.dtype)  # fmt: skip
    elif beta != 1:
        input = elementwise.mul(input, promotion.operand(beta, input.dtype))
    return elementwise.add(product, input)


@old_order
@named("AddmmBackward0")
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    return _scaled_sum(input, mm(mat1, mat2), beta, alpha)


@old_order
@named("AddmvBackward0")
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (mat @ vec)."""
    return _scaled_sum(input, mv(mat, vec), beta, alpha)


@old_order
@named("AddrBackward0")
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2)."""
    if vec1.dim() != 1 or vec2.dim() != 1:
        raise RuntimeError(f"addr: Expected 1-D argument vec1 and vec2, but got {vec1.dim()}-D and {vec2.dim()}-D")
    product = outer(vec1, vec2)
    if input.dtype is dtypes.bool_ and product.dtype is dtypes.bool_:
        product = product if alpha else elementwise.logical_and(product, dispatch.scalar(False, dtypes.bool_))
        return elementwise.logical_or(input, product) if beta else product
    if alpha != 1:
        product = elementwise.mul(product, alpha)
    out = elementwise.add(product, 0 if beta == 0 else input if beta == 1 else elementwise.mul(input, beta))
    return dispatch.cast(out, promotion.result_type(input, vec1, vec2))


@old_order
@named("BaddbmmBackward0")
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (batch1 @ batch2), matrix by matrix."""
    return _scaled_sum(input, bmm(batch1, batch2), beta, alpha)


@old_order
@named("AddbmmBackward0")
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * the sum of the products of matrices."""
    product = bmm(batch1, batch2)
    return _scaled_sum(input, reduce.sum(product, 0, dtype=product.dtype), beta, alpha)


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """``dot`` (of real numbers)."""
    return dot(input, other)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """out[i, j] = input[i] * vec2[j]."""
    if input.dim() != 1 or vec2.dim() != 1:
        raise RuntimeError(f"outer: Expected 1-D argument self, but got {input.dim()}-D" if input.dim() != 1 else
                           f"outer: Expected 1-D argument vec2, but got {vec2.dim()}-D")  # fmt: skip
    return elementwise.mul(shaping.unsqueeze(input, 1), shaping.unsqueeze(vec2, 0))


def ger(input: Tensor, vec2: Tensor) -> Tensor:
    """``outer``."""
    return outer(input, vec2)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products along the last axes."""
    if input.dim() == 0 or other.dim() == 0:
        return elementwise.mul(input, other)
    if input._extents[-1] != other._extents[-1]:
        raise ShapeError("inner() the last dimension must match on both input tensors but got shapes "
                         f"{list(input.shape)} and {list(other.shape)}")  # fmt: skip
    return tensordot(input, other, dims=([-1], [-1]))


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over axes: the last ``dims`` of ``a`` with the first of ``b``, or the listed pairs."""
    if dispatch.is_tensor(dims):
        dims = dims.tolist()
    if is_int(dims):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(a.dim(), b.dim()):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        left, right = list(range(a.dim() - dims, a.dim())), list(range(dims))
    else:
        left, right = ([d] if is_int(d) else list(d) for d in dims)
    if len(left) != len(right):
        raise RuntimeError("both dimension lists should have same length")
    left = [shaping.axis_of(d, a.dim()) for d in left]
    right = [shaping.axis_of(d, b.dim()) for d in right]
    _same_dtype(a, b)
    for i, j in zip(left, right, strict=True):
        if a._extents[i] != b._extents[j]:
            if a._extents[i] != 1 and b._extents[j] != 1:
                raise ShapeError(f"contracted dimensions need to match, but first has size {a._extents[i]} in dim {i} "
                                 f"and second has size {b._extents[j]} in dim {j}")  # fmt: skip
            if a._extents[i] == 1:
                b = reduce.sum(b, j, True, dtype=b.dtype)
            else:
                a = reduce.sum(a, i, True, dtype=a.dtype)
    rest_a = [i for i in range(a.dim()) if i not in left]
    rest_b = [j for j in range(b.dim()) if j not in right]
    shape = [*(a._extents[i] for i in rest_a), *(b._extents[j] for j in rest_b)]
    count = dims_product(a._extents[i] for i in left)
    rows, columns = (dims_product(t._extents[i] for i in rest) for t, rest in ((a, rest_a), (b, rest_b)))
    x = shaping.reshape(shaping.permute(a, rest_a + left), rows, count)
    y = shaping.reshape(shaping.permute(b, right + rest_b), count, columns)
    return shaping.reshape(matmul(x, y), *shape)


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: every element of ``input`` times all of ``other``, side by side."""
    rank = max(input.dim(), other.dim())
    a = (1,) * (rank - input.dim()) + tuple(input._extents)
    b = (1,) * (rank - other.dim()) + tuple(other._extents)
    x = shaping.reshape(input, *(e for extent in a for e in (extent, 1)))
    y = shaping.reshape(other, *(e for extent in b for e in (1, extent)))
    return shaping.reshape(elementwise.mul(x, y), *(m * n for m, n in zip(a, b, strict=True)))


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
FUNCTIONS = (
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "dot", "ger", "inner", "kron", "matmul", "mm", "mv", "outer",
    "tensordot", "vdot",
)  # fmt: skip
METHODS = (
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "dot", "ger", "inner", "kron", "matmul", "mm", "mv", "outer",
    "vdot",
)  # fmt: skip
IN_PLACE = ("addbmm", "addmm", "addmv", "addr", "baddbmm")
