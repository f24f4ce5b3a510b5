"""The systems that can be compared: how each is set up, and what may stand in its way.

Every system runs in a worker process of its own (``worker.py``); nothing here imports a peer before that.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ..ir.kernels import PRECISIONS

PEERS = ("onnxruntime", "openvino", "torch", "torch.compile")
INSTALL = "pip install 'ingot[peers]'"
# glibc's malloc: huge pages (by madvise), nothing by mmap of its own, nothing given back to the system.
_TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 2**63 - 1,
}


@dataclass(frozen=True)
class System:
    """One column of a comparison.

    Attributes:
        name: unique, as in files: ``"openvino-default-hugepages"``. title: for tables.
        kind: the worker's preparation (``worker.PREPARE``); package: what it imports beside Ingot ("": nothing).
        settings: its keywords.
        exact: computes in float32, so that float32 settings of Ingot compare with it.
        needs: ``"onnx"`` or ``"twin"``: what the model has to offer beside its Ingot form ("": nothing).
        variables: of its environment.
    """

    name: str
    title: str
    kind: str
    package: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    exact: bool = True
    huge_pages: bool = False
    needs: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def is_ingot(self) -> bool:
        return self.kind == "ingot"

    def environment(self, threads: int) -> dict[str, str]:
        """Variables that have to be set before its process starts."""
        torch = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""} if self.package == "torch" else {}
        env = {**self.variables, **torch}
        if self.huge_pages:
            given = [t for t in (os.environ.get("GLIBC_TUNABLES"),) if t]
            env["GLIBC_TUNABLES"] = ":".join([*given, *(f"{name}={value}" for name, value in _TUNABLES.items())])
        return env

    def obstacle(self) -> str | None:
        """Why it cannot run here; None if nothing is known to be in the way."""
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed ({INSTALL}, or pip install {self.package})"
        return huge_page_obstacle() if self.huge_pages else None


def ingot_systems(precisions: Sequence[str] = PRECISIONS) -> list[System]:
    """Ingot at each precision."""
    return [
        System(f"ingot-{p}", f"Ingot {p}", "ingot", settings={"precision": p}, exact=p != "bfloat16")
        for p in precisions
    ]


def peer_systems(peers: Sequence[str] = PEERS) -> list[System]:
    """The systems of the packages in ``peers`` (of PEERS); those that take malloc's memory also on huge pages."""
    found: list[System] = []
    for peer in peers:
        if peer == "onnxruntime":
            found += _plain_and_huge(System(peer, "onnxruntime", peer, peer, needs="onnx"))
        elif peer == "openvino":
            f32 = {"INFERENCE_PRECISION_HINT": "f32"}
            found += _plain_and_huge(System(peer, "OpenVINO f32", peer, peer, f32, needs="onnx"))
            found += _plain_and_huge(
                System("openvino-default", "OpenVINO default", peer, peer, exact=False, needs="onnx")
            )
        elif peer == "torch":
            found.append(System(peer, "torch eager", peer, "torch", needs="twin"))
        elif peer == "torch.compile":
            found.append(System(peer, "torch.compile", peer, "torch", needs="twin"))
        else:
            raise ValueError(f"unknown peer {peer!r}; there are {', '.join(PEERS)}")
    return found


def _plain_and_huge(system: System) -> list[System]:
    fields = {**vars(system), "name": f"{system.name}-hugepages", "title": f"{system.title} + huge pages"}
    return [system, System(**{**fields, "huge_pages": True})]


@functools.cache
def huge_page_obstacle() -> str | None:
    """Why malloc cannot be told to use huge pages; None if the C library takes all the settings."""
    policy = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not policy.exists() or "[never]" in policy.read_text():
        return "the system gives no transparent huge pages"
    lines = Path("/proc/self/maps").read_text().splitlines()
    loader = next((f for f in (line.split()[-1] for line in lines) if "/ld-linux" in f or "/ld64" in f), None)
    if loader is None:
        return "the C library is not glibc"
    text = ":".join(f"{name}={value}" for name, value in _TUNABLES.items())
    done = subprocess.run([loader, "--list-tunables"], env={"GLIBC_TUNABLES": text}, capture_output=True, text=True)
    shown = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    for name, value in _TUNABLES.items():
        if int(shown.get(name, "-1").split()[0], 0) != value:
            return f"this glibc does not take {name}={value} (2.35 and newer do)"
    return None
