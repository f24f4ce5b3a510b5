"""``F.scaled_dot_product_attention`` against PyTorch: eager, compiled (one kernel), and its gradients."""

from __future__ import annotations

import ingot
import numpy as np
import pytest
from ingot.ir.dtypes import tolerance
from ingot.nn import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SHAPES = [((2, 3, 7, 8), (2, 3, 9, 8), (2, 3, 9, 5)), ((7, 8), (9, 8), (9, 8)), ((2, 7, 8), (1, 9, 8), (2, 9, 8))]


def arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def boolean(shape, empty_row=False):
    mask = np.random.default_rng(1).random(shape) > 0.4
    mask[..., 0] = True
    if empty_row:
        mask[..., 2, :] = False
    return mask


def additive(shape, empty_row=False):
    return np.where(boolean(shape, empty_row), np.random.default_rng(2).standard_normal(shape), -np.inf).astype(
        np.float32
    )


CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.7},
    "bool": {"attn_mask": boolean((7, 9))},
    "float": {"attn_mask": additive((7, 9))},
    "empty rows, bool": {"attn_mask": boolean((7, 9), True)},
    "empty rows, float": {"attn_mask": additive((7, 9), True)},
}


def attend(mine, given, **options):
    mask = options.pop("attn_mask", None)
    wrap = ingot.from_numpy if mine else torch.from_numpy
    tensors = [wrap(a.copy()) for a in given]
    extra = {} if mask is None else {"attn_mask": wrap(mask.copy())}
    return tensors, (F if mine else torch.nn.functional).scaled_dot_product_attention(*tensors, **extra, **options)


def close(got, want):
    rtol, atol = tolerance(ingot.float32, 16)
    np.testing.assert_allclose(np.asarray(got), want.detach().numpy(), rtol, atol)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_eager_and_compiled(case, shapes) -> None:
    given = arrays(shapes)
    _, want = attend(False, given, **CASES[case])
    _, got = attend(True, given, **CASES[case])
    close(got.numpy(), want)
    options = dict(CASES[case])
    mask = options.pop("attn_mask", None)
    extra = [] if mask is None else [ingot.from_numpy(mask)]
    run = ingot.compile(
        lambda q, k, v, *m: F.scaled_dot_product_attention(q, k, v, *m, **options),
        *(ingot.from_numpy(a) for a in given), *extra,
    )  # fmt: skip
    close(run(*given, *([] if mask is None else [mask])), want)
    assert any("attention" in step.label for step in run.program.steps)


def test_grouped_heads_and_wide_masks() -> None:
    given = arrays([(2, 6, 7, 8), (2, 2, 9, 8), (2, 2, 9, 8)])
    for options in ({"enable_gqa": True}, {"enable_gqa": True, "attn_mask": boolean((2, 1, 7, 9))}):
        _, want = attend(False, given, **options)
        _, got = attend(True, given, **options)
        close(got.numpy(), want)
        mask = options.get("attn_mask")
        wrapped = None if mask is None else ingot.from_numpy(mask)
        run = ingot.compile(
            lambda q, k, v, m=wrapped: F.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
            *(ingot.from_numpy(a) for a in given),
        )
        close(run(*given), want)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case) -> None:
    from ingot.frontend.tracing import trace
    from ingot.ir.differentiate import gradients
    from ingot.ir.interpreter import interpret

    given = arrays(SHAPES[0])
    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in given]
    options = dict(CASES[case])
    mask = options.pop("attn_mask", None)
    mask_of = (lambda wrap: {}) if mask is None else (lambda wrap: {"attn_mask": wrap(mask.copy())})
    out = torch.nn.functional.scaled_dot_product_attention(*theirs, **mask_of(torch.from_numpy), **options)
    (out * out).sum().backward()

    def loss(q, k, v):
        y = F.scaled_dot_product_attention(q, k, v, **mask_of(ingot.from_numpy), **options)
        return (y * y).sum()

    found = trace(loss, [ingot.from_numpy(a) for a in given], states={}, roles={})
    graph = found.graph
    for g in gradients(graph, graph.outputs[0], graph.inputs):
        graph.add_output(g)
    for got, t in zip(interpret(graph, given)[1:], theirs, strict=True):
        rtol, atol = tolerance(ingot.float32, 64)
        np.testing.assert_allclose(got, t.grad.numpy(), rtol, atol * 4)


@pytest.mark.parametrize(
    "shapes,options",
    [
        (((8,), (9, 8), (9, 8)), {}),
        (SHAPES[0], {"is_causal": True, "attn_mask": boolean((7, 9))}),
        (SHAPES[0], {"attn_mask": np.zeros((7, 9))}),
        (((1, 3, 7, 8), (1, 2, 9, 8), (1, 2, 9, 8)), {"enable_gqa": True}),
    ],
)
def test_refusals_are_those_of_pytorch(shapes, options) -> None:
    with pytest.raises(RuntimeError) as theirs:
        attend(False, arrays(shapes), **options)
    with pytest.raises(RuntimeError) as ours:
        attend(True, arrays(shapes), **options)
    assert str(theirs.value).split("\n")[0].strip()[:60] == str(ours.value)[:60].strip()


def test_dropout_drops_weights() -> None:
    ingot.manual_seed(0)
    given = arrays([(1, 1, 40, 8), (1, 1, 50, 8), (1, 1, 50, 8)])
    ones = np.ones_like(given[2])
    _, out = attend(True, [given[0], given[1], ones], dropout_p=0.5)
    assert abs(float(out.numpy().mean()) - 1) < 0.1 and out.numpy().std() > 0.05
