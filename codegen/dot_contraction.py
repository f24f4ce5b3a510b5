"""Contractions on bfloat16 dot products of vectors: what ``tile_contraction`` does, on CPUs without matrix tiles.

Bands, the left operand in scratch memory and the packed weights are those of matrix tiles: a row of a packed tile, one
pair along the depth for each of 16 columns, is one vector. A block is a register tile of sums, ``rows`` positions by
one or two vectors; each step takes a pair of one position, broadcast, times such a row.
"""

from __future__ import annotations

from typing import Any

from ..ir import dtypes
from .loopir import Val
from .schedule import upper
from .tile_contraction import TileGenerator
from .tile_schedule import DEPTH, LANES, TILE_BYTES, chains

_PAIRS = DEPTH // 2  # of a position in scratch and of a column in a tile
_WORDS = TILE_BYTES // 4  # pairs of a tile
_DOTS_WRITTEN = 112  # in the innermost loop
_LINES = 2 * TILE_BYTES // 64  # of the weights of a step
_AHEAD = 8  # steps


class DotGenerator(TileGenerator):
    """Writes one contraction; see ``TileGenerator``."""

    together = 1

    def switch_on(self) -> None:
        pass

    def end(self) -> None:
        pass

    def prefetched(self, number: Any) -> tuple[int, Any]:
        """How many lines of weights each step of row tile ``number`` asks for, and how far (in pairs) ahead of its own.

        Weights that stay in L2 need nothing. Else the row tiles of a panel ask for the next one together; if L2 has
        no room for two panels, each tile asks for what it soon needs itself.
        """
        b, t, l2 = self.b, self.tiles, self.b.target.l2_bytes
        panel = self.steps * 2 * TILE_BYTES
        if upper(self.panels) * panel <= l2 // 2:
            return 0, 0
        if 2 * panel > 3 * l2 // 4:
            return _LINES, _AHEAD * 2 * _WORDS
        lines = -(-_LINES // (t.images * t.tiles))
        mine = b.imin(b.imul(number, lines), _LINES - lines)
        return lines, b.iadd(b.imul(mine, LANES), self.steps * 2 * _WORDS)

    def block(
        self, number: Any, lefts: list[Val], right: Val, sums: list[Val], nb: int, steps: tuple[Any, Any], fresh: bool
    ) -> None:
        """Some steps of one register tile."""
        b, t, rows = self.b, self.tiles, self.tiles.rows
        (left,), (place,) = lefts, sums
        left, right = b.reinterpret(left, dtypes.int32), b.reinterpret(right, dtypes.int32)
        other = t.images * t.tiles * t.rows * LANES  # sums of the second vector of columns
        cells = [(i, j) for i in range(rows) for j in range(nb)]
        where = [i * LANES + j * other for i, j in cells]
        zero, many = b.const(dtypes.float32, 0, LANES), chains(rows * nb)
        start = [zero if fresh else b.load(place, at, LANES) for at in where] + [zero] * ((many - 1) * len(cells))
        unroll = next(u for u in (16, 8, 4, 2, 1) if u in (1, many) or u * len(cells) <= _DOTS_WRITTEN)
        table = b.scratch_at(dtypes.int64, self.table)
        lines, ahead = self.prefetched(number)

        def step(s: Any, *carried: Val) -> list[Val]:
            position = b.at(left, b.idiv(b.load(table, s), 2))
            panel = b.at(right, b.imul(s, 2 * _WORDS))
            for line in range(lines):
                b.prefetch(b.at(panel, ahead), line * LANES, level=2)

            def pairs(k: Any, *carried: Val) -> list[Val]:
                found = list(carried)
                x, y = b.at(position, k), b.at(panel, b.imul(k, LANES))
                for u in range(unroll):
                    first = u % many * len(cells)
                    columns = [b.load(y, j * _WORDS + u * LANES, LANES) for j in range(nb)]
                    for i in range(rows):
                        pair = b.splat(b.load(x, i * _PAIRS + u), LANES)
                        for j in range(nb):
                            at = first + i * nb + j
                            found[at] = b.pair_dot(found[at], pair, columns[j])
                return found

            return b.loop(0, _PAIRS, pairs, step=unroll, carry=carried)

        done = b.loop(*steps, step, carry=start)
        for n, at in enumerate(where):
            value = done[n]
            for more in range(1, many):
                value = b.op("add", value, done[more * len(cells) + n])
            b.store(place, value, at)
