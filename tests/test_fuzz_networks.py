"""Random graphs through the whole compiler, and every graph that once came out wrong.

A fixed set of quick seeds runs always; ``pytest -m slow tests/test_fuzz_networks.py --fuzz-seeds 500`` runs more,
from ``--seed`` on. A failing seed is repeated with ``check_network(make_network(seed), target)``; ``minimise`` in
network_checker.py cuts its graph down.
"""

from __future__ import annotations

import re
import textwrap
import zlib

import numpy as np
import pytest
from graph_utils import random_inputs
from ingot.driver import Options, build
from ingot.ir.dims import Dim
from ingot.ir.dtypes import dtype_from_name
from ingot.ir.errors import InputError
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from ingot.ir.parser import parse_graph
from ingot.runtime.executable import Executable
from kernel_harness import host_targets
from network_checker import check_graph, check_network
from network_fuzzer import KINDS, make_network

TARGETS = [t.name for t in reversed(host_targets())]
QUICK = 56


@pytest.mark.parametrize("seed", range(QUICK))
def test_random_network(seed: int) -> None:
    check_network(make_network(seed), TARGETS[seed % len(TARGETS)], canaries=seed % 5 == 0)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_random_networks(request: pytest.FixtureRequest, seed: int) -> None:
    count = request.config.getoption("--fuzz-seeds")
    slow = []
    for s in range(seed, seed + count):
        name = TARGETS[s % len(TARGETS)]
        try:
            outcome = check_network(make_network(s), name, canaries=s % 5 == 0)
        except Exception as error:
            raise AssertionError(f"network {s} on {name}: {error}") from error
        slow += [f"{what}: {seconds:.2f} s (network {s})" for seconds, what in outcome.kernels if seconds > 0.5]
    assert not slow, slow


@pytest.mark.parametrize("kind", [*KINDS, "training", "updates"])
def test_a_seed_is_a_network(kind: str) -> None:
    one, two = make_network(5, kind), make_network(5, kind)
    assert str(one.graph) == str(two.graph) and len(one.graph.outputs) >= 1
    for a, b in zip(one.inputs, two.inputs, strict=True):
        np.testing.assert_array_equal(a, b)


# -- graphs that once came out wrong ------------------------------------------------------------------
REGRESSIONS = {
    # a reduction that would write a halo, or reduce over the padding of a block
    "softmax in front of a padded convolution": """
        graph g(%x: float32[2, 7, 1, 1] input, %p: float32[7, 5, 3, 3] parameter, %q: float32[5, 8, 3, 3] parameter) {
          %y = conv_transpose(%x, %p) {stride = (1, 1), padding = ((1, 1), (1, 1)), dilation = (1, 1), groups = 1, \
output_padding = (0, 0)} : float32[2, 5, 1, 1]
          %s = softmax(%y) {axis = 1} : float32[2, 5, 1, 1]
          %z = conv_transpose(%s, %q) {stride = (1, 1), padding = ((1, 1), (1, 1)), dilation = (1, 1), groups = 1, \
output_padding = (0, 0)} : float32[2, 8, 1, 1]
          return %z as "z"
        }""",
    "transposed convolution without pixels": """
        graph g(%x: float32[2, 99, 8, 1] input, %p: float32[99, 2, 1, 3] parameter, %q: float32[4, 3, 3, 2] parameter) {
          %y = conv_transpose(%x, %p) {stride = (1, 1), padding = ((2, 1), (1, 2)), dilation = (2, 1), groups = 99, \
output_padding = (0, 0)} : float32[2, 198, 5, 0]
          return %y as "y"
        }""",
    "operand that only the epilogue of a reduction reads": """
        graph g(%x: float32[N, 16, 2, 2] input) dims(N in 1..7) {
          %m = mean(%x) {axes = (3), keepdims = true} : float32[N, 16, 2, 1]
          %w = constant() {value = @float32.1x1x2x1.w} : float32[1, 1, 2, 1]
          %c = constant() {value = @bool.1x16x2x1.c} : bool[1, 16, 2, 1]
          %y = where(%c, %w, %m) : float32[N, 16, 2, 1]
          return %y as "y"
        }""",
    "padded convolution of an empty plane": """
        graph g(%x: float32[1, 1, 0] input) {
          %w = constant() {value = @float32.16x1x2.w} : float32[16, 1, 2]
          %y = conv(%x, %w) {stride = (3), padding = ((1, 2)), dilation = (1), groups = 1} : float32[1, 16, 1]
          return %y as "y"
        }""",
    "constant along another axis than the channels": """
        graph g(%x: float32[1, 24, 2, 19] input) {
          %w = constant() {value = @float32.27x24x1x1.w} : float32[27, 24, 1, 1]
          %y = conv(%x, %w) {stride = (1, 1), padding = ((0, 0), (1, 0)), dilation = (1, 1), groups = 1} : \
float32[1, 27, 2, 20]
          %d = constant() {value = @float32.1x2x1.d} : float32[1, 2, 1]
          %z = div(%y, %d) : float32[1, 27, 2, 20]
          return %z as "z"
        }""",
    "softmax along an empty axis": """
        graph g(%x: float32[0, 33] input) {
          %y = softmax(%x) {axis = 0} : float32[0, 33]
          %z = sum(%y) {axes = (0), keepdims = false} : float32[33]
          return %z as "z"
        }""",
    # its padding lanes read beyond %p, which guarded arrays end with
    "one channel in a block, beside a parameter": """
        graph g(%p: float32[1] parameter, %x: float32[1, 1, 17, 46] input) {
          %w = constant() {value = @float32.1x1x3x3.w} : float32[1, 1, 3, 3]
          %y = conv(%x, %w) {stride = (1, 1), padding = ((2, 1), (0, 2)), dilation = (3, 1), groups = 1} : \
float32[1, 1, 14, 46]
          %g = constant() {value = @float32.1.g} : float32[1]
          %b = constant() {value = @float32.1.b} : float32[1]
          %t, %m, %v = batch_norm_train(%y, %g, %b) {eps = 0.001} : float32[1, 1, 14, 46], float32[1], float32[1]
          %q = reshape(%p) {shape = (1, 1, 1, 1)} : float32[1, 1, 1, 1]
          %z = sub(%t, %q) : float32[1, 1, 14, 46]
          return %z as "z"
        }""",
    "weight of one element": """
        graph g(%x: float32[1, 1] input, %z: float32[1, 1] input) {
          %w = constant() {value = @float32.1x1.w} : float32[1, 1]
          %y = matmul(%x, %w) {transpose_a = false, transpose_b = false} : float32[1, 1]
          %s = sub(%y, %z) : float32[1, 1]
          return %s as "s"
        }""",
    "states that swap": """
        graph g(%a: float32[5] state, %b: float32[5] state) {
          return %b as "a" updates %a, %a as "b" updates %b, %a as "old"
        }""",
}


