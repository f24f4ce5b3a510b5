"""Segments of the eager graph whose saved intermediate tensors are dropped and computed again for the backward.

The nodes and edges stay: only arrays go. The first node that asks for one runs the segment's function again and hands
every node what the second run saved in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...runtime.backward import Node, now
from .. import dispatch, grad_mode
from ..structure import flatten, unflatten
from .nodes import OpNode, Saved


class CheckpointError(RuntimeError):
    """The second run of a checkpointed function recorded something else than the first."""


class Dropped(Saved):
    """A saved tensor that is not there until its segment has run again."""

    __slots__ = ("segment",)

    def __init__(self, kept: Saved, segment: Segment) -> None:
        self.array: Any = None
        self.counter, self.version, self.node, self.nr = None, 0, kept.node, kept.nr  # type: ignore[assignment]
        self.leaf = None
        self.segment: Segment = segment

    def check(self) -> None:
        if self.array is None:
            self.segment.run_again()
        super().check()

    def fill(self, again: Saved) -> None:
        """Take the array from the second run; the place in the graph stays that of the first."""
        self.array, self.counter, self.version = again.array, again.counter, again.version
        if self.node is None:
            self.leaf = again.leaf


class Segment:
    """What was recorded while ``fn(*args, **kwargs)`` gave ``results``.

    Args:
        start: ``now()`` before the call.
        around: makes the context of the second run (random state, autocast).
    """

    def __init__(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], results: Any, start: int,
        around: Callable[[], Any], strict: bool = True,
    ) -> None:  # fmt: skip
        leaves, self._spec = flatten((tuple(args), dict(kwargs)), dispatch.is_tensor)
        self._needs = [t.requires_grad for t in leaves]
        self._given = [Saved(t) for t in leaves]
        self._fn, self._around, self._strict = fn, around, strict
        nodes = recorded(results, start)
        self._shapes = [(n.signature[0], n.signature[2]) for n in nodes]
        self._dropped: list[dict[int, Dropped]] = []
        known = {id(t) for t in leaves}
        for node in nodes:
            gone = {}
            for slot, saved in (node.saved or {}).items():
                leaf = saved.leaf
                if leaf is not None and (leaf.requires_grad or id(leaf) in known):
                    continue  # somebody else keeps it alive; its own check stays
                gone[slot] = Dropped(saved, self)
            if gone:
                node.saved = {**(node.saved or {}), **gone}
            self._dropped.append(gone)

    def run_again(self) -> None:
        """Fill in every dropped tensor. CheckpointError if the function recorded something else this time."""
        with grad_mode.enable_grad(), self._around():
            given = [s.unpack() for s in self._given]
            inputs = [t.detach().requires_grad_(need) for t, need in zip(given, self._needs, strict=True)]
            args, kwargs = unflatten(self._spec, inputs)
            start = now()
            nodes = recorded(self._fn(*args, **kwargs), start)
        if len(nodes) != len(self._shapes):
            raise CheckpointError(
                "torch.utils.checkpoint: A different number of tensors was saved during the original forward and "
                f"recomputation.\nNumber of operations recorded during forward: {len(self._shapes)}\nNumber of "
                f"operations recorded during recomputation: {len(nodes)}."
            )
        for node, (op, types), gone in zip(nodes, self._shapes, self._dropped, strict=True):
            same = node.signature[0] == op and (not self._strict or node.signature[2] == types)
            if not same:
                raise CheckpointError(
                    "torch.utils.checkpoint: Recomputed values for the following tensors have different metadata than "
                    f"during the forward pass.\nsaved: {op} of {list(map(str, types))}\nrecomputed: "
                    f"{node.signature[0]} of {list(map(str, node.signature[2]))}"
                )
            for slot, dropped in gone.items():
                dropped.fill((node.saved or {})[slot])


def recorded(results: Any, start: int) -> list[OpNode]:
    """The operators that lead to ``results`` and were recorded after ``start``, in order."""
    stack: list[Node] = [t.grad_fn for t in flatten(results, dispatch.is_tensor)[0] if t.grad_fn is not None]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node.sequence > start and node not in seen:
            seen.add(node)
            stack.extend(e[0] for e in node.edges if e is not None)
    return sorted((n for n in seen if isinstance(n, OpNode)), key=lambda n: n.sequence)
