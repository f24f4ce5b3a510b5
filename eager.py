"""Native code for eager mode: single heavy operators, compiled when the same signature comes a second time.

``frontend/dispatch.py`` asks the hook that ``install`` fills before it runs a NumPy reference. A one-off call never
waits for the compiler; a training loop does once. Kernels come from the same cache as those of compiled models.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .frontend import dispatch
from .ir.builder import GraphBuilder
from .ir.errors import IngotError
from .ir.graph import Graph
from .ir.types import TensorType

if TYPE_CHECKING:
    from .runtime.executable import Executable

OPERATORS = frozenset({"conv", "conv_transpose", "conv_weight_grad", "max_pool", "scatter_add"})
LEAST_ELEMENTS = 1 << 13  # of operands and results together; below, the call costs as much as the reference
MOST_PROGRAMS = 256

_log = logging.getLogger("ingot.eager")


class EagerKernels:
    """Executables of single operators by signature; the least recently used make room."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, Executable | None] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, op: str, arrays: Sequence[np.ndarray], attrs: dict[str, Any]) -> list[np.ndarray] | None:
        """The results, or None: the caller runs the reference."""
        if op not in OPERATORS or any(a.dtype.char not in "fl" for a in arrays):
            return None
        if sum(a.size for a in arrays) < LEAST_ELEMENTS:
            return None
        key = (op, tuple(attrs.items()), tuple((a.dtype.char, a.shape) for a in arrays))
        with self._lock:
            if key not in self._known:
                self._known[key] = None  # once is not worth compiling
                if len(self._known) > MOST_PROGRAMS:
                    self._known.popitem(last=False)
                return None
            found = self._known[key]
            if found is None:
                found = self._known[key] = self._compile(op, arrays, attrs)
            self._known.move_to_end(key)
        return found.run([np.asarray(a, order="C") for a in arrays]) if found is not None else None

    def _compile(self, op: str, arrays: Sequence[np.ndarray], attrs: dict[str, Any]) -> Executable | None:
        from .driver import Options, build
        from .runtime.executable import Executable

        graph = Graph(f"eager_{op}")
        operands = [
            graph.add_input(TensorType(dispatch.array_dtype(a), a.shape), f"x{i}") for i, a in enumerate(arrays)
        ]
        node = GraphBuilder(graph).emit(op, operands, **attrs)
        for i, value in enumerate(node.outputs):
            graph.add_output(value, f"y{i}")
        try:
            return Executable(build(graph, Options()))
        except IngotError as error:  # no kernel, or no compiler for this machine: the reference does it
            _log.info("%s of %s stays in NumPy: %s", op, [a.shape for a in arrays], error)
            return _Never()  # type: ignore[return-value]


class _Never:
    """Stands for a signature without native code."""

    def run(self, arrays: list[np.ndarray]) -> None:
        return None


def install() -> None:
    """Fill the front end's hook, unless INGOT_EAGER_KERNELS=0."""
    if os.environ.get("INGOT_EAGER_KERNELS") != "0" and dispatch.native is None:
        dispatch.native = EagerKernels()
