"""Which lowering an operator has: the one table from operators to kernels.

``lower(node, target)`` gives the kernel, ``supports(node, target)`` the reason why there is none. Every registered
operator is either in ``LOWERINGS`` or in ``NOT_LOWERED`` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from . import (
    arithmetic,
    attention,
    chain,
    contraction,
    elementwise,
    indexed,
    pooling,
    reduction,
    reindex,
    scan,
    sorting,
)
from .accumulate import ARGS, REDUCES
from .chain_plan import ChainPlan
from .kernel import LoweredKernel

__all__ = ["FUSED", "LOWERINGS", "NOT_LOWERED", "Lowering", "Schedule", "lower", "schedules", "supports"]

Schedule = contraction.Schedule | ChainPlan  # each with a name that tells its decisions


@dataclass(frozen=True)
class Lowering:
    """``supports(node, target)`` gives None or a reason; ``lower(node, target)`` the kernel.

    ``schedules(node, target)`` lists what there is to choose from; ``lower`` takes one of them as third argument.
    """

    supports: Callable[[Node, Target], str | None]
    lower: Callable[..., LoweredKernel]
    schedules: Callable[[Node, Target], Sequence[Schedule]] | None = None


def _contraction_supports(node: Node, target: Target) -> str | None:
    try:
        contraction.group_of(node)
    except UnsupportedError as error:
        return str(error)
    return None


_ELEMENTWISE = Lowering(elementwise.supports, elementwise.lower)
_REDUCTION = Lowering(reduction.supports, reduction.lower)
_POOLING = Lowering(pooling.supports, pooling.lower)
_CONTRACTION = Lowering(_contraction_supports, contraction.lower_contraction, contraction.schedules)
_CHAIN = Lowering(chain.supports, chain.lower, chain.schedules)

LOWERINGS: dict[str, Lowering] = {
    **dict.fromkeys(arithmetic.RULES, _ELEMENTWISE),
    **dict.fromkeys(reindex.MOVES, _ELEMENTWISE),
    **dict.fromkeys(("concat", "pad", "iota", "random_uniform", "gather", "index_select"), _ELEMENTWISE),
    **dict.fromkeys(("resample", "resize", "batch_norm"), _ELEMENTWISE),
    **dict.fromkeys((*REDUCES, *ARGS, "softmax", "log_softmax", "layer_norm", "batch_norm_train"), _REDUCTION),
    **dict.fromkeys(pooling.OPS, _POOLING),
    **dict.fromkeys(contraction.CONTRACTIONS, _CONTRACTION),
    **dict.fromkeys(scan.STEPS, Lowering(scan.supports, scan.lower)),
    "sort": Lowering(sorting.supports, sorting.lower),
    "scatter_add": Lowering(indexed.supports, indexed.lower),
    "scatter": Lowering(indexed.supports, indexed.lower),
    "scatter_reduce": Lowering(indexed.supports, indexed.lower),
}
FUSED: dict[str, Lowering] = {
    "elementwise": _ELEMENTWISE,
    "reduction": _REDUCTION,
    "contraction": _CONTRACTION,
    "attention": Lowering(attention.supports, attention.lower),
    "chain": _CHAIN,
}

NOT_LOWERED: dict[str, str] = {
    "constant": "its array is part of the program's constants; nothing is computed",
    "fused": "looked up by its kind in FUSED",
    "strided_view": "compiled as its decomposition, an index_select",
    "bitcast": "kernels have no values without a dtype",
    **dict.fromkeys(
        ("inverse", "det", "cofactor", "slogdet", "solve", "pinv", "matrix_exp", "svd", "cholesky", "eigh", "qr"),
        "computed by LAPACK, eagerly; kernels call no library",
    ),
    **dict.fromkeys(
        ("lgamma", "digamma", "polygamma", "igamma", "igammac", "i0", "i1"),
        "there is no vector code for the gamma function's family and Bessel functions; compute it outside",
    ),
}


def _find(node: Node) -> Lowering | None:
    return FUSED.get(node.attrs.get("kind", "")) if node.op == "fused" else LOWERINGS.get(node.op)


def supports(node: Node, target: Target) -> str | None:
    """None if ``node`` can be lowered as it stands (layouts included), else the reason."""
    lowering = _find(node)
    if lowering is None:
        return f"operator {node.op}: {NOT_LOWERED.get(node.op, 'no lowering is registered')}"
    return lowering.supports(node, target)


def schedules(node: Node, target: Target) -> Sequence[Schedule]:
    """Schedules of ``node`` as it stands that are worth measuring, the rule's choice first; empty: it has no other."""
    lowering = _find(node)
    return lowering.schedules(node, target) if lowering is not None and lowering.schedules is not None else []


def lower(node: Node, target: Target, schedule: Schedule | None = None) -> LoweredKernel:
    """The kernel of ``node``; ``schedule`` (one of ``schedules``): instead of the rule's choice.

    UnsupportedError (with the reason and the source line) if there is none.
    """
    lowering = _find(node)
    reason = supports(node, target)
    if lowering is None or reason is not None:
        place = f" at {node.source}" if str(node.source) else ""
        raise UnsupportedError(f"no kernel for {node!r}{place} on {target.name}: {reason}")
    return lowering.lower(node, target) if schedule is None else lowering.lower(node, target, schedule)
