"""Multi-head attention and transformers: by hand, masks, forms of input, compiled."""

from __future__ import annotations

import math
from typing import Any

import ingot as torch
import ingot.nn as nn
import numpy as np
import pytest


def random(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def close(a: Any, b: Any, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=atol, rtol=0)


def test_attention_is_its_formula() -> None:
    attention = nn.MultiheadAttention(4, 2).double()
    x = random(3, 2, 4)
    out, weights = attention(x, x, x)
    w, b = attention.in_proj_weight.detach().numpy(), random(12).numpy() * 0
    q, k, v = (np.split(x.numpy() @ w.T + b, 3, -1))
    heads = []
    for h in range(2):
        part = [t[..., 2 * h : 2 * h + 2].transpose(1, 0, 2) for t in (q, k, v)]
        scores = part[0] @ part[1].transpose(0, 2, 1) / math.sqrt(2)
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        heads.append((p, (p @ part[2]).transpose(1, 0, 2)))
    want = np.concatenate([v for _, v in heads], -1) @ attention.out_proj.weight.detach().numpy().T
    np.testing.assert_allclose(out.detach().numpy(), want, atol=1e-12)
    np.testing.assert_allclose(weights.detach().numpy(), (heads[0][0] + heads[1][0]) / 2, atol=1e-12)
    close(attention(x, x, x, need_weights=False)[0], out)
    assert attention(x, x, x, average_attn_weights=False)[1].shape == (2, 2, 3, 3)
    close(attention(x[:, 0], x[:, 0], x[:, 0])[0], out[:, 0])


def test_masks() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    x = random(2, 3, 4)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    out, weights = attention(x, x, x, key_padding_mask=padding)
    assert (weights[0, :, 2] == 0).all() and (weights[1] > 0).all()
    close(out[0], attention(x[0], x[0, :2], x[0, :2])[0])
    causal = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
    assert causal.tolist() == [[0, -math.inf, -math.inf], [0, 0, -math.inf], [0, 0, 0]]
    out, weights = attention(x, x, x, attn_mask=causal, is_causal=True)
    assert (weights.triu(1) == 0).all()
    close(attention(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)[0], out)
    close(attention(x, x, x, attn_mask=causal == -math.inf)[0], out)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        attention(x, x, x, is_causal=True)
    with pytest.raises(AssertionError, match="divisible"):
        nn.MultiheadAttention(5, 2)


def test_other_widths_and_extra_keys() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True).double()
    assert list(attention.state_dict()) == [
        "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v", "out_proj.weight",
        "out_proj.bias",
    ]  # fmt: skip
    out, weights = attention(random(3, 2, 4), random(6, 2, 3), random(6, 2, 5))
    assert out.shape == (3, 2, 4) and weights.shape == (2, 3, 8)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_is_its_parts(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, norm_first=norm_first, activation="gelu").double()
    x = random(3, 2, 4)

    def feed(t: Any) -> Any:
        return layer.linear2(nn.functional.gelu(layer.linear1(t)))

    if norm_first:
        y = layer.norm1(x)
        y = x + layer.self_attn(y, y, y)[0]
        want = y + feed(layer.norm2(y))
    else:
        y = layer.norm1(x + layer.self_attn(x, x, x)[0])
        want = layer.norm2(y + feed(y))
    close(layer(x), want)
    with pytest.raises(RuntimeError, match="activation should be relu/gelu"):
        nn.TransformerEncoderLayer(4, 2, activation="elu")


def test_causal_transformer_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    net = nn.Transformer(4, 2, 1, 1, 8, dropout=0.0, batch_first=True).double()
    src, tgt = random(2, 5, 4), random(2, 3, 4, seed=1)
    mask = net.generate_square_subsequent_mask(3, dtype=torch.float64)
    out = net(src, tgt, tgt_mask=mask, tgt_is_causal=True)
    changed = torch.cat([tgt[:, :2], tgt[:, 2:] + 1], 1)
    close(net(src, changed, tgt_mask=mask)[:, :2], out[:, :2])
    with pytest.raises(RuntimeError, match="batch number"):
        net(src[:1], tgt)
    with pytest.raises(RuntimeError, match="feature number"):
        net(src[..., :3], tgt)
    with torch.no_grad():
        close(torch.compile(net)(src, tgt, tgt_mask=mask), net(src, tgt, tgt_mask=mask))


def test_stack_of_layers() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)
    stack = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(4))
    assert len(stack.layers) == 2 and stack.layers[0] is not layer
    x = torch.randn(3, 2, 4)
    close(stack(x), stack.norm(layer(layer(x))), 1e-5)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 2)
    assert decoder(x, torch.randn(5, 2, 4)).shape == (3, 2, 4)
    assert len([n for n, _ in decoder.named_modules() if n.endswith("multihead_attn")]) == 2
