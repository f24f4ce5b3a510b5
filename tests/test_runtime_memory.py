"""Memory blocks, aligned copies, array addresses, executable mappings."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from ingot.ir.plan import KernelImage
from ingot.runtime import memory
from ingot.runtime.code import CodeError, CodeMap
from native_programs import executor_image


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 1 << 20, (5 << 20) + 3])
def test_blocks(size: int) -> None:
    block = memory.allocate(size)
    assert block.nbytes == size and block.flags.writeable and not block.any()
    if size:
        assert memory.address_of(block) % (memory.HUGE_PAGE if size >= 1 << 20 else 64) == 0
        block[-1] = 1


def test_blocks_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert memory.allocate(3 << 20).nbytes == 3 << 20
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)  # the system says no
    assert memory.allocate(3 << 20).nbytes == 3 << 20


def test_the_environment_chooses_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    class Block(mmap.mmap):
        def madvise(self, advice: int, *where: int) -> None:
            given.append(advice)

    monkeypatch.setattr(memory.mmap, "mmap", Block)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    monkeypatch.setattr(mmap, "MADV_NOHUGEPAGE", 15, raising=False)
    memory.allocate(3 << 20)
    monkeypatch.setenv("INGOT_HUGE_PAGES", "0")
    memory.allocate(3 << 20)
    assert given == [14, 15]


def test_more_than_there_is() -> None:
    with pytest.raises(MemoryError, match="bytes"):
        memory.allocate(1 << 60)


def test_aligned() -> None:
    block = memory.allocate(4096).view(np.float32)
    block[:] = np.arange(1024)
    fine = block[16:32].reshape(4, 4)
    arrays = [fine, block[1:9], block[:64:2], fine.T, np.float32(3).reshape(()), np.zeros((0, 3), np.int8), fine]
    found = memory.aligned(arrays)
    assert found[0] is fine and found[6] is fine
    for array, copy in zip(arrays, found, strict=True):
        assert copy.dtype == array.dtype and copy.shape == array.shape and (copy == array).all()
        assert copy.flags.c_contiguous and (memory.address_of(copy) % 64 == 0 or not copy.size)
    assert memory.aligned([]) == []


def test_addresses_agree_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [np.zeros(5), np.zeros(5)[2:], np.zeros((3, 3)).T, np.array(1), np.zeros((0, 2)), np.zeros(2, "f2")]
    for a in arrays:
        assert memory.address_of(a) == a.__array_interface__["data"][0]
    assert memory.DATA_OFFSET >= 0


def test_executable_without_the_object_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data pointer's place in an array object is unknown, addresses are passed instead."""
    from ingot.runtime.executable import Executable
    from native_programs import expected_rowsum, scale_rowsum

    monkeypatch.setattr(memory, "DATA_OFFSET", 0)
    monkeypatch.setattr(memory, "address_of", lambda a: a.__array_interface__["data"][0])
    x = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    assert (Executable(scale_rowsum(), threads=2).run([x])[0] == expected_rowsum(x)).all()


def test_code_is_not_writable() -> None:
    code = CodeMap({"executor": executor_image(), "other": executor_image()})
    a, b = code.address("executor"), code.address("other")
    assert a % 16 == 0 and (b - a) % 64 == 0 and a != b
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if low <= a < high:
            assert line.split()[1].startswith("r-x")
            return
    pytest.fail("not mapped")


def test_bad_entry() -> None:
    with pytest.raises(CodeError, match="entry 9"):
        CodeMap({"k": KernelImage("k", b"12345678", 9)})
