"""The command line: ``ingot compile | run | inspect | check | export | profile | bench``.

Exit codes: 0 success, 1 an error in the user's model, data or files (a message on stderr), 2 wrong usage, 3 a check
failed, 70 an internal error (with a reproducer where a pass or kernel failed), 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .cli_arguments import Request, load_artifact, model_options, random_inputs, tune_options

EXIT_USER, EXIT_CHECK, EXIT_INTERNAL, EXIT_INTERRUPTED = 1, 3, 70, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ingot")
def cli() -> None:
    """Compile neural networks written in PyTorch's style to native code."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs the command and turns exceptions into messages and exit codes."""
    from .ir.errors import CheckError, IngotError, KernelError, PassError, VerifyError

    try:
        code = cli.main(args=None if argv is None else list(argv), prog_name="ingot", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click turns Ctrl-C into Abort
        sys.unraisablehook = lambda _: None  # LLVM objects that were half made complain when they are freed
        _fail("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CheckError as error:
        _fail(str(error), EXIT_CHECK)
    except (PassError, KernelError, VerifyError) as error:
        _fail(f"internal error: {error}", EXIT_INTERNAL)
    except (IngotError, OSError) as error:
        _fail("\n  ".join([str(error), *getattr(error, "__notes__", ())]), EXIT_USER)
    except Exception:
        traceback.print_exc()
        _fail("internal error (above); please report it with the command line", EXIT_INTERNAL)


def _fail(message: str, code: int) -> None:
    click.echo(f"ingot: error: {message}", err=True)
    sys.exit(code)


def _compile(request: Request) -> Any:
    with _progress() as progress:
        return request.compile(progress)


class _progress:
    """A progress bar on stderr once a compile has taken a second (terminals only)."""

    bar: Any = None

    def __enter__(self) -> Callable[[int, int, str], None] | None:
        if not sys.stderr.isatty():
            return None
        import time

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        started = time.monotonic()
        bar = Progress(TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                       TextColumn("{task.description}", markup=False), console=Console(stderr=True),
                       transient=True)  # fmt: skip
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
    from rich.table import Table
    from rich.text import Text

    click.echo(title)
    table = Table()
    for i, column in enumerate(columns):
        left = i == 0 or column in ("source", "kernel", "pass", "buffers")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(x)) for x in row))
    _console().print(table)


def _writable(output: str) -> None:
    """Refuses a path that cannot be written before the work is done."""
    import os

    folder = Path(output).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} for {output}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to the folder {folder}")


# -- commands -----------------------------------------------------------------------------------------
@cli.command("compile")
@model_options
@tune_options
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False), help="The .ingot file to write.")
@click.option("--dump", type=click.Path(file_okay=False), help="Folder for the text of every stage.")
def compile_command(output: str, dump: str | None, **arguments: Any) -> None:
    """Compile MODEL (pkg.module:factory or file.py:factory) to an .ingot file."""
    _writable(output)
    request = Request(**arguments)
    request.settings["dump"] = dump
    exe = _compile(request)
    exe.save(output)
    report, memory = exe.report, exe.program.memory
    weights = sum(c.nbytes for c in exe.program.constants)
    tuned = f", {report.tuned} tuned" if arguments["tune"] is not None or arguments["tune_file"] is not None else ""
    click.echo(
        f"{output}: {len(exe.program.steps)} kernels ({report.compiled} compiled, {report.reused} from the cache"
        f"{tuned}), weights {_bytes(weights)}, arena {_bytes(memory.arena)} (efficiency {memory.efficiency:.3f}), "
        f"{sum(report.seconds.values()):.2f} s, target {exe.program.target_name}"
    )


