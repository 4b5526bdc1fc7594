"""Deployments of small networks for real: exported, quantised, run in onnxruntime, checked against PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import prunelab
from prunelab.data.loose_images import LooseImages
from prunelab.errors import UserError
from prunelab.evaluation import compared
from prunelab.export.session import OnnxNetwork
from prunelab.records import InputFormat
from prunelab.records.deployment import DEPLOYMENT_FILE, Deployment

pytestmark = pytest.mark.slow

FORM = InputFormat((3, 12, 12), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 14, True, ("red", "green", "blue"))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A pruned network whose classes are colours: the third channel of an image counts most for the third class."""
    torch.manual_seed(0)
    full = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )  # fmt: skip
    plan = prunelab.analyze(full, torch.zeros(1, 3, 12, 12)).plan(kept={"0": [0, 1, 2, 4, 6]})
    pruned = prunelab.apply(full, plan).eval()
    with torch.no_grad():
        pruned[0].weight.zero_()
        pruned[0].weight[:3, :, 1, 1] = torch.eye(3)
        pruned[3].weight.copy_(torch.eye(3, 5)[:, :, None, None])
    return pruned


def batch(seed: int, number: int = 24) -> Tensor:
    images = torch.rand(number, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    images *= torch.rand(number, 3, 1, 1, generator=torch.Generator().manual_seed(seed + 1))
    return (images - torch.tensor(FORM.mean)[:, None, None]) / torch.tensor(FORM.std)[:, None, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployed")


@pytest.fixture(scope="module")
def int8(network: nn.Module, folder: Path) -> Deployment:
    settings = prunelab.Deploy("onnx", "int8", agreement=0.8)
    held_out = [(batch(0), torch.zeros(24, dtype=torch.int64))]
    return prunelab.deploy(network, folder, settings, held_out, [batch(5)], FORM)


def test_an_int8_deployment_is_whole_and_agrees_with_pytorch(
    int8: Deployment, network: nn.Module, folder: Path
) -> None:
    folder = folder / "deployment"
    assert {file.name for file in folder.iterdir()} == {
        "model.onnx", "model_int8.onnx", "predict.py", DEPLOYMENT_FILE,
    }  # fmt: skip
    assert Deployment.from_json((folder / DEPLOYMENT_FILE).read_text()) == int8
    eager, whole, small = int8.stages
    assert [(each.runtime, each.precision) for each in int8.stages] == [
        ("eager", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"),
    ]  # fmt: skip
    assert whole.agreement == 1 and 0 < whole.largest_difference < 1e-4
    assert small.agreement >= 0.8 and small.largest_difference > whole.largest_difference
    assert eager.top1 == whole.top1 == int((network(batch(0)).argmax(1) == 0).sum()) / 24
    assert all(0 < times.p50 <= times.p90 for each in int8.stages for times in each.latency_ms.values())
    assert whole.bytes == (folder / "model.onnx").stat().st_size
    assert int8.quantisation is not None and int8.quantisation["reason"]
    operators = {node.op_type for node in nodes(folder / "model_int8.onnx")}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def nodes(path: Path):
    import onnx

    return onnx.load(path).graph.node


@pytest.mark.parametrize("size", [(20, 30), (14, 14), (31, 15)])
def test_predict_needs_no_torch_and_gives_the_class_of_the_network(
    int8: Deployment, network: nn.Module, folder: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    file = tmp_path / "blue.png"
    pixels = np.random.default_rng(0).integers(0, 60, (*size, 3), dtype=np.uint8)
    pixels[:, :, 2] += 180
    Image.fromarray(pixels).save(file)
    (images, _), *_ = LooseImages((file,), FORM)
    expected = network(images)[0].softmax(0).detach()
    script = folder / "deployment" / "without_torch.py"
    text = script.with_name("predict.py").read_text()
    script.write_text("import sys; sys.modules['torch'] = None\n" + text)

    ended = subprocess.run([sys.executable, script, file], capture_output=True, text=True)

    assert ended.stderr == ""
    path, name, share = ended.stdout.split()
    assert (path, name) == (f"{file}:", "blue") and FORM.classes[expected.argmax()] == "blue"
    assert abs(float(share.strip("(%)")) / 100 - float(expected.max())) < 0.03


def test_metadata_is_in_the_file(int8: Deployment, folder: Path) -> None:
    import onnxruntime

    for name in int8.files:
        session = onnxruntime.InferenceSession(folder / "deployment" / name)
        found = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
        assert InputFormat.from_dict(found) == FORM
        assert {"run_key", "prunelab"} <= set(found)
        assert session.run(None, {"images": batch(1, 5).numpy()})[0].shape == (5, 3)  # any batch size


def test_a_file_that_computes_something_else_is_not_written(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OnnxNetwork.forward
    monkeypatch.setattr(OnnxNetwork, "forward", lambda self, images: right(self, images) + 0.1)
    with pytest.raises(UserError, match=r"model.onnx does not compute .* a logit differs by 0.1"):
        prunelab.deploy(network, tmp_path, prunelab.Deploy("onnx"), [(batch(0), None)], form=FORM)
    assert not (tmp_path / "deployment").exists()


def test_low_agreement_is_a_warning_and_int8_needs_images(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"needs training images .* --images"):
        prunelab.deploy(network, tmp_path, prunelab.Deploy("onnx", "int8"), [(batch(0), None)], form=FORM)
    right, start = OnnxNetwork.forward, OnnxNetwork.__init__

    def remember(self: OnnxNetwork, content: bytes, *more: Any) -> None:
        start(self, content, *more)
        self.shift = 1 if b"QuantizeLinear" in content else 0

    monkeypatch.setattr(OnnxNetwork, "__init__", remember)
    monkeypatch.setattr(
        OnnxNetwork, "forward", lambda self, images: right(self, images).roll(self.shift, dims=1)
    )
    made = prunelab.deploy(
        network, tmp_path, prunelab.Deploy("onnx", "int8"), [(batch(0), None)], [batch(5)], FORM
    )
    (warning,) = made.warnings
    assert "int8" in warning and "deploy.agreement=0.98" in warning
    assert made.stages[-1].agreement == 0


def test_a_precision_without_kernels_is_an_error_in_words(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"deploy.precision=bf16: onnxruntime .* cannot run this network"):
        prunelab.deploy(network, tmp_path, prunelab.Deploy("onnx", "bf16"), [(batch(0), None)], form=FORM)
    half = prunelab.deploy(network, tmp_path, prunelab.Deploy("onnx", "fp16"), [(batch(0), None)], form=FORM)
    assert half.stages[-1].precision == "fp16" and half.stages[-1].agreement == 1


def test_a_network_without_an_input_format_is_an_error(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prunelab_input"):
        prunelab.deploy(network, tmp_path, prunelab.Deploy("onnx"), [(batch(0), None)])


def test_the_range_of_int8_is_chosen_without_the_images_of_the_check(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def watched(networks: Any, batches: Any) -> Any:
        batches = [*batches]
        seen.extend(images for images, _ in batches)
        return compared(networks, batches)

    monkeypatch.setattr("prunelab.steps.deployed_files.compared", watched)
    settings = prunelab.Deploy("onnx", "int8", agreement=1.0)
    prunelab.deploy(network, tmp_path, settings, [(batch(0), None)], [batch(5)], FORM)
    assert seen and all(torch.equal(images, batch(5)) for images in seen)
