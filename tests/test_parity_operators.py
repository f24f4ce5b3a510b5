"""PyTorch's own samples of every public operator: results, dtypes, shapes and gradients.

``operators_behind.txt`` lists the operators that do not pass yet, with the reason; a test fails when one of them does.
The slow tests compare the narrow dtypes.
Left out, as ``LEFT_OUT`` says, are operators without a result to compare (random, uninitialised), complex ones, sparse
ones, and those of other namespaces (fft, signal, special, masked).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's samples need the package expecttest")
import ingot as ig  # noqa: E402
import numpy as np  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch_bridge import (  # noqa: E402
    Untranslatable,
    array_of,
    assert_same,
    assert_same_gradients,
    ingot_of,
    ingot_with_storage,
    tensors_in,
)

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The samples are small: waking PyTorch's threads for each takes longer than the operators."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    "not public": "slice",
    "decompositions": "cholesky cholesky_inverse cholesky_solve geqrf lu lu_solve lu_unpack ormqr qr svd "
    "triangular_solve hash_tensor native_dropout_backward max_pool2d_with_indices_backward to_sparse",
}  # fmt: skip
_OUT = {name for names in LEFT_OUT.values() for name in names.split()}
OPERATORS = sorted(
    {o.name for o in op_db if o.name in _LINALG or not (o.name in _OUT or o.name.startswith(_PREFIXES))}
)
DIFFERENTIABLE = sorted(
    {o.name for o in op_db if o.supports_autograd and torch.float64 in o.supported_backward_dtypes("cpu")}
    & set(OPERATORS)
)
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
    translate = ingot_with_storage if info.name == "as_strided" else ingot_of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sample in info.sample_inputs("cpu", dtype, requires_grad=gradients):
            try:
                given = translate((sample.input, *sample.args))
                named = translate(sample.kwargs)
            except Untranslatable:
                continue
            if drops_out(info.name, sample):
                continue
            torch.manual_seed(0)
            theirs = info.op(sample.input, *sample.args, **sample.kwargs)
            if any(t.is_complex() or t.layout is not torch.strided for t in tensors_in(theirs)):
                continue
            shown = f"{sample.args} {sample.kwargs}"
            try:
                result = ours(*given, **named)
                if info.name in _AXIS_PLACE and not sample.kwargs.get("stable"):
                    result, theirs = pointed_at(info.name, sample, result), pointed_at(info.name, sample, theirs)
                assert_same(result, theirs, slack=_CANCELS.get(info.name, 1))
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


# Sums of large numbers that cancel: how many times the usual difference.
_CANCELS = {"nn.functional.multi_head_attention_forward": 5}


def drops_out(name: str, sample: Any) -> bool:
    """Whether the result depends on random numbers."""
    if name == "nn.functional.scaled_dot_product_attention":
        return sample.kwargs.get("dropout_p", 0) > 0
    if name == "nn.functional.multi_head_attention_forward":
        signature = inspect.signature(torch.nn.functional.multi_head_attention_forward)
        named = signature.bind(sample.input, *sample.args, **sample.kwargs).arguments
        return named["dropout_p"] > 0 and named.get("training", True)
    return False


# Which of equal elements comes first is unspecified: the position of the axis among the arguments after the tensor.
_AXIS_PLACE = {"argsort": 0, "sort": 0, "topk": 1, "kthvalue": 1, "mode": 0}


def pointed_at(name: str, sample: Any, result: Any) -> Any:
    """The result with the elements that its indices point at in place of the indices, no element twice."""
    *values, indices = result if isinstance(result, tuple) else (result,)
    place = _AXIS_PLACE[name]
    axis = sample.kwargs.get("dim", sample.args[place] if len(sample.args) > place else -1)
    x, at = array_of(sample.input), indices.detach().numpy()
    axis %= max(x.ndim, 1)
    one = at.ndim < x.ndim
    at = np.expand_dims(at, axis) if one else at
    x, lines = np.atleast_1d(x), np.atleast_1d(at)
    assert not lines.size or (np.diff(np.sort(lines, axis), axis=axis) > 0).all(), "an index occurs twice"
    picked = np.take_along_axis(x, lines, axis).reshape(indices.shape)
    library = ig if isinstance(indices, ig.Tensor) else torch
    elements = ig.from_numpy(picked) if library is ig else sample.input.new_tensor(picked.tolist())
    assert indices.dtype is library.int64
    return (*values, elements)


def check(name: str, dtypes: tuple[Any, ...], gradients: bool = False) -> int:
    """Compare all samples of these dtypes that PyTorch supports; their number."""
    ours = callable_of(name)
    compared = 0
    for info in (o for o in op_db if o.name == name):
        supported = info.supported_backward_dtypes("cpu") if gradients else info.supported_dtypes("cpu")
        for dtype in dtypes:
            if dtype in supported and (info.supports_autograd or not gradients):
                compared += run(info, ours, dtype, gradients)
    return compared


def check_unless_behind(name: str, what: str, dtypes: tuple[Any, ...], gradients: bool = False) -> None:
    """``check``, which must fail for what the file lists as ``name what``."""
    reason = BEHIND.get(f"{name} {what}".strip())
    if reason is None:
        assert check(name, dtypes, gradients) or what, f"no sample of {name} could be compared"
        return
    try:
        check(name, dtypes, gradients)
    except Exception:
        pytest.xfail(reason)
    pytest.fail(f"{name} {what} passes now: take it out of operators_behind.txt")


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str) -> None:
    check_unless_behind(name, "", _PLAIN)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    check_unless_behind(name, "gradients", (torch.float64,), gradients=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_narrow_floats(name: str) -> None:
    check_unless_behind(name, "narrow floats", (torch.float16, torch.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_narrow_integers(name: str) -> None:
    check_unless_behind(name, "narrow integers", (torch.int32, torch.int16, torch.int8, torch.uint8))


def test_what_is_behind_exists() -> None:
    kinds = ("", " gradients", " narrow floats", " narrow integers")
    assert set(BEHIND) <= {name + kind for name in OPERATORS for kind in kinds}
