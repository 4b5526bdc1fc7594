"""A row is named after the classes that ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from prunelab.cli.config import configure
from prunelab.cli.naming import run_names

CONF = Path(__file__).parents[2] / "conf"
NEEDS = {"data=image_folder": ["data.root=x"], "model=timm": ["model.name=resnet18"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={path.stem}"
        for group in ("method", "model", "data", "recipe")
        for path in sorted((CONF / group).glob("*.yaml"))
    ],
)
def test_an_unchanged_choice_has_its_own_name(choice: str) -> None:
    group, _, name = choice.partition("=")
    named = configure(["budget.flops=0.5", choice, *NEEDS.get(choice, [])])["names"]
    assert named[group] == ("resnet18" if choice == "model=timm" else name)


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_the_experiments_replace_no_class(experiment: str) -> None:
    names = configure([f"experiment={experiment}", "++data.root=x", "baseline=train"])["names"]
    assert not any("(" in name for group, name in names.items() if group != "data"), names


def test_a_run_of_a_row_has_its_name() -> None:
    one = configure(["experiment=cifar10_resnet56/hrankplus_74"])
    swept = configure(["experiment=cifar10_resnet56", "experiment/cifar10_resnet56=hrankplus_74"])
    assert one["names"] == swept["names"]
    assert one["names"]["row"] == "hrankplus_74"
    assert "row" not in configure(["experiment=demo"])["names"]


@pytest.mark.parametrize(
    ("words", "group", "name"),
    [
        (["method.criterion._target_=mine.Mine"], "method", "l1 (criterion: mine.Mine)"),
        (["method._target_=mine.Method"], "method", "l1 (mine.Method)"),
        (["method.criterion._target_=prunelab.methods.FPGM"], "method", "l1 (criterion: FPGM)"),
        (["method=lfpc", "method.criteria=[{_target_:mine.A}]"], "method", "lfpc (criteria[0]: mine.A)"),
        (["method=thinet", "method.rule._target_=mine.Rule"], "method", "thinet (rule: mine.Rule)"),
        (["recipe._target_=mine.Recipe"], "recipe", "one_shot (mine.Recipe)"),
        (["data._target_=mine.Images"], "data", "digits (mine.Images)"),
        (["model.name=cifar_resnet56"], "model", "resnet20 (name: cifar_resnet56)"),
        (["+model.module=nets"], "model", "resnet20 (module: nets)"),
        (["method.criterion._target_=prunelab.methods.importance.l1.L1Norm"], "method", "l1"),
        (["method.criterion.reduction=max"], "method", "l1"),
    ],
)
def test_a_replaced_class_is_named(words: list[str], group: str, name: str) -> None:
    assert configure(["budget.flops=0.5", "method=l1", *words])["names"][group] == name


def test_a_choice_of_a_user_has_the_name_that_they_gave_it(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "defaults: [/importance@_here_, _self_]\ncriterion: {_target_: mine.Mine}\n"
    )
    config = configure(["budget.flops=0.5"])
    config["method"]["criterion"]["_target_"] = "mine.Mine"
    runtime = OmegaConf.create(
        {
            "choices": {"method": "mine", "model": "resnet20", "data": "digits", "recipe": "one_shot"},
            "config_sources": [
                {"schema": "file", "path": str(CONF)},
                {"schema": "file", "path": str(tmp_path)},
            ],
        }
    )
    assert run_names(config, runtime)["method"] == "mine"
    config["method"]["criterion"]["_target_"] = "yours.Yours"
    assert run_names(config, runtime)["method"] == "mine (criterion: yours.Yours)"
