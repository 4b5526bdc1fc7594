"""An origin describes a network as data, and cannot name anything that downloads, reads or runs code."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from prunelab.errors import UserError
from prunelab.models import Origin, build


def test_it_survives_json_and_builds_the_same_network() -> None:
    model = build("cifar_resnet20", num_classes=4, in_chans=1, shortcut="B")
    origin = Origin.from_dict(json.loads(json.dumps(model.prunelab_origin.to_dict())))
    assert origin == model.prunelab_origin
    again = origin.build()
    assert again.prunelab_origin == origin
    again.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_arguments_have_their_json_form() -> None:
    given = {"num_classes": 10, "widths": (1, 2)}
    origin = Origin("timm", "cifar_resnet20", given)
    given["num_classes"] = 3
    assert origin.arguments == {"num_classes": 10, "widths": [1, 2]}


def test_rebuilding_never_downloads_weights() -> None:
    # The tag names published weights; an origin does not load them, so no network connection is needed.
    assert Origin("timm", "resnet18.a1_in1k", {"num_classes": 5}).build().num_classes == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"builder": "os", "name": "system", "arguments": {}},
            "There is no builder of networks 'os'. Known: timm",
        ),
        ({"builder": ["timm"], "name": "lenet5", "arguments": {}}, "There is no builder of networks"),
        ({"builder": "timm", "name": "hf-hub:a/b", "arguments": {}}, "There is no model"),
        ({"builder": "timm", "name": 3, "arguments": {}}, "There is no model 3"),
        (
            {"builder": "timm", "name": "lenet5", "arguments": {"pretrained": True}},
            "pretrained is not allowed among",
        ),
        (
            {"builder": "timm", "name": "lenet5", "arguments": {"pretrained_cfg": {"file": "evil.pth"}}},
            "pretrained_cfg is not allowed among",
        ),
        ({"builder": "timm", "name": "lenet5", "arguments": ["x"]}, "must be a mapping of names to values"),
        ({"builder": "timm", "name": "lenet5"}, "the keys builder, name and arguments"),
        ({"builder": "timm", "name": "lenet5", "arguments": {}, "x": 1}, "the keys"),
        ("timm", "the keys"),
    ],
)
def test_forbidden_values_are_errors(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Origin.from_dict(data)
