"""What this machine can run and how many threads it grants us, read without LLVM."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# /proc/cpuinfo flags whose LLVM feature name differs; all others are equal after "_" -> "-" where LLVM has one.
_X86_RENAMED = {
    "lm": "64bit", "abm": "lzcnt", "bmi1": "bmi", "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2",
    "lahf_lm": "sahf", "pclmulqdq": "pclmul", "rdrand": "rdrnd", "3dnowprefetch": "prfchw", "sha_ni": "sha",
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16", "avx512_vbmi2": "avx512vbmi2",
    "avx512_bitalg": "avx512bitalg", "avx512_vpopcntdq": "avx512vpopcntdq", "avx512_vp2intersect": "avx512vp2intersect",
    "avx_vnni": "avxvnni", "amx_tile": "amx-tile", "amx_bf16": "amx-bf16", "amx_int8": "amx-int8",
    "amx_fp16": "amx-fp16", "amx_complex": "amx-complex",
}  # fmt: skip
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18
# Features that generated kernels never use (system instructions, hints); a file that lists them runs without them.
_X86_IRRELEVANT = frozenset({
    "64bit", "cldemote", "clflushopt", "clwb", "clzero", "enqcmd", "fsgsbase", "hreset", "invpcid", "kl",
    "mwaitx", "pconfig", "pku", "prfchw", "ptwrite", "rdpid", "rdpru", "rtm", "sahf", "serialize", "sgx",
    "shstk", "tsxldtrk", "uintr", "usermsr", "waitpkg", "wbnoinvd", "widekl", "xsave", "xsavec", "xsaveopt",
    "xsaves", "rdrnd", "rdseed", "prefetchi", "movdir64b", "movdiri", "lwp", "tile-emulation",
})  # fmt: skip
# AT_HWCAP and AT_HWCAP2 bits of AArch64 Linux, with LLVM's names.
_ARM_HWCAP = {
    0: "fp-armv8", 1: "neon", 3: "aes", 6: "sha2", 7: "crc", 8: "lse", 9: "fullfp16", 12: "rdm", 13: "jsconv",
    14: "complxnum", 15: "rcpc", 17: "sha3", 19: "sm4", 20: "dotprod", 22: "sve", 23: "fp16fml", 24: "dit",
}  # fmt: skip
_ARM_HWCAP2 = {1: "sve2", 13: "i8mm", 14: "bf16", 16: "rand", 17: "bti", 23: "sme"}
_ARM_IRRELEVANT = frozenset({
    "aes", "sha2", "sha3", "sm4", "crc", "bti", "rand", "dit", "ssbs", "sb", "pauth", "perfmon", "predres",
    "flagm", "altnzcv", "mte", "ccidx", "ccpp", "ras",
})  # fmt: skip


def architecture() -> str:
    """``"x86-64"``, ``"aarch64"`` or the system's own name of anything else."""
    machine = platform.machine().lower()
    return {"amd64": "x86-64", "x86_64": "x86-64", "arm64": "aarch64"}.get(machine, machine)


@functools.cache
def host_features() -> frozenset[str]:
    """LLVM names of the CPU features that this machine and its system offer.

    Only what every CPU of the architecture has, where the system does not tell (other than Linux).
    """
    if architecture() == "x86-64":
        base = frozenset({"64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"})
        return base | x86_features(_read("/proc/cpuinfo"))
    if architecture() == "aarch64":
        base = frozenset({"fp-armv8", "neon"})
        try:
            return base | arm_features(Path("/proc/self/auxv").read_bytes())
        except OSError:
            return base
    return frozenset()


