"""One file that replays a failing pass: the graph before it as text, its constants, the pass and the target.

The file is Python that can be run, but ``replay`` never executes it: it reads the literals with ``ast`` and
imports nothing but this package.
Small arrays are stored exactly; larger ones as shape, dtype and statistics, and are made again from a
seed (non-negative data stays non-negative, so variances remain usable).
"""

from __future__ import annotations

import ast
import base64
import importlib
import json
import pprint
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.dtypes import dtype_from_name, dtype_from_numpy
from ..ir.errors import ParseError
from ..ir.graph import Graph
from ..ir.kernels import KernelLibrary
from ..ir.parser import parse_graph
from ..ir.printer import collect_constants, print_graph
from ..ir.target import Target
from ..ir.verifier import verify

if TYPE_CHECKING:
    from .manager import Pass, PassContext

EXACT_BYTES = 4096  # arrays up to this size are stored as they are


def write_reproducer(
    directory: Path, failed: Pass, before: Sequence[str], graph: Graph, ctx: PassContext, error: Exception
) -> Path:
    """Write the file for ``graph`` as it was before ``failed`` ran; returns its path."""
    constants = {name: _encode(array, seed) for seed, (name, array) in enumerate(collect_constants(graph).items())}
    info = {
        "error": f"{type(error).__name__}: {error}",
        "pass": failed.name,
        "class": f"{type(failed).__module__}:{type(failed).__qualname__}",
        "passes_before": list(before),
        "target": asdict(ctx.target) if ctx.target is not None else None,
        "kernels": type(ctx.kernels).__qualname__ if ctx.kernels is not None else None,
        "options": {k: v for k, v in ctx.options.items() if _is_plain(v)},
    }
    text = (
        '"""Replays a failing compiler pass: `python <this file>`, or `ingot.passes.manager.replay(path)`."""\n\n'
        f"INFO = {pprint.pformat(info, width=110, sort_dicts=False)}\n\n"
        f"CONSTANTS = {pprint.pformat(constants, width=110, sort_dicts=False)}\n\n"
        f"GRAPH = {_literal_lines(print_graph(graph))}\n\n"
        'if __name__ == "__main__":\n'
        "    from ingot.passes.manager import replay\n\n"
        '    print("the pass did not fail; the graph after it is", replay(__file__), sep="\\n")\n'
    )
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:  # "x" mode: two processes failing at once must not overwrite each other's file
        path = directory / (f"reproduce-{failed.name}.py" if not number else f"reproduce-{failed.name}-{number}.py")
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:
            number += 1


def replay(path: str | Path, *, kernels: KernelLibrary | None = None, failing: Pass | None = None) -> Graph:
    """Rebuild the graph of a reproducer and run the failing pass on it, then verify.

    Args:
        path: file written by the pass manager.
        kernels: kernel library to hand to the pass, if the original run had one (INFO says so).
        failing: run this pass instead (to bisect, or when the class takes arguments or is not of this package).

    Returns the graph after the pass, if it no longer fails; otherwise the pass's own exception comes through.
    ParseError if the file is no reproducer.
    """
    from .manager import Pass, PassContext

    info, constants, text = _read(Path(path))
    graph = parse_graph(text, {name: _decode(entry) for name, entry in constants.items()})
    verify(graph)
    target = None
    if info["target"] is not None:
        fields = dict(info["target"])
        fields["features"] = tuple(fields.get("features", ()))
        target = Target(**fields)
    if failing is None:
        module, _, qualname = info["class"].partition(":")
        found: Any = None
        if module.startswith(__package__ + "."):
            found = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part, None)
        if not (isinstance(found, type) and issubclass(found, Pass)):
            raise ParseError(f"{path}: {info['class']} is not a pass class of {__package__}; give one as failing")
        try:
            failing = found()
        except TypeError as error:
            raise ParseError(f"{path}: {info['class']} needs arguments ({error}); give one as failing") from error
    ctx = PassContext(target=target, kernels=kernels, options=dict(info["options"]), pass_name=failing.name)
    failing.run(graph, ctx)
    verify(graph)
    return graph


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        return found["INFO"], found["CONSTANTS"], found["GRAPH"]
    except (SyntaxError, ValueError, KeyError) as error:
        raise ParseError(f"{path} is not a pass reproducer: {error}") from error


def _encode(array: np.ndarray, seed: int) -> dict[str, Any]:
    dtype = dtype_from_numpy(array.dtype)
    entry: dict[str, Any] = {"dtype": dtype.name, "shape": [int(e) for e in array.shape]}
    if array.nbytes <= EXACT_BYTES:
        entry["base64"] = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
        return entry
    wide = array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    if not finite.size:
        finite = np.zeros(1)
    stats = {"mean": finite.mean(), "std": finite.std(), "low": finite.min(), "high": finite.max()}
    return entry | {"seed": seed} | {k: float(v) for k, v in stats.items()}


def _decode(entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = dtype_from_name(entry["dtype"]), tuple(entry["shape"])
    if "base64" in entry:
        return np.frombuffer(base64.b64decode(entry["base64"]), dtype.numpy).reshape(shape)
    rng = np.random.default_rng(entry["seed"])
    values = np.clip(rng.normal(entry["mean"], entry["std"], shape), entry["low"], entry["high"])
    if not dtype.is_floating_point:
        values = np.rint(values)
    return values.astype(dtype.numpy)


def _is_plain(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def _literal_lines(text: str) -> str:
    return "(\n" + "".join(f"    {line!r}\n" for line in text.splitlines(keepends=True)) + ")"
