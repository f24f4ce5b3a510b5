"""From what a sampler gives to a collated batch; the same in the program's process and in workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .dataset import IterableDataset, fetch_items


def fetcher(dataset: Any, batched: bool, collate: Callable[[Any], Any], drop_last: bool) -> Callable[[Any], Any]:
    """The function from an index (a list of them if ``batched``) to a batch; StopIteration at a stream's end."""
    if not isinstance(dataset, IterableDataset):
        if batched:
            return lambda indices: collate(fetch_items(dataset, indices))
        return lambda index: collate(dataset[index])
    stream = iter(dataset)

    def take(indices: Any) -> Any:
        if not batched:
            return collate(next(stream))
        items = list(itertools.islice(stream, len(indices)))
        if not items or (drop_last and len(items) < len(indices)):
            raise StopIteration
        return collate(items)

    return take
