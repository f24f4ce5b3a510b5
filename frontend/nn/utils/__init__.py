"""Helpers around parameters and sequences with PyTorch's names."""

from __future__ import annotations

from . import rnn

__all__ = ["rnn"]
