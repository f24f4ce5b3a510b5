"""The steps that random graphs are made of: each draws an operator with operands and attributes that fit, or Skips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ingot.ir import dtypes
from ingot.ir.dims import Extent
from ingot.ir.dtypes import bfloat16, bool_, float16, float32, float64, int32, int64, uint8
from network_builder import COMPARE, Builder, Entry, Skip, sample

SMOOTH = ("neg", "abs", "exp", "sigmoid", "tanh", "relu", "erf", "gelu", "silu", "softplus", "elu", "leaky_relu",
          "hardswish", "hardsigmoid", "sin", "cos", "identity", "expm1")  # fmt: skip
POSITIVE = ("log", "log1p", "sqrt", "rsqrt", "reciprocal")
STEPWISE = ("floor", "ceil", "round", "trunc", "sign")


# -- contractions -------------------------------------------------------------------------------------
def channels(n: Builder) -> int:
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
        for axis, value in ((kernel, k), (stride, s), (padding, pads), (dilation, d)):
            axis.append(value)
        if same:
            rank = x.rank - 2
            kernel, stride, padding, dilation = kernel * rank, stride * rank, padding * rank, dilation * rank
            break
    return {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}


def _groups(n: Builder, c: int) -> int:
    if not c or n.chance(0.6):
        return 1
    return c if n.chance(0.4) else n.choice([g for g in range(1, c + 1) if c % g == 0])


def _fixed_channels(x: Entry) -> int:
    if not isinstance(x.shape[1], int):
        raise Skip("symbolic channels")
    return x.shape[1]


def conv(n: Builder) -> Entry:
    x = n.floating(3, 5)
    c = _fixed_channels(x)
    attrs = _windows(n, x)
    kernel = attrs.pop("kernel")
    groups = _groups(n, c)
    out = groups * n.choice([1, 1, 2, 3]) if groups > 1 else channels(n)
    fan = max(1, c // groups * int(np.prod(kernel)))
    w = n.weight((out, c // groups, *kernel), x.dtype, 1.7 / fan**0.5)
    if n.chance(0.1) and w.value.is_constant:  # weights that are computed
        w = n.emit("tanh", w, keep=False)
    return epilogue(n, n.emit("conv", x, w, groups=groups, **attrs))


def conv_transpose(n: Builder) -> Entry:
    x = n.floating(3, 5)
    c = _fixed_channels(x)
    attrs = _windows(n, x, 3)
    kernel = attrs.pop("kernel")
    groups = _groups(n, c)
    per_group = n.choice([1, 2, 3, 5]) if groups > 1 else channels(n)
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
    groups = _groups(n, _fixed_channels(x))
    w = n.weight((groups * n.choice([1, 2, 5]), _fixed_channels(x) // groups, *kernel), x.dtype, 0.3)
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
                y = n.emit("add", y, n.pick(lambda e, y=y: e.dtype is y.dtype and e.shape == y.shape))
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
        tb = b.shape[-1] == k and (tb or b.shape[-2] != k)
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
    pads = zip(attrs["padding"], spans, strict=True)
    attrs["padding"] = tuple((min(low, s // 2), min(high, s // 2)) for (low, high), s in pads)
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


def pole(n: Builder) -> Entry:
    """Operators that give infinities at zero, which is what block padding holds."""
    x = n.floating()
    if n.dim is not None or (x.array.size and float(np.min(np.abs(x.array))) < 0.05):
        raise Skip("too near to the pole")
    op = n.choice(["reciprocal", "log", "rsqrt"])
    return n.emit(op, x if op == "reciprocal" else n.emit("abs", x))


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
    pairs = ["logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"]
    op = n.choice(["logical_not", "bitwise_not", *pairs])
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
            starts, stops, steps = [*starts, 0], [*stops, e], [*steps, 1]
            continue
        start = n.int(0, max(0, e - 1))
        starts, stops = [*starts, start], [*stops, n.int(min(start + 1, e), e)]
        steps = [*steps, n.choice([1, 1, 1, 2, 3])]
    return n.emit("slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def channel_slices(n: Builder) -> Entry:
    """Channels taken apart at any position and put together again, with something in between."""
    x = n.pick(lambda e: e.rank >= 3 and isinstance(e.shape[1], int) and e.shape[1] >= 2)
    c = x.shape[1]
    at = sorted({0, c, *(n.int(1, c - 1) for _ in range(n.int(1, 3)))})
    parts = []
    for low, high in itertools.pairwise(at):
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


# -- which steps go together ---------------------------------------------------------------------------
Step = Callable[[Builder], Entry]
SHAPING: list[Step] = [reshape, permute, expand, cut, channel_slices, pad, flip, concat]
KINDS: dict[str, list[Step]] = {
    "image": [conv] * 7 + [conv_transpose, max_pool, max_pool, avg_pool, batch_norm, bn_conv, bn_conv, unary, binary,
              binary, pole, reduce, channel_slices, channel_slices, concat, concat, pad, flip, cut, softmax, permute,
              reshape],
    "rows": [matmul] * 6 + [softmax, layer_norm, unary, binary, binary, reduce, variance, where, *SHAPING, indexed],
    "shapes": [*SHAPING, *SHAPING, unary, binary, binary, where, reduce, matmul, conv, indexed, iota, cast],
    "dtypes": [cast, cast, cast, compare, compare, where, where, logical, logical, stepwise, modulo, binary, binary,
               unary, reduce, argument, argument, indexed, *SHAPING],
    "pools": [max_pool, max_pool, avg_pool, avg_pool, conv, unary, binary, reduce, argument, *SHAPING],
    "norms": [pole, softmax, layer_norm, batch_norm, variance, reduce, reduce, argument, unary, positive, binary,
              matmul, *SHAPING],
    "all": [conv, conv, conv_transpose, weight_grad, matmul, matmul, max_pool, avg_pool, batch_norm, bn_conv, softmax,
            layer_norm, unary, positive, stepwise, binary, binary, modulo, logical, compare, where, cast, reduce,
            variance, argument, indexed, iota, *SHAPING],
}  # fmt: skip
SMOOTH_STEPS: list[Step] = [
    conv, conv, conv_transpose, weight_grad, matmul, matmul, max_pool, avg_pool, batch_norm, softmax, layer_norm, unary,
    positive, binary, binary, reduce, variance, indexed, *SHAPING,
]  # fmt: skip
