"""The backward engine: walks a graph of recorded operations from results to leaves and carries gradients along.

It knows neither tensors nor operators. A gradient is anything with ``+``; what an operation does to gradients is its
node's ``apply``. The order is that of PyTorch: a node runs when all gradients that reach it are summed, among the ready
ones the one that was recorded last.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

_clock = itertools.count(1)
_latest = 0
Edge = tuple["Node", int]
Hook = Callable[..., Any]


class Node:
    """One recorded operation.

    Attributes:
        edges: per operand, where its gradient goes: (node, number of that node's result), or None.
        outputs: number of results.
        sequence: when it was recorded.
        tensor_hooks: per result, hooks on its gradient: ``hook(grad)`` may return another one.
        retained: per result, who gets its final gradient (``retain_grad``).
        pre_hooks, post_hooks: ``hook(grad_outputs)`` before, ``hook(grad_inputs, grad_outputs)`` after ``apply``.
        trace: the user's stack when it was recorded (anomaly detection), or None.
    """

    name = "Node"
    trace: Any = None

    def __init__(self, edges: Sequence[Edge | None] = (), outputs: int = 1) -> None:
        self.edges: tuple[Edge | None, ...] = tuple(edges)
        self.outputs = outputs
        self.sequence = _tick()
        self.tensor_hooks: dict[int, dict[int, Hook]] | None = None
        self.retained: dict[int, Callable[[Any], object]] | None = None
        self.pre_hooks: dict[int, Hook] | None = None
        self.post_hooks: dict[int, Hook] | None = None

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        """Gradients of the operands from those of the results; None stands for zeros."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what was saved for ``apply``."""


def _tick() -> int:
    global _latest
    _latest = next(_clock)
    return _latest


def now() -> int:
    """The number of the latest node."""
    return _latest


Observer = Callable[[Node, Sequence[Any]], object]


_at_end = threading.local()


def at_end(fn: Callable[[], object]) -> None:
    """Called by a hook: run ``fn`` when the backward pass that is running in this thread has ended."""
    _at_end.calls.append(fn)


def run(
    roots: Sequence[tuple[Node, int, Any]],
    *,
    keep: bool,
    captures: Sequence[Edge] | None = None,
    accumulate: bool = False,
    observer: Observer | None = None,
) -> list[Any]:
    """Carry the gradients of ``roots`` (node, result, gradient) through the graph.

    Args:
        keep: leave what nodes saved in place for another run.
        captures: places whose gradients are returned; only what leads to them runs. None: everything runs.
        accumulate: nodes at ``captures`` run as well (leaves that add up their gradient).
        observer: called with each node and the gradients that it returned.

    Returns:
        one gradient per capture; None for one that no gradient reached.
    """
    outer = getattr(_at_end, "calls", None)
    _at_end.calls = calls = []
    try:
        found = _run(roots, keep, captures, accumulate, observer)
    finally:
        _at_end.calls = outer
    for fn in calls:
        fn()
    return found


def _run(
    roots: Sequence[tuple[Node, int, Any]],
    keep: bool,
    captures: Sequence[Edge] | None,
    accumulate: bool,
    observer: Observer | None,
) -> list[Any]:
    needed = None if captures is None else _leading_to(roots, {node for node, _ in captures})
    waiting = _count_users(roots, needed)
    wanted: dict[Node, list[tuple[int, int]]] = {}
    for position, (node, nr) in enumerate(captures or ()):
        wanted.setdefault(node, []).append((nr, position))
    found: list[Any] = [None] * len(captures or ())
    buffers: dict[Node, list[Any]] = {}
    for node, nr, grad in roots:
        _add(buffers.setdefault(node, [None] * node.outputs), nr, grad)
    ready = [(-node.sequence, id(node), node) for node in buffers if not waiting.get(node)]
    heapq.heapify(ready)
    while ready:
        node = heapq.heappop(ready)[2]
        grads = buffers.pop(node, None) or [None] * node.outputs
        _tensor_hooks(node, grads)
        for nr, position in wanted.get(node, ()):
            found[position] = grads[nr]
        if needed is not None and node in wanted and not accumulate and not _any_needed(node, needed):
            continue
        if needed is not None and node not in needed and node not in wanted:
            continue
        results = _apply(node, grads)
        if observer is not None:
            observer(node, results)
        if not keep:
            node.release()
        for edge, grad in zip(node.edges, results, strict=True):
            if edge is None:
                continue
            target, nr = edge
            if needed is not None and target not in needed:
                continue
            buffer = buffers.setdefault(target, [None] * target.outputs)
            if grad is not None:
                _add(buffer, nr, grad)
            waiting[target] -= 1
            if not waiting[target]:
                heapq.heappush(ready, (-target.sequence, id(target), target))
    return found


def _any_needed(node: Node, needed: set[Node]) -> bool:
    return any(e is not None and e[0] in needed for e in node.edges)


def _add(buffer: list[Any], nr: int, grad: Any) -> None:
    known = buffer[nr]
    buffer[nr] = grad if known is None else known + grad


def _tensor_hooks(node: Node, grads: list[Any]) -> None:
    for nr, hooks in (node.tensor_hooks or {}).items():
        for hook in list(hooks.values()):
            if grads[nr] is None:
                break
            changed = hook(grads[nr])
            if changed is not None:
                grads[nr] = changed
    for nr, keep_it in (node.retained or {}).items():
        if grads[nr] is not None:
            keep_it(grads[nr])


def _apply(node: Node, grads: list[Any]) -> Sequence[Any]:
    for hook in list((node.pre_hooks or {}).values()):
        changed = hook(tuple(grads))
        if changed is not None:
            grads = list(changed) if isinstance(changed, tuple) else [changed]
    results = node.apply(grads)
    for hook in list((node.post_hooks or {}).values()):
        changed = hook(tuple(results), tuple(grads))
        if changed is not None:
            results = changed if isinstance(changed, tuple) else (changed,)
    return results


def _count_users(roots: Sequence[tuple[Node, int, Any]], needed: set[Node] | None) -> dict[Node, int]:
    """Per node, from how many edges gradients will come."""
    count: dict[Node, int] = {}
    seen = {node for node, _, _ in roots}
    stack = list(seen)
    while stack:
        for edge in stack.pop().edges:
            if edge is None or (needed is not None and edge[0] not in needed):
                continue
            target = edge[0]
            count[target] = count.get(target, 0) + 1
            if target not in seen:
                seen.add(target)
                stack.append(target)
    return count


def _leading_to(roots: Sequence[tuple[Node, int, Any]], targets: set[Node]) -> set[Node]:
    """The nodes from which a target can be reached, targets included."""
    leads: dict[Node, bool] = {}
    stack = [(node, False) for node, _, _ in roots]
    while stack:
        node, done = stack.pop()
        if done:
            leads[node] = node in targets or any(e is not None and leads.get(e[0], False) for e in node.edges)
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack.extend((e[0], False) for e in node.edges if e is not None and e[0] not in leads)
    return {node for node, lead in leads.items() if lead}
