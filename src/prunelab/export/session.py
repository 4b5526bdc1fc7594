"""An ONNX file as a module: the same checks and timings for onnxruntime and for torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.export.capture import first_line

ERRORS_ONLY = 3


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

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises errors of many classes
            raise UserError(
                f"{title}: onnxruntime {onnxruntime.__version__} cannot run this network on the processor: "
                f"{first_line(error)} Use another deploy.precision, or deploy=pt2."
            ) from error
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 -> logits (N, classes) float32, on the device of the images."""
        inputs = {self.input_name: images.detach().cpu().contiguous().numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0]).to(images.device)
