"""The verifier: each way of breaking a graph is found and explained."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from ingot.ir import verifier
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32, float64
from ingot.ir.errors import VerifyError
from ingot.ir.graph import Graph, Value
from ingot.ir.layout import Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.source import Source
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify

N = Dim("N", 1, 64)


def sample() -> Graph:
    """x -> exp -> add(constant) -> fused(neg) -> conv, with one parameter updated."""
    graph = Graph("net")
    x = graph.add_input(TensorType(float32, (N.expr, 2, 8)), "x")
    w = graph.add_input(TensorType(float32, (4, 2, 3)), "w", "parameter")
    g = GraphBuilder(graph, source=Source("net.py", 3, "body"))
    y = g.add(g.exp(x), g.constant(np.float32([[1.0], [2.0]]), name="shift"))
    region = Graph("body")
    p = region.add_input(y.type, "p")
    region.add_output(GraphBuilder(region).neg(p))
    fused = create_fused(graph, region, [y], "elementwise", names=["group"])
    out = g.conv(fused.output, w, stride=(1,), padding=((1, 1),), dilation=(1,), groups=1)
    graph.add_output(out, "y")
    graph.add_output(g.mul(w, 0.5), "new_w", updates=w)
    return graph


def node(graph: Graph, op: str) -> object:
    return graph.find(op)[0]


def test_a_good_graph_passes() -> None:
    verify(sample())
    verify(Graph())


def foreign_operand(g: Graph) -> None:
    node(g, "conv").replace_input(0, node(sample(), "fused").output)


def region_sees_outside(g: Graph) -> None:
    region = node(g, "fused").regions[0]
    node(region, "neg").replace_input(0, node(g, "exp").output)


def stale_user(g: Graph) -> None:
    g.inputs[0].users[node(g, "conv")] = 1


def removed_producer(g: Graph) -> None:
    exp = node(g, "exp")
    add = node(g, "add")
    exp.output.users.clear()
    g.remove(exp)
    exp.output.users[add] = 1


def swap_order(g: Graph) -> None:
    g.move_before(node(g, "add"), node(g, "exp"))


def same_name(g: Graph) -> None:
    node(g, "conv").output.name = "x"


def wrong_type(g: Graph) -> None:
    out = node(g, "exp").output
    out.type = out.type.with_dtype(float64)


def wrong_attribute(g: Graph) -> None:
    node(g, "conv").attrs["stride"] = [1]


def missing_attribute(g: Graph) -> None:
    del node(g, "conv").attrs["groups"]


def unknown_op(g: Graph) -> None:
    node(g, "exp").op = "expo"


def wrong_constant(g: Graph) -> None:
    node(g, "constant").attrs["value"] = np.zeros((3, 1), np.float32)


def wrong_constant_dtype(g: Graph) -> None:
    node(g, "constant").attrs["value"] = np.zeros((2, 1))


def bad_blocks(g: Graph) -> None:
    out = node(g, "exp").output
    out.type = out.type.with_layout(Layout(blocks=((5, 16),)))


def bad_order(g: Graph) -> None:
    out = node(g, "exp").output
    out.type = out.type.with_layout(Layout(order=(0, 1, 1)))


def halo_on_blocked_axis(g: Graph) -> None:
    out = node(g, "exp").output
    out.type = out.type.with_layout(Layout(blocks=((1, 2),), halo=((0, 0), (1, 1), (0, 0))))


def region_type(g: Graph) -> None:
    node(g, "fused").regions[0].inputs[0].type = TensorType(float32, (3,))


def region_arity(g: Graph) -> None:
    node(g, "fused").regions[0].add_input(TensorType(float32, (3,)), "extra")


def shared_region(g: Graph) -> None:
    fused = node(g, "fused")
    create_fused(g, fused.regions[0], fused.inputs, "elementwise")


def too_many_operands(g: Graph) -> None:
    exp = node(g, "exp")
    exp.inputs.append(g.inputs[0])
    g.inputs[0].users[exp] = 2


def rejected_operands(g: Graph) -> None:
    g.inputs[1].type = TensorType(float32, (4, 3, 3))


def undeclared_symbol(g: Graph) -> None:
    del g.symbols["N"]


def other_symbol(g: Graph) -> None:
    g.symbols["N"] = Dim("N", 1, 65)


def bad_role(g: Graph) -> None:
    g.roles[0] = "weights"


def bad_update(g: Graph) -> None:
    g.updates = {0: 1}


def double_update(g: Graph) -> None:
    g.add_output(g.outputs[1], "again", updates=g.inputs[1])


def lost_output(g: Graph) -> None:
    g.outputs[0] = node(sample(), "conv").output


def lost_count(g: Graph) -> None:
    g._count += 1


def cycle(g: Graph) -> None:
    node(g, "conv")._next = node(g, "add")


def wrong_link(g: Graph) -> None:
    node(g, "conv")._prev = node(g, "exp")


def wrong_owner(g: Graph) -> None:
    node(g, "exp").outputs[0].index = 1


def input_with_producer(g: Graph) -> None:
    g.inputs[0].producer = node(g, "exp")


BREAKAGES: list[tuple[Callable[[Graph], None], str]] = [
    (foreign_operand, r"undefined value: node %conv = .*: operand 0 \(%group\) was made by .* in another graph"),
    (region_sees_outside, r"graph body: undefined value: node %neg.*: operand 0 \(%exp\).* only through their inputs"),
    (stale_user, r"stale users: .*users of %x are recorded as .*%conv.* but are %exp = exp\(%x\) x1$"),
    (removed_producer, r"operand 0 \(%exp\) was made by .*, which has been removed"),
    (swap_order, r"node %add = .*: operand 0 \(%exp\) is used before it is defined"),
    (same_name, r"bad name: node %x = conv.*two values are called %x \(the first: 'a graph input'\)"),
    (
        wrong_type,
        r"wrong type: node %exp.*output 0 \(%exp\) is declared float64\[N, 2, 8\], .* gives float32",
    ),
    (wrong_attribute, r"bad attributes: node %conv.*attribute stride must be of kind ints, got \[1\] \(list\)"),
    (missing_attribute, r"the operator declares \['dilation', 'groups', 'padding', 'stride'\]"),
    (unknown_op, "there is no operator called 'expo'"),
    (wrong_constant, r"bad constant: node %shift.*array of shape \[3, 1\]"),
    (wrong_constant_dtype, r"bad constant: node %shift.*array of float64"),
    (bad_blocks, "bad layout: .*block on axis 5 of a rank-3 tensor"),
    (bad_order, "is not a permutation of the 3 axes"),
    (halo_on_blocked_axis, "halo on the blocked axis 1"),
    (region_type, r"bad region: node %group.*operand 0 is %add: .*, its region expects %p: float32\[3\]"),
    (region_arity, "its region takes 2 inputs, the node has 1"),
    (shared_region, r"node %fused.*: its region body is the graph that holds it, or belongs to another node too"),
    (too_many_operands, "takes 1 to 1 inputs, has 2"),
    (rejected_operands, r"does not accept its operands \(.*%w: float32\[4, 3, 3\]\): conv: the input has 2 channels"),
    (undeclared_symbol, "undeclared symbol: .*uses symbol Dim"),
    (other_symbol, "which the graph does not declare"),
    (bad_role, "input %x has role 'weights'"),
    (bad_update, r"bad results: .*output 0 is %conv.* but updates %w"),
    (double_update, "%w is updated by two outputs"),
    (lost_output, r"graph output 0 \(%conv\) was made by .* in another graph"),
    (lost_count, "broken links: .*nodes are linked"),
    (cycle, "broken links"),
    (wrong_link, "its link to the node before it is wrong"),
    (wrong_owner, "does not point back to its node and position"),
    (input_with_producer, r"input 0 \(%x\) has a producer"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKAGES, ids=[d.__name__ for d, _ in BREAKAGES])
def test_damage_is_found(damage: Callable[[Graph], None], message: str) -> None:
    graph = sample()
    damage(graph)
    with pytest.raises(VerifyError, match=f"(?m){message}"):
        verify(graph)


def test_every_check_has_a_test() -> None:
    found = set()
    for damage, _ in BREAKAGES:
        graph = sample()
        damage(graph)
        with pytest.raises(VerifyError) as error:
            verify(graph)
        found.add(str(error.value).split(": ")[1])
    assert found == {title for title, _ in (*verifier.STRUCTURE, *verifier.CHECKS)}


def test_message_shows_source_and_ten_neighbours() -> None:
    graph = Graph()
    v: Value = graph.add_input(TensorType(float32, (3,)), "x")
    g = GraphBuilder(graph)
    for i in range(40):
        g.source = Source("net.py", i, f"layer{i}")
        v = g.emit("neg", [v], name=f"v{i}").output
    graph.add_output(v)
    culprit = graph.nodes[20]
    culprit.output.type = TensorType(float32, (4,))
    with pytest.raises(VerifyError) as error:
        verify(graph)
    text = str(error.value)
    assert "made at layer20 (net.py:20)" in text
    shown = [line for line in text.splitlines() if " = neg(" in line][1:]
    assert len(shown) == 21 and shown[10].startswith("  -> %v20 = neg(%v19)")
    assert shown[0].strip().startswith("%v10 ") and shown[-1].strip().startswith("%v30 ")


def test_layout_cast_result_has_its_layout() -> None:
    graph = Graph()
    x = graph.add_input(TensorType(float32, (2, 32, 4)), "x")
    y = GraphBuilder(graph).layout_cast(x, layout=Layout(blocks=((1, 16),)))
    graph.add_output(y)
    verify(graph)
    y.type = TensorType(float32, (2, 32, 4))
    with pytest.raises(VerifyError, match="the result has layout dense, the attribute says blocks=1:16"):
        verify(graph)


def test_ten_thousand_nodes() -> None:
    def seconds(count: int) -> float:
        graph = Graph()
        v = graph.add_input(TensorType(float32, (3,)), "x")
        g = GraphBuilder(graph)
        for _ in range(count):
            v = g.neg(v)
        graph.add_output(v)
        start = time.perf_counter()
        verify(graph)
        return time.perf_counter() - start

    assert seconds(12_000) < 30 * seconds(2_000) + 0.1  # linear would be 6 times as long
