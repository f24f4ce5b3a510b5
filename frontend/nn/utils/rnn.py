"""Sequences of different lengths: packed (no padding, step by step) and padded."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import dispatch, shaping
from ...tensor import Tensor

_Fields = namedtuple("_Fields", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"])


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes another one."""
    if permutation is None:
        return None
    return dispatch.from_array(np.argsort(permutation._concrete("invert_permutation()")).astype(np.int64))


class PackedSequence(_Fields):
    """Sequences of different lengths joined step by step; made by ``pack_padded_sequence``.

    ``data`` [sum of lengths, *]: all first elements, all second ones...; ``batch_sizes`` (int64): how many sequences
    have a step; ``sorted_indices``, ``unsorted_indices``: the order by length and back, None if it was that already.
    """

    __slots__ = ()

    def __new__(
        cls, data: Tensor, batch_sizes: Tensor | None = None, sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:  # fmt: skip
        if batch_sizes is None:
            raise TypeError("PackedSequence needs batch_sizes")
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    @property
    def is_cuda(self) -> bool:
        """False: there is no GPU."""
        return False

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data converted; itself if nothing changes."""
        data = self.data.to(*args, **kwargs)
        return self if data is self.data else type(self)(data, *self[1:])

    def cpu(self) -> PackedSequence:
        """Itself."""
        return self

    def double(self) -> PackedSequence:
        """The data as float64."""
        return self.to(self.data.double().dtype)

    def float(self) -> PackedSequence:
        """The data as float32."""
        return self.to(self.data.float().dtype)


def _ints(lengths: Any, what: str) -> np.ndarray:
    array = lengths._concrete(what, "lengths that are not computed in forward") if dispatch.is_tensor(lengths) \
        else np.asarray(lengths)  # fmt: skip
    return array.astype(np.int64)


def _index(rows: np.ndarray) -> Tensor:
    return dispatch.from_array(rows.astype(np.int64).reshape(-1))


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs [T, N, *] (or [N, T, *]) whose sequences have ``lengths``; these must fall unless ``enforce_sorted`` is
    False."""
    sizes = _ints(lengths, "pack_padded_sequence()")
    order = None
    if batch_first:
        input = shaping.transpose(input, 0, 1)
    steps, batch = input.shape[:2]
    if sizes.ndim != 1 or len(sizes) != batch:
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} (batch_size="
                           f"{batch})")  # fmt: skip
    if enforce_sorted:
        if (np.diff(sizes) > 0).any():
            raise RuntimeError(
                "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
                "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if "
                "you do not need ONNX exportability."
            )
    else:
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
    if len(sizes) and sizes[-1] <= 0:
        raise RuntimeError("Length of all samples has to be greater than 0, but found an element in 'lengths' that "
                           "is <= 0")  # fmt: skip
    if len(sizes) and sizes[0] > steps:
        raise RuntimeError(f"Expected lengths of at most {steps}, got {sizes[0]}")
    batch_sizes = (sizes[None, :] > np.arange(sizes[0])[:, None]).sum(1)
    sequences = np.arange(batch) if order is None else order
    rows = np.concatenate([t * batch + sequences[:size] for t, size in enumerate(batch_sizes)])
    flat = shaping.reshape(input, steps * batch, *input.shape[2:])
    data = dispatch.apply("index_select", flat, _index(rows), axis=0)
    return PackedSequence(data, _index(batch_sizes), None if order is None else _index(order))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(the sequences as [T, N, *] or [N, T, *], padded; their lengths), in the order before packing."""
    sizes = sequence.batch_sizes._concrete("pad_packed_sequence()")
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ValueError("Expected total_length to be at least the length of the longest sequence in input, but "
                             f"got total_length={total_length} and max sequence length being {steps}")  # fmt: skip
        steps = total_length
    data = sequence.data
    starts = np.concatenate([[0], np.cumsum(sizes)])
    nothing = int(starts[-1])  # the row of padding behind the data
    rows = np.full((steps, batch), nothing)
    for t, size in enumerate(sizes):
        rows[t, :size] = starts[t] + np.arange(size)
    lengths = (rows != nothing).sum(0)
    if sequence.unsorted_indices is not None:
        back = sequence.unsorted_indices._concrete("pad_packed_sequence()")
        rows, lengths = rows[:, back], lengths[back]
    if batch_first:
        rows = rows.T
    fill = dispatch.apply("expand", dispatch.scalar(padding_value, data.dtype), shape=(1, *data._extents[1:]))
    out = dispatch.apply("index_select", shaping.cat([data, fill]), _index(rows), axis=0)
    return shaping.reshape(out, *rows.shape, *data.shape[1:]), _index(lengths)


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences [L, *] of different lengths as [T, N, *] (or [N, T, *])."""
    if padding_side not in ("left", "right"):
        raise RuntimeError("expected padding_side to be one of 'left' or 'right'")
    if not isinstance(sequences, Iterable):
        raise RuntimeError("pad_sequence: Expected iterable for input sequences, but got arg of type: "
                           f"{type(sequences)}")  # fmt: skip
    parts = list(sequences)
    if not parts:
        raise RuntimeError("received an empty list of sequences")
    longest = max(p.shape[0] for p in parts)
    padded = []
    for p in parts:
        if p.shape[1:] != parts[0].shape[1:]:
            raise RuntimeError(f"The size of tensor a {list(parts[0].shape)} must match the size of tensor b "
                               f"{list(p.shape)} behind the first dimension")  # fmt: skip
        missing = (longest - p.shape[0], *p.shape[1:])
        if missing[0]:
            fill = dispatch.apply("expand", dispatch.scalar(padding_value, p.dtype), shape=missing)
            p = shaping.cat([p, fill] if padding_side == "right" else [fill, p])
        padded.append(p)
    return shaping.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded tensor."""
    if not batch_first:
        padded_sequences = shaping.transpose(padded_sequences, 0, 1)
    sizes = _ints(lengths, "unpad_sequence()")
    return [padded_sequences[i][: int(n)] for i, n in enumerate(sizes)]


def pack_sequence(sequences: list[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs a list of sequences [L, *]."""
    return pack_padded_sequence(pad_sequence(sequences), [s.shape[0] for s in sequences],
                                enforce_sorted=enforce_sorted)  # fmt: skip


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed one."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)


__all__ = [
    "PackedSequence", "invert_permutation", "pack_padded_sequence", "pack_sequence", "pad_packed_sequence",
    "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip
