"""Tracing: what is recorded, symbolic sizes, refusals with the user's line, equality with eager execution."""

import inspect
from collections import namedtuple

import ingot.frontend as ig
import numpy as np
import pytest
from ingot.frontend import InputSpec, missing, nn
from ingot.frontend.tracing import trace
from ingot.ir.dims import Dim
from ingot.ir.dtypes import int64
from ingot.ir.errors import DataDependentError, IngotError, UnsupportedError
from ingot.ir.interpreter import interpret
from ingot.ir.verifier import verify

N = Dim("N", 1, 64)
F = nn.functional


def run(traced, *arrays):
    """Results of the graph by the interpreter: (outputs, updates by state name)."""
    verify(traced.graph)
    values = [*arrays, *(t._data for t in traced.states.values())]
    outs = interpret(traced.graph, values)
    count = traced.out_spec.num_leaves
    return outs[:count], dict(zip(traced.graph.output_names[count:], outs[count:], strict=True))


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def here():
    return inspect.currentframe().f_back.f_lineno


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        self.fc = nn.Linear(400, 10)

    def forward(self, x):
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return F.log_softmax(self.fc(x), dim=1)


def test_graph_names_roles_lines_and_symbolic_batch():
    model = LeNet().eval()
    t = trace(model, (InputSpec((N, 1, 28, 28)),))
    verify(t.graph)
    assert t.graph.inputs[0].name == "x" and t.graph.roles[0] == "input"
    assert list(t.states)[:3] == ["features.0.weight", "features.0.bias", "features.1.weight"]
    assert (
        t.graph.roles[1] == "parameter"
        and t.graph.roles[1 + list(t.states).index("features.1.running_mean")] == "buffer"
    )
    assert not t.graph.updates and str(t.graph.outputs[0].type) == "float32[N, 10]"
    conv = t.graph.find("conv")[1]
    assert conv.source.module == "features.4" and conv.source.file == __file__
    (reshape,) = [n for n in t.graph.find("reshape") if n.source.module == ""]
    lines, first = inspect.getsourcelines(LeNet.forward)
    assert reshape.source.line == first + 2 and "view" in lines[2]
    for batch in (1, 3, 64):
        x = data(batch, 1, 28, 28)
        (out,), _ = run(t, x)
        # Eager mode runs a native kernel from the second call of a signature on, which another test may have made.
        np.testing.assert_allclose(out, model(ig.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_training_updates_statistics_and_random_state():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.drop, self.own = nn.BatchNorm1d(5), nn.Dropout(0.5), nn.BatchNorm1d(5, momentum=None)

        def forward(self, x):
            return self.drop(self.own(self.bn(x)))

    model = Net()
    ig.manual_seed(7)
    t = trace(model, (InputSpec((Dim("N", 2), 5)),))
    assert "rng_state" in t.states and t.graph.roles[1 + list(t.states).index("rng_state")] == "rng"
    assert not t.detached
    x = data(6, 5)
    (out,), updates = run(t, x)
    eager = model(ig.from_numpy(x))
    np.testing.assert_allclose(out, eager.detach().numpy(), rtol=1e-6)
    assert set(updates) == {
        "rng_state",
        *(f"{m}.{k}" for m in ("bn", "own") for k in ("running_mean", "running_var", "num_batches_tracked")),
    }
    for name, value in updates.items():
        np.testing.assert_allclose(value, t.states[name]._data, rtol=1e-6, err_msg=name)


def test_fixed_and_symbolic_arithmetic():
    seen = {}

    def fn(x):
        n, c = x.shape
        seen["shape"], seen["ints"] = repr(x.shape), (n * 2 - n - n, x.numel() // n)
        assert n >= 1 and n <= 64 and n != 0 and not n > 100 and c == 4 and isinstance(c, int)
        y = x.reshape(n * 2, -1)
        z = ig.arange(n).view(-1, 1) + x[1 - 1 : n, : c // 2]
        w = x.sum() / n + ig.zeros(n, 2).mean() + ig.tensor([n, 1]).sum() + n * x.mean()
        return (
            y.view(n, 2, 2).expand(n, 2, 2).flatten(1),
            z,
            w,
            ig.cat([x, x]).chunk(2)[1],
            x[-1],
            x.unsqueeze(0).repeat(3, 1, 1),
        )

    t = trace(fn, (InputSpec((N, 4)),))
    assert seen == {"shape": "torch.Size([N, 4])", "ints": (0, 4)}
    for batch in (1, 5):
        x = data(batch, 4)
        outs, _ = run(t, x)
        eager = fn(ig.from_numpy(x))
        for a, b in zip(outs, eager, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-6)
            assert a.dtype == b.numpy().dtype


def raises_at(offset, fn, *specs, error=DataDependentError, match=None):
    line = inspect.getsourcelines(fn)[1] + offset
    with pytest.raises(error, match=match) as info:
        trace(fn, specs)
    assert f"{__file__}:{line}" in str(info.value), info.value
    return str(info.value)


def test_control_flow_on_data_or_size_is_refused_with_the_line():
    spec = InputSpec((N, 4))

    def branch(x):
        y = x + 1
        if y.sum() > 0:
            return y
        return x

    assert "where" in raises_at(2, branch, spec)

    def size_branch(x):
        if x.shape[0] > 32:
            return x
        return x + 1

    assert "1 <= N <= 64" in raises_at(1, size_branch, spec)

    def item(x):
        return x * x.mean().item()

    raises_at(1, item, spec)

    def numpy(x):
        return np.asarray(x)

    raises_at(1, numpy, spec)

    def loop(x):
        return [row for row in x]

    raises_at(1, loop, spec)

    def as_int(x):
        return ig.zeros(int(x.shape[0]))

    raises_at(1, as_int, spec)

    def root(x):
        return x / x.shape[0] ** 0.5

    raises_at(1, root, spec)

    def ranged(x):
        return [x for _ in range(x.size(0))]

    raises_at(1, ranged, spec)

    def length(x):
        return x / len(x)

    raises_at(1, length, spec)

    def mask(x):
        return x[x > 0]

    raises_at(1, mask, spec, match="boolean-mask")

    def cut(x):
        return x[:10]

    raises_at(1, cut, spec, match="slice")


def test_module_path_is_in_the_message():
    class Inner(nn.Module):
        def forward(self, x):
            return x if x.max() > 0 else -x

    with pytest.raises(DataDependentError, match=r"in module 1\.0"):
        trace(nn.Sequential(nn.ReLU(), nn.Sequential(Inner())), (InputSpec((2, 2)),))


def test_everything_unsupported_is_listed_at_once():
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = ig.zeros(3)
            self.other = ig.zeros(2, 2)

        def forward(self, x):
            x = x + 1
            self.other[0] = x[0]
            self.cache += x.sum()
            return x * self.cache.sum()

    with pytest.raises(UnsupportedError) as info:
        trace(nn.Sequential(Bad(), Bad()), (InputSpec((2, 2)),))
    assert len(info.value.items) == 4
    first = inspect.getsourcelines(Bad.forward)[1]
    for item, (path, line, word) in zip(
        info.value.items,
        [("0", 2, "index assignment"), ("0", 3, "register_buffer"), ("1", 2, "register"), ("1", 3, "__iadd__")],
        strict=True,
    ):
        assert item.startswith(path + ":") and f"{__file__}:{first + line}" in item and word in item, item
        assert "float32[" in item


def test_missing_operators_are_listed_with_the_rest():
    class Bad(nn.Module):
        def forward(self, x):
            phase = x.angle().sparse_mask(x)
            return (phase + 1).dequantize() + x.sum()

    with pytest.raises(UnsupportedError, match="3 things") as info:
        trace(nn.Sequential(Bad(), nn.ReLU()), (InputSpec((N, 4)),))
    assert [item.split(" on ")[0] for item in info.value.items] == ["0: angle", "0: sparse_mask", "0: dequantize"]
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'angle'"):
        ig.zeros(2).angle()
    with pytest.raises(AttributeError, match="no attribute 'typo'"):
        trace(lambda x: x.typo(), (InputSpec((2,)),))


def test_what_is_listed_as_missing_is_missing():
    assert not [name for name in missing.SAME_SHAPE if hasattr(ig.Tensor, name)]


def test_squeeze_of_a_symbolic_extent_must_be_decided():
    t = trace(lambda x: x.squeeze(), (InputSpec((Dim("M", 2), 1, 3)),))
    assert str(t.graph.outputs[0].type) == "float32[M, 3]"
    with pytest.raises(DataDependentError):
        trace(lambda x: x.squeeze(), (InputSpec((N, 1, 3)),))
    trace(lambda x: x.squeeze(1), (InputSpec((N, 1, 3)),))


def test_in_place_operations_are_functionalised():
    def fn(x, flag):
        y = x * 2
        y += 1
        y.mul_(x).clamp_(min=0)
        z = ig.zeros(3)
        z += 2
        z += y.sum()
        w = F.relu(y.view(-1), inplace=True)
        return w + z.sum() if flag else w

    t = trace(fn, (InputSpec((2, 3)), True))
    x = data(2, 3)
    (out,), updates = run(t, x)
    assert not updates and len(t.graph.inputs) == 1
    np.testing.assert_allclose(out, fn(ig.from_numpy(x), True).numpy(), rtol=1e-6)


def test_views_follow_writes_through_each_other():
    def fn(x):
        y = x + 1
        flat = y.view(-1)
        flat += 1
        columns = y.t()
        columns[1:] = x[:, 1:].t() * 2  # through a slice of a transposition
        y[0, ::2] = 5.0
        part = y[:, 1]
        y.mul_(3)
        made = ig.zeros(2, 3)
        made[1] = x[0]  # a tensor of this forward becomes part of the graph
        made[0, 1] = 7.0
        return y, flat, part, columns, made

    t = trace(fn, (InputSpec((2, 3)),))
    x = data(2, 3)
    outs, updates = run(t, x)
    assert not updates
    for got, want in zip(outs, fn(ig.from_numpy(x)), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)


def test_index_tensors_and_masks_in_assignments():
    def fn(x):
        y = x * 1
        y[ig.tensor([2, 0, 2])] = ig.arange(12.0).view(3, 4)
        y[:, ig.tensor([1])] = -1.0
        y[y > 4] = 0.5
        return y

    t = trace(fn, (InputSpec((3, 4)),))
    x = data(3, 4)
    ((out,), _) = run(t, x)
    np.testing.assert_allclose(out, fn(ig.from_numpy(x)).numpy(), rtol=1e-6)


def test_parameters_and_buffers_are_written_through_views():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", ig.zeros(2, 3))

        def forward(self, x):
            self.seen.view(-1)[1:3].add_(1)
            self.seen.data.add_(x)
            return x + self.seen

    model = Counting()
    t = trace(model, (InputSpec((2, 3)),))
    x = data(2, 3)
    (out,), updates = run(t, x)
    want = model(ig.from_numpy(x)).numpy()
    np.testing.assert_allclose(out, want, rtol=1e-6)
    np.testing.assert_allclose(updates["seen"], model.seen.numpy(), rtol=1e-6)


def test_writes_to_outside_memory_are_refused():
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = ig.zeros(2, 3)

        def forward(self, x):
            self.plain.view(-1).add_(1)
            self.plain[0] = x[0]
            return x

    with pytest.raises(UnsupportedError) as info:
        trace(Bad(), (InputSpec((2, 3)),))
    assert ["register_buffer" in i for i in info.value.items] == [True, True]

    def copies(x):
        y = x.repeat(1, 1)
        y += 1
        z = ig.full((2, 3), ig.tensor(2.0))
        z += 1
        return x + y + z

    (out,), _ = run(trace(copies, (InputSpec((2, 3)),)), data(2, 3))
    np.testing.assert_allclose(out, copies(ig.from_numpy(data(2, 3))).numpy(), rtol=1e-6)


def test_states_can_be_read_and_written():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", ig.zeros(3))
            self.register_buffer("steps", ig.tensor(0))

        def forward(self, x):
            self.steps += 1
            self.total = self.total * 0.5 + x.sum(0)
            return x / self.total + self.steps

    model = Running()
    t = trace(model, (InputSpec((N, 3)),))
    x = data(4, 3)
    (out,), updates = run(t, x)
    assert model.steps.item() == 0 and sorted(updates) == ["steps", "total"]
    np.testing.assert_allclose(out, model(ig.from_numpy(x)).numpy(), rtol=1e-6)
    np.testing.assert_allclose(updates["total"], model.total.numpy(), rtol=1e-6)


def test_nested_structures_pass_through():
    Pair = namedtuple("Pair", ["left", "right"])

    def fn(batch, *, scale=1.0, extra=None):
        a, (b, c) = batch["a"], batch["rest"]
        return {"sum": a + b, "pair": Pair(b * scale, None), "list": [c, 3, "text", extra]}

    batch = {"a": InputSpec((2,)), "rest": [ig.ones(2), np.arange(2)]}
    t = trace(fn, (batch,), {"scale": 2.0, "extra": ig.zeros(1)})
    assert [v.name for v in t.graph.inputs] == ["batch_a", "batch_rest_0", "batch_rest_1", "extra"]
    assert t.graph.inputs[2].dtype is int64
    assert t.graph.output_names == ["output_sum", "output_pair_left", "output_list_0", "output_list_3"]
    from ingot.frontend.structure import Spec, unflatten

    result = unflatten(t.out_spec, ["s", "l", "c", "e"])
    assert result == {"sum": "s", "pair": ("l", None), "list": ["c", 3, "text", "e"]} and isinstance(
        result["pair"], Pair
    )
    again = unflatten(Spec.from_json(t.out_spec.to_json()), ["s", "l", "c", "e"])
    assert again == result and again["pair"].left == "l"


def test_random_numbers_indices_and_constants_inside_forward():
    table = ig.randn(5, 3)

    def fn(x, index):
        noise = ig.randn_like(x) + ig.rand(x.shape[0], 3)
        return x + noise * 0 + table[index] + x[:, ig.tensor([2, 0, -1])] + x[ig.arange(x.shape[0]), 0].unsqueeze(1)

    t = trace(fn, (InputSpec((N, 3)), InputSpec((N,), int64)))
    x, index = data(4, 3), np.array([0, -1, 4, 2])
    (out,), updates = run(t, x, index)
    assert list(updates) == ["rng_state"]
    np.testing.assert_allclose(out, fn(ig.from_numpy(x), ig.from_numpy(index)).numpy(), rtol=1e-5, atol=1e-6)


def test_in_place_noise_is_drawn_by_the_program():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("noise", ig.zeros(4))

        def forward(self, x):
            self.noise.uniform_(1, 2)
            return x + self.noise + ig.empty(4).normal_(5, 0.1)

    t = trace(Noisy(), (InputSpec((4,)),))
    assert len(t.graph.find("random_uniform")) == 3
    (out,), updates = run(t, np.zeros(4, np.float32))
    assert set(updates) == {"noise", "rng_state"} and (updates["noise"] >= 1).all() and (updates["noise"] < 2).all()
    assert len(set(out.tolist())) == 4 and (np.abs(out - updates["noise"] - 5) < 1).all()
    with pytest.raises(UnsupportedError, match="randperm"):
        trace(lambda x: x[ig.randperm(4)], (InputSpec((4,)),))


def test_detach_and_no_grad_mark_barriers():
    def fn(x):
        with ig.no_grad():
            y = x * 2
        return x + y + x.detach()

    t = trace(fn, (InputSpec((2,)),))
    assert [v.producer.op for v in t.detached] == ["mul", "identity"]


def test_traces_do_not_leak():
    kept = []
    trace(lambda x: kept.append(x + 1) or x, (InputSpec((2,)),))
    with pytest.raises(UnsupportedError, match="trace that has ended"):
        kept[0].numpy()
    with pytest.raises(IngotError, match="earlier trace"):
        trace(lambda x: x + kept[0], (InputSpec((2,)),))
    assert not ig.is_tracing()
    with pytest.raises(IngotError, match="inside a trace"):
        trace(lambda x: trace(lambda y: y, (x,)), (InputSpec((2,)),))
    assert not ig.is_tracing()


def test_shape_errors_name_the_place():
    def fn(x):
        return x @ ig.ones(5, 2)

    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        trace(fn, (InputSpec((N, 4)),))

    def broadcast(x):
        return x + ig.ones(3)

    raises_at(1, broadcast, InputSpec((N, 4)), error=RuntimeError)


@pytest.mark.parametrize(
    "layer,shape",
    [
        (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 9, 8)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 9, 8)),
        (nn.AdaptiveAvgPool2d((4, 3)), (3, 9, 8)),
        (nn.AdaptiveAvgPool2d(1), (3, 9, 8)),
        (nn.LayerNorm(5), (3, 5)),
        (nn.PReLU(3), (3, 5)),
        (nn.LogSigmoid(), (4,)),
        (nn.Softmax(-1), (4,)),
        (nn.Sequential(nn.Flatten(), nn.Linear(15, 2)), (3, 5)),
        (nn.SELU(), (3,)),
        (nn.Unflatten(1, (3, -1)), (6,)),
        (nn.Hardtanh(-0.5, 0.5), (6,)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_layers_on_a_symbolic_batch(layer, shape):
    t = trace(layer, (InputSpec((N, *shape)),))
    for batch in (1, 3):
        x = data(batch, *shape)
        (out,), _ = run(t, x)
        np.testing.assert_allclose(out, layer(ig.from_numpy(x)).detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_on_a_symbolic_batch(smoothing):
    loss = nn.CrossEntropyLoss(ig.tensor([1.0, 2.0, 0.5]), ignore_index=1, label_smoothing=smoothing)
    t = trace(loss, (InputSpec((N, 3)), InputSpec((N,), int64)))
    x, y = data(5, 3), np.array([0, 1, 2, 2, 0])
    (out,), _ = run(t, x, y)
    np.testing.assert_allclose(out, loss(ig.from_numpy(x), ig.from_numpy(y)).numpy(), rtol=1e-6)


def test_long_graphs_trace_in_linear_time():
    def fn(x):
        for _ in range(5000):
            x = x * 1.5
        return x

    assert len(trace(fn, (InputSpec((2,)),)).graph) == 10000
