"""OpenVINO as a second runtime, quantised by NNCF. Skipped where they are not installed (prunelab[openvino])."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import prunelab
from prunelab.errors import UserError
from prunelab.evaluation import compared
from prunelab.export.deploy import PACKAGES_OF_OPENVINO, missing_packages
from prunelab.export.onnx_file import onnx_file
from prunelab.export.openvino_file import OpenVinoNetwork, openvino_files, quantised_files
from prunelab.records import InputFormat
from prunelab.records.deployment import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_packages(PACKAGES_OF_OPENVINO)), reason="pip install 'prunelab[openvino]' runs this test"
    ),
]

FORM = InputFormat((3, 12, 12), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 12, True, ("red", "green", "blue"))


def network() -> nn.Module:
    """A network whose classes are the brightest channel of an image."""
    made = nn.Sequential(
        nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()  # fmt: skip
    with torch.no_grad():
        made[0].weight.zero_()
        made[0].weight[:, :, 1, 1] = torch.eye(3)
        made[3].weight.copy_(torch.eye(3)[:, :, None, None])
    return made


def batch(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        4 * torch.rand(24, 3, 12, 12, generator=generator) * torch.rand(24, 3, 1, 1, generator=generator) - 2
    )


def test_a_network_is_quantised_and_agrees_with_pytorch_in_openvino(tmp_path: Path) -> None:
    settings = prunelab.Deploy("openvino", "int8", agreement=0.8)
    made = prunelab.deploy(network(), tmp_path, settings, [(batch(0), None)], [batch(5)], FORM)

    folder = tmp_path / "deployment"
    assert {file.name for file in folder.iterdir()} == {
        "model.xml", "model.bin", "model_int8.xml", "model_int8.bin", "predict.py", "deployment.json",
    }  # fmt: skip
    assert Deployment.from_json((folder / "deployment.json").read_text()) == made
    _, whole, small = made.stages
    assert [(each.runtime, each.precision) for each in made.stages[1:]] == [
        ("openvino", "fp32"), ("openvino", "int8"),
    ]  # fmt: skip
    assert whole.agreement == 1 and whole.largest_difference < 1e-4
    assert small.agreement >= 0.8 and small.largest_difference > whole.largest_difference
    assert whole.bytes == sum((folder / f"model{end}").stat().st_size for end in (".xml", ".bin"))
    assert "FakeQuantize" in (folder / "model_int8.xml").read_text()
    assert {"openvino", "nncf"} <= {*made.versions} and made.quantisation["reason"]

    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, :, 2] = 200
    Image.fromarray(pixels).save(tmp_path / "blue.png")
    ended = subprocess.run(
        [sys.executable, folder / "predict.py", tmp_path / "blue.png"], capture_output=True, text=True
    )
    assert ended.stdout.split()[1] == "blue", ended.stderr


class Residual(nn.Module):
    """Adds two convolutions of the input to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(images + self.second(torch.relu(self.first(images))))


def test_sums_in_residual_blocks_are_exact_to_rounding() -> None:
    torch.manual_seed(0)
    blocks = [Residual() for _ in range(3)]
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.randn(32, 3, 12, 12)
    small = quantised_files(onnx_file(made, (3, 12, 12), {}), "model.xml", {}, [images], reduced=False)
    whole, rounded = compared([made, OpenVinoNetwork(small)], [(images, None)])
    # 0.4 %; with NNCF's defaults 1.2 %
    assert rounded.largest_difference < 0.008 * whole.largest_logit


class Determinant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.det(images[:, :, :4, :4])


def test_an_operator_that_openvino_does_not_have_is_named_with_its_layer() -> None:
    content = onnx_file(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Determinant())).eval(), (3, 8, 8), {})
    with pytest.raises(UserError, match=r"no operator for Det, which the layer 1\.0 \(Determinant\) calls"):
        openvino_files(content, "model.xml", {}, half=False)


def test_metadata_half_precision_and_missing_images(tmp_path: Path) -> None:
    import openvino

    half = prunelab.deploy(
        network(), tmp_path, prunelab.Deploy("openvino", "fp16"), [(batch(0), None)], form=FORM
    )
    assert half.stages[-1].agreement == 1
    model = openvino.Core().read_model(tmp_path / "deployment" / "model.xml")
    assert InputFormat.from_dict(json.loads(model.get_rt_info(["prunelab"]).astype(str))) == FORM
    with pytest.raises(UserError, match=r"needs training images .* --images"):
        prunelab.deploy(
            network(), tmp_path, prunelab.Deploy("openvino", "int8"), [(batch(0), None)], form=FORM
        )
