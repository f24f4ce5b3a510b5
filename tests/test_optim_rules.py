"""Every first-order optimizer: parity with PyTorch over 20 steps, formulas by hand, and the same rule eager and
compiled."""

import copy
import pickle

import ingot
import numpy as np
import pytest
from ingot import nn, optim

SHAPES = [(3, 4), (5,), (), (2, 1, 3)]
CASES = [
    ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)),
    ("Adam", {}),
    ("Adam", dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, amsgrad=True)),
    ("Adam", dict(weight_decay=0.1, decoupled_weight_decay=True, maximize=True)),
    ("Adam", dict(betas=(0.0, 0.9))),
    ("AdamW", {}),
    ("AdamW", dict(lr=0.1, amsgrad=True, maximize=True)),
    ("Adamax", {}),
    ("Adamax", dict(lr=0.01, weight_decay=0.1, maximize=True)),
    ("NAdam", {}),
    ("NAdam", dict(lr=0.01, weight_decay=0.1, momentum_decay=0.1, maximize=True)),
    ("NAdam", dict(weight_decay=0.1, decoupled_weight_decay=True)),
    ("RAdam", {}),
    ("RAdam", dict(lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)),
    ("RAdam", dict(weight_decay=0.1, decoupled_weight_decay=True, maximize=True)),
    ("Adagrad", {}),
    ("Adagrad", dict(lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, eps=1e-5, maximize=True)),
    ("Adadelta", {}),
    ("Adadelta", dict(lr=0.5, rho=0.5, weight_decay=0.1, maximize=True)),
    ("RMSprop", {}),
    ("RMSprop", dict(alpha=0.9, momentum=0.9, weight_decay=0.1)),
    ("RMSprop", dict(centered=True, maximize=True)),
    ("RMSprop", dict(centered=True, momentum=0.5)),
    ("Rprop", {}),
    ("Rprop", dict(lr=0.1, etas=(0.4, 1.5), step_sizes=(1e-2, 0.2), maximize=True)),
    ("ASGD", {}),
    ("ASGD", dict(lr=0.1, lambd=0.01, alpha=0.5, t0=5, weight_decay=0.1, maximize=True)),
]
case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


def start(steps=20, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in shapes], [[rng.standard_normal(s) for s in shapes] for _ in range(steps)]


@pytest.mark.parity
@case
def test_twenty_steps_equal_pytorchs(name, options):
    torch = pytest.importorskip("torch")
    values, gradients = start()
    mine = [nn.Parameter(ingot.tensor(v)) for v in values]
    ref = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    a, b = getattr(optim, name)(mine, **options), getattr(torch.optim, name)(ref, foreach=False, **options)
    for i, step in enumerate(gradients):
        for p, q, g in zip(mine, ref, step, strict=True):
            p.grad, q.grad = ingot.tensor(g), torch.tensor(g)
        if i == 2:  # a parameter without a gradient is skipped, and its count stays behind
            mine[1].grad = ref[1].grad = None
        a.step()
        b.step()
    for p, q in zip(mine, ref, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-12, atol=1e-12)
    saved, theirs = a.state_dict(), b.state_dict()
    for group in theirs["param_groups"]:
        group["foreach"] = None
    assert saved["param_groups"] == theirs["param_groups"]
    assert saved["state"].keys() == theirs["state"].keys()
    for key, entries in theirs["state"].items():
        assert list(saved["state"][key]) == list(entries)
        for entry, value in entries.items():
            got = saved["state"][key][entry]
            assert str(got.dtype).split(".")[-1] == str(value.dtype).split(".")[-1] and got.shape == tuple(value.shape)
            np.testing.assert_allclose(got.detach().numpy(), value.numpy(), rtol=1e-6 if value.ndim == 0 else 1e-9)
    b.param_groups[0]["foreach"] = None
    assert repr(a) == repr(b)


