"""Checkpoints made to harm: nothing they name is executed, and no bytes give anything but an IngotError."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingot.frontend.serialization.checkpoint import LEGACY_START
from ingot.frontend.serialization.loading import load_with
from ingot.frontend.serialization.pickle_writer import Call, Global, Persistent, PickleWriter
from ingot.ir.errors import IngotError, ParseError, UnpicklingError, UnsupportedError


class Arrays:
    """Makes plain arrays and tuples, so that these tests need no front end."""

    def tensor(self, array: np.ndarray, requires_grad: bool) -> Any:
        return array

    def parameter(self, tensor: Any, requires_grad: bool) -> Any:
        return tensor

    def size(self, extents: tuple[int, ...]) -> Any:
        return extents

    def device(self, *args: Any) -> Any:
        return args


def read(content: bytes) -> Any:
    return load_with(Arrays(), io.BytesIO(content))


def archive(data: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        z.writestr("archive/data.pkl", data)
        for name, content in {"byteorder": b"little", "version": b"3\n", **(records or {})}.items():
            z.writestr(f"archive/{name}", content)
    return out.getvalue()


def stream(data: bytes, tail: bytes = b"\x80\x02].", machine: dict[str, Any] | None = None) -> bytes:
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}} if machine is None else machine
    return LEGACY_START + pickle.dumps(1001, 2) + pickle.dumps(facts, 2) + data + tail


def write(obj: Any) -> bytes:
    """A pickle with any globals: what a hostile author would make by hand."""
    return PickleWriter(lambda o: None).dump(obj)


def storage(kind: str = "FloatStorage", key: str = "0", numel: Any = 6) -> Persistent:
    return Persistent(("storage", Global("torch", kind), key, "cpu", numel))


def tensor(pid: Any, offset: Any, size: Any, stride: Any) -> Call:
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), pid, offset, size, stride, False, {})


HOSTILE = {
    "os.system": Call(Global("os", "system"), "echo owned > {canary}"),
    "posix.system": Call(Global("posix", "system"), "echo owned > {canary}"),
    "builtins.eval": Call(Global("builtins", "eval"), "open({canary!r}, 'w')"),
    "builtins.exec": Call(Global("__builtin__", "exec"), "open({canary!r}, 'w')"),
    "builtins.open": Call(Global("builtins", "open"), "{canary}", "w"),
    "builtins.getattr": Call(Global("builtins", "getattr"), {}, "clear"),
    "subprocess.Popen": Call(Global("subprocess", "Popen"), ["touch", "{canary}"]),
    "numpy._core.multiarray._reconstruct": Call(Global("numpy._core.multiarray", "_reconstruct"), 1, (0,), b"b"),
    "torch.load": Call(Global("torch", "load"), "{canary}"),
    "torch.storage._load_from_bytes": Call(Global("torch.storage", "_load_from_bytes"), b"x"),
    "torch.hub.load": Call(Global("torch.hub", "load"), "x"),
    "torch._utils.os.system": Call(Global("torch._utils", "os.system"), "x"),
    "collections.namedtuple": Call(Global("collections", "namedtuple"), "x", "y"),
    "__main__.Net": Call(Global("__main__", "Net")),
    "ingot.frontend.serialization.load": Call(Global("ingot.frontend.serialization", "load"), "{canary}"),
}


@pytest.mark.parametrize("make", [archive, stream], ids=["zip", "stream"])
@pytest.mark.parametrize("name", HOSTILE)
def test_globals_off_the_list_are_refused_by_name(name: str, make: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    call = HOSTILE[name]
    arguments = [a.replace("{canary}", str(canary)) if isinstance(a, str) else a for a in call.arguments]
    with pytest.raises(UnpicklingError, match="executed") as caught:
        read(make(write({"x": Call(call.function, *arguments)})))
    assert call.function.name in str(caught.value)
    assert not canary.exists()


class _Reduces:
    def __init__(self, *reduction: Any) -> None:
        self.reduction = reduction

    def __reduce__(self) -> Any:
        return self.reduction


@pytest.mark.parametrize("protocol", range(6))
def test_stdlib_made_attacks(protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    attack = pickle.dumps([_Reduces(os.system, (f"touch {canary}",))], protocol)
    for make in (archive, stream):
        with pytest.raises(IngotError):
            read(make(attack))
    assert not canary.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cos\nsystem\nq\x00.",  # a mere mention
        b"(S'echo x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'echo x'\no.",  # OBJ
        b"\x80\x02\x82\x01.",  # extension registry
        b"P42\n.",  # textual persistent id
        b"\x80\x02}(X\x01\x00\x00\x00aK\x01ub}b.",
        b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.",  # BUILD on a list
        b"\x80\x02K\x01)R.",  # calling a number
        b"\x80\x02ctorch\nfloat32\n)R.",  # calling a dtype
        b"\x80\x02cbuiltins\nint\nX\x01\x00\x00\x001\x85R.",  # a class that may only be named
        b"\x80\x04\x97.",  # out-of-band buffers
        b"\x80\x04ccollections\nOrderedDict\n)}\x92.",  # NEWOBJ_EX
    ],
)
def test_opcodes_that_could_reach_code(data: bytes) -> None:
    for make in (archive, stream):
        with pytest.raises(IngotError):
            read(make(data))


@pytest.fixture
def little_memory() -> Any:
    """1 GiB more of address space than the process has now: a bomb becomes MemoryError instead of swap."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _copies(function: bytes, count: int) -> bytes:
    """A long list, remembered once and copied by a call ``count`` times, at five bytes a copy."""
    remembered = b"\x80\x02" + function + b"q\x000](" + b"K\x01" * 20000 + b"e\x85q\x010"
    return remembered + b"](" + b"h\x00h\x01R" * count + b"e."


