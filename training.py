"""Compiled training steps: forward, loss, backward and the optimiser's update as one native call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiled import (
    Build,
    Key,
    Variant,
    _Compiling,
    array_of,
    constant_key,
    function_name,
    inputs_key,
    is_input,
    modules_key,
    structure_key,
    unwrap,
)
from .frontend import dispatch
from .frontend.optim.first_order import FirstOrder
from .frontend.optim.optimizer import Optimizer
from .frontend.structure import flatten
from .frontend.tensor import Tensor
from .frontend.tracing import Trace, current, is_tracing, module_of, trace
from .ir.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from .driver import Options
    from .ir.graph import Value

# (parameter, its optimiser state, its group's numbers)
_Plan = list[tuple[Tensor, dict[str, Tensor], dict[str, Any]]]


class TrainingStep:
    """``loss = step(*inputs, target)``; see ``driver.compile_step``.

    Reads and writes parameters, buffers, the random state and ``optimizer.state`` where they are, so loading a
    checkpoint into model or optimiser, or changing a learning rate, shows at the next call.
    """

    def __init__(
        self, model: Any, loss_fn: Callable[..., Any], optimizer: Optimizer, options: Options, build: Build
    ) -> None:
        if not isinstance(optimizer, FirstOrder):
            raise UnsupportedError(f"compile_step needs a first-order optimizer with a rule that can be traced, and "
                                   f"{type(optimizer).__name__} is none; call its step() eagerly")  # fmt: skip
        self.model, self.loss_fn, self.optimizer = unwrap(model), loss_fn, optimizer
        self._compiling = _Compiling(self.model, options, build)
        self._scalars: dict[tuple[int, str, np.dtype], Tensor] = {}
        self._owners: dict[int, tuple[Tensor, str]] = {}  # optimiser state by id, of the latest trace

    @property
    def variants(self) -> list[Variant]:
        """The compiled variants so far, oldest first (``.program``, ``.report``)."""
        return self._compiling.variants

    def __call__(self, *inputs: Any) -> Tensor:
        """Run one step on ``(*model_inputs, target)``; returns the loss before the update, a 0-d Tensor."""
        if len(inputs) < 2:
            raise InputError("a training step takes the model's inputs and the target: step(x, y)")
        if is_tracing():
            raise InputError("a training step cannot be called inside a function that is being compiled")
        leaves, spec = flatten(inputs, is_input)
        arrays = [array_of(x) for x in leaves]
        given: list[Any] = []
        modules = [module_of(self.model), module_of(self.loss_fn)]
        structure = structure_key(spec, given, modules)

        def sign() -> tuple[Key, list[Any]]:
            keep = list(given)
            return (structure, inputs_key(arrays), modules_key(modules, keep), self._groups_key(keep)), keep

        # Two steps at once would race for the parameters.
        with self._compiling.lock:
            variant = self._compiling.variant(sign, lambda: self._trace(inputs))
            if variant.slots is None:
                owners = [(i, self._owners.get(id(t))) for i, t in enumerate(variant.states)]
                variant.slots = [(i, *owner) for i, owner in owners if owner is not None]
            self._refresh(variant)
            (loss,) = variant.run(arrays)
        self.optimizer._opt_called = True  # schedulers look at it
        return dispatch.from_array(loss)

    def _groups_key(self, keep: list[Any]) -> Key:
        """Per parameter group its parameters, which options are run-time numbers, and the options that are fixed."""
        key: list[Any] = []
        for group in self.optimizer.param_groups:
            keep += group["params"]
            key += (len(group["params"]), *map(id, group["params"]), *sorted(self.optimizer.graph_hyper(group)))
            fixed = self.optimizer.fixed_hyper(group)
            key += ((name, constant_key(value, keep)) for name, value in fixed.items())
        return tuple(key)

    def _refresh(self, variant: Variant) -> None:
        """The present learning rates, and the present optimiser state (``load_state_dict`` makes new tensors)."""
        optimizer = self.optimizer
        numbers = [optimizer.graph_hyper(group) for group in optimizer.param_groups]
        for (g, name, _), held in self._scalars.items():
            if g < len(numbers) and name in numbers[g]:
                held._data[...] = numbers[g][name]
        for i, param, key in variant.slots or ():
            entries = optimizer.state[param]
            if key not in entries:
                entries.update(optimizer.init_state(param, optimizer.group_of(param)))
            variant.states[i] = entries[key]

    # -- tracing ------------------------------------------------------------------------------------
    def _trace(self, inputs: Sequence[Any]) -> Trace:
        model, loss_fn = self.model, self.loss_fn
        states: dict[str, Tensor] = {}
        roles: dict[str, str] = {}
        names: dict[int, str] = {}
        for prefix, part in (("", module_of(model)), ("loss_fn.", module_of(loss_fn))):
            for name, p in part.named_parameters() if hasattr(part, "named_parameters") else ():
                if id(p) not in names:
                    states[prefix + name], roles[prefix + name], names[id(p)] = p, "parameter", prefix + name
            for name, b in part.named_buffers() if hasattr(part, "named_buffers") else ():
                states[prefix + name], roles[prefix + name] = b, "buffer"
        plan = self._plan(names, states, roles)

        def step(*args: Any) -> Any:
            loss = loss_fn(model(*args[:-1]), args[-1])
            if not isinstance(loss, Tensor) or loss.ndim != 0:
                got = f"has shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}"
                raise UnsupportedError(f"the loss {got}; a step needs a 0-d Tensor (reduction='mean' or 'sum')")
            self._update(loss, plan)
            return loss

        return trace(step, inputs, states=states, roles=roles, name=function_name(model) + "_step",
                     differentiates=True)  # fmt: skip

    def _plan(self, names: dict[int, str], states: dict[str, Tensor], roles: dict[str, str]) -> _Plan:
        """What is to be updated; registers optimiser state and numbers as states of the graph."""
        optimizer = self.optimizer
        plan: _Plan = []
        self._owners = {}
        for g, group in enumerate(optimizer.param_groups):
            trained = [p for p in group["params"] if p.requires_grad]
            if not trained:
                continue
            foreign = [f"{p.dtype.name}{list(p.shape)}" for p in trained if id(p) not in names]
            if foreign:
                raise UnsupportedError(f"group {g} of the optimizer holds parameters that belong neither to the model "
                                       "nor to the loss:", foreign)  # fmt: skip
            # Numbers are held in the widest dtype of the group, float32 at least, as PyTorch computes with them.
            dtype = np.result_type(np.float32, *(p.dtype.numpy for p in trained if p.dtype.itemsize >= 4))
            hyper: dict[str, Any] = dict(group)
            for name, value in optimizer.graph_hyper(group).items():
                held = self._scalars.get((g, name, dtype))
                if held is None:
                    held = self._scalars[g, name, dtype] = dispatch.from_array(np.array(value, dtype))
                hyper[name] = held
                states[f"group{g}.{name}"], roles[f"group{g}.{name}"] = held, "scalar"
            for p in trained:
                optimizer.state[p].update(optimizer.init_state(p, group))
                held_state = {k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor)}
                for k, v in held_state.items():
                    states[f"{names[id(p)]}.{k}"], roles[f"{names[id(p)]}.{k}"] = v, "state"
                    self._owners[id(v)] = (p, k)
                plan.append((p, held_state, hyper))
        return plan

    def _update(self, loss: Tensor, plan: _Plan) -> None:
        """Inside the trace: differentiate the loss and apply the optimiser's rule to every parameter it depends on."""
        from .ir.differentiate import gradients

        tracer = current()
        assert tracer is not None
        if loss._value is None:
            raise UnsupportedError("the loss does not depend on the inputs or on any parameter")
        # A parameter that the loss does not reach has no gradient and is left alone, as in PyTorch.
        reached = ancestors(loss._value, tracer.detached)
        used = {id(state.tensor) for state in tracer.used}
        plan = [entry for entry in plan if id(entry[0]) in used and tracer.value_of(entry[0]) in reached]
        if not plan:
            raise UnsupportedError("the loss depends on no parameter of the optimizer with requires_grad=True")
        grads = gradients(tracer.graph, loss._value, [tracer.value_of(p) for p, _, _ in plan], stop=tracer.detached)
        for (p, state, hyper), grad in zip(plan, grads, strict=True):
            new, new_state = self.optimizer._update(p, dispatch.from_value(grad, tracer), state, hyper)
            for key, value in new_state.items():
                state[key]._assign(value)
            p._assign(new)


def ancestors(value: Value, stop: Sequence[Value]) -> set[Value]:
    """``value`` and everything it is computed from, not looking behind the values of ``stop``."""
    stopped = set(stop)
    found: set[Value] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        if v in found or v in stopped:
            continue
        found.add(v)
        if v.producer is not None:
            stack.extend(v.producer.inputs)
    return found
