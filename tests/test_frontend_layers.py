"""Forward of every layer and its functional form against PyTorch, over their options."""

import warnings

import ingot.frontend as ig
import numpy as np
import pytest
from ingot.frontend import nn
from ingot.ir.dtypes import tolerance

torch = pytest.importorskip("torch")
tnn = torch.nn
pytestmark = pytest.mark.parity


def inputs(*shape, seed=0, dtype=np.float32):
    array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return ig.from_numpy(array.copy()), torch.from_numpy(array.copy())


def transfer(mine, ref):
    """Both modules with the same random parameters and buffers (from ``mine``'s initialisation, perturbed)."""
    rng = np.random.default_rng(5)
    for (name, p), (ref_name, q) in zip(mine.state_dict().items(), ref.state_dict().items(), strict=True):
        assert name == ref_name and tuple(p.shape) == tuple(q.shape)
        if p.is_floating_point():
            value = rng.uniform(0.5, 1.5, p.shape) if "var" in name else rng.standard_normal(p.shape) * 0.5
            p.copy_(ig.tensor(value))
            q.copy_(torch.from_numpy(np.asarray(value)))


def close(mine, ref, depth=256):
    if isinstance(ref, tuple):
        for m, r in zip(mine, ref, strict=True):
            close(m, r, depth)
        return
    assert repr(mine.dtype) == repr(ref.dtype) and tuple(mine.shape) == tuple(ref.shape)
    rtol, atol = tolerance(mine.dtype, depth)
    np.testing.assert_allclose(mine.detach().numpy(), ref.detach().numpy(), rtol=rtol, atol=atol)


ACTIVATIONS = [
    ("ReLU",),
    ("ReLU", True),
    ("ReLU6",),
    ("ReLU6", True),
    ("LeakyReLU",),
    ("LeakyReLU", 0.2, True),
    ("ELU",),
    ("ELU", 0.7),
    ("SELU",),
    ("GELU",),
    ("GELU", "tanh"),
    ("SiLU",),
    ("SiLU", True),
    ("Sigmoid",),
    ("Tanh",),
    ("Softplus",),
    ("Softplus", 2.0, 3.0),
    ("Hardtanh",),
    ("Hardtanh", -2, 0.5),
    ("Hardswish",),
    ("Hardsigmoid",),
    ("Mish",),
    ("PReLU",),
    ("PReLU", 3),
    ("LogSigmoid",),
    ("Softmax", 1),
    ("Softmax", -1),
    ("LogSoftmax", 1),
    ("LogSoftmax", 0),
    ("Identity",),
    ("Flatten",),
    ("Flatten", 0, 2),
    ("Unflatten", 1, (3, 1)),
    ("Hardswish", True),
    ("ELU", 1.0, True),
    ("Mish", True),
]


