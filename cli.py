"""The command line: ``ingot compile | run | inspect | check | export | bench``.

Exit codes: 0 success, 1 an error in the user's model, data or files (one message on stderr), 2 wrong usage,
3 a check failed, 70 an internal error (with a reproducer where a pass failed), 130 interrupted.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

EXIT_USER, EXIT_CHECK, EXIT_INTERNAL, EXIT_INTERRUPTED = 1, 3, 70, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ingot")
def cli() -> None:
    """Compile neural networks written in PyTorch's style to native code."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs the command and turns exceptions into messages and exit codes."""
    from .ir.errors import CheckError, IngotError, PassError, VerifyError

    try:
        code = cli.main(args=None if argv is None else list(argv), prog_name="ingot", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _fail("interrupted", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CheckError as error:
        _fail(str(error), EXIT_CHECK)
    except (PassError, VerifyError) as error:
        _fail(f"internal error: {error}", EXIT_INTERNAL)
    except IngotError as error:
        _fail(str(error), EXIT_USER)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_USER)
    except OSError as error:
        _fail(str(error), EXIT_USER)
    except Exception:
        traceback.print_exc()
        _fail("internal error (above); please report it with the command line", EXIT_INTERNAL)


def _fail(message: str, code: int) -> None:
    click.echo(f"ingot: error: {message}", err=True)
    sys.exit(code)


# -- arguments ----------------------------------------------------------------------------------------
_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*):)?(?P<shape>[\w]+(?:x[\w]+)*|scalar)(?::(?P<dtype>\w+))?$")


def load_model(spec: str) -> Any:
    """The model of ``pkg.module:factory`` or ``file.py:factory`` (a Module, or a callable that makes one)."""
    import importlib
    import importlib.util

    from .frontend.nn import Module

    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise click.BadParameter(f"{spec!r} is not MODULE:FACTORY or FILE.py:FACTORY", param_hint="MODEL")
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.is_file():
            raise click.BadParameter(f"there is no file {place}", param_hint="MODEL")
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        assert module_spec is not None and module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules.setdefault(path.stem, module)
        sys.path.insert(0, str(path.parent))
        module_spec.loader.exec_module(module)
    else:
        sys.path.insert(0, "")
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise click.BadParameter(str(error), param_hint="MODEL") from None
    found = getattr(module, name, None)
    if found is None:
        raise click.BadParameter(f"{place} has no {name!r}", param_hint="MODEL")
    model = found if isinstance(found, Module) else found()
    if not callable(model):
        raise click.BadParameter(f"{spec} gave a {type(model).__name__}, not a module", param_hint="MODEL")
    return model


def parse_inputs(inputs: Sequence[str], dims: Sequence[str]) -> list[tuple[str, Any]]:
    """(name, InputSpec) per ``--input NAME:2x3xN[:dtype]``; letters are Dims described by ``--dim N=1..64``."""
    from .frontend.tracing import InputSpec
    from .ir.dims import Dim
    from .ir.dtypes import dtype_from_name

    known: dict[str, Dim] = {}
    for text in dims:
        match = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)?\.\.(\d+)?", text)
        if match is None:
            raise click.BadParameter(f"{text!r} is not NAME=MIN..MAX", param_hint="--dim")
        name, low, high = match.groups()
        try:
            known[name] = Dim(name, int(low or 1), None if high is None else int(high))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--dim") from None
    out = []
    for i, text in enumerate(inputs):
        match = _INPUT.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"{text!r} is not [NAME:]2x3x4[:dtype]", param_hint="--input")
        extents = [] if match["shape"] == "scalar" else _extents(match["shape"], known)
        try:
            dtype = dtype_from_name(match["dtype"] or "float32")
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--input") from None
        out.append((match["name"] or f"input_{i}", InputSpec(tuple(extents), dtype)))
    return out


def _extents(text: str, known: dict[str, Any]) -> list[Any]:
    from .ir.dims import Dim

    out: list[Any] = []
    for part in text.split("x"):
        if part.isdigit():
            out.append(int(part))
        elif part in known:
            out.append(known[part])
        elif part.isidentifier():
            known[part] = Dim(part)
            out.append(known[part])
        else:
            raise click.BadParameter(f"{part!r} in {text!r} is neither a number nor a name", param_hint="--input")
    return out


