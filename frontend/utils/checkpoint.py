"""Memory for time: intermediate results of a function are not kept for the backward but computed again."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...runtime.backward import now
from .. import autocasting, dispatch, grad_mode, random, tracing
from ..amp import autocast
from ..structure import flatten
from ..tape.segment import CheckpointError, Segment

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential", "noop_context_fn"]

_UNSAID = (
    "torch.utils.checkpoint: the use_reentrant parameter should be passed explicitly. Starting in PyTorch 2.9, calling "
    "checkpoint without use_reentrant will raise an exception. use_reentrant=False is recommended, but if you need to "
    "preserve the current default behavior, you can pass use_reentrant=True. Refer to docs for more details on the "
    "differences between the two variants."
)


def noop_context_fn() -> tuple[Any, Any]:
    """Two contexts that do nothing: for the forward and for its repetition."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn, determinism_check: str = "default",
    debug: bool = False, early_stop: bool = True, **kwargs: Any,
) -> Any:  # fmt: skip
    """``function(*args, **kwargs)``; its intermediate results are dropped and computed again in the backward.

    Args:
        use_reentrant: True as in PyTorch: without an argument that requires grad there is no gradient (a warning), and
            no keyword arguments. Both ways otherwise work alike here.
        context_fn: makes two contexts, one around the forward and one around its repetition.
        determinism_check: "default" compares dtypes and shapes of the two runs, "none" the operators only.
        debug, early_stop: accepted.
        preserve_rng_state: repeat with the random state of the forward (True). The autocast region is always the same.

    CheckpointError if the repetition does something else. Traced functions are called as they are: compiled training
    steps plan their own memory. As in PyTorch, what ``function`` changes (running statistics) it changes twice.
    """
    if use_reentrant is None:
        warnings.warn(_UNSAID, stacklevel=2)
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs and use_reentrant:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    if use_reentrant and (context_fn is not noop_context_fn or debug):
        raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
    if determinism_check not in ("default", "none"):
        raise ValueError(f"determinism_check should be one of ['default', 'none'], but got {determinism_check!r}")
    forward_context, again_context = context_fn()
    if tracing.is_tracing() or not grad_mode.is_grad_enabled():
        with forward_context:
            return function(*args, **kwargs)
    if use_reentrant and not any(t.requires_grad for t in flatten(args, dispatch.is_tensor)[0]):
        warnings.warn("None of the inputs have requires_grad=True. Gradients will be None", stacklevel=2)
        with grad_mode.no_grad():
            return function(*args)
    state = random.default_generator.get_state() if preserve else None
    region = autocasting.is_autocast_enabled("cpu"), autocasting.get_autocast_dtype("cpu")
    start = now()
    with forward_context:
        results = function(*args, **kwargs)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        here = random.default_generator.get_state()
        if state is not None:
            random.default_generator.set_state(state)
        try:
            with autocast("cpu", region[1], region[0]), again_context:
                yield
        finally:
            random.default_generator.set_state(here) if state is not None else None

    Segment(function, args, kwargs, results, start, around, strict=determinism_check == "default")
    return results


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """A ``Sequential`` or list of functions in ``segments`` parts, all but the last one checkpointed."""
    if use_reentrant is None:
        warnings.warn(_UNSAID, stacklevel=2)
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    steps: Sequence[Any] = list(functions.children() if hasattr(functions, "children") else functions)

    def part(start: int, end: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for step in steps[start:end]:
                x = step(x)
            return x

        return run

    size = len(steps) // segments
    last = size * (segments - 1)
    for start in range(0, last, size or 1):
        input = checkpoint(part(start, start + size), input, use_reentrant=use_reentrant, preserve_rng_state=preserve)
    return part(last, len(steps))(input)
