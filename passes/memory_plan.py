"""Memory planning: offsets in one arena for buffers with known sizes and lifetimes.

Two buffers may share bytes only if their lifetimes do not meet. Finding the smallest arena is NP-hard,
but the live peak (the largest sum of sizes at one step) is a lower bound that is nearly always reached:

1. Buffers joined by in-place reuse become one, with the larger size and the joined lifetime.
2. Several orders (by size, by area, by length, by step of largest pressure, by time) are tried; each puts a
   buffer into the lowest, or the tightest, gap between those it meets. The first within 0.2 % of the bound ends it.
3. If none is, the best order is improved: buffers that end above the bound move towards the front, a fixed
   number of times, with a fixed seed.

The amount of work is counted, not timed, so the same input gives the same plan on every machine.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_WORK = 120_000_000  # buffer comparisons spent on one plan, at most; about a second
_GOOD = 0.998  # efficiency from which going on is not worth compile time
_OVERHEAD = 3_000  # what placing one buffer costs besides its comparisons, in the same unit
_MOVES = 400  # improvement steps at most
_PATIENCE = 12  # of them without progress before going back to the best order


@dataclass(frozen=True)
class Lifetime:
    """A buffer: ``size`` bytes, in use from step ``start`` to step ``end``, both included."""

    key: Hashable
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class ArenaPlan:
    """Where every buffer lies.

    Attributes:
        offsets: byte offset by key; buffers of one union share theirs.
        size: arena bytes.
        lower_bound: the largest sum of sizes (as aligned) live at one step; no plan can be smaller.
        total: sum of all sizes, the memory that separate buffers would take.
        strategy: which order won, for the report.
    """

    offsets: dict[Hashable, int]
    size: int
    lower_bound: int
    total: int
    strategy: str = ""

    @property
    def efficiency(self) -> float:
        """``lower_bound / size``; 1.0 is proven optimal."""
        return self.lower_bound / self.size if self.size else 1.0


def plan(lifetimes: Iterable[Lifetime], alignment: int = 64, *, unions: Iterable[Sequence[Hashable]] = ()) -> ArenaPlan:
    """Assign offsets, multiples of ``alignment``; see the module's text for how.

    Args:
        lifetimes: the buffers; sizes are rounded up to ``alignment``.
        alignment: bytes, a power of two.
        unions: groups of keys that must share one place (in-place results, views).

    Raises:
        ValueError: a key given twice or unknown in a union, a negative size, an end before its start.
    """
    buffers = list(lifetimes)
    if alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"alignment must be a power of two, not {alignment}")
    sizes: dict[Hashable, int] = {}
    for b in buffers:
        if b.key in sizes:
            raise ValueError(f"buffer {b.key!r} is given twice")
        if b.size < 0 or b.end < b.start:
            raise ValueError(f"buffer {b.key!r}: size {b.size}, steps {b.start} to {b.end}")
        sizes[b.key] = -(-b.size // alignment) * alignment
    groups = _join(buffers, sizes, unions)
    problem = _Problem(groups)
    offsets, strategy = problem.solve()
    places: dict[Hashable, int] = {}
    for (keys, *_), offset in zip(groups, offsets, strict=True):
        places.update(dict.fromkeys(keys, int(offset)))
    # The caller's order, so that printing the plan does not depend on how unions were found.
    ordered = {b.key: places[b.key] for b in buffers}
    return ArenaPlan(ordered, problem.height(offsets), problem.lower_bound, sum(sizes.values()), strategy)


_Group = tuple[list[Hashable], int, int, int]  # keys, aligned size, start, end


def _join(
    buffers: Sequence[Lifetime], sizes: dict[Hashable, int], unions: Iterable[Sequence[Hashable]]
) -> list[_Group]:
    unions = [list(union) for union in unions]
    for union in unions:
        unknown = [k for k in union if k not in sizes]
        if unknown:
            raise ValueError(f"union {union!r} names unknown buffers {unknown!r}")
    by_key = {b.key: b for b in buffers}
    rank = {b.key: i for i, b in enumerate(buffers)}
    groups: list[_Group] = []
    for component in _components(sizes, unions):
        keys = sorted(component, key=rank.__getitem__)
        members = [by_key[k] for k in keys]
        size = max(sizes[k] for k in keys)
        groups.append((keys, size, min(m.start for m in members), max(m.end for m in members)))
    groups.sort(key=lambda g: rank[g[0][0]])
    return groups


def _components(keys: Iterable[Hashable], unions: Sequence[Sequence[Hashable]]) -> Iterable[Iterable[Hashable]]:
    """The keys in groups: those that a chain of unions connects are together."""
    united = [k for union in unions for k in union]
    if len(set(united)) == len(united):  # disjoint, as the compiler gives them: spare the import
        alone = set(keys).difference(united)
        return [*filter(None, unions), *([k] for k in alone)]
    import networkx as nx

    links = nx.Graph()
    links.add_nodes_from(keys)
    for union in unions:
        nx.add_path(links, union)
    return nx.connected_components(links)


class _Problem:
    """The joined buffers as arrays, the orders to try, and the work left to spend."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self.size = np.array([g[1] for g in groups], np.int64)
        start = np.array([g[2] for g in groups], np.int64)
        end = np.array([g[3] for g in groups], np.int64)
        steps = np.unique(np.concatenate([start, end]))  # only steps where something begins or ends matter
        self.start = np.searchsorted(steps, start)
        self.end = np.searchsorted(steps, end)
        change = np.zeros(len(steps) + 1, np.int64)
        np.add.at(change, self.start, self.size)
        np.subtract.at(change, self.end + 1, self.size)
        self.pressure = np.cumsum(change)[: len(steps)]
        self.lower_bound = int(self.pressure.max(initial=0))
        self.work = _WORK

    def height(self, offsets: np.ndarray) -> int:
        return int((offsets + self.size).max(initial=0))

    def _is_good(self, height: int) -> bool:
        return height * _GOOD <= self.lower_bound

    def solve(self) -> tuple[np.ndarray, str]:
        """Offsets and the name of the order that gave them."""
        best: tuple[int, str, np.ndarray, np.ndarray, bool] | None = None
        for name, order in self._orders():
            for tight in (True, False):
                if best is not None and (self._is_good(best[0]) or self.work <= 0):
                    break
                offsets = self._place(order, tight)
                height = self.height(offsets)
                if best is None or height < best[0]:
                    best = (height, f"{name}, {'best' if tight else 'first'} fit", order, offsets, tight)
        assert best is not None
        height, strategy, order, offsets, tight = best
        if not self._is_good(height):
            improved = self._improve(order, offsets, tight)
            if self.height(improved) < height:
                return improved, strategy + ", improved"
        return offsets, strategy

    def _orders(self) -> Iterator[tuple[str, np.ndarray]]:
        length = self.end - self.start + 1
        index = np.arange(len(self.size))
        yield "by size", np.lexsort((index, -length, -self.size))
        yield "by area", np.lexsort((index, -(self.size * length)))
        yield "by pressure", self._by_pressure()
        yield "by length", np.lexsort((index, -self.size, -length))
        yield "by start", np.lexsort((index, -self.size, -length, self.start))
        yield "by end", np.lexsort((index, -self.size, -length, -self.end))

    def _by_pressure(self) -> np.ndarray:
        """Steps from the fullest to the emptiest; at each, the largest buffers not yet listed.

        A buffer is listed at the fullest step of its life, which a sparse table of range maxima gives.
        """
        table = [np.lexsort((-np.arange(len(self.pressure)), self.pressure)).argsort()]  # rank: fuller is higher
        width = 1
        while 2 * width <= len(table[0]):
            table.append(np.maximum(table[-1][:-width], table[-1][width:]))
            width *= 2
        peak = np.zeros(len(self.size), np.int64)
        level = np.log2(np.maximum(self.end - self.start + 1, 1)).astype(np.int64)
        for i, (s, e, k) in enumerate(zip(self.start, self.end, level, strict=True)):
            peak[i] = max(table[k][s], table[k][e + 1 - (1 << k)])
        return np.lexsort((np.arange(len(self.size)), -self.size, -peak))

    def _place(self, order: np.ndarray, tight: bool) -> np.ndarray:
        """Offsets when buffers are placed one by one in ``order``, in the tightest or the lowest gap."""
        n = len(order)
        offsets = np.zeros(n, np.int64)
        # What is placed so far, sorted by offset, so that the gaps need no sorting.
        low, high, first, last = (np.zeros(n, np.int64) for _ in range(4))
        count = 0
        sizes, starts, ends = self.size.tolist(), self.start.tolist(), self.end.tolist()
        for i in order.tolist():
            size, start, end = sizes[i], starts[i], ends[i]
            if not size:
                continue
            meets = ((first[:count] <= end) & (last[:count] >= start)).nonzero()[0]
            self.work -= count + _OVERHEAD
            offset = 0
            if len(meets):
                tops = np.maximum.accumulate(high[meets])
                bottoms = low[meets]
                gaps = bottoms.copy()
                gaps[1:] -= tops[:-1]
                fits = (gaps >= size).nonzero()[0]
                if not len(fits):
                    offset = int(tops[-1])
                else:
                    slot = int(fits[gaps[fits].argmin()] if tight else fits[0])
                    offset = int(tops[slot - 1]) if slot else 0
            offsets[i] = offset
            at = int(low[:count].searchsorted(offset))
            for column, value in ((low, offset), (high, offset + size), (first, start), (last, end)):
                column[at + 1 : count + 1] = column[at:count].copy()
                column[at] = value
            count += 1
        return offsets

    def _improve(self, order: np.ndarray, offsets: np.ndarray, tight: bool) -> np.ndarray:
        """Place again and again, each time with a few buffers that ended above the bound nearer to the front.

        What is hard to place thereby drifts to the front, where the arena is still empty; when that has not
        helped for a while, the search goes back to the best order so far.
        """
        rng = np.random.default_rng(0)
        turn = np.argsort(order, kind="stable") + 1.0  # each buffer's place in the order
        best, height, best_turn, stalled = offsets, self.height(offsets), turn, 0
        for _ in range(_MOVES):
            if self._is_good(height) or self.work <= 0:
                break
            placed = self._place(np.argsort(turn, kind="stable"), tight if rng.random() < 0.8 else not tight)
            reached = self.height(placed)
            stalled = 0 if reached < height else stalled + 1
            if reached <= height:
                best, height, best_turn = placed, reached, turn
            elif stalled > _PATIENCE:
                turn, stalled = best_turn, 0
            limit = self.lower_bound if rng.random() < 0.5 else max(self.lower_bound, int(height * 0.999))
            above = (placed + self.size > limit).nonzero()[0]
            if len(above):
                moved = rng.choice(above, min(len(above), int(rng.integers(1, 4))), replace=False)
                turn = turn.copy()
                turn[moved] *= rng.uniform(0.0, 0.7, len(moved))
        return best
