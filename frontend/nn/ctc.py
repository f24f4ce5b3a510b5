"""Connectionist temporal classification; ``nn.functional`` exports it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dtypes import int64
from .. import creation, dispatch, elementwise, reduce, shaping
from ..elementwise import where
from ..size import wrap
from ..tensor import Tensor
from .loss_reduction import reduced, reduction_of

# The logarithm of zero in the recursion: finite, so that differences of two of them are numbers.
_NOTHING = -1e30


def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """Minus the logarithm of the summed probability of all alignments of ``targets`` to the steps of ``log_probs``.

    Args:
        log_probs: [T, N, C] or [T, C]: logarithms of probabilities, from log_softmax. As in PyTorch the gradient is
            that of the scores in front of log_softmax, which is the same behind it.
        targets: [N, S], padded with anything, or all targets joined, 1-d.
        input_lengths, target_lengths: [N], tensors or sequences of ints.
        blank: the class of the blank.
        reduction: "mean" divides each loss by its target length first.
        zero_infinity: impossible alignments count as 0 instead of infinity.

    Raises:
        RuntimeError: shapes, lengths or the blank do not fit, in PyTorch's words.
    """
    reduction = reduction_of(None, None, reduction)
    single = log_probs.dim() == 2
    if single:
        log_probs = shaping.unsqueeze(log_probs, 1)
        targets = shaping.reshape(targets, 1, -1)
    steps, batch, classes = log_probs.shape
    if not log_probs.is_floating_point():
        raise RuntimeError("ctc_loss: log_probs must be of a floating point type")
    if not isinstance(steps, int):
        raise RuntimeError("ctc_loss needs a known number of steps")
    if not 0 <= blank < classes:
        raise RuntimeError("blank must be in label range")
    seen = _lengths(input_lengths, batch, "input_lengths")
    wanted = _lengths(target_lengths, batch, "target_lengths")
    if targets.dim() == 1:
        targets = _padded(targets, wanted)
    if seen._value is None and seen._data.size and int(seen._data.max()) > steps:
        raise RuntimeError(f"Expected input_lengths to have value at most {steps}, but got value {seen._data.max()}")
    if wanted._value is None and wanted._data.size and int(wanted._data.max()) > targets.shape[1]:
        raise RuntimeError(f"Expected tensor to have size at least {wanted._data.max()} at dimension 1, but got size "
                           f"{targets.shape[1]} for argument #2 'targets'")  # fmt: skip
    loss = _negative_logarithm(log_probs.clamp(min=_NOTHING), targets.long(), seen, wanted, blank)
    loss = where(loss > -_NOTHING / 2, 0.0 if zero_infinity else math.inf, loss)
    loss = loss + _through_softmax(log_probs, seen, loss, zero_infinity)
    if single and reduction == "none":
        return shaping.reshape(loss)
    if reduction == "mean":
        loss = loss / wanted.clamp(min=1).to(loss.dtype)
    return reduced(loss, reduction)


def _lengths(lengths: Any, batch: Any, name: str) -> Tensor:
    if not dispatch.is_tensor(lengths):
        numbers = list(lengths) if isinstance(lengths, Sequence) else [lengths]
        lengths = dispatch.from_array(np.asarray(numbers, np.int64))
    if lengths.dtype.is_floating_point:
        raise RuntimeError(f"{name} must be integral")
    lengths = shaping.reshape(lengths, -1)
    if wrap(lengths._extents[0]) != batch:
        raise RuntimeError(f"{name} must be of size batch_size")
    return dispatch.cast(lengths, int64)


def _padded(targets: Tensor, lengths: Tensor) -> Tensor:
    """[N, S] of the joined targets; every row is padded with its neighbours' classes, which do not count.

    S is the longest length, or where lengths are traced all there are: a target cannot be longer.
    """
    total = targets.shape[0]
    longest = total
    if lengths._value is None:
        longest = int(lengths._data.max(initial=0))
        if int(lengths._data.sum()) > total:
            raise RuntimeError(f"Expected targets to have at least {lengths._data.sum()} elements, got {total}")
    samples = creation.arange(lengths.shape[0])
    before = samples < shaping.unsqueeze(samples, 1)
    starts = reduce.sum(where(before, lengths, 0), 1, True)
    places = (starts + creation.arange(longest)).clamp(max=max(total - 1, 0))
    row = dispatch.apply("index_select", targets, shaping.reshape(places, -1), axis=0)
    return shaping.reshape(row, *places._extents)


def _negative_logarithm(logs: Tensor, targets: Tensor, seen: Tensor, wanted: Tensor, blank: int) -> Tensor:
    """[N]: the forward recursion over all samples and states at once; state 2 k + 1 is label k, the even ones blank."""
    steps, batch, _ = logs.shape
    longest = targets.shape[1]
    labels = targets if longest else shaping.reshape(targets, batch, 0)
    # Padding may hold any number; it is never reached, but has to be a class to be looked up.
    listed = creation.arange(longest) < shaping.unsqueeze(wanted, 1)
    labels = where(listed, labels, blank)
    blanks = where(listed, 0, 0) + blank
    states = shaping.reshape(shaping.stack([blanks, labels], 2), batch, 2 * longest)
    states = shaping.cat([states, shaping.unsqueeze(wanted * 0 + blank, 1)], 1)  # [N, 2 S + 1]
    count = 2 * longest + 1
    index = shaping.expand(shaping.unsqueeze(states, 0), steps, batch, count)
    emitted = dispatch.apply("gather", logs, index, axis=2)
    # A label may follow the label before it without a blank between if they differ.
    skip = _from_left(states, 2, blank) != states if count > 2 else states != states
    skip = elementwise.logical_and(skip, states != blank)
    places = creation.arange(count)
    alpha = where(places < 2, emitted[0], _NOTHING)
    for step in range(1, steps):
        ways = [alpha, _from_left(alpha, 1, _NOTHING)]
        if count > 2:
            ways.append(where(skip, _from_left(alpha, 2, _NOTHING), _NOTHING))
        moved = _log_sum(ways) + emitted[step]
        alpha = where(step < shaping.unsqueeze(seen, 1), moved, alpha)
    # The empty input only aligns with the empty target.
    alpha = where(shaping.unsqueeze(seen, 1) == 0, where(places == 0, 0.0, _NOTHING), alpha)
    last = 2 * shaping.unsqueeze(wanted, 1)
    final = elementwise.logical_or(places == last, places == last - 1)
    return -_log_sum([where(final, alpha, _NOTHING)[:, k] for k in range(count)] if count < 3 else [
        reduce.amax(where(places == last, alpha, _NOTHING), 1),
        reduce.amax(where(places == last - 1, alpha, _NOTHING), 1),
    ])  # fmt: skip


def _from_left(x: Tensor, by: int, fill: Any) -> Tensor:
    """x[:, i - by] at i, ``fill`` in front."""
    shape = (x._extents[0], by)
    front = dispatch.apply("expand", dispatch.scalar(fill, x.dtype), shape=shape)
    return shaping.cat([front, x[:, : x.shape[1] - by]], 1)


def _log_sum(terms: list[Tensor]) -> Tensor:
    """log of the sum of exp of the terms."""
    top = terms[0]
    for t in terms[1:]:
        top = elementwise.maximum(top, t)
    top = top.detach()
    total = (terms[0] - top).exp()
    for t in terms[1:]:
        total = total + (t - top).exp()
    return total.log() + top


def _through_softmax(log_probs: Tensor, seen: Tensor, loss: Tensor, zero_infinity: bool) -> Tensor:
    """[N] zeros whose gradient is exp(log_probs) at the steps that count: what log_softmax will add anyhow."""
    steps = shaping.reshape(creation.arange(log_probs.shape[0]), -1, 1)
    counted = steps < seen
    if zero_infinity:
        counted = elementwise.logical_and(counted, loss != 0)
    p = where(shaping.unsqueeze(counted, 2), log_probs.exp(), 0.0)
    return reduce.sum(p - p.detach(), (0, 2))


__all__ = ["ctc_loss"]
