"""Views and in-place writes of eager tensors.

A view knows its base (a tensor that is no view) and the operators that lead from there to it. A write through any of
them is one node on the base; the history of every other view is made again, by replaying its operators on the base,
when somebody asks for it after a write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import dims, dtypes
from ...runtime.backward import Node
from .. import dispatch, grad_mode, tracing
from .nodes import OpNode, Recorded, Saved, counter_of, gradient_edge

if TYPE_CHECKING:
    from ..tensor import Tensor

Chain = tuple[tuple[str, dict[str, Any]], ...]


def link(op: str, attrs: dict[str, Any], source: Tensor, view: Tensor) -> None:
    """Note that ``view`` is ``op`` of ``source`` and shares its memory."""
    tracer = tracing.current()
    # A state of a trace counts as a tensor of its own, even if it is a view of one outside.
    direct = source._base is None or (tracer is not None and tracer.is_state(source))
    root = source if direct else base_of(source)
    chain = () if direct else source._view
    assert root is not None
    view._base = root
    kept = chain is not None and (grad_mode.is_grad_enabled() or tracer is not None)
    view._view = (*chain, (op, attrs)) if kept else None
    view._counter = counter_of(root)
    view._view_seen = view._counter.value


def base_of(view: Tensor) -> Tensor | None:
    """The tensor that ``view`` is a view of."""
    base = view._base
    if base is not None and base._moved is not None:  # it has another shape now, and views keep to what it was
        base = view._base = base._moved
    return base


def become(t: Tensor, fn: Callable[..., Tensor], *args: Any, **kwargs: Any) -> None:
    """Make ``t`` itself the view that ``fn(t, *args, **kwargs)`` is (``transpose_``).

    What it was stays behind as a tensor that nobody sees: the base of ``t`` and of the views that there are.
    """
    source = t
    if t._base is None:
        source = dispatch.from_array(t._data) if t._value is None else dispatch.from_value(t._value, t._trace)  # type: ignore[arg-type]
        source._trace, source._inference, source._counter = t._trace, t._inference, counter_of(t)
        source._requires_grad, source._grad_fn, source._output_nr = t._requires_grad, t._grad_fn, t._output_nr
    with grad_mode.enable_grad():
        new = fn(source, *args, **kwargs)
    if new is source:
        return
    if source is not t:
        t._moved = source
    t._data, t._value, t._base, t._view = new._data, new._value, new._base, new._view
    t._requires_grad, t._grad_fn, t._output_nr = False, new._grad_fn, new._output_nr
    counter_of(t).value += 1
    t._view_seen = counter_of(t).value


def unlink(view: Tensor) -> Tensor:
    """``view`` as a tensor of its own: its memory is new, or will be."""
    view._base, view._view, view._counter, view._view_seen = None, (), None, 0
    return view


def replay(base: Tensor, chain: Chain) -> Tensor:
    """The operators of a view applied to ``base``."""
    out = base
    for op, attrs in chain:
        out = out.detach() if op == "detach" else dispatch.apply(op, out, **attrs)
    return out


def overwritten(base: Tensor, chain: Chain, new: Tensor) -> Tensor:
    """``base`` with ``new`` in the place of the view that ``chain`` leads to; out of place."""
    if not chain:
        return new
    (op, attrs), rest = chain[0], chain[1:]
    part = new if not rest else overwritten(replay(base, chain[:1]), rest, new)
    if op == "detach":
        return part
    if op == "reshape":
        return dispatch.apply("reshape", part, shape=base._extents)
    if op == "permute":
        order = attrs["dims"]
        return dispatch.apply("permute", part, dims=tuple(order.index(a) for a in range(len(order))))
    if op == "slice":
        return _put_slice(base, part, **attrs)
    if op == "strided_view":
        return _put_strided(base, part, **attrs)
    if op == "bitcast":
        return dispatch.apply("bitcast", part, dtype=base.dtype)
    raise RuntimeError("unsupported operation: more than one element of the written-to tensor refers to a single "
                       "memory location. Please clone() the tensor before performing the operation.")  # fmt: skip


def _put_slice(base: Tensor, part: Tensor, starts: Any, stops: Any, steps: Any) -> Tensor:
    extents = base._extents
    cut = [a for a, e in enumerate(extents) if (starts[a], stops[a], steps[a]) != (0, e, 1)]
    if all(steps[a] == 1 for a in cut) and len(cut) <= 1:
        for a in cut:
            before = _part(base, a, 0, starts[a])
            behind = _part(base, a, stops[a], extents[a])
            return dispatch.apply("concat", before, part, behind, axis=a)
        return part
    low, interior = tuple(starts), tuple(s - 1 for s in steps)
    reach = [s + (n - 1) * k + 1 for s, n, k in zip(starts, part._extents, steps, strict=True)]
    sizes = {"low": low, "high": tuple(e - r for e, r in zip(extents, reach, strict=True)), "interior": interior}
    true = dispatch.apply("expand", dispatch.scalar(True, dtypes.bool_), shape=part._extents)
    mask = dispatch.apply("pad", true, **sizes, value=False)
    zero = False if part.dtype is dtypes.bool_ else 0
    return dispatch.apply("where", mask, dispatch.apply("pad", part, **sizes, value=zero), base)


def _put_strided(base: Tensor, part: Tensor, shape: Any, starts: Any, steps: Any) -> Tensor:
    extents = base._extents
    total, count = dims.product(extents), dims.product(shape)
    index: Tensor | None = None
    strides = [dims.product(extents[a + 1 :]) for a in range(len(extents))]
    for k in range(len(shape)):
        stride = sum((steps[a * len(shape) + k] * r for a, r in enumerate(strides)), 0)
        place = dispatch.apply("iota", shape=tuple(shape), axis=k, dtype=dtypes.int64)
        place = dispatch.apply("mul", place, dispatch.extent_scalar(stride, dtypes.int64))
        index = place if index is None else dispatch.apply("add", index, place)
    first = dispatch.extent_scalar(sum((s * r for s, r in zip(starts, strides, strict=True)), 0), dtypes.int64)
    index = first if index is None else dispatch.apply("add", index, first)
    flat = dispatch.apply("reshape", base, shape=(total,))
    flat = dispatch.apply("scatter", flat, dispatch.apply("reshape", index, shape=(count,)),
                          dispatch.apply("reshape", part, shape=(count,)), axis=0)  # fmt: skip
    return dispatch.apply("reshape", flat, shape=extents)


def _part(base: Tensor, axis: int, start: Any, stop: Any) -> Tensor:
    extents = base._extents
    starts = tuple(start if a == axis else 0 for a in range(len(extents)))
    stops = tuple(stop if a == axis else e for a, e in enumerate(extents))
    return dispatch.apply("slice", base, starts=starts, stops=stops, steps=(1,) * len(extents))


def refresh(view: Tensor) -> None:
    """Make a view's history again if its memory was written to since."""
    counter = view._counter
    if counter is None or counter.value == view._view_seen:
        return
    view._view_seen = counter.value
    base = base_of(view)
    if base is None or view._view is None or not (base._requires_grad or base._grad_fn is not None):
        return
    with grad_mode.enable_grad():
        again = replay(base, view._view)
    view._grad_fn, view._output_nr = again._grad_fn, again._output_nr


