"""Random graphs for the whole compiler: one seed gives one graph with inputs (``make_network``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ingot.ir import dtypes
from ingot.ir.differentiate import gradients
from ingot.ir.dims import Extent
from ingot.ir.dtypes import bfloat16, float16, float32, float64
from ingot.ir.graph import Graph
from network_builder import Builder, Entry, Skip, sample
from network_steps import KINDS, SMOOTH_STEPS, Step, channels


@dataclass
class Network:
    """A graph to compile and what to feed it; ``symbols``: values of the dynamic extents to run at."""

    seed: int
    kind: str
    graph: Graph
    inputs: list[np.ndarray]
    sizes: list[dict[str, int]] = field(default_factory=list)
    make_inputs: Callable[[dict[str, int]], list[np.ndarray]] | None = None

    def inputs_at(self, env: dict[str, int]) -> list[np.ndarray]:
        return self.inputs if self.make_inputs is None else self.make_inputs(env)


def _extent(n: Builder, high: int) -> int:
    if n.chance(0.02):
        return 0
    return 1 if n.chance(0.12) else n.int(1, high)


def _input_shape(n: Builder, kind: str) -> tuple[Extent, ...]:
    batch: Extent = n.dim.expr if n.dim is not None else _extent(n, 3)
    if kind in ("image", "pools") or (kind == "all" and n.chance(0.6)):
        spatial = n.choice([1, 2, 2, 2, 2, 3])
        high = {1: 40, 2: 14, 3: 6}[spatial]
        side = _extent(n, high)
        sides: list[Extent] = [side] * spatial if n.chance(0.5) else [_extent(n, high) for _ in range(spatial)]
        if n.dim is not None and n.chance(0.15):  # a dynamic map instead of a dynamic batch
            batch, sides[-1] = n.int(1, 3), batch + n.choice([0, 2, 5])
        return (batch, channels(n) if n.chance(0.97) else 0, *sides)
    rank = n.int(0 if n.dim is None else 1, 4)
    shape = [_extent(n, n.choice([3, 9, 40])) for _ in range(rank)]
    while int(np.prod(shape)) > 4000:
        shape[int(np.argmax(shape))] //= 2
    if n.dim is not None:
        shape[int(n.rng.integers(rank)) if n.chance(0.2) else 0] = batch  # type: ignore[call-overload]
    return tuple(shape)


def grow(n: Builder, steps: Sequence[Step], count: int) -> None:
    made = tries = 0
    while made < count and tries < 20 * count:
        tries += 1
        try:
            entry = n.choice(steps)(n)
        except Skip:
            continue
        if entry not in n.pool:
            n.pool.append(entry)
        made += 1


def make_network(seed: int, kind: str | None = None) -> Network:
    """The network of ``seed``; ``kind`` is drawn from it too unless given (a key of ``KINDS`` or ``"training"``)."""
    rng = np.random.default_rng(seed)
    names = [*KINDS, "image", "image", "training", "updates"]
    kind = kind or str(names[int(rng.integers(len(names)))])
    if kind == "training":
        return _training(seed, rng)
    dtype = [float32, float64, float16, bfloat16][int(rng.choice(4, p=[0.7, 0.14, 0.08, 0.08]))]
    n = Builder(rng, dtype, dynamic=bool(rng.random() < 0.25))
    family = kind if kind in KINDS else str(rng.choice(list(KINDS)))
    first = _input_shape(n, family)
    n.input(first, dtype)
    for _ in range(n.int(0, 2)):
        other = dtype if n.chance(0.7) else n.choice(dtypes.ALL)
        n.input(n.choice([first, tuple(n.shape_for(n.pool[0])), _input_shape(n, family)]), other)
    if kind == "updates":
        for _ in range(n.int(1, 3)):
            n.input(n.choice([e.shape for e in n.pool if e.value.type.is_static] or [(3,)]), dtype, "buffer")
    grow(n, KINDS[family], n.int(2, 10) if n.chance(0.9) else n.int(12, 20))
    if kind == "updates":
        _add_updates(n)
    _add_outputs(n)
    return _finish(n, seed, kind)


def _add_outputs(n: Builder) -> None:
    made = [e for e in n.pool if e.value.producer is not None]
    if made:
        n.graph.add_output(made[-1].value)
    for e in made[:-1]:  # most of what nobody reads
        if not e.value.users and n.chance(0.7):
            n.graph.add_output(e.value)
    for _ in range(n.choice([0, 0, 1, 1, 2])):
        how = n.rng.random()
        if how < 0.7:
            n.graph.add_output(n.pick().value)
        elif how < 0.8:
            n.graph.add_output(n.constant(sample(n.rng, (n.int(1, 3),), n.dtype)).value)
        else:
            n.graph.add_output(n.choice(n.pool).value)
    if not n.graph.outputs:
        n.graph.add_output(n.pool[0].value)


def _add_updates(n: Builder) -> None:
    """Overwrite states: with something new, with themselves moved, with one another."""
    roles = dict(zip(n.graph.inputs, n.graph.roles, strict=True))
    states = [e for e in n.pool if roles.get(e.value) == "buffer"]
    for s in states:
        if n.chance(0.15):
            continue
        new = None
        for _ in range(6):
            try:
                how = n.int(0, 5)
                if how == 0:
                    new = n.pick(lambda e, s=s: e.shape == s.shape and e.dtype is s.dtype)
                elif how == 1:
                    new = n.choice([e for e in states if e.shape == s.shape] or [s])
                elif how == 2:
                    other = n.pick(lambda e, s=s: e.dtype is s.dtype and _within(e, s))
                    new = n.emit("add", n.emit("mul", s, 0.9), other)
                elif how == 3:
                    new = n.emit("mul", n.emit("flip", s, axes=tuple(range(s.rank))), 0.5)
                elif how == 4 and s.rank:
                    new = n.emit("sub", s, n.emit("mean", s, axes=(s.rank - 1,), keepdims=True))
                else:
                    new = n.emit("tanh", s)
                if new.shape == s.shape:
                    break
            except Skip:
                continue
        if new is not None and new.shape == s.shape and new.dtype is s.dtype:
            n.graph.add_output(new.value, updates=s.value)


def _within(e: Entry, s: Entry) -> bool:
    return e.rank <= s.rank and all(a in (b, 1) for a, b in zip(reversed(e.shape), reversed(s.shape), strict=False))


def _training(seed: int, rng: np.random.Generator) -> Network:
    """Loss, gradients of every floating input, and sometimes a step of gradient descent in place; in float64."""
    n = Builder(rng, float64, dynamic=bool(rng.random() < 0.15))
    n.input(_input_shape(n, str(rng.choice(["image", "rows", "all"]))), float64)
    grow(n, SMOOTH_STEPS, n.int(2, 6))
    total: Entry | None = None
    for e in [n.pool[-1], n.choice(n.pool)]:
        if e.dtype is float64:
            try:
                term = n.emit("mean", n.emit("mul", e, e), axes=tuple(range(e.rank)))
            except Skip:  # too large, or of nothing
                continue
            total = term if total is None else n.emit("add", total, term)
    if total is None:
        total = n.emit("sum", n.emit("tanh", n.pool[0]), axes=tuple(range(n.pool[0].rank)))
    n.graph.add_output(total.value, "loss")
    wrt = [v for v in n.graph.inputs if v.dtype is float64]
    for v, grad in zip(wrt, gradients(n.graph, total.value, wrt), strict=True):
        parameter = n.graph.roles[n.graph.inputs.index(v)] == "parameter"
        if parameter and n.chance(0.5):
            n.graph.add_output(n.b.sub(v, n.b.mul(grad, 0.1)), updates=v)
        else:
            n.graph.add_output(grad)
    return _finish(n, seed, "training")


def _finish(n: Builder, seed: int, kind: str) -> Network:
    makers = n.makers

    def make(env: dict[str, int]) -> np.ndarray:
        return [m(env) for m in makers]  # type: ignore[return-value]

    sizes: list[dict[str, int]] = [{}]
    if n.dim is not None:
        top = n.dim.max or 9
        sizes = [{"N": k} for k in (2, top, 1, 0, 3) if n.dim.min <= k <= top]
    return Network(seed, kind, n.graph, make(n.env), sizes, make)  # type: ignore[arg-type]


__all__ = ["KINDS", "Network", "make_network"]
