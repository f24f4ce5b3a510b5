"""The part of ``Tensor`` that has to do with differentiation: history, gradients, hooks, copies."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import dispatch, grad_mode, tracing
from .hooks import RemovableHandle, add_hook
from .tape import views
from .tape.nodes import counter_of

if TYPE_CHECKING:
    from .tensor import Tensor


class Differentiable:
    """Base class of ``Tensor``."""

    # -- history ------------------------------------------------------------------------------------
    @property
    def requires_grad(self: Tensor) -> bool:  # type: ignore[misc]
        """Whether operations on this tensor are recorded: set on leaves, inherited by results."""
        return self._requires_grad or self.grad_fn is not None

    @requires_grad.setter
    def requires_grad(self: Tensor, value: bool) -> None:  # type: ignore[misc]
        self.requires_grad_(value)

    def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:  # type: ignore[misc]
        """Sets the flag of a leaf; RuntimeError for integer tensors, and for turning it off on a result."""
        if self.grad_fn is not None:
            if not requires_grad:
                raise RuntimeError("you can only change requires_grad flags of leaf variables. If you want to use a "
                                   "computed variable in a subgraph that doesn't require differentiation use "
                                   "var_no_grad = var.detach().")  # fmt: skip
            return self
        if requires_grad and not self.dtype.is_floating_point:
            raise RuntimeError("only Tensors of floating point and complex dtype can require gradients")
        if bool(requires_grad) != self._requires_grad:
            self._requires_grad = bool(requires_grad)
        return self

    @property
    def grad_fn(self: Tensor) -> Any:  # type: ignore[misc]
        """The node that made this tensor; None for leaves."""
        if self._base is not None:
            views.refresh(self)
        return self._grad_fn

    @property
    def is_leaf(self: Tensor) -> bool:  # type: ignore[misc]
        """Whether nothing was recorded in making this tensor; only leaves collect ``grad``."""
        return self.grad_fn is None

    @property
    def output_nr(self: Tensor) -> int:  # type: ignore[misc]
        """Which of ``grad_fn``'s results this is."""
        return self._output_nr

    @property
    def _version(self: Tensor) -> int:  # type: ignore[misc]
        return 0 if self._counter is None else self._counter.value

    def _is_view(self: Tensor) -> bool:  # type: ignore[misc]
        return self._base is not None

    def is_inference(self: Tensor) -> bool:  # type: ignore[misc]
        """Whether this tensor was made in inference mode."""
        return self._inference

    @property
    def grad(self: Tensor) -> Tensor | None:  # type: ignore[misc]
        """The gradient collected so far, or None. Shape and dtype are the tensor's."""
        return self._grad

    @grad.setter
    def grad(self: Tensor, value: Tensor | None) -> None:  # type: ignore[misc]
        if value is not None:
            if not dispatch.is_tensor(value):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got grad of type {type(value)}")
            if value is self:
                raise RuntimeError("can't assign Variable as its own grad")
            if value.dtype is not self.dtype:
                raise RuntimeError(f"attempting to assign a gradient with dtype '{value.dtype}' to a tensor with dtype "
                                   f"'{self.dtype}'. Please ensure that the gradient and the tensor have the same "
                                   "dtype")  # fmt: skip
            if value._extents != self._extents:
                raise RuntimeError(f"attempting to assign a gradient of size '{list(value.shape)}' to a tensor of size "
                                   f"'{list(self.shape)}'. Please ensure that the gradient and the tensor are the same "
                                   "size")  # fmt: skip
        self._grad = value

    @property
    def data(self: Tensor) -> Tensor:  # type: ignore[misc]
        """The same storage without history; writes to it are not noticed by differentiation. Setting it replaces the
        value."""
        tracer = tracing.current()
        if tracer is not None and tracer.owns(self):
            return tracer.detach(self)
        out = dispatch.from_array(self._data)
        out._trace = self._trace
        return out

    @data.setter
    def data(self: Tensor, new: Tensor) -> None:  # type: ignore[misc]
        if not dispatch.is_tensor(new):
            raise TypeError(f"Variable data has to be a tensor, but got {type(new).__name__}")
        tracer = tracing.current()
        if tracer is not None and (tracer.owns(self) or tracer.owns(new)):
            dispatch.assign(self, new, "data assignment")
        else:
            self._data = new._data

    def detach(self: Tensor) -> Tensor:  # type: ignore[misc]
        """The same storage, outside of differentiation. In-place changes are counted on both."""
        tracer = tracing.current()
        if tracer is not None and tracer.owns(self):
            return tracer.detach(self)
        out = dispatch.from_array(self._data)
        out._trace, out._inference = self._trace, self._inference
        out._counter = counter_of(self)
        return out

    def detach_(self: Tensor) -> Tensor:  # type: ignore[misc]
        """Cuts this tensor from its history; RuntimeError for views."""
        tracer = tracing.current()
        if tracer is not None and tracer.owns(self):
            return dispatch.assign(self, tracer.detach(self), "detach_")
        if self._base is not None and self.requires_grad:
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self._grad_fn, self._output_nr, self._requires_grad = None, 0, False
        return self

    # -- gradients ----------------------------------------------------------------------------------
    def backward(
        self: Tensor,  # type: ignore[misc]
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Tensor] | Tensor | None = None,
    ) -> None:
        """Adds the gradient of this tensor to ``grad`` of the leaves it was computed from (or of ``inputs``).

        Args:
            gradient: gradient with respect to this tensor, in its shape; may be left out for one element.
            retain_graph: keep saved values for another backward (default: ``create_graph``).
            create_graph: record the computation of the gradients, so that they can be differentiated.
            inputs: only these collect gradients.

        Raises:
            RuntimeError: nothing was recorded; a second backward without ``retain_graph``; a saved value was changed
                in place; ``gradient`` is missing or has another shape.
        """
        from . import autograd

        autograd.backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def retain_grad(self: Tensor) -> None:  # type: ignore[misc]
        """Makes a result collect ``grad`` as leaves do."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        node = self.grad_fn
        if node is None:
            return
        if node.retained is None:
            node.retained = {}
        me = weakref.ref(self)

        def keep(grad: Tensor) -> None:
            tensor = me()
            if tensor is not None:
                grad = grad if grad_mode.is_grad_enabled() else grad.clone()
                tensor._grad = grad if tensor._grad is None else tensor._grad + grad

        node.retained[self._output_nr] = keep
        self._retains = True

    @property
    def retains_grad(self: Tensor) -> bool:  # type: ignore[misc]
        """Whether ``retain_grad`` was called on this result."""
        return self._retains

    def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:  # type: ignore[misc]
        """``hook(grad)`` whenever the gradient of this tensor is computed; what it returns replaces it."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        node = self.grad_fn
        if node is None:
            self._hooks = OrderedDict() if self._hooks is None else self._hooks
            accumulator = self._accumulator() if self._accumulator is not None else None
            if accumulator is not None:
                accumulator.tensor_hooks = {0: self._hooks}
            return add_hook(self._hooks, _same_shape(hook, self))
        if node.tensor_hooks is None:
            node.tensor_hooks = {}
        return add_hook(node.tensor_hooks.setdefault(self._output_nr, OrderedDict()), _same_shape(hook, self))

    def register_post_accumulate_grad_hook(
        self: Tensor,  # type: ignore[misc]
        hook: Callable[[Tensor], None],
    ) -> RemovableHandle:
        """``hook(tensor)`` after this leaf's ``grad`` was added to."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self.grad_fn is not None:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        self._accumulate_hooks = OrderedDict() if self._accumulate_hooks is None else self._accumulate_hooks
        return add_hook(self._accumulate_hooks, hook)

    # -- copies -------------------------------------------------------------------------------------
    def __deepcopy__(self: Tensor, memo: dict) -> Tensor:  # type: ignore[misc]
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                               "protocol at the moment.  If you were attempting to deepcopy a module, this may be "
                               "because of a torch.nn.utils.weight_norm usage, see "
                               "https://github.com/pytorch/pytorch/pull/103001")  # fmt: skip
        out = type(self).__new__(type(self))
        memo[id(self)] = out
        out._data = self._concrete("deepcopy").copy()
        out._requires_grad = self._requires_grad
        if self._grad is not None:
            out._grad = self._grad.__deepcopy__(memo)
        return out

    def __reduce__(self: Tensor) -> Any:  # type: ignore[misc]
        return (_rebuild, (type(self), self._concrete("pickling"), self.requires_grad))


def _same_shape(hook: Callable[[Tensor], Tensor | None], owner: Tensor) -> Callable[[Tensor], Tensor | None]:
    shape = owner.shape

    def checked(grad: Tensor) -> Tensor | None:
        out = hook(grad)
        if out is None:
            grad._owned = False  # the hook may have kept it
            return None
        if not dispatch.is_tensor(out):
            raise TypeError(f"hook returned a {type(out).__name__}; expected a Tensor or None")
        if out.shape != shape:
            raise RuntimeError(f"hook '{getattr(hook, '__name__', 'unnamed')}' has changed the size of value")
        out._owned = False
        return out

    return checked


def _rebuild(cls: Any, array: Any, requires_grad: bool) -> Tensor:
    out = cls._wrap(array)
    out._requires_grad = requires_grad
    return out
