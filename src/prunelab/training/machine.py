"""Devices, precision and processes of all trainings and evaluations of a run; conf/trainer has its settings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prunelab.errors import UserError
from prunelab.training.sync_batchnorm import SameLayersSynchronised

SRUN_ADVICE = "The `srun` command is available"
"""Start of a Lightning warning that is issued on every machine with Slurm."""


@dataclass(frozen=True)
class Machine:
    """Settings of every Lightning Trainer of a run, with Lightning's names.

    Attributes:
        accelerator: "auto", "cpu", "gpu", "mps", ...
        devices: number of devices, or a list of their indices.
        num_nodes: number of machines.
        strategy: "auto" or "ddp".
        sync_batchnorm: in training, compute the statistics of batch normalisation over the images of all processes, so
            that their number changes results only by rounding; False: each process uses its own images.
        threads: CPU threads of each process; None: torch's default.
        precision: "32-true", "16-mixed" or "bf16-mixed", of training and of the validation in it; final accuracies and
            scores are always computed in float32.
        deterministic: True, False, or "warn": deterministic operators where torch has them.
        channels_last: memory format of images and weights.
        compile: compile the network before each training; "reduce-overhead" replays its kernels as CUDA graphs.
        tf32: compute float32 convolutions and matrix products on NVIDIA GPUs in TF32 (mantissas of 10 bits).
        fused: update all parameters in one kernel per optimizer step.
        images_on_device: move images in memory to the device, and assemble batches there.
        batches: limit for a trial run: batches per pass over the images; every training has one epoch then.
    """

    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    sync_batchnorm: bool = True
    threads: int | None = None
    precision: str | int = "32-true"
    deterministic: bool | Literal["warn"] = "warn"
    channels_last: bool = False
    compile: bool | Literal["reduce-overhead"] = False
    tf32: bool = False
    fused: bool = False
    images_on_device: bool = False
    batches: int | None = None

    def trainer(self, **more: Any) -> pl.Trainer:
        """A Lightning Trainer with these settings and the further arguments ``more``.

        Raises:
            UserError: a setting is not valid, or not available on this machine.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", SRUN_ADVICE)
                plugins = [*more.pop("plugins", ()), *_cluster()]
                if self.sync_batchnorm and self.accelerator != "cpu" and torch.cuda.is_available():
                    plugins.append(SameLayersSynchronised())
                trainer = pl.Trainer(
                    accelerator=self.accelerator,
                    devices=self.devices,
                    num_nodes=self.num_nodes,
                    strategy=self.strategy,
                    precision=self.precision,  # type: ignore[arg-type]  # checked by Lightning
                    deterministic=self.deterministic,
                    limit_train_batches=self.batches,
                    limit_val_batches=self.batches,
                    plugins=plugins,
                    **more,
                )
        except (MisconfigurationException, ValueError) as error:
            raise UserError(f"The settings under trainer cannot be used here: {error}") from error
        if str(self.precision).startswith("16") and trainer.precision == "bf16-mixed":
            raise UserError(
                f"trainer.precision={self.precision} needs a GPU: Lightning would train in bfloat16 on this processor. "
                "Set trainer.precision=bf16-mixed or 32-true."
            )
        return trainer

    def __post_init__(self) -> None:
        if not self.sync_batchnorm and self.devices in ("auto", "-1", -1):
            raise UserError(
                "trainer.sync_batchnorm=false makes results depend on the number of devices, which is then part of "
                f"the run key: set it, such as trainer.devices=2, instead of trainer.devices={self.devices}."
            )
        if self.fused and str(self.precision).startswith("16"):
            raise UserError(
                f"trainer.fused=true cannot be combined with trainer.precision={self.precision}: a fused optimizer "
                "removes the loss scale of float16 inside its step, after methods that learn have read the gradients. "
                "Set trainer.fused=false, or trainer.precision=bf16-mixed."
            )
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise UserError(
                f"trainer.threads must be null or a whole number, at least 1, not {self.threads!r}."
            )
        if self.batches is not None and (type(self.batches) is not int or self.batches < 1):
            raise UserError(
                f"fast_dev_run must be null or a number of batches, at least 1, not {self.batches!r}."
            )

    def prepare_process(self) -> None:
        """Set the process-wide options of torch: CPU threads, the precision of float32 on the GPU, new tensors."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32  # torch's own default is True
        # With deterministic operators torch would fill each new tensor with NaN first, with an extra kernel per
        # operator.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    @cached_property
    def device(self) -> torch.device:
        """The device on which this process trains, scores and evaluates."""
        return self.trainer(logger=False).strategy.root_device


def _cluster() -> list[SLURMEnvironment]:
    """Inside a Slurm job: disables Lightning's requeueing, because prunelab's launcher requeues the job."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
