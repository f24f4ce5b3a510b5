"""Calling a module: its own hooks and those of all modules, before and after ``forward`` and in the backward."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ...ir.errors import UnsupportedError
from .. import dispatch, tracing
from ..hooks import RemovableHandle
from ..sources import user_place
from .backward_hooks import BackwardHook, _WrappedHook

# Hooks of every module. Full and old backward hooks cannot be mixed, not even after removal.
_global_forward_pre_hooks: OrderedDict[int, Any] = OrderedDict()
_global_forward_hooks: OrderedDict[int, Any] = OrderedDict()
_global_forward_hooks_always_called: OrderedDict[int, bool] = OrderedDict()
_global_forward_hooks_with_kwargs: OrderedDict[int, bool] = OrderedDict()
_global_forward_pre_hooks_with_kwargs: OrderedDict[int, bool] = OrderedDict()
_global_backward_pre_hooks: OrderedDict[int, Any] = OrderedDict()
_global_backward_hooks: OrderedDict[int, Any] = OrderedDict()
_global_is_full_backward_hook: bool | None = None
_registration_hooks: dict[str, OrderedDict[int, Any]] = {
    "buffer": OrderedDict(), "module": OrderedDict(), "parameter": OrderedDict(),
}  # fmt: skip


def registered(kind: str, module: Any, name: str, value: Any) -> Any:
    """``value``, or what a registration hook put in its place."""
    for hook in _registration_hooks[kind].values():
        answer = hook(module, name, value)
        if answer is not None:
            value = answer
    return value


def _add(
    table: OrderedDict[int, Any], hook: Callable[..., Any], prepend: bool = False, **options: OrderedDict[int, bool]
) -> RemovableHandle:
    handle = RemovableHandle(table, *options.values())
    table[handle.id] = hook
    for option in options.values():
        option[handle.id] = True
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


def register_module_forward_pre_hook(hook: Callable[..., Any], *, with_kwargs: bool = False) -> RemovableHandle:
    """``hook(module, args)`` before the forward of every module."""
    options = {"kwargs": _global_forward_pre_hooks_with_kwargs} if with_kwargs else {}
    return _add(_global_forward_pre_hooks, hook, **options)


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """``hook(module, args, output)`` after the forward of every module."""
    options = {"kwargs": _global_forward_hooks_with_kwargs} if with_kwargs else {}
    if always_call:
        options["always"] = _global_forward_hooks_always_called
    return _add(_global_forward_hooks, hook, **options)


def register_module_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """The old kind for every module: ``hook(module, grad_input, grad_output)`` of the last operation only."""
    global _global_is_full_backward_hook
    if _global_is_full_backward_hook is True:
        raise RuntimeError("Cannot use both regular backward hooks and full backward hooks as a global Module hook. "
                           "Please use only one of them.")  # fmt: skip
    _global_is_full_backward_hook = False
    return _add(_global_backward_hooks, hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, grad_input, grad_output)`` whenever a module's gradients are computed, for every module."""
    global _global_is_full_backward_hook
    if _global_is_full_backward_hook is False:
        raise RuntimeError("Cannot use both regular backward hooks and full backward hooks as a global Module hook. "
                           "Please use only one of them.")  # fmt: skip
    _global_is_full_backward_hook = True
    return _add(_global_backward_hooks, hook)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, grad_output)`` before a module's gradients are computed, for every module."""
    return _add(_global_backward_pre_hooks, hook)


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, name, buffer)`` when a buffer is registered; what it returns takes its place."""
    return _add(_registration_hooks["buffer"], hook)


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, name, submodule)`` when a child is registered; what it returns takes its place."""
    return _add(_registration_hooks["module"], hook)


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """``hook(module, name, parameter)`` when a parameter is registered; what it returns takes its place."""
    return _add(_registration_hooks["parameter"], hook)


