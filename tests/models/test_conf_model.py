"""Every choice of the config group ``model`` composes and builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from prunelab.models import build

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def composed(choice: str, *overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(f"model/{choice}", list(overrides))
    model = OmegaConf.to_container(cfg.model, throw_on_missing=True)
    assert isinstance(model, dict)
    own = {"module", "output"} if choice == "timm" else set()  # for networks of one's own
    assert set(model) == {"name", "pretrained", "arguments"} | own
    return model


def test_all_documented_networks_exist() -> None:
    resnets = {f"resnet{depth}" for depth in (20, 32, 44, 56, 110)}
    imagenet = {"resnet50", "resnet50_v1", "resnet152"}
    others = {"vgg16_bn", "mobilenetv1", "mobilenetv2", "lenet5", "timm"}
    assert set(CHOICES) == resnets | imagenet | others


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "timm"])
def test_a_choice_builds(choice: str) -> None:
    model = composed(choice)
    built = build(model["name"], 10, in_chans=1, image_size=28, **model["arguments"])
    assert built.prunelab_origin.name == model["name"]


def test_any_timm_network_by_its_name() -> None:
    assert composed("timm", "model.name=mobilenetv2_100")["name"] == "mobilenetv2_100"
    with pytest.raises(MissingMandatoryValue, match=r"model\.name"):
        composed("timm")
