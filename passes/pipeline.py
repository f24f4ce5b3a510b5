"""The ordered lists of passes. Read top to bottom: this is what the compiler does to a graph."""

from __future__ import annotations

from .assign_layout import AssignLayout
from .cse import CommonSubexpressions
from .dce import DeadCodeElimination
from .decompose import Decompose
from .fold_batch_norm import FoldBatchNorm
from .fold_constants import FoldConstants
from .fuse_attention import FuseAttention
from .fuse_chain import FuseChain
from .fuse_contraction import FuseContraction
from .fuse_elementwise import FuseElementwise, FuseReduction
from .manager import Pass
from .materialise_outputs import MaterialiseOutputs
from .merge_projections import MergeProjections
from .schedule_updates import ScheduleUpdates
from .simplify import Simplify
from .split_reduction import SplitReduction


def standard() -> list[Pass]:
    """Graph as traced (or differentiated) to graph of kernels; the same list for inference and training."""
    return [
        DeadCodeElimination(),
        Simplify(),  # before folding: a transpose becomes a flag of the matmul, not a second copy of the weight
        FoldConstants(),
        CommonSubexpressions(),
        FoldBatchNorm(),
        MergeProjections(),
        FuseAttention(),  # while softmax is one node
        # Composite operators have served their purpose (matching, gradients): simple ones fuse better.
        Decompose(),
        FoldConstants(),
        Simplify(),
        CommonSubexpressions(),
        DeadCodeElimination(),
        SplitReduction(),
        # From here on nodes are on their way to kernels.
        AssignLayout(),
        FuseChain(),
        FuseContraction(),
        FuseReduction(),
        FuseElementwise(),
        DeadCodeElimination(),
        ScheduleUpdates(),
        MaterialiseOutputs(),
    ]
