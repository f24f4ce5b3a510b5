"""The operator records: the one place where an operator is defined.

Everything else - eager mode, tracing, differentiation, compilation, ONNX export - reads these records.
Lowering and ONNX rules are tables in ``codegen/`` keyed by the op's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import IngotError
from .types import TensorType

if TYPE_CHECKING:
    from .builder import GraphBuilder
    from .graph import Node, Value


class Fusion(Enum):
    """What a fusion pass may do with an operator."""

    ELEMENTWISE = "elementwise"  # out[i] = f(in[i]...), inputs broadcast NumPy-style
    INDEX = "index"  # out[i] = in[map(i)]: views, slices, pads, concatenation, broadcast
    REDUCE = "reduce"  # reduces whole axes named by attribute ``axes``
    CONTRACTION = "contraction"  # sums of products; takes an elementwise epilogue
    OPAQUE = "opaque"  # a kernel of its own
    CONSTANT = "constant"  # no inputs, no kernel (constant) or generated (iota)


REQUIRED = object()


@dataclass(frozen=True)
class Attr:
    """Declared attribute: ``kind`` is one of int, float, bool, str, dtype, layout, ints, floats, extents, pairs,
    array, scalar (int, float or bool), optional_int; ``default`` REQUIRED means it must be given."""

    kind: str
    default: Any = REQUIRED


Infer = Callable[[Sequence[TensorType], Mapping[str, Any]], "list[TensorType]"]
Reference = Callable[..., Any]  # (*arrays, **attrs) -> array or tuple of arrays
# vjp(g, node, grads) -> one gradient Value or None per input; grads[i] is None for unused outputs.
Vjp = Callable[["GraphBuilder", "Node", "list[Value | None]"], "list[Value | None]"]
# decompose(g, node) -> replacement values, one per output, built from simpler operators.
Decompose = Callable[["GraphBuilder", "Node"], "list[Value]"]


@dataclass(frozen=True)
class OpDef:
    """One operator.

    Attributes:
        name: IR name.
        attrs: declared attributes in print order.
        infer: shape and dtype rule; raises ShapeError / DTypeError that state the rule.
        reference: NumPy implementation, ``reference(*arrays, **attrs)``; defines the semantics.
        fusion: fusion kind.
        vjp: gradient rule built from operators; None means "not differentiable" (integer results) and
            ``decompose`` is used instead when present.
        decompose: equivalent in simpler operators, for code generation and gradients.
        unruled: operands whose gradient has no rule although others have one: asking for it is an error.
        arity: (min, max) number of inputs; max None for variadic.
        num_outputs: number of results.
        pure: no side effects and no hidden state (all present operators).
        doc: one line, with the formula.
    """

    name: str
    infer: Infer
    reference: Reference
    fusion: Fusion
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    vjp: Vjp | None = None
    decompose: Decompose | None = None
    arity: tuple[int, int | None] = (1, 1)
    num_outputs: int = 1
    pure: bool = True
    commutative: bool = False
    unruled: tuple[int, ...] = ()
    doc: str = ""

    def complete_attrs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``given`` with defaults filled in, in declared order; IngotError for unknown or missing ones."""
        unknown = set(given) - set(self.attrs)
        if unknown:
            raise IngotError(f"{self.name}: unknown attribute {sorted(unknown)}; it has {list(self.attrs)}")
        out = {}
        for key, attr in self.attrs.items():
            value = given.get(key, attr.default)
            if value is REQUIRED:
                raise IngotError(f"{self.name}: attribute {key!r} ({attr.kind}) is missing")
            out[key] = _normalise(attr.kind, value)
        return out


def _normalise(kind: str, value: Any) -> Any:
    if kind == "ints" or kind == "extents":
        return tuple(int(v) if isinstance(v, (int, np.integer)) else v for v in value)
    if kind == "floats":
        return tuple(float(v) for v in value)
    if kind == "pairs":
        return tuple((int(a), int(b)) for a, b in value)
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    if kind == "bool":
        return bool(value)
    return value


OPS: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Add a record; ValueError if the name is taken."""
    if op.name in OPS:
        raise ValueError(f"operator {op.name!r} is defined twice")
    OPS[op.name] = op
    return op


def get(name: str) -> OpDef:
    """The record of ``name``; IngotError if there is none."""
    try:
        return OPS[name]
    except KeyError:
        raise IngotError(f"unknown operator {name!r}") from None