def _bytes(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


@cli.command("run")
@click.argument("artifact", type=click.Path(exists=True, dir_okay=False))
@click.option("--input", "-i", "inputs", multiple=True, metavar="[NAME=]FILE.npy",
              help="One .npy file per input, in order or by name.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(dir_okay=False),
              help="Write results to .npy (one result) or .npz; default: print them shortened.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads to use.")
@click.option("--verify", is_flag=True, help="Check the weight blocks before running.")
def run_command(artifact: str, inputs: Sequence[str], output: str | None, threads: int | None, verify: bool) -> None:
    """Run a compiled .ingot file on arrays."""
    import numpy as np

    from .driver import load_executable
    from .ir.errors import InputError

    if output is not None:
        _writable(output)
        if not output.endswith((".npy", ".npz")):
            raise click.BadParameter(f"{output} is neither .npy nor .npz", param_hint="--output")
    exe = load_executable(artifact, threads=threads, verify=verify)
    names = [p.name for p in exe.program.outputs]
    if output is not None and output.endswith(".npy") and len(names) != 1:
        raise InputError(f"{len(names)} results do not fit one .npy; use a .npz file")
    ports = {p.name: p for p in exe.program.inputs}
    given: dict[str, Any] = {}
    for text in inputs:
        name, _, file = text.partition("=")
        if name not in ports or not file:
            name, file = next((n for n in ports if n not in given), ""), text
        if not name or name in given:
            expected = ", ".join(f"{p.name}: {p.type}" for p in ports.values())
            raise InputError(f"{text}: an input too many; the program takes {len(ports)}: {expected}")
        try:
            given[name] = np.ascontiguousarray(loaded) if (loaded := _load_array(file)).ndim else loaded
        except (ValueError, EOFError) as error:
            raise InputError(f"{file} is not a readable .npy file: {error}") from None
    missing = [f"{p.name}: {p.type}" for p in ports.values() if p.name not in given]
    if missing:
        raise InputError(f"inputs are missing: {', '.join(missing)}")
    arrays = [given[name] for name in ports]
    results = exe.executable.run(arrays)
    if output is None:
        for name, array in zip(names, results, strict=True):
            click.echo(f"{name}: {array.dtype} {list(array.shape)}")
            click.echo(np.array2string(array, threshold=40, precision=6))
    elif output.endswith(".npz"):
        arrays_by_name: dict[str, Any] = dict(zip(names, results, strict=True))
        np.savez(output, **arrays_by_name)
    else:
        np.save(output, results[0])


def _load_array(file: str) -> Any:
    import numpy as np

    loaded = np.load(file, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise ValueError("it is an .npz archive; give its arrays as .npy files")
    return loaded


STAGES = ("trace", "graph", "passes", "log", "kernels", "loops", "llvm", "asm", "memory")


@cli.command("inspect")
@model_options
@tune_options
@click.option("--stage", default="graph", show_default=True, metavar="STAGE",
              help=f"{', '.join(STAGES)}, or the name of a pass (the graph after it).")  # fmt: skip
@click.option("--kernel", type=click.IntRange(0), help="Only this kernel (number as in --stage kernels).")
def inspect_command(stage: str, kernel: int | None, **arguments: Any) -> None:
    """Print MODEL at any stage of compilation.

    trace: the recorded graph. graph: after all passes. passes: what each pass did. log: rewrites, and refusals with
    their reason. kernels: one line per kernel; loops, llvm, asm: its code. memory: the plan of the arena.
    """
    from .driver import Report, optimise
    from .passes.pipeline import standard

    names = [name for p in standard() for name in p.names()]
    if stage not in STAGES and stage not in names:
        raise click.BadParameter(f"{stage!r}; stages: {', '.join(STAGES)}; passes: {', '.join(dict.fromkeys(names))}",
                                 param_hint="--stage")  # fmt: skip
    request = Request(**arguments)
    if request.settings["tune"]:
        raise click.UsageError("inspect measures nothing: --tune 0 shows what \"ingot compile --tune\" found")
    if stage == "memory":
        _print_memory(_compile(request).program)
        return
    graph = request.trace().graph
    if stage == "trace":
        click.echo(str(graph))
        return
    options, report = request.options(), Report()
    if stage not in STAGES:
        _print_after(graph, stage, options)
        return
    optimise(graph, options, report)
    if stage == "graph":
        click.echo(str(graph))
    elif stage == "log":
        click.echo("\n".join(report.log))
    elif stage == "passes":
        rows = [(r.name, r.rewrites, r.nodes_before, r.nodes_after, f"{r.seconds * 1e3:.2f}") for r in report.passes]
        _table("passes", ("pass", "rewrites", "nodes before", "after", "ms"), rows)
    else:
        _print_kernels(graph, options, stage, kernel)


def _print_after(graph: Any, name: str, options: Any) -> None:
    """The graph after the last pass called ``name``."""
    from .passes.manager import PassContext, PassManager
    from .passes.pipeline import standard

    kernels = options.kernels()
    passes = standard()
    last = max(i for i, p in enumerate(passes) if name in p.names())
    disabled = set(options.disable) & {n for p in passes[: last + 1] for n in p.names()}
    PassManager(passes[: last + 1], disabled=disabled).run(graph, PassContext(kernels.target, kernels))
    click.echo(str(graph))


def _print_kernels(graph: Any, options: Any, stage: str, only: int | None) -> None:
    from .codegen.assemble import assembly_text
    from .codegen.llvm_emit import emit
    from .codegen.lower.table import lower
    from .program import kernel_nodes

    nodes, outputs, compiler = kernel_nodes(graph), graph.output_set(), options.compiler()
    if only is not None and only >= len(nodes):
        raise click.BadParameter(f"{only}; there are {len(nodes)} kernels", param_hint="--kernel")
    for i, node in enumerate(nodes):
        if only is not None and i != only:
            continue
        schedule, finding = compiler.found(node, outputs)
        lowered = lower(node, compiler.target, schedule)
        click.echo(f"; kernel {i}: {node!r} {node.source}\n; {lowered.schedule}" + (f"; {finding}" if finding else ""))
        if stage == "loops":
            click.echo(str(lowered.function))
        elif stage in ("llvm", "asm"):
            text = emit(lowered.function)
            click.echo(text if stage == "llvm" else assembly_text(text, compiler.target))


def _print_memory(program: Any) -> None:
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
@model_options
@tune_options
@click.option("--seed", default=0, show_default=True)
@click.option("--extent", type=int, help="Value of symbolic extents (default: their least).")
@click.option("--guard", is_flag=True, help="Also run it with every buffer between guard pages (slow, Linux only).")
def check_command(seed: int, extent: int | None, guard: bool, **arguments: Any) -> None:
    """Compare compiled MODEL with the NumPy oracle in float64, layer by layer."""
    from .checking import check_graph

    request = Request(**arguments)
    found = request.trace()
    inputs = request.examples(seed, extent)
    rows: list[tuple[str, str, str, str]] = []

    def on_row(row: Any) -> None:
        rows.append((row.label, row.source, f"{row.error:.2e}", f"{row.bound:.2e}" + ("" if row.ok else "  DEPARTS")))

    try:
        result = check_graph(found.graph, inputs, request.options(), on_row, guard=guard)
    finally:
        if rows:
            _table("kernels against the float64 reference (largest error / largest element)",
                   ("kernel", "source", "error", "bound"), rows)  # fmt: skip
    click.echo(
        f"{len(result.rows)} kernels agree; results: relative L2 error {result.worst_output:.2e} "
        f"against the float64 oracle (seed {seed})"
    )
    if guard:
        click.echo(f"{result.guarded} kernels keep to their buffers (guard pages at the end and at the start of each)")


@cli.command("export")
@model_options
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False), help="The .onnx file to write.")
@click.option("--opset", type=int, help="ONNX opset version.")
def export_command(output: str, opset: int | None, **arguments: Any) -> None:
    """Export MODEL to ONNX."""
    from .export import export
    from .ir.errors import IngotError

    _writable(output)
    request = Request(**arguments)
    more: dict[str, Any] = {} if opset is None else {"opset_version": opset}
    request.trace()  # the model's own errors, reported as such
    try:
        export(request.model, tuple(request.specs), output, input_names=request.names if all(request.names) else None,
               **more)  # fmt: skip
    except ValueError as error:
        if isinstance(error, IngotError):
            raise
        raise click.ClickException(str(error)) from None
    click.echo(f"{output}: {_bytes(Path(output).stat().st_size)}")