def check_writable(target: Tensor) -> None:
    """RuntimeError for tensors that may not be changed in place while gradients are recorded."""
    if target._inference and not grad_mode.is_inference_mode_enabled():
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed.You can make a "
                           "clone to get a normal tensor before doing inplace update.See "
                           "https://github.com/pytorch/rfcs/pull/17 for more details.")  # fmt: skip
    if not grad_mode.is_grad_enabled():
        return
    base = base_of(target)
    node = target._grad_fn
    if target._output_nr in getattr(node, "as_given", ()):
        raise RuntimeError(f"Output {target._output_nr} of {node.name} is a view and is being modified inplace. This "
                           "view was created inside a custom Function (or because an input was returned as-is) and the "
                           "autograd logic to handle view+inplace would override the custom backward associated with "
                           "the custom Function, leading to incorrect gradients. This behavior is forbidden. You can "
                           "fix this by cloning the output of the custom Function.")  # fmt: skip
    if base is None:
        if target._requires_grad and target._grad_fn is None:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    elif base._requires_grad and base._grad_fn is None and target.requires_grad:
        raise RuntimeError("a view of a leaf Variable that requires grad is being used in an in-place operation.")
    elif target._view is None and base.requires_grad:
        raise RuntimeError("A view was created in no_grad mode and is being modified inplace with grad mode enabled. "
                           "Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify "
                           "your code by moving both the view and the inplace either both inside the no_grad block (if "
                           "you don't want the inplace to be tracked) or both outside (if you want the inplace to be "
                           "tracked).")  # fmt: skip


