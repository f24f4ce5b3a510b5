"""Random graphs for the whole compiler: one seed gives one graph with inputs.

The generator knows the float64 value of everything it builds. So it can keep magnitudes where float32 means
something, place comparisons where rounding cannot flip them (``Entry.exact``, ``_separated``), and give gathers
indices that exist. A step that does not fit (shapes, dtypes, range) is taken back and another one is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, Extent, evaluate
from ingot.ir.dtypes import DType, bfloat16, bool_, float16, float32, float64, int32, int64, uint8
from ingot.ir.errors import IngotError
from ingot.ir.graph import Graph, Value
from ingot.ir.interpreter import eval_node
from ingot.ir.types import TensorType

LIMIT = 20_000  # elements of one tensor
LARGEST = 1e3
SMOOTH = ("neg", "abs", "exp", "sigmoid", "tanh", "relu", "erf", "gelu", "silu", "softplus", "elu", "leaky_relu",
          "hardswish", "hardsigmoid", "sin", "cos", "identity", "expm1")  # fmt: skip
POSITIVE = ("log", "log1p", "sqrt", "rsqrt", "reciprocal")
STEPWISE = ("floor", "ceil", "round", "trunc", "sign")
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
        self.dim = Dim("N", 1, int(rng.choice([4, 7, 16])) if rng.random() < 0.8 else None) if dynamic else None
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


# -- contractions -------------------------------------------------------------------------------------
def _channels(n: Builder) -> int:
    return n.choice([1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 40]) if n.chance(0.7) else n.int(1, 40)


def _windows(n: Builder, x: Entry, largest: int = 4) -> dict[str, Any]:
    kernel, stride, padding, dilation = [], [], [], []
    same = n.chance(0.4)
    for e in x.shape[2:]:
        k = n.choice([1, 1, 2, 3, 3, 3, largest, 5])
        d = n.choice([1, 1, 1, 1, 2, 3])
        s = n.choice([1, 1, 1, 2, 2, 3])
        pads = (n.int(0, 2), n.int(0, 2)) if n.chance(0.4) else ((k // 2, k // 2) if n.chance(0.6) else (0, 0))
        if isinstance(e, int) and e + sum(pads) < d * (k - 1) + 1:
            k, d = min(k, max(1, e + sum(pads))), 1
        kernel.append(k), stride.append(s), padding.append(pads), dilation.append(d)
        if same:
            rank = x.rank - 2
            kernel, stride, padding, dilation = kernel * rank, stride * rank, padding * rank, dilation * rank
            break
    return {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}


def _groups(n: Builder, c: int) -> int:
    if not c or n.chance(0.6):
        return 1
    return c if n.chance(0.4) else n.choice([g for g in range(1, c + 1) if c % g == 0])


def conv(n: Builder) -> Entry:
    x = n.floating(3, 5)
    c = x.shape[1]
    attrs = _windows(n, x)
    kernel = attrs.pop("kernel")
    groups = _groups(n, c)
    out = groups * n.choice([1, 1, 2, 3]) if groups > 1 else _channels(n)
    fan = max(1, c // groups * int(np.prod(kernel)))
    w = n.weight((out, c // groups, *kernel), x.dtype, 1.7 / fan**0.5)
    if n.chance(0.1) and w.value.is_constant:  # weights that are computed
        w = n.emit("tanh", w, keep=False)
    return epilogue(n, n.emit("conv", x, w, groups=groups, **attrs))


def conv_transpose(n: Builder) -> Entry:
    x = n.floating(3, 5)
    c = x.shape[1]
    attrs = _windows(n, x, 3)
    kernel = attrs.pop("kernel")
    groups = _groups(n, c)
    per_group = n.choice([1, 2, 3, 5]) if groups > 1 else _channels(n)
    w = n.weight((c, per_group, *kernel), x.dtype, 1.7 / max(1, c // groups * int(np.prod(kernel))) ** 0.5)
    extra = tuple(
        n.int(0, max(s, d) - 1) if n.chance(0.4) else 0
        for s, d in zip(attrs["stride"], attrs["dilation"], strict=True)
    )
    return epilogue(n, n.emit("conv_transpose", x, w, groups=groups, output_padding=extra, **attrs))


def weight_grad(n: Builder) -> Entry:
    """Gradient of a convolution's weight with two computed operands."""
    x = n.floating(3, 5)
    attrs = _windows(n, x, 3)
    kernel = attrs.pop("kernel")
    if n.dim is not None:
        raise Skip("static only")
    groups = _groups(n, x.shape[1])
    w = n.weight((groups * n.choice([1, 2, 5]), x.shape[1] // groups, *kernel), x.dtype, 0.3)
    y = n.emit("conv", x, w, groups=groups, **attrs)
    return n.emit("conv_weight_grad", x, n.emit("tanh", y), kernel=kernel, groups=groups, **attrs)


def epilogue(n: Builder, y: Entry) -> Entry:
    """What usually follows a contraction, in any order."""
    channel = 1 if y.rank >= 3 else y.rank - 1
    width = y.shape[channel]
    for _ in range(n.choice([0, 1, 1, 2, 3])):
        kind = n.int(0, 4)
        try:
            if kind == 0 and isinstance(width, int):
                full = [1] * y.rank
                full[channel] = width
                bias = n.weight((width,), y.dtype)
                y = n.emit(n.choice(["add", "mul"]), y, n.emit("reshape", bias, shape=tuple(full), keep=False))
            elif kind == 1:
                y = n.emit(n.choice(SMOOTH), y)
            elif kind == 2 and y.rank >= 3:
                y = batch_norm(n, y)
            elif kind == 3:
                y = n.emit("add", y, n.pick(lambda e: e.dtype is y.dtype and e.shape == y.shape))
            else:
                y = n.emit("clamp", y, min=0, max=6)
        except Skip:
            pass
    return y


def matmul(n: Builder) -> Entry:
    a = n.floating(2)
    ta = n.chance(0.3)
    k = a.shape[-2] if ta else a.shape[-1]
    tb = n.chance(0.4)
    if n.chance(0.3):
        b = n.pick(lambda e: e.dtype is a.dtype and e.rank >= 2 and k in e.shape[-2:])
        if b.shape[-1] == k and (tb or b.shape[-2] != k):
            tb = True
        else:
            tb = False
    else:
        if not isinstance(k, int):
            raise Skip("symbolic depth")
        batch = [e if n.chance(0.5) and isinstance(e, int) else 1 for e in a.shape[:-2]]
        batch = batch[n.int(0, len(batch)) :] if n.chance(0.8) else batch
        if n.chance(0.15):
            batch = [n.int(1, 3), *batch]
        rows = (n.choice([1, 2, 3, 5, 8, 16, 17, 33, 40]), k) if tb else (k, n.choice([1, 2, 3, 5, 8, 16, 17, 33, 40]))
        b = n.weight((*batch, *rows), a.dtype, 1.7 / max(1, k) ** 0.5)
    if n.chance(0.1):
        a, b, ta, tb = b, a, not tb, not ta
    return epilogue(n, n.emit("matmul", a, b, transpose_a=ta, transpose_b=tb))


# -- pooling and normalisation ------------------------------------------------------------------------
def max_pool(n: Builder) -> Entry:
    x = n.pick(lambda e: e.dtype.kind == "f" and 3 <= e.rank <= 5)
    attrs = _pool_windows(n, x) | {"ceil_mode": n.chance(0.4)}
    values, index = n.emit_all("max_pool", x, keep=False, **attrs)
    n.pool.append(values)
    if x.exact and n.chance(0.5):
        n.pool.append(index)
    return values


def _pool_windows(n: Builder, x: Entry) -> dict[str, Any]:
    attrs = _windows(n, x, 3)
    spans = [d * (k - 1) + 1 for k, d in zip(attrs["kernel"], attrs["dilation"], strict=True)]
    attrs["padding"] = tuple(
        (min(lo, s // 2), min(hi, s // 2)) for (lo, hi), s in zip(attrs["padding"], spans, strict=True)
    )
    return attrs


def avg_pool(n: Builder) -> Entry:
    attrs = _pool_windows(n, x := n.floating(3, 5))
    del attrs["dilation"]
    spans = attrs["kernel"]
    attrs["padding"] = tuple((min(a, s // 2), min(b, s // 2)) for (a, b), s in zip(attrs["padding"], spans, strict=True))
    override = n.int(1, 5) if n.chance(0.2) else None
    return n.emit(
        "avg_pool", x, ceil_mode=n.chance(0.4), count_include_pad=n.chance(0.6), divisor_override=override, **attrs
    )


def batch_norm(n: Builder, x: Entry | None = None) -> Entry:
    x = x or n.floating(2, 5)
    c = x.shape[1]
    if not isinstance(c, int):
        raise Skip("symbolic channels")
    w, b, mean = n.weight((c,), x.dtype, 0.5, 1.0), n.weight((c,), x.dtype), n.weight((c,), x.dtype, 0.3)
    if n.chance(0.1):
        return n.emit("batch_norm_train", x, w, b, eps=1e-3)
    var = n.constant(n.rng.uniform(0.5, 2, c), x.dtype)
    return n.emit("batch_norm", x, w, b, mean, var, eps=1e-5)


def bn_conv(n: Builder) -> Entry:
    """Batch norm in front of a convolution that pads: the padding is of normalised zeros, not of shifted ones."""
    y = batch_norm(n, n.floating(3, 4))
    if n.chance(0.5):
        n.emit("relu", y)
    n.pool.append(y)
    return conv(n)


def softmax(n: Builder) -> Entry:
    x = n.floating(1)
    return n.emit(n.choice(["softmax", "log_softmax"]), x, axis=n.int(0, x.rank - 1))


def layer_norm(n: Builder) -> Entry:
    x = n.floating(1)
    ndim = n.int(1, min(3, x.rank))
    tail = x.shape[x.rank - ndim :]
    if not all(isinstance(e, int) for e in tail):
        raise Skip("symbolic")
    operands = [x, n.weight(tail, x.dtype, 0.5, 1.0), n.weight(tail, x.dtype)][: n.int(1, 3)]
    return n.emit("layer_norm", *operands, ndim=ndim, eps=1e-2)


# -- elementwise --------------------------------------------------------------------------------------
def unary(n: Builder) -> Entry:
    return n.emit(n.choice(SMOOTH), n.floating())


def positive(n: Builder) -> Entry:
    x = n.floating()
    return n.emit(n.choice(POSITIVE), n.emit("add", n.emit("abs", x), 0.5))


def stepwise(n: Builder) -> Entry:
    x = n.floating()
    op = n.choice(STEPWISE)
    jumps = {"round": np.floor(x.array) + 0.5, "sign": np.zeros(())}.get(op, np.round(x.array))
    n.separated(x, np.abs(x.array - jumps))
    return n.emit(op, x)


def operand(n: Builder, x: Entry) -> Entry:
    """Something to combine ``x`` with: a number, a constant that broadcasts, or another value."""
    how = n.rng.random()
    if how < 0.2:
        return n.constant(np.asarray(n.choice([0, 1, -1, 2, 0.5, 3, 0.1])), x.dtype)
    if how < 0.5:
        return n.constant(sample(n.rng, n.shape_for(x), x.dtype), x.dtype)
    return n.pick(lambda e: e.dtype is x.dtype and _fits(e.shape, x.shape))


def _fits(a: Sequence[Extent], b: Sequence[Extent]) -> bool:
    return all(x == y or x == 1 or y == 1 for x, y in zip(reversed(a), reversed(b), strict=False))


def binary(n: Builder) -> Entry:
    x = n.pick(lambda e: e.dtype.kind != "b")
    y = operand(n, x)
    op = n.choice(["add", "add", "sub", "mul", "mul", "maximum", "minimum", "div", "pow"])
    if op == "div":
        if x.dtype.kind != "f":
            return n.emit("floor_divide", x, n.emit("maximum", y, 1))
        y = n.emit("add", n.emit("abs", y), 0.5)
    if op == "pow":
        if x.dtype.kind != "f":
            raise Skip("integer power")
        return n.emit("pow", n.emit("add", n.emit("abs", x), 0.2), n.choice([2.0, 0.5, -1.0, 3.0, 1.7]))
    if n.chance(0.5):
        x, y = y, x
    return n.emit(op, x, y)


def modulo(n: Builder) -> Entry:
    x = n.pick(lambda e: e.dtype.kind != "b")
    divisor = n.choice([2, 3, 5])
    if x.dtype.kind == "f":
        q = x.array / divisor
        n.separated(x, np.abs(q - np.round(q)))
    return n.emit(n.choice(["remainder", "floor_divide"]), x, divisor)


def logical(n: Builder) -> Entry:
    x = n.pick(lambda e: e.dtype.kind != "f")
    op = n.choice(["logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
                   "bitwise_not"])  # fmt: skip
    return n.emit(op, x) if op.endswith("not") else n.emit(op, x, operand(n, x))


def compare(n: Builder) -> Entry:
    x = n.pick()
    y = operand(n, x)
    if x.dtype.kind == "f" and not (x.exact and y.exact):
        worse = x if not x.exact else y
        n.separated(worse, np.abs(x.array - y.array))
    return n.emit(n.choice(COMPARE), x, y)


def where(n: Builder) -> Entry:
    x = n.pick()
    y = operand(n, x)
    try:
        c = n.pick(lambda e: e.dtype is bool_ and _fits(e.shape, x.shape))
    except Skip:
        c = n.constant(n.rng.random(n.shape_for(x)) < 0.5, bool_)
    return n.emit("where", c, *((x, y) if n.chance(0.5) else (y, x)))


def cast(n: Builder) -> Entry:
    x = n.pick()
    to = n.choice([float64, float32, float32, float16, bfloat16, bool_, uint8, int32, int64, *dtypes.ALL])
    if x.dtype.kind == "f" and to.kind != "f":
        if to.kind == "b":
            n.separated(x, np.abs(x.array))
        else:
            n.separated(x, np.abs(x.array - np.round(x.array)))
            if x.array.size and not (max(to.min, -1e9) <= x.array.min() and x.array.max() <= min(to.max, 1e9)):
                raise Skip("out of range")
            if n.dim is not None and to.bits < 32:
                raise Skip("other batches may be out of range")
    if x.dtype.kind == "f" and to.kind == "f" and to.eps > 100 * n.dtype.eps and n.chance(0.7):
        raise Skip("keep most graphs precise")
    return n.emit("cast", x, dtype=to)


# -- reductions and indices ---------------------------------------------------------------------------
def reduce(n: Builder) -> Entry:
    x = n.pick()
    axes = tuple(a for a in range(x.rank) if n.chance(0.45))
    ops = {"b": ["any", "all"], "f": ["sum", "mean", "amax", "amin", "prod", "mean"]}
    op = n.choice(ops.get(x.dtype.kind, ["sum", "amax", "amin", "prod"]))
    return n.emit(op, x, axes=axes, keepdims=n.chance(0.5))


def variance(n: Builder) -> Entry:
    x = n.floating(1)
    axes = tuple(a for a in range(x.rank) if n.chance(0.5)) or (x.rank - 1,)
    centred = n.emit("sub", x, n.emit("mean", x, axes=axes, keepdims=True))
    return n.emit("mean", n.emit("mul", centred, centred), axes=axes, keepdims=n.chance(0.5))


def argument(n: Builder) -> Entry:
    x = n.pick(lambda e: e.rank >= 1 and e.dtype.kind != "b")
    axis = n.int(0, x.rank - 1)
    op = n.choice(["argmax", "argmin"])
    if x.array.shape[axis] > 1:
        ordered = np.sort(x.array, axis)
        ends = [-1, -2] if op == "argmax" else [0, 1]
        first, second = (np.take(ordered, k, axis) for k in ends)
        n.separated(x, np.abs(first - second))
    return n.emit(op, x, axis=axis, keepdims=n.chance(0.5))


def reshape(n: Builder) -> Entry:
    x = n.pick()
    shape = list(x.shape)
    how = n.int(0, 3)
    if how == 0 and len(shape) > 1:  # merge neighbours
        a = n.int(0, len(shape) - 2)
        shape[a : a + 2] = [shape[a] * shape[a + 1]]
    elif how == 1 and shape:  # split
        a = n.int(0, len(shape) - 1)
        if not isinstance(shape[a], int) or shape[a] < 2:
            raise Skip("cannot split")
        f = n.choice([k for k in range(1, shape[a] + 1) if shape[a] % k == 0])
        shape[a : a + 1] = [f, shape[a] // f]
    elif how == 2 and len(shape) < 5:
        shape.insert(n.int(0, len(shape)), 1)
    else:
        if not x.value.type.is_static:
            raise Skip("symbolic")
        shape = [int(np.prod(shape))]
    return n.emit("reshape", x, shape=tuple(shape))


def permute(n: Builder) -> Entry:
    x = n.pick()
    dims = tuple(n.rng.permutation(x.rank).tolist())
    if n.dim is not None and x.rank and dims[0] != 0 and n.chance(0.7):
        raise Skip("keep the batch in front")
    return n.emit("permute", x, dims=dims)


def expand(n: Builder) -> Entry:
    x = n.pick()
    shape = [n.int(1, 5) if e == 1 and n.chance(0.7) else e for e in x.shape]
    if len(shape) < 4 and n.chance(0.3):
        shape.insert(0, n.int(1, 3))
    return n.emit("expand", x, shape=tuple(shape))


def cut(n: Builder) -> Entry:
    x = n.pick()
    starts, stops, steps = [], [], []
    for e in x.shape:
        if not isinstance(e, int) or n.chance(0.5):
            starts.append(0), stops.append(e), steps.append(1)
            continue
        start = n.int(0, max(0, e - 1))
        starts.append(start), stops.append(n.int(min(start + 1, e), e)), steps.append(n.choice([1, 1, 1, 2, 3]))
    return n.emit("slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def channel_slices(n: Builder) -> Entry:
    """Channels taken apart at any position and put together again, with something in between."""
    x = n.pick(lambda e: e.rank >= 3 and isinstance(e.shape[1], int) and e.shape[1] >= 2)
    c = x.shape[1]
    at = sorted({0, c, *(n.int(1, c - 1) for _ in range(n.int(1, 3)))})
    parts = []
    for low, high in zip(at, at[1:], strict=False):
        starts, stops = [0] * x.rank, list(x.shape)
        starts[1], stops[1] = low, high
        part = n.emit("slice", x, starts=tuple(starts), stops=tuple(stops), steps=(1,) * x.rank)
        parts.append(n.emit("neg", part) if n.chance(0.3) and x.dtype.kind == "f" else part)
    order = [parts[i] for i in n.rng.permutation(len(parts))] if n.chance(0.6) else parts
    return n.emit("concat", *order, axis=1)


def pad(n: Builder) -> Entry:
    x = n.pick()
    widths = [[n.int(0, 2) if n.chance(0.4) and isinstance(e, int) else 0 for e in x.shape] for _ in range(3)]
    if n.chance(0.8):
        widths[2] = [0] * x.rank
    value = n.choice([0, 0, 1, 2]) if x.dtype.kind != "b" else 0
    low, high, interior = map(tuple, widths)
    return n.emit("pad", x, low=low, high=high, interior=interior, value=value)


def flip(n: Builder) -> Entry:
    x = n.pick()
    return n.emit("flip", x, axes=tuple(a for a in range(x.rank) if n.chance(0.5)))


def concat(n: Builder) -> Entry:
    x = n.pick(lambda e: e.rank >= 1)
    axis = 1 if x.rank > 2 and n.chance(0.6) else n.int(0, x.rank - 1)
    fits = [
        e for e in n.pool
        if e.rank == x.rank and e.dtype is x.dtype
        and all(a == b for i, (a, b) in enumerate(zip(e.shape, x.shape, strict=True)) if i != axis)
    ]  # fmt: skip
    if not isinstance(x.shape[axis], int):
        raise Skip("symbolic")
    return n.emit("concat", *[x, *(n.choice(fits) for _ in range(n.int(0, 3)))], axis=axis)


def _index(n: Builder, shape: Sequence[int], extent: int) -> Entry:
    if not extent:
        raise Skip("nothing to index")
    if n.chance(0.5):
        return n.constant(n.rng.integers(0, extent, shape), int64)
    try:  # indices that are computed
        x = n.pick(lambda e: e.dtype is int64 and e.shape == tuple(shape))
    except Skip:
        x = n.input(shape, int64)
    return n.emit("remainder", x, extent)


def indexed(n: Builder) -> Entry:
    x = n.pick(lambda e: e.rank >= 1 and e.value.type.is_static)
    axis = n.int(0, x.rank - 1)
    extent = x.shape[axis]
    op = n.choice(["gather", "index_select", "scatter_add"])
    if op == "index_select":
        return n.emit(op, x, _index(n, (n.int(1, 6),), extent), axis=axis)
    shape = [n.int(1, 5) if a == axis else n.int(min(1, e), e) for a, e in enumerate(x.shape)]
    index = _index(n, shape, extent)
    if op == "gather":
        return n.emit(op, x, index, axis=axis)
    if x.dtype.kind == "b":
        raise Skip("bool")
    source = n.constant(sample(n.rng, [e + n.int(0, 1) for e in shape], x.dtype), x.dtype)
    return n.emit(op, x, index, source, axis=axis)


def iota(n: Builder) -> Entry:
    x = n.pick(lambda e: e.value.type.is_static and e.rank >= 1)
    return n.emit("iota", shape=x.shape, axis=n.int(0, x.rank - 1), dtype=x.dtype if x.dtype is not bool_ else int64)


# -- whole graphs -------------------------------------------------------------------------------------
Step = Callable[[Builder], Entry]
SHAPING: list[Step] = [reshape, permute, expand, cut, channel_slices, pad, flip, concat]
KINDS: dict[str, list[Step]] = {
    "image": [conv] * 7 + [conv_transpose, max_pool, max_pool, avg_pool, batch_norm, bn_conv, bn_conv, unary, binary,
              binary, reduce, channel_slices, channel_slices, concat, concat, pad, flip, cut, softmax, permute, reshape],
    "rows": [matmul] * 6 + [softmax, layer_norm, unary, binary, binary, reduce, variance, where, *SHAPING, indexed],
    "shapes": [*SHAPING, *SHAPING, unary, binary, binary, where, reduce, matmul, conv, indexed, iota, cast],
    "dtypes": [cast, cast, cast, compare, compare, where, where, logical, logical, stepwise, modulo, binary, binary,
               unary, reduce, argument, argument, indexed, *SHAPING],
    "pools": [max_pool, max_pool, avg_pool, avg_pool, conv, unary, binary, reduce, argument, *SHAPING],
    "norms": [softmax, layer_norm, batch_norm, variance, reduce, reduce, argument, unary, positive, binary, matmul,
              *SHAPING],
    "all": [conv, conv, conv_transpose, weight_grad, matmul, matmul, max_pool, avg_pool, batch_norm, bn_conv, softmax,
            layer_norm, unary, positive, stepwise, binary, binary, modulo, logical, compare, where, cast, reduce,
            variance, argument, indexed, iota, *SHAPING],
}  # fmt: skip
SMOOTH_STEPS: list[Step] = [
    conv, conv, conv_transpose, weight_grad, matmul, matmul, max_pool, avg_pool, batch_norm, softmax, layer_norm, unary,
    positive, binary, binary, reduce, variance, indexed, *SHAPING,
]  # fmt: skip


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
        sides = [side] * spatial if n.chance(0.5) else [_extent(n, high) for _ in range(spatial)]
        return (batch, _channels(n) if n.chance(0.97) else 0, *sides)
    rank = n.int(0 if n.dim is None else 1, 4)
    shape = [_extent(n, n.choice([3, 9, 40])) for _ in range(rank)]
    while int(np.prod(shape)) > 4000:
        shape[int(np.argmax(shape))] //= 2
    if n.dim is not None:
        shape[0] = batch  # type: ignore[call-overload]
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
    states = [e for e in n.pool if e.value in n.graph.inputs and n.graph.roles[n.graph.inputs.index(e.value)] == "buffer"]
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
                    new = n.emit("add", n.emit("mul", s, 0.9), n.pick(lambda e, s=s: e.dtype is s.dtype and _within(e, s)))
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
    from ingot.passes.differentiate import gradients

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
        sizes = [{"N": k} for k in (2, top, 1, 3) if k <= top]
    return Network(seed, kind, n.graph, make(n.env), sizes, make)  # type: ignore[arg-type]


__all__ = ["KINDS", "Network", "make_network"]
