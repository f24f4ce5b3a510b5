"""Attention with several heads; ``nn.functional`` exports it."""

from __future__ import annotations

import math
import warnings
from typing import Any

from ...ir.dtypes import bool_
from .. import creation, elementwise, linalg, reduce, shaping
from ..padding import pad
from ..tensor import Tensor
from .activation_functions import softmax
from .attention_functions import scaled_dot_product_attention
from .dropout_functions import dropout


def _check_ranks(query: Tensor, key: Tensor, value: Tensor, padding: Any, mask: Any, heads: int) -> bool:
    """Whether the inputs have a batch axis; AssertionError with PyTorch's words if they do not agree."""
    rank = query.dim()
    if rank not in (2, 3):
        raise AssertionError(
            f"query should be unbatched 2D or batched 3D tensor but received {rank}-D query tensor"
        )
    kind = f"For {'batched' if rank == 3 else 'unbatched'} ({rank}-D) `query`, expected"
    if key.dim() != rank or value.dim() != rank:
        raise AssertionError(f"{kind} `key` and `value` to be {rank}-D but found {key.dim()}-D and {value.dim()}-D "
                             "tensors respectively")  # fmt: skip
    if padding is not None and padding.dim() != rank - 1:
        raise AssertionError(f"{kind} `key_padding_mask` to be `None` or {rank - 1}-D but found {padding.dim()}-D "
                             "tensor instead")  # fmt: skip
    if mask is not None and mask.dim() not in (2, 3):
        raise AssertionError(f"{kind} `attn_mask` to be `None`, 2-D or 3-D but found {mask.dim()}-D tensor instead")
    if rank == 2 and mask is not None and mask.dim() == 3:
        want = (heads, query.shape[0], key.shape[0])
        if tuple(mask.shape) != want:
            raise AssertionError(f"Expected `attn_mask` shape to be {want} but got {mask.shape}")
    return rank == 3


def added_mask(mask: Tensor | None, name: str, like: Tensor, other: Tensor | None = None) -> Tensor | None:
    """A mask to add to scores: -inf where a bool one is True."""
    if mask is None:
        return None
    if mask.dtype is not bool_ and not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported")
    if other is not None and other.dtype is not mask.dtype:
        warnings.warn(f"Support for mismatched {name} and attn_mask is deprecated. Use same type for both instead.",
                      stacklevel=3)  # fmt: skip
    if mask.dtype is bool_:
        zero = creation.zeros((), dtype=like.dtype)
        return elementwise.where(mask, zero - math.inf, zero)
    return mask


