"""The gradients of convolution as contractions.

Input gradient (``conv_transpose``): input channels along the lanes. With stride 1 it is a convolution with reversed
taps. With larger strides every residue class of output pixels ("phase") meets its own subset of taps, which is an
affine contraction again, so the kernel holds one per phase.

Weight gradient: output channels along the lanes, input channels as rows, images and positions summed. Positions
whose tap falls outside the input are cut off by the loop bounds, so no padding is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from math import gcd
from typing import TYPE_CHECKING, Any

from ...ir.dims import Extent
from ...ir.errors import UnsupportedError
from ...ir.target import Target
from ..contraction import Axis, Contraction, Operand, Segment
from ..schedule import upper
from .contraction_conv import SPATIAL, TAPS, names_of
from .contraction_dense import plan_dense_conv
from .contraction_operands import ONE, OutAxis, Placed, channel_segments

if TYPE_CHECKING:
    from .contraction import Group, Plan


def plan_conv_transpose(group: Group, target: Target) -> list[Plan]:
    return plan_dense_conv(group, target)


def plan_conv_weight_grad(group: Group, target: Target) -> list[Plan]:
    raise UnsupportedError("x")