def _model_options(fn: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.argument("model"),
            click.option("--input", "-i", "inputs", multiple=True, required=True, metavar="[NAME:]SHAPE[:DTYPE]",
                         help="One input in order, e.g. x:1x3x32x32 or x:Nx3x32x32:float32."),
            click.option("--dim", "dims", multiple=True, metavar="NAME=MIN..MAX", help="Range of a symbolic extent."),
            click.option("--weights", type=click.Path(exists=True, dir_okay=False),
                         help="Checkpoint (.pt, .pth, .th, .safetensors) to load into the model first."),
            click.option("--target", help="host (default), x86-64, x86-64-avx2, x86-64-avx512 or aarch64."),
            click.option("--threads", type=click.IntRange(1), help="Threads at run time."),
            click.option("--disable-pass", "disable", multiple=True, metavar="PASS", help="Leave a pass out."),
            click.option("--no-cache", is_flag=True, help="Do not use the kernel cache."),
        ]
    ):  # fmt: skip
        fn = option(fn)
    return fn


class _Request:
    """The common arguments of the commands that take a model."""

    def __init__(self, model: str, inputs: Sequence[str], dims: Sequence[str], weights: str | None,
                 target: str | None, threads: int | None, disable: Sequence[str], no_cache: bool) -> None:  # fmt: skip
        self.specs = parse_inputs(inputs, dims)
        self.model = load_model(model)
        if weights is not None:
            load_weights(self.model, weights)
        self.settings = {"target": target, "threads": threads, "disable": tuple(disable), "cache": not no_cache}

    def options(self, **more: Any) -> Any:
        from .driver import Options

        return Options(**self.settings, **more)

    def trace(self) -> Any:
        from .driver import trace_inference

        found = trace_inference(self.model, [s for _, s in self.specs])
        for value, (name, _) in zip(found.graph.inputs, self.specs, strict=False):
            if not name.startswith("input_"):
                value.name = found.graph.unique_name(name) if value.name != name else name
        return found

    def compile(self) -> Any:
        from .compiled import CompiledModule
        from .driver import Report, build, structure_metadata

        report = Report()
        with report.stage("trace"):
            found = self.trace()
        with _progress() as progress:
            program = build(found.graph, self.options(progress=progress), report, structure_metadata(found))
        return CompiledModule(
            program, found.in_spec, found.out_spec, threads=self.settings["threads"], report=report, graph=found.graph
        )

    def examples(self, seed: int = 0, extents: int | None = None) -> list[Any]:
        """Random arrays for the inputs; symbolic extents get ``extents`` or their least value."""
        return random_inputs([s.type for _, s in self.specs], seed, extents)


def random_inputs(types: Sequence[Any], seed: int, extents: int | None = None) -> list[Any]:
    """Normal floats, small non-negative integers."""
    import numpy as np

    from .ir.dims import evaluate, symbols

    rng = np.random.default_rng(seed)
    env = {d.name: extents or max(d.min, 1) for t in types for d in symbols(t.shape)}
    out = []
    for t in types:
        shape = tuple(evaluate(e, env) for e in t.shape)
        if t.dtype.kind == "f":
            out.append(rng.standard_normal(shape).astype(t.dtype.numpy))
        else:
            out.append(rng.integers(0, 2, shape).astype(t.dtype.numpy))
    return out


def load_weights(model: Any, path: str) -> None:
    """Load a checkpoint, a bare state dict or one under ``state_dict``/``model``, with or without ``module.``."""
    from .frontend.serialization import load

    data = load(path)
    for key in ("state_dict", "model"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
            break
    model.load_state_dict({k.removeprefix("module."): v for k, v in data.items()})


class _progress:
    """A progress bar on stderr once a compile has taken a second (terminals only)."""

    def __enter__(self) -> Callable[[int, int, str], None] | None:
        import time

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.bar: Any = None
        if not console.is_terminal:
            return None
        started = time.monotonic()
        bar = Progress(TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                       TextColumn("{task.description}"), console=console, transient=True)  # fmt: skip
        task = bar.add_task("", total=None)

        def report(done: int, total: int, what: str) -> None:
            if self.bar is None and time.monotonic() - started > 1.0:
                self.bar = bar
                bar.start()
            bar.update(task, completed=done, total=total, description=what[-60:])

        return report

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in ("source", "kernel") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(x) for x in row))
    Console().print(table)


# -- commands -----------------------------------------------------------------------------------------
@cli.command("compile")
@_model_options
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False), help="The .ingot file to write.")
@click.option("--dump", type=click.Path(file_okay=False), help="Folder for the text of every stage.")
def compile_command(output: str, dump: str | None, **arguments: Any) -> None:
    """Compile MODEL (pkg.module:factory or file.py:factory) to an .ingot file."""
    request = _Request(**arguments)
    if dump is not None:
        request.settings["dump"] = dump
    exe = request.compile()
    exe.save(output)
    report, memory = exe.report, exe.program.memory
    weights = sum(c.nbytes for c in exe.program.constants)
    click.echo(
        f"{output}: {len(exe.program.steps)} kernels ({report.compiled} compiled, {report.reused} from the cache), "
        f"weights {_bytes(weights)}, arena {_bytes(memory.arena)} (efficiency {memory.efficiency:.3f}), "
        f"{sum(report.seconds.values()):.2f} s, target {exe.program.target_name}"
    )


