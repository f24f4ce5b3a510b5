"""Samples shared out between processes that train together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ... import distributed, random
from .sampler import Sampler


class DistributedSampler(Sampler[int]):
    """The share of one of ``num_replicas`` processes: indices ``rank``, ``rank + num_replicas``... of a common order.

    All processes shuffle alike from ``seed + epoch``; ``set_epoch`` before every epoch gives new orders. Shares have
    equal length: some samples come twice, or with ``drop_last`` the tail is dropped. ``num_replicas`` and
    ``rank`` are those of ``ingot.distributed`` unless given.
    """

    def __init__(
        self, dataset: Any, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True,
        seed: int = 0, drop_last: bool = False,
    ) -> None:  # fmt: skip
        if num_replicas is None:
            num_replicas = distributed.get_world_size()
        if rank is None:
            rank = distributed.get_rank()
        if not 0 <= rank < num_replicas:
            raise ValueError(f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]")
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.drop_last = drop_last
        length = len(dataset)
        if drop_last and length % num_replicas:
            self.num_samples = math.ceil((length - num_replicas) / num_replicas)
        else:
            self.num_samples = math.ceil(length / num_replicas)
        self.total_size = self.num_samples * num_replicas
        self.shuffle = shuffle
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        length = len(self.dataset)
        if self.shuffle:
            generator = random.Generator().manual_seed(self.seed + self.epoch)
            order = random.randperm(length, generator=generator).tolist()
        else:
            order = list(range(length))
        if length:
            order = [order[i % length] for i in range(self.total_size)]
        share = order[self.rank : self.total_size : self.num_replicas]
        if len(share) != self.num_samples:
            raise AssertionError(f"Number of subsampled indices ({len(share)}) does not match num_samples "
                                 f"({self.num_samples})")  # fmt: skip
        return iter(share)

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins: every process calls it with the same number."""
        self.epoch = epoch
