"""The stages wired together: trace, differentiate, optimise, lower, plan. Users meet it as ``ingot.compile``.

``compile`` gives an inference executable (weights frozen), or without examples a live module that follows
the model; ``compile_step`` a whole training step; ``load_executable`` reads what ``save`` wrote.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiled import CompiledModule, LiveModule, function_name, unwrap
from .frontend.structure import Spec, flatten, unflatten
from .frontend.tracing import MODELS, InputSpec, Trace, module_of, trace
from .ir.dims import Dim
from .ir.errors import ArtifactError, PassError, UnsupportedError
from .ir.graph import Graph
from .ir.kernels import PRECISIONS
from .ir.plan import Program
from .ir.target import Target

# Passes and the code generator are imported when something is compiled: loading an artefact needs neither.
if TYPE_CHECKING:
    from .codegen.library import NativeKernels
    from .frontend.optim import Optimizer
    from .frontend.tensor import Tensor
    from .ir.kernels import KernelLibrary
    from .kernel_failure import ReportingCompiler
    from .passes.manager import PassRecord
    from .runtime.findings import FindingsFile
    from .training import TrainingStep


@dataclass(frozen=True)
class Options:
    """How to compile.

    Attributes:
        threads: threads at run time; None: what affinity and the cgroup grant.
        precision: ``"float32"``: every kernel is as exact as an ordinary float32 kernel. ``"float32-fast"``: kernels
            with a relative L2 error up to 1e-5. ``"bfloat16"``: contractions may round their operands to bfloat16.
            All three store float32; a CPU that gains nothing from less precision computes as before.
        target: None or ``"host"`` (this CPU), a target name (``ir.target``), or a Target.
        cache: use the kernel cache on disk.
        disable: names of passes to leave out.
        dump: folder for the text of the graph after every pass, numbered.
        verify: run the IR verifier after each pass.
        progress: called with (kernels done, kernels in all, current layer); while tuning with (seconds spent, seconds
            in all, what was found).
        tune: seconds that may go into measuring other schedules than the rule's (``tuner``), at most; what is faster is
            used and kept for later compiles that tune. 0: use what was found before, measure nothing. None: neither.
        tune_file: where findings are read and kept instead of beside the kernel cache; given alone it is like 0.
        debug: ``"bounds"``: every buffer lies between guard pages and is checked after every kernel
            (``runtime.guard``); slow, Linux only.
    """

    threads: int | None = None
    precision: str = "float32"
    target: str | Target | None = None
    cache: bool = True
    disable: Collection[str] = ()
    dump: str | Path | None = None
    verify: bool = True
    progress: Callable[[int, int, str], None] | None = None
    debug: str | None = None
    tune: float | None = None
    tune_file: str | Path | None = None

    def __post_init__(self) -> None:
        if self.debug not in (None, "bounds"):
            raise UnsupportedError(f'debug {self.debug!r}: there is "bounds"')
        if self.precision not in PRECISIONS:
            raise UnsupportedError(f"precision {self.precision!r}: there are {', '.join(PRECISIONS)}")
        if self.tune and self.debug:
            raise UnsupportedError(f"tune: times mean nothing with debug={self.debug!r}; give one of them")
        if self.tune is not None and not 0 <= self.tune < float("inf"):
            raise ValueError(f"tune must be a number of seconds, not {self.tune}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")

    @property
    def reproducer_dir(self) -> Path:
        """Where files that replay internal failures go."""
        if self.dump is not None:
            return Path(self.dump)
        user = os.getuid() if hasattr(os, "getuid") else ""  # the folder for temporary files may be everybody's
        return Path(tempfile.gettempdir()) / f"ingot-failures-{user}"

    def resolve_target(self) -> Target:
        from .codegen.host import host_target, target_named

        if isinstance(self.target, Target):
            return self.target
        if self.target not in (None, "host"):
            return target_named(self.target)  # type: ignore[arg-type]
        host = host_target()
        return host.without_tiles() if host.has_tiles and self.tile_refusal else host

    @property
    def tile_refusal(self) -> str:
        """Why the system does not let this process use the matrix tiles that its CPU has; "" otherwise."""
        from .codegen.host import host_target
        from .runtime import cpu

        wanted = self.target in (None, "host") and host_target().has("amx-tile")
        return (cpu.tile_refusal() or "") if wanted else ""

    def findings_file(self) -> FindingsFile | None:
        """Where findings of ``tune`` are; None: they take no part. FileNotFoundError: a file to use is missing."""
        from .runtime.cache import KernelCache
        from .runtime.findings import FindingsFile

        if self.tune_file is not None:
            if not self.tune and not Path(self.tune_file).is_file():
                raise FileNotFoundError(f"tune_file: there is no file {self.tune_file}; tune=SECONDS makes one")
            return FindingsFile(self.tune_file, named=True)
        if self.tune is None:
            return None
        cache = KernelCache.default()
        return FindingsFile(cache.directory.parent / "tuning.toml" if self.cache and cache.enabled else None)

    def compiler(self) -> ReportingCompiler:
        """What turns nodes into kernels, with the findings that are to be used."""
        from .kernel_failure import ReportingCompiler
        from .runtime.cache import KernelCache
        from .runtime.cpu import default_threads

        file, threads = self.findings_file(), self.threads or default_threads()
        known = file.load() if file is not None else {}
        findings = {key: finding for (key, count), finding in known.items() if count == threads}
        cache = KernelCache.default() if self.cache else None
        return ReportingCompiler(self.resolve_target(), cache, self.reproducer_dir, findings)

    def kernels(self) -> NativeKernels:
        """The kernels to choose from."""
        from .codegen.library import NativeKernels

        return NativeKernels(self.resolve_target(), self.precision)


@dataclass
class Report:
    """What a compile did: seconds per stage, passes, kernels compiled and reused, log lines; ``tuned``: how many
    distinct kernels have a measured schedule instead of the rule's."""

    seconds: dict[str, float] = field(default_factory=dict)
    passes: list[PassRecord] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    compiled: int = 0
    reused: int = 0
    tuned: int = 0

    @contextmanager
    def stage(self, name: str) -> Any:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def optimise(graph: Graph, options: Options, report: Report | None = None) -> Graph:
    """Run the standard pipeline on ``graph`` in place and return it.

    PassError names a pass that failed and the file that replays it (in ``options.dump`` or the temporary folder).
    """
    from .passes.manager import PassContext, PassManager
    from .passes.pipeline import standard

    report = report or Report()
    kernels = options.kernels()
    context = PassContext(kernels.target, kernels)
    if limits := kernels.limits():
        context.refused(f"precision {options.precision}", graph.name, options.tile_refusal or limits)
    settings: dict[str, Any] = {"verify": options.verify, "disabled": frozenset(options.disable)}
    original, _ = graph.clone()
    try:
        report.passes = PassManager(standard(), dump_dir=options.dump, **settings).run(graph, context)
    except PassError:
        # Once more from the start with a snapshot before every pass: only failures pay for those.
        again = PassContext(kernels.target, kernels)
        PassManager(standard(), reproducer_dir=options.reproducer_dir, **settings).run(original, again)
        raise
    report.log = [str(entry) for entry in context.log]
    return graph