def x86_features(cpuinfo: str) -> frozenset[str]:
    """LLVM feature names for the first ``flags`` line of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            flags = line.partition(":")[2].split()
            names = {_X86_RENAMED.get(flag, flag.replace("_", "-")) for flag in flags}
            return frozenset(names | ({"crc32"} if "sse4.2" in names else set()))
    return frozenset()


def arm_features(auxv: bytes) -> frozenset[str]:
    """LLVM feature names for the ELF auxiliary vector of an AArch64 process."""
    usable = len(auxv) // 16 * 16
    entries = dict(struct.iter_unpack("<QQ", auxv[:usable]))
    hwcap, hwcap2 = entries.get(16, 0), entries.get(26, 0)
    found = {name for bit, name in _ARM_HWCAP.items() if hwcap >> bit & 1}
    return frozenset(found | {name for bit, name in _ARM_HWCAP2.items() if hwcap2 >> bit & 1})


def refusal(target_name: str, features: Iterable[str]) -> str | None:
    """Why code for target ``target_name`` with ``features`` cannot run here; None if it can."""
    wanted = "x86-64" if target_name.startswith("x86-64") else target_name
    if wanted != architecture():
        return f"it was compiled for {target_name}, and this machine is {architecture()}"
    irrelevant = _X86_IRRELEVANT if wanted == "x86-64" else _ARM_IRRELEVANT
    # The system and LLVM spell some names differently: avx_ifma and avxifma, sve2-aes and sveaes.
    present = {_plain(f) for f in host_features()}
    missing = sorted(f for f in set(features) - irrelevant if _plain(f) not in present)
    if wanted == "aarch64" and sys.platform != "linux":
        missing = []  # the system does not list features; every such machine has what "aarch64" needs
    if missing:
        return (
            f"it was compiled for {target_name} with CPU features that this machine lacks: {', '.join(missing)}; "
            f"compile it for a smaller target (target='x86-64' runs everywhere)"
        )
    return None


@functools.cache
def tile_refusal() -> str | None:
    """Asks the system to let this process use AMX tile data; why it does not, None once it is granted.

    Linux keeps the tile registers of a process switched off until it asks (they are 8 KiB more per thread to
    save). The permission holds for all threads and for forked processes.
    """
    if sys.platform != "linux" or architecture() != "x86-64":
        return "only Linux on x86-64 grants matrix tiles"
    if "amx-tile" not in host_features():
        return "this CPU has no matrix tile unit (AMX), or the system does not offer it"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0:
        return None
    error = ctypes.get_errno()
    return (
        f"the system refuses this process the matrix tiles (arch_prctl ARCH_REQ_XCOMP_PERM: {os.strerror(error)}); "
        f"a Linux kernel before 5.16, a sandbox's system call filter or too small a signal stack are usual causes"
    )


def _plain(feature: str) -> str:
    return feature.replace("-", "").replace("_", "").replace(".", "")


_chosen: int | None = None


def set_threads(count: int | None) -> None:
    """What ``default_threads`` answers from now on; None: what this machine offers."""
    global _chosen
    _chosen = count


def default_threads() -> int:
    """Threads worth using: CPUs this process may run on, capped by the cgroup's CPU quota (rounded up)."""
    if _chosen is not None:
        return _chosen
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, count if quota is None else min(count, -int(-quota // 1)))


def cgroup_quota(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> float | None:
    """CPUs' worth of time that cgroup v1 or v2 grants this process; None if unlimited.

    Limits of all ancestors count. Inside a container the paths of /proc/self/cgroup may not exist under
    ``root``; then the mounted top directory is the container's own group.
    """
    limits: list[float] = []
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            bases = [Path(root), Path(root) / "unified"]
        elif "cpu" in controllers.split(","):
            bases = [Path(root) / controllers, Path(root) / "cpu", Path(root) / "cpu,cpuacct"]
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for base in bases:
            for depth in range(len(parts) + 1):
                limit = _group_limit(base.joinpath(*parts[:depth]))
                if limit is not None:
                    limits.append(limit)
    return min(limits, default=None)


def _group_limit(group: Path) -> float | None:
    text = _read(group / "cpu.max").split()
    if not text:
        text = [_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()]
    try:
        quota, period = float(text[0]), float(text[1])
    except (ValueError, IndexError):  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""
