"""Grows one random graph step by step and knows the float64 value of everything in it.

That is how magnitudes stay where float32 means something, and how comparisons are placed where rounding cannot
flip them (``Entry.exact``, ``Builder.separated``). A step that does not fit (shapes, dtypes, range) raises Skip.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, Extent, evaluate
from ingot.ir.dtypes import DType
from ingot.ir.errors import IngotError
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import eval_node
from ingot.ir.types import TensorType

LIMIT = 20_000  # elements of one tensor
LARGEST = 1e3
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
EXACT = frozenset({
    "neg", "abs", "relu", "identity", "reshape", "permute", "expand", "slice", "flip", "concat", "pad", "gather",
    "index_select", "maximum", "minimum", "where", "amax", "amin", "clamp", "constant", "iota", "floor", "ceil",
    "round", "trunc", "sign", "max_pool", "cast", "any", "all", "argmax", "argmin", *COMPARE,
})  # fmt: skip


class Skip(Exception):
    """This step does not fit here."""


@dataclass
class Entry:
    """A value, what it is in float64, and whether every kernel gets exactly that.

    ``eps``: of the coarsest dtype on the way to it.
    """

    value: Value
    array: np.ndarray
    exact: bool
    eps: float = 0.0

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.value.shape

    @property
    def rank(self) -> int:
        return self.value.type.rank

    @property
    def dtype(self) -> DType:
        return self.value.dtype


class Builder:
    """Grows one graph at random."""

    def __init__(self, rng: np.random.Generator, dtype: DType, dynamic: bool = False) -> None:
        self.rng = rng
        self.dtype = dtype
        self.graph = Graph("fuzz")
        self.b = GraphBuilder(self.graph)
        self.pool: list[Entry] = []
        self.weights: dict[tuple[Any, ...], Entry] = {}
        self.makers: list[Callable[[dict[str, int]], np.ndarray]] = []
        top = int(rng.choice([4, 7, 16])) if rng.random() < 0.8 else None
        self.dim = Dim("N", int(rng.random() < 0.8), top) if dynamic else None
        self.env = {"N": 2} if dynamic else {}
        self.parameters: list[Entry] = []

    # -- drawing ------------------------------------------------------------------------------------
    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def int(self, low: int, high: int) -> int:
        """Uniform in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def pick(self, wanted: Callable[[Entry], bool] = lambda e: True) -> Entry:
        """A fitting entry, mostly a recent one (so that chains form), now and then any (so that values are shared)."""
        fits = [e for e in self.pool if wanted(e)]
        if not fits:
            raise Skip("nothing fits")
        if self.chance(0.3):
            return self.choice(fits)
        return fits[-1 - min(int(self.rng.geometric(0.5)) - 1, len(fits) - 1)]

    def floating(self, low: int = 0, high: int = 9) -> Entry:
        return self.pick(lambda e: e.dtype.kind == "f" and low <= e.rank <= high)

    # -- building -----------------------------------------------------------------------------------
    def input(self, shape: Sequence[Extent], dtype: DType, role: str = "input", scale: float = 1.0) -> Entry:
        value = self.graph.add_input(TensorType(dtype, tuple(shape)), {"input": "x"}.get(role, "p"), role)
        seed = int(self.rng.integers(2**31))

        def make(env: dict[str, int]) -> np.ndarray:
            return sample(np.random.default_rng([seed, *env.values()]), [evaluate(e, env) for e in shape], dtype, scale)

        self.makers.append(make)
        entry = Entry(value, lifted(make(self.env)), True, dtype.eps)
        self.pool.append(entry)
        return entry

    def constant(self, array: np.ndarray, dtype: DType | None = None) -> Entry:
        array = np.asarray(array).astype((dtype or self.dtype).numpy)
        value = self.b.constant(array, name="w")
        return Entry(value, lifted(array), True, value.dtype.eps)

    def weight(self, shape: Sequence[int], dtype: DType, scale: float = 1.0, offset: float = 0.0) -> Entry:
        """A constant, one used before, or a parameter (an input whose value the compiler does not know)."""
        key = (tuple(shape), dtype, offset)
        if key in self.weights and self.chance(0.3):
            return self.weights[key]
        if self.chance(0.15) and not offset:
            entry = self.input(shape, dtype, "parameter", scale)
            self.pool.pop()
            self.parameters.append(entry)
        else:
            array = self.rng.uniform(-1, 1, shape) * scale + offset
            if self.chance(0.05):
                array = np.full(shape, array.flat[0] if array.size else 0)
            entry = self.constant(array, dtype)
        self.weights[key] = entry
        return entry

    def emit(self, op: str, *operands: Entry | float, keep: bool = True, **attrs: Any) -> Entry:
        return self.emit_all(op, *operands, keep=keep, **attrs)[0]

    def emit_all(self, op: str, *operands: Entry | float, keep: bool = True, **attrs: Any) -> list[Entry]:
        first = next((o for o in operands if isinstance(o, Entry)), None)
        entries = [
            o if isinstance(o, Entry) else self.constant(np.asarray(o), first.dtype if first else None)
            for o in operands
        ]
        try:
            node = self.b.emit(op, [e.value for e in entries], **attrs)
        except (IngotError, ValueError) as error:
            raise Skip(str(error)) from error
        try:
            with warnings.catch_warnings():  # of means of nothing
                warnings.simplefilter("ignore", RuntimeWarning)
                results = eval_node(node, [e.array for e in entries], self.env, float64=True)
            for r in results:
                largest = float(np.max(np.abs(r.astype(np.float64)), initial=0))
                if r.size > LIMIT or (r.dtype.kind == "f" and not largest <= LARGEST):
                    raise Skip("too large")
        except (Skip, IngotError) as error:
            self.graph.remove(node)
            raise Skip(str(error)) from error
        out = []
        for value, array in zip(node.outputs, results, strict=True):
            exact = all(e.exact for e in entries) and (op in EXACT or value.dtype.kind != "f")
            if exact and value.dtype.kind == "f":
                exact = bool((array.astype(value.dtype.numpy).astype(np.float64) == array).all())
            eps = max([value.dtype.eps, *(e.eps for e in entries)])
            out.append(Entry(value, array, exact or value.dtype.kind != "f", eps))
        if keep:
            self.pool += out
        return out

    def separated(self, e: Entry, distance: np.ndarray) -> None:
        """Skip unless ``distance`` to the nearest jump leaves room for the rounding of ``e``."""
        if e.exact:
            return
        if self.dim is not None:  # other batches have other values
            raise Skip("not separated")
        scale = max(1.0, float(np.max(np.abs(e.array), initial=0)))
        if distance.size and float(distance.min()) < 2e3 * e.eps * scale:
            raise Skip("not separated")

    def shape_for(self, x: Entry) -> tuple[Extent, ...]:
        """A shape that broadcasts against ``x``."""
        shape = [1 if self.chance(0.4) else e for e in x.shape]
        shape = [1 if not isinstance(e, int) else e for e in shape]
        return tuple(shape[self.int(0, len(shape)) if self.chance(0.4) else 0 :])


def lifted(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if dtypes.dtype_from_numpy(array.dtype).kind == "f" else array


def sample(rng: np.random.Generator, shape: Sequence[int], dtype: DType, scale: float = 1.0) -> np.ndarray:
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind != "f":
        return rng.integers(0 if dtype.kind == "u" else -20, 21, shape).astype(dtype.numpy)
    return np.asarray(rng.normal(size=shape) * scale).astype(dtype.numpy)
