"""The command line: every command, exit codes, and messages; in processes of its own where that is the point."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import ingot
import numpy as np
import pytest
from click.testing import CliRunner
from ingot import cli
from ingot.cli_arguments import PRECISIONS, TARGETS, load_model, parse_inputs, random_inputs
from ingot.ir import kernels

MODEL = """
import ingot
from ingot import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, image):
        x = nn.functional.max_pool2d(nn.functional.relu(self.bn(self.conv(image))), 2)
        return self.fc(ingot.flatten(x, 1))


def make():
    ingot.manual_seed(0)
    return Net()


class Pair(nn.Module):
    def forward(self, a, b):
        return a - b, a * b


def function(x, y):
    return x / y


def branches():
    def forward(x):
        if x.sum() > 0:  # the line
            return x
        return -x
    return forward


def broken():
    def forward(x):
        return x.no_such_method()
    return forward


def raising():
    raise OSError("factory trouble")


number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``model.py``, which is the working directory."""
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


class Result:
    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """``run("compile", ...)`` in this process."""

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        sys.modules.pop("model", None)
        out, err = capfd.readouterr()
        return Result(stop.value.code, out, err)

    return call


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 3, 8, 8)).astype(np.float32)


# -- commands -----------------------------------------------------------------------------------------
def test_compile_and_run(run: Any, folder: Path) -> None:
    made = run("compile", "model.py:make", "--input", "image:Nx3x8x8", "--dim", "N=1..64", "-o", "net.ingot")
    assert made.code == 0 and made.err == "", made.err  # no progress display: this is no terminal
    assert "net.ingot: " in made.out and "kernels" in made.out and "arena" in made.out
    np.save("x.npy", images(3))
    assert run("run", "net.ingot", "--input", "x.npy", "-o", "y.npy").code == 0
    model = load_model("model.py:make").eval()
    want = model(ingot.from_numpy(images(3))).detach().numpy()
    np.testing.assert_allclose(np.load("y.npy"), want, rtol=1e-4, atol=1e-6)
    shown = run("run", "net.ingot", "-i", "image=x.npy", "--threads", "1", "--verify")
    assert shown.code == 0 and "output: float32 [3, 5]" in shown.out
    np.save("x.npy", images(65))
    refused = run("run", "net.ingot", "-i", "x.npy")
    assert refused.code == 1 and "N = 65 is outside its declared range [1, 64]" in refused.err


def test_run_takes_inputs_by_order_or_name(run: Any, folder: Path) -> None:
    assert run("compile", "model.py:Pair", "-i", "b:2x2", "-i", "a:2x2", "-o", "p.ingot").code == 0
    a, b = np.full((2, 2), 5, np.float32), np.full((2, 2), 3, np.float32)
    np.save("a.npy", a)
    np.save("b.npy", b)
    for arguments in (["a.npy", "b.npy"], ["b=b.npy", "a=a.npy"], ["b=b.npy", "a.npy"]):
        assert run("run", "p.ingot", *(x for f in arguments for x in ("-i", f)), "-o", "out.npz").code == 0
        with np.load("out.npz") as out:
            assert (out["output_0"] == 2).all() and (out["output_1"] == 15).all()
    for arguments, message in [
        ([], "inputs are missing: a: float32[2, 2], b: float32[2, 2]"),
        (["-i", "a.npy", "-i", "b.npy", "-i", "b.npy"], "an input too many"),
        (["-i", "a.npy", "-i", "model.py"], "not a readable .npy"),
        (["-i", "a.npy", "-i", "nothing.npy"], "nothing.npy"),
        (["-i", "a.npy", "-i", "out.npz"], "npz archive"),
        (["-i", "a.npy", "-i", "b.npy", "-o", "one.npy"], "use a .npz"),
    ]:
        failed = run("run", "p.ingot", *arguments)
        assert failed.code == 1 and message in failed.err, failed.err
    assert run("run", "p.ingot", "-i", "a.npy", "-i", "b.npy", "-o", "x.txt").code == 2
    assert run("run", "missing.ingot").code == 2
    Path("p.ingot").write_bytes(Path("p.ingot").read_bytes()[:-10])
    assert "truncated" in run("run", "p.ingot", "-i", "a.npy", "-i", "b.npy").err


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("trace", "batch_norm("), ("graph", 'fused('), ("fold-batch-norm", "conv("), ("passes", "fuse-contraction"),
        ("log", "fold-batch-norm"), ("kernels", "; kernel 0"), ("loops", "kernel "), ("llvm", "define void"),
        ("asm", ".text"), ("memory", "live peak"),
    ],
)  # fmt: skip
def test_inspect(stage: str, expected: str, run: Any) -> None:
    shown = run("inspect", "model.py:make", "-i", "image:1x3x8x8", "--stage", stage)
    assert shown.code == 0 and expected in shown.out, shown.err
    if stage != "memory":
        assert "model.py:15" in shown.out or stage in ("passes", "trace")


def test_inspect_one_kernel(run: Any) -> None:
    arguments = ("inspect", "model.py:make", "-i", "1x3x8x8", "--stage", "llvm", "--kernel")
    assert run(*arguments, "1").out.count("define void") == 1
    failed = run(*arguments, "99")
    assert failed.code == 2 and "kernels" in failed.err
    assert "fold-batch-norm" in run("inspect", "model.py:make", "-i", "1x3x8x8", "--stage", "colour").err


def test_check_export_and_bench(run: Any, folder: Path) -> None:
    checked = run("check", "model.py:make", "-i", "image:Nx3x8x8", "--dim", "N=2..8", "--extent", "3", "--seed", "4")
    assert checked.code == 0 and "kernels agree" in checked.out and "conv+add+relu" in checked.out, checked.err
    exported = run("export", "model.py:make", "-i", "image:Nx3x8x8", "-o", "net.onnx")
    assert exported.code == 0 and (folder / "net.onnx").stat().st_size > 1000, exported.err
    timed = run("bench", "model.py:make", "-i", "image:1x3x8x8", "--seconds", "0.05")
    assert timed.code == 0 and "median ms" in timed.out, timed.err


def test_weights(run: Any, folder: Path) -> None:
    model = load_model("model.py:make")
    model.fc.bias.data.fill_(3.0)
    ingot.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, "w.pth")
    ok = run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--weights", "w.pth")
    assert ok.code == 0, ok.err
    got = ingot.load_executable("n.ingot")(images(1))
    np.testing.assert_allclose(got, model.eval()(ingot.from_numpy(images(1))).detach().numpy(), rtol=1e-4, atol=1e-5)
    ingot.save({"fc.bias": model.fc.bias}, "few.pth")
    missing = run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--weights", "few.pth")
    assert missing.code == 1 and "conv.weight" in missing.err and "Traceback" not in missing.err
    ingot.save([1, 2], "list.pth")
    assert (
        "no state dict"
        in run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--weights", "list.pth").err
    )


def test_cross_compiling(run: Any) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86-64"
    made = run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--target", other)
    assert made.code == 0 and f"target {other}" in made.out, made.err
    np.save("x.npy", images(1))
    refused = run("run", "n.ingot", "-i", "x.npy")
    assert refused.code == 1 and "cannot run here" in refused.err and other in refused.err


def test_portable_targets_run_here(run: Any) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("x86-64 code")
    assert run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--target", "x86-64").code == 0
    ingot.load_executable("n.ingot")(images(1))


def test_dump_and_disabled_passes(run: Any, folder: Path) -> None:
    made = run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--dump", "d", "--disable-pass",
               "fold-batch-norm", "--no-cache")  # fmt: skip
    assert made.code == 0 and "0 from the cache" in made.out
    names = [p.name for p in (folder / "d").iterdir()]
    assert "00-input.txt" in names and not any("fold-batch-norm" in n for n in names)


def test_help_and_version() -> None:
    runner = CliRunner()
    assert ingot.__version__ in runner.invoke(cli.cli, ["--version"]).output
    top = runner.invoke(cli.cli, ["--help"])
    assert top.exit_code == 0
    for command in ("compile", "run", "inspect", "check", "export", "profile", "bench"):
        assert command in top.output
        shown = runner.invoke(cli.cli, [command, "-h"])
        assert shown.exit_code == 0 and "Usage" in shown.output and "--input" in shown.output


def test_targets_are_the_known_ones() -> None:
    from ingot.codegen.host import NAMES

    assert set(TARGETS) == set(NAMES)
    assert PRECISIONS == kernels.PRECISIONS


# -- errors -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compile"], 2, "Missing argument"),
        (["melt"], 2, "No such command"),
        (["compile", "model.py:make", "-i", "1x3x8x8"], 2, "--output"),
        (["compile", "model.py:make", "-o", "n.ingot"], 2, "--input"),
        (["inspect", "model", "-i", "1"], 2, "not MODULE:FACTORY"),
        (["inspect", "other.py:make", "-i", "1"], 2, "there is no file other.py"),
        (["inspect", "no_such_module:make", "-i", "1"], 2, "no_such_module"),
        (["inspect", "model.py:nothing", "-i", "1"], 2, "has no 'nothing'"),
        (["inspect", "model.py:number", "-i", "1"], 2, "is a int"),
        (["inspect", "model.py:make", "-i", "1x3x8x8", "--target", "z80"], 2, "z80"),
        (["inspect", "model.py:make", "-i", "1x3x8x8", "--disable-pass", "zz"], 1, "unknown pass zz"),
        (["inspect", "model.py:make", "-i", "1x4x8x8"], 1, "model.py:14"),
        (["inspect", "model.py:branches", "-i", "x:4"], 1, "model.py:34"),
        (["inspect", "model.py:broken", "-i", "x:4"], 1, "no_such_method"),
        (["inspect", "model.py:raising", "-i", "x:4"], 1, "factory trouble"),
        (["inspect", "model.py:make", "-i", "1x3x8x8", "-i", "4"], 1, "the model raised TypeError"),
        (["compile", "model.py:make", "-i", "1x3x8x8", "-o", "nowhere/n.ingot"], 1, "there is no folder"),
        (["export", "model.py:make", "-i", "1x3x8x8", "-o", "n.onnx", "--opset", "3"], 1, "opset"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, run: Any) -> None:
    failed = run(*arguments)
    assert failed.code == code, failed.err
    assert message in failed.err, failed.err
    assert "click" not in failed.err and "cli_arguments.py" not in failed.err  # only the user's own frames


def test_errors_in_the_users_file_show_the_users_lines(run: Any, folder: Path) -> None:
    (folder / "bad.py").write_text("import ingot\n\nraise ValueError('mine')\n")
    failed = run("inspect", "bad.py:make", "-i", "1")
    assert failed.code == 1 and 'bad.py", line 3' in failed.err and "ValueError: mine" in failed.err
    (folder / "needs.py").write_text("import not_installed_here\n")
    assert "not_installed_here" in run("inspect", "needs.py:make", "-i", "1").err
    (folder / "syntax.py").write_text("def make(:\n")
    assert "syntax.py" in run("inspect", "syntax.py:make", "-i", "1").err


def test_an_unwritable_folder_is_refused_before_the_work(run: Any, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("ingot.driver.build", None)
    failed = run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot")
    assert failed.code == 1 and "cannot write" in failed.err


def test_internal_errors(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ingot.driver.optimise", lambda *a: 1 / 0)
    failed = run("inspect", "model.py:make", "-i", "1x3x8x8")
    assert failed.code == 70 and "ZeroDivisionError" in failed.err and "please report" in failed.err


def test_a_failing_pass_is_an_internal_error_with_a_reproducer(run: Any, folder: Path, monkeypatch: Any) -> None:
    from ingot.passes.fold_batch_norm import FoldBatchNorm

    def fail(self: Any, graph: Any, ctx: Any) -> int:
        raise RuntimeError("sprang a leak")

    monkeypatch.setattr(FoldBatchNorm, "run", fail)
    failed = run("compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", "--dump", "d")
    assert failed.code == 70 and "fold-batch-norm" in failed.err and "sprang a leak" in failed.err
    (reproducer,) = (folder / "d").glob("reproduce-*.py")
    assert f"reproducer: d/{reproducer.name}" in failed.err and not (folder / "n.ingot").exists()


def test_check_names_a_wrong_kernel(run: Any, monkeypatch: Any) -> None:
    from ingot.codegen.lower import arithmetic

    monkeypatch.setitem(arithmetic.RULES, "relu", arithmetic.RULES["abs"])
    failed = run("check", "model.py:make", "-i", "1x3x8x8", "--no-cache")
    assert failed.code == 3 and "conv+add+relu conv+bn (" in failed.err and "model.py:14" in failed.err, failed.err
    assert "DEPARTS" in failed.out and "fc" not in failed.out  # the first one; nothing behind it is checked


# -- arguments ----------------------------------------------------------------------------------------
def test_input_texts() -> None:
    named = parse_inputs(["x:1x3x32x32", "mask:NxMx4:bool", "5", "s:scalar:float64", "Nx2:int64"], ["N=2..8", "M=..9"])
    assert [n for n, _ in named] == ["x", "mask", "", "s", ""]
    assert [str(s.type) for _, s in named] == ["float32[1, 3, 32, 32]", "bool[N, M, 4]", "float32[5]", "float64[]",
                                               "int64[N, 2]"]  # fmt: skip
    n, m = named[1][1].shape[:2]
    assert (n.min, n.max, m.min, m.max) == (2, 8, 1, 9) and named[4][1].shape[0] is n
    assert parse_inputs(["Kx2"], [])[0][1].shape[0].max is None


@pytest.mark.parametrize(
    ("inputs", "dims", "message"),
    [
        (["a:b:c:d"], [], "is not"), (["1x-3"], [], "neither a number"), (["x:1x3:float33"], [], "no dtype"),
        (["1xx3"], [], "neither a number"), (["Nx3"], ["N=5"], "is not NAME=MIN..MAX"), (["Nx3"], ["N=9..2"], "9"),
        (["3"], ["N=1..2"], "no input has an extent N"), (["x:3", "x:4"], [], "one name"),
    ],
)  # fmt: skip
def test_wrong_input_texts(inputs: list[str], dims: list[str], message: str) -> None:
    with pytest.raises(click.BadParameter) as error:
        parse_inputs(inputs, dims)
    assert message in error.value.message


def test_models_are_found(folder: Path) -> None:
    assert type(load_model("model.py:Net")).__name__ == "Net"
    assert type(load_model("model:make")).__name__ == "Net"
    assert load_model("model.py:function").__name__ == "function"
    assert load_model("model:Net.forward").__name__ == "forward"
    (folder / "json.py").write_text("from json import dumps\nfrom ingot import nn\nmake = nn.ReLU\n")
    import json

    assert type(load_model("json.py:make")).__name__ == "ReLU" and sys.modules["json"] is json


def test_random_inputs_are_reproducible() -> None:
    types = [s.type for _, s in parse_inputs(["Nx3", "Nx2:int64", "2:bool", "2:float16"], ["N=4..9"])]
    a, b = random_inputs(types, 1), random_inputs(types, 1)
    assert [x.shape for x in a] == [(4, 3), (4, 2), (2,), (2,)] and [x.dtype for x in a][1:] == [
        np.int64, np.bool_, np.float16]  # fmt: skip
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert random_inputs(types, 1, 7)[0].shape == (7, 3)


# -- processes ----------------------------------------------------------------------------------------
def start(folder: Path, *arguments: str, cache: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "INGOT_CACHE_DIR": str(cache or folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "ingot.cli", *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


DEEP = """
from ingot import nn

