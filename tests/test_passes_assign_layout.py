"""Layout assignment: blocked chains, halos, casts only where neighbours disagree."""

from __future__ import annotations

import numpy as np
from fake_kernels import FakeKernels
from graph_utils import build, ops, run_pass
from ingot.ir.kernels import LayoutChoice
from ingot.ir.layout import DENSE, Layout
from ingot.passes.assign_layout import AssignLayout

CONV = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
BLOCKED = Layout(blocks=((1, 4),))


def _weights(b, o, c, k, seed=0):
    rng = np.random.default_rng(seed)
    return b.constant(rng.standard_normal((o, c, k, k)).astype(np.float32))


def _chain(b, x):
    y = b.conv(x, _weights(b, 8, 4, 3), padding=((1, 1), (1, 1)), **CONV)
    y = b.relu(b.add(y, b.constant(np.ones((1, 8, 1, 1), np.float32))))
    y = b.conv(y, _weights(b, 8, 8, 3, 1), padding=((1, 1), (1, 1)), **CONV)
    return b.relu(y)


def test_chain_stays_blocked_and_the_producer_gets_the_halo() -> None:
    graph = build(_chain, (1, 4, 6, 6))
    run_pass(graph, AssignLayout(), kernels=FakeKernels())
    assert ops(graph) == ["layout_cast", "conv", "add", "relu", "conv", "relu", "layout_cast"]
    nodes = [n for n in graph if n.op != "constant"]
    halo = ((0, 0), (0, 0), (1, 1), (1, 1))
    assert nodes[0].output.type.layout == Layout(blocks=((1, 4),), halo=halo), "the graph input gets it by the cast"
    assert nodes[1].output.type.layout == BLOCKED
    assert nodes[3].output.type.layout == Layout(blocks=((1, 4),), halo=halo), "the relu that the second conv reads"
    assert nodes[5].output.type.layout == BLOCKED
    assert graph.outputs[0].type.layout == DENSE
    packed = [n.output.type.layout for n in graph.find("constant")]
    assert packed == [Layout(blocks=((1, 4), (0, 4))), BLOCKED, Layout(blocks=((1, 4), (0, 4)))]


def test_one_value_with_two_readers_gets_the_larger_halo_once() -> None:
    def make(b, x):
        y = b.relu(b.conv(x, _weights(b, 4, 4, 1), padding=((0, 0), (0, 0)), **CONV))
        one = b.conv(y, _weights(b, 4, 4, 3, 1), padding=((1, 1), (1, 1)), **CONV)
        two = b.conv(y, _weights(b, 4, 4, 5, 2), padding=((2, 2), (2, 2)), **CONV)
        return b.add(one, two)

    graph = build(make, (1, 4, 6, 6))
    run_pass(graph, AssignLayout(), kernels=FakeKernels())
    (relu,) = graph.find("relu")
    assert relu.output.type.layout.halo == ((0, 0), (0, 0), (2, 2), (2, 2))
    assert len(graph.find("layout_cast")) == 2  # the graph's input and its output


def test_dense_operators_get_dense_operands() -> None:
    def make(b, x):
        y = b.conv(x, _weights(b, 8, 4, 1), padding=((0, 0), (0, 0)), **CONV)
        return b.matmul(b.reshape(y, shape=(1, 8 * 36)), b.constant(np.ones((8 * 36, 2), np.float32)))

    graph = build(make, (1, 4, 6, 6))
    run_pass(graph, AssignLayout(), kernels=FakeKernels(), exact=False)
    (reshape,) = graph.find("reshape")
    assert reshape.inputs[0].producer.op == "layout_cast" and reshape.inputs[0].type.layout == DENSE


def test_no_kernels_no_change() -> None:
    run_pass(build(_chain, (1, 4, 6, 6)), AssignLayout(), rewrites=0)


def test_a_shared_weight_is_packed_once() -> None:
    def make(b, x):
        w = _weights(b, 4, 4, 1)
        y = b.conv(x, w, padding=((0, 0), (0, 0)), **CONV)
        return b.conv(y, w, padding=((0, 0), (0, 0)), **CONV)

    graph = build(make, (1, 4, 6, 6))
    run_pass(graph, AssignLayout(), kernels=FakeKernels())
    assert len(graph.find("constant")) == 1


FORMED = Layout(blocks=((0, 4),), form="winograd2")


class _Formed(FakeKernels):
    """Convolutions would rather have weights in a form, which holds only numbers up to 100."""

    def layout_choices(self, node):
        dense = LayoutChoice((DENSE, DENSE), (DENSE,), 1e-3)
        return [dense, LayoutChoice((DENSE, FORMED), (DENSE,), 1e-6)]

    def holds(self, array, layout):
        assert layout == FORMED
        return bool(np.abs(array).max() <= 100)


def test_a_form_is_given_to_constants_that_it_holds() -> None:
    def make(b, x, w):
        large = np.random.default_rng(1).standard_normal((4, 4, 3, 3)).astype(np.float32)
        large[1, 2, 0, 1] = 1000
        y = b.conv(x, _weights(b, 4, 4, 3), padding=((1, 1), (1, 1)), **CONV)
        y = b.conv(y, b.constant(large), padding=((1, 1), (1, 1)), **CONV)  # refused
        return b.conv(y, w, padding=((1, 1), (1, 1)), **CONV)  # no constant

    graph = build(make, (1, 4, 6, 6), (4, 4, 3, 3))
    before = [n.inputs[1] for n in graph.find("conv")]
    assert [w.type.layout for w in before] == [DENSE] * 3
    run_pass(graph, AssignLayout(), kernels=_Formed())
    after = [n.inputs[1] for n in graph.find("conv")]
    assert [w.type.layout for w in after] == [FORMED, DENSE, DENSE]
    assert after[1:] == before[1:] and not graph.find("layout_cast")
    assert len(graph.find("constant")) == 2, "the dense copy is gone"


class _DensePadded(FakeKernels):
    """Convolutions want a dense operand with its padding in memory and make a dense result."""

    def layout_choices(self, node):
        halo = ((0, 0), (0, 0), *node.attrs["padding"])
        x = Layout(halo=halo if any(h != (0, 0) for h in halo) else ())
        return [LayoutChoice((x, DENSE), (DENSE,), 1e-6)]


def test_a_dense_value_gets_the_halo_of_its_only_reader() -> None:
    def make(b, x):
        y = b.relu(b.conv(x, _weights(b, 4, 4, 3), padding=((1, 1), (1, 1)), **CONV))
        y = b.conv(y, _weights(b, 4, 4, 3, 1), padding=((1, 1), (1, 1)), **CONV)
        z = b.conv(y, _weights(b, 4, 4, 5, 2), padding=((2, 2), (2, 2)), **CONV)
        return b.add(y, z)

    graph = build(make, (1, 4, 6, 6))
    run_pass(graph, AssignLayout(), kernels=_DensePadded())
    assert ops(graph) == ["layout_cast", "conv", "relu", "conv", "layout_cast", "conv", "add"]
    (relu,) = graph.find("relu")
    assert relu.output.type.layout == Layout(halo=((0, 0), (0, 0), (1, 1), (1, 1)))
    one, two, three = graph.find("conv")
    assert one.output.type.layout == two.output.type.layout == three.output.type.layout == DENSE
    assert two.inputs[0] is relu.output
    assert three.inputs[0].producer.op == "layout_cast", "the sum reads the same value without a halo"
