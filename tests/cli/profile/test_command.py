"""prunelab-profile: groups, blocks, totals, as text and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prunelab.cli.profile.command import main
from prunelab.cli.profile.parts import profile


@pytest.mark.slow
def test_totals_are_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=resnet56"]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "3x32x32, 10 classes",
        "3 of level stage, 27 of level filter",
        "├─ layer1             16  stage   35.1%    5.5%",
        "│  ├─ 1                   block    3.8%    0.5%  can be dropped",
        "│  │  └─ conv1        16  filter   3.8%    0.5%",
        "output of the network",
    ):
        assert expected in shown
    assert profile(["model=resnet56"]).flops == pytest.approx(250.97e6, rel=1e-4)


@pytest.mark.slow
def test_residual_additions_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """ResNet-50 has 16 blocks, four of which have a convolution in their shortcut."""
    assert main(["model=timm", "model.name=resnet50", "image_size=64"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "16 of two activations, 12 in blocks that can be dropped" in shown
    assert "4 not (layer1.0, layer2.0, layer3.0, layer4.0): no identity shortcut" in shown


def test_shares_of_a_network_counted_by_hand() -> None:
    """LeNet-5 on 28x28: its first fully connected layer has 120 x 84 + 84 of 61,706 parameters."""
    found = profile(["model=lenet5"])
    last = found.groups[-1]
    assert (last.name, last.channels, last.level) == ("fc1", 84, "filter")
    assert last.params_share == pytest.approx((120 * 84 + 84 + 84 * 10) / 61_706)
    assert last.flops_share == pytest.approx((2 * 120 * 84 + 84 + 2 * 84 * 10) / found.flops)
    assert [frozen.reason for frozen in found.frozen] == ["output of the network"]


def test_json_contains_the_printed_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "model=timm", "model.name=mobilenetv2_050", "image_size=64"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input_size"] == [3, 64, 64]
    assert {block["level"] for block in found["blocks"]} == {"block"}
    assert all(0 < group["flops_share"] < 1 for group in found["groups"])


@pytest.mark.slow
def test_the_time_of_a_network_and_of_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prunelab.evaluation.latency_target.SECONDS", 0.1)
    words = ["model=lenet5", "budget.target.runtime=eager", f"budget.target.tables={tmp_path}"]
    assert main([*words, "--latency", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["latency"]
    assert found["target"] == "eager on cpu, fp32, batch 1, 1 thread"
    assert set(found["modules"]) == {"conv1", "conv2", "conv3", "fc1", "fc2"}
    assert 0 < found["p50"] <= found["p90"]
    assert all(time > 0 for time in found["modules"].values())
    assert main([*words, "--latency", "--layers"]) == 0
    shown = capsys.readouterr().out
    assert "latency" in shown and " ms " in shown
    assert len(list(tmp_path.iterdir())) == 1  # the table, which the second call has read


def test_layers_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=lenet5", "--layers"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv2", "Conv2d", "5x5", "16x10x10", "2,416", "240,000", "3.9%", "57.4%"] in lines
    assert ["fc1", "Linear", "84", "10,164", "10,080", "16.5%", "2.4%"] in lines
    found = profile(["model=lenet5"])
    assert sum(layer.params for layer in found.layers) == found.params
    assert sum(layer.flops for layer in found.layers) == found.flops


def test_layers_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--layers", "model=resnet20"]) == 0
    found = json.loads(capsys.readouterr().out)
    strided = [layer["module"] for layer in found["layers"] if layer["stride"] == [2, 2]]
    assert strided == ["layer2.0.conv1", "layer3.0.conv1"]


def test_a_method_without_a_folder_for_its_picture_is_not_passed_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model=resnet20", "method=hrank"]) == 0
    shown = capsys.readouterr()
    assert "add --scores FOLDER to draw the scores that method=hrank gives" in shown.err
    assert "81,102,090" in shown.out
    assert main(["model=resnet20", "method=hrnk"]) == 1
    assert capsys.readouterr().err == (
        "prunelab-profile: There is no method called 'hrnk'. Did you mean 'hrank'?\n"
    )


def test_the_data_sets_image_shape_and_number_of_classes() -> None:
    """Grey images of 8x8: the FLOPs are those of the demo's records."""
    found = profile(["model=resnet20", "data=digits"])
    assert (found.input_size, found.num_classes, found.flops) == ((1, 8, 8), 10, 5_033_226)
    assert profile(["model=resnet20", "data.image_size=16"]).input_size == (1, 16, 16)
    assert profile(["model=resnet20", "data=digits", "image_size=12"]).input_size == (1, 12, 12)


def test_help_does_not_wait_for_torch() -> None:
    modules = "prunelab.cli.profile.command, prunelab.cli.methods"
    heavy = f"import sys, {modules}; print({{'torch', 'timm'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
def test_inexact_channels_are_not_pruned_on_request() -> None:
    words = ["model=timm", "model.name=test_convnext"]
    usual, exact = profile(words), profile([*words, "exact=true"])
    assert {part.exact for part in usual.groups} == {True, False}
    assert [part.name for part in exact.groups] == [part.name for part in usual.groups if part.exact]
    assert any(
        frozen.reason.startswith("not exact: native_layer_norm over channels (in ") for frozen in exact.frozen
    )


@pytest.mark.slow
def test_cardinality_is_a_width() -> None:
    """Groups of eight channels: the first stage has three of them."""
    words = ["model=timm", "model.name=regnetx_002", "image_size=64"]
    widths = [
        {part.channels for part in profile([*words, f"cardinality={on}"]).groups} for on in ("true", "false")
    ]
    assert [3 in found for found in widths] == [True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=resnt56"], "There is no model called 'resnt56'. Did you mean 'resnet56'"),
        (["model=timm"], "model.name is not given"),
        (["model=timm", "model.name=resnet51"], "resnet51"),
        (["model=lenet5", "image_size=4"], "images of 4x4"),
        (["model=lenet5", "exact=perhaps"], "exact=perhaps is neither true nor false"),
        (["model=lenet5", "data=digits"], "images of 8x8"),
        (["model=lenet5", "data.image_size=big"], "data.image_size must be a whole number, not 'big'"),
        (["model=lenet5", "image_size=big"], "image_size=big: the image size is a number"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert message in capsys.readouterr().err


UNUSED = """
import torch
from timm.models import register_model
from torch import nn

class Idle(nn.Module):
    def __init__(self, in_chans, num_classes):
        super().__init__()
        self.first, self.out = nn.Conv2d(in_chans, 8, 3), nn.Linear(8, num_classes)
        self.idle = nn.Linear(8, 2)

    def forward(self, x, target=None):
        if self.training:
            return target.sum()
        return self.out(self.first(x).mean((2, 3)))

@register_model
def partly_idle(num_classes=10, in_chans=3, **_):
    return Idle(in_chans, num_classes)
"""


def test_unused_parameters_and_a_failure_in_training_mode_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "partly_idle_net.py").write_text(UNUSED)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["model=timm", "model.name=partly_idle", "model.module=partly_idle_net", "image_size=8"]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "unused idle.weight, idle.bias: no operator reads them" in shown
    assert "training mode does not run on this input (AttributeError: 'NoneType'" in shown
    found = profile(words)
    assert found.unused_parameters == ("idle.weight", "idle.bias")
