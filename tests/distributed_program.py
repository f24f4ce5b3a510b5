"""A program for several processes: ``mpiexec -n 2 python distributed_program.py SCENE FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import ingot as torch
import numpy as np
from ingot import distributed as dist
from ingot import nn, optim


def network(batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    middle = [nn.BatchNorm1d(8)] if batch_norm else []
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.Tanh(), nn.Linear(8, 2)).double()


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 4)), rng.standard_normal((16, 2))


def train(model: nn.Module, x: np.ndarray, y: np.ndarray, steps: int = 5) -> None:
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        opt.zero_grad()
        nn.functional.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        opt.step()


def main(scene: str, folder: Path) -> None:
    dist.init_process_group("mpi", timeout=timedelta(seconds=20))
    rank, size = dist.get_rank(), dist.get_world_size()
    x, y = data()
    mine = slice(rank * 16 // size, (rank + 1) * 16 // size)
    if scene in ("train", "sync"):
        net = network(scene == "sync")
        if rank:
            with torch.no_grad():
                net[0].weight.add_(rank)  # process 0's weights count
        if scene == "sync":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        model = nn.parallel.DistributedDataParallel(net, bucket_cap_mb=1e-4)
        train(model, x[mine], y[mine])
        torch.save(model.state_dict(), folder / f"{scene}{rank}.pt")
    elif scene == "collectives":
        t = torch.full((3,), float(rank + 1))
        dist.all_reduce(t)
        assert t.tolist() == [size * (size + 1) / 2] * 3
        dist.broadcast(t.fill_(rank), src=size - 1)
        assert t.tolist() == [size - 1] * 3
        parts = [torch.zeros(2) for _ in range(size)]
        dist.all_gather(parts, torch.full((2,), float(rank)))
        assert [p[0].item() for p in parts] == list(range(size))
        mean = torch.tensor(float(rank))
        dist.all_reduce(mean, dist.ReduceOp.AVG)
        assert mean.item() == (size - 1) / 2
        objects = [None] * size
        dist.all_gather_object(objects, {"rank": rank})
        assert objects == [{"rank": r} for r in range(size)]
        row = torch.zeros(2)
        dist.scatter(row, [torch.full((2,), float(r)) for r in range(size)] if rank == 0 else None)
        assert row.tolist() == [rank, rank]
        dist.barrier()
        (folder / f"collectives{rank}").write_text("ok")
    elif scene == "unused":
        model = nn.parallel.DistributedDataParallel(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
        model.module.forward = lambda t: model.module["a"](t)
        for _ in range(2):
            try:
                model(torch.ones(1, 2)).sum().backward()
            except RuntimeError as error:
                assert "b.weight" in str(error), error
                (folder / f"unused{rank}").write_text("ok")
                break
    elif scene == "death":
        if rank == 1:
            raise ValueError("out of luck")
        try:
            dist.all_reduce(torch.ones(2))
        except dist.DistributedError as error:
            (folder / "survivor").write_text(str(error))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
