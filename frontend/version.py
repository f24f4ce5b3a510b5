"""Versions of what Ingot consists of."""

from __future__ import annotations

import sys

__version__ = sys.modules[__name__.partition(".")[0]].__version__
cuda = None
hip = None
xpu = None
debug = False
