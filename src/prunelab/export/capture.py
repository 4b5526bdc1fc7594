"""A network as a program of torch.export, from which files for other runtimes are made."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from prunelab.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCH = "batch"
NOISY = ("torch.onnx", "torch.export", "onnxscript", "torch._dynamo", "root")


class InPrecision(nn.Module):
    """A network that computes in another number format; images and logits are float32.

    Args:
        network: is copied.
        precision: "fp32", "fp16" or "bf16".
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.network = copy.deepcopy(network).cpu().to(self.dtype)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.to(self.dtype))
        return logits.float()


def for_export(network: nn.Module, precision: str) -> nn.Module:
    """A copy of ``network`` on the CPU, in evaluation mode and in ``precision``; inputs and outputs are float32."""
    return (
        copy.deepcopy(network).cpu().float().eval()
        if precision == "fp32"
        else InPrecision(network, precision)
    )


def captured(network: nn.Module, image_shape: tuple[int, ...]) -> ExportedProgram:
    """``network`` as a program for batches of any size.

    Args:
        network: in evaluation mode, on the CPU.
        image_shape: (C, H, W).

    Raises:
        UserError: the network cannot be captured: its Python code depends on values of tensors or on the batch size.
    """
    images = torch.zeros(2, *image_shape)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                network, (images,), dynamic_shapes=({0: torch.export.Dim(BATCH)},), strict=False
            )
    except Exception as error:  # torch.export raises errors of many classes
        raise UserError(
            f"torch.export cannot capture this {type(network).__name__} for batches of any size: {first_line(error)} "
            "Python code of the network may depend on values of tensors or on the batch size: use torch's operators."
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of a message, as a sentence."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and progress messages of exporters and quantisers."""
    loggers = [logging.getLogger(name if name != "root" else None) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
