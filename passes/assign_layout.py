"""Layout assignment: which physical layout each value has, with casts where neighbours disagree.

Contractions say which layouts their kernels want (``KernelLibrary.layout_choices``); everything between
them follows:

1. Forward walk. A contraction takes the choice with the least estimated time, the cost of the casts
   that its operands would need included. An operator without an opinion keeps the blocked layout of
   its full-shape operands, so a chain of blocked layers never goes back to dense in between.
2. Constants are relabelled in place (the driver packs them at compile time); other operands get a
   ``layout_cast``, one per (value, layout).
3. Halos. A blocked value that padded convolutions read is given the largest halo among them, so that its
   producer writes the zero border and nobody copies. Graph inputs get theirs by the cast.
4. Results of the graph are dense.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import registry
from ..ir.dims import bounds
from ..ir.graph import Graph, Node, Value
from ..ir.kernels import CAST_BYTES_PER_SECOND, LayoutChoice
from ..ir.layout import DENSE, Layout
from ..ir.registry import Fusion
from .manager import Pass, PassContext

# These keep the layout of their first operand (they treat channels independently).
_CHANNELWISE = {"max_pool", "avg_pool", "avg_pool_grad", "resample"}
# Their kernels for dense tensors clear the halo of the result.
_WRITES_HALO = {"conv", "max_pool", "avg_pool"}


class AssignLayout(Pass):
    """See the module docstring."""

    name = "assign-layout"

    def run(self, graph: Graph, ctx: PassContext) -> int:
        if ctx.kernels is None:
            return 0
        return _Assigner(graph, ctx).run()


class _Assigner:
    def __init__(self, graph: Graph, ctx: PassContext) -> None:
        self.graph = graph
        self.ctx = ctx
        assert ctx.kernels is not None
        self.kernels = ctx.kernels
        self.casts: dict[tuple[Value, Layout, bool], Value] = {}
        self.halos: dict[Value, tuple[tuple[int, int], ...]] = {}
        self.rewrites = 0

    def run(self) -> int:
        for node in self.graph:
            if node.op in ("constant", "layout_cast"):
                continue
            if registry.get(node.op).fusion is Fusion.CONTRACTION:
                self._contraction(node)
            else:
                self._follow(node)
        self._dense_outputs()
        self._give_halos()
        self.graph.prune()
        self._keep_names()
        return self.rewrites

    # -- step 1 and 2 -------------------------------------------------------------------------------
    def _contraction(self, node: Node) -> None:
        choices = self.kernels.layout_choices(node)
        if not choices:
            self._require_dense(node)
            return
        ordered = sorted(choices, key=lambda c: c.cost + self._cast_cost(node, c))
        best = next(c for c in ordered if self._applies(node, c))
        for i, layout in enumerate(best.inputs):
            self._want(node, i, layout)
        for out, layout in zip(node.outputs, best.outputs, strict=True):
            self._set(out, layout)
        if any(not layout.is_dense for layout in best.outputs + best.inputs):
            self.ctx.fired(f"{node.op}: {best.reason or 'cheapest layouts'}", node)

    def _applies(self, node: Node, choice: LayoutChoice) -> bool:
        """Whether operands that should have a form are constants that it holds."""
        formed = [(v, layout) for v, layout in zip(node.inputs, choice.inputs, strict=True) if layout.form]
        return all(v.is_constant and self.kernels.holds(v.constant, layout) for v, layout in formed)

    def _cast_cost(self, node: Node, choice: LayoutChoice) -> float:
        seconds = 0.0
        for v, layout in zip(node.inputs, choice.inputs, strict=True):
            if v.is_constant or _same_blocks(v.type.layout, layout):
                continue
            if (v, Layout(layout.order, layout.blocks), False) not in self.casts:
                seconds += 2.0 * bounds(v.type.elements)[1] * v.dtype.itemsize / CAST_BYTES_PER_SECOND
        return seconds

    def _follow(self, node: Node) -> None:
        layout = self._followed_layout(node)
        if layout is None:
            # Kernels of elementwise, index and reduce operators read any layout and write dense.
            if not _reads_any_layout(node):
                self._require_dense(node)
            return
        for out in node.outputs:
            self._set(out, layout)
        for i, v in enumerate(node.inputs):
            full = v.shape == node.outputs[0].shape and registry.get(node.op).fusion is Fusion.ELEMENTWISE
            if full or (v.is_constant and v.type.rank == node.outputs[0].type.rank and _is_channel_vector(v)):
                self._want(node, i, Layout(blocks=layout.blocks))

    def _followed_layout(self, node: Node) -> Layout | None:
        """The blocked layout that the results take over, None for dense."""
        fusion = registry.get(node.op).fusion
        shape = node.outputs[0].shape
        if node.op in _CHANNELWISE:
            if node.op == "resample" and (node.attrs["axis"] < 2 or self._grows_into_output(node)):
                return None
            return self._blocked(node.inputs[0])
        if len(shape) < 3 or any(o.shape != shape for o in node.outputs):
            return None
        if fusion is Fusion.ELEMENTWISE:
            for v in node.inputs:
                if v.shape == shape and (layout := self._blocked(v)) is not None:
                    return layout
            return None
        if node.op == "concat" and node.attrs["axis"] == 1:
            layouts = [self._blocked(v) for v in node.inputs]
            first = layouts[0]
            if first is None or any(x is None for x in layouts):
                return None
            size = dict(first.blocks)[1]
            whole = all(isinstance(v.shape[1], int) and v.shape[1] % size == 0 for v in node.inputs)
            return first if whole else None
        if node.op in ("slice", "pad", "flip", "concat"):
            layouts = [self._blocked(v) for v in node.inputs if v.shape[1] == shape[1] or node.op == "pad"]
            if layouts and len(layouts) == len(node.inputs[: 1 if node.op != "concat" else None]):
                return layouts[0] if all(x == layouts[0] for x in layouts) else None
        return None

    def _grows_into_output(self, node: Node) -> bool:
        """Whether a result of the graph, which is dense, grows here: casting the smaller operand is cheaper."""
        small, large = bounds(node.inputs[0].type.elements)[1], bounds(node.output.type.elements)[1]
        while not self.graph.is_output(node.output):
            users = list(node.output.users)
            if len(users) != 1 or len(users[0].outputs) != 1 or users[0].output.shape[:2] != node.output.shape[:2]:
                return False
            (node,) = users
            if node.op != "resample" and registry.get(node.op).fusion is not Fusion.ELEMENTWISE:
                return False
            large = max(large, bounds(node.output.type.elements)[1])
        return large > small

    def _blocked(self, v: Value) -> Layout | None:
        """The blocked layout of ``v`` without its halo; None if it is dense or blocked elsewhere than axis 1."""
        layout = v.type.layout
        if layout.order or len(layout.blocks) != 1 or layout.blocks[0][0] != 1:
            return None
        return Layout(blocks=layout.blocks)

    def _require_dense(self, node: Node) -> None:
        for i in range(len(node.inputs)):
            self._want(node, i, DENSE)

    def _want(self, node: Node, index: int, layout: Layout) -> None:
        """Make operand ``index`` have ``layout`` (its halo may end up wider)."""
        v = node.inputs[index]
        base = Layout(layout.order, layout.blocks, form=layout.form)
        # Others may use a dense value as it stands.
        private = layout.has_halo and base.is_dense and not self._writes_halo_for(v, node)
        if private or not _same_blocks(v.type.layout, base):
            v = self._cast(v, base, node, private)
            node.replace_input(index, v)
        if layout.has_halo:
            before, after = zip(*layout.halo, strict=True)
            old = self.halos.get(v, ((0, 0),) * v.type.rank)
            self.halos[v] = tuple((max(b, ob), max(a, oa)) for b, a, (ob, oa) in zip(before, after, old, strict=True))

    def _writes_halo_for(self, v: Value, node: Node) -> bool:
        """Whether the kernel that makes dense ``v`` can write it with a halo, because ``node`` alone reads it."""
        if v.producer is None or self.graph.is_output(v) or len(v.users) != 1 or node.inputs.count(v) != 1:
            return False
        op = v.producer.op
        return op in _WRITES_HALO or registry.get(op).fusion is Fusion.ELEMENTWISE

    def _cast(self, v: Value, layout: Layout, node: Node, private: bool = False) -> Value:
        known = self.casts.get((v, layout, private))
        if known is not None:
            return known
        self.rewrites += 1
        if v.is_constant:
            assert v.producer is not None
            cast = self.graph.constant(v.constant, v.name, before=v.producer, layout=layout)
        else:
            source = v.producer.source if v.producer is not None else node.source
            cast = self.graph.create(
                "layout_cast",
                [v],
                {"layout": layout},
                [v.type.with_layout(layout)],
                names=[f"{v.name}.cast"],
                source=source,
                before=self._after(v),
            ).output
        self.casts[(v, layout, private)] = cast
        return cast

    def _after(self, v: Value) -> Node | None:
        """The node before which something that reads ``v`` may stand earliest."""
        if v.producer is not None:
            return v.producer._next
        return self.graph._head

    def _set(self, value: Value, layout: Layout) -> None:
        if value.type.layout != layout:
            value.type = value.type.with_layout(layout)
            self.rewrites += 1

    # -- step 3 and 4 -------------------------------------------------------------------------------
    def _give_halos(self) -> None:
        """Widen the layouts of produced values to the largest halo that a reader wants."""
        for v, halo in self.halos.items():
            layout = Layout(v.type.layout.order, v.type.layout.blocks, halo)
            self._set(v, layout)
            if v.producer is not None and v.producer.op == "layout_cast":
                v.producer.attrs["layout"] = layout

    def _keep_names(self) -> None:
        """A constant in a new layout takes the name of the one it replaced, so that dumps name the weight."""
        for (v, _, _), cast in self.casts.items():
            if v.is_constant and v.producer._graph is None:  # type: ignore[union-attr]
                cast.name, v.name = v.name, cast.name

    def _dense_outputs(self) -> None:
        for i, v in enumerate(self.graph.outputs):
            if not v.type.layout.is_dense:
                assert v.producer is not None
                self.graph.outputs[i] = self._cast(v, DENSE, v.producer)


def _same_blocks(a: Layout, b: Layout) -> bool:
    return a.order == b.order and a.blocks == b.blocks and a.form == b.form


def _reads_any_layout(node: Node) -> bool:
    fusion = registry.get(node.op).fusion
    if node.op == "reshape":
        return False
    return fusion in (Fusion.ELEMENTWISE, Fusion.INDEX, Fusion.REDUCE)


def _is_channel_vector(v: Value) -> bool:
    """A constant that varies along axis 1 only, such as a bias of shape [1, K, 1, 1]."""
    shape: Sequence[object] = v.shape
    return (
        len(shape) >= 3
        and shape[1] != 1
        and all(e == 1 for i, e in enumerate(shape) if i != 1)
        and (np.ndim(v.constant) == len(shape))
    )
