"""PyTorch's old argument orders, with numbers before the tensors: still accepted, with its warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from . import dispatch

# Function -> (old arguments behind the first one, numbers that may stand there in this order, arguments of today).
_FORMS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "add": ("Number alpha, Tensor other", ("alpha",), "Tensor other, *, Number alpha = 1"),
    "sub": ("Number alpha, Tensor other", ("alpha",), "Tensor other, *, Number alpha = 1"),
    **dict.fromkeys(
        ("addcmul", "addcdiv"),
        ("Number value, Tensor tensor1, Tensor tensor2", ("value",),
         "Tensor tensor1, Tensor tensor2, *, Number value = 1"),
    ),
    **{
        name: (
            f"Number beta, Number alpha, {operands}", ("beta", "alpha"),
            f"{operands}, *, Number beta = 1, Number alpha = 1",
        )
        for name, operands in {
            "addmm": "Tensor mat1, Tensor mat2", "addmv": "Tensor mat, Tensor vec", "addr": "Tensor vec1, Tensor vec2",
            "addbmm": "Tensor batch1, Tensor batch2", "baddbmm": "Tensor batch1, Tensor batch2",
        }.items()
    },
}  # fmt: skip


def _is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float)) or (not dispatch.is_tensor(x) and hasattr(x, "__float__"))


def old_order(fn: Callable[..., Any], method: str = "") -> Callable[..., Any]:
    """``fn`` that also takes its numbers before its tensors: ``add(t, 2, other)``, ``addmm(t, beta, alpha, a, b)``.

    ``method``: the name in the warning, if it is not the function's.
    """
    old, numbers, new = _FORMS[fn.__name__]
    operands = old.count("Tensor")
    shown = method or fn.__name__
    # add(t, alpha, number) is accepted, too
    fits = (lambda x: dispatch.is_tensor(x) or _is_number(x)) if operands == 1 else dispatch.is_tensor

    @wraps(fn)
    def inner(input: Any, *args: Any, **kwargs: Any) -> Any:
        count = len(args) - operands
        if count > 0 and all(map(_is_number, args[:count])) and all(map(fits, args[count:])):
            if count > len(numbers):
                raise TypeError(f"{shown}() takes at most {len(numbers) + operands + 1} arguments")
            warnings.warn(f"This overload of {shown} is deprecated:\n\t{shown}({old})\nConsider using one of the "
                          f"following signatures instead:\n\t{shown}({new})", UserWarning, stacklevel=2)  # fmt: skip
            kwargs = {**dict(zip(numbers, args[:count], strict=False)), **kwargs}
            args = args[count:]
        return fn(input, *args, **kwargs)

    inner.called = lambda name: old_order(fn, name)  # type: ignore[attr-defined]
    return inner