def make():
    layers = []
    for i in range(16):
        layers += [nn.Linear(16 + i, 17 + i), nn.Tanh()]
    return nn.Sequential(*layers)
"""


def test_interrupting_a_compile(folder: Path) -> None:
    (folder / "deep.py").write_text(DEEP)
    arguments = ("compile", "deep.py:make", "-i", "4x16", "-o", "deep.ingot")
    process = start(folder, *arguments)
    deadline = time.monotonic() + 60
    # [!.]: an entry that is still being written has a name with a dot, and Ctrl-C takes it back
    while len(list((folder / "cache").glob("*/*/[!.]*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert not list(folder.glob("*ingot*"))
    entries = [p.name for p in (folder / "cache").glob("*/*/*")]
    assert 3 <= len(entries) < 16 and not [n for n in entries if n.startswith(".")]
    again = start(folder, *arguments)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"{16 - len(entries)} compiled" in out and (folder / "deep.ingot").exists(), (out, entries)


def test_progress_on_a_terminal(folder: Path) -> None:
    pty = pytest.importorskip("pty")
    (folder / "deep.py").write_text(DEEP)
    ours, theirs = pty.openpty()
    arguments = ["compile", "deep.py:make", "-i", "4x16", "-o", "deep.ingot", "--no-cache"]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ingot.cli", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=theirs, text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0 and "deep.ingot: 16 kernels" in out
    if time.monotonic() - started > 3:  # less may not have been a second of compiling
        assert b"compiling" in shown and b"/16" in shown


def test_two_processes_share_a_cache(folder: Path) -> None:
    both = [start(folder, "compile", "model.py:make", "-i", "1x3x8x8", "-o", f"{i}.ingot") for i in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 and err == "", err
    a, b = (ingot.load_executable(folder / f"{i}.ingot")(images(1)) for i in range(2))
    np.testing.assert_array_equal(a, b)
    third = start(folder, "compile", "model.py:make", "-i", "1x3x8x8", "-o", "3.ingot")
    out, _ = third.communicate(timeout=120)
    assert "(0 compiled" in out


def test_an_unusable_cache_is_a_warning(folder: Path) -> None:
    (folder / "file").write_text("")
    process = start(folder, "compile", "model.py:make", "-i", "1x3x8x8", "-o", "n.ingot", cache=folder / "file")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "not usable" in err and (folder / "n.ingot").exists()


def test_a_closed_pipe_is_no_internal_error(folder: Path) -> None:
    process = start(folder, "inspect", "model.py:make", "-i", "1x3x8x8", "--stage", "asm")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 1 and "internal" not in err and "Traceback" not in err
