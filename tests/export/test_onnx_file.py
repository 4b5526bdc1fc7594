"""Networks that ONNX cannot hold: the message names the operator and the layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunelab import Target
from prunelab.errors import UserError
from prunelab.evaluation.programs import network_program
from prunelab.export.onnx_file import onnx_file
from prunelab.export.session import OnnxNetwork
from prunelab.export.torch_file import TorchProgram, pt2_file, torchscript_file

pytestmark = pytest.mark.slow


class SingularValues(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.svd(images.flatten(2))[1].flatten(1)


class Decides(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


def test_an_unsupported_operator_is_named_with_its_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), SingularValues()))
    with pytest.raises(UserError, match=r"aten\._?linalg_svd, which the layer 1\.1 \(SingularValues\) calls"):
        onnx_file(network.eval(), (3, 8, 8), {})


def test_an_operator_without_a_kernel_is_named_with_its_layer() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3))).eval()
    content = onnx_file(network, (3, 8, 8), {}, precision="bf16")
    with pytest.raises(UserError, match=r"operator \(Conv\) .* is a part of the layer 1\.1 \(Conv2d\)"):
        OnnxNetwork(content)


def test_a_network_that_cannot_be_timed_in_onnxruntime_is_named_with_operator_and_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), SingularValues()))
    message = r"aten::linalg_svd.* called by the layer 1\.1 \(SingularValues\)\. .*runtime=eager"
    with pytest.raises(UserError, match=message):
        network_program(network, (3, 8, 8), Target())


def test_a_network_that_decides_by_values_is_not_exported() -> None:
    with pytest.raises(UserError, match=r"torch\.export cannot capture this Decides"):
        onnx_file(Decides().eval(), (3, 8, 8), {})


@pytest.mark.parametrize("write", [pt2_file, torchscript_file])
def test_torchs_own_files_compute_the_same_for_other_batch_sizes(write) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).eval()
    form = "pt2" if write is pt2_file else "torchscript"
    program = TorchProgram(write(network, (3, 8, 8), {"classes": ["a"]}, "fp32"), form).eval()
    images = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(program(images), network(images))
