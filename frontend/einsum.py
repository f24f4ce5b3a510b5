"""``einsum``: sums of products of named axes, as products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir import dims
from . import dispatch, elementwise, linalg, reduce, shaping, viewing
from .size import is_int

if TYPE_CHECKING:
    from .tensor import Tensor

Labels = list[Any]  # a letter per axis; ("...", k): the k-th axis from the end of an ellipsis


def einsum(*args: Any) -> Tensor:
    """``einsum("ij,jk->ik", a, b)``, or with lists of axis numbers: ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.

    Axes of one name are multiplied along and summed unless the result names them. Without an arrow the result has the
    ellipsis' axes and the letters that occur once, in alphabetical order. Products are formed from left to right.
    RuntimeError for malformed equations and for axes that do not fit.
    """
    if not args:
        raise ValueError("einsum(): must specify the equation string and at least one operand")
    equation, operands = (args[0], list(args[1:])) if isinstance(args[0], str) else _from_lists(args)
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not operands:
        raise ValueError("einsum(): must specify at least one operand")
    terms, result = _parse(equation, operands)
    prepared = [_without_repeats(t, labels) for t, labels in zip(operands, terms, strict=True)]
    _check_extents(prepared)
    total, labels = _summed(*prepared[0], _needed(prepared[1:], result))
    for k in range(1, len(prepared)):
        later = _needed(prepared[k + 1 :], result)
        other, names = _summed(*prepared[k], later | set(labels))
        total, labels = _multiplied(total, labels, other, names, later)
    total, labels = _summed(total, labels, set(result))
    return shaping.permute(total, [labels.index(x) for x in result])


def _from_lists(args: Any) -> tuple[str, list[Tensor]]:
    operands, terms = [], []
    rest = list(args)
    while len(rest) >= 2:
        operands.append(rest.pop(0))
        terms.append(_letters(rest.pop(0)))
    return ",".join(terms) + ("->" + _letters(rest[0]) if rest else ""), operands


def _letters(sublist: Any) -> str:
    out = ""
    for s in sublist:
        if s is Ellipsis:
            out += "..."
        elif is_int(s) and 0 <= s < 52:
            out += chr(ord("A") + s) if s < 26 else chr(ord("a") + s - 26)
        else:
            raise RuntimeError(f"einsum(): subscripts must be numbers in [0, 52) or Ellipsis, got {s}")
    return out


def _parse(equation: str, operands: list[Tensor]) -> tuple[list[Labels], Labels]:
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(operands):
        word = "fewer" if len(parts) > len(operands) else "more"
        raise RuntimeError(f"einsum(): {word} operands were provided than specified in the equation")
    most = 0
    terms: list[Labels] = []
    for i, (part, t) in enumerate(zip(parts, operands, strict=True)):
        dispatch.require_tensor(t, "einsum", f"operands[{i}]")
        names = part.replace("...", "", 1)
        if not (names.isalpha() and names.isascii()) and names:
            raise RuntimeError(f"einsum(): invalid subscript given at index {i} in the equation string, subscripts "
                               "must be in [a-zA-Z]")  # fmt: skip
        hidden = t.dim() - len(names)
        if hidden < 0 or (hidden and "..." not in part):
            raise RuntimeError(f"einsum(): the number of subscripts in the equation ({len(names)}) does not match the "
                               f"number of dimensions ({t.dim()}) for operand {i} and no ellipsis was given"
                               if "..." not in part else
                               f"einsum(): the number of subscripts in the equation ({len(names)}) is more than the "
                               f"number of dimensions ({t.dim()}) for operand {i}")  # fmt: skip
        before, dots, after = part.partition("...")
        ellipsis = [("...", k) for k in range(hidden, 0, -1)] if dots else []
        most = max(most, len(ellipsis))
        terms.append([*before, *ellipsis, *after])
    whole = [("...", k) for k in range(most, 0, -1)]
    if not arrow:
        letters = [x for term in terms for x in term if isinstance(x, str)]
        return terms, [*whole, *sorted(x for x in set(letters) if letters.count(x) == 1)]
    before, dots, after = right.partition("...")
    result: Labels = [*before, *(whole if dots else []), *after]
    known = {x for term in terms for x in term}
    for x in result:
        if result.count(x) > 1:
            raise RuntimeError(f"einsum(): output subscript {x} appears more than once in the output")
        if x not in known:
            raise RuntimeError(f"einsum(): output subscript {x} does not appear in the equation for any input operand")
    return terms, result


def _without_repeats(t: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """Axes of one name replaced by their diagonal."""
    names = list(labels)
    for x in dict.fromkeys(labels):
        while names.count(x) > 1:
            i = names.index(x)
            j = names.index(x, i + 1)
            if t._extents[i] != t._extents[j]:
                raise RuntimeError(f"einsum(): subscript {x} is repeated for one operand but the sizes don't match, "
                                   f"{t._extents[j]} != {t._extents[i]}")  # fmt: skip
            t = viewing.diagonal(t, 0, i, j)
            names = [n for k, n in enumerate(names) if k not in (i, j)] + [x]
    return t, names


def _check_extents(operands: list[tuple[Tensor, Labels]]) -> None:
    known: dict[Any, Any] = {}
    for i, (t, labels) in enumerate(operands):
        for x, extent in zip(labels, t._extents, strict=True):
            have = known.setdefault(x, extent)
            if have == 1:
                known[x] = extent
            elif extent not in (1, have):
                raise RuntimeError(f"einsum(): operands do not broadcast with remapped shapes [original->remapped]: "
                                   f"subscript {x} has size {extent} for operand {i} which does not broadcast with "
                                   f"previously seen size {have}")  # fmt: skip


def _needed(operands: list[tuple[Tensor, Labels]], result: Labels) -> set[Any]:
    return {x for _, labels in operands for x in labels} | set(result)


def _summed(t: Tensor, labels: Labels, kept: set[Any]) -> tuple[Tensor, Labels]:
    """Without the axes that nobody needs any more."""
    gone = [i for i, x in enumerate(labels) if x not in kept]
    if not gone:
        return t, labels
    return reduce.sum(t, gone), [x for x in labels if x in kept]  # of integers: int64


def _multiplied(a: Tensor, la: Labels, b: Tensor, lb: Labels, later: set[Any]) -> tuple[Tensor, Labels]:
    """The product of two operands, summed over the axes that both have and nobody needs later."""
    # An extent of 1 against another broadcasts: the sum is over the other alone.
    ones_a, ones_b = ({x for x, e in zip(names, t._extents, strict=True) if e == 1} for names, t in ((la, a), (lb, b)))
    broadcast = {x for x in la if x in lb and x not in later and (x in ones_a or x in ones_b)}
    if broadcast:
        a, la = _summed(*_without(a, la, broadcast & ones_a), set(la) - broadcast)
        b, lb = _summed(*_without(b, lb, broadcast & ones_b), set(lb) - broadcast)
    shared = [x for x in la if x in lb]
    extent = {x: e for names, t in ((lb, b), (la, a)) for x, e in zip(names, t._extents, strict=True) if e != 1}
    contracted, batch = [x for x in shared if x not in later], [x for x in shared if x in later]
    only_a, only_b = [x for x in la if x not in shared], [x for x in lb if x not in shared]
    size = lambda names: [extent.get(x, 1) for x in names]  # noqa: E731
    arranged = lambda t, names, order: shaping.permute(t, [names.index(x) for x in order])  # noqa: E731
    x, y = arranged(a, la, batch + only_a + contracted), arranged(b, lb, batch + contracted + only_b)
    labels = batch + only_a + only_b
    if not contracted:  # also of two dtypes, and of bools
        for _ in only_b:
            x = shaping.unsqueeze(x, -1)
        for _ in only_a:
            y = shaping.unsqueeze(y, len(batch))
        return elementwise.mul(x, y), labels
    if any(a._extents[la.index(x)] != b._extents[lb.index(x)] for x in batch):
        x = shaping.expand(x, *size(batch + only_a + contracted))
        y = shaping.expand(y, *size(batch + contracted + only_b))
    x = shaping.reshape(x, *_flat(size, batch, only_a, contracted))
    y = shaping.reshape(y, *_flat(size, batch, contracted, only_b))
    return shaping.reshape(linalg.matmul(x, y), *size(labels)), labels


def _without(t: Tensor, labels: Labels, ones: set[Any]) -> tuple[Tensor, Labels]:
    """Without some axes of extent 1."""
    axes = tuple(i for i, x in enumerate(labels) if x in ones)
    return (shaping.squeeze(t, axes), [x for x in labels if x not in ones]) if axes else (t, labels)


def _flat(size: Any, *groups: Labels) -> list[Any]:
    return [dims.product(size(g)) for g in groups]


# What users see: functions, methods of Tensor, methods that write into it (with an underscore).
FUNCTIONS = ("einsum",)
METHODS = ()
IN_PLACE = ()
