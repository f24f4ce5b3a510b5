"""Train a small convolutional network natively on real handwritten digits, compile it, run it, export it.

Run by ``make demo``. Everything it prints is measured in this run.
"""

from __future__ import annotations

import time
from pathlib import Path

import ingot as torch
import numpy as np
from ingot import nn, optim
from rich.console import Console
from rich.table import Table

DATA = Path(__file__).parent / "data" / "digits.npz"
EPOCHS, BATCH = 15, 50


class DigitNet(nn.Module):
    """Two convolutions with batch norm, pooling, dropout, and a linear layer; 8 x 8 grey images in, 10 scores out."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.MaxPool2d(2),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.25)
        self.classifier = nn.Linear(64 * 4 * 4, 10)

    def forward(self, x):
        x = self.features(x)
        return self.classifier(self.dropout(torch.flatten(x, 1)))


def load_digits():
    """(train images, train labels, test images, test labels); every fourth digit is held out."""
    with np.load(DATA) as data:
        images = (data["images"].astype(np.float32) / 16.0)[:, None]
        labels = data["labels"].astype(np.int64)
    held_out = np.arange(len(images)) % 4 == 3
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def train(model, x, y, console):
    """One compiled step per batch: forward, loss, backward and SGD update in one native call."""
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    step = torch.compile_step(model, nn.CrossEntropyLoss(), optimizer)
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    compile_seconds = 0.0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        losses = []
        for i in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[i : i + BATCH]
            before = time.perf_counter()
            losses.append(float(step(torch.from_numpy(x[batch]), torch.from_numpy(y[batch])).item()))
            if epoch == 0 and i == 0:
                compile_seconds = time.perf_counter() - before
        mean = sum(losses) / len(losses)
        console.print(
            f"  epoch {epoch + 1:2d}  loss {mean:7.4f}  [green]{'█' * max(1, round(40 * min(mean / 2.3, 1)))}[/]"
        )
    seconds = time.perf_counter() - started
    steps = EPOCHS * (len(x) // BATCH)
    console.print(
        f"  {steps} steps in {seconds:.2f} s ({compile_seconds:.2f} s of it compiling the step, "
        f"{(seconds - compile_seconds) / steps * 1e3:.2f} ms per step of {BATCH})"
    )


def median_ms(call, seconds=0.5):
    """Median milliseconds of ``call`` over about ``seconds``."""
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> None:
    console = Console(highlight=False)
    torch.manual_seed(0)
    train_x, train_y, test_x, test_y = load_digits()
    model = DigitNet()

    console.rule("1. train natively (one native call per step)", align="left")
    train(model, train_x, train_y, console)

    console.rule("2. compile for inference", align="left")
    exe = torch.compile(model, torch.from_numpy(test_x[:1]), dynamic=torch.Dim("N", 1, 512))
    report, memory = exe.report, exe.program.memory
    console.print(
        f"  {sum(report.seconds.values()):.2f} s, {report.compiled} kernels compiled, {report.reused} from the cache"
    )
    table = Table("kernel", "fused operators", box=None, padding=(0, 2))
    for i, s in enumerate(exe.program.steps):
        where, _, ops = s.label.rpartition(": ")
        table.add_row(f"{i}", f"{ops}   ({where})" if where else ops)
    console.print(table)
    console.print(
        f"  arena {memory.arena / 1024:.0f} KiB for batches up to 512; separate buffers would take "
        f"{memory.intermediates / 1024:.0f} KiB (live peak / arena = {memory.efficiency:.3f})"
    )

    console.rule("3. run on held-out digits", align="left")
    scores = exe(test_x)
    accuracy = float((scores.argmax(1) == test_y).mean())
    console.print(f"  accuracy {accuracy:.2%} on {len(test_x)} digits the network has not seen")
    model.eval()
    x = torch.from_numpy(test_x)
    with torch.no_grad():
        reference = median_ms(lambda: model(x))
        eager = model(x).numpy()
    compiled = median_ms(lambda: exe(test_x))
    error = float(np.abs(scores - eager).max())
    console.print(
        f"  {len(test_x)} digits: {compiled:.3f} ms compiled, {reference:.1f} ms eagerly "
        f"({reference / compiled:.0f} times faster), largest difference {error:.1e}"
    )

    console.rule("4. export to ONNX, save the executable", align="left")
    out = Path("build")
    out.mkdir(exist_ok=True)
    torch.onnx.export(
        model, (x[:1],), out / "digits.onnx", input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "N"}, "scores": {0: "N"}},
    )  # fmt: skip
    exe.save(out / "digits.ingot")
    again = torch.load_executable(out / "digits.ingot")
    same = np.array_equal(again(test_x), scores)
    for name in ("digits.onnx", "digits.ingot"):
        console.print(f"  {out / name}: {(out / name).stat().st_size / 1024:.0f} KiB")
    console.print(f"  the reloaded executable gives {'the same bits' if same else 'DIFFERENT RESULTS'}")
    if accuracy < 0.97 or not same:
        raise SystemExit("demo: something is wrong (accuracy below 97 % or the artefact differs)")


if __name__ == "__main__":
    main()