class HooksMixin:
    """The part of Module that is called."""

    forward: Callable[..., Any]
    _backward_pre_hooks: OrderedDict[int, Any]
    _backward_hooks: OrderedDict[int, Any]
    _is_full_backward_hook: bool | None
    _forward_hooks: OrderedDict[int, Any]
    _forward_hooks_with_kwargs: OrderedDict[int, bool]
    _forward_hooks_always_called: OrderedDict[int, bool]
    _forward_pre_hooks: OrderedDict[int, Any]
    _forward_pre_hooks_with_kwargs: OrderedDict[int, bool]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Pre-hooks, ``forward``, hooks."""
        tracer = tracing.current()
        if tracer is None:
            return self._call_impl(*args, **kwargs)
        tracer.enter_module(self)
        try:
            return self._call_impl(*args, **kwargs)
        finally:
            tracer.leave_module()

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``; a tracer sees the bounds of modules by itself."""
        return self.forward(*args, **kwargs)

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        if not (
            self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
            or _global_forward_hooks or _global_forward_pre_hooks or _global_backward_hooks
            or _global_backward_pre_hooks
        ):  # fmt: skip
            return self.forward(*args, **kwargs)
        done: set[int] = set()
        try:
            return self._with_hooks(args, kwargs, done)
        except Exception:
            self._call_the_rest(args, kwargs, done)
            raise

    def _with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any], done: set[int]) -> Any:
        (full, old), before = self._get_backward_hooks(), self._get_backward_pre_hooks()
        tracer = tracing.current()
        if tracer is not None and (full or old or before):
            if tracer.differentiates:
                raise UnsupportedError(f"{user_place()}: {type(self).__name__} has backward hooks; a compiled "
                                       "training step cannot call them. Try: remove them, or train eagerly.")
            full, old, before = [], [], []  # the backward of a compiled module runs it again, eagerly
        for table, with_kwargs in (
            (_global_forward_pre_hooks, _global_forward_pre_hooks_with_kwargs),
            (self._forward_pre_hooks, self._forward_pre_hooks_with_kwargs),
        ):
            for key, hook in list(table.items()):
                args, kwargs = self._before(hook, key in with_kwargs, args, kwargs)
        backward = BackwardHook(self, full, before) if full or before else None
        if backward is not None:
            args = backward.setup_input_hook(args)
        output = self.forward(*args, **kwargs)
        for table, with_kwargs in (
            (_global_forward_hooks, _global_forward_hooks_with_kwargs),
            (self._forward_hooks, self._forward_hooks_with_kwargs),
        ):
            for key, hook in list(table.items()):
                done.add(key)
                result = hook(self, args, kwargs, output) if key in with_kwargs else hook(self, args, output)
                if result is not None:
                    output = result
        if backward is not None:
            if not dispatch.is_tensor(output) and not isinstance(output, tuple):
                warnings.warn("For backward hooks to be called, module output should be a Tensor or a tuple of Tensors "
                              f"but received {type(output)}", stacklevel=3)  # fmt: skip
            else:
                output = backward.setup_output_hook(output)
        if old:
            self._hook_last_node(old, args, output)
        return output

    def _before(self, hook: Any, with_kwargs: bool, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if not with_kwargs:
            result = hook(self, args)
            return args if result is None else result if isinstance(result, tuple) else (result,), kwargs
        result = hook(self, args, kwargs)
        if result is None:
            return args, kwargs
        if not (isinstance(result, tuple) and len(result) == 2):
            raise RuntimeError("forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got "
                               f"{result}.")  # fmt: skip
        return result

    def _call_the_rest(self, args: tuple[Any, ...], kwargs: dict[str, Any], done: set[int]) -> None:
        """After an exception: the hooks that are always called and have not been yet."""
        for table, always, with_kwargs in (
            (_global_forward_hooks, _global_forward_hooks_always_called, _global_forward_hooks_with_kwargs),
            (self._forward_hooks, self._forward_hooks_always_called, self._forward_hooks_with_kwargs),
        ):
            for key, hook in list(table.items()):
                if key not in always or key in done:
                    continue
                try:
                    hook(self, args, kwargs, None) if key in with_kwargs else hook(self, args, None)
                except Exception as error:
                    warnings.warn(f"forward hook with ``always_call=True`` raised an exception that was silenced as "
                                  f"another error was raised in forward: {error}", stacklevel=4)  # fmt: skip

    # -- backward hooks -----------------------------------------------------------------------------
    def _get_backward_hooks(self) -> tuple[list[Any], list[Any]]:
        """(full hooks, old hooks), the global ones first."""
        full: list[Any] = []
        old: list[Any] = []
        for kind, table in (
            (_global_is_full_backward_hook, _global_backward_hooks), (self._is_full_backward_hook, self._backward_hooks)
        ):  # fmt: skip
            if kind is not None:
                (full if kind else old).extend(table.values())
        return full, old

    def _get_backward_pre_hooks(self) -> list[Any]:
        return [*_global_backward_pre_hooks.values(), *self._backward_pre_hooks.values()]

    def _hook_last_node(self, hooks: list[Any], args: Any, output: Any) -> None:
        first = output
        while not dispatch.is_tensor(first):
            first = next(v for v in first.values() if dispatch.is_tensor(v)) if isinstance(first, dict) else first[0]
        node = first.grad_fn
        if node is not None:
            for hook in hooks:
                node.register_hook(_WrappedHook(hook, self))
            self._maybe_warn_non_full_backward_hook(args, output, node)

    def _maybe_warn_non_full_backward_hook(self, inputs: Any, result: Any, grad_fn: Any) -> None:
        if not isinstance(result, tuple) and not dispatch.is_tensor(result):
            text = ("Using non-full backward hooks on a Module that does not return a single Tensor or a tuple of "
                    "Tensors is deprecated and will be removed in future versions. This hook will be missing some of "
                    "the grad_output. Please use register_full_backward_hook to get the documented "
                    "behavior.")  # fmt: skip
        elif isinstance(result, tuple) and len({r.grad_fn for r in result if dispatch.is_tensor(r)}) > 1:
            text = ("Using a non-full backward hook when outputs are generated by different autograd Nodes is "
                    "deprecated and will be removed in future versions. This hook will be missing some grad_output. "
                    "Please use register_full_backward_hook to get the documented behavior.")  # fmt: skip
        else:
            given = {i.grad_fn for i in inputs if dispatch.is_tensor(i)}
            reached = {n for n, _ in grad_fn.next_functions if n is not None}
            if given & reached or (None in given and all(type(n).__name__ == "AccumulateGrad" for n in reached)):
                return
            text = ("Using a non-full backward hook when the forward contains multiple autograd Nodes is deprecated "
                    "and will be removed in future versions. This hook will be missing some grad_input. Please use "
                    "register_full_backward_hook to get the documented behavior.")  # fmt: skip
        warnings.warn(text, FutureWarning, stacklevel=5)

    # -- registration -------------------------------------------------------------------------------
    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """``hook(module, args)`` before forward; what it returns replaces the arguments."""
        options = {"kwargs": self._forward_pre_hooks_with_kwargs} if with_kwargs else {}
        return _add(self._forward_pre_hooks, hook, prepend, **options)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """``hook(module, args, output)`` after forward; what it returns replaces the output."""
        options = {"kwargs": self._forward_hooks_with_kwargs} if with_kwargs else {}
        if always_call:
            options["always"] = self._forward_hooks_always_called
        return _add(self._forward_hooks, hook, prepend, **options)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(module, grad_output)`` before the gradients are computed; what it returns replaces ``grad_output``."""
        return _add(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(module, grad_input, grad_output)`` whenever the gradients of the inputs are computed; what it returns
        replaces ``grad_input``. The module's input and output must not be changed in place."""
        self._only_one_kind(True)
        return _add(self._backward_hooks, hook, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """The old kind: hangs on the node of the first tensor in the output and sees that node's gradients only."""
        self._only_one_kind(False)
        return _add(self._backward_hooks, hook)

    def _only_one_kind(self, full: bool) -> None:
        if self._is_full_backward_hook is (not full):
            raise RuntimeError("Cannot use both regular backward hooks and full backward hooks on a single Module. "
                               "Please use only one of them.")  # fmt: skip
        self._is_full_backward_hook = full


__all__ = ["HooksMixin"]
