"""Autocast: dtypes of every function with a policy, nesting, decorators, compiled code; GradScaler."""

import pickle
import warnings

import ingot
import numpy as np
import pytest
from ingot import nn, optim
from ingot.amp import GradScaler, autocast, custom_bwd, custom_fwd
from ingot.nn import functional as F

LOW, FULL = ingot.bfloat16, ingot.float32


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return ingot.tensor(rng.standard_normal((5, 1, 8, 8)).astype(np.float32)), ingot.tensor([0, 1, 2, 1, 0])


def test_dtypes_inside_a_region():
    model = network()
    x, y = batch()
    with autocast("cpu"):
        out = model(x)
        loss = F.cross_entropy(out, y)
        assert out.dtype is LOW and loss.dtype is FULL
        assert F.softmax(out, 1).dtype is LOW and F.softmax(x.flatten(1), 1).dtype is FULL  # PyTorch's list for CPUs
        assert (x.flatten(1) + 1).dtype is FULL
        assert ingot.matmul(x, x).dtype is LOW and (x @ x).dtype is LOW and x[0].bmm(x[0]).dtype is LOW
        assert (x.double() @ x.double()).dtype is ingot.float64  # never lowered
        assert ingot.cat([out, out.float()]).dtype is FULL and ingot.cat([out, out]).dtype is LOW
        assert F.mse_loss(out, out).dtype is FULL
    assert all(p.dtype is FULL for p in model.parameters())
    loss.backward()  # outside the region: gradients have the dtype of their tensors
    assert all(p.grad.dtype is FULL and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(RuntimeError):
        F.linear(out, ingot.ones(3, 3))  # a low result does not mix with float32 outside


def test_functions_with_a_policy_can_be_pickled():
    for fn in (F.cross_entropy, F.linear, ingot.linalg.inv, ingot.bmm, F.conv2d):
        assert pickle.loads(pickle.dumps(fn)) is fn


def test_nested_and_disabled_regions():
    x = ingot.ones(2, 2)
    assert not ingot.is_autocast_enabled("cpu") and ingot.get_autocast_dtype("cpu") is LOW
    with ingot.autocast("cpu", dtype=ingot.float16):
        assert (x @ x).dtype is ingot.float16 and ingot.is_autocast_enabled("cpu")
        with ingot.autocast("cpu", enabled=False):
            assert (x @ x).dtype is FULL and not ingot.is_autocast_enabled("cpu")
        with ingot.autocast("cpu"):
            assert (x @ x).dtype is ingot.float16  # the dtype of the region around
        with ingot.autocast("cpu", dtype=LOW, cache_enabled=False):
            assert (x @ x).dtype is LOW and not ingot.is_autocast_cache_enabled()
        assert (x @ x).dtype is ingot.float16
    assert (x @ x).dtype is FULL and ingot.get_autocast_dtype("cpu") is LOW
    with pytest.raises(ZeroDivisionError), autocast("cpu"):
        _ = 1 / 0
    assert not ingot.is_autocast_enabled("cpu")
    ingot.set_autocast_dtype("cpu", ingot.float16)
    try:
        with autocast("cpu"):
            assert (x @ x).dtype is ingot.float16
    finally:
        ingot.set_autocast_dtype("cpu", LOW)


def test_decorated_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        @autocast("cpu")
        def forward(self, x):
            """Documented."""
            return self.fc(x)

    assert Net()(ingot.ones(1, 2)).dtype is LOW and Net.forward.__doc__ == "Documented."
    with pytest.raises(TypeError, match="requires a callable, but got Tensor"):
        autocast("cpu")(ingot.ones(1))


def test_what_autocast_refuses_and_warns_about():
    with pytest.raises(RuntimeError, match="unsupported autocast device_type 'tpu'"):
        autocast("tpu", dtype=LOW)
    with pytest.raises(ValueError, match="Expected `device_type`"):
        autocast(True)
    with pytest.warns(UserWarning, match="target dtype is not supported"), autocast("cpu", dtype=ingot.float64):
        assert (ingot.ones(2, 2) @ ingot.ones(2, 2)).dtype is FULL
    with pytest.warns(UserWarning, match="CUDA is not available"), autocast("cuda"):
        assert (ingot.ones(2, 2) @ ingot.ones(2, 2)).dtype is FULL
    with pytest.warns(FutureWarning, match=r"cpu\.amp\.autocast"), ingot.cpu.amp.autocast():
        assert (ingot.ones(2, 2) @ ingot.ones(2, 2)).dtype is LOW


def test_compiled_code_depends_on_the_region():
    model = network().eval()
    x, y = batch()
    live = ingot.compile(model)
    plain = live(x)
    with autocast("cpu"):
        low, eager = live(x), model(x)
    assert plain.dtype is FULL and low.dtype is LOW and live(x).dtype is FULL
    np.testing.assert_allclose(low.detach().float().numpy(), eager.detach().float().numpy(), rtol=0.05, atol=0.05)
    assert not ingot.equal(low.float(), plain)
    F.cross_entropy(low.float(), y).backward()
    compiled = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.cross_entropy(eager.float(), y).backward()
    for p, grad in zip(model.parameters(), compiled, strict=True):
        assert grad.dtype is FULL
        np.testing.assert_allclose(grad.numpy(), p.grad.numpy(), rtol=0.1, atol=0.02)


def test_functions_with_custom_casts():
    seen = []

    class Multiply(ingot.autograd.Function):
        @staticmethod
        @custom_fwd(device_type="cpu", cast_inputs=FULL)
        def forward(ctx, a, b):
            seen.append((a.dtype, ingot.is_autocast_enabled("cpu")))
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        @custom_bwd(device_type="cpu")
        def backward(ctx, grad):
            a, b = ctx.saved_tensors
            seen.append((grad.dtype, ingot.is_autocast_enabled("cpu")))
            return grad @ b.T, a.T @ grad

    a = ingot.ones(2, 2, dtype=LOW, requires_grad=True)
    b = ingot.ones(2, 2, requires_grad=True)
    with autocast("cpu"):
        out = Multiply.apply(a, b)
    assert out.dtype is FULL
    out.sum().backward()
    assert seen == [(FULL, False), (FULL, False)] and b.grad.dtype is FULL


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_dtypes_of_all_functions_equal_pytorchs():
    """Every operator of PyTorch's own samples that Ingot runs, with float32 and bfloat16 operands."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("expecttest", reason="PyTorch's samples need the package expecttest")
    from test_parity_operators import LEFT_OUT, OPERATORS, callable_of
    from torch.testing._internal.common_methods_invocations import op_db
    from torch_bridge import ingot_of, tensors_in

    wrong, compared = [], 0
    left_out = {*LEFT_OUT["random"].split(), *LEFT_OUT["uninitialised"].split()}
    for op in op_db:
        for dtype in (torch.float32, torch.bfloat16):
            if op.name not in OPERATORS or op.name in left_out or op.variant_test_name:
                continue
            try:
                fn = callable_of(op.name)
            except AttributeError:
                continue
            try:
                sample = next(iter(op.sample_inputs("cpu", dtype)))
                with warnings.catch_warnings(), torch.autocast("cpu"):
                    warnings.simplefilter("ignore")
                    want = [t.dtype for t in tensors_in(op(sample.input, *sample.args, **sample.kwargs))]
                args = ingot_of((sample.input, *sample.args)), ingot_of(sample.kwargs)
            except Exception:
                continue
            try:
                fn(*args[0], **args[1])
            except Exception:
                continue
            with autocast("cpu"):
                got = [t.dtype.name for t in tensors_in(fn(*args[0], **args[1]))]
            compared += 1
            if got != [str(w).split(".")[-1] for w in want]:
                wrong.append((op.name, str(dtype), got, want))
    assert compared > 100
    assert not wrong, "\n".join(map(str, wrong))


# -- GradScaler -----------------------------------------------------------------------------------------
def test_a_loop_with_scaling_skips_infinite_gradients():
    p = nn.Parameter(ingot.tensor([1.0, 2.0]))
    opt = optim.SGD([p], lr=0.5)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    factors = [1.0, float("inf"), 1.0, 1.0, float("nan")]
    values, scales = [], []
    for factor in factors:
        opt.zero_grad()
        with autocast("cpu"):
            loss = (p * factor).sum()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        values.append(p[0].item())
        scales.append(scaler.get_scale())
    assert values == [0.5, 0.5, 0.0, -0.5, -0.5]
    assert scales == [8.0, 4.0, 4.0, 8.0, 4.0]


def test_scaling_keeps_small_gradients_of_half_precision():
    w = nn.Parameter(ingot.tensor([1.0]))
    x = ingot.tensor([2.0**-13], dtype=ingot.float16)

    def gradient(scaler):
        w.grad = None
        loss = (w.half() * x * 2.0**-12).sum()  # d loss / dw = 2**-25: nothing in float16
        scaler.scale(loss).backward()
        return w.grad.item()

    assert gradient(GradScaler("cpu", enabled=False)) == 0
    scaler = GradScaler("cpu", init_scale=2.0**15)  # the largest power of two that float16 holds
    assert gradient(scaler) == 2.0**-10
    scaler.unscale_(optim.SGD([w]))
    assert w.grad.item() == 2.0**-25


@pytest.mark.parity
def test_scaler_equals_pytorchs():
    torch = pytest.importorskip("torch")
    results = []
    for lib in (ingot, torch):
        p, q = (lib.nn.Parameter(lib.tensor([1.0, 2.0])) for _ in range(2))
        first, second = lib.optim.Adam([p], lr=0.1), lib.optim.SGD([q], lr=0.1)
        options = dict(init_scale=2.0**10, growth_factor=3.0, backoff_factor=0.25, growth_interval=3)
        scaler = lib.amp.GradScaler("cpu", **options)
        log = [scaler.get_scale(), scaler.is_enabled(), scaler.state_dict()]
        for i in range(12):
            first.zero_grad()
            second.zero_grad()
            bad = float("inf") if i in (4, 9) else 1.0
            a, b = scaler.scale([(p * p).sum() * bad, (q * q).sum()])
            (a + b).backward()
            scaler.unscale_(first)
            log.append([float(g) for g in p.grad])
            returned = scaler.step(first), scaler.step(second)
            scaler.update()
            if i == 6:
                scaler.scale(p.sum())
                scaler.update(64.0)
            log += [p.tolist(), q.tolist(), scaler.get_scale(), scaler.state_dict(), returned]
        other = lib.amp.GradScaler("cpu")
        other.load_state_dict(scaler.state_dict())
        log.append(other.state_dict())
        log.append(pickle.loads(pickle.dumps(scaler)).state_dict())
        results.append(log)
    for a, b in zip(*results, strict=True):
        if isinstance(a, list):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            assert a == b


@pytest.mark.parity
def test_scaler_errors_equal_pytorchs():
    torch = pytest.importorskip("torch")

    def ready(lib, scale=True):
        p = lib.nn.Parameter(lib.tensor([1.0]))
        opt, scaler = lib.optim.SGD([p], lr=0.1), lib.amp.GradScaler("cpu")
        if scale:
            scaler.scale(p.sum()).backward()
        return opt, scaler, p

    def twice(lib, *names):
        opt, scaler, _ = ready(lib)
        for name in names:
            getattr(scaler, name)(opt)

    cases = [
        lambda lib: twice(lib, "unscale_", "unscale_"),
        lambda lib: twice(lib, "step", "step"),
        lambda lib: twice(lib, "step", "unscale_"),
        lambda lib: ready(lib, False)[1].update(),
        lambda lib: ready(lib, False)[1].unscale_(None),
        lambda lib: ready(lib, False)[1].step(ready(lib)[0]),
        lambda lib: ready(lib)[1].update(),
        lambda lib: ready(lib)[1].step(lib.optim.SGD([lib.nn.Parameter(lib.ones(1))], lr=0.1)),
        lambda lib: ready(lib)[1].step(ready(lib)[0], closure=lambda: 1),
        lambda lib: ready(lib)[1].load_state_dict({}),
        lambda lib: ready(lib)[1].scale(3),
        lambda lib: lib.amp.GradScaler("cpu", growth_factor=1.0),
        lambda lib: lib.amp.GradScaler("cpu", backoff_factor=1.0),
    ]
    for i, case in enumerate(cases):
        with pytest.raises(Exception) as ref:
            case(torch)
        with pytest.raises(type(ref.value)) as mine:
            case(ingot)
        assert i == 10 or str(mine.value) == str(ref.value), i
    opt, scaler, p = ready(ingot)
    half = nn.Parameter(ingot.ones(1, dtype=ingot.float16))
    half.grad = ingot.ones(1, dtype=ingot.float16)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(optim.SGD([half]))
    with pytest.warns(UserWarning, match="CUDA is not available"):
        disabled = GradScaler()
    assert not disabled.is_enabled() and disabled.get_scale() == 1.0 and disabled.state_dict() == {}
    loss = p.sum()
    assert disabled.scale(loss) is loss
    assert disabled.step(opt) is None and disabled.update() is None


def test_the_names_of_gpus_say_that_there_is_none():
    from ingot.cuda.amp import GradScaler as OldScaler
    from ingot.cuda.amp import autocast as old_autocast

    with pytest.warns() as seen, old_autocast():
        assert (ingot.ones(2, 2) @ ingot.ones(2, 2)).dtype is FULL
    assert [w.category for w in seen] == [FutureWarning, UserWarning]
    assert "CUDA is not available" in str(seen[1].message)
    with pytest.warns() as seen:
        assert not OldScaler().is_enabled()
    assert "CUDA is not available" in str(seen[-1].message)
