"""The stages wired together: trace, differentiate, optimise, lower, plan. Users meet it as ``ingot.compile``.

``compile`` gives an inference executable (weights frozen), or without examples a live module that follows
the model; ``compile_step`` a whole training step; ``load_executable`` reads what ``save`` wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiled import CompiledModule, LiveModule, TrainingStep
from .frontend.structure import Spec
from .frontend.tracing import InputSpec, Trace, trace
from .ir.dims import Dim
from .ir.errors import UnsupportedError
from .ir.graph import Graph
from .ir.plan import Program
from .ir.target import Target
from .passes.manager import PassContext, PassManager, PassRecord

if TYPE_CHECKING:
    from .frontend.optim import Optimizer
    from .frontend.tensor import Tensor

PRECISIONS = ("float32",)


@dataclass(frozen=True)
class Options:
    """How to compile.

    Attributes:
        threads: threads at run time; None: what affinity and the cgroup grant.
        precision: ``"float32"``: every kernel as exact as an ordinary float32 kernel.
        target: None or ``"host"`` (this CPU), a target name (``ir.target``), or a Target.
        cache: use the kernel cache on disk.
        disable: names of passes to leave out.
        dump: folder for the numbered text of every stage.
        verify: run the IR verifier after each pass.
        progress: called with (kernels done, kernels in all, current layer).
    """

    threads: int | None = None
    precision: str = "float32"
    target: str | Target | None = None
    cache: bool = True
    disable: Collection[str] = ()
    dump: str | Path | None = None
    verify: bool = True
    progress: Callable[[int, int, str], None] | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UnsupportedError(f"precision {self.precision!r}: this version computes in {', '.join(PRECISIONS)}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")

    def resolve_target(self) -> Target:
        from .codegen.host import host_target, target_named

        if isinstance(self.target, Target):
            return self.target
        return host_target() if self.target in (None, "host") else target_named(self.target)  # type: ignore[arg-type]


@dataclass
class Report:
    """What a compile did: seconds per stage, passes, kernels compiled and reused, log lines."""

    seconds: dict[str, float] = field(default_factory=dict)
    passes: list[PassRecord] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    compiled: int = 0
    reused: int = 0

    @contextmanager
    def stage(self, name: str) -> Any:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def optimise(graph: Graph, options: Options, report: Report | None = None) -> Graph:
    """Run the standard pipeline on ``graph`` in place and return it."""
    from .codegen.library import NativeKernels
    from .passes.pipeline import standard

    report = report or Report()
    target = options.resolve_target()
    context = PassContext(target, NativeKernels(target))
    manager = PassManager(
        standard(),
        verify=options.verify,
        disabled=frozenset(options.disable),
        dump_dir=None if options.dump is None else Path(options.dump),
    )
    report.passes = manager.run(graph, context)
    report.log = [str(entry) for entry in context.log]
    return graph


def build(
    graph: Graph, options: Options, report: Report | None = None, metadata: Mapping[str, str] | None = None
) -> Program:
    """Optimise ``graph`` in place and compile it to a Program."""
    from .program import KernelCompiler, build_program
    from .runtime.cache import KernelCache

    report = report or Report()
    with report.stage("passes"):
        optimise(graph, options, report)
    with report.stage("kernels"):
        compiler = KernelCompiler(options.resolve_target(), KernelCache() if options.cache else None)
        program = build_program(graph, compiler, metadata=metadata, progress=options.progress)
    report.compiled, report.reused = compiler.compiled, compiler.reused
    return program


# -- tracing ------------------------------------------------------------------------------------------
def freeze(graph: Graph, states: Mapping[str, Tensor]) -> None:
    """Turn the state inputs of ``graph`` into constants holding a snapshot of their values, in place."""
    if graph.updates:
        names = [graph.output_names[i] for i in graph.updates]
        raise UnsupportedError(
            "the module changes its state in eval mode, so its weights cannot be frozen; compile it without "
            "examples (ingot.compile(model)) to keep the state live. Changed:",
            names,
        )
    first = next(iter(graph), None)
    keep = [i for i, role in enumerate(graph.roles) if role == "input"]
    for value, role in zip(list(graph.inputs), list(graph.roles), strict=True):
        if role != "input":
            array = np.array(states[value.name]._data, order="C")
            constant = graph.constant(array, value.name, before=first)
            graph.replace_uses(value, constant)
            constant.name = value.name
    graph.inputs = [graph.inputs[i] for i in keep]
    graph.roles = [graph.roles[i] for i in keep]


@contextmanager
def evaluation_mode(model: Any) -> Any:
    """Every submodule in eval mode, and back afterwards as each was."""
    modules = list(model.modules()) if hasattr(model, "modules") else []
    modes = [m.training for m in modules]
    for m in modules:
        m.training = False
    try:
        yield
    finally:
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode


Dynamic = Dim | Mapping[Any, Any] | bool | None


def describe_inputs(args: Sequence[Any], dynamic: Dynamic, names: Sequence[str] = ()) -> list[Any]:
    """The examples with the axes that ``dynamic`` names replaced by Dims (as InputSpecs).

    ``dynamic``: a Dim (axis 0 of every input), ``{axis: Dim}`` (every input), ``{input name or position:
    {axis: Dim}}``, or True (axis 0 is ``Dim("N")`` without a bound).
    """
    if dynamic is None or dynamic is False:
        return list(args)
    if dynamic is True:
        dynamic = Dim("N")
    if isinstance(dynamic, Dim):
        dynamic = {0: dynamic}
    per_input = all(isinstance(v, Mapping) for v in dynamic.values())
    known = {*names, *range(len(args))}
    if per_input and (unknown := set(dynamic) - known):
        raise ValueError(f"dynamic names inputs {sorted(map(str, unknown))}; the model has {list(names)}")
    out = []
    for i, arg in enumerate(args):
        name = names[i] if i < len(names) else None
        axes = dynamic.get(name, dynamic.get(i, {})) if per_input else dynamic
        out.append(_with_dims(arg, axes, name or f"input {i}"))
    return out


def _with_dims(arg: Any, axes: Mapping[int, Dim], name: str) -> Any:
    if isinstance(arg, (list, tuple)) and not hasattr(arg, "_fields"):
        return type(arg)(_with_dims(a, axes, name) for a in arg)
    if isinstance(arg, dict):
        return {k: _with_dims(a, axes, f"{name}[{k!r}]") for k, a in arg.items()}
    spec = as_spec(arg)
    if spec is None or not axes:
        return arg
    shape = list(spec.shape)
    for axis, dim in axes.items():
        if not isinstance(dim, Dim):
            raise TypeError(f"dynamic: axis {axis} of {name} must be a Dim, not {type(dim).__name__}")
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"dynamic: {name} has no axis {axis} (shape {tuple(shape)})")
        shape[axis] = dim
    return InputSpec(tuple(shape), spec.dtype)


def as_spec(arg: Any) -> InputSpec | None:
    """Shape and dtype of an example; None for things that are not tensors."""
    from .frontend.tensor import Tensor
    from .ir.dtypes import dtype_from_numpy

    if isinstance(arg, InputSpec):
        return arg
    if isinstance(arg, Tensor):
        return InputSpec(tuple(arg._data.shape), arg.dtype)
    if isinstance(arg, np.ndarray):
        return InputSpec(arg.shape, dtype_from_numpy(arg.dtype))
    return None


def trace_inference(
    model: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, dynamic: Dynamic = None
) -> Trace:
    """The frozen inference graph of ``model`` on examples or InputSpecs."""
    name = type(model).__name__ if not isinstance(model, type(trace)) else model.__name__
    with evaluation_mode(model):
        found = trace(model, describe_inputs(args, dynamic, input_names(model)), kwargs, name=_identifier(name))
    freeze(found.graph, found.states)
    return found


def input_names(model: Any) -> list[str]:
    """Names of the positional parameters of ``forward``."""
    import inspect

    try:
        parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "main"


# -- what users call ----------------------------------------------------------------------------------
def compile(
    model: Any,
    *examples: Any,
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Dynamic = None,
    threads: int | None = None,
    precision: str = "float32",
    target: str | Target | None = None,
    **options: Any,
) -> CompiledModule | LiveModule:
    """Compile a Module or function on Tensors to native code.

    With ``examples`` (Tensors, arrays or ``InputSpec``s; nested structures allowed): an inference executable
    in eval mode, weights frozen at their present values. Without: a ``LiveModule`` that compiles at the first
    call for each input signature and follows parameters and train/eval mode.

    Args:
        kwargs: keyword inputs of ``forward``.
        dynamic: which axes vary between calls: a ``Dim`` (axis 0 of every input), ``{axis: Dim}`` or
            ``{input: {axis: Dim}}``; True leaves axis 0 free without a bound.
        threads: default: what affinity and cgroup grant.
        precision: ``"float32"``.
        target: ``"host"`` (default), ``"x86-64"``, ``"x86-64-avx2"``, ``"x86-64-avx512"``, ``"aarch64"``.
        options: ``cache``, ``disable``, ``dump``, ``verify``, ``progress`` as in ``driver.Options``.

    Raises:
        UnsupportedError: something cannot be traced or compiled; everything is listed.
        DataDependentError: ``forward`` branches on data or on a dynamic size.
    """
    settings = Options(threads=threads, precision=precision, target=target, **options)
    if not examples and not kwargs:
        if dynamic is not None:
            raise ValueError("dynamic needs examples; a live module compiles per input signature")
        return LiveModule(model, settings, build)
    report = Report()
    with report.stage("trace"):
        found = trace_inference(model, examples, kwargs, dynamic)
    program = build(found.graph, settings, report, structure_metadata(found))
    return CompiledModule(program, found.in_spec, found.out_spec, threads=threads, report=report, graph=found.graph)


def structure_metadata(found: Trace) -> dict[str, str]:
    """The call structure as text, kept in artefacts."""
    from . import __version__

    return {"in_spec": found.in_spec.to_json(), "out_spec": found.out_spec.to_json(), "ingot": __version__}


def compile_step(
    model: Any,
    loss_fn: Callable[..., Any],
    optimizer: Optimizer,
    *,
    threads: int | None = None,
    precision: str = "float32",
    target: str | Target | None = None,
    **options: Any,
) -> TrainingStep:
    """A compiled training step: ``loss = step(*inputs, target)``.

    One native call runs ``loss_fn(model(*inputs), target)``, its gradients and the optimiser's update, and
    changes parameters, buffers and optimiser state in place. It compiles at the first call for each input
    signature and follows train/eval mode and ``requires_grad``; the learning rate and the other numbers of
    ``optimizer.param_groups`` are read at every call.
    """
    settings = Options(threads=threads, precision=precision, target=target, **options)
    return TrainingStep(model, loss_fn, optimizer, settings, build)


def load_executable(path: str | Path, *, threads: int | None = None, verify: bool = False) -> CompiledModule:
    """Load an ``.ingot`` file; ``verify`` checks the weight blocks now instead of at first use.

    Raises ArtifactError if the file is damaged, of another version or for another CPU.
    """
    from .runtime import artifact

    program = artifact.load(path, verify=verify)
    in_spec = Spec.from_json(program.metadata["in_spec"])
    out_spec = Spec.from_json(program.metadata["out_spec"])
    return CompiledModule(program, in_spec, out_spec, threads=threads)
