"""Printing and parsing: readable, and an exact round trip."""

from __future__ import annotations

import math
import struct
import time

import ml_dtypes
import numpy as np
import pytest
from ingot.ir import dtypes, ops, registry
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim, Extent, floordiv, maximum, mod
from ingot.ir.dtypes import bool_, dtype_from_numpy, float32, float64, int64
from ingot.ir.errors import ParseError
from ingot.ir.graph import Graph, Node, Value
from ingot.ir.layout import Layout
from ingot.ir.ops.structure import create_fused
from ingot.ir.parser import MAX_NESTING, parse_graph
from ingot.ir.printer import collect_constants, print_graph, print_node
from ingot.ir.registry import Attr, Fusion, OpDef
from ingot.ir.source import Source
from ingot.ir.types import TensorType
from ingot.ir.verifier import verify
from op_cases import cases, ops_with_cases

assert ops  # importing it registers the operators

N = Dim("N", 1, 64)
M = Dim("M", 0)
H = Dim("H", 8, 256)


# -- comparing ----------------------------------------------------------------------------------------
def equal(a: object, b: object) -> bool:
    """Equal including types, the bits of floats and the contents of arrays."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    return a == b


def assert_same(a: Graph, b: Graph) -> None:
    """The two graphs agree in everything that a graph holds."""
    assert (a.name, a.roles, a.output_names, a.updates, a.symbols) == (
        b.name, b.roles, b.output_names, b.updates, b.symbols,
    )  # fmt: skip
    assert len(a) == len(b)
    mapping = dict(zip(a.inputs, b.inputs, strict=True))
    for x, y in zip(a, b, strict=True):
        assert (x.op, x.source, list(x.attrs)) == (y.op, y.source, list(y.attrs)), (x, y)
        assert [mapping[v] for v in x.inputs] == y.inputs
        for key, value in x.attrs.items():
            assert equal(value, y.attrs[key]), f"{x!r}: {key} = {value!r} became {y.attrs[key]!r}"
        assert len(x.regions) == len(y.regions)
        for r, s in zip(x.regions, y.regions, strict=True):
            assert_same(r, s)
        mapping.update(zip(x.outputs, y.outputs, strict=True))
    for v, w in mapping.items():
        assert (v.name, v.type) == (w.name, w.type)
    assert [mapping[o] for o in a.outputs] == b.outputs


def round_trip(graph: Graph) -> str:
    """Print, parse, compare; returns the text."""
    text = print_graph(graph)
    again = parse_graph(text, collect_constants(graph))
    assert_same(graph, again)
    assert print_graph(again) == text
    return text


# -- round trip ---------------------------------------------------------------------------------------
EXAMPLE = """graph main(%x: float32[N, 3, 8, 8] input, %conv1.weight: float32[16, 3, 3, 3] parameter) dims(N in 1..64) {
  %conv = conv(%x, %conv1.weight) {stride = (1, 1), padding = ((1, 1), (1, 1)), dilation = (1, 1), groups = 1} : \
float32[N, 16, 8, 8]  # layer1.conv1 (net.py:12)
  %max_pool, %max_pool_1 = max_pool(%conv) {kernel = (2, 2), stride = (2, 2), padding = ((0, 0), (0, 0)), \
dilation = (1, 1), ceil_mode = false} : float32[N, 16, 4, 4], int64[N, 16, 4, 4]  # pool
  %fused = fused(%max_pool) {kind = "elementwise"} : float32[N, 16, 4, 4] region body(%p: float32[N, 16, 4, 4]) {
    %c = constant() {value = float32[](0.5)} : float32[]
    %mul = mul(%p, %c) : float32[N, 16, 4, 4]
    return %mul as "mul"
  }  # (net.py:14)
  %layout_cast = layout_cast(%fused) {layout = @blocks=1:16} : float32[N, 16, 4, 4] @blocks=1:16
  %reshape = reshape(%layout_cast) {shape = (256*N)} : float32[256*N]
  %half = mul(%conv1.weight, %big) : float32[16, 3, 3, 3]
  return %reshape as "logits", %half as "new" updates %conv1.weight
}
"""


def example() -> Graph:
    graph = Graph()
    x = graph.add_input(TensorType(float32, (N.expr, 3, 8, 8)), "x")
    w = graph.add_input(TensorType(float32, (16, 3, 3, 3)), "conv1.weight", "parameter")
    g = GraphBuilder(graph, source=Source("net.py", 12, "layer1.conv1"))
    one = ((1, 1), (1, 1))
    y = g.conv(x, w, stride=(1, 1), padding=one, dilation=(1, 1), groups=1)
    g.source = Source(module="pool")
    zero = ((0, 0), (0, 0))
    y, _ = g.max_pool(y, kernel=(2, 2), stride=(2, 2), padding=zero, dilation=(1, 1))
    region = Graph("body")
    p = region.add_input(y.type, "p")
    b = GraphBuilder(region)
    region.add_output(b.mul(p, b.constant(0.5, float32, "c")))
    y = create_fused(graph, region, [y], "elementwise", source=Source("net.py", 14)).output
    g.source = Source()
    y = g.layout_cast(y, layout=Layout(blocks=((1, 16),)))
    graph.add_output(g.reshape(y, shape=(256 * N.expr,)), "logits")
    big = graph.constant(np.arange(432, dtype=np.float32).reshape(16, 3, 3, 3), "big")
    half = g.emit("mul", [w, big], name="half").output
    graph.add_output(half, "new", updates=w)
    return graph


def test_the_text_of_a_graph() -> None:
    graph = example()
    text = round_trip(graph)
    constant = "  %big = constant() {value = @big} : float32[16, 3, 3, 3]\n"
    assert constant in text
    assert text.replace(constant, "") == EXAMPLE
    assert list(collect_constants(graph)) == ["big"]
    assert str(graph) == text
    verify(parse_graph(text, collect_constants(graph)))


@pytest.mark.parametrize("op", sorted(set(registry.OPS) - {"fused"}))
def test_every_operator(op: str) -> None:
    assert op in ops_with_cases()
    graph = Graph()
    g = GraphBuilder(graph)
    for case in cases(op, seed=1)[:12]:
        inputs = [graph.add_input(TensorType(dtype_from_numpy(a.dtype), a.shape), "x") for a in case.inputs]
        node = g.emit(op, inputs, **case.attrs)
        for out in node.outputs:
            graph.add_output(out)
    assert len(graph)
    round_trip(graph)


def all_kinds() -> OpDef:
    kinds = [
        "int",
        "float",
        "bool",
        "str",
        "dtype",
        "layout",
        "ints",
        "extents",
        "pairs",
        "array",
        "scalar",
        "optional_int",
    ]
    return OpDef(
        "all_kinds",
        infer=lambda types, attrs: [types[0]],
        reference=lambda x, **attrs: x,
        fusion=Fusion.OPAQUE,
        attrs={k: Attr(k) for k in kinds},
    )


def extent(rng: np.random.Generator, depth: int = 3) -> Extent:
    """A random expression over N, M and H."""
    if depth == 0 or rng.random() < 0.2:
        return int(rng.integers(-9, 10)) if rng.random() < 0.4 else [N, M, H][rng.integers(3)].expr
    a, b = extent(rng, depth - 1), extent(rng, depth - 1)
    kind = rng.integers(6)
    if kind == 0:
        return a + b
    if kind == 1:
        return a - b
    if kind == 2:
        return a * b
    if kind == 3:
        return maximum(a, b)
    divisor = b if not isinstance(b, int) or b > 0 else 3
    return floordiv(a, divisor) if kind == 4 else mod(a, divisor)


FLOATS = [0.0, -0.0, 1.0, 1e-5, -1.5e300, 5e-324, 0.1, 1e16, math.inf, -math.inf, math.nan, math.pi]
LAYOUTS = [
    Layout(), Layout(order=(1, 0)), Layout(blocks=((1, 16), (0, 4))), Layout(halo=((0, 0), (1, 2))),
    Layout(order=(0, 1), blocks=((0, 8),), halo=((0, 0), (3, 3))),
]  # fmt: skip
STRINGS = ["", "none", 'a "quoted" \\ name', "line\nbreak # not a comment", "Größe → ∞", "\x00\x7f\u2028"]


@pytest.mark.parametrize("seed", range(20))
def test_attributes_of_every_kind(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    record = all_kinds()
    monkeypatch.setitem(registry.OPS, record.name, record)
    rng = np.random.default_rng(seed)

    def pick(options: list) -> object:
        return options[rng.integers(len(options))]

    dtype = pick(list(dtypes.ALL))
    shape = tuple(int(e) for e in rng.integers(0, 4, rng.integers(0, 4)))
    array = rng.integers(0, 256, (*shape, dtype.itemsize)).astype(np.uint8)
    array = (array % 2 if dtype is bool_ else array).view(dtype.numpy).reshape(shape)
    if dtype.kind == "f":
        array[np.isnan(array)] = np.nan  # payloads of NaNs are not kept in the text
    attrs = {
        "int": int(rng.integers(-(2**62), 2**62)),
        "float": pick(FLOATS),
        "bool": bool(rng.integers(2)),
        "str": pick(STRINGS),
        "dtype": pick(list(dtypes.ALL)),
        "layout": pick(LAYOUTS),
        "ints": tuple(int(i) for i in rng.integers(-5, 5, rng.integers(0, 4))),
        "extents": tuple(extent(rng) for _ in range(rng.integers(0, 4))),
        "pairs": tuple((int(a), int(b)) for a, b in rng.integers(-3, 3, (rng.integers(0, 3), 2))),
        "array": array,
        "scalar": pick([None, True, False, 3, -3, *FLOATS]),
        "optional_int": pick([None, 0, -7]),
    }
    graph = Graph(str(pick(["main", "My net", "é", "9"])))
    for dim in (N, M, H):
        graph.add_symbol(dim)
    x = graph.add_input(TensorType(float32, (extent(rng), 2), pick(LAYOUTS)), "x")
    source = Source(
        str(pick(["", "net.py", "a b/(c).py", "x\n.py"])), int(rng.integers(0, 9)), str(pick(["", "l.0", "a b"]))
    )
    node = graph.create("all_kinds", [x], attrs, [x.type], source=source)
    graph.add_output(node.output, str(pick(STRINGS)))
    graph.output_names[-1] = str(pick(STRINGS))
    round_trip(graph)


def test_small_arrays_of_each_dtype_keep_their_bits() -> None:
    graph = Graph()
    for dtype in dtypes.ALL:
        values = [0, 1, dtype.min, dtype.max]
        if dtype.kind == "f":
            tiny = ml_dtypes.finfo(dtype.numpy).smallest_subnormal
            values += [float(tiny), -0.0, math.inf, 1 / 3]
        graph.constant(np.array(values, dtype.numpy), f"c_{dtype.name}")
    round_trip(graph)


def test_large_arrays_are_references_shared_where_the_array_is() -> None:
    graph = Graph()
    shared = np.arange(20, dtype=np.float32)
    graph.constant(shared, "w")
    graph.constant(shared, "tied")
    region = Graph()
    region.constant(np.arange(9), "w")
    region.add_output(region.constant(np.arange(10), "v"))
    create_fused(graph, region, [], "elementwise")
    constants = collect_constants(graph)
    assert sorted(constants) == ["v", "w", "w_1"] and constants["w"] is shared
    again = parse_graph(round_trip(graph), constants)
    first, second = again.find("constant")
    assert first.attrs["value"] is second.attrs["value"] is shared


def test_regions_with_their_own_symbols_roles_and_nesting() -> None:
    graph = Graph()
    x = graph.add_input(TensorType(float32, (N.expr,)), "x")
    inner = Graph("inner")
    inner.add_symbol(N)
    p = inner.add_input(x.type, "p")
    inner.add_output(GraphBuilder(inner).neg(p))
    outer = Graph()
    q = outer.add_input(x.type, "x", "scalar")  # names are per region
    outer.add_output(create_fused(outer, inner, [q], "elementwise", names=["x2"]).output)
    outer.add_symbol(M)
    graph.add_symbol(M)
    graph.add_output(create_fused(graph, outer, [x], "elementwise").output)
    text = round_trip(graph)
    assert "region inner(%p: float32[N]) {" in text
    assert "region(%x: float32[N] scalar) dims(N in 1..64, M in 0..) {" in text


def test_an_empty_graph_and_many_inputs() -> None:
    round_trip(Graph())
    graph = Graph()
    for i in range(9):
        graph.add_output(graph.add_input(TensorType(float64, (i,)), "x"), f"y{i}")
    assert round_trip(graph).count("\n") == 13  # one input per line


def test_hand_written_text_may_leave_out_defaults_and_roles() -> None:
    graph = parse_graph(
        """
        # a comment
        graph f(%a: float32[2, n + 1], %b: float32[n + 1, 3]) dims(n in 0..) {
          # another
          %c = matmul(%a, %b) : float32[2, 3]   # m (f.py:3)
          return %c as "c"
        }
        """
    )
    verify(graph)
    (node,) = graph.nodes
    assert node.attrs == {"transpose_a": False, "transpose_b": False} and node.source == Source("f.py", 3, "m")
    assert graph.roles == ["input", "input"]


def test_print_node_never_fails() -> None:
    node = Node("nonsense", [], {"a": object()}, Source())
    assert "nonsense" in print_node(node)


# -- errors -------------------------------------------------------------------------------------------
GOOD = """graph f(%x: float32[N, 3]) dims(N in 1..9) {
  %y = sum(%x) {axes = (1), keepdims = false} : float32[N]
  return %y as "y"
}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("graph f", "grph f", "line 1, column 1: expected 'graph' at the start, found 'grph'"),
        ("float32[N, 3]", "float31[N, 3]", "line 1, column 13: expected a dtype such as float32, found 'float31'"),
        ("float32[N, 3]", "float32[K, 3]", r"line 1, column 21: expected an extent \(.* N\), found 'K'"),
        ("float32[N, 3]", "float32[N 3]", r"expected ',' or '\]', found '3'"),
        ("float32[N, 3]", "float32[(N // 0)]", "a divisor other than 0"),
        ("float32[N, 3]", "float32[N**65]", "an exponent from 1 to 64"),
        ("float32[N, 3]", "float32[" + "(" * 99 + "N", r"expected .*nesting|a '\)' that closes"),
        ("1..9", "9..1", "a valid range"),
        ("1..9", "1-9", r"expected '\.\.'"),
        ("sum(%x)", "sum(%z)", "line 2, column 12: expected a value defined above, found '%z'"),
        ("sum(%x)", "summ(%x)", "expected the name of an operator, found 'summ'"),
        ("axes = (1)", "axis = (1)", r"expected an attribute of sum \(axes, keepdims\), found 'axis'"),
        ("axes = (1), ", "", "attribute 'axes' .* is missing"),
        ("axes = (1)", "axes = (1.5)", "expected an integer, found '1.5'"),
        ("keepdims = false", "keepdims = 0", "expected 'false' or 'true', found '0'"),
        (" : float32[N]\n", "\n", "1 result types for 1 results|expected 1 result types"),
        ("%y = sum", "%x = sum", r"each name once \(%x is defined already\)"),
        ("%y = sum", "sum", "expected a node"),
        ('as "y"', "as y", "a string in double quotes"),
        ('as "y"', 'as "\\q"', "a string with valid escapes"),
        ('as "y"', 'as "y" updates %y', "a graph input after 'updates'"),
        ("}\n", "", r"expected '}', found end of text|expected"),
        ("}\n", "} extra", "expected the end of the text"),
        ("%y = sum", "%y ? sum", "line 2, column 6: expected a token, found '\\?'"),
    ],
)
def test_parse_errors_give_place_and_expectation(old: str, new: str, message: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1) if old != "}\n" else GOOD.removesuffix("}\n") + new
    with pytest.raises(ParseError, match=message) as error:
        parse_graph(text)
    assert "line " in str(error.value) and "column " in str(error.value)


