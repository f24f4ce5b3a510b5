"""Several processes: collectives, averaged gradients, failures; one process without MPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import ingot as ig
import numpy as np
import pytest
from distributed_program import data, network, train
from ingot import distributed as dist
from ingot import nn

HERE = Path(__file__).resolve().parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
several = pytest.mark.skipif(
    find_spec("mpi4py") is None or MPIEXEC is None, reason="mpi4py and mpiexec are not here: pip install 'ingot[mpi]'"
)


@pytest.fixture
def alone():
    dist.init_process_group()
    yield
    dist.destroy_process_group()


def run(scene: str, folder: Path, processes: int = 2) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "INGOT_EAGER_KERNELS": "0"}
    return subprocess.run(
        [str(MPIEXEC), "-n", str(processes), sys.executable, str(HERE / "distributed_program.py"), scene, str(folder)],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip


def test_one_process_just_works(alone):
    assert (dist.get_rank(), dist.get_world_size(), dist.is_initialized()) == (0, 1, True)
    with pytest.raises(RuntimeError, match="twice"):
        dist.init_process_group()
    t = ig.ones(2)
    dist.all_reduce(t)
    dist.broadcast(t)
    work = dist.barrier(async_op=True)
    assert work.wait() and work.is_completed() and t.tolist() == [1, 1]
    x, y = data()
    plain, wrapped = network(), network()
    model = nn.parallel.DistributedDataParallel(wrapped)
    train(plain, x, y)
    train(model, x, y)
    for key, value in plain.state_dict().items():
        assert ig.equal(model.state_dict()[f"module.{key}"], value)
    with model.no_sync():
        model(ig.from_numpy(x)).sum().backward()
    with pytest.raises(RuntimeError, match="doesn't have any parameter"):
        nn.parallel.DistributedDataParallel(nn.ReLU())


def test_without_a_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        dist.get_rank()
    with pytest.raises(RuntimeError, match="nccl"):
        dist.init_process_group("nccl")


def test_data_parallel_runs_the_module():
    net = network()
    wrapped = nn.DataParallel(net)
    x = ig.from_numpy(data()[0])
    assert ig.equal(wrapped(x), net(x)) and wrapped.module is net
    assert all(k.startswith("module.") for k in wrapped.state_dict())
    assert ig.equal(nn.parallel.data_parallel(net, x), net(x))
    with pytest.raises(ig.IngotError, match="cuda"):
        nn.DataParallel(net, device_ids=[0, 1])


def test_sync_batch_norm_of_one_process_is_batch_norm():
    net = network(batch_norm=True)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network(batch_norm=True))
    assert isinstance(converted[1], nn.SyncBatchNorm) and converted[1].running_var.dtype is ig.float64
    x = ig.from_numpy(data()[0])
    np.testing.assert_allclose(converted(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(converted[1].running_mean.numpy(), net[1].running_mean.numpy(), rtol=1e-12)


@several
@pytest.mark.parametrize("scene", ["train", "sync"])
def test_two_processes_train_like_one(scene, tmp_path):
    found = run(scene, tmp_path)
    assert found.returncode == 0, found.stderr
    net = network(scene == "sync")
    train(net, *data())
    for rank in (0, 1):
        state = ig.load(tmp_path / f"{scene}{rank}.pt")
        for key, value in net.state_dict().items():
            np.testing.assert_allclose(state[f"module.{key}"].numpy(), value.numpy(), rtol=1e-9, err_msg=key)


@several
def test_collectives(tmp_path):
    found = run("collectives", tmp_path, 3)
    assert found.returncode == 0, found.stderr
    assert len(list(tmp_path.glob("collectives*"))) == 3


@several
def test_unused_parameters_are_named(tmp_path):
    found = run("unused", tmp_path)
    assert found.returncode == 0 and len(list(tmp_path.glob("unused*"))) == 2, found.stderr


@several
def test_a_process_that_dies_is_an_error_on_the_others(tmp_path):
    found = run("death", tmp_path)
    assert found.returncode != 0 and "ValueError: out of luck" in found.stderr
    assert "rank 1 failed: ValueError: out of luck" in (tmp_path / "survivor").read_text()


@several
def test_the_example_gives_the_same_with_two_processes():
    example = HERE.parent / "examples" / "data_parallel.py"

    def losses(*command: str) -> list[str]:
        found = subprocess.run([*command, sys.executable, str(example)], capture_output=True, text=True, timeout=200,
                               check=True)  # fmt: skip
        return [line.split(" with ")[0] for line in found.stdout.splitlines()]

    alone = losses()
    assert len(alone) == 4 and losses(str(MPIEXEC), "-n", "2") == alone
