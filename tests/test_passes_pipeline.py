"""What the standard pipeline makes of whole networks: what was fused, what was left, how the arena packs."""

from __future__ import annotations

from collections import Counter

import ingot
import pytest
from ingot import driver
from ingot.frontend.tracing import InputSpec
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float32
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from networks import ALL, LARGE, SMALL, example, relative_error, seeded


def optimised(name: str, batch: int | Dim = 1, **options: object) -> Graph:
    found = driver.trace_inference(seeded(name), [InputSpec((batch, *ALL[name][1]), float32)])
    return driver.optimise(found.graph, driver.Options(**options))  # type: ignore[arg-type]


def groups(graph: Graph) -> Counter[str]:
    """Kernels of the graph: fused groups as ``conv+add+relu``, attention and other operators by name.

    A chain counts as its convolutions.
    """
    found: Counter[str] = Counter()
    for node in graph:
        if node.attrs.get("kind") == "attention":
            found["attention"] += 1
        elif node.regions:
            text = "+".join(n.op for n in node.regions[0] if n.op != "constant")
            found.update(text.replace("+conv", "|conv").split("|") if node.attrs["kind"] == "chain" else [text])
        elif node.op != "constant":
            found[node.op] += 1
    return found


def contractions(graph: Graph) -> Counter[str]:
    return Counter({k: v for k, v in groups(graph).items() if k.split("+")[0] in ("conv", "matmul")})


# Every batch norm is folded; bias, activation and residual additions run in the contraction that precedes them.
EXPECTED = {
    "mlp": {"matmul+add+relu": 2, "matmul+add": 1},
    "lenet": {"conv+add+relu": 2, "matmul+add+relu": 2, "matmul+add": 1},
    "resnet20": {"conv+add+relu": 10, "conv+add+add+relu": 9, "matmul+add": 1},
    "resnet18": {"conv+add+relu": 9, "conv+add+add+relu": 8, "conv+add": 3, "matmul+add": 1},
    "resnet50": {"conv+add+relu": 33, "conv+add+add+relu": 16, "conv+add": 4, "matmul+add": 1},
    "vgg16": {"conv+add+relu": 13, "matmul+add+relu": 2, "matmul+add": 1},
    "mobilenet_v2": {"conv+add+clamp": 35, "conv+add+add": 10, "conv+add": 7, "matmul+add": 1},
    "mobilenet_thin": {"conv+add+clamp": 9, "conv+add+add": 2, "conv+add": 2, "matmul+add": 1},
    "unet": {"conv+add+relu": 18, "conv+add": 5},
    "unet_bilinear": {"conv+add+relu": 18, "conv+add": 5},
    "unet_transposed": {"conv+add+relu": 18, "conv+add": 1},
    "unet_small": {"conv+add+relu": 18, "conv+add": 5},
    # Per layer, beside attention: qkv; two projections with their residuals; GELU.
    "encoder": {"matmul+add": 6, "matmul+add+add": 12, "matmul+add+gelu": 6},
    "encoder_small": {"matmul+add": 2, "matmul+add+add": 4, "matmul+add+gelu": 2},
}


@pytest.mark.parametrize("batch", [1, Dim("N", 1, 64)], ids=["batch 1", "dynamic"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "vgg16" else ()) for n in ALL])
def test_fusion(name: str, batch: int | Dim) -> None:
    graph = optimised(name, batch)
    found = groups(graph)
    assert contractions(graph) == EXPECTED[name]
    if name.startswith("encoder"):
        layers = EXPECTED[name]["matmul+add"]
        # Layer norms, whose weights are still 1 and biases 0.
        assert found["mean+sub+mul+mean+add+rsqrt+mul"] == 2 * layers + 1
        assert found["attention"] == layers
    lonely = ("batch_norm", "add", "relu", "mul", "sub", "clamp", "gelu", "sqrt", "rsqrt")
    for left in (*lonely, "softmax", "permute", "slice"):
        assert not found[left], f"{found[left]} {left} left alone: {found}"


@pytest.mark.parametrize("name", SMALL)
def test_optimised_graphs_mean_the_same(name: str) -> None:
    """Every pass on real networks: the optimised graph, run by the references, equals the traced one."""
    found = driver.trace_inference(seeded(name), [example(name, 2)])
    wanted = interpret(found.graph, [example(name, 2)], float64=True)
    graph = driver.optimise(found.graph, driver.Options())
    for actual, value in zip(interpret(graph, [example(name, 2)], float64=True), wanted, strict=True):
        # Folded constants are rounded to float32 once.
        assert relative_error(actual, value) <= 8 * float32.eps


@pytest.mark.parametrize("name", [pytest.param("resnet20", marks=pytest.mark.slow), "mobilenet_thin"])
def test_switches(name: str) -> None:
    """Each optional pass can be left out alone; the result stays the same and the pass's work is undone."""
    without = groups(optimised(name, disable=["fold-batch-norm"]))
    assert "conv+add+relu" not in without
    alone = groups(optimised(name, disable=["fuse-contraction"]))
    assert alone["conv"] and not any(k.startswith("conv+") for k in alone)
    x = example(name, 2)
    wanted = ingot.compile(seeded(name), x)(x)
    for switched in ("fold-batch-norm", "fuse-contraction", "fuse-elementwise", "assign-layout", "cse", "simplify"):
        found = ingot.compile(seeded(name), x, disable=[switched])(x)
        assert relative_error(found, wanted) <= 16 * float32.eps, switched


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", LARGE)
def test_arena(name: str, batch: int) -> None:
    """The arena is at most 2 % larger than the largest sum of live buffers."""
    shape = (batch, *ALL[name][1])
    found = driver.trace_inference(seeded(name), [InputSpec(shape, float32)])
    memory = driver.build(found.graph, driver.Options()).memory
    print(f"{name}, batch {batch}: arena {memory.arena}, live peak {memory.lower_bound}, "
          f"separate buffers {memory.intermediates}, efficiency {memory.efficiency:.4f}")  # fmt: skip
    assert memory.efficiency >= 0.98
    assert memory.arena < memory.intermediates
