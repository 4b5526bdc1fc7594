"""The configuration is found, composed and resolved; the message of a mistake is one line with the nearest names."""

from __future__ import annotations

from typing import get_args

import pytest

from prunelab.cli.config import NEEDED, configure, configure_part, resolve
from prunelab.errors import UserError
from prunelab.methods.allocation.budget import Resource


def test_names_are_those_of_the_choices_or_of_their_networks_and_data() -> None:
    assert configure(["method=fpgm", "recipe=iterative"])["names"] == {
        "method": "fpgm",
        "model": "resnet20",
        "data": "digits",
        "recipe": "iterative",
    }
    several = ["model=timm", "model.name=resnet18", "data=image_folder", "data.root=x", "data.name=leaves"]
    names = configure(several)["names"]
    assert (names["model"], names["data"]) == ("resnet18", "leaves")


def test_a_part_is_composed_although_others_miss_values() -> None:
    assert configure_part("model", ["model=resnet56", "data=image_folder"])["name"] == "cifar_resnet56"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=taylr"], "There is no method called 'taylr'. Did you mean 'taylor'"),
        (["model=resnt56"], "There is no model called 'resnt56'. Did you mean 'resnet56'"),
        (["data=cifar100"], "There is no data called 'cifar100'. Did you mean 'cifar10'?"),
        (["experiment=dmo"], "There is no experiment called 'dmo'. Did you mean 'demo'?"),
        (["budget.flop=0.5"], "There is no key 'budget.flop'. Did you mean 'budget.flops'"),
        (
            ["recipe=iterative", "recipe.numbr=2"],
            "There is no key 'recipe.numbr'. Did you mean 'recipe.number'",
        ),
        (
            ["hydra/launcher=local", "hydra.launcher.job=2"],
            "There is no key 'hydra.launcher.job'. Did you mean 'hydra.launcher.jobs'",
        ),
        (["methd=l1"], "There is no key 'methd'. Did you mean 'method'"),
        (["seed.x=1"], "There is no key 'seed.x'."),
        (["budget.flops"], "'budget.flops' is not understood. Write key=value"),
        (["=0.5"], "'=0.5' is not understood. Write key=value"),
        (["budget.flops=0.5,0.3"], "To run them all: prunelab -m budget.flops=0.5,0.3"),
        (
            ["budget=0.5"],
            "'budget=0.5': choose one file of budget by its name (keep). To set a key in it write budget.",
        ),
        (["debug=true"], "'debug=true': choose one file of debug by its name (fast_dev_run). "),
        (["logger=false"], "by its name (csv, mlflow, none, tensorboard, wandb)"),
        (
            ["hydra/launcher=true"],
            "choose one file of hydra/launcher by its name (local, slurm). To set a key in it",
        ),
        (["model=[a]"], "choose one file of model by its name (lenet5, "),
        (["model=resnet18"], "it is a network of timm: model=timm model.name=resnet18"),
        (["model=timm"], "model.name is not given. Add model.name=... to the command line."),
        (["data=image_folder"], "data.root is not given."),
        (
            ["outputs=~/out"],
            """needs quotes around it, and more for the shell: 'outputs="~/out"'.""",
        ),
        (["data.root=my photos (2)"], "its value needs quotes"),
        (["outputs=null"], "outputs=None is not a folder. Write outputs=FOLDER."),
        (["~method"], "A run has a method: choose one with method=NAME, and leave '~method' out."),
        (
            ["~budget"],
            "A run has a budget: set what to keep, such as budget.flops=0.5, and leave '~budget' out.",
        ),
        (["~budget", "budget.flops=0.5"], "A run has a budget: set what to keep"),
        (
            ["~budget.nothing"],
            "'~budget.nothing': a key cannot be removed. To set it to nothing write budget.nothing=",
        ),
        (["model.arguments={nope: 1}"], "write '+' before the key: +model.arguments.NAME=VALUE"),
        (["model.arguments.nope=1"], "write '+' before the key: +model.arguments.nope=VALUE"),
        (["model=null"], "choose one file of model by its name"),
        (["study=${nowhere}"], "refers to an unknown key: nowhere"),
        (
            ["~seed"],
            "If '~seed' on the command line removed it, leave that word out; to change the key write seed=",
        ),
    ],
)
def test_mistakes_are_said_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        configure(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_may_have_a_number_for_a_name() -> None:
    config = configure(["study=2024", "outputs=7"])
    assert (config["study"], config["outputs"]) == ("2024", "7")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+budget.speed=0.5", "There is no key 'budget.speed'."),
        ("+sweep.redoo=true", "There is no key 'sweep.redoo'. Did you mean 'redo'"),
        ("+levls=[filter]", "There is no key 'levls'. Did you mean 'levels'"),
    ],
)
def test_a_key_that_does_not_exist_cannot_be_added(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        configure(["budget.flops=0.5", word])
    assert message in str(caught.value)


def test_every_resource_of_a_budget_is_a_key_if_the_method_has_it_too() -> None:
    for resource in get_args(Resource):
        configure([f"++budget.{resource}=0.5", f"++method.budget.{resource}=0.5"])
        with pytest.raises(UserError, match=rf"budget\.{resource} has no effect on this method"):
            configure([f"++budget.{resource}=0.5", f"~method.budget.{resource}"])


def test_without_a_method_the_best_one_shot_method_is_used() -> None:
    chosen = configure(["budget.flops=0.5"])
    assert (chosen["names"]["method"], chosen["method"]["allocation"]) == ("obs", "per_cost")


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["method=fisher"], "per_cost"),
        (["method=l1"], "global"),
        (["method=channel_pruning"], "global"),
        (["method=obs", "budget.allocation=uniform"], "uniform"),
        (["method=l1", "budget.allocation=per_cost"], "per_cost"),
    ],
)
def test_a_method_has_an_allocation_of_its_own_unless_one_is_given(words: list[str], rule: str) -> None:
    assert configure(["budget.flops=0.5", *words])["method"]["allocation"] == rule


def test_a_list_of_choices_in_a_sweep_is_a_mistake_of_the_user() -> None:
    """With -m Hydra composes ``method=[l1,l2]``, and no choice is left."""
    from omegaconf import OmegaConf

    runtime = OmegaConf.create({"choices": {}, "config_sources": []})
    values = OmegaConf.create({group: {} for group in NEEDED})
    with pytest.raises(UserError, match=r"choose one file of method by its name \(abcpruner"):
        resolve(values, runtime)
