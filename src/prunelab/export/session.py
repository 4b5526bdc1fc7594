"""An ONNX file as a module: the same checks and timings for onnxruntime and for torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.export.capture import first_line
from prunelab.export.onnx_file import layer_of_node

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ERRORS_ONLY = 3
NODE = re.compile(r"node (?:with name )?[(']([^)']+)[)']")
"""A node in a message of onnxruntime."""


def session_of(content: bytes, threads: int) -> InferenceSession:
    """A session of onnxruntime on the processor; raises its errors if it has no kernel for an operator.

    Args:
        content: the bytes of an ONNX file.
        threads: processor threads.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class OnnxNetwork(nn.Module):
    """Runs an ONNX file in onnxruntime on the processor. It cannot be trained.

    Args:
        content: the bytes of the file.
        threads: processor threads.
        title: the setting that asked for the file, for messages.

    Raises:
        UserError: onnxruntime has no kernel for an operator of the file.
    """

    def __init__(self, content: bytes, threads: int = 1, title: str = "deploy=onnx") -> None:
        super().__init__()
        import onnxruntime

        try:
            self.session = session_of(content, threads)
        except Exception as error:  # onnxruntime raises errors of many classes
            raise UserError(
                f"{title}: onnxruntime {onnxruntime.__version__} cannot run this network on the processor: "
                f"{first_line(error)}{_place(content, str(error))} Use another deploy.precision, or deploy=pt2."
            ) from error
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 -> logits (N, classes) float32, on the device of the images."""
        inputs = {self.input_name: images.detach().cpu().contiguous().numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0]).to(images.device)


def _place(content: bytes, message: str) -> str:
    """A sentence with the layer of the node that a message of onnxruntime names; "" if it names none."""
    node = NODE.search(message)
    layer = None if node is None else layer_of_node(content, node[1])
    return "" if node is None or layer is None else f" The node {node[1]} is a part of {layer}."
