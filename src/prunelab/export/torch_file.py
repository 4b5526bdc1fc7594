"""A network as a program of torch.export (.pt2) or TorchScript (.pt)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.export.capture import captured, first_line, for_export, quiet

METADATA = "prunelab.json"
"""The name of the metadata inside the files."""


def pt2_file(
    network: nn.Module, image_shape: tuple[int, ...], metadata: Mapping[str, Any], precision: str
) -> bytes:
    """``network`` as a ``.pt2`` file for batches of any size; arguments and errors as for ``onnx_file``."""
    program = captured(for_export(network, precision), image_shape)
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={METADATA: json.dumps(dict(metadata))})
    return content.getvalue()


def torchscript_file(
    network: nn.Module, image_shape: tuple[int, ...], metadata: Mapping[str, Any], precision: str
) -> bytes:
    """``network`` as a traced TorchScript file; arguments and errors as for ``onnx_file``."""
    content = io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(for_export(network, precision), torch.zeros(2, *image_shape))
            torch.jit.save(traced, content, _extra_files={METADATA: json.dumps(dict(metadata))})
    except Exception as error:  # the tracer raises errors of many classes
        raise UserError(f"The network cannot be traced by TorchScript: {first_line(error)}") from error
    return content.getvalue()


class TorchProgram(nn.Module):
    """A ``.pt2`` or TorchScript file that this process has written, as a module. It cannot be trained.

    Files from elsewhere must not be opened with it: a TorchScript file is a program.
    """

    def __init__(self, content: bytes, form: str) -> None:
        super().__init__()
        file = io.BytesIO(content)
        with quiet():
            self.program = (
                torch.export.load(file).module()
                if form == "pt2"
                else torch.jit.load(file, map_location="cpu")
            )

    def train(self, mode: bool = True) -> TorchProgram:
        """Does nothing: an exported program has no training mode."""
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> logits (N, classes)."""
        logits: torch.Tensor = self.program(images)
        return logits
