"""Worker processes from the parent's side: start, take turns, stop."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

READY_SECONDS = 600.0
SETTLE_SECONDS = 0.03  # between turns: thread pools of peers spin for some milliseconds after a call


class WorkerError(RuntimeError):
    """A worker died, or did not answer in time; the message holds the end of what it printed."""


class Worker:
    """A process of ``worker.py``. ``start`` returns at once; ``ready`` waits for the system to be set up."""

    def __init__(self, job: dict[str, Any], environment: dict[str, str]) -> None:
        self.name: str = job.get("name", job["kind"])
        self.times: list[float] = []
        self.turns = 0
        self.facts: dict[str, Any] = {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._pending = b""
        # The child finds what this process finds, however this package came to be importable.
        path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env={**os.environ, "PYTHONPATH": path, **environment},
        )  # fmt: skip
        self._send(job)

    def ready(self, timeout: float = READY_SECONDS) -> dict[str, Any]:
        """What it reported when set up; WorkerError if it could not be."""
        self.facts |= self._answer(timeout)["ready"]
        return self.facts

    def settle(self, timeout: float = READY_SECONDS) -> None:
        """Let it choose between its variants; others must be idle."""
        self._send({"settle": True})
        self.facts |= self._answer(timeout)["settled"]

    @property
    def pace(self) -> float:
        """Seconds per call, as far as known."""
        return float(np.median(self.times)) if self.times else self.facts.get("call_seconds", 1.0)

    def turn(self, seconds: float, least: int = 1) -> None:
        """Measure for ``seconds`` and at least ``least`` calls; the times are added to ``times``."""
        time.sleep(SETTLE_SECONDS)
        self._send({"seconds": seconds, "least": least})
        self.times += self._answer(60.0 + 10 * (seconds + least * self.pace))["times"]
        self.turns += 1

    def result(self) -> dict[str, Any]:
        """Median and 10th and 90th percentile in ms, with counts and facts."""
        low, median, high = (float(x) * 1e3 for x in np.percentile(self.times, (10, 50, 90)))
        counts = {"calls": len(self.times), "turns": self.turns}
        return {"median_ms": median, "p10_ms": low, "p90_ms": high, **counts, "facts": self.facts}

    def close(self) -> None:
        """End the process: it leaves when its input ends, and is made to if it does not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._fail("ended")

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        fd, deadline = self._process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._pending:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self._process.kill()
                self._fail(f"gave no answer in {timeout:.0f} s")
            data = os.read(fd, 1 << 20)
            if not data:
                self._fail("ended")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "failed" in message:
            raise WorkerError(message["failed"])
        return message

    def _fail(self, what: str) -> None:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [x for x in self._errors.read().decode(errors="replace").splitlines() if x.strip()]
        reason = lines[-1].strip() if lines else f"exit code {code}"
        raise WorkerError(f"{self.name} {what}: {reason}")
