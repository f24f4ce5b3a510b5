"""Samples to batches: nested structures are kept, their leaves stacked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from ....ir import dtypes
from ... import creation, shaping
from ...dispatch import is_tensor

_REFUSED = "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {}"


def _numeric(array: Any) -> bool:
    return array.dtype.kind in "biufV"  # V: bfloat16 of ml_dtypes


def default_convert(data: Any) -> Any:
    """NumPy arrays of numbers as tensors, structures and everything else as they are."""
    if is_tensor(data):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        return creation.as_tensor(data) if _numeric(data) else data
    if isinstance(data, Mapping):
        return _like_mapping(data, {k: default_convert(v) for k, v in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, tuple):
        return [default_convert(d) for d in data]
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _like_sequence(data, [default_convert(d) for d in data])
    return data


def default_collate(batch: Sequence[Any]) -> Any:
    """One batch of a list of samples.

    Tensors and arrays are stacked on a new first axis, ints become an int64 tensor, floats a float64 one, strings stay
    a list; of dicts, tuples and lists every place is collated by itself. TypeError for other types.
    """
    first = batch[0]
    if is_tensor(first):
        return shaping.stack(list(batch), 0)
    if isinstance(first, (np.ndarray, np.generic)):
        if not _numeric(first):
            if isinstance(first, str):
                return batch
            raise TypeError(_REFUSED.format(first.dtype))
        if first.ndim == 0:
            return creation.as_tensor(np.asarray(batch))
        return shaping.stack([creation.as_tensor(b) for b in batch], 0)
    if isinstance(first, float):
        return creation.tensor(batch, dtype=dtypes.float64)
    if isinstance(first, int):
        return creation.tensor(batch)
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return _like_mapping(first, {k: default_collate([d[k] for d in batch]) for k in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(column) for column in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(b) != len(first) for b in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        return columns if isinstance(first, tuple) else _like_sequence(first, columns)
    raise TypeError(_REFUSED.format(type(first)))


def _like_mapping(model: Any, items: dict[Any, Any]) -> Any:
    if type(model) is dict:
        return items
    if isinstance(model, MutableMapping):
        out = _or_none(lambda: copy.copy(model))
        if out is not None:
            out.update(items)
            return out
    made = _or_none(lambda: type(model)(items))
    return items if made is None else made


def _like_sequence(model: Any, items: list[Any]) -> Any:
    if type(model) is list or isinstance(model, range):
        return items
    if isinstance(model, MutableSequence):
        out = _or_none(lambda: copy.copy(model))
        if out is not None and len(out) == len(items):
            out[:] = items
            return out
    made = _or_none(lambda: type(model)(items))
    return items if made is None else made


def _or_none(make: Callable[[], Any]) -> Any:
    # Classes of users whose constructor wants something else: their batch is a plain dict or list, as in PyTorch.
    try:
        return make()
    except TypeError:
        return None