def _project(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None, separate: Any
) -> list[Tensor]:
    """Query, key and value behind their linear layers: one product where they are the same tensor."""
    inputs = (query, key, value)
    if separate is None:
        if weight is None:
            raise AssertionError("use_separate_proj_weight is False but in_proj_weight is None")
        if query is key and key is value:
            return list(shaping.chunk(linalg.linear(query, weight, bias), 3, -1))
        separate = shaping.chunk(weight, 3, 0)
    for name, w in zip(("q", "k", "v"), separate, strict=True):
        if w is None:
            raise AssertionError(f"use_separate_proj_weight is True but {name}_proj_weight is None")
    biases = (None, None, None) if bias is None else shaping.chunk(bias, 3, 0)
    return [linalg.linear(x, w, b) for x, w, b in zip(inputs, separate, biases, strict=True)]


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Tensor | None,
    training: bool = True, key_padding_mask: Tensor | None = None, need_weights: bool = True,
    attn_mask: Tensor | None = None, use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None, static_k: Tensor | None = None,
    static_v: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(attended values, weights): what ``nn.MultiheadAttention`` computes.

    Args:
        query: [L, N, E] or [L, E]; key and value [S, N, *] or [S, *].
        key_padding_mask: [N, S] ([S] without batch): bool (True is left out) or added to the scores.
        attn_mask: [L, S] or [N * heads, L, S], alike.
        need_weights: the second result is [N, L, S], averaged over the heads ([N, heads, L, S] unless
            ``average_attn_weights``); without it the attention is one kernel when compiled.
        is_causal: a hint that attn_mask is the causal one; the mask has to be given.
        static_k, static_v: [N * heads, S, E / heads] in place of the projected keys and values.
    """
    batched = _check_ranks(query, key, value, key_padding_mask, attn_mask, num_heads)
    if not batched:
        same = query is key, key is value
        query = shaping.unsqueeze(query, 1)
        key = query if same[0] else shaping.unsqueeze(key, 1)
        value = key if same[1] else shaping.unsqueeze(value, 1)
        if key_padding_mask is not None:
            key_padding_mask = shaping.unsqueeze(key_padding_mask, 0)
    length, batch, width = query.shape
    padding = added_mask(key_padding_mask, "key_padding_mask", query, attn_mask)
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
                           "`generate_square_subsequent_mask` to create this mask.")  # fmt: skip
    causal = is_causal and padding is None and not need_weights
    mask = None if causal else added_mask(attn_mask, "attn_mask", query)
    if width != embed_dim_to_check:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim_to_check}, but got {width}")
    if width % num_heads:
        raise AssertionError(f"embed_dim {width} not divisible by num_heads {num_heads}")
    if use_separate_proj_weight:
        if key.shape[:2] != value.shape[:2]:
            raise AssertionError(f"key's sequence and batch dims {key.shape[:2]} do not match value's "
                                 f"{value.shape[:2]}")  # fmt: skip
    elif key.shape != value.shape:
        raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    q, k, v = _project(query, key, value, in_proj_weight, in_proj_bias, separate)

    if mask is not None:
        if mask.dim() == 2:
            if tuple(mask.shape) != (length, key.shape[0]):
                raise RuntimeError(f"The shape of the 2D attn_mask is {mask.shape}, but should be "
                                   f"{(length, key.shape[0])}.")  # fmt: skip
        else:
            want = (batch * num_heads, length, key.shape[0])
            if tuple(mask.shape) != want:
                raise RuntimeError(f"The shape of the 3D attn_mask is {mask.shape}, but should be {want}.")
            mask = shaping.reshape(mask, batch, num_heads, length, key.shape[0])
    if (bias_k is None) != (bias_v is None):
        given, missing = ("bias_k", "bias_v") if bias_v is None else ("bias_v", "bias_k")
        raise AssertionError(f"{given} is set but {missing} is None")
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise AssertionError(f"bias cannot be added to static {'key' if static_k is not None else 'value'}.")
        k = shaping.cat([k, shaping.expand(bias_k, 1, batch, width)])
        v = shaping.cat([v, shaping.expand(bias_v, 1, batch, width)])
        mask, padding = _longer(mask), _longer(padding)

    # [N, heads, length, E / heads]
    size = width // num_heads
    q, k, v = (shaping.permute(shaping.reshape(x, x.shape[0], batch, num_heads, size), 1, 2, 0, 3) for x in (q, k, v))
    k = _static(static_k, "static_k", k, batch, num_heads, size)
    v = _static(static_v, "static_v", v, batch, num_heads, size)
    if add_zero_attn:
        zero = creation.zeros(batch, num_heads, 1, size, dtype=k.dtype)
        k, v = shaping.cat([k, zero], 2), shaping.cat([v, zero], 2)
        mask, padding = _longer(mask), _longer(padding)
    if padding is not None:
        if tuple(padding.shape) != (batch, k.shape[2]):
            raise AssertionError(f"Expected key_padded_mask.shape[0] to be {batch}, but got {padding.shape[0]}"
                                 if padding.shape[0] != batch else f"Expected key_padded_mask.shape[1] to be "
                                 f"{k.shape[2]}, but got {padding.shape[1]}")  # fmt: skip
        padding = shaping.reshape(padding, batch, 1, 1, k.shape[2])
        mask = padding if mask is None else mask + padding
    drop = dropout_p if training else 0.0
    weights = None
    if need_weights:
        scores = linalg.matmul(q * (1.0 / math.sqrt(size)), shaping.transpose(k, -2, -1))
        weights = dropout(softmax(scores if mask is None else scores + mask, -1), drop)
        out = linalg.matmul(weights, v)
    else:
        out = scaled_dot_product_attention(q, k, v, mask, drop, causal)
    out = shaping.reshape(shaping.permute(out, 2, 0, 1, 3), length, batch, width)
    out = linalg.linear(out, out_proj_weight, out_proj_bias)
    if weights is not None and average_attn_weights:
        weights = reduce.mean(weights, 1)
    if not batched:
        out = shaping.squeeze(out, 1)
        weights = None if weights is None else shaping.squeeze(weights, 0)
    return out, weights


def _longer(mask: Tensor | None) -> Tensor | None:
    """Room for one more key, which takes part."""
    return None if mask is None else pad(mask, (0, 1))


def _static(static: Tensor | None, name: str, own: Tensor, batch: Any, heads: int, size: int) -> Tensor:
    if static is None:
        return own
    if static.shape[0] != batch * heads:
        raise AssertionError(f"expecting {name}.size(0) of {batch * heads}, but got {static.shape[0]}")
    if static.shape[2] != size:
        raise AssertionError(f"expecting {name}.size(2) of {size}, but got {static.shape[2]}")
    return shaping.reshape(static, batch, heads, static.shape[1], size)


__all__ = ["multi_head_attention_forward"]
