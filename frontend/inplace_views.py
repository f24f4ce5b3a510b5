"""Changing a tensor's own shape: ``transpose_``, ``squeeze_``...; its memory stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import grad_mode, padding, shaping, tracing, viewing
from .tape import views
from .tape.nodes import counter_of

if TYPE_CHECKING:
    from .tensor import Tensor


def _in_place(fn: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The method ``name`` that makes the tensor itself the view that ``fn`` gives."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tracer = tracing.current()
        if tracer is not None and tracer.is_state(self):
            tracer.unsupported(name, [self], "parameters and buffers keep their shape", f"{name[:-1]} and the result")
            return self
        if self._value is None:
            views.check_writable(self)
        if self._requires_grad and self._grad_fn is None and not grad_mode.is_grad_enabled():
            self._data = fn(self.detach(), *args, **kwargs)._data  # a leaf stays one
            counter_of(self).value += 1
            return self
        views.become(self, fn, *args, **kwargs)
        return self

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``{name[:-1]}`` of the tensor itself: its shape changes, its memory does not; returns self."
    return method


transpose_ = _in_place(shaping.transpose, "transpose_")
swapaxes_ = _in_place(shaping.swapaxes, "swapaxes_")
swapdims_ = _in_place(shaping.swapdims, "swapdims_")
t_ = _in_place(shaping.t, "t_")
squeeze_ = _in_place(shaping.squeeze, "squeeze_")
unsqueeze_ = _in_place(shaping.unsqueeze, "unsqueeze_")
as_strided_ = _in_place(viewing.as_strided, "as_strided_")


def constant_pad_nd(input: Tensor, pad: Any, value: Any = 0) -> Tensor:
    """A border of a number around the last axes: (left, right, top, bottom, ...); negative widths crop."""
    return padding.pad(input, pad, "constant", value)


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = ("constant_pad_nd",)
METHODS = ("as_strided_", "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_")
IN_PLACE = ()
