"""Constants for matrix tiles: float32 as bfloat16 parts in the order in which the unit reads its right operand."""

from __future__ import annotations

import numpy as np

from ..ir import dtypes
from .tile_schedule import COLUMNS, DEPTH, PARTS


def parts_of(array: np.ndarray, count: int) -> list[np.ndarray]:
    """``array`` as a sum of ``count`` bfloat16 arrays: each is the rounding of what the ones before leave."""
    rest = np.asarray(array, np.float32)
    out = []
    for _ in range(count):
        part = rest.astype(dtypes.bfloat16.numpy)
        with np.errstate(invalid="ignore"):  # infinities leave nan, as in the kernel
            rest = rest - part.astype(np.float32)
        out.append(part)
    return out


def pack_tiles(array: np.ndarray, form: str) -> np.ndarray:
    """Placed constants [..., 32 columns, 32 deep] as [..., 32, 16 * parts] of float32-sized words.

    Memory order per such block: part, tile of 16 columns, pair along the depth, column, element of the pair.
    """
    count = PARTS[form]
    if array.shape[-2:] != (COLUMNS, DEPTH):
        raise ValueError(f"form {form} needs blocks of {COLUMNS} x {DEPTH}, not {array.shape[-2:]}")
    lead = array.shape[:-2]
    rank = len(lead)
    stacked = np.stack(parts_of(array, count), axis=rank)
    cut = stacked.reshape(*lead, count, COLUMNS // 16, 16, DEPTH // 2, 2)
    order = (*range(rank + 2), rank + 3, rank + 2, rank + 4)
    flat = np.ascontiguousarray(cut.transpose(order)).reshape(*lead, -1)
    return flat.view(np.float32).reshape(*lead, COLUMNS, DEPTH // 2 * count)