def test_every_prefix_is_refused_cleanly() -> None:
    text = EXAMPLE.replace("%half = mul(%conv1.weight, %big)", "%half = neg(%conv1.weight)")
    parse_graph(text)
    for end in range(0, len(text) - 2, 3):
        with pytest.raises(ParseError):
            parse_graph(text[:end])


def test_missing_constant() -> None:
    graph = example()
    with pytest.raises(ParseError, match="an array among the given constants, found '@big'"):
        parse_graph(print_graph(graph))


def test_bad_inline_array() -> None:
    text = "graph f() {\n  %c = constant() {value = float32[2](1.0)} : float32[2]\n  return\n}"
    with pytest.raises(ParseError, match=r"line 2, column 28: expected the elements of float32\[2\]"):
        parse_graph(text)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ("int32[1](1.5)", "an integer, found '1.5'"),
        ("uint8[1](256)", "elements that fit uint8"),
        ("float32[-1](1.0)", "the elements of"),
        ("bool[1](1)", "'false' or 'true'"),
        ("int64[1](" + "9" * 5000 + ")", "at most 40 digits"),
    ],
)
def test_elements_fit_their_type(array: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse_graph("graph f() { %c = constant() {value = " + array + "} : int32[1] return }")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_text_gives_a_graph_or_a_parse_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = EXAMPLE.replace("%half = mul(%conv1.weight, %big)", "%half = neg(%conv1.weight)")
    pieces = [
        "",
        "(",
        ")",
        "{",
        "}",
        "%x",
        "@",
        "1",
        "-",
        "0",
        ",",
        "N",
        '"',
        "#",
        "**",
        "//",
        "max(",
        "nan",
        "\n",
        "é",
    ]
    for _ in range(150):
        damaged = text
        for _ in range(rng.integers(1, 4)):
            at, length = int(rng.integers(len(text))), int(rng.integers(0, 4))
            damaged = damaged[:at] + pieces[rng.integers(len(pieces))] + damaged[at + length :]
        try:
            parse_graph(damaged)
        except ParseError as error:
            assert "line " in str(error)


def test_nesting_is_limited() -> None:
    deep = MAX_NESTING * 5
    text = "graph f(%x: float32[" + "(" * deep + "1" + ")" * deep + "]) {\n  return\n}"
    with pytest.raises(ParseError, match="levels of nesting"):
        parse_graph(text)
    region = '%y = fused(%x) {kind = "elementwise"} : float32[1] region(%x: float32[1]) {\n'
    text = "graph f(%x: float32[1]) {\n" + region * deep + "return" + "}" * deep + "return }"
    with pytest.raises(ParseError, match="levels of nesting"):
        parse_graph(text)


def test_ten_thousand_nodes() -> None:
    graph = Graph()
    v: Value = graph.add_input(TensorType(float32, (N.expr, 3)), "x")
    g = GraphBuilder(graph, source=Source("net.py", 1, "body"))
    for _ in range(5_000):
        v = g.add(g.cast(g.cast(v, dtype=int64), dtype=float32), v)
    graph.add_output(v)
    start = time.perf_counter()
    text = print_graph(graph)
    again = parse_graph(text)
    assert time.perf_counter() - start < 30
    assert len(again) == 15_000 and print_graph(again) == text
