"""``backward`` and ``grad``: what users call; the walk itself is ``runtime/backward.py``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import UnsupportedError
from ...runtime import backward as engine
from ...runtime.backward import Edge, Node
from .. import dispatch, grad_mode, tracing
from ..sources import user_place
from ..tape.nodes import gradient_edge

if TYPE_CHECKING:
    from ..tensor import Tensor

Tensors = "Tensor | Sequence[Tensor]"


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Adds the gradients of ``tensors`` to ``grad`` of the leaves (or of ``inputs`` only).

    ``grad_tensors``: gradients with respect to each tensor, in its shape; None for tensors of one element.
    RuntimeError as ``Tensor.backward``.
    """
    if grad_variables is not None:
        warnings.warn("`grad_variables` is deprecated. Use `grad_tensors` instead.", FutureWarning, stacklevel=2)
        if grad_tensors is not None:
            raise RuntimeError("`grad_tensors` and `grad_variables` (deprecated) arguments both passed to "
                               "`backward()`. Please only use `grad_tensors`.")  # fmt: skip
        grad_tensors = grad_variables
    targets = None if inputs is None else _sequence(inputs)
    if targets is not None and not targets:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    outputs = _sequence(tensors)
    roots = _roots(outputs, _given(grad_tensors, len(outputs)), create_graph)
    keep = create_graph if retain_graph is None else retain_graph
    edges = None
    if targets is not None:
        edges = [_edge_of_input(t) for t in targets]
    found = _run(roots, keep, create_graph, edges, accumulate=True)
    for t, g in zip(targets or (), found, strict=False):
        if t.grad_fn is not None and g is not None:  # results named in ``inputs`` collect as well
            t._grad = g if t._grad is None else t._grad + g


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients of (the sum of) ``outputs`` with respect to each of ``inputs``; ``grad`` attributes stay untouched.

    Args:
        grad_outputs, retain_graph, create_graph: as in ``backward``.
        allow_unused: None for inputs that the outputs do not depend on, instead of a RuntimeError.
        is_grads_batched: the first axis of every ``grad_outputs`` is a batch of gradients; so is the result's.
        materialize_grads: zeros for such inputs.
    """
    outs, targets = _sequence(outputs), _sequence(inputs)
    if not only_inputs:
        warnings.warn("only_inputs argument is deprecated and is ignored now (defaults to True). To accumulate "
                      "gradient for other parts of the graph, please use torch.autograd.backward.",
                      FutureWarning, stacklevel=2)  # fmt: skip
    if materialize_grads:
        if allow_unused is False:
            raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: "
                             "allow_unused=False.")  # fmt: skip
        allow_unused = True
    given = _given(grad_outputs, len(outs))
    if is_grads_batched:
        return _batched(outs, targets, given, create_graph, bool(allow_unused), materialize_grads)
    roots = _roots(outs, given, create_graph)
    edges: list[Edge] = []
    for t in targets:
        edge = gradient_edge(t)
        if edge is None:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
        edges.append(edge)
    keep = create_graph if retain_graph is None else retain_graph
    found = _run(roots, keep, create_graph, edges, accumulate=False)
    for i, (t, g) in enumerate(zip(targets, found, strict=True)):
        if g is None and not allow_unused:
            raise RuntimeError("One of the differentiated Tensors appears to not have been used in the graph. Set "
                               "allow_unused=True if this is the desired behavior.")  # fmt: skip
        if g is None and materialize_grads:
            found[i] = dispatch.from_array(np.zeros(t._data.shape, t._data.dtype))
    return tuple(found)


def _batched(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], given: Sequence[Tensor | None], create_graph: bool,
    allow_unused: bool, materialize: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    from .. import shaping

    if any(g is None for g in given):
        raise RuntimeError("is_grads_batched=True needs a batch of gradients in grad_outputs")
    rows = [
        grad(
            outputs, inputs, [g[i] for g in given], True, create_graph, allow_unused=allow_unused,  # type: ignore[index]
            materialize_grads=materialize,
        )
        for i in range(len(given[0]))  # type: ignore[arg-type]
    ]  # fmt: skip
    return tuple(None if column[0] is None else shaping.stack(column) for column in zip(*rows, strict=True))  # type: ignore[misc]


def _sequence(x: Any) -> list[Any]:
    out = [x] if dispatch.is_tensor(x) else [t.edge if hasattr(t, "edge") else t for t in x]
    if tracing.current() is not None:
        raise UnsupportedError(f"{user_place()}: backward() and autograd.grad() cannot be traced; ingot.compile_step "
                               "compiles forward, loss, gradients and update")  # fmt: skip
    return out


def _given(grads: Any, count: int) -> list[Any]:
    if grads is None:
        return [None] * count
    given = [grads] if dispatch.is_tensor(grads) else list(grads)
    if len(given) != count:
        raise RuntimeError(f"got {count} tensors and {len(given)} gradients")
    return given


def _roots(tensors: Sequence[Tensor], grads: Sequence[Tensor | None], create_graph: bool) -> list[Any]:
    roots = []
    for i, (t, g) in enumerate(zip(tensors, grads, strict=True)):
        edge = gradient_edge(t)
        if edge is None:
            raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
        if g is None:
            if t.numel() != 1:
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            g = dispatch.from_array(np.ones(t._data.shape, t._data.dtype))
        elif not dispatch.is_tensor(g):
            raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
        elif g.shape != t.shape:
            raise RuntimeError(f"Mismatch in shape: grad_output[{i}] has a shape of {g.shape} and output[{i}] has a "
                               f"shape of {t.shape}.")  # fmt: skip
        elif not create_graph and g.requires_grad:
            g = g.detach()
        roots.append((*edge, dispatch.cast(g, t.dtype)))
    return roots


def _edge_of_input(t: Tensor) -> Edge:
    edge = gradient_edge(t)
    if edge is None:
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    return edge


def _run(roots: Sequence[Any], keep: bool, create_graph: bool, edges: Sequence[Edge] | None, accumulate: bool) -> Any:
    with grad_mode.set_grad_enabled(create_graph):
        return engine.run(
            roots, keep=keep, captures=edges, accumulate=accumulate,
            observer=_look_for_nan if grad_mode.anomaly.enabled else None,
        )  # fmt: skip


def _look_for_nan(node: Node, grads: Sequence[Any]) -> None:
    if not grad_mode.anomaly.check_nan:
        return
    for i, g in enumerate(grads):
        if g is not None and np.isnan(g._data).any():
            if node.trace is not None:
                warnings.warn(f"Error detected in {node.name}. Traceback of forward call that caused the error:\n"
                              + "".join(node.trace), UserWarning, stacklevel=2)  # fmt: skip
            raise RuntimeError(f"Function '{node.name}' returned nan values in its {i}th output.")
