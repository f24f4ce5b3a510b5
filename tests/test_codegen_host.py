"""Targets: detection of this machine, caps, and that the runtime agrees without LLVM."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ingot.codegen import host
from ingot.codegen.assemble import feature_string
from ingot.runtime import cpu


def test_host_is_described() -> None:
    target = host.host_target("host")
    assert target.name in ("x86-64", "x86-64-avx2", "x86-64-avx512", "aarch64")
    assert target.triple.endswith("linux-gnu") and target.cpu
    assert list(target.features) == sorted(target.features)
    assert 4 << 10 <= target.l1_bytes <= target.l2_bytes <= max(target.l3_bytes, target.l2_bytes)
    assert 0.5 < target.clock_ghz < 10
    assert host.host_target("host") is host.host_target("host")  # read once


@pytest.mark.parametrize(
    "name,cpu,ports",
    [
        ("x86-64-avx512", "znver4", 1), ("x86-64-avx512", "tigerlake", 1), ("x86-64-avx512", "znver5", 2),
        ("x86-64-avx512", "cascadelake", 2), ("x86-64-amx", "graniterapids", 2), ("x86-64-avx2", "znver4", 2),
    ],
)  # fmt: skip
def test_multiply_adds_per_cycle(name: str, cpu: str, ports: int) -> None:
    """A CPU may halve the widest vectors; on narrower ones, under a cap, it runs as usual."""
    assert host.fma_ports(name, cpu) == ports


def test_runtime_sees_the_same_cpu() -> None:
    """The check of an artefact's ISA must accept what the compiler on the same machine used."""
    target = host.host_target("host")
    assert cpu.refusal(target.name, target.features) is None
    if sys.platform == "linux":
        assert set(target.features) - cpu.host_features() <= cpu._X86_IRRELEVANT | cpu._ARM_IRRELEVANT


@pytest.mark.parametrize(
    "name,width,registers", [("x86-64", 16, 16), ("x86-64-avx2", 32, 16), ("x86-64-avx512", 64, 32)]
)
def test_named_targets(name: str, width: int, registers: int) -> None:
    target = host.target_named(name)
    assert (target.name, target.vector_bytes, target.vector_registers) == (name, width, registers)
    assert target.is_x86
    assert target.has("avx512f") == (width == 64) and target.has("fma") == (width >= 32)
    assert "-" not in feature_string(target).replace("avx512-", "")  # portable: does not ask the host


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"known: x86-64, x86-64-avx2, .*aarch64, host"):
        host.target_named("sparc")


@pytest.mark.isa("x86_64")
def test_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    full = host.host_target("host")
    small = host.host_target("x86-64")
    assert small.name == "x86-64" and small.features == host.target_named("x86-64").features
    assert small.l2_bytes == full.l2_bytes  # caches are still this machine's
    assert host.host_target("x86-64-avx512").vector_bytes == full.vector_bytes  # no more than it has
    monkeypatch.setenv("INGOT_TARGET", "x86-64")
    assert host.host_target() == small and host.target_named("host") == small
    monkeypatch.setenv("INGOT_TARGET", "aarch64")
    with pytest.raises(ValueError, match="cannot run code for target 'aarch64'"):
        host.host_target()
    monkeypatch.setenv("INGOT_TARGET", "nonsense")
    with pytest.raises(ValueError, match="unknown target"):
        host.host_target()


def test_llvm_is_imported_late() -> None:
    code = (
        "import sys, ingot.codegen.assemble, ingot.codegen.objfile, ingot.codegen.host, ingot.codegen.executor_ir\n"
        "ingot.codegen.host.target_named('aarch64')\n"
        "assert not any(m.startswith('llvmlite') for m in sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