def _executable(model: str, extent: int | None, arguments: dict[str, Any]) -> tuple[Any, list[Any]]:
    """MODEL compiled, or loaded if it is a .ingot file, and random inputs for it."""
    if model.endswith(".ingot"):
        exe = load_artifact(model, arguments["threads"])
        return exe, random_inputs([p.type for p in exe.program.inputs], 0, extent)
    request = Request(model=model, **arguments)
    return _compile(request), request.examples(extent=extent)


def _console() -> Any:
    """For tables. Files and pipes have no width: lines stay whole there."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


@cli.command("profile")
@model_options
@tune_options
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure.")
@click.option("--extent", type=int, help="Value of symbolic extents (default: their least).")
@click.option("--sort", type=click.Choice(["order", "time"]), default="order", show_default=True,
              help="Kernels as they run, or the slowest first.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), help="Only the first so many kernels.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def profile_command(model: str, seconds: float, extent: int | None, sort: str, top: int | None, as_json: bool,
                    **arguments: Any) -> None:  # fmt: skip
    """Time every kernel of MODEL (or of a .ingot file) beside what this machine can do.

    Per kernel: source layers, operators, the schedule, median time, operations really done and their rate, bytes
    moved, and the share of the roofline: the least time that the multiply-add rate and the memory rates measured
    in the same run allow, over the time taken. "direct" counts the operations as if done without Winograd.
    """
    import json

    from .measure.profiling import profile

    exe, inputs = _executable(model, extent, arguments)
    found = profile(exe.executable, inputs, seconds)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    from .measure.tables import print_profile

    click.echo(f"{found.name}, {found.target}")
    print_profile(found, _console(), by_time=sort == "time", top=top)


@cli.command("bench")
@model_options
@tune_options
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure (each system).")
@click.option("--extent", type=int, help="Value of symbolic extents (default: their least).")
@click.option("--peers", is_flag=False, flag_value="all", metavar="[NAME,...]",
              help="Compare with onnxruntime, openvino, torch, torch.compile (default: all but the last).")
@click.option("--all-precisions", is_flag=True, help="With --peers: Ingot at every precision.")
@click.option("--torch-model", metavar="MODEL",
              help="With --peers: the PyTorch twin (default: MODEL's own file with PyTorch in place of ingot).")
@click.option("--no-errors", is_flag=True, help="With --peers: do not compute the float64 reference.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
def bench_command(model: str, seconds: float, extent: int | None, peers: str | None, all_precisions: bool,
                  torch_model: str | None, no_errors: bool, as_json: bool, **arguments: Any) -> None:  # fmt: skip
    """Time whole calls of MODEL (or of a .ingot file): latency percentiles and throughput.

    With --peers each system runs in a process of its own, and they take turns; onnxruntime and OpenVINO get the
    file that "ingot export" writes, also with malloc on huge pages. PyTorch runs the model's own file with PyTorch
    in place of ingot. Errors are relative L2 against the float64 interpreter.
    """
    if peers is not None:
        _bench_peers(model, seconds, extent, peers, all_precisions, torch_model, no_errors, as_json, arguments)
        return
    import json
    import time

    import numpy as np

    exe, inputs = _executable(model, extent, arguments)
    executable = exe.executable
    outs = executable.run(inputs)
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times) < 5:
        start = time.perf_counter()
        executable.run_into(outs, inputs)
        times.append(time.perf_counter() - start)
    low, median, high = (float(x) * 1e3 for x in np.percentile(times, (0, 50, 90)))
    # Work is counted at the upper bounds of symbolic extents, so nothing is known with those.
    flops = None if exe.program.symbols else sum(s.direct or s.flops for s in exe.program.steps)
    compile_seconds = None if exe.report is None else sum(exe.report.seconds.values())
    if as_json:
        click.echo(json.dumps({"calls": len(times), "min_ms": low, "median_ms": median, "p90_ms": high,
                               "flops": flops, "compile_seconds": compile_seconds}))  # fmt: skip
        return
    gflop = ("-", "-") if flops is None else (f"{flops / 1e9:.3g}", f"{flops / median / 1e6:.3g}")
    compiled = "-" if compile_seconds is None else f"{compile_seconds:.2f}"
    _table(
        f"{exe.program.name}: {len(times)} calls",
        ("compile s", "min ms", "median ms", "p90 ms", "GFLOP", "GFLOP/s"),
        [(compiled, f"{low:.3f}", f"{median:.3f}", f"{high:.3f}", *gflop)],
    )


def _bench_peers(
    model: str, seconds: float, extent: int | None, peers: str, all_precisions: bool, torch_model: str | None,
    no_errors: bool, as_json: bool, arguments: dict[str, Any],
) -> None:  # fmt: skip
    import json
    import tempfile

    from .measure import comparison, systems, tables
    from .runtime.cpu import default_threads

    if arguments["tune"]:
        raise click.UsageError('tune with "ingot compile --tune" first; with --peers, --tune 0 uses what it found')
    wanted = [p for p in systems.PEERS if p != "torch.compile"] if peers == "all" else peers.split(",")
    if unknown := set(wanted) - set(systems.PEERS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(systems.PEERS)}",
                                 param_hint="--peers")  # fmt: skip
    precisions = systems.PRECISIONS if all_precisions else (arguments["precision"],)
    columns = [*systems.ingot_systems(precisions), *systems.peer_systems(wanted)]
    request = Request(model=model, **arguments)
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        subject = comparison.prepare(request, model, Path(folder), threads=arguments["threads"] or default_threads(),
                                     extent=extent, twin=torch_model, oracle=not no_errors)  # fmt: skip
        show = (lambda text: click.echo(text, err=True)) if sys.stderr.isatty() else (lambda text: None)
        results = comparison.compare(subject, columns, seconds=seconds, report=show)
    if as_json:
        click.echo(json.dumps(results, indent=1))
        return
    click.echo(f"{model} with {subject.threads} threads, {', '.join(subject.arguments['inputs'])}")
    tables.print_comparison(results, columns, _console())


if __name__ == "__main__":
    main()
