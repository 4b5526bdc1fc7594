"""Every choice of ``data=`` composes, and has the defaults of its class."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import prunelab.data
from prunelab.data import ImageData

CONF = Path(__file__).parents[2] / "conf"
CHOICES = {
    "digits": "Digits",
    "cifar10": "Cifar10",
    "fashion_mnist": "FashionMnist",
    "imagenet": "ImageNet",
    "image_folder": "ImageFolder",
}


def composed(choice: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"data/{choice}", overrides=["+seed=7", *overrides]).data


def test_every_file_is_tested():
    assert {path.stem for path in (CONF / "data").glob("*.yaml")} == set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_it_instantiates_with_the_seed_of_the_run(choice: str, tmp_path: Path):
    overrides = ["data.root=nowhere"] if choice == "image_folder" else []
    data = instantiate(composed(choice, *overrides))
    assert isinstance(data, ImageData) and type(data).__name__ == CHOICES[choice]
    assert data.name == choice
    assert (data.seed, data.split_seed) == (7, 0)


@pytest.mark.parametrize("choice", CHOICES)
def test_it_lists_every_argument_with_the_default_of_the_class(choice: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PRUNELAB_DATA", raising=False)
    config = OmegaConf.to_container(composed(choice), resolve=True)
    parameters = inspect.signature(getattr(prunelab.data, CHOICES[choice])).parameters
    assert set(config) - {"_target_"} == set(parameters)
    for name, parameter in parameters.items():
        if name != "seed" and parameter.default is not inspect.Parameter.empty:
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert config[name] == default, name


def test_the_data_root_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRUNELAB_DATA", "elsewhere")
    assert composed("cifar10").root == composed("fashion_mnist").root == "elsewhere"
    assert composed("imagenet").root == "elsewhere/imagenet"


def test_every_key_has_a_comment():
    for choice in CHOICES:
        lines = (CONF / "data" / f"{choice}.yaml").read_text().splitlines()
        bare = [line for line in lines if line and not line.startswith("_target_") and "#" not in line]
        assert [line.partition(":")[0] for line in bare] in ([], ["std"]), bare


def test_digits_from_the_command_line_train():
    data = instantiate(composed("digits", "data.image_size=16", "data.mean=[0.5]"))
    data.setup()
    assert next(iter(data.train_dataloader()))[0].shape == (64, 1, 16, 16)
