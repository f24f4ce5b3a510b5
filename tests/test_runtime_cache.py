"""The kernel cache on disk: hits, damage, limits, several processes, disks that do not cooperate."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
from ingot.ir.plan import KernelImage
from ingot.runtime import cache as cache_module
from ingot.runtime.cache import KernelCache, digest


def image(key: str = "k", size: int = 100, fill: int = 7) -> KernelImage:
    return KernelImage(key, bytes([fill]) * size, 3, "why: \u00fc")


def test_round_trip(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    key = digest("kernel", 1)
    assert cache.get(key) is None
    cache.put(image(key))
    assert cache.get(key) == image(key)
    assert (cache.hits, cache.misses) == (1, 1)
    assert KernelCache(tmp_path).get(key) == image(key)
    cache.put(image(key, fill=9))  # replaced
    assert cache.get(key) == image(key, fill=9)
    cache.clear()
    assert cache.get(key) is None and cache.size() == 0


def test_keys_cannot_leave_the_directory(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "in")
    for key in ("../../evil", "/etc/passwd", ".hidden", "a" * 500, "UPPER", ""):
        cache.put(image(key))
        assert cache.get(key) == image(key)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_digest_separates_what_differs() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), (1,), (1.0,), (True,), ("1",), (None,), (("a",), "b"),
             ("a", ("b",)), (("a", "b"),), ("a", "b"), ()]  # fmt: skip
    assert len({digest(*p) for p in parts}) == len(parts)
    assert digest("a", [1, 2]) == digest("a", (1, 2))
    with pytest.raises(TypeError):
        digest({"a": 1})


@pytest.mark.parametrize("position", [0, 9, 41, 60, -1])
def test_damaged_entries_are_deleted(tmp_path: Path, position: int) -> None:
    cache = KernelCache(tmp_path)
    cache.put(image(digest("x")))
    (path,) = cache._entries()
    data = bytearray(path.read_bytes())
    data[position] ^= 255
    path.write_bytes(data)
    assert cache.get(digest("x")) is None
    assert not path.exists()
    cache.put(image(digest("x")))
    assert cache.get(digest("x")) is not None


def test_truncated_and_foreign_entries(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    key, other = digest("x"), digest("y")
    cache.put(image(key))
    data = cache._path(key).read_bytes()
    for cut in (0, 5, 40, 57, len(data) - 1):
        cache._path(key).write_bytes(data[:cut])
        assert cache.get(key) is None
    cache._path(other).parent.mkdir(exist_ok=True)
    cache._path(other).write_bytes(data)  # valid, but under another name
    assert cache.get(other) is None


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit=10_000)
    now = time.time()
    for i in range(8):
        cache.put(image(digest(i), 1000))
        os.utime(cache._path(digest(i)), (now - 10_000 + i, now - 10_000 + i))
    assert cache.get(digest(0)) is not None  # used: now the most recent
    for i in range(8, 12):
        cache.put(image(digest(i), 1000))
    assert cache.size() <= 10_000
    assert cache.get(digest(0)) is not None and cache.get(digest(11)) is not None
    assert cache.get(digest(1)) is None


def test_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit=10_000)
    cache.put(image(digest("x")))
    old, new = cache._path(digest("x")).with_name(".old.1.a"), cache._path(digest("x")).with_name(".new.1.a")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    cache._trim()
    assert not old.exists() and new.exists()


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("INGOT_CACHE_SIZE", "12345")
    cache = KernelCache.default()
    assert cache is KernelCache.default()
    assert cache.limit == 12345 and cache.enabled
    cache.put(image("k"))
    assert (tmp_path / "here").exists()
    monkeypatch.setenv("INGOT_CACHE", "0")
    off = KernelCache.default()
    assert not off.enabled and off.get("k") is None
    off.put(image("z"))
    assert cache.get("z") is None
    monkeypatch.delenv("INGOT_CACHE_DIR")
    assert "ingot" in str(KernelCache().directory)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    cache = KernelCache(tmp_path)
    cache.put(image("old"))

    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache_module.os, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="not usable.*compiling without it"):
        cache.put(image("new"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(image("new"))  # warned once is enough
    assert cache.get("new") is None and cache.get("old") is not None
    assert not [p for p in cache.directory.rglob("*") if p.name.startswith(".")]


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(tmp_path / "file")
    with pytest.warns(RuntimeWarning):
        assert cache.get("k") is None
        cache.put(image("k"))


def test_two_processes_on_one_cache(tmp_path: Path) -> None:
    """Writers, readers and a tight limit at once: every hit is whole, nobody fails."""
    code = textwrap.dedent("""
        import sys, random
        from ingot.ir.plan import KernelImage
        from ingot.runtime.cache import KernelCache, digest
        cache = KernelCache(sys.argv[1], limit=200_000)
        rng = random.Random(int(sys.argv[2]))
        hits = 0
        for _ in range(400):
            n = rng.randrange(60)
            found = cache.get(digest(n))
            wanted = KernelImage(digest(n), bytes([n]) * 5000, n, str(n))
            assert found is None or found == wanted
            hits += found is not None
            if found is None:
                cache.put(wanted)
        assert hits > 50, hits
    """)
    runs = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code, str(tmp_path), str(i)], stderr=subprocess.PIPE)
        for i in range(2)
    ]
    for run in runs:
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err.decode()
    assert KernelCache(tmp_path).size() <= 220_000
