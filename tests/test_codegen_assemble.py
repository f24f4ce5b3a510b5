"""LLVM text to flat images: linking on both architectures, running on this one, refusals that name the culprit."""

from __future__ import annotations

import ctypes
import struct
import threading

import numpy as np
import pytest
from ingot.codegen import objfile
from ingot.codegen.assemble import AssembleError, assemble, assembly_text
from ingot.codegen.executor_ir import executor_ir
from ingot.codegen.host import NAMES, host_target, target_named
from ingot.codegen.objfile import LinkError
from ingot.ir import abi
from ingot.ir.plan import KernelImage
from ingot.ir.target import TILE_EMULATION
from ingot.runtime.code import CodeMap

# Constants of several sections, a local call, a jump table in read-only data, an exported constant (GOT access).
MIXED = """
@local = internal unnamed_addr constant [4 x float] [float 1.0, float 2.0, float 3.0, float 4.0], align 64
@exported = constant [4 x float] [float 10.0, float 20.0, float 30.0, float 40.0], align 64

define void @other(ptr %p) noinline {
  %q = getelementptr float, ptr %p, i64 5
  store float 3.25, ptr %q
  ret void
}
define void @kernel(ptr %args, i64 %begin, i64 %end, ptr %scratch) {
  %p = load ptr, ptr %args
  %v = load <4 x float>, ptr @local
  %x = load <4 x float>, ptr %p, align 4
  %y = fadd <4 x float> %v, %x
  store <4 x float> %y, ptr %p, align 4
  %f = getelementptr float, ptr @exported, i64 %begin
  %g = load float, ptr %f
  %p4 = getelementptr float, ptr %p, i64 4
  store float %g, ptr %p4
  call void @other(ptr %p)
  %p6 = getelementptr float, ptr %p, i64 6
  switch i64 %end, label %done [ i64 0, label %c0
                                 i64 1, label %c1
                                 i64 2, label %c2
                                 i64 3, label %c3
                                 i64 4, label %c4 ]
c0:
  store float 1.0, ptr %p6
  br label %done
c1:
  call void @other(ptr %p4)
  br label %done
c2:
  store float 3.125, ptr %p6
  br label %done
c3:
  store float 4.125, ptr %p
  ret void
c4:
  store float 8.25, ptr %p6
  br label %done
done:
  ret void
}
"""


def native(code: bytes, entry: int) -> tuple[CodeMap, object]:
    mapped = CodeMap({"k": KernelImage("k", code, entry)})
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    return mapped, prototype(mapped.address("k"))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "aarch64"])
@pytest.mark.isa("x86_64")
def test_linked_code_runs(name: str) -> None:
    target = target_named(name)
    if name != "host" and not set(target.features) - {TILE_EMULATION} <= set(host_target().features):
        pytest.skip(f"this CPU cannot run {name}")
    code, entry = assemble(MIXED, target, "kernel")
    mapped, call = native(code, entry)
    for end, sixth in [(0, 1.0), (2, 3.125), (4, 8.25), (7, 0.0)]:
        data = np.zeros(16, np.float32)
        args = np.array([data.ctypes.data], np.int64)
        call(args.ctypes.data, 2, end, None)
        assert data[:7].tolist() == [1.0, 2.0, 3.0, 4.0, 30.0, 3.25, sixth]
    assert mapped is not None


def test_image_does_not_depend_on_its_address() -> None:
    """Linking computes distances only: the same image at two places gives the same results."""
    code, entry = assemble(MIXED, host_target(), "kernel")
    results = []
    for pad in (0, 3):
        images = {f"pad{i}": KernelImage(f"pad{i}", bytes(64), 0) for i in range(pad)} | {
            "k": KernelImage("k", code, entry)
        }
        mapped = CodeMap(images)
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        data = np.zeros(16, np.float32)
        prototype(mapped.address("k"))(np.array([data.ctypes.data], np.int64).ctypes.data, 1, 2, None)
        results.append(data)
    assert (results[0] == results[1]).all()


