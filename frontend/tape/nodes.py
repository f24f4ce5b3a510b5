"""Nodes of the eager graph: operators with what they saved, and leaves."""

from __future__ import annotations

import sys
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.errors import UnsupportedError
from ...ir.types import TensorType
from ...runtime.backward import Edge, Node
from .. import dispatch, grad_mode
from . import programs
from .names import name_of

if TYPE_CHECKING:
    from ..tensor import Tensor

SECOND_TIME = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already "
    "been freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). "
    "Specify retain_graph=True if you need to backward through the graph a second time or if you need to access saved "
    "tensors after calling backward."
)


class Counter:
    """How often the memory of a tensor and its views was changed in place."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


def counter_of(t: Tensor) -> Counter:
    """The counter that ``t`` shares with its views."""
    if t._counter is None:
        t._counter = Counter()
    return t._counter


class Saved:
    """A tensor that a gradient needs, as it was: an error if its memory has changed since.

    The result of the saving node itself is kept without its history, which would be a cycle.
    """

    __slots__ = ("array", "counter", "leaf", "node", "nr", "version")

    def __init__(self, t: Tensor, owner: Node | None = None, nr: int | None = None) -> None:
        if t._inference:
            raise RuntimeError("Inference tensors cannot be saved for backward. Please do not use Tensors created in "
                               "inference mode in computation tracked by autograd. To work around this, you can make a "
                               "clone to get a normal tensor and use it in autograd, or use `torch.no_grad()` instead "
                               "of `torch.inference_mode()`.")  # fmt: skip
        self.array = t._data
        self.counter = counter_of(t)
        self.version = self.counter.value
        node = t.grad_fn
        self.leaf = t if node is None and owner is None else None
        self.node = None if node is owner else node
        self.nr = t._output_nr if nr is None else nr

    def check(self) -> None:
        """RuntimeError in PyTorch's words if the memory has changed."""
        if self.counter.value == self.version:
            return
        kind = dispatch.type_word(dispatch.array_dtype(self.array))
        made = f", which is output {self.nr} of {self.node.name}," if self.node is not None else ""
        hint = (
            "Hint: the backtrace further above shows the operation that failed to compute its gradient. The variable "
            "in question was changed in there or anywhere later. Good luck!"
            if grad_mode.anomaly.enabled
            else "Hint: enable anomaly detection to find the operation that failed to compute its gradient, with "
            "torch.autograd.set_detect_anomaly(True)."
        )
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[torch.{kind}Tensor {list(self.array.shape)}]{made} is at version {self.counter.value}; expected version "
            f"{self.version} instead. {hint}"
        )

    def unpack(self, owner: Node | None = None) -> Tensor:
        """The tensor with its history; ``owner``: the node if it saved its own result."""
        self.check()
        if self.leaf is not None:
            return self.leaf
        out = dispatch.from_array(self.array)
        out._counter = self.counter
        out._grad_fn, out._output_nr = self.node or owner, self.nr
        return out


class Recorded(Node):
    """A node of the eager graph. ``meta`` holds shape and dtype of every result."""

    as_given: Collection[int] = ()  # results that are operands returned as they are: not to be changed in place

    def __init__(self, name: str, edges: Sequence[Edge | None], results: Sequence[TensorType]) -> None:
        super().__init__(edges, len(results))
        self.name = name
        self.meta = tuple(results)
        self.metadata: dict[Any, Any] = {}
        if grad_mode.anomaly.enabled:
            self.trace = traceback.format_stack(sys._getframe(2))

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """Where the gradient of each operand goes."""
        return tuple((None, 0) if e is None else e for e in self.edges)

    def register_hook(self, hook: Any) -> Any:
        """``hook(grad_inputs, grad_outputs)`` after the node ran; may return other ``grad_inputs``."""
        from ..hooks import add_hook

        self.post_hooks = OrderedDict() if self.post_hooks is None else self.post_hooks
        return add_hook(self.post_hooks, hook)

    def register_prehook(self, hook: Any) -> Any:
        """``hook(grad_outputs)`` before the node runs; may return others."""
        from ..hooks import add_hook

        self.pre_hooks = OrderedDict() if self.pre_hooks is None else self.pre_hooks
        return add_hook(self.pre_hooks, hook)

    def __repr__(self) -> str:
        return f"<{self.name} object at {id(self):#x}>"


