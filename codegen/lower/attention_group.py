"""What an attention kernel computes: ``softmax(f(q @ k)) @ v`` taken apart, operands and result as strided views.

The group is found in the region of a ``fused(kind="attention")`` node. Views (reshape, permute, slice, expand) around
the three operands and behind the result become addresses. ``f`` is any elementwise chain on the scores: scale,
additive and boolean masks, bias by position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.dims import Extent, bounds
from ...ir.dtypes import DType
from ...ir.errors import UnsupportedError
from ...ir.graph import Node, Value
from . import arithmetic
from .common import constant_number, is_evaluable
from .position import compute_dtype
from .strided import Axis, Strided, common_factors, result_view, view_of
from .view import View

_ROUNDED = {"cast", "identity"}  # between softmax and product: only the number of bits changes


@dataclass(frozen=True)
class Batch:
    """A parallel loop: its extent, its strides in q, k, v and the result, and what it adds to scores axis ``axis``."""

    extent: Extent
    strides: tuple[Extent, Extent, Extent, Extent]
    axis: int
    weight: Extent


@dataclass(frozen=True)
class Matrix:
    """Two axes of an operand in memory: element (r, c) is at ``base + r * row + c * column``."""

    root: Value  # as the region knows it
    base: Extent
    row: Extent
    column: Extent


class AttentionGroup:
    """The parts of an attention node.

    Attributes:
        queries [L, D], keys [S, D], values [S, E], result [L, E]: Matrix of one (batch, head).
        batches: the loops over everything else.
        length, depth, count, width: L, D, S, E.
        scores: the first product; logits: what softmax reads; chain: the nodes from one to the other.
        factor: number that the queries are multiplied with (scales written on q or k).
        leaves: values in memory that the chain reads; uniform: the chain is the same for all scores.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        if node.op != "fused" or node.attrs.get("kind") != "attention":
            raise UnsupportedError(f"attention kernel: cannot lower {node.op}")
        if len(node.outputs) != 1:
            raise UnsupportedError(f"attention kernel: one result, not {len(node.outputs)}")
        self.view = View(node)
        softmaxes = [n for n in self.view.nodes if n.op == "softmax"]
        if len(softmaxes) != 1:
            raise UnsupportedError(f"attention kernel: one softmax, not {len(softmaxes)}")
        (softmax,) = softmaxes
        self.logits = softmax.inputs[0]
        rank = self.logits.type.rank
        if softmax.attrs["axis"] not in (-1, rank - 1):
            raise UnsupportedError("attention kernel: softmax over an axis that is not the last")
        self._find_chain()
        self._find_second(softmax.output)
        self.dtype: DType = compute_dtype(self.mixed.dtype)
        for v in (self.scores, self.logits):
            if compute_dtype(v.dtype) is not self.dtype:
                raise UnsupportedError(f"attention kernel: scores in {v.dtype.name}, result in {self.mixed.dtype.name}")
        self._find_matrices()

    # -- taking the region apart --------------------------------------------------------------------
    def _find_chain(self) -> None:
        """From the logits up to the one product; everything besides is elementwise or in memory."""
        view, found = self.view, dict[Node, None]()
        products: list[Node] = []
        self.leaves: list[Value] = []
        work = [self.logits]
        while work:
            v = work.pop()
            node = v.producer
            if v in view.immediates:
                continue
            if view.stops(v):
                if v not in self.leaves:
                    self.leaves.append(v)
                continue
            if node is None or node in found:
                continue
            if node.op == "matmul":
                if node not in products:
                    products.append(node)
                continue
            if not is_evaluable(node.op):
                raise UnsupportedError(f"attention kernel: {node.op} between the products")
            found[node] = None
            work += node.inputs
        if len(products) != 1:
            raise UnsupportedError(f"attention kernel: scores made from {len(products)} products")
        self.first = products[0]
        self.scores = self.first.output
        self.chain = list(found)
        if self.scores.shape != self.logits.shape:
            raise UnsupportedError(
                f"attention kernel: scores of shape {list(self.scores.shape)} become {list(self.logits.shape)}"
            )
        if any(self.scores in n.inputs and n.op not in arithmetic.RULES for n in self.chain):
            raise UnsupportedError("attention kernel: scores change places before softmax")
        self.uniform = not self.leaves and all(n.op in arithmetic.RULES or n.op == "constant" for n in self.chain)

    def _find_second(self, weights: Value) -> None:
        while True:
            users = list(weights.users)
            if len(users) != 1:
                raise UnsupportedError("attention kernel: the attention weights are read more than once")
            if users[0].op not in _ROUNDED:
                break
            weights = users[0].output
        (self.second,) = users
        if self.second.op != "matmul" or self.second.inputs[0] is not weights or self.second.inputs[1] is weights:
            raise UnsupportedError(f"attention kernel: the attention weights go to {self.second.op}")
        if self.second.attrs["transpose_a"]:
            raise UnsupportedError("attention kernel: the attention weights are transposed")
        self.mixed = self.second.output
        if self.mixed.shape[:-1] != self.scores.shape[:-1]:
            raise UnsupportedError("attention kernel: the values have more batches than the scores")

    def _find_matrices(self) -> None:
        q, k = self.first.inputs
        v = self.second.inputs[1]
        self.factor = 1.0
        views = [
            self._operand(q, lambda n: self._scale(n, False)),
            self._operand(k, lambda n: self._scale(n, True)),  # larger numbers might overflow on the other side
            self._operand(v, lambda _: None),
        ]
        # As [..., L, D], [..., S, D], [..., S, E].
        flags = (self.first.attrs["transpose_a"], not self.first.attrs["transpose_b"], self.second.attrs["transpose_b"])
        (out,) = self.view.results
        axes = result_view(self.mixed, out.inner, out.outer.type)
        if axes is None:
            raise UnsupportedError("attention kernel: the result is not stored as a view")
        places = [*((x.axes, flag) for x, flag in zip(views, flags, strict=True)), (axes, False)]
        pairs = []
        for where, flag in places:
            ends = (where[-1], where[-2]) if flag else (where[-2], where[-1])
            if any(len(axis) > 1 for axis in ends):
                raise UnsupportedError("attention kernel: rows or columns of an operand are not evenly spaced")
            pairs.append([axis[0][1] if axis else 0 for axis in ends])
        roots = [*((x.root, x.base) for x in views), (out.inner, 0)]
        self.queries, self.keys, self.values, self.result = (
            Matrix(root, base, row, column) for (root, base), (row, column) in zip(roots, pairs, strict=True)
        )
        self.length, self.count = self.scores.shape[-2:]
        depth, width = q.shape[-2 if flags[0] else -1], self.mixed.shape[-1]
        if not isinstance(depth, int) or not isinstance(width, int) or depth < 1 or width < 1:
            raise UnsupportedError("attention kernel: the size of a head must be known")
        if bounds(self.count)[0] < 1:
            raise UnsupportedError("attention kernel: there may be no keys")
        self.depth, self.width = depth, width
        self._find_batches([where for where, _ in places])

    def _scale(self, node: Node, limited: bool) -> Value | None:
        """The operand of a multiplication by a number, which goes to ``factor`` (``limited``: if at most one)."""
        if node.op not in ("mul", "div") or node.inputs[0].shape != node.output.shape:
            return None
        number = self._number(node.inputs[1])
        if number is None or number == 0.0:
            return None
        by = number if node.op == "mul" else 1.0 / number
        if limited and abs(by) > 1.0:
            return None
        self.factor *= by
        return node.inputs[0]

    def _number(self, value: Value) -> float | None:
        if value in self.view.immediates:
            return float(self.view.immediates[value])
        if self.view.stops(value):
            return None
        found = constant_number(value)
        return None if found is None else float(found)

    def _operand(self, value: Value, scaled: Callable[[Node], Value | None]) -> Strided:
        found = view_of(value, self.view.stored.get, scaled)
        if found is None:
            raise UnsupportedError(f"attention kernel: operand %{value.name} is not a view of a dense value")
        return found

    def _find_batches(self, places: list[tuple[Axis, ...]]) -> None:
        self.batches: list[Batch] = []
        rank = self.scores.type.rank
        for axis in range(rank - 2):
            extent = self.scores.shape[axis]
            own = []
            for where in places:
                at = axis - (rank - len(where))
                own.append(where[at] if at >= 0 else ())
            shared = common_factors(extent, own)
            if shared is None:
                raise UnsupportedError(
                    f"attention kernel: axis {axis} of the scores is cut differently by the operands"
                )
            weight: Extent = 1
            found = []
            for size, (a, b, c, d) in reversed(shared):
                found.append(Batch(size, (a, b, c, d), axis, weight))
                weight = weight * size
            self.batches += found[::-1]
