"""``.ingot`` files: round trip without LLVM, every kind of damage refused, hostile plans refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingot.ir import dims
from ingot.ir.dims import Dim
from ingot.ir.dtypes import bfloat16, int64
from ingot.ir.errors import ArtifactError
from ingot.ir.layout import Layout
from ingot.ir.plan import BufferRef, KernelImage, MemoryReport, Port, Program, Step
from ingot.ir.types import TensorType
from ingot.runtime import artifact, encoding
from ingot.runtime.executable import Executable
from native_programs import executor_image, expected_rowsum, port, program, scale_rowsum


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made = scale_rowsum()
    made.constants.append(np.arange(40000, dtype=np.float32))  # a block of its own
    made.constant_names.append("big")
    path = tmp_path / "net.ingot"
    artifact.save(made, path)
    return path


def test_round_trip(saved: Path) -> None:
    original, loaded = scale_rowsum(), artifact.load(saved)
    for name in ("inputs", "outputs", "steps", "symbols", "arena_bytes", "dynamic", "memory", "target_features"):
        assert getattr(loaded, name) == getattr(original, name), name
    assert {k: (i.code, i.entry) for k, i in loaded.kernels.items()} == {
        k: (i.code, i.entry) for k, i in original.kernels.items()
    }
    assert [c.tolist() for c in loaded.constants] == [[0, 1, 2, 3], list(range(40000))]
    assert not loaded.constants[1].flags.writeable
    x = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    exe = Executable(loaded, threads=2)
    mapped = [c.__array_interface__["data"][0] for c in loaded.constants]
    assert all(address % 64 == 0 for address in mapped)
    assert (exe.run([x])[0] == expected_rowsum(x)).all()
    assert [c.__array_interface__["data"][0] for c in loaded.constants] == mapped  # not copied


def test_saving_a_loaded_program(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.ingot"
    artifact.save(artifact.load(saved), again)
    assert again.read_bytes() == saved.read_bytes()
    artifact.save(artifact.load(saved), saved)  # onto itself: replaced, not overwritten while mapped
    assert again.read_bytes() == saved.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.ingot", "net.ingot"]


def test_fresh_process_without_llvm(saved: Path) -> None:
    code = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("llvmlite", "onnx", "networkx"):
                    raise ImportError("blocked: " + name)
        sys.meta_path.insert(0, Block())
        import numpy as np
        from ingot.runtime import artifact
        from ingot.runtime.executable import Executable
        exe = Executable(artifact.load({str(saved)!r}), threads=2)
        x = np.ones((3, 8), np.float32)
        assert exe.run([x])[0].tolist() == [28.0] * 3
        assert not any(m.startswith("ingot.frontend") or m.startswith("ingot.codegen") for m in sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_every_field_survives(tmp_path: Path) -> None:
    n, m = Dim("N", 0, None).expr, Dim("M", 2, 9).expr
    extent = dims.maximum(n * n * 3 + 1, dims.floordiv(n + m, 7)) + dims.mod(n, m) * m
    made = program(
        [Port("x", TensorType(bfloat16, (n, extent), Layout()), "input"), port("s", m, 3, dtype=int64, role="state")],
        [port("s", m, 3, dtype=int64, role="state", updates=1)],
        [Step("executor2", (BufferRef("input", 0, 2), BufferRef("dynamic", 0)), (extent, 4), n, 3, 128, "a", 1.5, 2.5)],
        {},
        [np.zeros((0, 3), np.int8), np.array(True), np.ones((2, 3), bfloat16.numpy), np.float64(2.5).reshape(())],
        symbols={"N": Dim("N", 0, None)},
        dynamic=[extent * 2],
        extents=[(n - 4, "%pool"), (m - n, "%y")],
        metadata={"out_spec": "[\u00e9]"},
        memory=MemoryReport(5, 4, 9),
        arena_bytes=640,
    )  # fmt: skip
    made.kernels["executor2"] = KernelImage("executor2", executor_image().code, 16, "why\nso")
    artifact.save(made, tmp_path / "all.ingot")
    loaded = artifact.load(tmp_path / "all.ingot", verify=True)
    for name in Program.__dataclass_fields__:
        if name != "constants":
            assert getattr(loaded, name) == getattr(made, name), name
    for a, b in zip(loaded.constants, made.constants, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_extents_round_trip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = {d.name: d for d in (Dim("A", 1, 50), Dim("B", 1, None), Dim("C", 1, 4))}
    pool: list[dims.Extent] = [*(d.expr for d in symbols.values()), 2, 5]
    for _ in range(60):
        a, b = pool[int(rng.integers(len(pool)))], pool[int(rng.integers(len(pool)))]
        kind = int(rng.integers(5))
        made = [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: dims.floordiv(a, b + 1),
                lambda a, b: dims.mod(a, b + 3), dims.maximum][kind](a, b)  # fmt: skip
        if len(str(made)) < 200:
            pool.append(made)
    for extent in pool:
        data = json.loads(json.dumps(encoding.encode_extent(extent)))
        again = encoding.decode_extent(data, symbols, "x")
        env = {"A": 7, "B": 11, "C": 3}
        assert dims.evaluate(again, env) == dims.evaluate(extent, env)
        assert again == extent, str(extent)


def header(data: bytes) -> tuple[int, int, int, int]:
    """(plan offset, plan size, code offset, code size)."""
    return struct.unpack_from("<QQQQ", data, 24)


def test_every_truncation_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    plan_at, plan_size, code_at, code_size = header(data)
    cuts = [0, 1, 7, 64, 127, 128, plan_at + 5, plan_at + plan_size, code_at, code_at + code_size, len(data) - 1]
    for cut in cuts:
        saved.write_bytes(data[:cut])
        with pytest.raises(ArtifactError, match=r"truncated|not an \.ingot file"):
            artifact.load(saved)
    saved.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError, match="extra bytes"):
        artifact.load(saved)


def test_every_edit_is_refused(saved: Path, seed: int) -> None:
    """One flipped bit anywhere that matters: header, plan, code at load; weights when first used."""
    data = saved.read_bytes()
    rng = np.random.default_rng(seed)
    plan_at, plan_size, code_at, code_size = header(data)
    regions = {
        "not an .ingot file": (0, 8),
        "format version": (8, 12),
        "header": (12, 128),
        "plan": (plan_at, plan_at + plan_size),
        "code": (code_at, code_at + code_size),
    }
    for word, (start, end) in regions.items():
        for at in {start, end - 1, *rng.integers(start, end, 10).tolist()}:
            edited = bytearray(data)
            edited[at] ^= 1 << int(rng.integers(8))
            saved.write_bytes(edited)
            with pytest.raises(ArtifactError, match=word):
                artifact.load(saved)


def test_edited_weights_are_refused_when_first_used(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ArtifactError, match="weight block 1 is damaged"):
        artifact.load(saved, verify=True)
    exe = Executable(artifact.load(saved), threads=1)
    for _ in range(2):
        with pytest.raises(ArtifactError, match="damaged"):
            exe.run([np.ones((1, 8), np.float32)])


def test_weights_are_checked_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exe = Executable(artifact.load(saved), threads=1)
    x = np.ones((1, 8), np.float32)
    calls: list[int] = []
    real = hashlib.sha256
    monkeypatch.setattr(artifact.hashlib, "sha256", lambda data=b"": (calls.append(len(data)), real(data))[1])
    exe.run([x])
    assert len(calls) == 2
    exe.run([x])
    assert len(calls) == 2
    calls.clear()
    verified = artifact.load(saved, verify=True)
    calls.clear()
    Executable(verified, threads=1).run([x])
    assert not calls


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], version: int = artifact.VERSION) -> None:
    """Edits the plan and repairs all checksums: what a hostile or buggy writer could produce.

    A ``change`` that returns bytes gives the whole text of the new plan.
    """
    data = path.read_bytes()
    plan_at, plan_size, code_at, code_size = header(data)
    plan = json.loads(data[plan_at : plan_at + plan_size])
    code = data[code_at : code_at + code_size]
    old_weights = -(-(code_at + code_size) // 4096) * 4096
    replaced = change(plan)
    text = replaced if isinstance(replaced, bytes) else json.dumps(plan).encode()
    code_at = -(-(128 + len(text)) // 64) * 64
    weights_at = -(-(code_at + len(code)) // 4096) * 4096
    body = (text.ljust(code_at - 128, b"\0") + code).ljust(weights_at - 128, b"\0") + data[old_weights:]
    digest = lambda b: hashlib.sha256(b).digest()[:16]  # noqa: E731
    head = artifact._HEADER.pack(
        artifact.MAGIC, version, 128, 128 + len(body), 128, len(text), code_at, len(code), digest(text), digest(code)
    ).ljust(112, b"\0")
    path.write_bytes(head + digest(head) + body)


def test_rewrite_without_change_loads(saved: Path) -> None:
    rewrite(saved, lambda plan: None)
    x = np.ones((1, 8), np.float32)
    assert Executable(artifact.load(saved), threads=1).run([x])[0].tolist() == [28.0]


def deep(n: int) -> Any:
    out: Any = "N"
    for _ in range(n):
        out = ["max", [[1, [[out, 1]]]], 3]
    return [[1, [[out, 1]]]]


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "buffer kind": (lambda p: p["steps"][0]["buffers"].__setitem__(0, ["heap", 0, 0]), "unknown buffer kind"),
    "input index": (lambda p: p["steps"][0]["buffers"].__setitem__(0, ["input", 9, 0]), "input 9 of 1"),
    "negative index": (lambda p: p["steps"][0]["buffers"].__setitem__(0, ["input", -1, 0]), r"integer in \[0"),
    "arena offset": (lambda p: p["steps"][0]["buffers"].__setitem__(2, ["arena", 1 << 40, 0]), "arena offset"),
    "constant offset": (lambda p: p["steps"][0]["buffers"].__setitem__(1, ["constant", 0, 64]), "offset 64 outside"),
    "huge offset": (lambda p: p["steps"][0]["buffers"].__setitem__(0, ["input", 0, 1 << 70]), "integer in"),
    "kernel": (lambda p: p["steps"][0].update(kernel="nothing"), "no kernel 'nothing'"),
    "executor as kernel": (lambda p: p["steps"][0].update(kernel="executor"), "no kernel 'executor'"),
    "trip": (lambda p: p["steps"][0].update(trip=-1), "trip -1"),
    "scratch": (lambda p: p["steps"][0].update(scratch=1 << 60), "scratch"),
    "symbol": (lambda p: p["steps"][0].update(trip=[[1, [["Q", 1]]]]), "unknown symbol 'Q'"),
    "power": (lambda p: p["steps"][0].update(trip=[[1, [["N", 10**9]]]]), "integer in"),
    "deep expression": (lambda p: p["steps"][0].update(trip=deep(30)), "too deeply"),
    "very deep text": (lambda p: b"[" * 100_000, "malformed plan"),
    "no JSON": (lambda p: b"\xff\xfe", "malformed plan"),
    "a list": (lambda p: b"[]", "plan: expected an object, got list"),
    "division by zero": (
        lambda p: p["steps"][0].update(trip=[[1, [[["div", [[1, [["N", 1]]]], 0], 1]]]]),
        "division by 0",
    ),
    "trip text": (lambda p: p["steps"][0].update(trip="8"), "expected a list"),
    "trip float": (lambda p: p["steps"][0].update(trip=1.5), "expected a list"),
    "trip true": (lambda p: p["steps"][0].update(trip=True), "expected a list"),
    "missing field": (lambda p: p.pop("steps"), "'steps' is missing"),
    "steps no list": (lambda p: p.update(steps={"a": 1}), "expected a list"),
    "arena": (lambda p: p.update(arena_bytes=1 << 60), "arena of"),
    "no arena": (lambda p: p.update(arena_bytes=0), "arena offset"),
    "dtype": (lambda p: p["inputs"][0].update(dtype="object"), "unknown dtype"),
    "layout": (lambda p: p["inputs"][0].update(layout="blocks=0:16"), "ports are dense"),
    "layout text": (lambda p: p["inputs"][0].update(layout="?"), "malformed"),
    "updates": (lambda p: p["outputs"][0].update(updates=5), "updates input 5"),
    "symbol range": (lambda p: p["symbols"].update(N=[9, 3]), "bad range"),
    "symbol name": (lambda p: p["symbols"].update({"a b": [1, 2]}), "not an identifier"),
    "kernel size": (lambda p: p["kernels"][0].__setitem__(2, 1 << 40), "outside the code section"),
    "kernel start": (lambda p: p["kernels"][0].__setitem__(1, -64), "outside the code section"),
    "kernel entry": (lambda p: p["kernels"][0].__setitem__(3, 1 << 20), "entry"),
    "kernel twice": (lambda p: p["kernels"].append(p["kernels"][0]), "bad kernel record"),
    "constant shape": (lambda p: p["constants"].__setitem__(1, ["float32", [1 << 40]]), "outside the file"),
    "constant negative": (lambda p: p["constants"].__setitem__(1, ["float32", [-4]]), "negative or symbolic"),
    "block size": (lambda p: p["blocks"][1].update(bytes=64), "another size"),
    "block index": (lambda p: p["blocks"][0].update(constants=[7]), "constant 7"),
    "block twice": (lambda p: p["blocks"][1].update(constants=[0]), "constant 0"),
    "block missing": (lambda p: p["blocks"].pop(), "2 constants, 1 of them stored"),
    "names": (lambda p: p["constant_names"].pop(), "2 constants, 1 names"),
    "abi": (lambda p: p.update(abi=99), "executor version 99"),
    "features": (lambda p: p["target_features"].append("avx99"), "features that this machine lacks: avx99"),
    "architecture": (lambda p: p.update(target_name="sparc"), "compiled for sparc, and this machine is"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans_are_refused(saved: Path, name: str) -> None:
    change, expected = HOSTILE[name]
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match=expected):
        artifact.load(saved)


def test_unknown_version(saved: Path) -> None:
    rewrite(saved, lambda plan: None, version=7)
    with pytest.raises(ArtifactError, match=f"format version 7, this Ingot reads {artifact.VERSION}"):
        artifact.load(saved)


def test_not_a_file_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        artifact.load(tmp_path / "none.ingot")
    for content in (b"", b"hello", bytes(5000), b"PK\x03\x04" + bytes(1000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"not an \.ingot file"):
            artifact.load(str(tmp_path / "x"))


def test_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        artifact.save(scale_rowsum(), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    with pytest.raises(OSError):
        artifact.save(scale_rowsum(), saved.parent / "missing" / "x.ingot")


def test_weights_are_page_aligned_and_packed(tmp_path: Path) -> None:
    made = scale_rowsum()
    rng = np.random.default_rng(1)
    made.constants += [rng.standard_normal(n).astype(np.float32) for n in (3, 100000, 5, 7, 20000, 1)]
    made.constant_names += list("abcdef")
    artifact.save(made, tmp_path / "w.ingot")
    loaded = artifact.load(tmp_path / "w.ingot", verify=True)
    for a, b in zip(loaded.constants, made.constants, strict=True):
        assert (a == b).all()
    assert loaded.constants[2].__array_interface__["data"][0] % 4096 == 0
    size = (tmp_path / "w.ingot").stat().st_size
    assert size < sum(c.nbytes for c in made.constants) + (64 << 10)
