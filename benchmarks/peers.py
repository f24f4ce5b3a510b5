"""The peers' twins of the benchmark models: the same file with PyTorch's import lines."""

from __future__ import annotations

import functools
import types
from pathlib import Path


@functools.cache
def torch_models() -> types.ModuleType:
    """``models.py`` executed with ``torch`` in place of ``ingot``."""
    source = (Path(__file__).parent / "models.py").read_text()
    source = source.replace("import ingot as torch\nfrom ingot import nn\n", "import torch\nfrom torch import nn\n")
    module = types.ModuleType("torch_models")
    exec(compile(source, "models.py", "exec"), module.__dict__)
    return module