def test_exported_code_pointer_is_relaxed() -> None:
    """Calls and jumps through the GOT, which exists only when functions are preemptible, become direct ones."""
    source = """
    declare void @never(ptr) nonlazybind
    define void @target(ptr %p) noinline nonlazybind {
      store i64 7, ptr %p
      ret void
    }
    define void @kernel(ptr %args, i64 %b, i64 %e, ptr %s) {
      %p = load ptr, ptr %args
      call void @target(ptr %p) nonlazybind
      %q = getelementptr i64, ptr %p, i64 1
      tail call void @target(ptr %q) nonlazybind
      ret void
    }
    """.replace("    declare void @never(ptr) nonlazybind\n", "")
    if not host_target().is_x86:
        pytest.skip("relaxation of indirect calls is an x86-64 form")
    code, entry = assemble(source, host_target(), "kernel")
    mapped, call = native(code, entry)
    data = np.zeros(2, np.int64)
    call(np.array([data.ctypes.data], np.int64).ctypes.data, 0, 0, None)
    assert data.tolist() == [7, 7] and mapped is not None


def test_got_relaxations_of_x86() -> None:
    """The three instruction forms, byte by byte."""
    one = np.zeros(1, np.int64)
    cases = [
        ([0x48, 0x8B, 0x05], 3, [0x48, 0x8D, 0x05], 100 - 3 - 4),
        ([0x90, 0xFF, 0x15], 3, [0x90, 0x67, 0xE8], 100 - 3 - 4),
    ]
    for before, place, after, distance in cases:
        image = np.zeros(16, np.uint8)
        image[:3] = before
        objfile._gotpcrelx(image, objfile._Relocations(one + place, one + 100 - 4, one))
        assert image[:3].tolist() == after
        assert struct.unpack("<i", image[3:7].tobytes()) == (distance,)
    image = np.zeros(16, np.uint8)
    image[:3] = [0x90, 0xFF, 0x25]
    objfile._gotpcrelx(image, objfile._Relocations(one + 3, one + 100 - 4, one))
    assert image[1] == 0xE9 and image[6] == 0x90
    assert struct.unpack("<i", image[2:6].tobytes()) == (100 - 6,)  # from the end of the 5-byte jump
    with pytest.raises(OverflowError, match="internal linkage"):
        objfile._gotpcrelx(np.full(16, 0x33, np.uint8), objfile._Relocations(one + 3, one, one))


def words(code: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(code) // 4}I", code))


def test_aarch64_link() -> None:
    """Decodes every page, low-12 and branch field and looks at what it points to."""
    code, entry = assemble(MIXED, target_named("aarch64"), "kernel")
    text = words(code)
    floats = lambda at: struct.unpack_from("<4f", code, at)  # noqa: E731
    pages: dict[int, int] = {}  # register -> page address
    loads: list[int] = []
    calls: list[int] = []
    for i in range(entry // 4, len(text)):
        w, here = text[i], 4 * i
        if w & 0x9F000000 == 0x90000000:  # adrp
            delta = ((w >> 5 & 0x7FFFF) << 2) | (w >> 29 & 3)
            delta -= (delta & 1 << 20) << 1
            pages[w & 31] = (here >> 12 << 12) + (delta << 12)
        elif w & 0xFFC00000 == 0x3DC00000 and w >> 5 & 31 in pages:  # ldr q, [x, #imm]
            loads.append(pages[w >> 5 & 31] + (w >> 10 & 0xFFF) * 16)
        elif w & 0xFFC00000 == 0x91000000 and w >> 5 & 31 in pages:  # add x, x, #imm
            loads.append(pages[w >> 5 & 31] + (w >> 10 & 0xFFF))
        elif w & 0xFC000000 == 0x94000000:  # bl
            calls.append(here + 4 * ((w & 0x3FFFFFF) - ((w & 0x2000000) << 1)))
        elif w == 0xD65F03C0 and len(loads) >= 2 and calls:
            break
    assert (1.0, 2.0, 3.0, 4.0) in [floats(at) for at in loads]
    assert (10.0, 20.0, 30.0, 40.0) in [floats(at) for at in loads]
    assert calls and all(0 <= at < entry for at in calls)  # @other comes first in the text


@pytest.mark.parametrize("size,scale", [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4)])
def test_aarch64_scaled_offsets(size: int, scale: int) -> None:
    image = np.zeros(4, np.uint8)
    one = np.zeros(1, np.int64)
    objfile._low12(size)(image, objfile._Relocations(one, one + 0x3040, one))
    assert words(image.tobytes()) == [(0x40 >> scale) << 10]
    if size > 1:
        with pytest.raises(OverflowError, match="aligned"):
            objfile._low12(size)(image, objfile._Relocations(one, one + 0x3041, one))


def test_aarch64_page_crossing() -> None:
    """ADRP counts pages from the page of the instruction, not from the instruction."""
    image = np.zeros(8192, np.uint8)
    one = np.zeros(1, np.int64)
    objfile._adr(pages=True)(image, objfile._Relocations(one + 4092, one + 4096, one))
    assert words(image[4092:4096].tobytes()) == [1 << 29]
    objfile._adr(pages=True)(image, objfile._Relocations(one + 4096, one + 4092, one))
    assert words(image[4096:4100].tobytes()) == [(3 << 29) | (0x7FFFF << 5)]
    objfile._branch(0, 26)(image, objfile._Relocations(one + 8, one, one))
    assert words(image[8:12].tobytes()) == [0x3FFFFFE]
    with pytest.raises(OverflowError, match="26 bits"):
        objfile._branch(0, 26)(image, objfile._Relocations(one, one + (1 << 28), one))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [True, False])
