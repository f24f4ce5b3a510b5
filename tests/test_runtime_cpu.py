"""CPU features and thread counts from made-up system files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from ingot.runtime import cpu


def test_x86_names() -> None:
    text = "processor: 0\nflags\t: fpu sse sse2 pni sse4_2 abm bmi1 avx512_vnni amx_tile lm\nflags : other\n"
    found = cpu.x86_features(text)
    assert {"sse3", "sse4.2", "crc32", "lzcnt", "bmi", "avx512vnni", "amx-tile", "64bit"} <= found
    assert "other" not in found and cpu.x86_features("") == frozenset()


def test_arm_names() -> None:
    auxv = struct.pack("<6Q", 16, 1 << 1 | 1 << 20, 26, 1 << 14, 0, 0)
    assert cpu.arm_features(auxv) == {"neon", "dotprod", "bf16"}
    assert cpu.arm_features(b"") == frozenset()


def test_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "architecture", lambda: "x86-64")
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"sse2", "avx2"}))
    assert cpu.refusal("x86-64-avx2", ["sse2", "avx2"]) is None
    assert cpu.refusal("x86-64-avx2", ["avx2", "clwb", "xsaves"]) is None  # never generated
    assert "avx512bw, avx512f" in str(cpu.refusal("x86-64-avx512", ["avx512f", "avx512bw"]))
    assert "this machine is x86-64" in str(cpu.refusal("aarch64", []))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_v2(tmp_path: Path) -> None:
    write(tmp_path / "member", "0::/a/b\n")
    root = tmp_path / "fs"
    assert cpu.cgroup_quota(str(root), str(tmp_path / "member")) is None
    write(root / "a/b/cpu.max", "max 100000\n")
    assert cpu.cgroup_quota(str(root), str(tmp_path / "member")) is None
    write(root / "a/cpu.max", "150000 100000\n")  # an ancestor's limit counts
    assert cpu.cgroup_quota(str(root), str(tmp_path / "member")) == 1.5
    write(root / "a/b/cpu.max", "50000 100000\n")
    assert cpu.cgroup_quota(str(root), str(tmp_path / "member")) == 0.5


def test_quota_v1(tmp_path: Path) -> None:
    write(tmp_path / "member", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n")
    root = tmp_path / "fs"
    write(root / "cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(root / "cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cpu.cgroup_quota(str(root), str(tmp_path / "member")) is None
    write(root / "cpu,cpuacct/cpu.cfs_quota_us", "250000\n")  # the container's own group, mounted at the top
    assert cpu.cgroup_quota(str(root), str(tmp_path / "member")) == 2.5
    assert cpu.cgroup_quota(str(root), str(tmp_path / "none")) is None


def test_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5, 7}, raising=False)
    for quota, expected in [(None, 4), (1.5, 2), (0.2, 1), (3.0, 3), (64.0, 4)]:
        monkeypatch.setattr(cpu, "cgroup_quota", lambda quota=quota: quota)
        assert cpu.default_threads() == expected


def test_spellings_of_feature_names_do_not_matter(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"sse2", "avx-ifma", "avx-vnni-int8", "sse4.1"}))
    monkeypatch.setattr(cpu, "architecture", lambda: "x86-64")
    assert cpu.refusal("x86-64", ["avxifma", "avxvnniint8", "sse4.1", "sse2"]) is None
    assert "avx512f" in (cpu.refusal("x86-64", ["sse2", "avx512f"]) or "")
