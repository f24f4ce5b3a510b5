"""``AdaptiveLogSoftmaxWithLoss``: a softmax over many classes, frequent ones first."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .. import dispatch, elementwise, reduce, shaping
from ..tensor import Tensor
from . import functional as F
from .containers import ModuleList, Sequential
from .layers import Linear
from .module import Module

_ASMoutput = namedtuple("_ASMoutput", ["output", "loss"])


class AdaptiveLogSoftmaxWithLoss(Module):
    """Classes below ``cutoffs[0]`` have a score each in the head; the others share one per cluster there, and have
    theirs in the cluster's tail, which is ``div_value`` times narrower from cluster to cluster.

    Calls take input [N, in_features] and class numbers [N] (or [in_features] and one number) and return the targets'
    log-probabilities and the mean loss. Every sample runs through every cluster, so that the work does not depend on
    the data.
    """

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Sequence[int], div_value: float = 4.0,
        head_bias: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if cutoffs != sorted(set(cutoffs)) or not 0 < cutoffs[0] <= cutoffs[-1] < n_classes or any(
            int(c) != c for c in cutoffs
        ):  # fmt: skip
            raise ValueError("cutoffs should be a sequence of unique, positive integers sorted in an increasing order, "
                             "where each value is between 1 and n_classes-1")  # fmt: skip
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*cutoffs, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = cutoffs[0]
        self.n_clusters = len(cutoffs)
        self.head_size = self.shortlist_size + self.n_clusters
        kind = {"device": device, "dtype": dtype}
        self.head = Linear(in_features, self.head_size, bias=head_bias, **kind)
        self.tail = ModuleList()
        for i, (low, high) in enumerate(pairwise(self.cutoffs)):
            width = int(in_features // div_value ** (i + 1))
            self.tail.append(Sequential(Linear(in_features, width, bias=False, **kind),
                                        Linear(width, high - low, bias=False, **kind)))  # fmt: skip

    def reset_parameters(self) -> None:
        """As the linear layers inside."""
        self.head.reset_parameters()
        for first, second in self.tail:
            first.reset_parameters()
            second.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> Any:
        if target_.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if input_.dim() != target_.dim() + 1:
            raise RuntimeError(f"{target_.dim()}D target tensor expects {target_.dim() + 1}D input tensors, but found "
                               f"inputs with size {input_.size()}")  # fmt: skip
        single = target_.dim() == 0
        x, target = (shaping.unsqueeze(t, 0) if single else t for t in (input_, target_))
        if x.shape[0] != target.shape[0]:
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if target._value is None and target.numel():
            low, high = int(target._data.min()), int(target._data.max())
            if low < 0 or high >= self.n_classes:
                raise RuntimeError(f"Target values should be in [0, {self.n_classes - 1}], but values in range "
                                   f"[{low}, {high}] were found. ")  # fmt: skip
        in_head = target
        output: Any = 0.0
        for i, (low, high) in enumerate(pairwise(self.cutoffs)):
            here = elementwise.logical_and(target >= low, target < high)
            in_head = elementwise.where(here, self.shortlist_size + i, in_head)
            logs = F.log_softmax(self.tail[i](x), dim=1)
            place = elementwise.where(here, target - low, 0)
            output = output + elementwise.where(here, _pick(logs, place), 0.0)
        output = output + _pick(F.log_softmax(self.head(x), dim=1), in_head)
        loss = reduce.mean(-output)
        return _ASMoutput(shaping.squeeze(output, 0) if single else output, loss)

    def log_prob(self, input: Tensor) -> Tensor:
        """Log-probabilities of all classes: [N, n_classes]."""
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, : self.shortlist_size]]
        for i in range(self.n_clusters):
            shared = head[:, self.shortlist_size + i].unsqueeze(1)
            parts.append(F.log_softmax(self.tail[i](input), dim=1) + shared)
        return shaping.cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of each sample: [N]. As in PyTorch the tails count only where the head's best score
        is a cluster's."""
        best = reduce.argmax(self.head(input), 1)
        return elementwise.where(best >= self.shortlist_size, reduce.argmax(self.log_prob(input), 1), best)


def _pick(rows: Tensor, index: Tensor) -> Tensor:
    """rows[i, index[i]]."""
    return shaping.squeeze(dispatch.apply("gather", rows, shaping.unsqueeze(index, 1), axis=1), 1)


__all__ = ["AdaptiveLogSoftmaxWithLoss"]
