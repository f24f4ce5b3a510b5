"""What ``compile`` returns: executables that take and give the structures, Tensors and arrays users pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .frontend import dispatch
from .frontend.structure import Spec, flatten, unflatten
from .frontend.tensor import Tensor
from .frontend.tracing import Trace, current, trace
from .ir.errors import InputError, UnsupportedError
from .ir.graph import Graph
from .ir.plan import Program

if TYPE_CHECKING:
    from .driver import Options, Report
    from .frontend.optim import Optimizer
    from .runtime.executable import Executable

Build = Callable[..., Program]


def _is_data(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray))


def _array(x: Any) -> np.ndarray:
    return x._data if isinstance(x, Tensor) else x


class CompiledModule:
    """An inference executable: ``exe(*inputs, **kwargs)``.

    NumPy inputs give NumPy outputs, Tensors give Tensors (also when mixed), in the structure that ``forward``
    returned. Safe to call from several threads at once.
    """

    def __init__(
        self,
        program: Program,
        in_spec: Spec,
        out_spec: Spec,
        *,
        threads: int | None = None,
        report: Report | None = None,
        graph: Graph | None = None,
    ) -> None:
        self.program = program
        self.report = report
        self.graph = graph
        self._in_spec, self._out_spec = in_spec, out_spec
        self._threads = threads
        self._executable: Executable | None = None
        positional, keywords = in_spec.children
        self._simple = (
            len(positional.children)
            if not keywords.children and all(c.kind == "leaf" for c in positional.children)
            else -1
        )
        self._single = out_spec.kind == "leaf"

    @property
    def executable(self) -> Executable:
        """The runtime object (``ArtifactError`` if this CPU cannot run the code)."""
        if self._executable is None:
            from .runtime.executable import Executable

            self._executable = Executable(self.program, threads=self._threads)
        return self._executable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == self._simple and not kwargs:
            leaves: Sequence[Any] = args
        else:
            leaves = self._leaves(args, kwargs)
        executable = self._executable or self.executable
        tensors = False
        arrays = []
        for x in leaves:
            if isinstance(x, Tensor):
                tensors = True
                x = x._data
            arrays.append(x)
        results: list[Any] = executable.run(arrays)
        if tensors:
            results = [dispatch.from_array(r) for r in results]
        return results[0] if self._single else unflatten(self._out_spec, results)

    def run_into(self, out: Any, *args: Any, **kwargs: Any) -> None:
        """Run and write the results into ``out`` (one array or Tensor, or the structure ``forward`` returns).

        Allocates nothing. InputError if ``out`` does not have the results' shapes and dtypes, is not
        contiguous, or overlaps an input.
        """
        outs, spec = flatten(out, _is_data)
        if len(outs) != self._out_spec.num_leaves:
            raise InputError(f"run_into: {self._out_spec.num_leaves} results but {len(outs)} arrays to write to")
        leaves = args if len(args) == self._simple and not kwargs else self._leaves(args, kwargs)
        self.executable.run_into([_array(o) for o in outs], [_array(x) for x in leaves])

    def _leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        wanted = self._in_spec.children[1]
        if set(kwargs) != set(wanted.keys):
            raise InputError(
                f"keyword inputs {sorted(kwargs)}; this executable was compiled with {sorted(wanted.keys)}"
            )
        ordered = {key: kwargs[key] for key in wanted.keys}
        leaves, spec = flatten((tuple(args), ordered), _is_data)
        if not _same_structure(spec, self._in_spec):
            raise InputError(
                f"inputs have the structure {describe(spec)}; compiled for {describe(self._in_spec)} "
                f"({', '.join(p.name for p in self.program.inputs)})"
            )
        return leaves

    def save(self, path: str | Path) -> None:
        """Write an ``.ingot`` file: code, plan and weights; readable by ``load_executable``."""
        from .runtime import artifact

        artifact.save(self.program, path)

    def __repr__(self) -> str:
        p = self.program
        ins = ", ".join(f"{i.name}: {i.type}" for i in p.inputs if i.role == "input")
        outs = ", ".join(f"{o.name}: {o.type}" for o in p.outputs)
        return f"<ingot executable {p.name}({ins}) -> ({outs}), {len(p.steps)} kernels, {p.target_name}>"


def _same_structure(a: Spec, b: Spec) -> bool:
    stack = [(a, b)]
    while stack:
        x, y = stack.pop()
        if x.kind != y.kind or x.keys != y.keys or len(x.children) != len(y.children):
            return False
        if x.kind == "const" and x.value != y.value:
            return False
        stack.extend(zip(x.children, y.children, strict=True))
    return True


def describe(spec: Spec) -> str:
    """A structure as text: ``(x, {'mask': x})`` with x for each tensor."""
    if spec.kind == "leaf":
        return "x"
    if spec.kind == "const":
        return repr(spec.value)
    parts = [describe(c) for c in spec.children]
    if spec.kind == "dict":
        return "{" + ", ".join(f"{k!r}: {p}" for k, p in zip(spec.keys, parts, strict=True)) + "}"
    return ("[%s]" if spec.kind == "list" else "(%s)") % ", ".join(parts)


class _StatefulProgram:
    """A program with live states: every call passes the states' present arrays and writes updates into them."""

    def __init__(self, found: Trace, program: Program, threads: int | None, report: Report) -> None:
        from .runtime.executable import Executable

        self.executable = Executable(program, threads=threads)
        self.program = program
        self.report = report
        self.graph = found.graph
        self.out_spec = found.out_spec
        self.states = [found.states[p.name] for p in program.inputs if p.role != "input"]
        self.results = found.out_spec.num_leaves
        # Updates are written in place; the trailing outputs only name them.
        self.updated = [p.updates for p in program.outputs[self.results :]]

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        for state in self.states:
            if not state._data.flags.c_contiguous:
                state._data = np.ascontiguousarray(state._data)
        return self.executable.run(arrays + [s._data for s in self.states])[: self.results]


