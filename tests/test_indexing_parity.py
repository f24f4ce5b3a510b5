"""``t[...]`` and ``t[...] = value`` against PyTorch: random indices of every kind, views, gradients, errors."""

from __future__ import annotations

from typing import Any

import ingot as ig
import numpy as np
import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity
SEED = 20260


def random_index(rng: np.random.Generator, shape: tuple[int, ...]) -> list[Any]:
    """A list of NumPy and Python items that together index ``shape``: every kind PyTorch takes."""
    items: list[Any] = []
    axis, rank = 0, len(shape)
    picked = tuple(rng.integers(1, 4, rng.integers(0, 3)))  # what all index tensors broadcast to
    mask_used = False
    while axis < rank:
        n = shape[axis]
        kind = rng.choice(["int", "slice", "none", "ellipsis", "tensor", "list", "mask", "numpy", "bool", "stop"])
        if kind == "int" and n:
            items.append(int(rng.integers(-n, n)))
            axis += 1
        elif kind == "slice":
            start, stop = (None if rng.random() < 0.3 else int(rng.integers(-n - 2, n + 3)) for _ in range(2))
            items.append(slice(start, stop, None if rng.random() < 0.5 else int(rng.integers(1, 4))))
            axis += 1
        elif kind == "none":
            items.append(None)
        elif kind == "bool" and not mask_used and rng.random() < 0.3:
            items.append(bool(rng.random() < 0.7))
        elif kind == "ellipsis" and Ellipsis not in [i for i in items if i is Ellipsis]:
            items.append(Ellipsis)
            axis += int(rng.integers(0, rank - axis + 1))
        elif kind == "tensor" and n and not mask_used:
            shape_here = tuple(1 if rng.random() < 0.2 else e for e in picked)
            items.append(rng.integers(-n, n, shape_here))
            axis += 1
        elif kind == "list" and n and not mask_used and len(picked) == 1:
            items.append(rng.integers(-n, n, picked).tolist())
            axis += 1
        elif kind == "numpy" and n:
            items.append(np.int64(rng.integers(-n, n)))
            axis += 1
        elif kind == "mask" and not any(isinstance(i, (np.ndarray, list, bool)) for i in items) and not mask_used:
            covers = int(rng.integers(1, min(2, rank - axis) + 1))
            items.append(rng.random(shape[axis : axis + covers]) < 0.6)
            mask_used = True
            axis += covers
        elif kind == "stop":
            break
    return items


def as_index(items: list[Any], make: Any) -> Any:
    converted = tuple(make(i.copy()) if isinstance(i, np.ndarray) else i for i in items)
    return converted[0] if len(converted) == 1 and not isinstance(converted[0], list) else converted


CASES = 400


def cases(salt: int) -> Any:
    rng = np.random.default_rng([SEED, salt])
    for k in range(CASES):
        shape = tuple(int(e) for e in rng.integers(1, 5, rng.integers(1, 5)))
        yield k, rng, shape, random_index(rng, shape)


def outcome(run: Any) -> Any:
    """The result, or the kind of error."""
    try:
        return run()
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return "IndexError" if isinstance(error, IndexError) else "error"


def test_reading_and_its_gradient() -> None:
    compared = 0
    for k, rng, shape, items in cases(1):
        values = rng.normal(size=shape)
        a, b = ig.from_numpy(values.copy()).requires_grad_(), torch.from_numpy(values.copy()).requires_grad_()
        ours = outcome(lambda a=a, items=items: a[as_index(items, ig.from_numpy)])
        theirs = outcome(lambda b=b, items=items: b[as_index(items, torch.from_numpy)])
        what = f"seed {SEED}, case {k}: {shape} {items}"
        if isinstance(theirs, str):
            assert isinstance(ours, str), f"{what}: PyTorch refuses"
            continue
        assert not isinstance(ours, str), f"{what}: refused"
        assert tuple(ours.shape) == tuple(theirs.shape), what
        np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy(), err_msg=what)
        shares = theirs.detach().numel() > 0 and theirs._is_view()
        assert not shares or np.may_share_memory(ours.detach().numpy(), a.detach().numpy()), f"{what}: no view"
        (ours * ours).sum().backward()
        (theirs * theirs).sum().backward()
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), err_msg=what)
        compared += 1
    assert compared > CASES // 2


@pytest.mark.parametrize("source", ["number", "full", "broadcast"])
def test_assignment_and_its_gradient(source: str) -> None:
    compared = 0
    for k, rng, shape, items in cases(2):
        values = rng.normal(size=shape)
        places = np.arange(values.size).reshape(shape)
        theirs_index = as_index(items, torch.from_numpy)
        chosen = outcome(lambda p=places, i=theirs_index: torch.from_numpy(p)[i])
        if isinstance(chosen, str) or len(np.unique(chosen.numpy())) < chosen.numel():
            continue  # which of equal places wins is open
        part = tuple(chosen.shape)
        if source == "broadcast":
            part = tuple(1 if rng.random() < 0.5 else e for e in part)
            part = part[int(rng.integers(0, len(part) + 1)) :] if all(e == 1 for e in part) else part
        given = rng.normal(size=part)
        base, want = ig.from_numpy(values.copy()).requires_grad_(), torch.from_numpy(values.copy()).requires_grad_()
        x, y = ig.from_numpy(given.copy()).requires_grad_(), torch.from_numpy(given.copy()).requires_grad_()
        a, b = base * 1, want * 1
        what = f"seed {SEED}, case {k}: {shape} {items} = {part}"
        b[theirs_index] = 2.5 if source == "number" else y
        a[as_index(items, ig.from_numpy)] = 2.5 if source == "number" else x
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy(), err_msg=what)
        (a * a).sum().backward()
        (b * b).sum().backward()
        np.testing.assert_allclose(base.grad.numpy(), want.grad.numpy(), err_msg=what)
        if source != "number" and y.grad is not None:
            np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), err_msg=what)
        compared += 1
    assert compared > CASES // 3


ERRORS = [
    (3,), (-4,), (slice(None), 4), (0, 0, 0), (1.5,),
    (np.array([0, 3]),), (np.array([0.5]),), (np.array([True, False]),), 
    (np.array([[0, 1], [1, 0]]), np.array([0, 1, 2])), ([0, 5],),
]  # fmt: skip


@pytest.mark.parametrize("items", ERRORS, ids=str)
def test_errors_are_of_the_same_kind(items: tuple) -> None:
    theirs = None
    try:
        torch.zeros(3, 4)[as_index(list(items), torch.from_numpy)]
    except Exception as error:
        theirs = error
    assert theirs is not None
    with pytest.raises(type(theirs)) as caught:
        ig.zeros(3, 4)[as_index(list(items), ig.from_numpy)]
    ours = caught.value
    first = str(theirs).split("(")[0].split(":")[0].strip()
    if isinstance(theirs, IndexError) and first.startswith(("index", "too many", "The shape of the mask")):
        assert str(ours).startswith(first[:20]), f"{ours} | {theirs}"


def test_uint8_masks_and_nested_lists() -> None:
    values = np.arange(12.0).reshape(3, 4)
    a, b = ig.from_numpy(values), torch.from_numpy(values)
    for index in ([0, 2], ([0, 1], [1, 2]), (slice(None), [True, False, True, False])):
        np.testing.assert_array_equal(a[index].numpy(), b[index].numpy(), err_msg=str(index))
    mask = np.array([1, 0, 1], np.uint8)
    with pytest.warns(UserWarning, match="uint8"):
        got = a[ig.from_numpy(mask)]
    np.testing.assert_array_equal(got.numpy(), values[[0, 2]])
