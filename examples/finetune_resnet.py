"""Fine-tune a ResNet-18 on a folder of pictures (a folder per class) and save what it gets wrong.

    python examples/finetune_resnet.py PICTURES [--weights resnet18.pth] [--epochs 3] [--wrong FOLDER]

The last layer is new and learns ten times as fast as the rest. Without ``--weights`` (a file with a state_dict of a
ResNet-18 with 1000 classes) the network starts from scratch. INGOT_DATA/cifar10-test-1000/images is such a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ingot as torch
import ingot.nn.functional as F
from ingot import nn, optim
from ingot.utils.data import DataLoader, Subset, random_split
from ingot.vision import datasets, models, transforms, utils

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(classes: int, weights: str | None):
    """(model, optimizer): a new head, and two groups of parameters with their own learning rates."""
    model = models.resnet18(weights=weights)
    model.fc = nn.Linear(model.fc.in_features, classes)
    head = set(model.fc.parameters())
    body = [p for p in model.parameters() if p not in head]
    groups = [{"params": body, "lr": 1e-3}, {"params": list(head), "lr": 1e-2}]
    return model, optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def train_epoch(model, loader, optimizer) -> float:
    """Mean loss of one epoch."""
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    return total / len(loader.dataset)


@torch.no_grad()
def save_wrong(model, loader, classes: list[str], folder: Path) -> float:
    """Writes every picture that is classified wrong as TRUE_PREDICTED_PROBABILITY_i.png; the share of right answers."""
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    wrong = 0
    for x, y in loader:
        probability, predicted = F.softmax(model(x), dim=1).max(1)
        for i in (predicted != y).nonzero().flatten().tolist():
            name = f"{classes[y[i].item()]}_{classes[predicted[i].item()]}_{probability[i].item():.3f}_{wrong}.png"
            utils.save_image(x[i] * std + mean, folder / name)
            wrong += 1
    return 1 - wrong / len(loader.dataset)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--wrong", type=Path, default=Path("wrong"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    size = options.size
    plain = transforms.Compose([
        transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    varied = transforms.Compose([
        transforms.Resize((size, size)), transforms.RandomCrop(size, padding=size // 8),
        transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    pictures = datasets.ImageFolder(options.pictures, varied)
    train_part, test_part = random_split(pictures, [0.8, 0.2], generator=torch.Generator().manual_seed(42))
    test_part = Subset(datasets.ImageFolder(options.pictures, plain), test_part.indices)  # without chance
    model, optimizer = network(len(pictures.classes), options.weights)
    loader = DataLoader(train_part, batch_size=16, shuffle=True, drop_last=len(train_part) > 16)
    for epoch in range(options.epochs):
        print(f"epoch {epoch}: loss {train_epoch(model, loader, optimizer):.4f}")
    accuracy = save_wrong(model, DataLoader(test_part, batch_size=16), pictures.classes, options.wrong)
    print(f"accuracy {100 * accuracy:.1f}%, pictures that went wrong are in {options.wrong}")
    return accuracy


if __name__ == "__main__":
    main()
