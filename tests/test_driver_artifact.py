"""``exe.save`` and ``ingot.load_executable``, also where no compiler can be imported."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from driver_models import images, net, rows
from ingot.ir.errors import ArtifactError, UnsupportedError

Scores = namedtuple("Scores", ["best", "all"])

LOADER = """
import sys
for blocked in ("llvmlite", "onnx", "click", "rich", "networkx"):
    sys.modules[blocked] = None
import numpy as np, ingot
exe = ingot.load_executable(sys.argv[1], threads=int(sys.argv[3]))
x = np.load(sys.argv[2])
np.save(sys.argv[4], exe(x))
assert isinstance(exe(ingot.from_numpy(x)), ingot.Tensor)
loaded = [m for m in sys.modules if m.startswith(("ingot.codegen", "ingot.passes", "ingot.program", "ingot.training"))]
assert not loaded, loaded
"""


def run_elsewhere(artifact: Path, x: np.ndarray, folder: Path, threads: int = 1) -> np.ndarray:
    np.save(folder / "x.npy", x)
    arguments = [str(artifact), str(folder / "x.npy"), str(threads), str(folder / "y.npy")]
    done = subprocess.run([sys.executable, "-c", LOADER, *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "y.npy")


def test_a_fresh_process_without_the_compiler_gives_the_same_bits(tmp_path: Path) -> None:
    exe = ingot.compile(net(), images(2), dynamic=ingot.Dim("N", 1, 16))
    path = tmp_path / "net.ingot"
    exe.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.ingot"]
    for threads in (1, 2):
        np.testing.assert_array_equal(run_elsewhere(path, images(5), tmp_path, threads), exe(images(5)))


def test_structures_survive(tmp_path: Path) -> None:
    def model(x: Any, *, more: Any) -> Any:
        return {"scores": Scores(x + more["y"], [x, None]), 3: "three"}

    exe = ingot.compile(model, rows(2), kwargs={"more": {"y": rows(2)}})
    exe.save(tmp_path / "m.ingot")
    again = ingot.load_executable(str(tmp_path / "m.ingot"), verify=True)
    a, b = exe(rows(2), more={"y": rows(2, 1)}), again(rows(2), more={"y": rows(2, 1)})
    assert list(b) == ["scores", 3] and b["scores"]._fields == Scores._fields and b["scores"].all[1] is None
    np.testing.assert_array_equal(a["scores"].best, b["scores"].best)
    assert repr(again) == repr(exe) and again.report is None


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    exe = ingot.compile(lambda x, how: (x, how), rows(1), {1, 2})
    assert exe(rows(1), {1, 2})[1] == {1, 2}
    with pytest.raises(UnsupportedError, match=r"structure of the inputs \(\(x, \{1, 2\}\).*plain data"):
        exe.save(tmp_path / "m.ingot")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["magic", "header", "plan", "code", "weights", "short", "long", "empty"])
def test_damaged_files_are_refused(place: str, tmp_path: Path) -> None:
    path = tmp_path / "net.ingot"
    ingot.compile(net(), images(1)).save(path)
    data = bytearray(path.read_bytes())
    code_at = int.from_bytes(data[40:48], "little")
    position = {"magic": 1, "header": 30, "plan": 200, "code": code_at + 10, "weights": len(data) - 40}.get(place)
    if position is not None:
        data[position] ^= 0xFF
    elif place == "short":
        del data[-100:]
    elif place == "long":
        data += b"more"
    else:
        data.clear()
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"net\.ingot"):
        ingot.load_executable(path)(images(1))
    with pytest.raises(ArtifactError, match=r"net\.ingot"):
        ingot.load_executable(path, verify=True)


def test_a_file_without_the_structure_is_refused(tmp_path: Path) -> None:
    from ingot.runtime import artifact

    artifact.save(ingot.compile(net(), images(1)).program, tmp_path / "bare.ingot")
    with pytest.raises(ArtifactError, match="structure of inputs and results"):
        ingot.load_executable(tmp_path / "bare.ingot")


def test_another_cpu(tmp_path: Path) -> None:
    import platform

    other = "aarch64" if platform.machine() == "x86_64" else "x86-64"
    exe = ingot.compile(net(), images(1), target=other)
    with pytest.raises(UnsupportedError, match="cannot run here"):
        exe(images(1))
    exe.save(tmp_path / "net.ingot")
    with pytest.raises(ArtifactError, match=rf"net\.ingot cannot run here.*{other}"):
        ingot.load_executable(tmp_path / "net.ingot")


def test_an_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    exe = ingot.compile(net(), images(1))
    with pytest.raises(OSError):
        exe.save(tmp_path / "nowhere" / "net.ingot")
    (tmp_path / "folder.ingot").mkdir()
    with pytest.raises(OSError):
        exe.save(tmp_path / "folder.ingot")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.ingot"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    exe = ingot.compile(net(), images(1))
    path = tmp_path / "net.ingot"
    exe.save(path)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        exe.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