def refuse_unsupported(graph: Graph, kernels: KernelLibrary, target: Target) -> None:
    """UnsupportedError listing every node of an optimised graph for which there is no kernel."""
    from .passes.schedule_updates import is_alias

    items = []
    for node in graph:
        if node.op == "constant" or is_alias(node):
            continue
        reason = kernels.supports(node)
        if reason is not None:
            types = ", ".join(str(v.type) for v in node.inputs)
            place = f" at {node.source.file}:{node.source.line}" if node.source.file else ""
            reason = reason.removeprefix(f"operator {node.op}: ")
            items.append(f"{node.source.module or '(root)'}: {node.op} on {types}{place}: {reason}")
    if items:
        raise UnsupportedError(f"{len(items)} operators in {graph.name} cannot be compiled for {target.name}:", items)


def build(
    graph: Graph, options: Options, report: Report | None = None, metadata: Mapping[str, str] | None = None
) -> Program:
    """Optimise ``graph`` in place and compile it to a Program.

    Raises UnsupportedError listing every operator without a kernel; PassError and KernelError for internal
    failures, with the file that replays them.
    """
    from .program import build_program

    report = report or Report()
    target = options.resolve_target()
    compiler = options.compiler()
    with report.stage("passes"):
        optimise(graph, options, report)
    with report.stage("kernels"):
        refuse_unsupported(graph, options.kernels(), target)
        about = {"precision": options.precision, **(metadata or {})}
        if options.debug:
            about["debug"] = options.debug
        program = build_program(graph, compiler, metadata=about, progress=options.progress, arena=not options.debug)
    report.compiled, report.reused = compiler.compiled, compiler.reused
    if options.tune:
        with report.stage("tune"):
            program = tune(graph, program, compiler, options, report)
    report.tuned = len(compiler.tuned)
    return program


