"""Batch normalisation over the images of two ranks: as one process with the whole batch, on one card and on two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab.cli.local.settings import visible_gpus

SCRIPT = Path(__file__).with_name("ranks_on_one_card.py")
PLAIN = ["BatchNorm1d", "BatchNorm2d", "BatchNormAct2d"]
SYNCHRONISED = ["SyncBatchNorm", "SyncBatchNorm", "SyncBatchNormAct"]


def trained(folder: Path, ranks: int, backend: str, device: torch.device) -> dict[str, Any]:
    """The file that rank zero wrote. If a rank fails, the test fails with the output of all ranks."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    command = [sys.executable, str(SCRIPT), str(folder), str(ranks), backend, accelerator]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    logs = [folder / f"{ranks}_{backend}_{rank}.log" for rank in range(ranks)]
    processes = []
    for rank, log in enumerate(logs):
        own = {"CUDA_VISIBLE_DEVICES": visible_gpus()[rank]} if backend == "nccl" else {}
        with log.open("w") as output:
            variables = {**shared, **own, "NODE_RANK": str(rank)}
            processes.append(
                subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
            )
    end = time.monotonic() + 240
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):  # the others wait for it
            break
        time.sleep(0.1)
    statuses = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    assert statuses == [0] * ranks, "\n".join(log.read_text() for log in logs)
    found: dict[str, Any] = torch.load(folder / f"{ranks}_{backend}.pt")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_two_ranks_train_as_one_process_does(backend: str, tmp_path: Path, device: torch.device) -> None:
    """In float64. With gloo both ranks are on one card; on a processor torch has no synchronised layers.

    gloo reduces tensors of a GPU on the processor; pytorch/pytorch#155714 reports a race in it.
    """
    on_gpu = device.type == "cuda"
    if backend == "nccl" and not on_gpu:
        pytest.skip("a rehearsal: nccl has no collectives for tensors on a processor")
    if backend == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip(
            f"nccl needs a GPU for each of the two ranks, and this machine has {torch.cuda.device_count()}"
        )
    alone, together = (trained(tmp_path, ranks, backend, device) for ranks in (1, 2))
    for name, expected in alone["state"].items():
        torch.testing.assert_close(together["state"][name], expected, rtol=1e-7, atol=1e-9, msg=name)
    assert alone["during"] == alone["after"] == together["after"] == PLAIN
    assert together["during"] == (SYNCHRONISED if on_gpu else PLAIN)
