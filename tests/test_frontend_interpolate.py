"""interpolate, upsample and Upsample against PyTorch: values, gradients, symbolic extents, ONNX, refusals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.codegen.host import target_named
from ingot.ir.dims import Dim
from ingot.ir.errors import DTypeError, UnsupportedError
from layer_parity import check_compiled, check_onnx, check_training, close, copy_state, values

torch = pytest.importorskip("torch")
F, TF = nn.functional, torch.nn.functional
pytestmark = pytest.mark.parity

CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 7), {"size": 12}),
    ((2, 3, 7), {"scale_factor": 2.5, "mode": "linear"}),
    ((2, 3, 7), {"size": (3,), "mode": "area"}),
    ((2, 3, 8, 9), {"scale_factor": 2}),
    ((2, 3, 8, 9), {"size": (5, 20), "mode": "nearest-exact"}),
    ((2, 3, 8, 9), {"scale_factor": (0.5, 1.7), "mode": "nearest"}),
    ((2, 16, 8, 9), {"scale_factor": 2, "mode": "bilinear"}),
    ((2, 16, 8, 9), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}),
    ((1, 3, 20, 40), {"size": (33, 70), "mode": "bilinear"}),
    ((1, 3, 20, 40), {"size": (11, 17), "mode": "bilinear"}),
    ((1, 3, 20, 40), {"scale_factor": 1.3, "mode": "bilinear"}),
    ((1, 3, 20, 40), {"scale_factor": 1.3, "mode": "bilinear", "recompute_scale_factor": True}),
    ((1, 3, 20, 40), {"scale_factor": 0.4, "mode": "bicubic"}),
    ((1, 20, 9, 11), {"size": (18, 30), "mode": "bicubic", "align_corners": True}),
    ((1, 3, 20, 40), {"size": (7, 9), "mode": "area"}),
    ((1, 3, 20, 40), {"scale_factor": 0.3, "mode": "area"}),
    ((1, 3, 20, 40), {"size": (7, 50), "mode": "bilinear", "antialias": True}),
    ((1, 3, 20, 40), {"size": (7, 50), "mode": "bicubic", "antialias": True}),
    ((1, 3, 20, 40), {"size": (7, 50), "mode": "lanczos", "antialias": True}),
    ((1, 2, 3, 4, 5), {"scale_factor": (2, 1.5, 3), "mode": "trilinear"}),
    ((1, 2, 3, 4, 5), {"size": (6, 2, 5), "mode": "trilinear", "align_corners": True}),
    ((1, 2, 3, 4, 5), {"size": 7, "mode": "nearest"}),
    ((1, 2, 6, 4, 5), {"size": (2, 4, 3), "mode": "area"}),
    ((1, 1, 1, 1), {"size": (3, 5), "mode": "bilinear"}),
    ((1, 2, 4, 5), {"size": (4, 5), "mode": "bicubic"}),
]


def apply(x: Any, options: dict[str, Any], functional: Any = F) -> Any:
    return functional.interpolate(x, **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eager(case: Any) -> None:
    shape, options = case
    for dtype in (np.float32, np.float64):
        x = values(shape, 3, dtype)
        close(apply(ingot.from_numpy(x), options), apply(torch.from_numpy(x), options, TF), 512 if dtype is np.float32
              else 1, what=str(case))  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled(case: Any) -> None:
    shape, options = case
    x = values(shape, 4)
    exe = ingot.compile(lambda t: apply(t, options), ingot.from_numpy(x))
    close(exe(x), apply(torch.from_numpy(x), options, TF), 512)


@pytest.mark.parametrize("name", ["x86-64", "x86-64-avx2"])
def test_weaker_targets(name: str) -> None:
    for shape, options in CASES[3:14:3]:
        x = values(shape, 5)
        exe = ingot.compile(lambda t, o=options: apply(t, o), ingot.from_numpy(x), target=target_named(name))
        close(exe(x), apply(torch.from_numpy(x), options, TF), 512, what=f"{shape} {options}")


class Decoder:
    """A small decoder with a skip connection, as both libraries write it."""

    def __new__(cls, library: Any, **options: Any) -> Any:
        functional = library.functional
        cat = ingot.cat if library is nn else torch.cat

        class Network(library.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enter = library.Conv2d(3, 32, 3, padding=1)
                self.down = library.Conv2d(32, 32, 3, stride=2, padding=1)
                self.up = library.Upsample(scale_factor=2, **options)
                self.out = library.Conv2d(64, 16, 3, padding=1)
                self.head = library.Conv2d(16, 5, 1)

            def forward(self, x: Any) -> Any:
                skip = functional.relu(self.enter(x))
                deep = functional.relu(self.down(skip))
                both = cat([skip, self.up(deep)], 1)
                y = self.head(functional.relu(self.out(both)))
                return functional.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False)

        return Network()


@pytest.mark.parametrize("options", [{}, {"mode": "bilinear"}, {"mode": "bicubic", "align_corners": True}], ids=str)
def test_inside_a_network(options: dict[str, Any]) -> None:
    mine, twin = Decoder(nn, **options), Decoder(torch.nn, **options)
    copy_state(mine, twin)
    check_compiled(mine, twin, values((2, 3, 12, 16)))
    exe = ingot.compile(mine.eval(), ingot.InputSpec((Dim("N", 1, 3), 3, 12, 16)))
    x = values((3, 3, 12, 16), 1)
    close(exe(x), twin(torch.from_numpy(x)))
    # Upsampling keeps the layout of the convolutions around it: only the input and the small map before the last,
    # growing step change theirs.
    casts = [step.label for step in exe.program.steps if "layout_cast" in step.label]
    assert len(casts) == 2, casts


@pytest.mark.parametrize("options", [
    {"scale_factor": 2}, {"scale_factor": 2, "mode": "bilinear"}, {"size": (7, 4), "mode": "bilinear"},
    {"size": (9, 5), "mode": "bicubic"}, {"size": (2, 3), "mode": "area"},
], ids=str)  # fmt: skip
def test_training_step(options: dict[str, Any]) -> None:
    def make(library: Any) -> Any:
        class Layer(library.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = library.Conv2d(4, 16, 3, padding=1)

            def forward(self, x: Any) -> Any:
                return library.functional.interpolate(self.conv(x), **options)

        return Layer()

    check_training(make, values((2, 4, 5, 6)))


@pytest.mark.parametrize("case", [c for c in CASES if "antialias" not in c[1]], ids=str)
def test_onnx(case: Any, tmp_path: Path) -> None:
    shape, options = case

    class Layer(nn.Module):
        def forward(self, x: Any) -> Any:
            return apply(x, options)

    model = check_onnx(Layer(), values((2, *shape[1:])), tmp_path, 512)
    if options.get("mode") in (None, "nearest", "bilinear") and options.get("scale_factor") in (None, 2):
        assert [n.op_type for n in model.graph.node if n.op_type in ("Resize", "Gather")][-1] == "Resize"


H, W = Dim("H", 2, 40), Dim("W", 1, 40)


@pytest.mark.parametrize("options", [
    {"scale_factor": 2}, {"scale_factor": 2, "mode": "bilinear"}, {"scale_factor": (1.5, 0.5), "mode": "bilinear"},
    {"scale_factor": 2, "mode": "bilinear", "align_corners": True}, {"size": (9, 21), "mode": "bilinear"},
    {"size": (9, 21), "mode": "nearest-exact"}, {"size": (1, 1), "mode": "bilinear", "align_corners": True},
], ids=str)  # fmt: skip
def test_symbolic_extents(options: dict[str, Any]) -> None:
    exe = ingot.compile(lambda t: apply(t, options), ingot.InputSpec((2, 17, H, W)))
    for h, w in ((2, 2), (5, 7), (13, 40)):
        x = values((2, 17, h, w), h)
        close(exe(x), apply(torch.from_numpy(x), options, TF), 512, what=f"{h} {w}")


def test_symbolic_size_of_another_tensor() -> None:
    exe = ingot.compile(lambda a, b: F.interpolate(a, size=b.shape[2:], mode="bilinear") + b,
                        ingot.InputSpec((1, 4, H, 6)), ingot.InputSpec((1, 4, 2 * H.expr + 1, W)))  # fmt: skip
    a, b = values((1, 4, 5, 6)), values((1, 4, 11, 14), 1)
    close(exe(a, b), TF.interpolate(torch.from_numpy(a), size=(11, 14), mode="bilinear") + torch.from_numpy(b), 512)
    with pytest.raises(UnsupportedError, match="fixed extents"):
        ingot.compile(lambda t: F.interpolate(t, scale_factor=2, mode="bicubic"), ingot.InputSpec((1, 4, H, W)))


def test_layers_print_and_run_like_pytorchs() -> None:
    x = values((2, 3, 5, 6))
    for name, args, options in (
        ("Upsample", (), {"scale_factor": 2}), ("Upsample", ((7, 8),), {"mode": "bilinear"}),
        ("Upsample", (), {"scale_factor": (2, 1.5), "mode": "bilinear", "align_corners": True}),
        ("Upsample", (9,), {}), ("UpsamplingNearest2d", (), {"scale_factor": 3}),
        ("UpsamplingBilinear2d", ((4, 11),), {}),
        ("Upsample", (), {"scale_factor": 1.5, "recompute_scale_factor": True}),
    ):  # fmt: skip
        mine, twin = getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
        assert repr(mine) == repr(twin) and list(mine.state_dict()) == []
        close(mine(ingot.from_numpy(x)), twin(torch.from_numpy(x)))


def test_older_names_warn() -> None:
    x = values((1, 2, 3, 4))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("upsample", {"size": 5}), ("upsample", {"scale_factor": 2, "mode": "bilinear"}),
        ("upsample_nearest", {"scale_factor": 2}), ("upsample_bilinear", {"size": (5, 6)}),
    ]  # fmt: skip
    for name, options in calls:
        with pytest.warns(UserWarning, match=f"`nn.functional.{name}` is deprecated"):
            ours = getattr(F, name)(ingot.from_numpy(x), **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(ours, getattr(TF, name)(torch.from_numpy(x), **options))


def test_integers_choose_neighbours_only() -> None:
    x = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
    close(F.interpolate(ingot.from_numpy(x), size=(5, 6)), TF.interpolate(torch.from_numpy(x), size=(5, 6)))
    with pytest.raises(DTypeError, match="uint8"):
        F.interpolate(ingot.from_numpy(x), size=(5, 6), mode="bilinear")


def test_half_precision_rounds_like_float32() -> None:
    x = values((1, 16, 6, 40)).astype(np.float16)
    wide = TF.interpolate(torch.from_numpy(x.astype(np.float32)), scale_factor=2, mode="bilinear").numpy()
    exe = ingot.compile(lambda t: F.interpolate(t, scale_factor=2, mode="bilinear"), ingot.from_numpy(x))
    for got in (F.interpolate(ingot.from_numpy(x), scale_factor=2, mode="bilinear").numpy(), exe(x)):
        np.testing.assert_allclose(np.asarray(got).astype(np.float32), wide, rtol=2e-3, atol=2e-3)


BAD: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 4, 4), {}),
    ((1, 2, 4, 4), {"size": 3, "scale_factor": 2}),
    ((1, 2, 4, 4), {"size": 3, "align_corners": False}),
    ((1, 2, 4, 4), {"size": (3, 3, 3)}),
    ((1, 2, 4, 4), {"size": (3, 3.5)}),
    ((1, 2, 4, 4), {"scale_factor": (2, 2, 2)}),
    ((1, 2, 4, 4), {"size": 3, "recompute_scale_factor": True}),
    ((1, 2, 4, 4), {"size": 3, "antialias": True}),
    ((1, 2, 4, 4), {"size": 3, "mode": "linear"}),
    ((1, 2, 4), {"size": 3, "mode": "bilinear"}),
    ((1, 2, 4, 4), {"size": 3, "mode": "trilinear"}),
    ((1, 2, 4, 4), {"size": 3, "mode": "spam"}),
    ((2, 4), {"size": 3}),
    ((1, 2, 4, 4), {"size": 3, "mode": "lanczos"}),
    ((1, 2, 4, 4), {"size": 0}),
    ((1, 2, 4, 4), {"scale_factor": 0.1}),
]


@pytest.mark.parametrize("case", BAD, ids=str)
def test_errors(case: Any) -> None:
    shape, options = case
    with pytest.raises(Exception) as theirs:
        TF.interpolate(torch.zeros(shape), **options)
    kinds = (ValueError, RuntimeError) if theirs.type is RuntimeError else theirs.type
    with pytest.raises(kinds) as ours:
        F.interpolate(ingot.zeros(*shape), **options)
    assert str(ours.value)[:40] == str(theirs.value)[:40]
