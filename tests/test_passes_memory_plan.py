"""The arena planner: no two live buffers share bytes, and real lifetimes pack to the live peak."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingot.passes.memory_plan import ArenaPlan, Lifetime, plan

Rng = np.random.Generator


def check_plan(buffers: list[Lifetime], result: ArenaPlan, alignment: int = 64) -> None:
    """Property check by a sweep over time: at every step, the live buffers are disjoint."""
    assert list(result.offsets) == [b.key for b in buffers]
    events: dict[int, list[Lifetime]] = {}
    for b in buffers:
        assert result.offsets[b.key] % alignment == 0
        assert 0 <= result.offsets[b.key] <= result.size - b.size
        events.setdefault(b.start, []).append(b)
    live: list[Lifetime] = []
    peak = 0
    for step in sorted(events):
        live = [b for b in live if b.end >= step] + events[step]
        placed = sorted((result.offsets[b.key], b.size, b.key) for b in live if b.size)
        for (low, size, key), (after, _, other) in pairwise(placed):
            assert low + size <= after, f"{key} and {other} overlap at step {step}"
        peak = max(peak, sum(-(-b.size // alignment) * alignment for b in live))
    assert result.lower_bound == peak
    assert result.total == sum(-(-b.size // alignment) * alignment for b in buffers)
    assert result.size >= result.lower_bound


def residual(rng: Rng) -> list[Lifetime]:
    out, t, size = [], 0, 64 * 56 * 56 * 4
    for block in range(16):
        if block % 4 == 3:
            size //= 2
        out += [
            Lifetime(f"a{block}", size // 4 + int(rng.integers(0, 4096)), t, t + 1),
            Lifetime(f"b{block}", size // 4, t + 1, t + 2),
            Lifetime(f"out{block}", size, t + 2, t + 5),
            Lifetime(f"scratch{block}", int(rng.integers(1, size // 4)), t, t),
        ]
        t += 3
    return out


def unet(rng: Rng) -> list[Lifetime]:
    depth, t, size = 5, 0, 1 << 22
    out, skips = [], []
    for d in range(depth):
        out += [Lifetime(f"e{d}", size, t, t + 1), Lifetime(f"p{d}", size // 4, t + 2, t + 3)]
        skips.append((d, size, t + 1))
        t, size = t + 3, size // 2
    for d, size, since in reversed(skips):
        out.append(Lifetime(f"skip{d}", size, since, t + 1))
        for k, letter in enumerate("xyz"):
            out.append(Lifetime(f"d{d}{letter}", size + int(rng.integers(0, 999)), t + k, t + k + 1))
        t += 3
    return out


def inception(rng: Rng) -> list[Lifetime]:
    out, t = [], 0
    for block in range(12):
        sizes = [int(rng.integers(1, 1 << 20)) for _ in range(int(rng.integers(2, 6)))]
        end = t + 2 * len(sizes)
        for i, size in enumerate(sizes):
            out.append(Lifetime((block, i, "t"), int(rng.integers(1, 1 << 19)), t, t + 1))
            out.append(Lifetime((block, i), size, t + 1, end))
            t += 2
        out.append(Lifetime((block, "cat"), sum(sizes), end, end + 2 * int(rng.integers(2, 6))))
        t = end + 1
    return out


def training(rng: Rng, layers: int = 60) -> list[Lifetime]:
    out, turn = [], 2 * layers
    for i in range(layers):
        until = turn + 1 if rng.random() < 0.5 else turn - i + 1
        out += [
            Lifetime(f"act{i}", int(rng.integers(1, 1 << 20)), i, turn - i),
            Lifetime(f"tmp{i}", int(rng.integers(1, 1 << 19)), i, i),
            Lifetime(f"grad{i}", int(rng.integers(1, 1 << 20)), turn - i, turn - i + 1),
            Lifetime(f"dw{i}", int(rng.integers(1, 1 << 19)), turn - i, until),
        ]
        if rng.random() < 0.7:
            out.append(Lifetime(f"mask{i}", int(rng.integers(1, 1 << 18)), i, turn - i - 1))
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [residual, unet, inception, training])
def test_networks_pack_to_the_live_peak(make: Callable[[Rng], list[Lifetime]], seed: int) -> None:
    buffers = make(np.random.default_rng(seed))
    result = plan(buffers)
    check_plan(buffers, result)
    assert result.efficiency >= 0.98, f"{make.__name__} seed {seed}: {result.efficiency:.4f} by {result.strategy}"


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 12)), max_size=40),
    st.sampled_from([1, 64, 4096]),
)
@settings(max_examples=60, deadline=None)
def test_random_plans_are_valid(items: list[tuple[int, int, int]], alignment: int) -> None:
    buffers = [Lifetime(i, size, start, start + length) for i, (size, start, length) in enumerate(items)]
    result = plan(buffers, alignment)
    check_plan(buffers, result, alignment)
    assert result.size <= result.total


def test_plans_are_deterministic_and_unions_share_a_place() -> None:
    buffers = training(np.random.default_rng(7))
    assert plan(buffers) == plan(buffers)
    chain = [Lifetime("a", 100, 0, 1), Lifetime("b", 300, 1, 2), Lifetime("c", 100, 2, 3), Lifetime("other", 64, 0, 3)]
    apart, together = plan(chain), plan(chain, unions=[("a", "b"), ("b", "c")])
    assert together.offsets["a"] == together.offsets["b"] == together.offsets["c"]
    assert together.size == 320 + 64 < apart.size == 128 + 320 + 64
    assert together.total == apart.total == 128 + 320 + 128 + 64


def test_five_thousand_buffers_take_under_two_seconds() -> None:
    buffers = training(np.random.default_rng(1), 1070)
    assert len(buffers) >= 5000
    start = time.process_time()
    result = plan(buffers)
    seconds = time.process_time() - start
    check_plan(buffers, result)
    assert result.efficiency >= 0.98
    assert seconds < 2.0


def test_edges_and_refusals() -> None:
    assert plan([]) == ArenaPlan({}, 0, 0, 0, plan([]).strategy)
    assert plan([]).efficiency == 1.0
    empty = plan([Lifetime("nothing", 0, 0, 5), Lifetime("one", 1, 0, 5)])
    assert empty.size == 64
    with pytest.raises(ValueError, match="given twice"):
        plan([Lifetime("a", 1, 0, 1), Lifetime("a", 1, 0, 1)])
    with pytest.raises(ValueError, match="steps 3 to 1"):
        plan([Lifetime("a", 1, 3, 1)])
    with pytest.raises(ValueError, match="power of two"):
        plan([], 48)
    with pytest.raises(ValueError, match=r"unknown buffers \['z'\]"):
        plan([Lifetime("a", 1, 0, 1)], unions=[("a", "z")])
