"""``gradcheck`` and ``gradgradcheck``: recorded gradients against finite differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import dtypes
from .. import dispatch, grad_mode, random
from .engine import grad

if TYPE_CHECKING:
    from ..tensor import Tensor


class GradcheckError(RuntimeError):
    """A gradient does not agree with finite differences."""


def _tensors(x: Any) -> tuple[Tensor, ...]:
    return tuple(t for t in (x if isinstance(x, (tuple, list)) else (x,)) if dispatch.is_tensor(t))


def _differentiable(outputs: Any) -> list[Tensor]:
    return [o for o in _tensors(outputs) if o.requires_grad]


def gradcheck(
    func: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
    raise_exception: bool = True, nondet_tol: float = 0.0, check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False, check_batched_grad: bool = False, check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False, check_backward_ad: bool = True, fast_mode: bool = False, masked: bool | None = None,
) -> bool:  # fmt: skip
    """Compares the gradients of ``func(*inputs)`` with central differences, every element of every input.

    Args:
        func: takes Tensors, returns one or several.
        inputs: Tensors; those that require grad are checked and should be float64.
        eps: step; atol, rtol: ``|analytical - numerical| <= atol + rtol * |numerical|``.
        nondet_tol: how far two backward passes may differ.
        check_undefined_grad: also with None and with zeros for one of several results' gradients.
        check_grad_dtypes: gradients must have their input's dtype.
        check_batched_grad, fast_mode, masked: accepted for PyTorch's sake; every check here is the full one.

    Raises:
        GradcheckError: they disagree (False with ``raise_exception=False``). ValueError: nothing requires grad.
        NotImplementedError: forward mode (``check_forward_ad``), which does not exist.
    """
    if check_forward_ad or check_batched_forward_grad:
        raise NotImplementedError("gradcheck: forward-mode differentiation does not exist (check_forward_ad)")
    try:
        _check(func, _tensors(inputs) if dispatch.is_tensor(inputs) else tuple(inputs), eps, atol, rtol, nondet_tol,
               check_undefined_grad, check_grad_dtypes)  # fmt: skip
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check(
    func: Callable[..., Any], inputs: tuple[Any, ...], eps: float, atol: float, rtol: float, nondet_tol: float,
    undefined: bool, check_dtypes: bool,
) -> None:  # fmt: skip
    checked = [(i, t) for i, t in enumerate(inputs) if dispatch.is_tensor(t) and t.requires_grad]
    if not checked:
        raise ValueError("gradcheck expects at least one input tensor to require gradient, but none of the them have "
                         "requires_grad=True.")  # fmt: skip
    for i, t in checked:
        if t.dtype is not dtypes.float64:
            warnings.warn(f"Input #{i} requires gradient and is not a double precision floating point or complex. This "
                          "check will likely fail if all the inputs are not of double precision floating point or "
                          "complex. ", stacklevel=4)  # fmt: skip
    for t in _tensors(func(*inputs)):
        if any(t is x for _, x in checked):
            raise ValueError("gradcheck: func returns one of its inputs; return a clone")
    outputs = _differentiable(func(*inputs))
    if not outputs:
        _all_zero(func, inputs, checked, eps, atol)
        return
    for number, output in enumerate(outputs):
        analytical = _jacobian(output, [t for _, t in checked], check_dtypes)
        again = _jacobian(output, [t for _, t in checked], check_dtypes)
        for (i, t), a, b in zip(checked, analytical, again, strict=True):
            if a.size and np.abs(a - b).max() > nondet_tol:
                raise GradcheckError("Backward is not reentrant, i.e., running backward with same input and "
                                     "grad_output multiple times gives different values, although analytical gradient "
                                     "matches numerical gradient.")  # fmt: skip
            numerical = _numerical(func, inputs, t, number, eps)
            bound = atol + rtol * np.abs(numerical)
            if not (np.abs(a - numerical) <= bound).all():
                raise GradcheckError(f"Jacobian mismatch for output {number} with respect to input {i},\n"
                                     f"numerical:{numerical}\nanalytical:{a}\n")  # fmt: skip
    if undefined:
        _undefined(func, inputs, checked)


def _all_zero(func: Any, inputs: Any, checked: Any, eps: float, atol: float) -> None:
    outs = _tensors(func(*inputs))
    if any(o.dtype.is_floating_point for o in outs):
        for i, t in checked:
            for number in range(len(outs)):
                if np.abs(_numerical(func, inputs, t, number, eps, every=True)).max(initial=0) > atol:
                    raise GradcheckError("Numerical gradient for function expected to be zero (no output requires "
                                         f"grad), but output {number} depends on input {i}")  # fmt: skip


def _jacobian(output: Tensor, inputs: Sequence[Tensor], check_dtypes: bool) -> list[np.ndarray]:
    """[input elements, output elements] per input, by one backward per output element."""
    columns: list[list[np.ndarray]] = [[] for _ in inputs]
    for k in range(int(output.numel())):
        seed = np.zeros(output._data.shape, output._data.dtype)
        seed.reshape(-1)[k] = 1
        grads = grad(output, inputs, dispatch.from_array(seed), retain_graph=True, allow_unused=True)
        for column, t, g in zip(columns, inputs, grads, strict=True):
            if g is not None and check_dtypes and g.dtype is not t.dtype:
                raise GradcheckError(f"gradient of dtype {g.dtype} for an input of dtype {t.dtype}")
            if g is not None and g.shape != t.shape:
                raise GradcheckError(f"Gradient of shape {list(g.shape)} for an input of shape {list(t.shape)}")
            column.append(np.zeros(t._data.size) if g is None else g._data.astype(np.float64).reshape(-1))
    count = int(output.numel())
    return [np.array(c).reshape(count, t._data.size).T for c, t in zip(columns, inputs, strict=True)]


def _numerical(
    func: Any, inputs: tuple[Any, ...], t: Tensor, number: int, eps: float, every: bool = False
) -> np.ndarray:
    def value() -> np.ndarray:
        outs = func(*inputs)
        found = _tensors(outs) if every else _differentiable(outs)
        return found[number]._data.astype(np.float64).reshape(-1).copy()

    data = t._data
    rows = []
    for index in np.ndindex(data.shape):
        held = data[index].copy()
        data[index] = held + eps
        high = value()
        data[index] = held - eps
        low = value()
        data[index] = held
        rows.append((high - low) / (2 * eps))
    return np.array(rows) if rows else np.zeros((0, value().size))


def _undefined(func: Any, inputs: tuple[Any, ...], checked: Any) -> None:
    """A result without a gradient counts as one with zeros."""
    outputs = _differentiable(func(*inputs))
    targets = [t for _, t in checked]
    for skipped in range(len(outputs)) if len(outputs) > 1 else ():
        rest = [k for k in range(len(outputs)) if k != skipped]
        seeds = {k: dispatch.from_array(np.ones(outputs[k]._data.shape, outputs[k]._data.dtype)) for k in rest}
        zeros = dispatch.from_array(np.zeros(outputs[skipped]._data.shape, outputs[skipped]._data.dtype))
        without = grad([outputs[k] for k in rest], targets, [seeds[k] for k in rest], True, allow_unused=True)
        given = [zeros if k == skipped else seeds[k] for k in range(len(outputs))]
        with_zeros = grad(outputs, targets, given, True, allow_unused=True)
        for a, b in zip(without, with_zeros, strict=True):
            left = 0.0 if a is None else a._data
            right = 0.0 if b is None else b._data
            if not np.allclose(left, right):
                raise GradcheckError("Expected backward function to handle undefined output grads: a result without "
                                     "a gradient must count as one whose gradient is zero")  # fmt: skip


def gradgradcheck(
    func: Callable[..., Any], inputs: Any, grad_outputs: Any = None, *, eps: float = 1e-6, atol: float = 1e-5,
    rtol: float = 1e-3, gen_non_contig_grad_outputs: bool = False, raise_exception: bool = True,
    nondet_tol: float = 0.0, check_undefined_grad: bool = True, check_grad_dtypes: bool = False,
    check_batched_grad: bool = False, check_fwd_over_rev: bool = False, check_rev_over_rev: bool = True,
    fast_mode: bool = False, masked: bool = False,
) -> bool:  # fmt: skip
    """``gradcheck`` of the gradients of ``func``: with respect to ``inputs`` and to ``grad_outputs`` (random numbers by
    default)."""
    if check_fwd_over_rev:
        raise NotImplementedError("gradgradcheck: forward-mode differentiation does not exist")
    given = _tensors(inputs) if dispatch.is_tensor(inputs) else tuple(inputs)
    if grad_outputs is None:
        outputs = _differentiable(func(*given))
        with grad_mode.no_grad():
            seeds = [random.rand(*o.shape, dtype=o.dtype) * 2 - 1 for o in outputs]
        seeds = [s.requires_grad_() for s in seeds]
    else:
        seeds = list(_tensors(grad_outputs))
    count = len(seeds)

    def gradients(*args: Any) -> Any:
        own, outer = args[:-count], args[-count:]
        outputs = _differentiable(func(*own))
        targets = [t for t in own if dispatch.is_tensor(t) and t.requires_grad]
        return grad(outputs, targets, outer, create_graph=True, allow_unused=True)

    def defined(*args: Any) -> Any:
        # A gradient may be the very tensor that came in (that of ``x + y``).
        return tuple(g.clone() if any(g is a for a in args) else g for g in gradients(*args) if g is not None)

    return gradcheck(
        defined, (*given, *seeds), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
        nondet_tol=nondet_tol, check_undefined_grad=check_undefined_grad, check_grad_dtypes=check_grad_dtypes,
    )  # fmt: skip