class OpNode(Recorded):
    """An operator of the IR; its gradient is a ``programs.Program``."""

    def __init__(
        self, op: str, attrs: dict[str, Any], types: Sequence[TensorType], needs: Sequence[bool],
        program: programs.Program, tensors: Sequence[Tensor], results: Sequence[Tensor], edges: Sequence[Edge | None],
    ) -> None:  # fmt: skip
        super().__init__(name_of(op, attrs), edges, [r._type for r in results])
        self.signature = (op, attrs, tuple(types), tuple(needs))
        self.program = program
        self.saved: dict[int, Saved] | None = {i: Saved(tensors[i]) for i in program.saved_inputs}
        for i in program.saved_outputs:
            self.saved[len(tensors) + i] = Saved(results[i], self, i)

    def release(self) -> None:
        if self.saved:
            self.saved = None

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        given = [g is not None for g in grads]
        if not any(given):
            return [None] * len(self.edges)
        if self.saved is None:
            raise RuntimeError(SECOND_TIME)
        program = self.program
        if not all(g or not m.dtype.is_floating_point for g, m in zip(given, self.meta, strict=True)):
            program = programs.program(*self.signature, given)
        first = program.inputs + program.outputs
        if grad_mode.is_grad_enabled():
            return self._replay(program, first, grads)
        table: list[Any] = [None] * program.slots
        for slot, saved in self.saved.items():
            saved.check()
            table[slot] = saved.array
        for i, g in enumerate(grads):
            table[first + i] = None if g is None else g._data
        for slot, array in program.constants:
            table[slot] = array
        for step in program.steps:
            found = dispatch.evaluate(step.op, [table[s] for s in step.operands], step.attrs)
            for slot, array in zip(step.results, found, strict=True):
                table[slot] = array
        out: list[Any] = []
        for slot, fresh in zip(program.wanted, program.fresh, strict=True):
            if slot is None:
                out.append(None)
                continue
            grad = dispatch.from_array(table[slot])
            grad._owned = fresh
            out.append(grad)
        return out

    def _replay(self, program: programs.Program, first: int, grads: list[Any]) -> Sequence[Any]:
        """The same through the door that records (``create_graph``)."""
        table: list[Any] = [None] * program.slots
        for slot, saved in (self.saved or {}).items():
            table[slot] = saved.unpack(self if slot >= program.inputs else None)
        table[first : first + len(grads)] = grads
        for slot, array in program.constants:
            table[slot] = dispatch.from_array(array)
        for step in program.steps:
            operands = [table[s] for s in step.operands]
            found = _known(step.op, operands)
            if found is None:
                found = dispatch.apply(step.op, *operands, **step.attrs)
            for slot, t in zip(step.results, found if isinstance(found, tuple) else (found,), strict=True):
                table[slot] = t
        return [None if slot is None else table[slot] for slot in program.wanted]


def _known(op: str, operands: Sequence[Tensor]) -> Tensor | None:
    """The result of an operator whose operands say that it is one of them, or zero: what has no part in a gradient must
    have none in the second one either (the derivative of ``x ** 0`` is a constant).
    """
    if op not in ("where", "mul"):
        return None
    shape = np.broadcast_shapes(*(t._data.shape for t in operands))
    if op == "mul":
        zero = any(not t.requires_grad and not t._data.any() for t in operands)
        finite = zero and all(np.isfinite(t._data).all() for t in operands)
        return dispatch.from_array(np.zeros(shape, operands[0]._data.dtype)) if finite else None
    condition, a, b = operands
    chosen = a if condition._data.all() else b if not condition._data.any() else None
    return chosen if chosen is not None and chosen._data.shape == shape else None


class NotImplementedNode(Recorded):
    """An operator without a gradient rule: an error when a gradient arrives."""

    def __init__(self, op: str, why: str, results: Sequence[TensorType], edges: Sequence[Edge | None]) -> None:
        super().__init__("NotImplemented", edges, results)
        self.op, self.why = op, why

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        raise UnsupportedError(f"derivative for {self.op} is not implemented: {self.why}")


class AccumulateGrad(Recorded):
    """The end of the graph at a leaf: adds up the leaf's ``grad``."""

    def __init__(self, variable: Tensor) -> None:
        super().__init__("AccumulateGrad", (), [variable._type])
        self.variable = variable
        self.sequence = sys.maxsize  # runs as soon as its gradient is complete
        if variable._hooks is None:
            variable._hooks = OrderedDict()
        self.tensor_hooks = {0: variable._hooks}

    def apply(self, grads: list[Any]) -> Sequence[Any]:
        (grad,) = grads
        variable = self.variable
        if grad is None:
            return ()
        if grad.shape != variable.shape:
            raise RuntimeError(f"a gradient of shape {list(grad.shape)} reached a leaf of shape {list(variable.shape)}")
        known = variable._grad
        if known is None:
            if grad_mode.is_grad_enabled():
                variable._grad = grad if grad.requires_grad else grad.detach()
            elif grad._owned and not self.tensor_hooks[0]:  # type: ignore[index]
                variable._grad = grad
                grad._owned = False
            else:
                variable._grad = dispatch.from_array(np.array(grad._data, order="C"))
        elif grad_mode.is_grad_enabled():
            variable._grad = known + grad
        else:
            dispatch.assign(known, dispatch.apply("add", known, dispatch.cast(grad, known.dtype)))
        for hook in list((variable._accumulate_hooks or {}).values()):
            hook(variable)
        return ()


def gradient_edge(t: Tensor) -> Edge | None:
    """Where the gradient of ``t`` goes; None if it needs none."""
    node = t.grad_fn
    if node is not None:
        return node, t._output_nr
    if not t._requires_grad:
        return None
    accumulator = t._accumulator() if t._accumulator is not None else None
    if accumulator is None:
        accumulator = AccumulateGrad(t)
        t._accumulator = weakref.ref(accumulator)
    return accumulator, 0


def record(op: str, attrs: dict[str, Any], tensors: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """Give ``results`` of an operator their history. At least one of ``tensors`` requires grad."""
    if not any(r.dtype.is_floating_point for r in results) or not programs.is_differentiable(op):
        return
    needs = [t.dtype.is_floating_point and t.requires_grad for t in tensors]
    types = [t._type for t in tensors]
    edges = [gradient_edge(t) if need else None for t, need in zip(tensors, needs, strict=True)]
    node: Recorded
    try:
        program = programs.program(op, attrs, types, needs, None)
    except programs.NoGradient as error:
        node = NotImplementedNode(op, str(error), [r._type for r in results], edges)
    else:
        node = OpNode(op, attrs, types, needs, program, tensors, results, edges)
    for i, r in enumerate(results):
        if r.dtype.is_floating_point:
            r._grad_fn, r._output_nr = node, i
