"""Train, validate and test LeNet eagerly, with checkpoints: run it again and it goes on where it stopped.

    python examples/training_loop.py DATA [--epochs 2] [--checkpoint lenet.pt] [--limit 2000]

DATA holds ``fashion-mnist/*.gz`` (default: INGOT_DATA; without either, noise in place of pictures).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import ingot as torch
from ingot import nn, optim
from ingot.utils.data import DataLoader, Subset, random_split
from ingot.vision import datasets, models, transforms


def load(folder: str | None, limit: int):
    """(training set, test set) of Fashion-MNIST, at most ``limit`` pictures of each; noise without a folder."""
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    if folder is None:
        parts = [datasets.FakeData(400, (1, 28, 28), 10, chain, random_offset=i) for i in (0, 400)]
    else:
        root = Path(folder) / "fashion-mnist"
        parts = [datasets.FashionMNIST(root, train, chain) for train in (True, False)]
    return [Subset(p, range(min(limit, len(p)))) for p in parts]


def train(loader, model, loss_fn, optimizer) -> None:
    """One epoch; prints the loss every 100 batches."""
    model.train()
    for batch, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{batch * loader.batch_size:>5d}/{len(loader.dataset):>5d}]")


@torch.no_grad()
def evaluate(loader, model, loss_fn) -> tuple[float, float]:
    """(mean loss over batches, share of right answers)."""
    model.eval()
    total, right = 0.0, 0
    for x, y in loader:
        out = model(x)
        total += loss_fn(out, y).item()
        right += (out.argmax(1) == y).sum().item()
    return total / len(loader), right / len(loader.dataset)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("INGOT_DATA"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=Path("lenet.pt"))
    parser.add_argument("--limit", type=int, default=60_000)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    whole, test_set = load(options.data, options.limit)
    train_set, validation_set = random_split(whole, [0.9, 0.1], generator=torch.Generator().manual_seed(0))
    shuffle = torch.Generator()
    loader = DataLoader(train_set, 64, shuffle=True, num_workers=options.workers, generator=shuffle)
    validation = DataLoader(validation_set, 256)

    model, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.3)
    first = 0
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        first = saved["epoch"] + 1
        print(f"resuming {options.checkpoint} with epoch {first}")
    for epoch in range(first, options.epochs):
        shuffle.manual_seed(epoch)  # the order of an epoch is the same with and without a break before it
        train(loader, model, loss_fn, optimizer)
        scheduler.step()
        loss, accuracy = evaluate(validation, model, loss_fn)
        print(f"epoch {epoch}: validation accuracy {100 * accuracy:.1f}%, avg loss {loss:.6f}")
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
             "epoch": epoch},
            options.checkpoint,
        )  # fmt: skip
    loss, accuracy = evaluate(DataLoader(test_set, 256), model, loss_fn)
    print(f"Test Accuracy: {100 * accuracy:>0.1f}%, Avg loss: {loss:>8f}")
    return accuracy


if __name__ == "__main__":
    main()