@pytest.mark.parity
@case
def test_a_checkpoint_of_pytorch_goes_on(name, options):
    torch = pytest.importorskip("torch")
    from torch_bridge import ingot_of

    values, gradients = start(6)
    ref = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    b = getattr(torch.optim, name)(ref, foreach=False, **options)

    def move(optimizer, params, make, grads):
        for p, g in zip(params, grads, strict=True):
            p.grad = make(g)
        optimizer.step()

    for grads in gradients[:3]:
        move(b, ref, torch.tensor, grads)
    mine = [nn.Parameter(ingot.tensor(p.detach().numpy().copy())) for p in ref]
    a = getattr(optim, name)(mine)
    a.load_state_dict(ingot_of(b.state_dict()))
    for grads in gradients[3:]:
        move(a, mine, ingot.tensor, grads)
        move(b, ref, torch.tensor, grads)
    for p, q in zip(mine, ref, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-6)


@case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_compiled_step_equals_the_eager_one(name, options, dtype):
    """Both start from the same network; the compiled step goes on where eager steps stopped."""
    if name == "SGD":
        pytest.skip("tests/test_driver_step.py")
    kind = getattr(ingot, dtype)
    ingot.manual_seed(3)
    eager = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(kind)
    compiled = copy.deepcopy(eager)
    rng = np.random.default_rng(1)
    batches = [(ingot.tensor(rng.standard_normal((6, 4)), dtype=kind), ingot.tensor(rng.standard_normal((6, 3)),
                dtype=kind)) for _ in range(9)]  # fmt: skip
    loss_fn = nn.MSELoss()
    a, b = getattr(optim, name)(eager.parameters(), **options), getattr(optim, name)(compiled.parameters(), **options)

    def train(model, optimizer, x, y):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    for x, y in batches[:2]:
        train(eager, a, x, y)
        train(compiled, b, x, y)
    step = ingot.compile_step(compiled, loss_fn, b, threads=1)
    for i, (x, y) in enumerate(batches[2:]):
        if i == 4:
            for optimizer in (a, b):  # a number changes: the same program
                optimizer.param_groups[0]["lr"] *= 0.5
        train(eager, a, x, y)
        step(x, y)
    assert len(step.variants) == 1
    # Two roundings of a quotient of tiny numbers differ more than the numbers: the bound is on the way gone.
    tolerance = dict(rtol=2e-4, atol=2e-5) if dtype == "float32" else dict(rtol=1e-9, atol=1e-10)
    if name in ("ASGD", "NAdam"):  # float32 numbers in the state
        tolerance = dict(rtol=2e-4, atol=2e-5)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        np.testing.assert_allclose(q.detach().numpy(), p.detach().numpy(), **tolerance)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert {k for k in a.state[p] if k[0] != "_"} == {k for k in b.state[q] if k[0] != "_"}
        if "step" in a.state[p]:
            assert b.state[q]["step"].item() == a.state[p]["step"].item() == 9


def test_adam_and_rmsprop_by_hand():
    p = nn.Parameter(ingot.tensor([1.0, -2.0], dtype=ingot.float64))
    q = nn.Parameter(p.detach().clone())
    p.grad = q.grad = ingot.tensor([0.5, -4.0], dtype=ingot.float64)
    optim.Adam([p], lr=0.1, eps=0.0).step()
    np.testing.assert_allclose(p.detach().numpy(), [0.9, -1.9], rtol=1e-13)  # the first step goes lr along the sign
    optim.RMSprop([q], lr=0.1, alpha=0.75, eps=0.0).step()
    np.testing.assert_allclose(q.detach().numpy(), [0.8, -1.8], rtol=1e-13)  # g / sqrt(g² / 4) = 2 sign(g)


@pytest.mark.parametrize("name", sorted({n for n, _ in CASES}))
def test_blocks_dtypes_and_layouts_change_nothing(name, monkeypatch):
    """An eager step works block by block; a transposed parameter as a whole; 16-bit floats round once."""
    from ingot.frontend.optim import first_order

    values, gradients = start(4, shapes=[(7, 9)])

    def run(make, block=1 << 14):
        monkeypatch.setattr(first_order, "BLOCK", block)
        p = make(values[0])
        options = {"momentum": 0.9} if name == "SGD" else {}
        opt = getattr(optim, name)([p], lr=0.05, **options)
        for (g,) in gradients:
            p.grad = ingot.tensor(g).to(p.dtype)
            opt.step()
        return p.detach().double().numpy()

    plain = run(lambda v: nn.Parameter(ingot.tensor(v)))
    np.testing.assert_array_equal(run(lambda v: nn.Parameter(ingot.tensor(v)), block=10), plain)
    moved = run(lambda v: nn.Parameter(ingot.from_numpy(np.asfortranarray(v))))
    np.testing.assert_allclose(moved, plain, rtol=1e-15)
    half = run(lambda v: nn.Parameter(ingot.tensor(v, dtype=ingot.bfloat16)))
    assert np.abs(half - plain).max() < 0.05 * np.abs(plain - values[0]).max() + 0.05


