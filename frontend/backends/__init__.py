"""Switches of PyTorch's backends. Ingot has one backend, so that they can be read and set, but change nothing."""

from __future__ import annotations

from . import cuda, cudnn, mkl, mkldnn, mps, openmp

__all__ = ["cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp"]
