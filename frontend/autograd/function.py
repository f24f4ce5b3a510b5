"""``Function``: operators with a gradient of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import UnsupportedError
from .. import dispatch, grad_mode, tracing
from ..sources import user_place
from ..tape.nodes import SECOND_TIME, Recorded, Saved, counter_of, gradient_edge

if TYPE_CHECKING:
    from ..tensor import Tensor


class FunctionNode(Recorded):
    """A call of a ``Function``; also the ``ctx`` of its ``forward`` and ``backward``."""

    def __init__(self, function: type[Function]) -> None:
        super().__init__(f"{function.__name__}Backward", (), ())
        self._function = function
        self._to_save: tuple[Tensor | None, ...] = ()
        self._saved: list[Any] | None = None
        self._dirty: tuple[Tensor, ...] = ()
        self._no_gradient: tuple[Tensor, ...] = ()
        self._materialize = True
        self.needs_input_grad: tuple[bool, ...] = ()

    # -- for forward ----------------------------------------------------------------------------------
    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (inputs or results) for ``backward``: ``ctx.saved_tensors`` there."""
        self._to_save = tensors

    save_for_forward = save_for_backward

    def mark_dirty(self, *args: Tensor) -> None:
        """Says which inputs ``forward`` changed in place; they must be among its results."""
        self._dirty = args

    def mark_non_differentiable(self, *args: Tensor) -> None:
        """Says which results have no gradient."""
        self._no_gradient = args

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` gets zeros (the default) or None for results that have no gradient."""
        self._materialize = value

    # -- for backward ---------------------------------------------------------------------------------
    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What ``save_for_backward`` kept; RuntimeError if it was freed or changed in place since."""
        if self._saved is None:
            if self._to_save:  # still in forward
                return self._to_save
            raise RuntimeError(SECOND_TIME)
        return tuple(None if s is None else s.unpack(self) for s in self._saved)

    saved_variables = saved_tensors

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        if self._materialize:
            grads = [
                dispatch.from_array(np.zeros(m.shape, m.dtype.numpy)) if g is None else g
                for g, m in zip(grads, self.meta, strict=True)
            ]
        found = self._function.backward(self, *grads)
        found = found if isinstance(found, tuple) else (found,)
        count = len(self.edges)
        if len(found) > count and all(g is None for g in found[count:]):
            found = found[:count]
        if len(found) != count:
            raise RuntimeError(f"function {self.name} returned an incorrect number of gradients (expected {count}, got "
                               f"{len(found)})")  # fmt: skip
        return [self._checked(i, g) for i, g in enumerate(found)]

    def _checked(self, i: int, g: Any) -> Any:
        if g is None or self.edges[i] is None:
            return None
        if not dispatch.is_tensor(g):
            raise TypeError(f"expected Tensor or None from {self.name} for gradient {i}, got {type(g).__name__}")
        wanted = self.edges[i][0].meta[self.edges[i][1]]  # type: ignore[index, union-attr]
        if g._extents != wanted.shape:
            from .. import reduce, shaping

            extra = max(g.dim() - len(wanted.shape), 0)
            pairs = list(zip(g._extents[extra:], wanted.shape[len(wanted.shape) - (g.dim() - extra) :], strict=True))
            if any(e != w and w != 1 for e, w in pairs) or g.dim() < len(wanted.shape):
                raise RuntimeError(f"Function {self.name} returned an invalid gradient at index {i} - got "
                                   f"{list(g.shape)} but expected shape compatible with "
                                   f"{list(wanted.shape)}")  # fmt: skip
            summed = [*range(extra), *(extra + a for a, (e, w) in enumerate(pairs) if e != w)]
            g = shaping.reshape(reduce.sum(g, summed, True), *wanted.shape)
        g = dispatch.cast(g, wanted.dtype)
        g._owned = False
        return g

    def release(self) -> None:
        if self._saved:
            self._saved = None
            self._to_save = ()


class Function:
    """Base class of operators with a gradient of their own.

    Subclasses define static methods ``forward(ctx, *args)`` (or ``forward(*args)`` and ``setup_context(ctx, inputs,
    output)``) and ``backward(ctx, *grads)``, and are called as ``Name.apply(*args)``. Compiling traces ``forward``'s
    operators; the gradient of a compiled training step is that of these operators unless the class defines its own
    ``backward``: then ``compile_step`` refuses, because it cannot see that ``backward`` belongs to them.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The computation; runs without recording."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keeps what ``backward`` needs, if ``forward`` takes no ``ctx``."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Gradients of the arguments (None for those that have none) from those of the results."""
        raise NotImplementedError("You must implement either the backward or vjp method for your custom "
                                  "autograd.Function to use it with backward mode AD.")  # fmt: skip

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` and record one node."""
        ctx = FunctionNode(cls)
        tensors = [a for a in args if dispatch.is_tensor(a)]
        tracer = tracing.current()
        if tracer is not None and any(tracer.owns(t) for t in tensors):
            return _traced(cls, ctx, args, kwargs, tracer)
        recording = grad_mode.is_grad_enabled() and any(t.requires_grad for t in tensors)
        ctx.needs_input_grad = tuple(dispatch.is_tensor(a) and a.requires_grad for a in args)
        edges = [gradient_edge(a) if need else None for a, need in zip(args, ctx.needs_input_grad, strict=True)]
        with grad_mode.no_grad():
            output = _forward(cls, ctx, args, kwargs)
        results = output if isinstance(output, (tuple, list)) else (output,)
        if not recording:
            return output
        outs = _as_results(ctx, args, results)
        ctx.edges = tuple(edges)
        ctx.outputs, ctx.meta = len(results), tuple(
            o._type if dispatch.is_tensor(o) else dispatch.scalar(0.0, dispatch.float32)._type for o in outs
        )
        plain = {id(t) for t in ctx._no_gradient}
        for i, (o, given) in enumerate(zip(outs, results, strict=True)):
            if dispatch.is_tensor(o) and o.dtype.is_floating_point and id(given) not in plain:
                o._grad_fn, o._output_nr, o._requires_grad = ctx, i, False
        by_result = {id(given): o for given, o in zip(results, outs, strict=True)}
        ctx._saved = [None if t is None else _save(ctx, by_result.get(id(t), t)) for t in ctx._to_save]
        ctx._to_save = ()
        return type(output)(outs) if isinstance(output, (tuple, list)) else outs[0]


def _forward(cls: type[Function], ctx: FunctionNode, args: Sequence[Any], kwargs: Any) -> Any:
    if cls.setup_context is Function.setup_context:
        return cls.forward(ctx, *args, **kwargs)
    inputs = inspect.signature(cls.forward).bind(*args, **kwargs)
    inputs.apply_defaults()
    output = cls.forward(*args, **kwargs)
    cls.setup_context(ctx, tuple(inputs.args), output)
    return output


def _save(ctx: FunctionNode, t: Tensor) -> Saved:
    return Saved(t, ctx if t._grad_fn is ctx else None)


def _as_results(ctx: FunctionNode, args: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """Results as tensors of their own: an input that is returned unchanged becomes a view of itself."""
    dirty = {id(t) for t in ctx._dirty}
    given = {id(a) for a in args if dispatch.is_tensor(a)}
    outs = []
    for r in results:
        if dispatch.is_tensor(r) and id(r) in given and id(r) not in dirty:
            alias = dispatch.from_array(r._data)
            alias._counter = counter_of(r)
            ctx.as_given = {*ctx.as_given, len(outs)}
            r = alias
        elif dispatch.is_tensor(r) and id(r) in dirty:
            if r._requires_grad and r._grad_fn is None:
                raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
            counter_of(r).value += 1
        outs.append(r)
    return outs


def _traced(cls: type[Function], ctx: FunctionNode, args: Sequence[Any], kwargs: Any, tracer: Any) -> Any:
    """While tracing, the operators of ``forward`` are recorded; their gradient would not be ``backward``."""
    if tracer.differentiates:
        raise UnsupportedError(f"{user_place()}: {cls.__name__} is an autograd.Function with a backward of its own; a "
                               "compiled training step differentiates operators and cannot use it. Try: write forward "
                               "with differentiable operators, or train eagerly.")  # fmt: skip
    ctx.needs_input_grad = tuple(False for _ in args)
    return _forward(cls, ctx, args, kwargs)


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of ``backward``: its results cannot be differentiated again (RuntimeError if that is tried)."""
    from functools import wraps

    @wraps(fn)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        with grad_mode.no_grad():
            outs = fn(ctx, *grads)
        if not grad_mode.is_grad_enabled() or not any(dispatch.is_tensor(g) and g.requires_grad for g in grads):
            return outs
        many = outs if isinstance(outs, tuple) else (outs,)
        node = _Once(many, [gradient_edge(g) for g in grads if dispatch.is_tensor(g)])
        for i, o in enumerate(many):
            if dispatch.is_tensor(o):
                o._grad_fn, o._output_nr = node, i
        return outs

    return wrapper


class _Once(Recorded):
    def __init__(self, outs: Sequence[Any], edges: Sequence[Any]) -> None:
        super().__init__("DelayedError", edges, [o._type for o in outs if dispatch.is_tensor(o)])
        self.outputs = len(outs)

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