def test_executor_links_for_every_target(name: str, workers: bool) -> None:
    target = target_named(name)
    code, entry = assemble(executor_ir(target, workers), target, abi.EXECUTOR)
    assert 0 <= entry < len(code)


def test_import_is_refused_by_name() -> None:
    source = """
    declare float @expf(float)
    define void @kernel(ptr %p) {
      %a = load float, ptr %p
      %b = call float @expf(float %a)
      store float %b, ptr %p
      ret void
    }"""
    for name in ("host", "aarch64"):
        with pytest.raises(LinkError, match="import nothing, but refers to expf"):
            assemble(source, target_named(name), "kernel")


def test_large_fill_becomes_memset_and_is_refused() -> None:
    source = """
    declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
    define void @kernel(ptr %p, i64 %n) {
      call void @llvm.memset.p0.i64(ptr %p, i8 0, i64 %n, i1 false)
      ret void
    }"""
    with pytest.raises(LinkError, match="memset"):
        assemble(source, host_target(), "kernel")


@pytest.mark.parametrize(
    "definition",
    [
        "@state = global i32 1",
        "@state = internal global [64 x i8] zeroinitializer",
        "@state = thread_local global i32 0",
    ],
)
def test_writable_data_is_refused_by_name(definition: str) -> None:
    source = f"{definition}\ndefine void @kernel(ptr %p) {{\n  store volatile i32 2, ptr @state\n  ret void\n}}"
    with pytest.raises(LinkError, match="state"):
        assemble(source, host_target(), "kernel")


def test_absolute_address_is_refused() -> None:
    source = """
    @data = internal constant i32 5
    @table = constant [1 x ptr] [ptr @data]
    define ptr @kernel(i64 %i) {
      %p = getelementptr ptr, ptr @table, i64 %i
      %q = load ptr, ptr %p
      ret ptr %q
    }"""
    for name in ("x86-64", "aarch64"):
        with pytest.raises(LinkError, match=r"table|data"):
            assemble(source, target_named(name), "kernel")


def test_missing_entry() -> None:
    with pytest.raises(LinkError, match="'nothing' is not defined; functions: kernel, other"):
        assemble(MIXED, host_target(), "nothing")


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x02\x01", b"MZ" + bytes(200), b"\x7fELF\x02\x01" + bytes(100)])
def test_not_an_object(data: bytes) -> None:
    with pytest.raises(LinkError):
        objfile.link(data, "kernel")


def test_parse_error_shows_the_line() -> None:
    source = "define void @kernel(ptr %p) {\n  %a = load float, ptr %p\n  %b = fadd float %a, %missing\n  ret void\n}\n"
    with pytest.raises(AssembleError) as caught:
        assemble(source, host_target(), "kernel")
    text = str(caught.value)
    assert "line 3" in text and "undefined value '%missing'" in text
    assert ">     3 |   %b = fadd float %a, %missing" in text


def test_verify_error_shows_the_lines() -> None:
    source = """define void @kernel(i1 %c, ptr %p) {
entry:
  br i1 %c, label %a, label %b
a:
  %x = add i32 1, 2
  br label %b
b:
  store i32 %x, ptr %p
  ret void
}"""
    with pytest.raises(AssembleError, match="dominate") as caught:
        assemble(source, host_target(), "kernel")
    assert ">     5 |   %x = add i32 1, 2" in str(caught.value)


def test_assembly_text() -> None:
    text = assembly_text(MIXED, target_named("x86-64-avx512"))
    assert "kernel:" in text and "vaddps" in text
    assert "fadd" in assembly_text(MIXED, target_named("aarch64"))


def test_assembling_is_repeatable_and_thread_safe() -> None:
    expected = assemble(MIXED, host_target(), "kernel")
    results: list[object] = []

    def work() -> None:
        for _ in range(5):
            results.append(assemble(MIXED, host_target(), "kernel"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 20 and all(r == expected for r in results)
