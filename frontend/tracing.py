"""Tracing: run the user's own ``forward`` on symbolic tensors and record every operator into an ``ir.Graph``."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.builder import GraphBuilder
from ..ir.dims import Dim, DimExpr
from ..ir.dtypes import DType, float32
from ..ir.errors import DataDependentError, DTypeError, IngotError, ShapeError, UnsupportedError
from ..ir.graph import Graph, Value
from ..ir.source import Source
from ..ir.types import TensorType
from . import grad_mode
from .size import SymInt, as_extent
from .sources import user_location, user_place
from .structure import Spec, flatten, unflatten
from .tape import views

if TYPE_CHECKING:
    from .tensor import Tensor


@dataclass(frozen=True)
class InputSpec:
    """An input that is described instead of given: ``shape`` holds ints, Dims or expressions of Dims."""

    shape: tuple[int | Dim | DimExpr, ...]
    dtype: DType = float32

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, tuple(as_extent(e) for e in self.shape))


@dataclass
class Trace:
    """What a trace gives.

    Attributes:
        graph: inputs are the leaves of ``in_spec`` in order, then the states; outputs are the leaves of
            ``out_spec``, then the updates.
        in_spec: structure of ``(args, kwargs)``.
        out_spec: structure of the result.
        states: the states used, name to Tensor, in graph-input order (after the ``input`` roles).
        detached: values through which no gradient may flow (``detach``, and results made under ``no_grad``).
        modules: the modules that were called and are not below ``fn`` or another of them, in that order.
    """

    graph: Graph
    in_spec: Spec
    out_spec: Spec
    states: dict[str, Tensor] = field(default_factory=dict)
    detached: list[Value] = field(default_factory=list)
    modules: list[Any] = field(default_factory=list)


class _State:
    """A tensor outside the graph that the graph reads, and perhaps overwrites."""

    def __init__(self, name: str, tensor: Tensor, role: str) -> None:
        self.name, self.tensor, self.role = name, tensor, role
        self.input: Value | None = None
        self.value: Value | None = None


# Held while a model is traced or what depends on its modes is read: a trace for inference changes the modes of the
# model itself for as long as it runs, and no other thread may see that, or end up undoing it.
MODELS = threading.RLock()


class _Active(threading.local):
    tracer: Tracer | None = None


_active = _Active()


def current() -> Tracer | None:
    """The trace running in this thread."""
    return _active.tracer


def is_tracing() -> bool:
    """Whether ``forward`` is being traced rather than executed."""
    return _active.tracer is not None


class Tracer:
    """Records one graph. Tensors of the graph carry ``_value``; states are known by identity."""

    def __init__(
        self, name: str, states: Iterable[tuple[str, Tensor, str]], on_module: Callable[[Any], object] | None = None
    ) -> None:
        self.graph = Graph(name)
        self.builder = GraphBuilder(self.graph)
        self.detached: list[Value] = []
        self.items: list[str] = []
        self.used: list[_State] = []
        self._states: dict[int, _State] = {}
        for state_name, tensor, role in states:
            self._states.setdefault(id(tensor), _State(state_name, tensor, role))
        self._constants: dict[int, tuple[Tensor, Value]] = {}
        self._module_names: dict[int, str] = {}
        self.modules: list[Any] = []  # what was adopted
        self._on_module = on_module
        self._created: dict[int, Any] = {}  # modules made by forward itself
        self._kept: list[tuple[Any, str, bool, Any]] = []  # attributes that were set to traced tensors
        self._path: list[str] = []
        self._grad_at_start = grad_mode.is_grad_enabled()
        self.differentiates = False  # whether gradients of what is recorded will be taken

    # -- modules ------------------------------------------------------------------------------------
    def adopt(self, module: Any) -> None:
        """Make the parameters and buffers at and below ``module`` states (unless they are), and name its modules."""
        self.modules.append(module)  # keeps the ids below valid
        for name, child in module.named_modules():
            self._module_names.setdefault(id(child), name)
        parameters = [(name, t, "parameter") for name, t in module.named_parameters()]
        for name, t, role in [*parameters, *((name, t, "buffer") for name, t in module.named_buffers())]:
            if id(t) in self._states or t._value is not None:
                continue
            self._states[id(t)] = _State(name, t, role)
            known = self._constants.pop(id(t), None)
            if known is not None:  # read before the module was called
                self.graph.replace_uses(known[1], self.value_of(t))

    def enter_module(self, module: Any) -> None:
        """Called by Module.__call__. Names come from the outermost module's tree; a module outside the trees known
        so far (a function reaches it, or an attribute that is no child) is adopted."""
        if id(module) not in self._module_names:
            if id(module) in self._created:
                self._module_names[id(module)] = ""
            else:
                self.adopt(module)
                if self._on_module is not None:
                    self._on_module(module)
        self._path.append(self._module_names[id(module)])

    def created_module(self, module: Any) -> None:
        """Called by Module.__init__: forward makes this one for itself, nobody else holds it yet."""
        self._created[id(module)] = module

    def allows_buffer(self, module: Any, name: str, value: Any) -> bool:
        """Whether ``value`` may become the buffer ``name``: a traced tensor has no values after the trace."""
        if value is None or value._value is None or id(module) in self._created:
            return True
        self.unsupported(
            f"assignment to buffer {name!r} of {type(module).__name__}", [value],
            "the buffer does not exist before the call, so it cannot be updated",
            "registering it with a tensor of that shape in __init__",
        )  # fmt: skip
        return False

    def keep_attribute(self, module: Any, name: str) -> None:
        """Called before a plain attribute of a module is set to a tensor, to put it back if the trace fails."""
        own = module.__dict__
        self._kept.append((module, name, name in own, own.get(name)))

    def restore_attributes(self) -> None:
        for module, name, there, old in reversed(self._kept):
            if there:
                module.__dict__[name] = old
            else:
                module.__dict__.pop(name, None)

    def leave_module(self) -> None:
        self._path.pop()

    @property
    def module_path(self) -> str:
        return self._path[-1] if self._path else ""

    # -- reading ------------------------------------------------------------------------------------
    def is_state(self, t: Tensor) -> bool:
        """Whether ``t`` is a parameter, a buffer or another tensor that the graph may overwrite."""
        return id(t) in self._states

    def owns(self, t: Tensor) -> bool:
        """Whether using ``t`` must be recorded: it is traced, or a state."""
        if t._base is not None:
            self.refresh(t)
        if t._value is not None:
            if t._trace is not self:
                raise IngotError(f"{user_place()}: a tensor of an earlier trace is used here; forward must not keep "
                                 "tensors in attributes or globals between calls")  # fmt: skip
            return True
        return id(t) in self._states

    def value_of(self, t: Tensor) -> Value:
        """The IR value of any tensor; one from outside the graph becomes a constant."""
        self.refresh(t)
        if t._value is not None:
            self.owns(t)
            return t._value
        state = self._states.get(id(t))
        if state is None:
            return self._constant_of(t)
        if state.value is None:
            state.input = state.value = self.graph.add_input(TensorType(t.dtype, t._data.shape), state.name, state.role)
            self.used.append(state)
        return state.value

    def _constant_of(self, t: Tensor) -> Value:
        known = self._constants.get(id(t))
        # Compared, because the tensor may have been written to since.
        if known is not None and np.array_equal(known[1].constant, t._data):
            return known[1]
        value = self.graph.constant(np.array(t._data, order="C"))
        value.producer.source = self.location()  # type: ignore[union-attr]
        self._constants[id(t)] = (t, value)
        return value

    def location(self) -> Source:
        """The user's line and the current module."""
        file, line = user_location()
        return Source(file, line, self.module_path)

    # -- recording ----------------------------------------------------------------------------------
    def record(self, op: str, tensors: Sequence[Tensor], attrs: Mapping[str, Any]) -> Any:
        """Add one node and return its result(s)."""
        from . import dispatch

        values = [self.value_of(t) for t in tensors]
        self.builder.source = self.location()
        try:
            node = self.builder.emit(op, values, **attrs)
        except (ShapeError, DTypeError) as error:
            raise type(error)(f"{error} [at {self.builder.source}]") from None
        if self._grad_at_start and not grad_mode.is_grad_enabled():
            self.detached.extend(node.outputs)
        outs = tuple(dispatch.from_value(v, self) for v in node.outputs)
        if op in dispatch.VIEWS:
            views.link(op, node.attrs, tensors[0], outs[0])
        return outs[0] if len(outs) == 1 else outs

    def detach(self, t: Tensor) -> Tensor:
        """A view of ``t`` through which no gradient flows."""
        out = self.record("identity", [t], {})
        self.detached.append(out._value)
        views.link("detach", {}, t, out)
        return out

    # -- in-place writes ----------------------------------------------------------------------------
    # A write rebinds the tensor that owns the memory to a new value; its views are made again when they are used.
    def refresh(self, t: Tensor) -> None:
        """Give a view its present value if its memory was written to since it was made."""
        counter = t._counter
        if t._base is None or counter is None or counter.value == t._view_seen or self.is_state(t):
            return
        t._view_seen = counter.value
        base = views.base_of(t)
        assert base is not None
        if self.owns(base):
            again = views.replay(base, t._view)
            t._value, t._data, t._trace = again._value, None, self  # type: ignore[assignment]

    def write(self, target: Tensor, new: Tensor, op: str) -> bool:
        """Rebind ``target``; False if it is an eager tensor of this trace that can be written directly."""
        base = views.base_of(target)
        root = target if base is None or self.is_state(target) else base
        state = self._states.get(id(root))
        if state is None and root._trace is not self:
            self.unsupported(
                op, [target, new], "the target is neither traced nor a registered parameter or buffer",
                "register it with register_buffer, or create it inside forward",
            )  # fmt: skip
            return True
        if state is None and root._value is None and not self.owns(new):
            return False
        value = self.value_of(new if root is target else views.overwritten(root, target._view, new))
        if state is not None:
            self.value_of(root)  # makes it a graph input
            state.value = value
        else:
            root._value, root._data, root._trace = value, None, self  # type: ignore[assignment]
        views.counter_of(root).value += 1
        if root is not target:
            self.refresh(target)
        return True

    # -- refusals -----------------------------------------------------------------------------------
    def refuse_data(self, what: str, hint: str) -> DataDependentError:
        """The error for an operation that needs a traced tensor's numbers."""
        where = f" in module {self.module_path}" if self.module_path else ""
        return DataDependentError(f"{user_place()}{where}: {what} needs the values of a traced tensor; a compiled "
                                  f"graph has one path. Try: {hint}.")  # fmt: skip

    def unsupported(self, op: str, operands: Sequence[Tensor], expected: str, hint: str) -> None:
        """Note something that cannot be traced; the trace goes on and all notes are raised at its end."""
        shapes = ", ".join(f"{t.dtype.name}{list(t.shape)}" for t in operands)
        self.items.append(f"{self.module_path or '(root)'}: {op} on {shapes} at {user_place()}: {expected}; "
                          f"try: {hint}")  # fmt: skip

    def raise_unsupported(self, cause: Exception | None = None) -> None:
        """UnsupportedError with everything noted so far (and ``cause``), if anything was."""
        if self.items:
            items = [*self.items, *([str(cause)] if cause is not None else [])]
            raise UnsupportedError(f"{len(items)} things in {self.graph.name} cannot be compiled:", items) from cause


