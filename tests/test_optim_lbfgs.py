"""LBFGS: Rosenbrock's valley and a regression, against PyTorch's iterates."""

import ingot
import numpy as np
import pytest
from ingot import nn, optim
from ingot.ir.errors import UnsupportedError

OPTIONS = [
    {},
    dict(lr=0.1, history_size=3),
    dict(line_search_fn="strong_wolfe"),
    dict(line_search_fn="strong_wolfe", lr=0.5, max_iter=7, history_size=2),
    dict(line_search_fn="strong_wolfe", max_iter=40, max_eval=9),
]


def rosenbrock(p):
    return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2


def quartic(p):
    return ((p - 3) ** 4).sum() + (p**2).sum()


def run(lib, optim_lib, function, start, options, steps):
    p = lib.tensor(start, dtype=lib.float64, requires_grad=True)
    opt = optim_lib.LBFGS([p], **options)
    losses = []

    def closure():
        opt.zero_grad()
        loss = function(p)
        loss.backward()
        return loss

    for _ in range(steps):
        losses.append(opt.step(closure).item())
    return p.detach().numpy(), losses, opt


@pytest.mark.parity
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("function", "start"), [(rosenbrock, [-1.2, 1.0]), (quartic, [0.0, 10.0, -2.0])])
def test_iterates_equal_pytorchs(function, start, options):
    torch = pytest.importorskip("torch")
    mine, losses, a = run(ingot, optim, function, start, options, 4)
    ref, their_losses, b = run(torch, torch.optim, function, start, options, 4)
    np.testing.assert_allclose(losses, their_losses, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(mine, ref, rtol=1e-6)
    (state,), (theirs,) = a.state.values(), b.state.values()
    assert state["n_iter"] == theirs["n_iter"] and state["func_evals"] == theirs["func_evals"]
    assert set(theirs) - {"al"} == set(state)
    assert len(state["ro"]) == len(theirs["ro"])
    assert repr(a) == repr(b)


def test_the_valley_is_crossed_and_a_checkpoint_goes_on():
    p, losses, opt = run(ingot, optim, rosenbrock, [-1.2, 1.0], dict(line_search_fn="strong_wolfe"), 2)
    q = ingot.tensor(p.copy(), requires_grad=True)
    again = optim.LBFGS([q], line_search_fn="strong_wolfe")
    again.load_state_dict(opt.state_dict())

    def closure():
        again.zero_grad()
        loss = rosenbrock(q)
        loss.backward()
        return loss

    for _ in range(3):
        again.step(closure)
    np.testing.assert_allclose(q.detach().numpy(), 1.0, atol=1e-4)
    assert losses[0] == pytest.approx(24.2) and again.state[q]["n_iter"] > opt.state_dict()["state"][0]["n_iter"] - 1


def test_what_it_refuses():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="per-parameter options"):
        optim.LBFGS([{"params": [model.weight]}, {"params": [model.bias]}])
    with pytest.raises(UnsupportedError, match="LBFGS"):
        ingot.compile_step(model, nn.MSELoss(), optim.LBFGS(model.parameters()))
    opt = optim.LBFGS(model.parameters(), line_search_fn="backtracking")

    def closure():
        opt.zero_grad()
        loss = model(ingot.ones(3, 2)).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
        opt.step(closure)
    with pytest.raises(TypeError):
        opt.step()