def _bytes(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


@cli.command("run")
@click.argument("artifact", type=click.Path(exists=True, dir_okay=False))
@click.option("--input", "-i", "inputs", multiple=True, metavar="FILE.npy", help="One .npy file per input, in order.")
@click.option("--output", "-o", type=click.Path(dir_okay=False),
              help="Write results to .npy (one result) or .npz; default: print a summary.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1))
@click.option("--verify", is_flag=True, help="Check the weight blocks before running.")
def run_command(artifact: str, inputs: Sequence[str], output: str | None, threads: int | None, verify: bool) -> None:
    """Run a compiled .ingot file on arrays."""
    import numpy as np

    from .driver import load_executable
    from .ir.errors import InputError

    exe = load_executable(artifact, threads=threads, verify=verify)
    arrays = []
    for path in inputs:
        name, _, file = path.rpartition("=")
        try:
            arrays.append(np.load(file, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise InputError(f"{file} is not a readable .npy file: {error}") from None
    ports = [p for p in exe.program.inputs if p.role == "input"]
    if len(arrays) != len(ports):
        expected = ", ".join(f"{p.name}: {p.type}" for p in ports)
        raise InputError(f"{len(arrays)} inputs given, the program takes {len(ports)}: {expected}")
    results = exe.executable.run([np.ascontiguousarray(a) for a in arrays])
    if output is None:
        for port, array in zip(exe.program.outputs, results, strict=True):
            click.echo(f"{port.name}: {array.dtype} {list(array.shape)}")
            click.echo(np.array2string(array, threshold=40, precision=6))
    elif output.endswith(".npz"):
        np.savez(output, **{p.name: a for p, a in zip(exe.program.outputs, results, strict=True)})
    elif len(results) == 1:
        np.save(output, results[0])
    else:
        raise InputError(f"{len(results)} results do not fit one .npy; use a .npz file")


STAGES = ("trace", "graph", "log", "kernels", "loops", "llvm", "asm", "memory")


@cli.command("inspect")
@_model_options
@click.option("--stage", default="graph", show_default=True, metavar="STAGE",
              help=f"{', '.join(STAGES)}, or the name of a pass (the graph after it).")  # fmt: skip
@click.option("--kernel", type=int, help="Only this kernel (number as in --stage kernels).")
def inspect_command(stage: str, kernel: int | None, **arguments: Any) -> None:
    """Print MODEL at any stage of compilation."""
    from .driver import optimise
    from .passes.manager import PassContext, PassManager
    from .passes.pipeline import standard

    request = _Request(**arguments)
    found = request.trace()
    names = [p.name for p in standard()]
    if stage not in STAGES and stage not in names:
        raise click.BadParameter(f"{stage!r}; stages: {', '.join(STAGES)}; passes: {', '.join(dict.fromkeys(names))}",
                                 param_hint="--stage")  # fmt: skip
    if stage == "trace":
        click.echo(str(found.graph))
        return
    options = request.options()
    if stage in names:
        from .codegen.library import NativeKernels

        target = options.resolve_target()
        upto = len(names) - names[::-1].index(stage)
        passes = [p for p in standard()[:upto] if p.name not in options.disable]
        PassManager(passes).run(found.graph, PassContext(target, NativeKernels(target)))
        click.echo(str(found.graph))
        return
    if stage in ("memory", "log"):
        exe = request.compile()
        if stage == "log":
            click.echo("\n".join(exe.report.log))
        else:
            _print_memory(exe)
        return
    optimise(found.graph, options)
    if stage == "graph":
        click.echo(str(found.graph))
        return
    _print_kernels(found.graph, options.resolve_target(), stage, kernel)


def _print_kernels(graph: Any, target: Any, stage: str, only: int | None) -> None:
    from .codegen.assemble import assembly_text
    from .codegen.llvm_emit import emit
    from .codegen.lower.table import lower
    from .passes.schedule_updates import is_alias

    nodes = [n for n in graph if n.op != "constant" and not is_alias(n)]
    for i, node in enumerate(nodes):
        if only is not None and i != only:
            continue
        lowered = lower(node, target)
        click.echo(f"; kernel {i}: {node!r} {node.source}\n; {lowered.schedule}")
        if stage == "loops":
            click.echo(str(lowered.function))
        elif stage in ("llvm", "asm"):
            text = emit(lowered.function)
            click.echo(text if stage == "llvm" else assembly_text(text, target))


def _print_memory(exe: Any) -> None:
    program = exe.program
    memory = program.memory
    rows = []
    for i, step in enumerate(program.steps):
        refs = " ".join(f"{r.kind}@{r.index}" if r.kind == "arena" else f"{r.kind}[{r.index}]" for r in step.buffers)
        rows.append((i, step.label, refs, step.scratch))
    _table("steps", ("#", "kernel", "buffers", "scratch"), rows)
    click.echo(
        f"arena {memory.arena} bytes, live peak {memory.lower_bound} (efficiency {memory.efficiency:.4f}), "
        f"sum of intermediates {memory.intermediates}"
    )


@cli.command("check")
@_model_options
@click.option("--seed", default=0, show_default=True)
@click.option("--extent", type=int, help="Value of symbolic extents (default: their least).")
def check_command(seed: int, extent: int | None, **arguments: Any) -> None:
    """Compare compiled MODEL with the NumPy oracle in float64, layer by layer."""
    from .checking import check_graph

    request = _Request(**arguments)
    found = request.trace()
    inputs = random_inputs([v.type for v in found.graph.inputs], seed, extent)
    rows: list[tuple[str, str, str, str]] = []

    def on_row(row: Any) -> None:
        rows.append((row.label, row.source, f"{row.error:.2e}", f"{row.bound:.2e}" + ("" if row.ok else "  DEPARTS")))

    try:
        result = check_graph(found.graph, inputs, request.options(), on_row)
    finally:
        _table("kernels against the float64 reference (largest error / largest element)",
               ("kernel", "source", "error", "bound"), rows)  # fmt: skip
    click.echo(
        f"{len(result.rows)} kernels agree; results: relative L2 error {result.worst_output:.2e} "
        f"against the float64 oracle (seed {seed})"
    )


@cli.command("export")
@_model_options
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False), help="The .onnx file to write.")
@click.option("--opset", type=int, help="ONNX opset version.")
def export_command(output: str, opset: int | None, **arguments: Any) -> None:
    """Export MODEL to ONNX."""
    from .export import export

    request = _Request(**arguments)
    names = [n for n, _ in request.specs]
    export(request.model, tuple(s for _, s in request.specs), output,
           input_names=None if any(n.startswith("input_") for n in names) else names,
           **({} if opset is None else {"opset_version": opset}))  # fmt: skip
    click.echo(f"{output}: {_bytes(Path(output).stat().st_size)}")


@cli.command("bench")
@_model_options
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure.")
@click.option("--extent", type=int, help="Value of symbolic extents (default: their least).")
@click.option("--kernels", is_flag=True, help="Also time every kernel.")
def bench_command(seconds: float, extent: int | None, kernels: bool, **arguments: Any) -> None:
    """Time compiled MODEL: latency percentiles and throughput."""
    import time

    import numpy as np

    request = _Request(**arguments)
    exe = request.compile()
    inputs = request.examples(extents=extent)
    executable = exe.executable
    outs = executable.run(inputs)
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times) < 5:
        start = time.perf_counter()
        executable.run_into(outs, inputs)
        times.append(time.perf_counter() - start)
    ms = np.sort(np.array(times)) * 1e3
    flops = sum(s.flops for s in exe.program.steps)
    _table(
        f"{exe.program.name}: {len(ms)} calls",
        ("compile s", "min ms", "median ms", "p90 ms", "GFLOP", "GFLOP/s"),
        [(f"{sum(exe.report.seconds.values()):.2f}", f"{ms[0]:.3f}", f"{np.median(ms):.3f}",
          f"{ms[int(len(ms) * 0.9)]:.3f}", f"{flops / 1e9:.3f}", f"{flops / np.median(ms) / 1e6:.1f}")],
    )  # fmt: skip
    if kernels:
        repeat = max(5, min(100, int(seconds * 500 / ms[0])))
        rows = [
            (i, s.label, f"{s.seconds * 1e6:.1f}", f"{s.flops / s.seconds / 1e9:.1f}", f"{s.bytes / s.seconds / 1e9:.1f}")
            for i, s in enumerate(executable.profile(inputs, repeat))
        ]
        _table("kernels", ("#", "kernel", "us", "GFLOP/s", "GB/s"), rows)


if __name__ == "__main__":
    main()
