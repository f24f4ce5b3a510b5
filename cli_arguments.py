"""What the commands share: the model, its inputs and options, as given on the command line."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .ir.errors import IngotError

PRECISIONS = ("float32", "float32-fast", "bfloat16")
TARGETS = (
    "host", "x86-64", "x86-64-avx2", "x86-64-avx512", "x86-64-amx", "x86-64-amx-emulated", "aarch64",
)  # fmt: skip


class ModelError(click.ClickException):
    """The user's own code raised: its traceback, from the user's first line on, and exit code 1."""

    exit_code = 1

    def __init__(self, what: str, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        first = next((i for i, f in enumerate(frames) if _is_users(f)), len(frames))
        lines = traceback.format_list(frames[first:]) + traceback.format_exception_only(error)
        super().__init__("".join(lines) + f"{what} raised {type(error).__name__} (above)")

    def show(self, file: Any = None) -> None:
        click.echo(f"ingot: error: {self.message}", err=True, file=file)


def _is_users(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith((str(Path(__file__).parent) + "/", "<frozen importlib"))


def load_model(spec: str) -> Any:
    """The model of ``pkg.module:factory`` or ``file.py:factory``: a Module, a callable without arguments that makes
    one, or a function on tensors. ``factory`` may be dotted."""
    from .frontend.nn import Module

    found = find_object(spec)
    if isinstance(found, Module):
        return found
    if not callable(found):
        raise click.BadParameter(f"{spec} is a {type(found).__name__}, not a module or callable", param_hint="MODEL")
    if takes_arguments(found):
        return found  # a function on tensors
    try:
        model = found()
    except IngotError:
        raise
    except Exception as error:
        raise ModelError(spec, error) from None
    if not callable(model):
        raise click.BadParameter(f"{spec} made a {type(model).__name__}, not a module", param_hint="MODEL")
    return model


def find_object(spec: str) -> Any:
    """What ``pkg.module:name`` or ``file.py:name`` names."""
    import importlib
    import operator

    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise click.BadParameter(f"{spec!r} is not MODULE:FACTORY or FILE.py:FACTORY", param_hint="MODEL")
    try:
        if place.endswith(".py"):
            module = load_file(place)
        else:
            sys.path.insert(0, "")
            module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise click.BadParameter(str(error), param_hint="MODEL") from None
        raise ModelError(place, error) from None
    except (click.ClickException, IngotError):
        raise
    except Exception as error:
        raise ModelError(place, error) from None
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        raise click.BadParameter(f"{place} has no {name!r}", param_hint="MODEL") from None


def takes_arguments(found: Any) -> bool:
    """Whether ``found`` is a function that cannot be called without arguments."""
    import inspect

    return inspect.isfunction(found) and any(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in inspect.signature(found).parameters.values()
    )


def load_file(place: str) -> Any:
    """The module in the file ``place``."""
    import importlib.util

    path = Path(place).resolve()
    if not path.is_file():
        raise click.BadParameter(f"there is no file {place}", param_hint="MODEL")
    name = path.stem if path.stem not in sys.modules else f"{path.stem}__model"  # json.py must not replace json
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def parse_inputs(inputs: Sequence[str], dims: Sequence[str]) -> list[tuple[str, Any]]:
    """(name or "", InputSpec) per ``--input [NAME:]2x3xN[:DTYPE]``; names in shapes are Dims described by ``--dim``."""
    from .frontend.tracing import InputSpec
    from .ir.dims import Dim
    from .ir.dtypes import ALL

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
    dtypes = {d.name: d for d in ALL}
    declared, used, out = set(known), set(), []
    for text in inputs:
        parts = text.split(":")
        dtype = parts.pop() if len(parts) == 3 or (len(parts) == 2 and parts[1] in dtypes) else "float32"
        name = parts.pop(0) if len(parts) == 2 else ""
        if len(parts) != 1 or (name and not name.isidentifier()):
            raise click.BadParameter(f"{text!r} is not [NAME:]SHAPE[:DTYPE], such as x:1x3x32x32", param_hint="--input")
        if dtype not in dtypes:
            raise click.BadParameter(f"no dtype {dtype!r}; there are {', '.join(dtypes)}", param_hint="--input")
        extents = [] if parts[0] == "scalar" else [_extent(e, text, known) for e in parts[0].split("x")]
        used |= {e.name for e in extents if isinstance(e, Dim)}
        out.append((name, InputSpec(tuple(extents), dtypes[dtype])))
    if declared - used:
        raise click.BadParameter(f"no input has an extent {', '.join(sorted(declared - used))}", param_hint="--dim")
    names = [name for name, _ in out if name]
    if len(set(names)) != len(names):
        raise click.BadParameter(f"two inputs have one name: {', '.join(names)}", param_hint="--input")
    return out


def _extent(text: str, where: str, known: dict[str, Any]) -> Any:
    from .ir.dims import Dim

    if text.isdecimal():
        return int(text)
    if not text.isidentifier():
        raise click.BadParameter(f"{text!r} in {where!r} is neither a number nor a name", param_hint="--input")
    return known.setdefault(text, Dim(text))


def model_options(fn: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.argument("model"),
            click.option("--input", "-i", "inputs", multiple=True, metavar="[NAME:]SHAPE[:DTYPE]",
                         help="One input in order, e.g. x:1x3x32x32 or x:Nx3x32x32:float32."),
            click.option("--dim", "dims", multiple=True, metavar="NAME=MIN..MAX", help="Range of a symbolic extent."),
            click.option("--weights", type=click.Path(exists=True, dir_okay=False),
                         help="Checkpoint (.pt, .pth, .th, .safetensors) to load into the model first."),
            click.option("--target", type=click.Choice(TARGETS), default="host", show_default=True,
                         help="CPU to compile for."),
            click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True,
                         help="How exact kernels have to be."),
            click.option("--threads", type=click.IntRange(1), help="Threads at run time."),
            click.option("--disable-pass", "disable", multiple=True, metavar="PASS", help="Leave a pass out."),
            click.option("--no-cache", is_flag=True, help="Do not use the kernel cache."),
        ]
    ):  # fmt: skip
        fn = option(fn)
    return fn


def tune_options(fn: Callable[..., Any]) -> Callable[..., Any]:
    """For the commands that may use measured schedules."""
    fn = click.option("--tune-file", type=click.Path(dir_okay=False), metavar="FILE",
                      help="Where findings are read and kept (default: beside the kernel cache).")(fn)  # fmt: skip
    return click.option("--tune", type=click.FloatRange(0), metavar="SECONDS",
                        help="Measure other schedules for so long; 0: only use what was found before.")(fn)  # fmt: skip


class Request:
    """The common arguments of the commands that take a model."""

    def __init__(self, model: str, inputs: Sequence[str], dims: Sequence[str], weights: str | None,
                 target: str | None, precision: str, threads: int | None, disable: Sequence[str],
                 no_cache: bool, tune: float | None = None, tune_file: str | None = None) -> None:  # fmt: skip
        from .driver import input_names

        if not inputs:
            raise click.UsageError("Missing option '--input' / '-i'.")
        specs = parse_inputs(inputs, dims)
        self.model = load_model(model)
        if weights is not None:
            load_weights(self.model, weights)
        # Inputs that are named as in forward may come in any order.
        order = {name: i for i, name in enumerate(input_names(self.model))}
        if all(name in order for name, _ in specs) and {order[n] for n, _ in specs} == set(range(len(specs))):
            specs.sort(key=lambda s: order[s[0]])
        self.names = [name for name, _ in specs]
        self.specs = [spec for _, spec in specs]
        self.settings: dict[str, Any] = {
            "target": target,
            "precision": precision,
            "threads": threads,
            "disable": tuple(disable),
            "cache": not no_cache,
            "tune": tune,
            "tune_file": tune_file,
        }

    def options(self, **more: Any) -> Any:
        from .driver import Options

        options = Options(**self.settings, **more)
        try:
            options.resolve_target()
        except ValueError as error:  # INGOT_TARGET, or a machine that Ingot does not know
            raise click.ClickException(str(error)) from None
        return options

    def trace(self) -> Any:
        from .driver import trace_inference

        try:
            found = trace_inference(self.model, self.specs)
        except IngotError as error:
            users = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if _is_users(f)]
            if users and users[-1] not in str(error):
                error.add_note(f"at {users[-1]}")
            raise
        except Exception as error:
            raise ModelError("the model", error) from None
        for value, name in zip(found.graph.inputs, self.names, strict=True):
            if name and value.name != name:
                value.name = found.graph.unique_name(name)
        return found

    def compile(self, progress: Callable[[int, int, str], None] | None = None) -> Any:
        from .compiled import CompiledModule
        from .driver import Report, build

        report = Report()
        with report.stage("trace"):
            found = self.trace()
        program = build(found.graph, self.options(progress=progress), report)
        threads = self.settings["threads"]
        return CompiledModule(program, found.in_spec, found.out_spec, threads=threads, report=report)

    def examples(self, seed: int = 0, extent: int | None = None) -> list[Any]:
        return random_inputs([s.type for s in self.specs], seed, extent)


def load_artifact(path: str, threads: int | None) -> Any:
    """The executable in a .ingot file; options that only a compilation can follow are refused."""
    from click.core import ParameterSource

    from .driver import load_executable

    context = click.get_current_context()
    for name in ("inputs", "dims", "weights", "target", "precision", "disable", "no_cache", "tune", "tune_file"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            raise click.UsageError(f"{option} is for models that are compiled; {path} is compiled already")
    if not Path(path).is_file():
        raise click.BadParameter(f"there is no file {path}", param_hint="MODEL")
    return load_executable(path, threads=threads)


def random_inputs(types: Sequence[Any], seed: int, extent: int | None = None) -> list[Any]:
    """Normal floats; zeros and ones for integers. Symbolic extents get ``extent``, or their least value."""
    import numpy as np

    from .ir.dims import evaluate, symbols

    rng = np.random.default_rng(seed)
    env = {d.name: max(d.min, 1) if extent is None else extent for t in types for d in symbols(t.shape)}
    out = []
    for t in types:
        shape = tuple(evaluate(e, env) for e in t.shape)
        numbers = rng.standard_normal(shape) if t.dtype.kind == "f" else rng.integers(0, 2, shape)
        out.append(np.asarray(numbers).astype(t.dtype.numpy))
    return out


def load_weights(model: Any, path: str) -> None:
    """Load a checkpoint: a state dict, bare or under ``state_dict`` or ``model``, with or without ``module.``."""
    from collections.abc import Mapping

    from .frontend.serialization import load

    data = load(path)
    for key in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
            break
    if not isinstance(data, Mapping) or not hasattr(model, "load_state_dict"):
        raise click.ClickException(f"{path} holds no state dict, or the model takes none")
    try:
        model.load_state_dict({str(k).removeprefix("module."): v for k, v in data.items()})
    except (RuntimeError, TypeError) as error:  # PyTorch's exception for missing keys and other shapes
        raise click.ClickException(f"{path}: {error}") from None
