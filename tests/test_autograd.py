"""Eager differentiation: PyTorch's rules on graphs, in-place changes, views, hooks, modes."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import ingot as ig
import numpy as np
import pytest
from ingot import autograd
from ingot.frontend import dispatch
from ingot.ir import registry
from op_cases import gradient_cases
from op_gradients import CONSTANT_OPERANDS


def leaf(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return ig.from_numpy(values).requires_grad_()


# -- numbers and printed forms of the specification -----------------------------------------------------
def test_derivatives_of_a_cubic():
    x = ig.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = 2 * x + 1
    assert y.tolist() == [3, 5, 7]
    y.backward(ig.ones(3), retain_graph=True)
    assert str(x.grad) == "tensor([2., 2., 2.])"
    x.grad = None
    z = y**3
    assert z.tolist() == [27, 125, 343]
    z.backward(ig.tensor([1, 0.1, 0.01]), retain_graph=True)
    assert str(x.grad) == "tensor([54.0000, 15.0000,  2.9400])"
    printed, last = [], z.sum()
    for _ in range(4):
        (last,) = autograd.grad(last.sum(), y, create_graph=True)
        printed.append(str((last,)))
    assert printed == [
        "(tensor([ 27.,  75., 147.], grad_fn=<MulBackward0>),)",
        "(tensor([18., 30., 42.], grad_fn=<MulBackward0>),)",
        "(tensor([6., 6., 6.], grad_fn=<MulBackward0>),)",
        "(tensor([0., 0., 0.]),)",
    ]
    x.grad = None
    z.sum().backward(retain_graph=True)
    assert str(x.grad) == "tensor([ 54., 150., 294.])"
    (first,) = autograd.grad(z.sum(), x, create_graph=True)
    (second,) = autograd.grad(first.sum(), x)
    assert first.tolist() == [54, 150, 294] and second.tolist() == [72, 120, 168]


def test_what_requires_grad_means():
    x = ig.ones(2, requires_grad=True)
    y = x * 2
    assert x.is_leaf and x.grad_fn is None and not y.is_leaf and y.requires_grad
    assert y.grad_fn.name == "MulBackward0" and "MulBackward0" in str(y.grad_fn)
    z = ig.zeros(2)
    assert z.requires_grad_(True) is z and z.requires_grad
    frozen, chosen = ig.ones(2), ig.ones(2, requires_grad=True)
    (frozen * 3 + chosen).sum().backward()
    assert frozen.grad is None and chosen.grad.tolist() == [1, 1]
    middle = (x * 3).detach().requires_grad_()  # cut off, and on again
    (middle * 5).sum().backward()
    assert x.grad is None and middle.grad.tolist() == [5, 5]
    assert (x * 2).mean().backward() is None and x.grad.tolist() == [1, 1]
    x.grad, y.grad = None, None
    assert x.grad is None


def test_the_discriminators_step_leaves_the_generator_alone():
    generator, discriminator = ig.nn.Linear(2, 2), ig.nn.Linear(2, 1)
    fake = generator(ig.randn(4, 2))
    discriminator(fake.detach()).mean().backward()
    assert generator.weight.grad is None and discriminator.weight.grad is not None


def test_variables_are_tensors():
    x = autograd.Variable(ig.ones(2, 2), requires_grad=True)
    y = x + 2
    y.sum().backward()
    assert x.grad.tolist() == [[1, 1], [1, 1]] and isinstance(y, autograd.Variable)
    assert not isinstance(1, autograd.Variable) and x.data.requires_grad is False
    assert isinstance(ig.nn.Parameter(ig.ones(1)), autograd.Variable)
    with pytest.raises(RuntimeError, match="no_grad"):
        autograd.Variable(ig.ones(1), volatile=True)


# -- backward ---------------------------------------------------------------------------------------------
def test_gradients_accumulate_and_are_the_leafs_own():
    x = leaf(3)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad is first and first.tolist() == [5, 5, 5]
    a, b = leaf(2), leaf(2)
    (a + b).backward(seed := ig.ones(2, dtype=ig.float64))
    a.grad.add_(1)
    assert b.grad.tolist() == [1, 1] and seed.tolist() == [1, 1]


def test_second_backward_needs_retain_graph():
    x = leaf(3)
    y = x.exp().sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()
    z = (x + 1).sum()  # saves nothing
    z.backward()
    z.backward()


def test_saved_values_are_freed():
    x = leaf(4)
    y = x * 2
    held = weakref.ref(y)
    z = y.exp().sum()
    del y
    z.backward()
    gc.collect()
    assert held() is None
    w = x.exp()  # saves its own result
    held = weakref.ref(w)
    del w
    assert held() is None


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (lambda x: x.detach().sum().backward(), "does not require grad and does not have a grad_fn"),
        (lambda x: x.exp().backward(), "grad can be implicitly created only for scalar outputs"),
        (lambda x: x.exp().backward(ig.ones(4)), "Mismatch in shape"),
        (lambda x: autograd.grad(x.sum(), leaf(2)), "appears to not have been used"),
        (lambda x: autograd.grad(x.sum(), ig.ones(2)), "does not require grad"),
        (lambda x: x.sum().backward(inputs=[]), "cannot be empty"),
        (lambda x: setattr(x.exp(), "requires_grad", False), "requires_grad flags of leaf"),
        (lambda x: setattr(x, "grad", ig.ones(2, dtype=ig.float64)), "size"),
        (lambda x: setattr(x, "grad", ig.ones(3)), "dtype"),
        (lambda x: ig.tensor([1]).requires_grad_(), "floating point"),
        (lambda x: x.add_(1), "a leaf Variable that requires grad"),
        (lambda x: x[0].add_(1), "a view of a leaf Variable"),
        (lambda x: x.__setitem__(0, 1.0), "a view of a leaf|a leaf Variable"),
        (lambda x: copy.deepcopy(x * 2), "graph leaves"),
        (lambda x: x.numpy(), "Use tensor.detach"),
    ],
)
def test_errors(run, error):
    with pytest.raises(RuntimeError, match=error):
        run(leaf(3))


def test_unused_inputs():
    x, y = leaf(3), leaf(2)
    assert autograd.grad(x.sum(), (x, y), allow_unused=True)[1] is None
    assert autograd.grad(x.sum(), (x, y), materialize_grads=True)[1].tolist() == [0, 0]


def test_inputs_of_backward_and_results_that_retain():
    x = leaf(3)
    y = x * 2
    z = (y * y).sum()
    z.backward(inputs=[y], retain_graph=True)
    assert x.grad is None and np.allclose(y.grad.numpy(), 2 * y.detach().numpy())
    y2 = x * 3
    y2.retain_grad()
    (y2.sum() + (y2 * 2).sum()).backward()
    assert y2.retains_grad and y2.grad.tolist() == [3, 3, 3] and x.grad.tolist() == [9, 9, 9]


def test_several_results_of_one_operator():
    x = leaf(2, 1, 4, 4)
    values, index = ig.nn.functional.max_pool2d(x, 2, return_indices=True)
    assert index.grad_fn is None and not index.requires_grad
    values.sum().backward()
    assert x.grad.sum().item() == 8


# -- in place and views --------------------------------------------------------------------------------
def in_place(a, b):
    y = a * 2
    y.mul_(b)  # both operands' old values are needed
    y[1] = b[0].exp()
    flat = y.view(-1)
    flat[2:4].add_(a[0, :2])
    y.t()[0].mul_(y[:, 1].clone())
    y[ig.tensor([0, 2])] = a[:2] * b[1:]
    y[y > 10] = 3.0
    y.unsqueeze(0).squeeze(0)[:, 0].copy_(a[:, 1])
    y.sigmoid_()
    return y * flat.view_as(y)


def test_in_place_and_views_against_differences():
    a, b = leaf(3, 4, seed=1), leaf(3, 4, seed=2)
    assert autograd.gradcheck(in_place, (a, b))
    assert autograd.gradgradcheck(in_place, (a, b))


@pytest.mark.parity
def test_in_place_and_views_like_pytorch():
    torch = pytest.importorskip("torch")
    a, b = leaf(3, 4, seed=1), leaf(3, 4, seed=2)
    ta, tb = (torch.tensor(t.detach().numpy(), requires_grad=True) for t in (a, b))

    def twin(a, b):
        y = a * 2
        y.mul_(b)
        y[1] = b[0].exp()
        flat = y.view(-1)
        flat[2:4].add_(a[0, :2])
        y.t()[0].mul_(y[:, 1].clone())
        y[torch.tensor([0, 2])] = a[:2] * b[1:]
        y[y > 10] = 3.0
        y.unsqueeze(0).squeeze(0)[:, 0].copy_(a[:, 1])
        y.sigmoid_()
        return y * flat.view_as(y)

    ours, theirs = in_place(a, b), twin(ta, tb)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12)
    ours.sum().backward()
    theirs.sum().backward()
    for x, t in ((a, ta), (b, tb)):
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-12)


def test_changing_a_saved_value_is_an_error():
    x = leaf(3)
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation: \[torch.DoubleTensor \[3\]\].* is at "
                                           r"version 1; expected version 0 instead"):  # fmt: skip
        y.sum().backward()
    z = x * 2
    w = z * z
    z[0] = 5  # through a view
    with pytest.raises(RuntimeError, match="inplace operation"):
        w.sum().backward()
    z = x * 2
    w = z * z
    z.detach().zero_()  # shares the counter
    with pytest.raises(RuntimeError, match="inplace operation"):
        w.sum().backward()
    z = x * 2
    w = z * z
    z.data.zero_()  # does not
    w.sum().backward()


def test_versions_are_shared_by_views():
    x = ig.zeros(2, 3)
    v = x[0]
    v.add_(1)
    x.mul_(2)
    assert x._version == v._version == 2 and v._base is x and v._is_view() and not x._is_view()


def test_views_made_without_grad_mode():
    x = leaf(3) * 2
    with ig.no_grad():
        v = x[:2]
    with pytest.raises(RuntimeError, match="no_grad mode"):
        v.add_(1)
    with ig.no_grad():
        v.add_(1)


# -- modes -----------------------------------------------------------------------------------------------
def test_grad_modes():
    x = leaf(2)

    @ig.no_grad()
    def quiet():
        return x * 2

    @ig.no_grad()
    def generator():
        yield ig.is_grad_enabled()
        yield ig.is_grad_enabled()

    assert not quiet().requires_grad
    inside = generator()
    assert next(inside) is False and ig.is_grad_enabled() and next(inside) is False
    with ig.no_grad():
        with ig.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    with ig.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert ig.is_grad_enabled()


def test_inference_mode():
    x = leaf(2)
    with ig.inference_mode():
        y = x * 2
        assert ig.is_inference_mode_enabled() and y.is_inference() and not y.requires_grad
        y.add_(1)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        x * y
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        y.add_(1)
    (x * y.clone()).sum().backward()


def test_anomaly_names_the_operation():
    x = ig.zeros(2, requires_grad=True)
    with autograd.detect_anomaly():
        y = x.sqrt() * 0
        with pytest.warns(UserWarning, match="test_autograd.py"), pytest.raises(
            RuntimeError, match="Function 'SqrtBackward0' returned nan values in its 0th output"
        ):
            y.sum().backward()
    assert not autograd.is_anomaly_enabled()


# -- hooks -----------------------------------------------------------------------------------------------
def test_tensor_hooks():
    x = leaf(2)
    y = x * 2
    seen = []
    handle = y.register_hook(lambda g: seen.append(g.tolist()) or g * 10)
    x.register_hook(lambda g: seen.append(g.tolist()))
    y.sum().backward(retain_graph=True)
    assert seen == [[1, 1], [20, 20]] and x.grad.tolist() == [20, 20]
    handle.remove()
    y.sum().backward(retain_graph=True)
    assert x.grad.tolist() == [22, 22]
    y.register_hook(lambda g: g.sum())
    with pytest.raises(RuntimeError, match="changed the size"):
        y.sum().backward()
    done = []
    w = leaf(2)
    w.register_post_accumulate_grad_hook(lambda t: done.append(t.grad.tolist()))
    (w * 3).sum().backward()
    assert done == [[3, 3]]


def test_node_hooks_and_graph():
    x = leaf(2)
    y = x * 2
    node = y.grad_fn
    assert node.name == "MulBackward0" and repr(node).startswith("<MulBackward0 object at")
    ((accumulate, nr), _) = node.next_functions
    assert accumulate.name == "AccumulateGrad" and nr == 0 and accumulate.variable is x
    node.register_prehook(lambda grads: (grads[0] * 2,))
    node.register_hook(lambda ins, outs: (ins[0] + 1, None))
    y.sum().backward()
    assert x.grad.tolist() == [5, 5]
    assert autograd.graph.get_gradient_edge(y).node is node


# -- operators of one's own ---------------------------------------------------------------------------
class Cube(autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3 * factor

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        assert ctx.needs_input_grad == (True, False)
        return grad * 3 * x**2 * ctx.factor, None


class Split(autograd.Function):
    @staticmethod
    def forward(x):
        return x * 2, x.argmax(), x.exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output[2])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, a, _, b):
        return a * 2 + b * ctx.saved_tensors[0]


def test_functions():
    x = leaf(3)
    y = Cube.apply(x, 2.0)
    assert y.grad_fn.name == "CubeBackward"
    assert autograd.gradcheck(lambda t: Cube.apply(t, 2.0), (x,))
    assert autograd.gradgradcheck(lambda t: Cube.apply(t, 2.0), (x,))
    a, i, b = Split.apply(x)
    assert not i.requires_grad and a.grad_fn is b.grad_fn
    assert autograd.gradcheck(lambda t: Split.apply(t)[::2], (x,))
    b.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        b.sum().backward()


def test_functions_that_change_their_input_and_errors():
    class Double(autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = leaf(2)
    y = x + 0
    z = Double.apply(y)
    assert z is y and z.grad_fn.name == "DoubleBackward"
    z.sum().backward()
    assert x.grad.tolist() == [2, 2]

    class Wrong(autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad, grad

    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        Wrong.apply(x).sum().backward()


def test_functional():
    x = leaf(3)
    f = lambda t: (t**3).sum()  # noqa: E731
    values = x.detach().numpy()
    assert np.allclose(autograd.functional.hessian(f, x).numpy(), np.diag(6 * values))
    assert np.allclose(autograd.functional.jacobian(lambda t: t.exp(), x).numpy(), np.diag(np.exp(values)))
    v = ig.ones(3, dtype=ig.float64)
    assert np.allclose(autograd.functional.jvp(lambda t: t.exp(), x, v)[1].numpy(), np.exp(values))
    assert np.allclose(autograd.functional.vjp(lambda t: t.exp(), x, v)[1].numpy(), np.exp(values))
    assert np.allclose(autograd.functional.hvp(f, x, v)[1].numpy(), 6 * values)


def test_a_gradient_without_a_rule_is_an_error():
    a, x = leaf(3), leaf(3)
    y = ig.igamma(a.abs(), x.abs())
    with pytest.raises(NotImplementedError, match=r"derivative for .*igamma.* is not implemented"):
        y.sum().backward()
    ig.igamma(a.abs().detach(), x.abs()).sum().backward()
    assert x.grad is not None


# -- compiled modules -------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [True, False])
def test_compiled_modules_keep_the_graph(mode):
    """Gradients through a live module: those of the eager one, and statistics are updated once."""
    ig.manual_seed(0)
    nn = ig.nn
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)).train(mode)
    live = ig.compile(net)
    x = ig.randn(16, 4).requires_grad_()

    def gradients(model):
        x.grad = None
        net.zero_grad()
        ig.manual_seed(7)
        out = model(x)
        seen = net[1].running_mean.clone()
        out.square().sum().backward()
        assert ig.equal(seen, net[1].running_mean)
        return [x.grad, *(p.grad for p in net.parameters())]

    for a, b in zip(gradients(live), gradients(net), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)
    assert net[1].num_batches_tracked.item() == 2 * mode
    assert live(x).grad_fn.name == "CompiledBackward"
    with ig.no_grad():
        assert not live(x).requires_grad


def test_frozen_executables_have_the_gradient_of_their_inputs(tmp_path):
    net = ig.nn.Sequential(ig.nn.Linear(3, 2), ig.nn.Tanh())
    x = ig.randn(5, 3).requires_grad_()
    exe = ig.compile(net, x.detach())
    exe(x).sum().backward()
    compiled, x.grad = x.grad, None
    net(x).sum().backward()
    np.testing.assert_allclose(compiled.numpy(), x.grad.numpy(), rtol=1e-5)
    exe.save(tmp_path / "net.ingot")
    with pytest.raises(ig.IngotError, match="has no gradient"):
        ig.load_executable(tmp_path / "net.ingot")(x)
    y = exe(x)
    with ig.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(ig.IngotError, match="have changed since"):
        y.sum().backward()


def test_compiling_functions_of_ones_own():
    """Inference records forward's operators; a training step would differentiate them and ignore backward."""

    class Net(ig.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ig.nn.Linear(3, 2)

        def forward(self, x):
            return Cube.apply(self.fc(x), 2.0)

    net, x = Net(), ig.randn(4, 3)
    with ig.no_grad():
        np.testing.assert_allclose(ig.compile(net, x)(x).numpy(), net(x).numpy(), rtol=1e-5)
    step = ig.compile_step(net, ig.nn.MSELoss(), ig.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(ig.IngotError, match=r"test_autograd.py:\d+: Cube is an autograd.Function with a backward"):
        step(x, ig.zeros(4, 2))


# -- copies ------------------------------------------------------------------------------------------------
def test_copies_keep_flags_and_gradients():
    x = leaf(2)
    (x * 2).sum().backward()
    y = copy.deepcopy(x)
    assert y.requires_grad and y.grad.tolist() == [2, 2] and y.grad is not x.grad
    z = pickle.loads(pickle.dumps(x))
    assert z.requires_grad and z.tolist() == x.tolist()


# -- every operator ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", sorted(registry.OPS))
def test_gradients_of_operators(op):
    """Eager gradients by the operators' own rules, in float64, against finite differences."""
    for case in gradient_cases(op, seed=3):
        tensors = [ig.from_numpy(np.array(x)) for x in case.inputs]
        for i, t in enumerate(tensors):
            if t.is_floating_point() and i not in CONSTANT_OPERANDS.get(op, ()):
                t.requires_grad_()
        if any(t.requires_grad and t.numel() for t in tensors) and sum(t.numel() for t in tensors) < 200:
            apply = lambda *xs, case=case: dispatch.apply(case.op, *xs, **case.attrs)  # noqa: E731
            assert autograd.gradcheck(apply, tensors, atol=1e-4), case


@pytest.mark.parametrize("op", sorted(registry.OPS))
def test_second_gradients_of_operators(op):
    """The gradient of every rule's result, recorded by ``create_graph``, against finite differences."""
    for case in gradient_cases(op, seed=3):
        tensors = [ig.from_numpy(np.array(x)) for x in case.inputs]
        for i, t in enumerate(tensors):
            if t.is_floating_point() and i not in CONSTANT_OPERANDS.get(op, ()):
                t.requires_grad_()
        if any(t.requires_grad and t.numel() for t in tensors) and sum(t.numel() for t in tensors) < 40:
            apply = lambda *xs, case=case: dispatch.apply(case.op, *xs, **case.attrs)  # noqa: E731
            outs = apply(*tensors)
            if any(o.requires_grad and o.numel() for o in (outs if isinstance(outs, tuple) else (outs,))):
                assert autograd.gradgradcheck(apply, tensors, atol=1e-3), case