def parsed(text: str) -> Graph:
    """The graph of ``text``; constants written as ``@dtype.2x3.name`` get random values."""
    text = textwrap.dedent(text).strip() + "\n"
    arrays = {}
    for name, dtype, shape in re.findall(r"@((\w+?)\.([\dx]*)\.\w+)", text):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        extents = [int(e) for e in shape.split("x") if e]
        arrays[name] = (rng.integers(0, 2, extents) if dtype[0] in "iub" else rng.normal(size=extents)).astype(
            dtype_from_name(dtype).numpy
        )
    return parse_graph(text, arrays)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_regression(name: str) -> None:
    graph = parsed(REGRESSIONS[name])
    sizes: list[dict[str, int]] = [{}]
    for dim in graph.symbols.values():
        assert isinstance(dim, Dim)
        sizes = [{dim.name: n} for n in (1, 2, 3, 5) if dim.max is None or n <= dim.max]
    for target in TARGETS:
        check_graph(graph, lambda env: random_inputs(graph, dims=env), sizes, target, canaries=True)


def test_windows_that_do_not_fit_at_run_time_are_refused() -> None:
    """With two such axes the product of negative extents is positive, and kernels would read outside the input."""
    graph = parsed("""
        graph g(%x: float32[1, 2, H, H] input) dims(H in 1..16) {
          %y, %i = max_pool(%x) {kernel = (5, 5), stride = (1, 1), padding = ((0, 0), (0, 0)), dilation = (1, 1), \
ceil_mode = false} : float32[1, 2, H - 4, H - 4], int64[1, 2, H - 4, H - 4]
          %s = sum(%y) {axes = (2, 3), keepdims = false} : float32[1, 2]
          return %s as "s"
        }""")
    exe = Executable(build(graph, Options()))
    assert exe.run([np.ones((1, 2, 6, 6), np.float32)])[0].tolist() == [[4, 4]]
    small = [np.ones((1, 2, 3, 3), np.float32)]
    message = r"H = 3 makes the extent H \+ -4 of %y negative \(-1\)"
    with pytest.raises(InputError, match=message):
        exe.run(small)
    with pytest.raises(InputError, match=message):
        interpret(graph, small)
    exe.run([np.ones((1, 2, 4, 4), np.float32)])  # no window at all is no error
