"""The same application in PyTorch, for parity tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ingot.ir import dtypes
from op_sampling import Case

TORCH_DTYPES = tuple(d for d in dtypes.ALL if d.name not in ("uint16", "uint32", "uint64"))

_RENAMED = {
    "neg": "negative", "abs": "abs", "div": "true_divide", "shift_left": "bitwise_left_shift",
    "shift_right": "bitwise_right_shift",
}  # fmt: skip
_FUNCTIONAL = {"gelu", "silu", "leaky_relu", "elu", "softplus", "hardsigmoid", "hardswish"}


def to_torch(torch: Any, array: np.ndarray) -> Any:
    """A tensor with a copy of ``array``."""
    if array.dtype == dtypes.bfloat16.numpy:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """The values, 16-bit floats as float32."""
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).detach().numpy()


def torch_result(torch: Any, case: Case, operands: Sequence[Any] | None = None, raw: bool = False) -> Any:
    """The case's result from PyTorch: an array, or with ``raw`` the tensor."""
    xs = list(operands) if operands is not None else [to_torch(torch, a) for a in case.inputs]
    y = _apply(torch, case, xs, dict(case.attrs))
    return y if raw else to_numpy(torch, y)


def _apply(torch: Any, case: Case, xs: list[Any], attrs: dict[str, Any]) -> Any:
    op = case.op
    if op == "cast":
        return xs[0].to(getattr(torch, attrs["dtype"].name))
    if op in ("sum", "prod", "mean", "amax", "amin", "any", "all"):
        return _reduce(torch, op, xs[0], attrs["axes"], attrs.get("keepdims", False))
    if op in ("argmax", "argmin"):
        return getattr(torch, op)(xs[0], dim=attrs["axis"], keepdim=attrs.get("keepdims", False))
    if op in ("reshape", "expand"):
        return getattr(xs[0], op)(attrs["shape"])
    if op == "permute":
        return xs[0].permute(attrs["dims"])
    if op == "flip":
        return torch.flip(xs[0], attrs["axes"])
    if op == "slice":
        cut = zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True)
        return xs[0][tuple(slice(*s) for s in cut)]
    if op == "pad":
        widths = [w for pair in zip(reversed(attrs["low"]), reversed(attrs["high"]), strict=True) for w in pair]
        return torch.nn.functional.pad(xs[0], widths, value=attrs.get("value", 0)) if widths else xs[0]
    if op == "concat":
        return torch.cat(xs, attrs["axis"])
    if op in ("gather", "index_select"):
        return getattr(torch, op)(xs[0], attrs["axis"], xs[1])
    if op == "strided_view":
        steps = np.reshape(attrs["steps"], (xs[0].dim(), len(attrs["shape"])))
        strides = [int(sum(r * s for r, s in zip(steps[:, k], xs[0].stride(), strict=True)))
                   for k in range(len(attrs["shape"]))]  # fmt: skip
        first = sum(a * s for a, s in zip(attrs["starts"], xs[0].stride(), strict=True))
        return torch.as_strided(xs[0], attrs["shape"], strides, first)
    if op == "bitcast":
        return xs[0].contiguous().view(getattr(torch, attrs["dtype"].name))
    if op == "scatter_reduce":
        return torch.scatter_reduce(xs[0], attrs["axis"], xs[1], xs[2], attrs["reduce"])
    if op == "cofactor":
        return torch.linalg.det(xs[0])[..., None, None] * torch.linalg.inv(xs[0]).mT
    if op == "pinv":
        return torch.linalg.pinv(xs[0])
    if op == "svd":
        return torch.linalg.svdvals(xs[0])
    if op == "solve":
        return torch.linalg.solve(*xs)
    if op in ("scatter_add", "scatter"):
        return getattr(torch, op)(xs[0], attrs["axis"], xs[1], xs[2])
    if op == "polygamma":
        return torch.polygamma(attrs["n"], *xs)
    if op == "i1":
        return torch.special.i1(*xs)
    if op == "exponent":
        return torch.frexp(*xs)[1]
    if op in ("cumsum", "cumprod"):
        return getattr(torch, op)(xs[0], attrs["axis"], dtype=xs[0].dtype)
    if op in ("cummax", "cummin", "logcumsumexp"):
        return getattr(torch, op)(xs[0], attrs["axis"])
    if op == "sort":
        return torch.sort(xs[0], dim=attrs["axis"], descending=attrs["descending"], stable=True)
    if op == "linear_recurrence":
        return _recurrence(torch, *xs, attrs["axis"])
    if op in _FUNCTIONAL:
        return getattr(torch.nn.functional, op)(*xs, **attrs)
    return getattr(torch, _RENAMED.get(op, op))(*xs, **attrs)


def _recurrence(torch: Any, a: Any, b: Any, axis: int) -> Any:
    rows = [torch.zeros_like(b.select(axis, 0))] if b.shape[axis] else []
    for i in range(b.shape[axis]):
        rows.append(a.select(axis, i) * rows[-1] + b.select(axis, i))
    return torch.stack(rows[1:], axis) if rows else b


def _reduce(torch: Any, op: str, x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    """PyTorch takes an empty list of dims for all of them, prod one dim at a time, and widens integer sums."""
    if not axes:
        return x.clone()
    if op == "prod":
        for a in reversed(axes):
            x = torch.prod(x, a, keepdim=keepdims, dtype=x.dtype)
        return x
    if op == "sum":
        return torch.sum(x, axes, keepdim=keepdims, dtype=x.dtype)
    return getattr(torch, op)(x, axes, keepdim=keepdims)


