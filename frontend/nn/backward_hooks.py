"""Hooks of modules that run when gradients are computed (public as ``utils.hooks``)."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dispatch, grad_mode
from ..autograd.function import Function


def unserializable_hook(f: Any) -> Any:
    """Marks a hook that is left out when its tensor is saved."""
    f.__torch_unserializable__ = True
    return f


def warn_if_has_hooks(tensor: Any) -> None:
    """Warns that the hooks of a tensor are not saved with it."""
    import warnings

    for hook in (tensor._hooks or {}).values():
        if not hasattr(hook, "__torch_unserializable__"):
            warnings.warn(f"backward hook {hook!r} on tensor will not be serialized.  If this is expected, you can "
                          "decorate the function with @torch.utils.hooks.unserializable_hook to suppress this "
                          "warning", stacklevel=2)  # fmt: skip


class _WrappedHook:
    """A hook that gets its module first without keeping it alive."""

    def __init__(self, hook: Callable[..., Any], module: Any = None) -> None:
        self.hook = hook
        functools.update_wrapper(self, hook)
        self.module = None if module is None else weakref.ref(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.module is None:
            return self.hook(*args, **kwargs)
        module = self.module()
        if module is None:
            raise RuntimeError("You are trying to call the hook of a dead Module!")
        return self.hook(module, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {"hook": self.hook, "module": self.module and self.module()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["hook"], state["module"])  # type: ignore[misc]


class BackwardHookFunction(Function):
    """The identity; its node marks where a module begins or ends."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.mark_non_differentiable(*[a for a in args if not a.requires_grad])
        return args

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads


class BackwardHook:
    """Calls a module's full backward hooks once the gradients of its inputs and results are both known.

    Args:
        module: the first argument of every hook.
        user_hooks: ``hook(module, grad_input, grad_output)``; what one returns replaces ``grad_input``.
        user_pre_hooks: ``hook(module, grad_output)``; what one returns replaces ``grad_output``.
    """

    def __init__(self, module: Any, user_hooks: Sequence[Any], user_pre_hooks: Sequence[Any]) -> None:
        self.module = module
        self.user_hooks = user_hooks
        self.user_pre_hooks = user_pre_hooks
        self.grad_outputs: tuple[Any, ...] | None = None
        self.n_inputs = self.n_outputs = -1
        self.input_places: list[int] | None = None
        self.output_places: list[int] = []

    def _zeros(self) -> list[Any]:
        """What hooks see of inputs that no gradient reaches."""
        return [dispatch.from_array(np.zeros(t.shape, t.dtype.numpy)) for t in self._input_types]

    def setup_input_hook(self, args: Any) -> Any:
        """The arguments of ``forward``, seen by the hooks on the way back."""

        def found(grad_input: tuple[Any, ...], _: Any) -> Any:
            if self.grad_outputs is None:
                return None  # the results took no part: nothing to report
            places = self.input_places or []
            known = [zero if g is None else g for g, zero in zip(grad_input, self._zeros(), strict=True)]
            full = _spread(places, known, self.n_inputs)
            for hook in self.user_hooks:
                answer = hook(self.module, full, self.grad_outputs)
                if answer is None:
                    continue
                answer = answer if isinstance(answer, tuple) else (answer,)
                if len(answer) != len(full):
                    raise RuntimeError("Backward hook returned an invalid number of grad_input, got "
                                       f"{len(answer)}, but expected {len(full)}")  # fmt: skip
                full = answer
            self.grad_outputs = None
            return tuple(full[i] if g is not None or full[i] is not known[k] else None
                         for k, (i, g) in enumerate(zip(places, grad_input, strict=True)))  # fmt: skip

        self._input_types = [a._type for a in args if dispatch.is_tensor(a)]
        out, self.input_places = _marked(lambda node: node.register_hook(found), args)
        self.n_inputs = len(args)
        return out

    def setup_output_hook(self, args: Any) -> Any:
        """The results of ``forward``, seen by the hooks on the way back."""

        def found(grad_output: tuple[Any, ...]) -> Any:
            self.grad_outputs = _spread(self.output_places, grad_output, self.n_outputs)
            for hook in self.user_pre_hooks:
                answer = hook(self.module, self.grad_outputs)
                if answer is None:
                    continue
                answer = answer if isinstance(answer, tuple) else (answer,)
                if len(answer) != len(self.grad_outputs):
                    raise RuntimeError("Backward pre hook returned an invalid number of grad_output, got "
                                       f"{len(answer)}, but expected {len(self.grad_outputs)}")  # fmt: skip
                self.grad_outputs = answer
            changed = tuple(self.grad_outputs[i] for i in self.output_places)
            if self.input_places is None:  # no input has a gradient: this is the end
                nothing = (None,) * self.n_inputs
                for hook in self.user_hooks:
                    answer = hook(self.module, nothing, self.grad_outputs)
                    if answer is not None and not (isinstance(answer, tuple) and all(a is None for a in answer)):
                        raise RuntimeError("Backward hook for Modules where no input requires gradient should always "
                                           "return None or None for all gradients.")  # fmt: skip
                self.grad_outputs = None
            return changed

        single = not isinstance(args, tuple)
        args = (args,) if single else args
        out, places = _marked(lambda node: node.register_prehook(found), args)
        self.output_places = places or []
        self.n_outputs = len(args)
        return out[0] if single else out


def _spread(places: Sequence[int], values: Sequence[Any], count: int) -> tuple[Any, ...]:
    full: list[Any] = [None] * count
    for place, value in zip(places, values, strict=True):
        full[place] = value
    return tuple(full)


def _marked(register: Callable[[Any], Any], args: Any) -> tuple[Any, list[int] | None]:
    """``args`` with its tensors passed through one node, and where they are; None if nothing has a gradient."""
    places = [i for i, a in enumerate(args) if dispatch.is_tensor(a)]
    if not (grad_mode.is_grad_enabled() and any(args[i].requires_grad for i in places)):
        return args, None
    through = BackwardHookFunction.apply(*(args[i] for i in places))
    through = through if isinstance(through, tuple) else (through,)
    node = next(t.grad_fn for t in through if t.grad_fn is not None)
    register(node)
    out = list(args)
    for place, t in zip(places, through, strict=True):
        out[place] = t
    return (tuple(out) if type(args) is tuple else type(args)(*out)), places