def tune(graph: Graph, program: Program, compiler: ReportingCompiler, options: Options, report: Report) -> Program:
    """``program`` (made from ``graph`` with ``compiler``) with the schedules that measuring finds to be faster.

    Findings are kept also when it is interrupted or fails. UnsupportedError: there is nothing to measure, because this
    machine cannot run the code or an extent has no bound.
    """
    from .program import kernel_nodes, with_kernels
    from .runtime.cpu import default_threads
    from .tuner import Tuner

    file, threads = options.findings_file(), options.threads or default_threads()
    assert file is not None and options.tune is not None
    tuner = Tuner(graph, program, compiler, threads=threads, seconds=options.tune, progress=options.progress)
    try:
        tuner.run()
    finally:
        found = tuner.findings()
        file.add({(key, threads): finding for key, finding in found.items()})
    compiler.findings.update(found)
    report.log += [f"tune: {finding.kernel}: {finding}" for finding in found.values()]
    report.log += [f"tune: {line}" for line in tuner.log]
    outputs = graph.output_set()
    records = [compiler.compile(node, graph.symbols, outputs) for node in kernel_nodes(graph)]
    return with_kernels(program, dict(enumerate(records)))


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


def describe_inputs(
    args: Sequence[Any], dynamic: Dynamic, names: Sequence[str] = (), kwargs: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """(args, kwargs) with the axes that ``dynamic`` names replaced by Dims (as InputSpecs).

    ``dynamic``: a Dim (axis 0 of every input), ``{axis: Dim}`` (every input), ``{input name or position:
    {axis: Dim}}``, or True (axis 0 is ``Dim("N")`` without a bound). Inputs without axes stay as they are in
    the first two forms; a nested input stands for all tensors in it.
    """
    kwargs = dict(kwargs or {})
    if dynamic is None or dynamic is False:
        return list(args), kwargs
    if dynamic is True:
        dynamic = Dim("N")
    if isinstance(dynamic, Dim):
        dynamic = {0: dynamic}
    labels: list[Any] = [names[i] if i < len(names) else i for i in range(len(args))]
    if not all(isinstance(axes, Mapping) for axes in dynamic.values()):
        table: dict[Any, Mapping[int, Dim]] = dict.fromkeys([*labels, *kwargs], dynamic)  # type: ignore[arg-type]
        everywhere = True
    else:
        by_position = {i: label for i, label in enumerate(labels)}
        table = {by_position.get(key, key): axes for key, axes in dynamic.items()}
        everywhere = False
        unknown = [key for key in table if key not in labels and key not in kwargs]
        if unknown:
            raise ValueError(f"dynamic names inputs {unknown}; the inputs are {[*labels, *kwargs]}")

    def described(label: Any, arg: Any) -> Any:
        return _with_dims(arg, table.get(label, {}), f"input {label!r}", everywhere)

    given = [described(label, arg) for label, arg in zip(labels, args, strict=True)]
    return given, {key: described(key, arg) for key, arg in kwargs.items()}


def _with_dims(arg: Any, axes: Mapping[int, Dim], name: str, skip_scalars: bool) -> Any:
    leaves, spec = flatten(arg, lambda x: as_spec(x) is not None)
    out = []
    for leaf in leaves:
        described = as_spec(leaf)
        assert described is not None
        shape = list(described.shape)
        if not axes or (skip_scalars and not shape):
            out.append(leaf)
            continue
        for axis, dim in axes.items():
            if not isinstance(dim, Dim):
                raise TypeError(f"dynamic: axis {axis} of {name} must be a Dim, not {type(dim).__name__}")
            if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
                raise ValueError(f"dynamic: {name} has no axis {axis!r} (shape {tuple(shape)})")
            shape[axis] = dim
        out.append(InputSpec(tuple(shape), described.dtype))
    return unflatten(spec, out)


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
    """The frozen inference graph of ``model`` on examples or InputSpecs.

    Every module that runs is in eval mode meanwhile, those that a function or method reaches too.
    """
    model = unwrap(model)
    args, kwargs = describe_inputs(args, dynamic, input_names(model), kwargs)
    with MODELS, ExitStack() as modes:

        def evaluate(module: Any) -> None:
            modes.enter_context(evaluation_mode(module))

        evaluate(module_of(model))
        found = trace(model, args, kwargs, name=function_name(model), on_module=evaluate)
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


def make_options(**settings: Any) -> Options:
    """Options from keywords; TypeError naming the known ones for any other."""
    known = {f.name for f in fields(Options)}
    unknown = sorted(set(settings) - known)
    if unknown:
        accepted = ", ".join(["kwargs", "dynamic", *sorted(known)])
        raise TypeError(f"unknown option {', '.join(unknown)}; compile takes {accepted}")
    return Options(**settings)


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
    call for each input signature and follows parameters and train/eval mode. ``forward`` itself (and hooks)
    run on symbolic tensors when something is compiled, not at every call: Python attributes that it reads are
    fixed then, and in-place operations on an input do not reach the caller's array.

    A function may call modules: their parameters and buffers are treated like a Module's own. A plain Tensor
    that it captures is a constant. With examples, the modules themselves are in eval mode while they are
    traced, which another thread that calls them uncompiled can see.

    Args:
        kwargs: keyword inputs of ``forward``.
        dynamic: which axes vary between calls: a ``Dim`` (axis 0 of every input), ``{axis: Dim}`` or
            ``{input: {axis: Dim}}``; True leaves axis 0 free without a bound.
        threads: default: what affinity and cgroup grant.
        precision: ``"float32"`` (default), ``"float32-fast"`` or ``"bfloat16"``: how exact kernels have to be; see
            ``driver.Options``.
        target: ``"host"`` (default), ``"x86-64"``, ``"x86-64-avx2"``, ``"x86-64-avx512"``,
            ``"x86-64-amx"``, ``"aarch64"``, or ``"x86-64-amx-emulated"``: matrix tiles on any CPU with AVX2, slowly.
        options: ``cache``, ``disable``, ``dump``, ``verify``, ``progress``, ``debug``, ``tune`` (seconds to measure
            other schedules), ``tune_file`` as in ``driver.Options``.

    Raises:
        UnsupportedError: something cannot be traced or compiled; everything is listed.
        DataDependentError: ``forward`` branches on data or on a dynamic size.
    """
    settings = make_options(threads=threads, precision=precision, target=target, **options)
    if not examples and not kwargs:
        if dynamic is not None:
            raise ValueError("dynamic needs examples; a live module compiles per input signature")
        return LiveModule(model, settings, build)
    report = Report()
    with report.stage("trace"):
        found = trace_inference(model, examples, kwargs, dynamic)
    program = build(found.graph, settings, report)
    return CompiledModule(program, found.in_spec, found.out_spec, threads=threads, report=report, model=model)


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
    ``optimizer.param_groups`` are read at every call. Modules that ``loss_fn`` calls are followed too; a plain Tensor
    that it captures is a constant: pass it as an input.
    """
    from .training import TrainingStep

    settings = make_options(threads=threads, precision=precision, target=target, **options)
    return TrainingStep(model, loss_fn, optimizer, settings, build)


def load_executable(path: str | Path, *, threads: int | None = None, verify: bool = False) -> CompiledModule:
    """Load an ``.ingot`` file; ``verify`` checks the weight blocks now instead of at first use.

    Raises ArtifactError if the file is damaged, of another version or for another CPU.
    """
    from .runtime import artifact

    program = artifact.load(path, verify=verify)
    try:
        in_spec = Spec.from_json(program.metadata["in_spec"])
        out_spec = Spec.from_json(program.metadata["out_spec"])
        fits = (in_spec.num_leaves, out_spec.num_leaves) == (len(program.inputs), len(program.outputs))
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ArtifactError(f"{path}: the structure of inputs and results is missing or damaged; compile again")
    return CompiledModule(program, in_spec, out_spec, threads=threads)
