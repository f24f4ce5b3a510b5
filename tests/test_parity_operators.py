"""PyTorch's own samples of every public operator: results, dtypes, shapes and gradients.

``operators_behind.txt`` lists the operators that do not pass yet, with the reason; a test fails when one of them does.
Left out, as ``LEFT_OUT`` says, are operators without a result to compare (random, uninitialised), complex ones, sparse
ones, and those of other namespaces (fft, signal, special, masked).
"""

from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's samples need the package expecttest")
import ingot as ig  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch_bridge import Untranslatable, assert_same, assert_same_gradients, ingot_of, tensors_in  # noqa: E402

pytestmark = pytest.mark.parity

BEHIND = {
    line.split(":", 1)[0]: line.split(":", 1)[1].strip()
    for line in (Path(__file__).parent / "operators_behind.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
_PREFIXES = ("fft.", "signal.", "special.", "sparse.", "masked.", "_", "ops.", "torch.", "linalg.", "jiterator")
_LINALG = {f"linalg.{n}" for n in (
    "norm", "vector_norm", "inv", "det", "solve", "cross", "multi_dot", "matrix_power", "diagonal",
)}  # fmt: skip
LEFT_OUT = {
    "complex": "angle cdouble cfloat chalf complex conj conj_physical imag istft polar real resolve_conj resolve_neg "
    "stft view_as_complex view_as_real H mH",
    "random": "bernoulli cauchy exponential geometric log_normal multinomial nn.functional.alpha_dropout "
    "nn.functional.dropout nn.functional.dropout2d nn.functional.dropout3d nn.functional.feature_alpha_dropout "
    "nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d nn.functional.rrelu normal rand_like "
    "randint randint_like randn randn_like uniform pca_lowrank svd_lowrank",
    "uninitialised": "empty empty_like empty_permuted empty_strided new_empty new_empty_strided resize_ resize_as_",
    "decompositions": "cholesky cholesky_inverse cholesky_solve geqrf lu lu_solve lu_unpack ormqr qr svd "
    "triangular_solve hash_tensor native_dropout_backward max_pool2d_with_indices_backward to_sparse",
}  # fmt: skip
_OUT = {name for names in LEFT_OUT.values() for name in names.split()}
OPERATORS = sorted(
    {o.name for o in op_db if o.name in _LINALG or not (o.name in _OUT or o.name.startswith(_PREFIXES))}
)
MOST_SAMPLES = 40
_PLAIN = (torch.float64, torch.float32, torch.int64, torch.bool)


# PyTorch's samples give the tensor first, where these functions have another order; they copy what is written to.
_ADAPTED = {
    "einsum": lambda operands, equation: ig.einsum(equation, *operands),
    "polygamma": lambda x, n: ig.polygamma(n, x),
    "where": lambda x, condition, other: ig.where(condition, x, other),
    "zero_": lambda x: ig.zero_(x.clone()),
}


def callable_of(name: str) -> Any:
    """Ingot's function, or the method or attribute of its Tensor; AttributeError if there is neither."""
    if name in _ADAPTED:
        return _ADAPTED[name]
    if name in ("nn.functional.embedding", "nn.functional.embedding_bag"):  # its samples begin with the weight
        function = getattr(ig.nn.functional, name.rpartition(".")[2])
        return lambda weight, index, **named: function(index, weight, **named)
    if name.startswith("nn.functional."):
        return getattr(ig.nn.functional, name.rpartition(".")[2])
    if name.startswith("linalg."):
        return getattr(ig.linalg, name.rpartition(".")[2])
    if hasattr(torch, name) and callable(getattr(torch, name)) and not isinstance(getattr(torch, name), torch.dtype):
        return getattr(ig, name)
    attribute = getattr(ig.Tensor, name)
    return attribute if callable(attribute) else lambda x: getattr(x, name)


def run(info: Any, ours: Any, dtype: Any, gradients: bool) -> int:
    """Compare every sample of one dtype; the number compared."""
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sample in islice(info.sample_inputs("cpu", dtype, requires_grad=gradients), MOST_SAMPLES):
            try:
                given = ingot_of((sample.input, *sample.args))
                named = ingot_of(sample.kwargs)
            except Untranslatable:
                continue
            torch.manual_seed(0)
            theirs = info.op(sample.input, *sample.args, **sample.kwargs)
            if any(t.is_complex() or t.layout is not torch.strided for t in tensors_in(theirs)):
                continue
            shown = f"{sample.args} {sample.kwargs}"
            try:
                result = ours(*given, **named)
                assert_same(result, theirs)
                if gradients:
                    leaves, wants = tensors_in((given, named)), tensors_in(
                        ((sample.input, *sample.args), sample.kwargs)
                    )
                    assert_same_gradients(result, theirs, leaves, wants)
            except Exception as error:
                shapes = [f"{t.dtype}{list(t.shape)}" for t in tensors_in((sample.input, *sample.args))]
                raise AssertionError(f"sample {count}: {shapes} {shown[:300]}: {type(error).__name__}: {error}") \
                    from error  # fmt: skip
            count += 1
    return count


def check(name: str) -> None:
    ours = callable_of(name)
    compared = 0
    for info in (o for o in op_db if o.name == name):
        for dtype in _PLAIN:
            if dtype in info.supported_dtypes("cpu"):
                compared += run(info, ours, dtype, False)
        if info.supports_autograd and torch.float64 in info.supported_backward_dtypes("cpu"):
            run(info, ours, torch.float64, True)
    assert compared, f"no sample of {name} could be compared"


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    if name not in BEHIND:
        check(name)
        return
    try:
        check(name)
    except Exception:
        pytest.xfail(BEHIND[name])
    pytest.fail(f"{name} passes now: take it out of operators_behind.txt")


def test_how_many_pass() -> None:
    """Of the public real-valued dense operators, 400 at least."""
    assert set(BEHIND) <= set(OPERATORS), f"unknown names: {set(BEHIND) - set(OPERATORS)}"
