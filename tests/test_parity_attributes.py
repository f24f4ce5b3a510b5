"""Attributes, conversions and shared memory beside PyTorch."""

from __future__ import annotations

import itertools

import ingot as ig
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch_bridge import DTYPES, ingot_of  # noqa: E402

pytestmark = pytest.mark.parity
COMMON = [d for d in DTYPES if not str(d).startswith("torch.uint") or d is torch.uint8]


def test_dtypes() -> None:
    for a, b in itertools.product(COMMON, COMMON):
        assert ig.can_cast(DTYPES[a], DTYPES[b]) == torch.can_cast(a, b), (a, b)
        assert str(ig.promote_types(DTYPES[a], DTYPES[b])) == str(torch.promote_types(a, b))
    for d in COMMON:
        info = "finfo" if d.is_floating_point else "iinfo"
        if d is not torch.bool:
            assert repr(getattr(ig, info)(DTYPES[d])) == repr(getattr(torch, info)(d))
        assert ig.ones(1).to(DTYPES[d]).type() == torch.ones(1).to(d).type()
        assert ig.typename(ig.ones(1).to(DTYPES[d])) == torch.typename(torch.ones(1).to(d))


@pytest.mark.parametrize("make", [
    lambda m: m.ones(2, 3), lambda m: m.ones(2, 3).t(), lambda m: m.arange(24).reshape(2, 3, 4)[:, 1:, ::2],
    lambda m: m.ones(2, 3, 4, 5).to(memory_format=m.channels_last), lambda m: m.ones(2, 3, 4, 5).permute(0, 2, 3, 1),
    lambda m: m.tensor(3.0), lambda m: m.ones(0, 4), lambda m: m.ones(1, 3).expand(4, 3),
])  # fmt: skip
def test_memory(make) -> None:
    ours, theirs = make(ig), make(torch)
    for ask in (
        lambda t: t.stride(), lambda t: t.storage_offset(), lambda t: t.is_contiguous(), lambda t: t.element_size(),
        lambda t: t.untyped_storage().nbytes(), lambda t: t.numel(), lambda t: t.nbytes, lambda t: t.tolist(),
        lambda t: t.clone().tolist(), lambda t: t.contiguous().stride(), lambda t: t.get_device(),
        lambda t: t.data_ptr() - t.untyped_storage().data_ptr(),
    ):  # fmt: skip
        assert ask(ours) == ask(theirs)
    if theirs.dim() == 4:
        assert ours.is_contiguous(memory_format=ig.channels_last) == theirs.is_contiguous(
            memory_format=torch.channels_last
        )


def test_dlpack_both_ways() -> None:
    theirs = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    ours = ig.from_dlpack(theirs)
    ours[0, 0] = 9
    assert theirs[0, 0] == 9
    back = torch.from_dlpack(ours)
    back[1, 2] = -1
    assert ours[1, 2].item() == -1 and theirs.data_ptr() == ours.data_ptr() == back.data_ptr()
    assert ig.tensor(theirs.numpy()).tolist() == theirs.tolist()
    np.testing.assert_array_equal(torch.tensor(ig.ones(3)).numpy(), [1, 1, 1])


def test_constructors() -> None:
    for make in (
        lambda m: m.FloatTensor([1, 2]), lambda m: m.LongTensor([[1], [2]]), lambda m: m.BoolTensor([True, False]),
        lambda m: m.Tensor([1, 2]), lambda m: m.HalfTensor([1.5]), lambda m: m.ByteTensor([1, 255]),
        lambda m: m.ones(3).type(m.LongTensor), lambda m: m.ones(3).type("torch.DoubleTensor"),
        lambda m: m.ones(2).new([1, 2]), lambda m: m.Tensor(m.Size([0, 3])), lambda m: m.tensor(m.tensor([1, 2])),
        lambda m: m.as_tensor([1.0]), lambda m: m.tensor([]), lambda m: m.tensor([[1, 2.5]]), lambda m: m.tensor(True),
    ):  # fmt: skip
        ours, theirs = make(ig), make(torch)
        assert repr(ours) == repr(ingot_of(theirs)) == repr(theirs)
