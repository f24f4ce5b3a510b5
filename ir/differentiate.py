"""Reverse-mode differentiation, graph to graph, from the gradient rules in the operator records.

1. Mark every floating value that depends on one of ``wrt`` (forward walk).
2. Walk the marked ancestors of the loss backwards. At each node the gradients of its results are complete,
   because all users come later; its rule appends nodes that compute the gradients of its operands.
3. Gradients that meet at a value are summed with ``add``.

An operator without a rule but with a decomposition is differentiated through the decomposition, which is
recomputed next to the gradient; CSE merges it with the forward nodes if those are decomposed too. The
forward part of the graph is never changed, and gradient nodes are ordinary nodes, so the result can be
differentiated again. Each gradient node carries the source of its forward node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from . import registry
from .builder import GraphBuilder
from .errors import DTypeError, IngotError, ShapeError, UnsupportedError, VerifyError
from .graph import Graph, Node, Value
from .source import UNKNOWN


def gradients(
    graph: Graph,
    loss: Value | Sequence[Value],
    wrt: Sequence[Value],
    *,
    grad_outputs: Value | Sequence[Value | None] | None = None,
    stop: Iterable[Value] = (),
) -> list[Value]:
    """Append to ``graph`` the gradients of ``loss`` with respect to each value of ``wrt``.

    Args:
        graph: extended in place, at its end; outputs are not touched.
        loss: a floating value of one element, or, with ``grad_outputs``, one or several values of any shape.
        wrt: floating values (inputs or intermediate results).
        grad_outputs: the gradient of each loss value, in its shape and dtype; None stands for ones of a
            one-element loss.
        stop: values through which no gradient flows (detached ones).

    Returns:
        one value per entry of ``wrt``, in its shape and dtype; zeros where the loss does not depend on it.

    Raises:
        UnsupportedError: operators on the way have no gradient; all are listed, and ``graph`` is unchanged.
        DTypeError: an integer or boolean value in ``loss`` or ``wrt``. ShapeError: a bad ``grad_outputs``.
    """
    losses = [loss] if isinstance(loss, Value) else list(loss)
    seeds = [grad_outputs] if isinstance(grad_outputs, Value) or grad_outputs is None else list(grad_outputs)
    if grad_outputs is None:
        seeds = [None] * len(losses)
    if len(seeds) != len(losses):
        raise IngotError(f"gradients: {len(losses)} loss values but {len(seeds)} grad_outputs")
    for value in [*losses, *wrt]:
        if not value.dtype.is_floating_point:
            raise DTypeError(f"gradients: %{value.name} is {value.dtype.name}; only floating values have gradients")
    last = next(reversed(graph), None)
    tape = _Tape(graph, frozenset(stop))
    try:
        for value, seed in zip(losses, seeds, strict=True):
            tape.add(value, _checked_seed(tape.builder, value, seed))
        tape.walk(wrt)
        if tape.missing:
            raise UnsupportedError("no gradient is defined for", tape.missing)
    except Exception:
        for node in _newer(graph, last):
            graph.remove(node)
        raise
    results = [tape.result(v) for v in wrt]
    _tidy(graph, last, wrt, results)
    return results


class _Tape:
    """The gradients known so far, and the backward walk that completes them."""

    def __init__(self, graph: Graph, stop: frozenset[Value] = frozenset()) -> None:
        self.graph = graph
        self.stop = stop
        self.builder = GraphBuilder(graph)
        self.grads: dict[Value, Value] = {}
        self.active: set[Value] = set()  # floating values that depend on wrt
        self.missing: list[str] = []

    def add(self, value: Value, grad: Value) -> None:
        known = self.grads.get(value)
        self.grads[value] = grad if known is None else self.builder.add(known, grad)

    def result(self, value: Value) -> Value:
        grad = self.grads.get(value)
        return self.builder.full(value.shape, 0.0, value.dtype) if grad is None else grad

    def walk(self, wrt: Iterable[Value]) -> None:
        self.active.update(wrt)
        stack = self._mark(self.graph)
        while stack:
            node = stack.pop()
            grads = [self.grads.get(o) for o in node.outputs]
            if all(g is None for g in grads):
                continue
            self.builder.source = node.source
            record = registry.get(node.op)
            last = next(reversed(self.graph), None)
            if any(node.inputs[i] in self.active for i in record.unruled):
                self.missing.append(_explain(node))
            elif record.vjp is not None:
                self._apply(node, record.vjp(self.builder, node, grads))
            elif record.decompose is not None:
                replacement = record.decompose(self.builder, node)
                stack += self._mark(reversed(list(_newer(self.graph, last))))
                for out, grad in zip(replacement, grads, strict=True):
                    if grad is not None and out in self.active:
                        self.add(out, grad)
            else:
                self.missing.append(_explain(node))
            for new in _newer(self.graph, last):
                new.source = node.source

    def _mark(self, nodes: Iterable[Node]) -> list[Node]:
        """Mark what depends on ``wrt`` and return the nodes, in order, that pass gradients on."""
        found = []
        for node in nodes:
            if any(v in self.active for v in node.inputs):
                floating = [o for o in node.outputs if o.dtype.is_floating_point and o not in self.stop]
                self.active.update(floating)
                if floating:
                    found.append(node)
        return found

    def _apply(self, node: Node, grads: Sequence[Value | None]) -> None:
        if len(grads) != len(node.inputs):
            raise VerifyError(f"the gradient rule of {node!r} gave {len(grads)} gradients, not {len(node.inputs)}")
        for i, (value, grad) in enumerate(zip(node.inputs, grads, strict=True)):
            if grad is None or value not in self.active:
                continue
            if grad.shape != value.shape or grad.dtype is not value.dtype:
                raise VerifyError(
                    f"the gradient rule of {node!r} gave {grad.type} for operand {i}, %{value.name}: {value.type}"
                )
            self.add(value, grad)


def _checked_seed(builder: GraphBuilder, value: Value, seed: Value | None) -> Value:
    if seed is None:
        if value.type.elements != 1:
            raise ShapeError(
                f"gradients: the loss %{value.name} has shape {list(value.shape)}; without grad_outputs it must "
                "have one element (reduce it with mean or sum)"
            )
        builder.source = value.producer.source if value.producer is not None else UNKNOWN
        one = builder.constant(1.0, value.dtype)
        one.producer.source = builder.source  # type: ignore[union-attr]
        return builder.expand(one, shape=value.shape)
    if seed.shape != value.shape or seed.dtype is not value.dtype:
        raise ShapeError(f"gradients: grad_outputs of %{value.name} is {seed.type}, expected {value.type}")
    return seed


def _newer(graph: Graph, last: Node | None) -> Iterator[Node]:
    """Nodes behind ``last``, from the end of the graph; they may be removed while iterating."""
    for node in reversed(graph):
        if node is last:
            return
        yield node


def _tidy(graph: Graph, last: Node | None, wrt: Sequence[Value], results: Sequence[Value]) -> None:
    """Drop gradients that nobody asked for (of constants, of the data) and name those that were asked for."""
    kept = set(results) | graph.output_set()
    new = set()
    for node in _newer(graph, last):
        if any(o.users or o in kept for o in node.outputs):
            new.update(node.outputs)
        else:
            graph.remove(node)
    for value, grad in zip(wrt, results, strict=True):
        if grad in new:
            new.discard(grad)
            grad.name = graph.unique_name(f"grad.{value.name}")


def _explain(node: Node) -> str:
    where = f" at {node.source}" if str(node.source) else ""
    hint = "; differentiate before fusion" if node.op == "fused" else ""
    return f"{node.op}({', '.join(str(v.type) for v in node.inputs)}){where}{hint}"
