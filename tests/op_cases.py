"""Sample operands and attributes for every operator, by name.

``cases(op, seed)`` gives ``Case`` records in every dtype the operator takes: scalars, extents 0 and 1,
broadcasting, lengths that leave vector tails, special values. ``gradient_cases(op, seed)`` gives small
float64 cases at least ``MARGIN`` away from kinks and ties, where finite differences mean something.
Operators without cases are in ``WITHOUT_CASES``, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ingot.ir import dtypes
from ingot.ir.dtypes import DType, bool_, float32, float64
from ingot.ir.layout import Layout
from op_sampling import Case, away_from, distinct, sample, special_values

FLOATS = (dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16)
INTS = tuple(d for d in dtypes.ALL if d.is_integer)
NUMERIC = FLOATS + INTS
ANY = (*NUMERIC, bool_)
WITHOUT_CASES = {"fused": "its meaning is the region it holds, not attributes; tested with graphs"}


Maker = Callable[[np.random.Generator, DType], Iterator[Case]]
GradMaker = Callable[[np.random.Generator], Iterator[Case]]
_MAKERS: dict[str, tuple[Maker, tuple[DType, ...]]] = {}
_GRADS: dict[str, GradMaker] = {}


def cases(op: str, seed: int, only: Sequence[DType] | None = None) -> list[Case]:
    """Every case of ``op`` from this seed, in all its dtypes or ``only`` some; KeyError for an unknown op."""
    maker, takes = _MAKERS[op]
    out = []
    for d in takes:
        if only is None or d in only:
            out += list(maker(np.random.default_rng([seed, dtypes.ALL.index(d)]), d))
    return out


def gradient_cases(op: str, seed: int) -> list[Case]:
    """Float64 cases for finite differences; empty for operators without a gradient."""
    return list(_GRADS[op](np.random.default_rng(seed))) if op in _GRADS else []


def ops_with_cases() -> list[str]:
    return sorted(_MAKERS)


SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (3, 5), (2, 0, 3), (67,), (2, 3, 4, 5))
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((), ()), ((19,), (19,)), ((2, 3), (3,)), ((2, 1, 4), (3, 1)), ((1,), (5,)), ((0, 3), (1, 3)), ((), (4,)),
    ((2, 3, 4), ()), ((2, 3, 4, 5), (3, 1, 1)), ((1, 1), (1,)), ((5, 1), (5, 0)),
)  # fmt: skip


# -- elementwise, one operand -------------------------------------------------------------------------
def _unary(
    op: str,
    takes: tuple[DType, ...] = FLOATS,
    low: float = -4,
    high: float = 4,
    attrs: Sequence[Mapping[str, Any]] = ({},),
    kinks: Sequence[float] | None = (),
    grad_low: float | None = None,
) -> None:
    """``kinks``: None for no gradient; ``grad_low``: operands of gradient cases start there."""

    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for a in attrs:
            for shape in SHAPES:
                yield Case(op, f"shape {shape}", (sample(rng, shape, d, low, high),), a)
            yield Case(op, "special", (special_values(d),), a, special=True)

    def make_grad(rng: np.random.Generator) -> Iterator[Case]:
        assert kinks is not None
        for a in attrs:
            for shape in ((), (1,), (4, 3), (0, 2)):
                x = rng.uniform(grad_low, 3, shape) if grad_low is not None else away_from(rng, shape, kinks)
                yield Case(op, f"shape {shape}", (np.asarray(x),), a)

    _MAKERS[op] = (make, takes)
    if kinks is not None:
        _GRADS[op] = make_grad


for _name in ("neg", "sign"):
    _unary(_name, NUMERIC, kinks=(0,))
_unary("abs", NUMERIC, kinks=(0,))
_unary("relu", NUMERIC, kinks=(0,))
for _name in ("exp", "expm1", "sin", "cos", "tanh", "erf", "sigmoid", "silu"):
    _unary(_name, low=-8, high=8)
for _name in ("log", "sqrt", "rsqrt"):
    _unary(_name, low=0.01, high=50, grad_low=0.3)
_unary("log1p", low=-0.9, high=20, grad_low=-0.6)
_unary("reciprocal", low=0.1, high=9, grad_low=0.4)
for _name in ("floor", "ceil", "round", "trunc"):
    _unary(_name, low=-9, high=9, kinks=[k / 2 for k in range(-6, 7)])
for _name in ("isnan", "isinf", "isfinite"):
    _unary(_name, kinks=None)
_unary("logical_not", ANY, kinks=None)
_unary("bitwise_not", (*INTS, bool_), kinks=None)
_unary("identity", ANY)
_unary("gelu", attrs=({}, {"approximate": "tanh"}))
_unary("leaky_relu", attrs=({}, {"negative_slope": 0.3}), kinks=(0,))
_unary("elu", attrs=({}, {"alpha": 0.7}), kinks=(0,))
_unary("softplus", attrs=({}, {"beta": 2.0, "threshold": 3.0}), kinks=(1.5,))
_unary("hardsigmoid", kinks=(-3, 3))
_unary("hardswish", kinks=(-3, 3))
_unary(
    "clamp", NUMERIC, attrs=({"min": 0, "max": 2}, {"min": 1}, {"max": 3}, {"min": 3, "max": 1}),
    kinks=(0, 1, 2, 3),
)  # fmt: skip


def _cast_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for to in ANY:
        low, high = (0, 100) if to.kind == "u" else (-100, 100)
        for shape in ((), (33,), (2, 0)):
            yield Case("cast", f"to {to.name}", (sample(rng, shape, d, low, high),), {"dtype": to})
        if to.kind in "fb" or not d.is_floating_point:
            yield Case("cast", f"special to {to.name}", (special_values(d),), {"dtype": to}, special=True)


_MAKERS["cast"] = (_cast_cases, ANY)
_GRADS["cast"] = lambda rng: iter([Case("cast", "same", (rng.normal(size=(3, 2)),), {"dtype": float64})])


# -- elementwise, two and three operands --------------------------------------------------------------
_GRAD_PAIRS = (((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,)), ((1, 2), (1, 1)), ((2, 0), (1, 1)))


def _binary(
    op: str,
    takes: tuple[DType, ...] = NUMERIC,
    first: tuple[float, float] = (-4, 4),
    second: tuple[float, float] = (-4, 4),
    grad: str | None = "plain",
) -> None:
    """``grad``: None, "plain", "positive" (both operands), "divisor" (the second away from 0) or "distinct"."""
    divides = op in ("floor_divide", "remainder")

    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for a, b in PAIRS:
            right = sample(rng, b, d, *second)
            if divides:  # division by zero has its own case
                right = np.where(right == 0, np.ones_like(right), right)
            yield Case(op, f"shapes {a} {b}", (sample(rng, a, d, *first), right))
        values = special_values(d)
        left, right = (m.reshape(-1) for m in np.meshgrid(values, values))
        odd = (divides and not d.is_floating_point) or (op == "pow" and d.is_integer)
        yield Case(op, "special", (left, right), special=True, undefined=odd)

    def make_grad(rng: np.random.Generator) -> Iterator[Case]:
        for a, b in _GRAD_PAIRS:
            x, y = rng.normal(size=a) * 2, rng.normal(size=b)
            if grad == "divisor":
                y = y + np.copysign(0.5, y)
            if grad == "positive":
                x, y = np.abs(x) + 0.4, np.abs(y) + 0.4
            if grad == "distinct":
                both = distinct(rng, (int(np.prod(a, dtype=int)) + int(np.prod(b, dtype=int)),))
                x, y = both[: both.size - y.size].reshape(a), both[both.size - y.size :].reshape(b)
            yield Case(op, f"shapes {a} {b}", (np.asarray(x), np.asarray(y)))
        if grad != "distinct":
            same = rng.uniform(0.5, 2, 3)
            yield Case(op, "equal operands", (same, same.copy()))

    _MAKERS[op] = (make, takes)
    if grad is not None:
        _GRADS[op] = make_grad


for _name in ("add", "sub", "mul"):
    _binary(_name)
_binary("div", FLOATS, second=(0.2, 4), grad="divisor")
_binary("pow", NUMERIC, first=(0.1, 4), second=(0, 4), grad="positive")
for _name in ("maximum", "minimum"):
    _binary(_name, grad="distinct")
_binary("floor_divide", first=(-40, 40), second=(1, 7), grad=None)
_binary("remainder", first=(-40, 40), second=(1, 7), grad=None)
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"):
    _binary(_name, ANY, grad=None)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _binary(_name, (*INTS, bool_), first=(-100, 100), second=(-100, 100), grad=None)


def _division_grads(op: str) -> GradMaker:
    def make(rng: np.random.Generator) -> Iterator[Case]:
        for a, b in _GRAD_PAIRS:  # quotients k + 0.2 .. k + 0.8, away from the jumps
            y = rng.uniform(0.5, 2, b) * rng.choice([-1, 1], b)
            shape = np.broadcast_shapes(a, b)
            if shape == a:
                x = (rng.integers(-3, 3, shape) + rng.uniform(0.2, 0.8, shape)) * y
                yield Case(op, f"shapes {a} {b}", (np.asarray(x), np.asarray(y)))

    return make


_GRADS["floor_divide"] = _division_grads("floor_divide")
_GRADS["remainder"] = _division_grads("remainder")


def _where_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for c, a, b in (
        ((), (), ()), ((7,), (7,), (7,)), ((3, 1), (4,), (2, 1, 1)), ((5,), (), (5,)), ((2, 3), (2, 3), ()),
        ((0, 2), (2,), (1, 1)), ((1,), (33,), (33,)),
    ):  # fmt: skip
        yield Case("where", f"{c} {a} {b}", (sample(rng, c, bool_), sample(rng, a, d), sample(rng, b, d)))
    s = special_values(d)
    yield Case("where", "special", (sample(rng, s.shape, bool_), s, s[::-1].copy()), special=True)


_MAKERS["where"] = (_where_cases, ANY)
_GRADS["where"] = lambda rng: (
    Case("where", str(s), (rng.random(s[0]) < 0.5, rng.normal(size=s[1]), rng.normal(size=s[2])))
    for s in (((3,), (3,), (3,)), ((2, 1), (3,), (1, 1)), ((2,), (), (2,)))
)


# -- reductions ---------------------------------------------------------------------------------------
_REDUCE_SHAPES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((), ()), ((7,), (0,)), ((3, 5), ()), ((3, 5), (0,)), ((3, 5), (1,)), ((3, 5), (0, 1)), ((2, 3, 4, 5), (0, 2, 3)),
    ((2, 3, 4, 5), (1,)), ((1, 4), (0,)), ((0, 3), (1,)), ((67,), (0,)), ((5, 129), (1,)),
)  # fmt: skip


def _reduction(op: str, takes: tuple[DType, ...], of_nothing: bool, low: float = -4, high: float = 4) -> None:
    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        shapes = [*_REDUCE_SHAPES, *([((0, 3), (0,)), ((2, 0), (0, 1))] if of_nothing else [])]
        for (shape, axes), keepdims in itertools.product(shapes, (False, True)):
            depth = max(1, int(np.prod([shape[a] for a in axes], dtype=int)))
            x = sample(rng, shape, d, low, high)
            label = f"{shape} over {axes}"
            yield Case(op, label, (x,), {"axes": axes, "keepdims": keepdims}, depth=depth)
        s = special_values(d)
        if d is not bool_:
            three = np.stack([s, np.roll(s, 1), np.roll(s, 2)])
            yield Case(op, "special", (three,), {"axes": (0,)}, special=True, depth=3)

    def make_grad(rng: np.random.Generator) -> Iterator[Case]:
        shapes = (
            ((), ()), ((4,), (0,)), ((2, 3), (0,)), ((2, 3, 2), (0, 2)), ((2, 3), ()), ((1, 3), (0,)), ((0, 3), (1,))
        )  # fmt: skip
        for (shape, axes), keepdims in itertools.product(shapes, (False, True)):
            yield Case(op, f"{shape} over {axes}", (distinct(rng, shape),), {"axes": axes, "keepdims": keepdims})
        if op == "prod":  # zeros: one and two in a row
            x = distinct(rng, (3, 3))
            x[0, 1] = x[1, 0] = x[1, 2] = 0
            yield Case(op, "zeros", (x,), {"axes": (1,)})
            yield Case(op, "zeros, two axes", (x[:2],), {"axes": (0, 1)})

    _MAKERS[op] = (make, takes)
    if op not in ("any", "all"):
        _GRADS[op] = make_grad


_reduction("sum", NUMERIC, True)
_reduction("mean", FLOATS, True)
_reduction("prod", NUMERIC, True, 0.5, 1.9)
_reduction("amax", NUMERIC, False)
_reduction("amin", NUMERIC, False)
_reduction("any", (bool_,), True)
_reduction("all", (bool_,), True)


def _arg_reduction(op: str) -> None:
    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for shape, axis in (((7,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 4), 1), ((1, 4), 0), ((0, 3), 1), ((67,), 0)):
            for keepdims in (False, True):
                x = sample(rng, shape, d)  # integers repeat: first of equals
                yield Case(op, f"{shape} along {axis}", (x,), {"axis": axis, "keepdims": keepdims})
        s = special_values(d)
        rows = np.stack([np.roll(s, k) for k in range(4)])
        yield Case(op, "special", (rows,), {"axis": 1}, special=True)

    _MAKERS[op] = (make, NUMERIC)


_arg_reduction("argmax")
_arg_reduction("argmin")


# -- indexing -----------------------------------------------------------------------------------------
def _index_op(op: str, table: Sequence[tuple[tuple[int, ...], Mapping[str, Any]]]) -> None:
    """One operand; ``table`` of (shape, attrs); values do not matter."""

    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for shape, attrs in table:
            yield Case(op, f"shape {shape}", (sample(rng, shape, d),), attrs)

    _MAKERS[op] = (make, ANY)
    _GRADS[op] = lambda rng: (
        Case(op, f"shape {s}", (rng.normal(size=s),), a) for s, a in table if int(np.prod(s, dtype=int)) <= 40
    )


_index_op("reshape", [
    ((), {"shape": (1, 1)}), ((6,), {"shape": (2, 3)}), ((2, 3, 4), {"shape": (6, 4)}), ((2, 3), {"shape": (3, 2)}),
    ((0, 3), {"shape": (5, 0)}), ((1,), {"shape": ()}),
])  # fmt: skip
_index_op("permute", [
    ((), {"dims": ()}), ((3, 5), {"dims": (1, 0)}), ((2, 3, 4), {"dims": (2, 0, 1)}), ((2, 0, 3), {"dims": (1, 2, 0)}),
    ((2, 3, 4, 5), {"dims": (0, 2, 3, 1)}), ((17, 33), {"dims": (1, 0)}), ((1, 4), {"dims": (1, 0)}),
])  # fmt: skip
_index_op("expand", [
    ((), {"shape": (2, 3)}), ((1,), {"shape": (4,)}), ((3, 1), {"shape": (2, 3, 4)}), ((5,), {"shape": (5,)}),
    ((1, 3), {"shape": (0, 3)}), ((2, 1, 2), {"shape": (2, 1, 2)}),
])  # fmt: skip
_index_op("flip", [
    ((4,), {"axes": (0,)}), ((2, 3, 4), {"axes": (0, 2)}), ((3, 0), {"axes": (0, 1)}), ((3,), {"axes": ()}),
])  # fmt: skip
_index_op("slice", [
    ((), {"starts": (), "stops": (), "steps": ()}), ((7,), {"starts": (1,), "stops": (6,), "steps": (2,)}),
    ((7,), {"starts": (0,), "stops": (7,), "steps": (3,)}),
    ((4, 5), {"starts": (2, 0), "stops": (2, 5), "steps": (1, 1)}),
    ((3, 4, 5), {"starts": (0, 1, 2), "stops": (3, 4, 5), "steps": (1, 1, 4)}),
    ((5,), {"starts": (5,), "stops": (5,), "steps": (2,)}), ((0,), {"starts": (0,), "stops": (0,), "steps": (1,)}),
])  # fmt: skip
_index_op("pad", [
    ((), {"low": (), "high": (), "interior": ()}), ((4,), {"low": (1,), "high": (2,), "interior": (0,), "value": 1}),
    ((3, 2), {"low": (0, 1), "high": (1, 0), "interior": (2, 1), "value": 0}),
    ((0, 2), {"low": (1, 0), "high": (1, 0), "interior": (3, 0), "value": 1}),
    ((1, 3), {"low": (0, 0), "high": (0, 0), "interior": (4, 0), "value": 0}),
    ((2, 3, 5, 5), {"low": (0, 0, 1, 1), "high": (0, 0, 1, 1), "interior": (0, 0, 0, 0), "value": 0}),
])  # fmt: skip

_CONCATS = [
    ([(2, 3), (4, 3)], 0), ([(2, 3), (2, 1), (2, 0), (2, 5)], 1), ([(3,)], 0), ([(0,), (2,)], 0),
    ([(2, 3, 1, 2), (2, 4, 1, 2)], 1),
]  # fmt: skip
_MAKERS["concat"] = (
    lambda rng, d: (Case("concat", str(s), tuple(sample(rng, t, d) for t in s), {"axis": a}) for s, a in _CONCATS),
    ANY,
)
_GRADS["concat"] = lambda rng: (
    Case("concat", str(s), tuple(rng.normal(size=t) for t in s), {"axis": a}) for s, a in _CONCATS
)

_GATHERS = [
    ((5,), (3,), 0), ((4, 3), (2, 3), 0), ((4, 3), (4, 7), 1), ((3, 4, 2), (2, 6, 1), 1), ((4,), (0,), 0),
    ((1, 2), (1, 2), 0),
]  # fmt: skip
_SELECTS = [((5,), 3, 0), ((4, 3), 6, 0), ((2, 3, 4), 2, 1), ((3, 2), 0, 1), ((0, 3), 2, 1)]


def _gather_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for x, index, axis in _GATHERS:
        yield Case("gather", f"{x} {index}", (sample(rng, x, d), rng.integers(0, x[axis], index)), {"axis": axis})


def _scatter_cases(rng: np.random.Generator, d: DType, op: str = "scatter_add") -> Iterator[Case]:
    for x, index, axis in _GATHERS:
        for more in (0, 1):  # src larger than the index: the rest is not used
            src = sample(rng, tuple(n + more for n in index), d, 0, 4)
            inputs = (sample(rng, x, d, 0, 4), rng.integers(0, x[axis], index), src)
            yield Case(op, f"{x} {index} + {more}", inputs, {"axis": axis}, depth=index[axis] + 1)


def _scatter_grads(rng: np.random.Generator) -> Iterator[Case]:
    """Without equal indices, whose gradients count every one."""
    for x, index, axis in _GATHERS:
        if index[axis] <= x[axis]:
            places = np.argsort(rng.random(tuple(x[axis] if a == axis else n for a, n in enumerate(index))), axis)
            inputs = (rng.normal(size=x), places.take(range(index[axis]), axis), rng.normal(size=index))
            yield Case("scatter", f"{x} {index}", inputs, {"axis": axis})


def _select_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for x, n, axis in _SELECTS:
        yield Case("index_select", f"{x} {n}", (sample(rng, x, d), rng.integers(0, x[axis], n)), {"axis": axis})


_MAKERS["gather"] = (_gather_cases, ANY)
_MAKERS["scatter_add"] = (_scatter_cases, NUMERIC)
_MAKERS["scatter"] = (lambda rng, d: _scatter_cases(rng, d, "scatter"), ANY)
_GRADS["scatter"] = _scatter_grads
_MAKERS["index_select"] = (_select_cases, ANY)
for _name in ("gather", "scatter_add", "index_select"):
    _GRADS[_name] = lambda rng, op=_name: _MAKERS[op][0](rng, float64)


# -- generated ----------------------------------------------------------------------------------------
_MAKERS["constant"] = (
    lambda rng, d: (Case("constant", str(s), (), {"value": sample(rng, s, d)}) for s in ((), (3,), (2, 0), (40,))), ANY,
)  # fmt: skip
_MAKERS["iota"] = (
    lambda rng, d: (
        Case("iota", f"{s} along {a}", (), {"shape": s, "axis": a, "dtype": d})
        for s, a in (((5,), 0), ((2, 3, 4), 1), ((0, 2), 0), ((1, 7), 1), ((100,), 0))
    ),
    NUMERIC,
)


def _uniform_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape in ((), (1,), (3,), (4,), (33,), (2, 3, 5), (0,), (2, 0)):
        for state in ((0, 0), (-1, 2**32 - 1), (12345678901234, 7), (2**63 - 1, -1)):
            yield Case("random_uniform", f"{shape}", (np.array(state),), {"shape": shape, "dtype": d})


_MAKERS["random_uniform"] = (_uniform_cases, (float32, float64))


# -- contraction --------------------------------------------------------------------------------------
_MATMULS = [
    ((3, 4), (4, 5), {}), ((4, 3), (4, 5), {"transpose_a": True}), ((3, 4), (5, 4), {"transpose_b": True}),
    ((4, 3), (5, 4), {"transpose_a": True, "transpose_b": True}), ((2, 3, 4), (4, 5), {}),
    ((2, 1, 3, 4), (3, 4, 2), {}),
    ((1, 1), (1, 1), {}), ((0, 4), (4, 5), {}), ((3, 0), (0, 2), {}),
    ((2, 4, 3), (1, 5, 4), {"transpose_a": True, "transpose_b": True}),
]  # fmt: skip
_LARGE_MATMULS = [((17, 33), (33, 19), {}), ((64, 70), (48, 70), {"transpose_b": True}), ((1, 130), (130, 40), {})]


def _matmul_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for a, b, attrs in _MATMULS + _LARGE_MATMULS:
        depth = max(1, a[-2] if attrs.get("transpose_a") else a[-1])
        yield Case("matmul", f"{a} {b}", (sample(rng, a, d), sample(rng, b, d)), attrs, depth=depth)


_MAKERS["matmul"] = (_matmul_cases, FLOATS)
_GRADS["matmul"] = lambda rng: (
    Case("matmul", f"{a} {b}", (rng.normal(size=a), rng.normal(size=b)), attrs) for a, b, attrs in _MATMULS
)

# x, w, stride, padding, dilation, groups
_CONVS: list[tuple[tuple[int, ...], tuple[int, ...], tuple, tuple, tuple, int]] = [
    ((2, 3, 6), (4, 3, 3), (1,), ((1, 1),), (1,), 1),
    ((1, 2, 5, 6), (3, 2, 3, 2), (2, 1), ((1, 0), (0, 1)), (1, 2), 1),
    ((2, 4, 5, 5), (4, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    ((1, 4, 4, 4), (6, 2, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    ((1, 2, 3, 4, 3), (2, 2, 2, 2, 2), (1, 2, 1), ((0, 0), (1, 1), (0, 0)), (1, 1, 1), 1),
    ((0, 2, 4), (3, 2, 2), (1,), ((0, 0),), (1,), 1),
]
_LARGE_CONVS: list[tuple[tuple[int, ...], tuple[int, ...], tuple, tuple, tuple, int]] = [
    ((2, 3, 17, 15), (20, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    ((1, 32, 9, 9), (33, 32, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((1, 40, 7, 7), (40, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 40),
]


def _conv_attrs(stride: tuple, padding: tuple, dilation: tuple, groups: int) -> dict[str, Any]:
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def _conv_extents(x: Sequence[int], kernel: Sequence[int], stride: tuple, padding: tuple, dilation: tuple) -> list[int]:
    return [
        (e + lo + hi - d * (k - 1) - 1) // s + 1
        for e, k, s, (lo, hi), d in zip(x, kernel, stride, padding, dilation, strict=True)
    ]


def _conv_family(rng: np.random.Generator, d: DType, op: str, large: bool = True) -> Iterator[Case]:
    for x, w, stride, padding, dilation, groups in _CONVS + (_LARGE_CONVS if large else []):
        attrs = _conv_attrs(stride, padding, dilation, groups)
        out = _conv_extents(x[2:], w[2:], stride, padding, dilation)
        dy = (x[0], w[0], *out)
        label = f"{x} {w} s{stride} g{groups}"
        taps = int(np.prod(w[2:]))
        if op == "conv":
            inputs = (sample(rng, x, d), sample(rng, w, d))
            depth = taps * w[1]
        elif op == "conv_transpose":
            inputs = (sample(rng, dy, d), sample(rng, w, d))
            smallest = [
                (n - 1) * s + dil * (k - 1) + 1 - lo - hi
                for n, k, s, (lo, hi), dil in zip(out, w[2:], stride, padding, dilation, strict=True)
            ]
            attrs["output_padding"] = tuple(e - n for e, n in zip(x[2:], smallest, strict=True))
            depth = taps * w[0] // groups
        else:
            inputs = (sample(rng, x, d), sample(rng, dy, d))
            attrs["kernel"] = w[2:]
            depth = x[0] * int(np.prod(out))
        yield Case(op, label, inputs, attrs, depth=max(1, depth))


for _name in ("conv", "conv_transpose", "conv_weight_grad"):
    _MAKERS[_name] = (lambda rng, d, op=_name: _conv_family(rng, d, op), FLOATS)
    _GRADS[_name] = lambda rng, op=_name: _conv_family(rng, float64, op, large=False)


# -- pooling ------------------------------------------------------------------------------------------
_POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 7), {"kernel": (2,), "stride": (2,), "padding": ((0, 0),)}),
    ((1, 2, 5, 6), {"kernel": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1))}),
    ((2, 1, 6, 6), {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "ceil_mode": True}),
    ((1, 2, 3, 4, 4), {"kernel": (2, 2, 2), "stride": (1, 2, 2), "padding": ((0, 0), (1, 1), (0, 0))}),
    ((1, 17, 9, 9), {"kernel": (3, 3), "stride": (3, 3), "padding": ((0, 0), (0, 0))}),
    ((0, 2, 4), {"kernel": (2,), "stride": (2,), "padding": ((0, 0),)}),
]
_AVG_EXTRAS: tuple[dict[str, Any], ...] = ({}, {"count_include_pad": False}, {"divisor_override": 3})


def _max_pool_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape, attrs in _POOLS:
        for dilation in ((1,), (2,)):
            full = {**attrs, "dilation": dilation * (len(shape) - 2)}
            if dilation == (1,) or shape[2] >= 6:
                yield Case("max_pool", f"{shape} dilation {dilation}", (sample(rng, shape, d),), full)
    if d.is_floating_point:
        s = np.resize(special_values(d), (1, 2, 40))
        attrs = {"kernel": (3,), "stride": (1,), "padding": ((1, 1),), "dilation": (1,)}
        yield Case("max_pool", "special", (s,), attrs, special=True)


def _avg_pool_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for (shape, attrs), more in itertools.product(_POOLS, _AVG_EXTRAS):
        depth = int(np.prod(attrs["kernel"]))
        yield Case("avg_pool", f"{shape}", (sample(rng, shape, d),), {**attrs, **more}, depth=depth)


def _pool_extent(e: int, k: int, s: int, pads: tuple[int, int], ceil_mode: bool) -> int:
    n = (e + sum(pads) - k + (s - 1 if ceil_mode else 0)) // s + 1
    return n - 1 if ceil_mode and (n - 1) * s >= e + pads[0] else n  # no window starts beyond the data


def _avg_pool_grad_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for (shape, attrs), more in itertools.product(_POOLS, _AVG_EXTRAS):
        windows = zip(shape[2:], attrs["kernel"], attrs["stride"], attrs["padding"], strict=True)
        out = [_pool_extent(e, k, s, p, attrs.get("ceil_mode", False)) for e, k, s, p in windows]
        full = {"input_shape": shape[2:], **attrs, **more}
        depth = int(np.prod(attrs["kernel"]))
        yield Case("avg_pool_grad", f"{shape}", (sample(rng, (*shape[:2], *out), d),), full, depth=depth)


_MAKERS["max_pool"] = (_max_pool_cases, NUMERIC)
_MAKERS["avg_pool"] = (_avg_pool_cases, FLOATS)
_MAKERS["avg_pool_grad"] = (_avg_pool_grad_cases, FLOATS)
_GRADS["max_pool"] = lambda rng: (
    Case("max_pool", f"{s}", (distinct(rng, s),), {**a, "dilation": (1,) * (len(s) - 2)}) for s, a in _POOLS
)
_GRADS["avg_pool"] = lambda rng: _avg_pool_cases(rng, float64)
_GRADS["avg_pool_grad"] = lambda rng: _avg_pool_grad_cases(rng, float64)


# -- resampling ---------------------------------------------------------------------------------------
_RESIZES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 7), {"mode": "nearest", "sizes": (14,)}),
    ((1, 2, 5, 6), {"mode": "nearest-exact", "sizes": (3, 13)}),
    ((1, 2, 5, 6), {"mode": "linear", "sizes": (10, 12)}),
    ((2, 1, 6, 5), {"mode": "linear", "sizes": (4, 9), "align_corners": True}),
    ((1, 1, 4, 5), {"mode": "linear", "sizes": (6, 7), "scales": (1.6, 1.5)}),
    ((1, 2, 3, 4, 2), {"mode": "linear", "sizes": (6, 4, 3)}),
    ((1, 2, 5, 4), {"mode": "cubic", "sizes": (9, 8)}),
    ((1, 2, 7, 9), {"mode": "area", "sizes": (3, 4)}),
    ((1, 1, 9, 8), {"mode": "linear", "sizes": (4, 5), "antialias": True}),
    ((1, 2, 3, 3), {"mode": "linear", "sizes": (3, 3)}),
    ((0, 2, 4), {"mode": "linear", "sizes": (8,)}),
]
_LARGE_RESIZES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 20, 40), {"mode": "linear", "sizes": (33, 75)}),  # several vectors, a tail, two windows
    ((1, 17, 6, 35), {"mode": "cubic", "sizes": (5, 50)}),
    ((1, 1, 40, 70), {"mode": "area", "sizes": (3, 20)}),  # more taps than are written out
    ((1, 2, 9, 90), {"mode": "nearest", "sizes": (18, 21)}),
]


def _resize_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape, attrs in _RESIZES + _LARGE_RESIZES:
        yield Case("resize", f"{shape} {attrs['mode']}", (sample(rng, shape, d),), attrs, depth=64)


_RESAMPLES = [((7,), 12, 0, 2), ((3, 5), 4, 0, 3), ((2, 3, 40), 37, 2, 4), ((2, 4, 3), 9, 1, 1), ((2, 1, 3), 4, 1, 11)]


def _resample_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for shape, size, axis, taps in _RESAMPLES:
        places = rng.integers(0, shape[axis], size).astype(np.int32)
        for ascending in (False, True):
            first = np.sort(places) if ascending else places
            step = int(np.diff(first).max()) if ascending else -1
            operands = (sample(rng, shape, d), first, sample(rng, (taps, size), d))
            attrs = {"axis": axis, "pace": float(step)}
            yield Case("resample", f"{shape} {size} taps {taps}", operands, attrs, depth=taps)
        yield Case("resample", f"{shape} {size} chosen", operands[:2], attrs)


_MAKERS["resize"] = (_resize_cases, FLOATS)
_MAKERS["resample"] = (_resample_cases, FLOATS)
_GRADS["resize"] = lambda rng: (
    Case("resize", f"{s} {a['mode']}", (rng.normal(size=s),), a) for s, a in _RESIZES
)
_GRADS["resample"] = lambda rng: (c for c in _resample_cases(rng, float64) if c.inputs[0].size < 50)


# -- normalisation ------------------------------------------------------------------------------------
_SOFTMAXES = [((5,), 0), ((3, 7), 1), ((3, 7), 0), ((2, 4, 3), 1), ((0, 3), 1), ((2, 1), 1), ((4, 100), 1)]


def _softmax_cases(op: str) -> Maker:
    def make(rng: np.random.Generator, d: DType) -> Iterator[Case]:
        for shape, axis in _SOFTMAXES:
            yield Case(op, f"{shape}", (sample(rng, shape, d, -6, 6),), {"axis": axis}, depth=max(1, shape[axis]))
        big = sample(rng, (2, 6), d, -300, 300)
        yield Case(op, "far apart", (big,), {"axis": 1}, depth=6)
        yield Case(op, "minus infinity", (np.where(big < 0, -np.inf, big).astype(d.numpy),), {"axis": 1}, special=True)

    return make


for _name in ("softmax", "log_softmax"):
    _MAKERS[_name] = (_softmax_cases(_name), FLOATS)
    _GRADS[_name] = lambda rng, op=_name: (
        Case(op, f"{s}", (rng.normal(size=s),), {"axis": a}) for s, a in _SOFTMAXES[:-1]
    )

_LAYER_NORMS = [((6,), 1), ((3, 5), 1), ((2, 3, 4), 2), ((0, 4), 1), ((2, 130), 1)]
_BATCH_NORMS = [(5, 3), (2, 3, 4), (2, 3, 4, 5), (1, 2, 3), (3, 18, 2, 2)]


def _layer_norm_cases(rng: np.random.Generator, d: DType) -> Iterator[Case]:
    for (shape, ndim), operands in itertools.product(_LAYER_NORMS, (1, 2, 3)):
        tail = shape[len(shape) - ndim :]
        inputs = [sample(rng, shape, d), sample(rng, tail, d, 0.5, 2), sample(rng, tail, d, -1, 1)][:operands]
        attrs = {"ndim": ndim, "eps": 1e-5}
        yield Case("layer_norm", f"{shape} {operands}", tuple(inputs), attrs, depth=int(np.prod(tail)))


def _batch_norm_cases(rng: np.random.Generator, d: DType, train: bool = False) -> Iterator[Case]:
    for shape in _BATCH_NORMS:
        c = shape[1:2]
        inputs = [sample(rng, shape, d), sample(rng, c, d, 0.5, 2), sample(rng, c, d, -1, 1)]
        if not train:
            inputs += [sample(rng, c, d, -1, 1), sample(rng, c, d, 0.3, 2)]
        op = "batch_norm_train" if train else "batch_norm"
        yield Case(op, f"{shape}", tuple(inputs), {"eps": 1e-5}, depth=int(np.prod(shape)) // c[0])


_MAKERS["layer_norm"] = (_layer_norm_cases, FLOATS)
_MAKERS["batch_norm"] = (_batch_norm_cases, FLOATS)
_MAKERS["batch_norm_train"] = (lambda rng, d: _batch_norm_cases(rng, d, True), FLOATS)
_GRADS["layer_norm"] = lambda rng: _layer_norm_cases(rng, float64)
_GRADS["batch_norm"] = lambda rng: _batch_norm_cases(rng, float64)
_GRADS["batch_norm_train"] = lambda rng: _batch_norm_cases(rng, float64, True)


# -- structure ----------------------------------------------------------------------------------------
_index_op("layout_cast", [
    ((3, 5), {"layout": Layout(order=(1, 0))}), ((2, 20, 3, 3), {"layout": Layout(blocks=((1, 8),))}),
    ((2, 3, 4), {"layout": Layout()}), ((1, 2, 3, 3), {"layout": Layout(halo=((0, 0), (0, 0), (1, 1), (1, 1)))}),
])  # fmt: skip

# Families with a file of their own register themselves here.
import op_cases_elementary  # noqa: E402, F401
import op_cases_scans  # noqa: E402, F401
import op_cases_shape  # noqa: E402, F401