@pytest.mark.parametrize(("name", "options"), [c for c in CASES if c[0] != "SGD"], ids=str)
def test_pickles_and_copies_go_on(name, options):
    values, gradients = start(4)
    model = nn.ParameterList([nn.Parameter(ingot.tensor(v)) for v in values])
    opt = getattr(optim, name)(model.parameters(), **options)

    def move(optimizer, grads):
        for p, g in zip(optimizer.param_groups[0]["params"], grads, strict=True):
            p.grad = ingot.tensor(g)
        optimizer.step()

    move(opt, gradients[0])
    twins = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for optimizer in (opt, *twins):
        for grads in gradients[1:]:
            move(optimizer, grads)
    for twin in twins:
        for p, q in zip(model, twin.param_groups[0]["params"], strict=True):
            assert p is not q
            np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


def test_sparse_adam_is_refused_with_a_reason():
    with pytest.raises(AttributeError, match=r"sparse gradients.*Use Adam"):
        _ = optim.SparseAdam
    with pytest.raises(AttributeError, match="does not have it"):  # nor has PyTorch
        _ = optim.ConjugateGradient


@pytest.mark.parity
def test_errors_equal_pytorchs():
    torch = pytest.importorskip("torch")
    bad = [
        ("Adam", dict(lr=-1)), ("Adam", dict(betas=(1.0, 0.9))), ("Adam", dict(betas=(0.9, 1.0))),
        ("Adam", dict(eps=-1)), ("Adam", dict(weight_decay=-1)), ("AdamW", dict(lr=float("nan"))),
        ("Adam", dict(betas=(0, 0.9))), ("Adam", dict(fused=True, differentiable=True)),
        ("Adam", dict(fused=True, foreach=True)),
        ("Adamax", dict(betas=(0.9, -1.0))), ("NAdam", dict(momentum_decay=-1)), ("RAdam", dict(eps=-1)),
        ("Adagrad", dict(lr_decay=-1)), ("Adagrad", dict(initial_accumulator_value=-1)), ("Adadelta", dict(rho=2)),
        ("RMSprop", dict(alpha=-1)), ("RMSprop", dict(momentum=-1)), ("Rprop", dict(etas=(1, 2))),
        ("ASGD", dict(weight_decay=-1)), ("SGD", dict(fused=True, differentiable=True)),
    ]  # fmt: skip
    for name, options in bad:
        with pytest.raises(Exception) as ref:
            getattr(torch.optim, name)([torch.zeros(1)], **options)
        with pytest.raises(type(ref.value)) as mine:
            getattr(optim, name)([ingot.zeros(1)], **options)
        assert str(mine.value) == str(ref.value)
    with pytest.raises(ValueError, match="foreach=True"):
        optim.Adam([ingot.zeros(1)], lr=ingot.tensor(0.1), foreach=True)


def test_a_tensor_as_learning_rate_and_differentiable_steps():
    p = nn.Parameter(ingot.tensor([1.0, 2.0]))
    p.grad = ingot.tensor([1.0, 1.0])
    lr = ingot.tensor(0.25)
    opt = optim.SGD([p], lr=lr)
    opt.step()
    np.testing.assert_allclose(p.detach().numpy(), [0.75, 1.75])
    lr.fill_(0.5)
    opt.step()
    np.testing.assert_allclose(p.detach().numpy(), [0.25, 1.25])
    # A step that is itself differentiated: d(p - lr g)/d lr = -g.
    rate = ingot.tensor(0.1, requires_grad=True)
    q = ingot.tensor([1.0, 2.0], requires_grad=True).clone()
    q.retain_grad()
    meta = optim.SGD([q], lr=rate, differentiable=True)
    q.grad = ingot.tensor([3.0, 4.0])
    meta.step()
    q.sum().backward()
    assert rate.grad.item() == pytest.approx(-7.0)
