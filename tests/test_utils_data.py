"""Datasets, samplers, collation DataLoader in this process; PyTorch's words for what does not go together."""

from __future__ import annotations

import itertools
import random as python_random
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Iterable
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.utils import data as ours


class Squares(ours.Dataset):
    def __init__(self, n: int) -> None:
        self.n = n

    def __getitem__(self, i: int) -> tuple[int, int]:
        if not -self.n <= i < self.n:
            raise IndexError(i)
        return i, i * i

    def __len__(self) -> int:
        return self.n


class Stream(ours.IterableDataset):
    """0..n-1; in workers, every worker its share."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Any:
        info = ours.get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        return iter(range(first, self.n, step))


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return 3


def test_a_dataset_is_not_iterable_and_adds_up() -> None:
    assert isinstance(Squares(3), Iterable) is False and isinstance(Stream(3), Iterable) is True
    both = Squares(3) + Squares(2)
    assert len(both) == 5 and [both[i][0] for i in range(5)] == [0, 1, 2, 0, 1] and both[-1] == (1, 1)
    with pytest.raises(ValueError, match="absolute value of index should not exceed dataset length"):
        both[-6]
    assert list(Stream(2) + Stream(3)) == [0, 1, 0, 1, 2]
    with pytest.raises(NotImplementedError, match="Subclasses of Dataset should implement __getitem__"):
        ours.Dataset()[0]


def test_tensor_and_stacked_datasets() -> None:
    x, y = ingot.arange(6).reshape(3, 2), ingot.tensor([5, 6, 7])
    d = ours.TensorDataset(x, y)
    assert len(d) == 3 and d[1][0].tolist() == [2, 3] and d[1][1].item() == 6
    with pytest.raises(AssertionError, match="Size mismatch between tensors"):
        ours.TensorDataset(x, ingot.zeros(2))
    s = ours.StackDataset(a=Squares(3), b=Squares(3))
    assert s[2] == {"a": (2, 4), "b": (2, 4)} and s.__getitems__([1])[0] == {"a": (1, 1), "b": (1, 1)}
    assert ours.StackDataset(Squares(3), Squares(3))[1] == ((1, 1), (1, 1))
    with pytest.raises(ValueError, match="Size mismatch between datasets"):
        ours.StackDataset(Squares(3), Squares(4))


@pytest.mark.parametrize("fractions", [[0.5, 0.5], [0.3, 0.3, 0.4], [0.9, 0.1], [0.33, 0.33, 0.34]])
@pytest.mark.parametrize("n", [10, 11, 100])
def test_random_split_by_fractions(n: int, fractions: list[float], seed: int) -> None:
    g = ingot.Generator().manual_seed(seed)
    parts = ours.random_split(Squares(n), fractions, generator=g)
    assert sorted(i for p in parts for i in p.indices) == list(range(n))
    again = ours.random_split(Squares(n), fractions, generator=ingot.Generator().manual_seed(seed))
    assert [p.indices for p in parts] == [p.indices for p in again]
    floors = [int(np.floor(n * f)) for f in fractions]
    for k in range(n - sum(floors)):
        floors[k % len(floors)] += 1
    assert [len(p) for p in parts] == floors


def test_random_split_refuses_and_warns() -> None:
    with pytest.raises(ValueError, match="Sum of input lengths does not equal the length of the input dataset!"):
        ours.random_split(Squares(10), [3, 4])
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0"):
        assert [len(p) for p in ours.random_split(Squares(1), [0.9, 0.1])] == [1, 0]


def test_random_sampler() -> None:
    g = ingot.Generator().manual_seed(1)
    s = ours.RandomSampler(range(7), generator=g)
    first, second = list(s), list(s)
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    assert list(ours.RandomSampler(range(7), generator=ingot.Generator().manual_seed(1))) == first
    assert len(list(ours.RandomSampler(range(3), num_samples=8))) == 8
    drawn = list(ours.RandomSampler(range(3), replacement=True, num_samples=3000))
    assert len(drawn) == 3000 and all(900 < n < 1100 for n in Counter(drawn).values())
    assert sorted(ours.SubsetRandomSampler([4, 8, 15])) == [4, 8, 15]
    # The default stream gives one number per epoch, however many samples there are.
    ingot.manual_seed(3)
    a = (list(ours.RandomSampler(range(5))), list(ours.RandomSampler(range(9))))
    ingot.manual_seed(3)
    next(iter(ours.RandomSampler(range(50))))
    assert list(ours.RandomSampler(range(9))) == a[1]


def test_weighted_sampler_draws_by_weight(seed: int) -> None:
    g = ingot.Generator().manual_seed(seed)
    drawn = Counter(ours.WeightedRandomSampler([1.0, 0.0, 3.0], 8000, generator=g))
    assert drawn[1] == 0 and 0.20 < drawn[0] / 8000 < 0.30
    firsts = Counter(next(iter(ours.WeightedRandomSampler([1.0, 3.0], 2, replacement=False, generator=g)))
                     for _ in range(4000))  # fmt: skip
    assert 0.20 < firsts[0] / 4000 < 0.30
    assert sorted(ours.WeightedRandomSampler([1, 5, 2, 9], 4, replacement=False, generator=g)) == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="not enough non-negative category"):
        list(ours.WeightedRandomSampler([1.0, 0.0], 2, replacement=False))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_distributed_sampler_shares_everything_out(shuffle: bool, drop_last: bool) -> None:
    samplers = [ours.DistributedSampler(range(10), 3, r, shuffle=shuffle, drop_last=drop_last) for r in range(3)]
    shares = [list(s) for s in samplers]
    assert {len(s) for s in shares} == {len(samplers[0])} == {3 if drop_last else 4}
    assert len(set(itertools.chain(*shares))) == (9 if drop_last else 10)
    for s in samplers:
        s.set_epoch(1)
    assert ([list(s) for s in samplers] != shares) == shuffle
    with pytest.raises(RuntimeError, match="Default process group has not been initialized"):
        ours.DistributedSampler(range(10))
    with pytest.raises(ValueError, match=r"Invalid rank 3, rank should be in the interval \[0, 2\]"):
        ours.DistributedSampler(range(10), 3, 3)


def test_loader_batches() -> None:
    loader = ours.DataLoader(Squares(10), 4)
    batches = list(loader)
    assert [b[0].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[0][1].dtype is ingot.int64 and len(loader) == 3 and len(loader.dataset) == 10
    short = ours.DataLoader(Squares(10), 4, drop_last=True)
    assert len(short) == len(list(short)) == 2
    assert next(iter(loader))[1].tolist() == [0, 1, 4, 9]
    assert [x.tolist() for x, _ in ours.DataLoader(dataset=list(enumerate("abcd")), batch_size=3)] == [[0, 1, 2], [3]]
    assert list(ours.DataLoader(Squares(3), batch_size=None)) == [[0, 0], [1, 1], [2, 4]]
    custom = ours.DataLoader(Squares(4), batch_sampler=[[3, 0], [1]], collate_fn=lambda b: [i for i, _ in b])
    assert list(custom) == [[3, 0], [1]] and len(custom) == 2


def test_shuffling_is_new_every_epoch_and_repeats_with_the_generator() -> None:
    def orders(seed: int) -> list[list[int]]:
        loader = ours.DataLoader(Squares(20), 20, shuffle=True, generator=ingot.Generator().manual_seed(seed))
        return [next(iter(loader))[0].tolist() for _ in range(2)]

    first, second = orders(0)
    assert first != second and sorted(first) == sorted(second) == list(range(20))
    assert orders(0) == [first, second] and orders(1) != [first, second]


def test_streams() -> None:
    assert [b.tolist() for b in ours.DataLoader(Stream(5), 2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in ours.DataLoader(Stream(5), 2, drop_last=True)] == [[0, 1], [2, 3]]
    loader = ours.DataLoader(StreamWithLength(4), 1)
    assert len(loader) == 3
    with pytest.warns(UserWarning, match="was reported to be 3"):
        assert len(list(loader)) == 4


Point = namedtuple("Point", "x y")


def test_collation() -> None:
    samples = [
        (1, 2.0, "a", np.float32(3), np.ones(2, np.uint8), {"k": i, "t": ingot.zeros(2)}, Point(i, [i, i]), True, b"z")
        for i in range(3)
    ]
    n, f, s, g, a, d, p, t, z = ours.default_collate(samples)
    assert (n.dtype, f.dtype, g.dtype, a.dtype) == (ingot.int64, ingot.float64, ingot.float32, ingot.uint8)
    assert list(s) == ["a", "a", "a"] and list(z) == [b"z"] * 3 and a.shape == (3, 2) and d["t"].shape == (3, 2)
    assert d["k"].tolist() == [0, 1, 2] and t.dtype is ingot.bool
    assert isinstance(p, Point) and p.x.tolist() == [0, 1, 2] and [c.tolist() for c in p.y] == [[0, 1, 2]] * 2
    assert isinstance(ours.default_collate([OrderedDict(a=1), OrderedDict(a=2)]), OrderedDict)
    converted = ours.default_convert([np.zeros(2), (1, np.ones(1))])
    assert ingot.is_tensor(converted[0]) and ingot.is_tensor(converted[1][1]) and converted[1][0] == 1
    with pytest.raises(RuntimeError, match="each element in list of batch should be of equal size"):
        ours.default_collate([[1], [1, 2]])
    with pytest.raises(TypeError, match="default_collate: batch must contain tensors, numpy arrays, numbers, dicts"):
        ours.default_collate([object()])


def _stream(m: Any) -> Any:
    return type("S", (m.IterableDataset,), {"__iter__": lambda self: iter([1])})()


# Argument combinations that PyTorch refuses; `m` is one of the two modules.
REFUSED: dict[str, Any] = {
    "negative workers": lambda m: m.DataLoader([1], num_workers=-1),
    "negative timeout": lambda m: m.DataLoader([1], timeout=-1),
    "prefetch without workers": lambda m: m.DataLoader([1], prefetch_factor=2),
    "negative prefetch": lambda m: m.DataLoader([1], num_workers=1, prefetch_factor=-2),
    "persistent without workers": lambda m: m.DataLoader([1], persistent_workers=True),
    "sampler and shuffle": lambda m: m.DataLoader([1], sampler=[0], shuffle=True),
    "batch sampler and size": lambda m: m.DataLoader([1], batch_sampler=[[0]], batch_size=2),
    "no batch and drop": lambda m: m.DataLoader([1], batch_size=None, drop_last=True),
    "batch size 0": lambda m: m.DataLoader([1], batch_size=0),
    "batch size 1.5": lambda m: m.DataLoader([1], batch_size=1.5),
    "drop_last": lambda m: m.DataLoader([1], drop_last=1),
    "shuffled nothing": lambda m: m.DataLoader([], shuffle=True),
    "context without workers": lambda m: m.DataLoader([1], multiprocessing_context="fork"),
    "unknown context": lambda m: m.DataLoader([1], num_workers=1, multiprocessing_context="thread"),
    "wrong context": lambda m: m.DataLoader([1], num_workers=1, multiprocessing_context=3),
    "batch size later": lambda m: setattr(m.DataLoader([1]), "batch_size", 3),
    "dataset later": lambda m: setattr(m.DataLoader([1]), "dataset", [2]),
    "weights 2d": lambda m: m.WeightedRandomSampler([[1.0]], 1),
    "weights count": lambda m: m.WeightedRandomSampler([1.0], 0),
    "weights replacement": lambda m: m.WeightedRandomSampler([1.0], 1, replacement=1),
    "random replacement": lambda m: m.RandomSampler([1], replacement=1),
    "random count": lambda m: m.RandomSampler([1], num_samples=0),
    "empty concat": lambda m: m.ConcatDataset([]),
    "concat of streams": lambda m: m.ConcatDataset([_stream(m)]),
    "chain of maps": lambda m: list(m.ChainDataset([m.Dataset()])),
    "stack of nothing": lambda m: m.StackDataset(),
    "stack of both": lambda m: m.StackDataset([1], a=[1]),
    "stream shuffled": lambda m: m.DataLoader(_stream(m), shuffle=True),
    "stream with sampler": lambda m: m.DataLoader(_stream(m), sampler=[1]),
    "stream with batches": lambda m: m.DataLoader(_stream(m), batch_sampler=[[1]]),
    "split too much": lambda m: m.random_split([1, 2, 3], [2, 2]),
    "split fraction": lambda m: m.random_split([1, 2, 3], [1.5, -0.5]),
    "unequal": lambda m: m.default_collate([[1], [1, 2]]),
    "object": lambda m: m.default_collate([{1}]),
    "strings": lambda m: m.default_collate([np.array(["a"])]),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_in_pytorch_s_words(name: str) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        REFUSED[name](torch.utils.data)
    with pytest.raises(type(theirs.value)) as mine:
        REFUSED[name](ours)
    assert str(mine.value) == str(theirs.value)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Length of split")
def test_split_sizes_and_distributed_order_are_pytorch_s(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = python_random.Random(seed)
    for _ in range(40):
        n = rng.randrange(1, 60)
        fractions = [0.5, 0.25, 0.25] if rng.random() < 0.5 else [0.7, 0.2, 0.1]
        with pytest.MonkeyPatch.context():
            lengths = [[len(p) for p in m.random_split(range(n), fractions)] for m in (ours, torch.utils.data)]
        assert lengths[0] == lengths[1]
        world, drop = rng.randrange(1, 7), rng.random() < 0.5
        if n >= world:
            for rank in range(world):
                a, b = (list(m.DistributedSampler(range(n), world, rank, shuffle=False, drop_last=drop))
                        for m in (ours, torch.utils.data))  # fmt: skip
                assert a == b, (n, world, rank, drop)
