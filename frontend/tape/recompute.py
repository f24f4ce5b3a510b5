"""A node for a computation whose forward left nothing behind: its backward runs the function again, eagerly.

For compiled modules (the forward is native code) and for checkpointing (memory is what is saved).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.errors import IngotError
from .. import autocasting, dispatch, grad_mode
from ..structure import flatten, unflatten
from .nodes import SECOND_TIME, Recorded, Saved, gradient_edge

if TYPE_CHECKING:
    from ..tensor import Tensor


class Recompute(Recorded):
    """Results of ``fn(*args, **kwargs)`` as one node.

    Args:
        fn: gives the same results again; deterministic but for the default random generator.
        args, kwargs: nested structures with Tensors.
        parameters: tensors that require grad and that ``fn`` reads besides its arguments.
        buffers: tensors that ``fn`` changes in place: running it again must not change them a second time.
        random_state: the default generator's state when the forward began; None if it draws nothing.
        results: the leaves that ``fn`` returned, in order.
    """

    def __init__(
        self, name: str, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any],
        parameters: Sequence[Tensor], buffers: Sequence[Tensor], random_state: Any, results: Sequence[Tensor],
    ) -> None:  # fmt: skip
        leaves, self._spec = flatten((tuple(args), dict(kwargs)), dispatch.is_tensor)
        self._needs = [t.requires_grad and t.dtype.is_floating_point for t in leaves]
        self._parameters = list(parameters)
        edges = [gradient_edge(t) if need else None for t, need in zip(leaves, self._needs, strict=True)]
        super().__init__(name, [*edges, *map(gradient_edge, parameters)], [r._type for r in results])
        self._fn, self._buffers, self._random_state = fn, list(buffers), random_state
        self._precision = autocasting.mode.enabled, autocasting.mode.dtype
        self._saved: list[Saved] | None = [Saved(t) for t in (*leaves, *parameters)]
        for i, r in enumerate(results):
            if r.dtype.is_floating_point:
                r._grad_fn, r._output_nr = self, i

    def release(self) -> None:
        self._saved = None

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        if all(g is None for g in grads):
            return [None] * len(self.edges)
        if self._saved is None:
            raise RuntimeError(SECOND_TIME)
        from .. import shaping
        from ..autograd.engine import grad

        again = grad_mode.is_grad_enabled()  # the gradients are to be differentiated
        for s in self._saved[len(self._needs) :]:
            s.check()
        with grad_mode.enable_grad():
            given = [s.unpack() for s in self._saved[: len(self._needs)]]
            inputs = [
                t if not need else shaping.view_as(t, t) if again else t.detach().requires_grad_()
                for t, need in zip(given, self._needs, strict=True)
            ]
            args, kwargs = unflatten(self._spec, inputs)
            outs = self._run(args, kwargs)
            if len(outs) != len(grads):
                raise IngotError(f"{self.name}: the function returned {len(outs)} tensors when it was run again for "
                                 f"the backward, and {len(grads)} at first")  # fmt: skip
            pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if g is not None and o.requires_grad]
            targets = [t for t, need in zip(inputs, self._needs, strict=True) if need] + self._parameters
            found = iter(
                grad([o for o, _ in pairs], targets, [g for _, g in pairs], create_graph=again, allow_unused=True)
                if pairs and targets
                else [None] * len(targets)
            )
        out = [next(found) if need else None for need in self._needs] + list(found)
        for g in out:
            if g is not None:
                g._owned = False
        return out

    def _run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
        from .. import random

        state = random.default_generator.get_state()
        held = [b._data.copy() for b in self._buffers]
        if self._random_state is not None:
            random.default_generator.set_state(self._random_state)
        try:
            with autocasting.set_to(*self._precision):
                return flatten(self._fn(*args, **kwargs), dispatch.is_tensor)[0]
        finally:
            random.default_generator.set_state(state)
            for b, old in zip(self._buffers, held, strict=True):
                b._data[...] = old
