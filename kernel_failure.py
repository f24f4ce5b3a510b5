"""When code generation fails for one kernel: an error that says for what, and a file that repeats it."""

from __future__ import annotations

import base64
import pprint
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .ir.dtypes import dtype_from_name, dtype_from_numpy
from .ir.errors import KernelError, UnsupportedError
from .ir.graph import Graph, Node, Value
from .ir.parser import parse_graph
from .ir.printer import collect_constants, print_graph
from .ir.target import Target
from .program import EMPTY, KernelCompiler, KernelRecord, NoSchedule
from .runtime.cache import KernelCache
from .runtime.findings import Finding


class ReportingCompiler(KernelCompiler):
    """Raises KernelError instead of whatever code generation raises."""

    def __init__(
        self, target: Target, cache: KernelCache | None, reproducer_dir: Path, findings: Mapping[str, Finding] = EMPTY
    ) -> None:
        super().__init__(target, cache, findings)
        self.reproducer_dir = reproducer_dir

    def _build(self, key: str, node: Node, schedule: str = "") -> KernelRecord:
        try:
            return super()._build(key, node, schedule)
        except (UnsupportedError, NoSchedule):
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            try:
                note = f"reproducer: {write_reproducer(self.reproducer_dir, node, self.target, cause)}"
            except Exception as trouble:  # the failure itself must reach the user whatever happens here
                note = f"the reproducer could not be written: {type(trouble).__name__}: {trouble}"
            place = f" of {node.source}" if str(node.source) else ""
            raise KernelError(f"no code for {node!r}{place}: {cause}\n  {note}") from error


def single_node_graph(node: Node) -> Graph:
    """A graph that applies ``node`` to its operands as inputs."""
    graph = Graph(f"only_{node.op}")
    inputs: dict[Value, Value] = {}
    for v in node.inputs:
        if v not in inputs:
            inputs[v] = graph.add_input(v.type, v.name)
    copy = graph.create(
        node.op, [inputs[v] for v in node.inputs], node.attrs, [o.type for o in node.outputs],
        names=[o.name for o in node.outputs], source=node.source, regions=[r.clone()[0] for r in node.regions],
    )  # fmt: skip
    for out in copy.outputs:
        graph.add_output(out)
    return graph


def write_reproducer(directory: Path, node: Node, target: Target, error: str) -> Path:
    """Write a Python file that compiles ``node`` for ``target`` again; returns its path."""
    graph = single_node_graph(node)
    constants = {
        name: (dtype_from_numpy(a.dtype).name, a.shape, base64.b64encode(np.ascontiguousarray(a).tobytes()).decode())
        for name, a in collect_constants(graph).items()
    }
    lines = "".join(f"    {line!r}\n" for line in print_graph(graph).splitlines(keepends=True))
    text = (
        f'"""Repeats a failure of code generation: `python <this file>`."""\n\nERROR = {error!r}\n\n'
        f"TARGET = {pprint.pformat(asdict(target), width=110, sort_dicts=False)}\n\n"
        f"CONSTANTS = {pprint.pformat(constants, width=110)}\n\n"
        f"GRAPH = (\n{lines})\n\n"
        'if __name__ == "__main__":\n'
        "    from ingot.kernel_failure import replay\n\n"
        "    replay(GRAPH, CONSTANTS, TARGET)\n"
        '    print("code generation did not fail")\n'
    )
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:  # "x" mode: processes that fail at once must not overwrite each other's file
        path = directory / f"reproduce-kernel-{node.op}{f'-{number}' if number else ''}.py"
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:
            number += 1


def replay(graph: str, constants: Mapping[str, tuple[str, tuple[int, ...], str]], target: Mapping[str, Any]) -> None:
    """Generate code for the node of a reproducer; the failure's own exception comes through."""
    arrays = {
        name: np.frombuffer(base64.b64decode(data), dtype_from_name(dtype).numpy).reshape(shape)
        for name, (dtype, shape, data) in constants.items()
    }
    parsed = parse_graph(graph, arrays)
    (node,) = parsed
    machine = Target(**{**target, "features": tuple(target["features"])})
    KernelCompiler(machine, None).compile(node, parsed.symbols, parsed.output_set())
