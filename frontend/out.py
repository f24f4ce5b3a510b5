"""``out=`` of functions: the result is written into a given tensor, which is resized if need be."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ..ir.errors import DTypeError, UnsupportedError
from . import dispatch, grad_mode, tracing

# The functions that PyTorch gives an ``out`` argument.
_NAMES = """
    abs acos acosh add addbmm addcdiv addcmul addmm addmv addr alias_copy all amax amin aminmax any arange
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort as_strided_copy asin asinh atan
    atan2 atanh baddbmm bartlett_window bernoulli bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor blackman_window bmm bucketize cat ceil chain_matmul cholesky
    cholesky_inverse cholesky_solve clamp clamp_max clamp_min clip column_stack concat concatenate copysign cos
    cosh cross cummax cummin cumprod cumsum deg2rad diag diagonal_copy diff digamma div divide dot dstack empty
    empty_like eq erf erfc erfinv exp exp2 expand_copy expm1 eye fix float_power floor floor_divide fmax fmin
    fmod frac frexp full full_like gather gcd ge ger greater greater_equal gt hamming_window hann_window
    heaviside histc histogram histogramdd hstack hypot i0 igamma igammac index_add index_copy index_reduce
    index_select inner inverse isin isneginf isposinf kaiser_window kron kthvalue lcm ldexp le lerp less
    less_equal lgamma linspace log log10 log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logical_and
    logical_not logical_or logical_xor logit logspace logsumexp lt lu lu_solve lu_unpack masked_select matmul
    matrix_power max maximum mean median min minimum mm mode msort mul multinomial multiply mv mvlgamma
    nan_to_num nanmean nanmedian nanquantile nansum narrow_copy ne neg negative nextafter nonzero norm normal
    not_equal ones ones_like outer permute_copy polygamma pow prod qr quantile rad2deg rand rand_like randint
    randint_like randn randn_like randperm range reciprocal remainder renorm round row_stack rsqrt scatter
    scatter_add scatter_reduce searchsorted sgn sigmoid sign signbit sin sinc sinh slice_scatter slogdet softmax
    sort sqrt square squeeze_copy stack std std_mean sub subtract sum svd t_copy take take_along_dim tan tanh
    tensordot topk transpose transpose_copy triangular_solve tril tril_indices triu triu_indices true_divide
    trunc unfold_copy unsqueeze_copy var var_mean vdot view_copy vstack where xlogy zeros zeros_like
"""
FUNCTIONS = frozenset(_NAMES.split())


def _tensors(x: Any) -> list[Any]:
    if dispatch.is_tensor(x):
        return [x]
    if isinstance(x, (tuple, list)):
        return [t for part in x for t in _tensors(part)]
    return []


def store(name: str, result: Any, out: Any) -> None:
    """Write ``result`` into ``out``; RuntimeError if its dtype cannot be cast to that of ``out``.

    Warns before an ``out`` with elements is resized.
    """
    if dispatch._category(result.dtype) > dispatch._category(out.dtype):
        raise DTypeError(f"result type {dispatch.type_word(result.dtype)} can't be cast to the desired output type "
                         f"{dispatch.type_word(out.dtype)}")  # fmt: skip
    if out._extents != result._extents:
        if tracing.is_tracing():
            raise UnsupportedError(f"{name}(out=...): a tensor cannot be resized in a compiled function; give one of "
                                   f"shape {list(result.shape)}, not {list(out.shape)}")  # fmt: skip
        if out._data.size:
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(out.shape)}, which does not "
                f"match the required output shape {list(result.shape)}. This behavior is deprecated, and in a future "
                "PyTorch release outputs will not be resized unless they have zero elements. You can explicitly reuse "
                "an out tensor t by resizing it, inplace, to zero elements with t.resize_(0).",
                UserWarning, stacklevel=3,
            )  # fmt: skip
        out._data = np.empty(result._data.shape, out._data.dtype)
    dispatch.assign(out, result, f"{name}(out=...)")


def accepting_out(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with an ``out`` argument: a tensor, or a tuple of tensors if it has several results."""

    @wraps(fn)
    def function(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            return fn(*args, **kwargs)
        targets = _tensors(out)
        if not targets or not (dispatch.is_tensor(out) or len(targets) == len(out)):
            raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
        operands = [t for x in (*args, *kwargs.values(), out) for t in _tensors(x)]
        if grad_mode.is_grad_enabled() and any(t.requires_grad for t in operands):
            raise RuntimeError(f"{name}(): functions with out=... arguments don't support automatic differentiation, "
                               "but one of the arguments requires grad.")  # fmt: skip
        result = fn(*args, **kwargs)
        results = [result] if dispatch.is_tensor(result) else list(result)
        if len(results) != len(targets):
            raise TypeError(f"{name}(): argument 'out' must be {len(results)} tensors, got {len(targets)}")
        for value, target in zip(results, targets, strict=True):
            store(name, value, target)
        return out

    return function
