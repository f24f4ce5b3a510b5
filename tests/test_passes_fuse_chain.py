"""Chains around depthwise convolutions: what joins, what stays apart, and the whole path through the driver."""

from __future__ import annotations

import ingot
import numpy as np
from fake_kernels import FakeKernels
from graph_utils import build, ops, run_pass
from ingot.codegen.lower import chain_plan
from ingot.passes.fuse_chain import FuseChain


def conv(b, x, out, kernel=1, groups=1, stride=1):
    w = np.random.default_rng(out).standard_normal((out, x.shape[1] // groups, kernel, kernel)).astype(np.float32)
    pad = ((kernel // 2,) * 2,) * 2
    return b.conv(x, b.constant(w), stride=(stride, stride), padding=pad, dilation=(1, 1), groups=groups)


def residual_block(b, x, wide=32, stride=1):
    y = b.relu(conv(b, x, wide))
    y = b.relu(conv(b, y, wide, 3, wide, stride))
    y = conv(b, y, x.shape[1])
    return b.add(y, x) if stride == 1 else y


def run(graph, supports=lambda node: None, rewrites=None):
    kernels = FakeKernels()
    kernels.supports = supports
    run_pass(graph, FuseChain(), rewrites=rewrites, kernels=kernels)
    return [ops(n.regions[0]) for n in graph.find("fused")]


def test_inverted_residuals_become_one_node_each() -> None:
    graph = build(lambda b, x: residual_block(b, residual_block(b, x)), (1, 8, 8, 8))
    one = ["conv", "relu", "conv", "relu", "conv", "add"]
    assert run(graph, rewrites=2) == [one, one] and ops(graph) == ["fused", "fused"]


def test_the_library_refuses_three_and_takes_two() -> None:
    graph = build(residual_block, (1, 8, 8, 8))
    few = run(graph, lambda node: "too many" if len([n for n in node.regions[0] if n.op == "conv"]) > 2 else None)
    assert few == [["conv", "relu", "conv", "add"]] and ops(graph) == ["conv", "relu", "fused"]


def test_a_value_that_others_read_ends_the_chain() -> None:
    def make(b, x):
        y = b.relu(conv(b, x, 16))
        z = b.relu(conv(b, y, 16, 3, 16))
        scale = b.mean(z, axes=(2, 3), keepdims=True)  # squeeze and excitation
        return conv(b, b.mul(z, scale), 8)

    graph = build(make, (1, 8, 8, 8))
    assert run(graph) == [["conv", "relu", "conv", "relu"]]

    def shared(b, x):
        y = b.relu(conv(b, x, 16))
        return conv(b, conv(b, y, 16, 3, 16), 8), y

    assert run(build(shared, (1, 8, 8, 8))) == [["conv", "conv"]]


def test_convolutions_without_a_depthwise_one_stay_apart() -> None:
    graph = build(lambda b, x: conv(b, b.relu(conv(b, x, 16)), 8, 3), (1, 8, 8, 8))
    assert run(graph, rewrites=0) == []


class Block(ingot.nn.Module):
    def __init__(self, channels: int = 6, wide: int = 34) -> None:
        super().__init__()
        nn = ingot.nn
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=True), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.Hardswish(), nn.Conv2d(wide, channels, 1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


def test_compiled_chains_have_the_bits_of_separate_kernels(monkeypatch) -> None:
    """For any number of threads, two blocks behind each other (the second one's input has a halo of its own)."""
    monkeypatch.setattr(chain_plan, "worth", lambda node, target: None)
    ingot.manual_seed(3)
    model = ingot.nn.Sequential(Block(), ingot.nn.Conv2d(6, 6, 3, padding=1), Block()).eval()
    x = np.random.default_rng(0).standard_normal((3, 6, 21, 17)).astype(np.float32)
    apart = ingot.compile(model, ingot.from_numpy(x), disable=("fuse-chain",), cache=False)(x)
    for threads in (1, 2):
        exe = ingot.compile(model, ingot.from_numpy(x), threads=threads, cache=False)
        assert sum("chain" in str(k.description) for k in exe.program.kernels.values()) >= 1
        np.testing.assert_array_equal(exe(x), apart)
