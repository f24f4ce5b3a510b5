"""Convolutions on dense tensors: pixels of a row along the lanes, output channels as rows of the register tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.errors import UnsupportedError
from ...ir.target import Target

if TYPE_CHECKING:
    from .contraction import Group, Plan


def plan_dense_conv(group: Group, target: Target) -> list[Plan]:
    raise UnsupportedError("conv: dense weights")
