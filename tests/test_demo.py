"""``make demo`` does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_the_demo_trains_compiles_runs_and_exports(tmp_path):
    demo = Path(__file__).resolve().parent.parent / "examples" / "demo.py"
    found = subprocess.run([sys.executable, str(demo)], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    accuracy = re.search(r"accuracy ([\d.]+)%", found.stdout)
    assert accuracy is not None and float(accuracy[1]) > 95
    assert {"digits.onnx", "digits.ingot"} <= {p.name for p in (tmp_path / "build").iterdir()}
