"""``autograd.functional``: Jacobians, Hessians and their products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dispatch, grad_mode, shaping
from .engine import grad

if TYPE_CHECKING:
    from ..tensor import Tensor


def _tuple(x: Any, what: str) -> tuple[bool, tuple[Tensor, ...]]:
    many = isinstance(x, (tuple, list))
    out = tuple(x) if many else (x,)
    for i, t in enumerate(out):
        if not dispatch.is_tensor(t):
            raise TypeError(f"The {what} given must be either a Tensor or a tuple of Tensors but the value at index "
                            f"{i} has type {type(t)}.")  # fmt: skip
    return many, out


def _prepare(inputs: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    if create_graph:
        return tuple(shaping.view_as(t, t) if t.requires_grad else t.detach().requires_grad_() for t in inputs)
    return tuple(t.detach().requires_grad_() for t in inputs)


def _finish(x: Any, create_graph: bool) -> Any:
    if isinstance(x, tuple):
        return tuple(_finish(t, create_graph) for t in x)
    return x if create_graph else x.detach()


def _like(v: Any, outputs: Sequence[Tensor], what: str) -> tuple[Tensor, ...]:
    if v is None:
        if len(outputs) != 1 or outputs[0].numel() != 1:
            raise RuntimeError(f"The vector v can only be None if the {what} is a single Tensor with a single element")
        return tuple(dispatch.from_array(np.ones(o._data.shape, o._data.dtype)) for o in outputs)
    _, vs = _tuple(v, "v")
    if len(vs) != len(outputs):
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(outputs)} but got {len(vs)}.")
    for i, (a, b) in enumerate(zip(vs, outputs, strict=True)):
        if a.shape != b.shape:
            raise RuntimeError(f"Entry {i} in v has invalid size: should be {b.shape} but got {a.shape}.")
    return vs


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor] | None, create_graph: bool,
    strict: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    kept = [(o, None if vectors is None else vectors[i]) for i, o in enumerate(outputs) if o.requires_grad]
    if strict and len(kept) != len(outputs):
        raise RuntimeError("The output of the user-provided function is independent of the inputs. This is not allowed "
                           "in strict mode.")  # fmt: skip
    if not kept:
        return tuple(dispatch.from_array(np.zeros(t._data.shape, t._data.dtype)) for t in inputs)
    found = grad(
        [o for o, _ in kept], inputs, None if vectors is None else [v for _, v in kept], True, create_graph,
        allow_unused=True,
    )  # fmt: skip
    for i, g in enumerate(found):
        if g is None and strict:
            raise RuntimeError(f"The output of the user-provided function is independent of input {i}. This is not "
                               "allowed in strict mode.")  # fmt: skip
    return tuple(
        dispatch.from_array(np.zeros(t._data.shape, t._data.dtype)) if g is None else g
        for g, t in zip(found, inputs, strict=True)
    )


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), v times its Jacobian); ``v`` has the results' shapes."""
    with grad_mode.enable_grad():
        many, ins = _tuple(inputs, "inputs")
        ins = _prepare(ins, create_graph)
        several, outs = _tuple(func(*ins), "outputs")
        found = _gradients(outs, ins, _like(v, outs, "output"), create_graph, strict)
    outs, found = _finish(outs, create_graph), _finish(found, create_graph)
    return outs if several else outs[0], found if many else found[0]


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), its Jacobian times v); ``v`` has the inputs' shapes. By differentiating twice."""
    with grad_mode.enable_grad():
        _, ins = _tuple(inputs, "inputs")
        ins = _prepare(ins, create_graph)
        vectors = _like(v, ins, "input")
        several, outs = _tuple(func(*ins), "outputs")
        dummies = tuple(dispatch.from_array(np.zeros(o._data.shape, o._data.dtype)).requires_grad_() for o in outs)
        through = _gradients(outs, ins, dummies, True, strict)
        found = _gradients(through, dummies, vectors, create_graph, False)
    outs, found = _finish(outs, create_graph), _finish(found, create_graph)
    return (outs, found) if several else (outs[0], found[0])


def jacobian(
    func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """The Jacobian: for each result and input a Tensor of result's shape + input's shape."""
    if strategy not in ("reverse-mode", "forward-mode"):
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode".')
    with grad_mode.enable_grad():
        many, ins = _tuple(inputs, "inputs")
        ins = _prepare(ins, create_graph)
        several, outs = _tuple(func(*ins), "outputs")
        rows = []
        for out in outs:
            parts: list[list[Tensor]] = [[] for _ in ins]
            flat = shaping.reshape(out, -1)
            for k in range(int(out.numel())):
                for part, g in zip(parts, _gradients([flat[k]], ins, None, create_graph, strict), strict=True):
                    part.append(g)
            rows.append(tuple(
                shaping.reshape(shaping.stack(p), *out.shape, *t.shape) if p
                else dispatch.from_array(np.zeros((*out._data.shape, *t._data.shape), t._data.dtype))
                for p, t in zip(parts, ins, strict=True)
            ))  # fmt: skip
    rows = [_finish(row if many else row[0], create_graph) for row in rows]
    return tuple(rows) if several else rows[0]


def hessian(
    func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """The second derivatives of a function with one result of one element."""
    many, ins = _tuple(inputs, "inputs")

    def gradient(*args: Tensor) -> Any:
        found = jacobian(lambda *a: _scalar(func(*a)), args, create_graph=True, strict=strict)
        return found

    found = jacobian(gradient, ins, create_graph, strict, vectorize, outer_jacobian_strategy)
    return found if many else found[0][0]


def _scalar(out: Any) -> Tensor:
    if not dispatch.is_tensor(out) or out.numel() != 1:
        raise RuntimeError("The Tensor returned by the function given to hessian should contain a single element")
    return shaping.reshape(out, ())


def vhp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), v times its Hessian)."""
    with grad_mode.enable_grad():
        many, ins = _tuple(inputs, "inputs")
        ins = _prepare(ins, create_graph)
        out = _scalar(func(*ins))
        vectors = _like(v, ins, "input")
        first = _gradients([out], ins, None, True, strict)
        found = _gradients(first, ins, vectors, create_graph, strict)
    out, found = _finish(out, create_graph), _finish(found, create_graph)
    return out, found if many else found[0]


def hvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), its Hessian times v); the Hessian is symmetric, so this is ``vhp``."""
    return vhp(func, inputs, v, create_graph, strict)


__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]