def _is_input(x: Any) -> bool:
    from . import dispatch

    return dispatch.is_tensor(x) or isinstance(x, (np.ndarray, np.generic, InputSpec))


def trace(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    states: Mapping[str, Tensor] | None = None,
    roles: Mapping[str, str] | None = None,
    name: str = "main",
    on_module: Callable[[Any], object] | None = None,
    differentiates: bool = False,
) -> Trace:
    """Record ``fn(*args, **kwargs)`` as a graph.

    Args:
        fn: a Module or function on Tensors.
        args, kwargs: nested dicts, lists and tuples of Tensors, arrays, NumPy scalars and InputSpecs; everything
            else is passed through and fixed.
        states: tensors outside the graph that it reads and may overwrite (parameters, buffers...);
            default: the parameters and buffers of ``fn`` if it is a Module or a Module's method. Those of any
            other module that is called join them, and so does the default generator's state (name
            ``rng_state``, role ``rng``). Every other tensor from outside is a constant.
        roles: state name to role (``"parameter"``, ``"buffer"``, ``"state"``, ``"scalar"``, ``"rng"``);
            default by kind.
        differentiates: gradients will be taken of what is recorded; operators with a gradient of the user's own are
            refused.
        on_module: called with each module outside ``fn``'s tree before it runs for the first time.

    Raises:
        DataDependentError: control flow depends on data or on an undecidable symbolic size.
        UnsupportedError: lists everything that cannot be traced.
    """
    from . import dispatch, random

    if _active.tracer is not None:
        raise IngotError("trace() was called inside a trace")
    owner = module_of(fn) if states is None else None
    roles = roles or {}
    entries = [
        (key, t, roles.get(key, "parameter" if t.requires_grad else "buffer")) for key, t in (states or {}).items()
    ]
    tracer = Tracer(name, [*entries, ("rng_state", random.default_generator.state, "rng")], on_module)
    tracer.differentiates = differentiates
    if owner is not None:
        tracer.adopt(owner)

    kwargs = dict(kwargs or {})
    leaves, in_spec = flatten((tuple(args), kwargs), _is_input)
    traced = []
    for leaf, label in zip(leaves, _input_names(fn, in_spec, kwargs), strict=True):
        if isinstance(leaf, InputSpec):
            type_ = leaf.type
        else:
            array = np.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf._data
            type_ = TensorType(dispatch.array_dtype(array), array.shape)
        traced.append(dispatch.from_value(tracer.graph.add_input(type_, label, "input"), tracer))
    call_args, call_kwargs = unflatten(in_spec, traced)
    _active.tracer = tracer
    try:
        try:
            result = fn(*call_args, **call_kwargs)
            out_leaves, out_spec = flatten(result, lambda x: dispatch.is_tensor(x) or isinstance(x, SymInt))
            for leaf, label in zip(out_leaves, out_spec.leaf_names("output"), strict=True):
                if isinstance(leaf, SymInt):
                    raise UnsupportedError(f"the result {label} is the symbolic size {leaf}; return tensors instead")
                tracer.graph.add_output(tracer.value_of(leaf), label)
        except (IngotError, AttributeError) as error:
            tracer.raise_unsupported(error)  # an absent name ends the trace, but not what was noted before it
            raise
        tracer.raise_unsupported()
    except BaseException:
        tracer.restore_attributes()
        raise
    finally:
        _active.tracer = None
    for state in tracer.used:
        if state.value is not state.input:
            tracer.graph.add_output(state.value, state.name, updates=state.input)  # type: ignore[arg-type]
    # By the names of the inputs: an argument of forward may have a parameter's name.
    used = {state.input.name: state.tensor for state in tracer.used if state.input is not None}
    return Trace(tracer.graph, in_spec, out_spec, used, tracer.detached, tracer.modules[owner is not None :])


def module_of(fn: Any) -> Any:
    """``fn`` if it is a Module, the Module whose method it is, or None."""
    if hasattr(fn, "named_parameters"):
        return fn
    owner = getattr(fn, "__self__", None)
    return owner if hasattr(owner, "named_parameters") and not isinstance(owner, type) else None


def _input_names(fn: Callable[..., Any], in_spec: Spec, kwargs: Mapping[str, Any]) -> list[str]:
    """Graph-input names from the parameters of ``forward``."""
    args_spec, kwargs_spec = in_spec.children
    names: list[str] = []
    try:
        parameters = list(inspect.signature(getattr(fn, "forward", fn)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for i, child in enumerate(args_spec.children):
        names += child.leaf_names(positional[i] if i < len(positional) else f"input_{i}")
    for key, child in zip(kwargs_spec.keys, kwargs_spec.children, strict=True):
        names += child.leaf_names(key)
    return names
