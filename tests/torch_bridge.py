"""PyTorch's arguments as Ingot's, and comparing what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ingot as ig
import ml_dtypes
import numpy as np
import torch
from ingot.ir import dtypes

DTYPES = {
    getattr(torch, d.name): d for d in dtypes.ALL if hasattr(torch, d.name)
}


class Untranslatable(Exception):
    """An argument that Ingot does not have at all (complex numbers, sparse tensors, memory formats)."""


def array_of(t: torch.Tensor) -> np.ndarray:
    """The tensor's values in its own memory order."""
    t = t.detach()
    if t.dtype is torch.bfloat16:
        return t.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.resolve_neg().numpy(force=True)  # also zeros without memory, which some gradients are


def ingot_of(x: Any) -> Any:
    """``x`` with every tensor, dtype and size replaced; new memory, the same ``requires_grad``."""
    if isinstance(x, torch.nn.Parameter):
        return ig.nn.Parameter(ingot_of(x.detach()), requires_grad=x.requires_grad)
    if isinstance(x, torch.Tensor):
        if x.is_complex() or x.layout is not torch.strided or x.dtype not in DTYPES:
            raise Untranslatable(f"{x.dtype} {x.layout}")
        return ig.from_numpy(array_of(x).copy(order="K")).requires_grad_(x.requires_grad)
    if isinstance(x, torch.dtype):
        if x not in DTYPES:
            raise Untranslatable(str(x))
        return DTYPES[x]
    if isinstance(x, torch.device):
        return str(x)
    if isinstance(x, (torch.memory_format, torch.layout)):
        if x in (torch.contiguous_format, torch.preserve_format, torch.strided):
            return None
        raise Untranslatable(str(x))
    if isinstance(x, complex):
        raise Untranslatable("complex")
    if isinstance(x, torch.Size):
        return tuple(x)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(ingot_of, x))
    if isinstance(x, (tuple, list)):
        return type(x)(map(ingot_of, x))
    if isinstance(x, dict):
        return {k: ingot_of(v) for k, v in x.items()}
    if isinstance(x, torch.nn.TransformerEncoderLayer):
        return ig.nn.TransformerEncoderLayer(
            x.self_attn.embed_dim, x.self_attn.num_heads, x.linear1.out_features, x.dropout.p, ingot_of(x.activation),
            x.norm1.eps, x.self_attn.batch_first, x.norm_first, x.linear1.bias is not None,
        )  # fmt: skip
    if isinstance(x, torch.nn.Module):
        return getattr(ig.nn, type(x).__name__)()
    if callable(x) and getattr(torch.nn.functional, getattr(x, "__name__", ""), None) is x:
        return getattr(ig.nn.functional, x.__name__)
    return x


def ingot_with_storage(x: Any) -> Any:
    """``ingot_of`` for tensors, alone or in a tuple, with the memory around them, which ``as_strided`` reaches."""
    if isinstance(x, tuple):
        return tuple(map(ingot_with_storage, x))
    if not isinstance(x, torch.Tensor):
        return ingot_of(x)
    flat = x.detach().as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    view = ingot_of(flat).as_strided(x.shape, x.stride(), x.storage_offset())
    return view.requires_grad_(x.requires_grad)


def tensors_in(x: Any) -> list[Any]:
    """The tensors of either library in a structure, in order."""
    if isinstance(x, (torch.Tensor, ig.Tensor)):
        return [x]
    if isinstance(x, (tuple, list)):
        return [t for part in x for t in tensors_in(part)]
    if isinstance(x, dict):
        return [t for part in x.values() for t in tensors_in(part)]
    return []


def tolerance_of(dtype: Any) -> dict[str, float]:
    return {
        torch.float64: {"rtol": 1e-7, "atol": 1e-7}, torch.float32: {"rtol": 1e-4, "atol": 1e-5},
        torch.float16: {"rtol": 1e-2, "atol": 1e-2}, torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
    }.get(dtype, {"rtol": 0.0, "atol": 0.0})  # fmt: skip


def assert_same(ours: Any, theirs: Any, what: str = "result", slack: float = 1) -> None:
    """Equal structure, dtypes, shapes and (within ``slack`` times the dtype's tolerance) values."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, ig.Tensor), f"{what}: a Tensor expected, got {type(ours).__name__}"
        assert tuple(ours.shape) == tuple(theirs.shape), f"{what}: shape {list(ours.shape)}, want {list(theirs.shape)}"
        assert ours.dtype is DTYPES.get(theirs.dtype), f"{what}: dtype {ours.dtype}, want {theirs.dtype}"
        a, b = ours.detach().numpy(), array_of(theirs)
        if a.dtype.kind not in "fiub":
            a, b = a.astype(np.float32), b.astype(np.float32)
        tolerance = {word: slack * value for word, value in tolerance_of(theirs.dtype).items()}
        np.testing.assert_allclose(a, b, **tolerance, equal_nan=True, err_msg=what)
    elif isinstance(theirs, (tuple, list)):
        assert isinstance(ours, (tuple, list)) and len(ours) == len(theirs), f"{what}: {len(theirs)} results expected"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{what} {i}", slack)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), what
        for k in theirs:
            assert_same(ours[k], theirs[k], f"{what} {k}", slack)
    elif isinstance(theirs, float):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=what)
    elif isinstance(theirs, torch.dtype):
        assert ours is DTYPES.get(theirs), what
    else:
        assert ours == theirs, f"{what}: {ours!r}, want {theirs!r}"


def seeds_for(results: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Gradients of the results to start backward passes with."""
    rng = np.random.default_rng(5)
    return [rng.uniform(0.5, 1.5, tuple(r.shape)) for r in results]


def assert_same_gradients(ours: Any, theirs: Any, leaves: Sequence[Any], wants: Sequence[torch.Tensor]) -> None:
    """Backward through both from the same seeds; gradients of all leaves that require one."""
    pairs = [
        (a, b) for a, b in zip(tensors_in(ours), tensors_in(theirs), strict=True) if b.requires_grad and b.numel()
    ]
    assert all(a.requires_grad for a, _ in pairs), "a result has no history"
    if not pairs:
        return
    for want in wants:  # samples may share operands
        if want.is_leaf:
            want.grad = None
    seeds = seeds_for([b for _, b in pairs])
    for want in wants:
        if want.is_leaf:
            want.grad = None  # samples may share tensors
    ig.autograd.backward([a for a, _ in pairs],
                         [ig.from_numpy(s).to(a.dtype) for s, (a, _) in zip(seeds, pairs, strict=True)])  # fmt: skip
    torch.autograd.backward([b for _, b in pairs],
                            [torch.tensor(s).to(b.dtype) for s, (_, b) in zip(seeds, pairs, strict=True)])  # fmt: skip
    for i, (leaf, want) in enumerate(zip(leaves, wants, strict=True)):
        if want.requires_grad and want.is_leaf and want.grad is not None:
            assert leaf.grad is not None or not want.grad.any(), f"gradient {i} is missing"
            if leaf.grad is not None:
                assert_same(leaf.grad, want.grad, f"gradient {i}")