@pytest.mark.parametrize("case", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations(case, dtype):
    name, *args = case
    mine, ref = getattr(nn, name)(*args), getattr(tnn, name)(*args)
    if name == "PReLU":
        mine, ref = (
            mine.to(ig.float64 if dtype is np.float64 else ig.float32),
            ref.to(torch.from_numpy(np.zeros(1, dtype)).dtype),
        )
    transfer(mine, ref)
    x, tx = inputs(2, 3, 4, 5, dtype=dtype)
    x, tx = x * 6, tx * 6
    close(mine(x), ref(tx))
    close(x, tx)  # in-place forms write into their input
    assert repr(mine) == repr(ref)


CONVS = [
    dict(kernel_size=3),
    dict(kernel_size=3, padding=1),
    dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    dict(kernel_size=3, dilation=2, padding=2),
    dict(kernel_size=3, groups=2, padding=1, bias=False),
    dict(kernel_size=1, stride=2),
    dict(kernel_size=3, padding="same"),
    dict(kernel_size=(4, 2), padding="same", dilation=(1, 3)),
    dict(kernel_size=3, padding="valid"),
    dict(kernel_size=3, padding=1, padding_mode="reflect"),
    dict(kernel_size=3, padding=(2, 1), padding_mode="replicate"),
    dict(kernel_size=3, padding=1, padding_mode="circular", stride=2),
    dict(kernel_size=4, padding="same", padding_mode="circular"),
    dict(kernel_size=5, padding=2, groups=4),
]


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_conv2d(options):
    mine, ref = nn.Conv2d(4, 8, **options), tnn.Conv2d(4, 8, **options)
    transfer(mine, ref)
    x, tx = inputs(2, 4, 9, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on padding="same" with even kernels
        close(mine(x), ref(tx))
        close(mine(x[0]), ref(tx[0]))
    assert repr(mine) == repr(ref)


def test_conv2d_refusals():
    conv = nn.Conv2d(3, 4, 3)
    for bad, text in [((2, 5, 8, 8), "expected input"), ((8, 8), "Expected 3D")]:
        with pytest.raises(RuntimeError, match=text):
            conv(ig.zeros(*bad))
    with pytest.raises(RuntimeError, match="should be the same"):
        conv(ig.zeros(1, 3, 8, 8, dtype=ig.float64))
    with pytest.raises(ValueError, match="divisible"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="strided"):
        nn.Conv2d(3, 4, 3, stride=2, padding="same")
    with pytest.raises(ValueError, match="padding_mode"):
        nn.Conv2d(3, 4, 3, padding_mode="mirror")


POOLS = [
    ("MaxPool2d", dict(kernel_size=2)),
    ("MaxPool2d", dict(kernel_size=3, stride=2, padding=1)),
    ("MaxPool2d", dict(kernel_size=(3, 2), stride=2, ceil_mode=True)),
    ("MaxPool2d", dict(kernel_size=2, dilation=2, stride=1)),
    ("MaxPool2d", dict(kernel_size=3, stride=2, padding=1, return_indices=True)),
    ("AvgPool2d", dict(kernel_size=2)),
    ("AvgPool2d", dict(kernel_size=3, stride=2, padding=1)),
    ("AvgPool2d", dict(kernel_size=3, stride=2, padding=1, ceil_mode=True)),
    ("AvgPool2d", dict(kernel_size=(2, 3), stride=1, padding=1, count_include_pad=False)),
    ("AvgPool2d", dict(kernel_size=3, divisor_override=5)),
    ("AdaptiveAvgPool2d", dict(output_size=1)),
    ("AdaptiveAvgPool2d", dict(output_size=(3, 5))),
    ("AdaptiveAvgPool2d", dict(output_size=(None, 4))),
    ("AdaptiveAvgPool2d", dict(output_size=(4, None))),
    ("AdaptiveAvgPool2d", dict(output_size=(9, 2))),
    ("AdaptiveAvgPool2d", dict(output_size=12)),
]


@pytest.mark.parametrize("name,options", POOLS, ids=str)
def test_pooling(name, options):
    mine, ref = getattr(nn, name)(**options), getattr(tnn, name)(**options)
    x, tx = inputs(2, 3, 9, 10)
    close(mine(x), ref(tx))
    close(mine(x[1]), ref(tx[1]))
    assert repr(mine) == repr(ref)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    mine, ref = nn.Linear(7, 4, bias=bias), tnn.Linear(7, 4, bias=bias)
    transfer(mine, ref)
    x, tx = inputs(*shape)
    close(mine(x), ref(tx))
    assert repr(mine) == repr(ref)


@pytest.mark.parametrize("kind,shape", [("1d", (6, 3)), ("1d", (4, 3, 5)), ("2d", (4, 3, 5, 2))])
@pytest.mark.parametrize(
    "options",
    [{}, dict(momentum=0.3, eps=1e-3), dict(momentum=None), dict(affine=False), dict(track_running_stats=False)],
    ids=str,
)
def test_batch_norm(kind, shape, options):
    name = f"BatchNorm{kind}"
    mine, ref = getattr(nn, name)(3, **options), getattr(tnn, name)(3, **options)
    transfer(mine, ref)
    for step in range(3):
        x, tx = inputs(*shape, seed=step)
        close(mine(x), ref(tx))
    for (key, value), other in zip(mine.state_dict().items(), ref.state_dict().values(), strict=True):
        close(value, other), key
    close(mine.eval()(x), ref.eval()(tx))
    # Newer PyTorch prints ``bias=`` as well; Ingot prints what PyTorch did before.
    assert repr(mine) == repr(ref)


def test_batch_norm_refusals():
    with pytest.raises(RuntimeError, match="expected 4D input"):
        nn.BatchNorm2d(3)(ig.zeros(2, 3))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm1d(3)(ig.zeros(1, 3))


@pytest.mark.parametrize("shape", [5, (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("options", [{}, dict(elementwise_affine=False), dict(bias=False), dict(eps=0.1)], ids=str)
def test_layer_norm(shape, options):
    mine, ref = nn.LayerNorm(shape, **options), tnn.LayerNorm(shape, **options)
    transfer(mine, ref)
    x, tx = inputs(2, 3, 4, 5)
    close(mine(x), ref(tx))


def test_embedding():
    mine, ref = nn.Embedding(10, 4, padding_idx=2), tnn.Embedding(10, 4, padding_idx=2)
    assert not mine.weight[2].detach().numpy().any() and repr(mine) == repr(ref)
    transfer(mine, ref)
    index = np.array([[1, 2, 9], [0, 0, 3]])
    close(mine(ig.tensor(index)), ref(torch.tensor(index)))
    with pytest.raises(IndexError, match="index out of range"):
        mine(ig.tensor([10]))


CLASS_SHAPES = [(5,), (4, 5), (4, 5, 3), (2, 5, 3, 2)]


@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore", [-100, 1])
def test_cross_entropy_with_classes(shape, reduction, weighted, smoothing, ignore):
    x, tx = inputs(*shape)
    target_shape = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = np.asarray(np.random.default_rng(1).integers(0, 5, target_shape))
    w, tw = inputs(5, seed=2)
    options = dict(reduction=reduction, label_smoothing=smoothing, ignore_index=ignore)
    if len(shape) == 1 and smoothing and weighted:
        pytest.skip("PyTorch fails on unbatched smoothing with weights")
    mine = nn.CrossEntropyLoss(w.abs() if weighted else None, **options)
    ref = tnn.CrossEntropyLoss(tw.abs() if weighted else None, **options)
    close(mine(x, ig.tensor(target)), ref(tx, torch.tensor(target)))


@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_with_probabilities(shape, reduction, weighted, smoothing):
    (x, tx), (p, tp), (w, tw) = inputs(*shape), inputs(*shape, seed=1), inputs(5, seed=2)
    options = dict(reduction=reduction, label_smoothing=smoothing)
    axis = 0 if len(shape) == 1 else 1
    mine = nn.CrossEntropyLoss(w.abs() if weighted else None, **options)
    ref = tnn.CrossEntropyLoss(tw.abs() if weighted else None, **options)
    close(mine(x, p.softmax(axis)), ref(tx, tp.softmax(axis)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_other_losses(reduction):
    (x, tx), (y, ty) = inputs(4, 5), inputs(4, 5, seed=1)
    for name in ("MSELoss", "L1Loss"):
        close(getattr(nn, name)(reduction=reduction)(x, y), getattr(tnn, name)(reduction=reduction)(tx, ty))
    target = np.array([0, 4, 2, 2])
    w, tw = inputs(5, seed=2)
    mine, ref = (
        nn.NLLLoss(w.abs(), reduction=reduction, ignore_index=2),
        tnn.NLLLoss(tw.abs(), reduction=reduction, ignore_index=2),
    )
    close(mine(x.log_softmax(1), ig.tensor(target)), ref(tx.log_softmax(1), torch.tensor(target)))


def test_loss_refusals_and_legacy_arguments():
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        nn.CrossEntropyLoss()(ig.zeros(2, 5), ig.tensor([1, 7]))
    with pytest.raises(RuntimeError, match=r"Expected input batch_size \(2\) to match target batch_size \(3\)"):
        nn.CrossEntropyLoss()(ig.zeros(2, 5), ig.tensor([1, 2, 3]))
    with pytest.warns(UserWarning, match="target size"):
        nn.MSELoss()(ig.zeros(2, 1), ig.zeros(2))
    with pytest.warns(UserWarning, match="reduction='sum'"):
        assert nn.MSELoss(size_average=False).reduction == "sum"
    with pytest.raises(ValueError, match="not a valid value for reduction"):
        nn.functional.mse_loss(ig.zeros(2), ig.zeros(2), reduction="avg")
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        nn.Softmax()(ig.zeros(2, 2))


@pytest.mark.parametrize(
    "layer", [nn.Linear(2, 2), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()], ids=repr
)
def test_layers_refuse_what_is_no_tensor(layer):
    for bad in (np.zeros((1, 1, 2, 2), np.float32), [1.0], None):
        with pytest.raises(TypeError, match="must be Tensor, not " + type(bad).__name__):
            layer(bad)


def test_dropout_is_repeatable_and_scaled():
    x = ig.ones(200, 300)
    drop = nn.Dropout(0.25)
    ig.manual_seed(1)
    a = drop(x)
    b = drop(x)
    ig.manual_seed(1)
    assert ig.equal(a, drop(x)) and not ig.equal(a, b)
    values = np.unique(a.numpy())
    np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
    assert abs((a.numpy() == 0).mean() - 0.25) < 0.01
    assert drop.eval()(x) is x
    ig.manual_seed(1)
    assert ig.equal(a != 0, nn.Dropout(0.25)(x.double()) != 0)  # one mask whatever the dtype
    planes = nn.Dropout2d(0.5)(ig.ones(20, 10, 3, 3)).numpy().reshape(200, 9)
    assert (planes == planes[:, :1]).all() and 0.3 < (planes[:, 0] == 0).mean() < 0.7
    assert not nn.Dropout(1.0)(x).numpy().any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)


def test_default_initialisation_follows_pytorchs_distributions():
    ig.manual_seed(0)
    for layer, fan_in in [
        (nn.Linear(300, 200), 300),
        (nn.Conv2d(16, 320, 3), 16 * 9),
        (nn.Conv2d(8, 320, 3, groups=4), 18),
    ]:
        bound = fan_in**-0.5
        for p in layer.parameters():
            values = p.detach().numpy()
            assert 0.95 * bound < np.abs(values).max() <= bound
            np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.1)
    from ingot.frontend.nn import init

    t = ig.empty(200, 100)
    assert init.kaiming_normal_(t, nonlinearity="relu") is t
    np.testing.assert_allclose(t.numpy().std(), np.sqrt(2 / 100), rtol=0.05)
    np.testing.assert_allclose(np.abs(init.xavier_uniform_(t).numpy()).max(), np.sqrt(6 / 300), rtol=0.02)
    for name, param in [("relu", None), ("tanh", None), ("leaky_relu", 0.3), ("selu", None), ("linear", None)]:
        assert init.calculate_gain(name, param) == pytest.approx(tnn.init.calculate_gain(name, param))