def keep_old_value(target: Tensor, new: Tensor, since: int) -> None:
    """Before ``target`` is overwritten with ``new``: the nodes that made ``new`` get a copy of the old value if they
    saved it."""
    copy: np.ndarray | None = None
    stack: list[Node | None] = [new._grad_fn]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen or not isinstance(node, OpNode) or node.sequence <= since:
            continue
        seen.add(node)
        for saved in (node.saved or {}).values():
            if saved.counter is target._counter and np.may_share_memory(saved.array, target._data):
                copy = target._data.copy() if copy is None else copy
                _detach_memory(saved, target._data, copy)
        stack.extend(edge[0] for edge in node.edges if edge is not None)


def _detach_memory(saved: Saved, old: np.ndarray, copy: np.ndarray) -> None:
    from .nodes import Counter

    saved.array = copy if saved.array.shape == old.shape and saved.array.strides == old.strides else saved.array.copy()
    saved.counter = Counter()
    saved.version = 0
    # A leaf cannot be given back any more: its memory has other values now.
    if saved.leaf is not None and saved.leaf._requires_grad:
        saved.node, saved.nr = gradient_edge(saved.leaf)  # type: ignore[misc]
    saved.leaf = None


def written(target: Tensor, new: Tensor, *, computed: bool, history: bool) -> None:
    """After ``target``'s memory was overwritten with ``new``'s values: count it and change the history.

    ``computed``: ``new`` was made from ``target`` by the operation in progress, so its node becomes ``target``'s.
    """
    counter_of(target).value += 1
    if not history or not grad_mode.is_grad_enabled():
        return
    base = base_of(target)
    if base is not None:
        if target._view is not None and (new.requires_grad or base.requires_grad):
            base._grad_fn, base._output_nr = CopySlices(base, target._view, new), 0
        return
    if computed and new.requires_grad:
        target._grad_fn, target._output_nr = new._grad_fn, new._output_nr
    elif new.requires_grad or target.requires_grad:
        target._grad_fn, target._output_nr = Overwrite(target, new), 0


class Overwrite(Recorded):
    """``copy_``, ``fill_``...: all of the old value is gone."""

    def __init__(self, target: Tensor, new: Tensor) -> None:
        name = "CopyBackwards" if new.requires_grad else "FillBackward0"
        super().__init__(name, [gradient_edge(target), gradient_edge(new)], [target._type])

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        (grad,) = grads
        if grad is None:
            return [None, None]
        old = dispatch.from_array(np.zeros_like(grad._data)) if self.edges[0] is not None else None
        return [old, grad]


class CopySlices(Recorded):
    """A write through a view, as an operation on the base: what was under the view is gone."""

    def __init__(self, base: Tensor, chain: Chain, new: Tensor) -> None:
        super().__init__("CopySlices", [gradient_edge(base), gradient_edge(new)], [base._type])
        self.chain = chain

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        (grad,) = grads
        if grad is None:
            return [None, None]
        rest = part = None
        if self.edges[0] is not None:
            mask = dispatch.from_array(np.ones(grad._data.shape, grad._data.dtype))
            with grad_mode.no_grad():
                replay(mask, self.chain)._data[...] = 0
            rest = dispatch.apply("mul", grad, mask)
        if self.edges[1] is not None:
            part = replay(grad, self.chain)
        return [rest, part]