def _signature(leaves: Sequence[Any], spec: Spec, model: Any) -> tuple[Any, ...]:
    """What a compiled variant depends on: input types, structure, modes, and which tensors are the states."""
    shapes = tuple((_array(x).shape, _array(x).dtype) for x in leaves)
    modules = list(model.modules()) if hasattr(model, "modules") else []
    modes = tuple(m.training for m in modules)
    states: list[tuple[int, bool, Any]] = []
    if modules:
        states = [(id(p), p.requires_grad, p._data.dtype) for p in model.parameters()]
        states += [(id(b), False, b._data.dtype) for b in model.buffers()]
    return shapes, describe(spec), modes, tuple(states)


class LiveModule:
    """A module compiled on demand: one variant per input signature, train/eval mode and set of parameters.

    Parameters and buffers are read (and running statistics written) where they are, so loading a state dict
    or an optimiser step shows at the next call. Attributes are the wrapped module's.
    """

    def __init__(self, model: Any, options: Options, build: Build) -> None:
        self.__dict__.update(_model=model, _options=options, _build=build, _variants={})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = flatten((args, kwargs), _is_data)
        key = _signature(leaves, spec, self._model)
        variant = self._variants.get(key)
        if variant is None:
            variant = self._variants[key] = self._compile(args, kwargs)
        results: list[Any] = variant.run([_array(x) for x in leaves])
        if any(isinstance(x, Tensor) for x in leaves):
            results = [dispatch.from_array(r) for r in results]
        return unflatten(variant.out_spec, results)

    def _compile(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _StatefulProgram:
        from .driver import Report

        report = Report()
        with report.stage("trace"):
            found = trace(self._model, args, kwargs, name=type(self._model).__name__)
        program = self._build(found.graph, self._options, report)
        return _StatefulProgram(found, program, self._options.threads, report)

    def __repr__(self) -> str:
        return f"<ingot live module of {self._model!r}>"


class TrainingStep:
    """See ``driver.compile_step``."""

    def __init__(
        self, model: Any, loss_fn: Callable[..., Any], optimizer: Optimizer, options: Options, build: Build
    ) -> None:
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self._options, self._build = options, build
        self._variants: dict[tuple[Any, ...], _StatefulProgram] = {}
        self._hyper: dict[tuple[int, str], Tensor] = {}

    def __call__(self, *inputs: Any) -> Tensor:
        """Run one step on ``(*model_inputs, target)``; returns the loss before the update, a 0-d Tensor."""
        if len(inputs) < 2:
            raise InputError("a training step takes the model's inputs and the target: step(x, y)")
        leaves, spec = flatten((inputs, {}), _is_data)
        key = (*_signature(leaves, spec, self.model), self._group_signature())
        variant = self._variants.get(key)
        if variant is None:
            variant = self._variants[key] = self._compile(inputs)
        self._refresh_hyper()
        (loss,) = variant.run([_array(x) for x in leaves])
        return dispatch.from_array(loss)

    @property
    def variants(self) -> list[_StatefulProgram]:
        """The compiled variants so far, oldest first (``.program``, ``.graph``, ``.report``)."""
        return list(self._variants.values())

    def _group_signature(self) -> tuple[Any, ...]:
        return tuple(
            (
                tuple(id(p) for p in group["params"]),
                tuple(sorted(self.optimizer.graph_hyper(group))),
                tuple((k, v) for k, v in sorted(group.items()) if isinstance(v, bool)),
            )
            for group in self.optimizer.param_groups
        )

    def _refresh_hyper(self) -> None:
        for g, group in enumerate(self.optimizer.param_groups):
            for name, value in self.optimizer.graph_hyper(group).items():
                held = self._hyper.get((g, name))
                if held is not None:
                    held._data[...] = value

    def _compile(self, inputs: Sequence[Any]) -> _StatefulProgram:
        from .driver import Report

        report = Report()
        model, optimizer = self.model, self.optimizer
        states: dict[str, Tensor] = {}
        roles: dict[str, str] = {}
        names: dict[int, str] = {}
        for name, p in model.named_parameters():
            states[name], roles[name], names[id(p)] = p, "parameter", name
        for name, b in model.named_buffers():
            states[name], roles[name] = b, "buffer"
        plan = self._plan_updates(names, states, roles)

        def step(*args: Any) -> Any:
            loss = self.loss_fn(model(*args[:-1]), args[-1])
            if loss.ndim != 0:
                raise UnsupportedError(f"the loss has shape {tuple(loss.shape)}; a training step needs a 0-d loss "
                                       "(reduction='mean' or 'sum')")  # fmt: skip
            self._update(loss, plan)
            return loss

        with report.stage("trace"):
            found = trace(step, inputs, states=states, roles=roles, name=type(model).__name__ + "_step")
        program = self._build(found.graph, self._options, report)
        return _StatefulProgram(found, program, self._options.threads, report)

    def _plan_updates(
        self, names: dict[int, str], states: dict[str, Tensor], roles: dict[str, str]
    ) -> list[tuple[Tensor, dict[str, Tensor], dict[str, Any]]]:
        """(parameter, its optimiser state, numbers) for every trainable parameter; registers the states."""
        optimizer = self.optimizer
        plan = []
        for g, group in enumerate(optimizer.param_groups):
            hyper: dict[str, Any] = dict(group)
            dtype = next((p.dtype for p in group["params"]), None)
            for name, value in optimizer.graph_hyper(group).items():
                held = self._hyper.get((g, name))
                if held is None:
                    array = np.array(value, dtype.numpy)  # type: ignore[union-attr]
                    held = self._hyper[(g, name)] = dispatch.from_array(array)
                hyper[name] = held
                states[f"group{g}.{name}"], roles[f"group{g}.{name}"] = held, "scalar"
            for p in group["params"]:
                if not p.requires_grad:
                    continue
                if id(p) not in names:
                    raise UnsupportedError("the optimizer holds a parameter that is not one of the model's")
                if not optimizer.state.get(p):
                    optimizer.state[p] = optimizer.init_state(p)
                held_state = {k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor)}
                for k, v in held_state.items():
                    key = f"{names[id(p)]}.{k}"
                    states[key], roles[key] = v, "state"
                plan.append((p, held_state, hyper))
        return plan

    def _update(self, loss: Tensor, plan: list[tuple[Tensor, dict[str, Tensor], dict[str, Any]]]) -> None:
        """Inside the trace: differentiate the loss and apply the optimiser's rule to every parameter."""
        from .passes.differentiate import gradients

        tracer = current()
        assert tracer is not None and loss._value is not None
        values = [tracer.value_of(p) for p, _, _ in plan]
        grads = gradients(tracer.graph, loss._value, values, stop=tracer.detached)
        for (p, state, hyper), grad in zip(plan, grads, strict=True):
            new_p, new_state = self.optimizer._update(p, dispatch.from_value(grad, tracer), state, hyper)
            for key, value in new_state.items():
                state[key]._assign(value)
            p._assign(new_p)