BOMBS = {
    "bytes length": b"\x80\x03B\xff\xff\xff\x7fabc.",
    "bytes8 length": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00abc.",
    "bytearray8 length": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00abc.",
    "unicode length": b"\x80\x02X\xff\xff\xff\xffabc.",
    "long4 length": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "long digits": b"L" + b"9" * 100000 + b"L\n.",
    "bytearray of a number": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "list copies": _copies(b"cbuiltins\nset\n", 40000),
    "size copies": _copies(b"ctorch\nSize\n", 40000),
    "unbalanced": b"\x80\x02((((((0000000.",
    "nested key": b"\x80\x02}" + b")" + b"\x85" * 200000 + b"Ns.",
    "nested set member": b"\x80\x04\x8f(" + b")" + b"\x85" * 200000 + b"\x90.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, little_memory: None) -> None:
    for make in (archive, stream):
        with pytest.raises(IngotError):
            read(make(BOMBS[name]))


def test_sizes_that_the_stdlib_would_allocate_are_ignored(little_memory: None) -> None:
    """A memo index and a frame length are hints; reading them costs nothing."""
    for data in (b"\x80\x02K\x07r\xff\xff\xff\xff.", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fK\x07."):
        assert read(archive(data)) == 7


def test_deep_nesting_is_no_recursion() -> None:
    depth = 300_000
    value = read(archive(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."))
    for _ in range(depth - 1):
        (value,) = value
    assert value == []


def test_views_stay_inside_their_storage() -> None:
    data = {"data/0": np.arange(6, dtype=np.float32).tobytes()}
    good = read(archive(write(tensor(storage(), 1, (2, 2), (2, 1))), data))
    assert np.array_equal(good, [[1, 2], [3, 4]])
    for offset, size, stride in [
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 2), (5, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2**40, 2**40), (1, 1)),
        (2**63, (1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (1,) * 100, (1,) * 100),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, "ab", (1,)),
        (None, (1,), (1,)),
    ]:
        with pytest.raises(ParseError):
            read(archive(write(tensor(storage(), offset, size, stride)), data))
        with pytest.raises(ParseError):
            tail = pickle.dumps(["0"], 2) + struct.pack("<q", 6) + data["data/0"]
            read(stream(write(tensor(storage(), offset, size, stride)), tail))


@pytest.mark.parametrize("numel", [2**40, 2**62, -1, 7, "6", 6.0])
def test_storage_sizes_are_checked_before_allocating(numel: Any, little_memory: None) -> None:
    data = {"data/0": bytes(24)}
    pickled = write(tensor(storage(numel=numel), 0, (1,), (1,)))
    with pytest.raises(ParseError):
        read(archive(pickled, data))
    with pytest.raises(ParseError):
        read(stream(pickled, pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24)))


def test_many_storages_share_one_bound(little_memory: None) -> None:
    """Each storage fits the file, all of them do not."""
    tensors = [tensor(storage(key=str(i), numel=250_000), 0, (1,), (1,)) for i in range(2000)]
    with pytest.raises(ParseError, match="larger than what is left"):
        read(stream(write(tensors), pickle.dumps([str(i) for i in range(2000)], 2) + bytes(1_000_000)))


def test_bool_storages_hold_bools() -> None:
    pickled = write(tensor(storage("BoolStorage", numel=2), 0, (2,), (1,)))
    assert read(archive(pickled, {"data/0": b"\x00\x01"})).tolist() == [False, True]
    with pytest.raises(ParseError, match="bool"):
        read(archive(pickled, {"data/0": b"\x00\x02"}))
    with pytest.raises(ParseError, match="bool"):
        read(stream(pickled, pickle.dumps(["0"], 2) + struct.pack("<q", 2) + b"\x00\x02"))


def test_clear_refusals() -> None:
    plain = write({"a": 1})
    cases = [
        (archive(plain, {"byteorder": b"big"}), UnsupportedError, "byte order"),
        (stream(plain, machine={"little_endian": False}), UnsupportedError, "big-endian"),
        (archive(plain, {"version": b"11"}), UnsupportedError, "version"),
        (archive(plain, {"constants.pkl": b""}), UnsupportedError, "TorchScript"),
        (archive(plain, compression=zipfile.ZIP_DEFLATED), UnsupportedError, "compressed"),
        (archive(write(tensor(storage("ComplexFloatStorage"), 0, (1,), (1,)))), UnsupportedError, "ComplexFloat"),
        (archive(write(Persistent(("module", Global("torch", "Size"), "f.py", "x")))), UnpicklingError, "state_dict"),
        (b"", ParseError, "empty"),
        (b"\x93NUMPY\x01\x00", ParseError, "neither"),
        (pickle.dumps({"a": 1}, 4), ParseError, "a pickle"),
        (bytes(257) + b"ustar" + bytes(200), UnsupportedError, "tar"),
        (b"PK\x03\x04" + bytes(100), ParseError, "zip"),
        (stream(plain)[:-1], ParseError, "pickle"),
    ]
    for content, kind, text in cases:
        with pytest.raises(kind, match=text):
            read(content)
    other = io.BytesIO()
    np.savez(other, a=np.zeros(3))
    with pytest.raises(ParseError, match=r"data\.pkl"):
        read(other.getvalue())


def samples() -> dict[str, bytes]:
    values = np.arange(6, dtype=np.float32)
    obj = {
        "t": tensor(storage(), 0, (2, 3), (3, 1)),
        "n": [1, 2.5, "text", None, (True, -7, 2**70)],
        "s": Call(Global("torch", "Size"), (1, 2)),
        "d": Global("torch", "float16"),
    }
    import safetensors.numpy

    return {
        "zip": archive(write(obj), {"data/0": values.tobytes()}),
        "stream": stream(write(obj), pickle.dumps(["0"], 2) + struct.pack("<q", 6) + values.tobytes()),
        "safetensors": safetensors.numpy.save({"a": values.reshape(2, 3), "b": np.zeros((), np.int64)}),
    }


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_truncation_anywhere(kind: str) -> None:
    content = samples()[kind]
    read(content)
    for length in range(len(content)):
        with pytest.raises(IngotError):
            read(content[:length])


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_fuzzed_bytes(kind: str, seed: int, little_memory: None) -> None:
    rng = np.random.default_rng(seed)
    content = np.frombuffer(samples()[kind], np.uint8)
    for _ in range(1500):
        copy = content.copy()
        where = rng.integers(0, len(copy), rng.integers(1, 6))
        copy[where] = rng.integers(0, 256, len(where))
        mode = rng.integers(3)
        if mode == 1:
            at = rng.integers(0, len(copy))
            copy = np.concatenate([copy[:at], rng.integers(0, 256, rng.integers(1, 9), np.uint8), copy[at:]])
        elif mode == 2:
            a, b = np.sort(rng.integers(0, len(copy), 2))
            copy = np.delete(copy, slice(a, b))
        try:
            read(copy.tobytes())
        except IngotError:
            pass
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} for {copy.tobytes()!r}")


def test_fuzzed_pickles_inside_a_sound_archive(seed: int, little_memory: None) -> None:
    """The CRC of an archive catches most damage, so here the pickle is damaged before it is packed."""
    rng = np.random.default_rng(seed)
    obj = [tensor(storage(), 0, (2, 3), (3, 1)), {"a": (1, 2.5)}, Call(Global("torch", "Size"), (1, 2)), {1, 2}]
    content = np.frombuffer(write(obj), np.uint8)
    opcodes = np.frombuffer(b"().01KNQR]abceghlqrstu}\x81\x85\x86\x87\x8f\x90\x91\x93\x94", np.uint8)
    for _ in range(3000):
        copy = content.copy()
        where = rng.integers(2, len(copy), rng.integers(1, 4))
        copy[where] = rng.choice(opcodes, len(where))
        packed = archive(copy.tobytes(), {"data/0": bytes(24)})
        try:
            read(packed)
        except IngotError:
            pass
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} for {copy.tobytes()!r}")
