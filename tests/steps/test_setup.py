"""Every choice of every group can be constructed; invalid values are errors before the run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.records import run_key
from prunelab.steps import Setup

CONF = Path(__file__).parents[2] / "conf"
NEEDED = {
    "data=image_folder": ["data.root=images"],
    "data=imagenet": ["model=resnet50"],
    "model=timm": ["model.name=resnet18"],
    "baseline=file": ["baseline.path=weights.safetensors"],
    "trainer=gpu": ["trainer.accelerator=cpu"],
    "trainer=ddp": ["trainer.accelerator=cpu", "trainer.devices=2"],
    "experiment=table2": ["trainer=cpu"],
    "experiment=table2_controlled": ["trainer=cpu"],
    "experiment=cifar10_resnet20": ["data.root=images", "baseline.path=weights.safetensors"],
}
"""Settings that a choice requires, or that replace hardware that a test machine may not have."""

CHOICES = sorted(f"{file.parent.name}={file.stem}" for file in CONF.glob("*/*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_makes_objects(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.safetensors").write_bytes(b"")
    config = configure(["budget.flops=0.5", choice, *NEEDED.get(choice, [])])
    setup = Setup.of(config)
    assert setup.budget.keep == setup.recipe.rounds(0.5)[-1].keep == 0.5
    names = config["names"]
    assert str(setup) == f"{names['method']} on {names['model']}, {names['data']}, budget.flops=0.5, seed 0"
    assert list(tmp_path.iterdir()) == [tmp_path / "weights.safetensors"]


def test_processes_share_a_batch() -> None:
    several = ["budget.flops=0.5", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=4"]
    assert Setup.of(configure([*several, "data.batch_size=64"])).task.data.batch_size == 16
    with pytest.raises(UserError, match=r"data.batch_size=30 .* 4 processes"):
        Setup.of(configure([*several, "data.batch_size=30"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "budget is empty: .*budget.flops=0.5"),
        (["budget.flops=0.5", "budget.params=0.4"], "budget.flops=0.5 and budget.params=0.4"),
        (["budget.flops=1.5"], "budget.flops=1.5 is not a fraction to keep"),
        (["budget.flops=half"], "budget.flops=half is not a fraction to keep"),
        (["budget.params=0"], "budget.params=0 is not a fraction to keep"),
        (["budget.flops=0.5", "budget.min_keep=2"], "min_keep=2"),
        (["budget.flops=0.5", "budget.allocation=globl"], "Did you mean 'global'"),
        (["budget.flops=0.5", "levels=[stge]"], "Did you mean 'stage'"),
        (["budget.flops=0.5", "levels=[]"], "levels is empty"),
        (["budget.flops=0.5", "recipe.training.lr=0"], "^recipe.training: lr must be above 0"),
        (["budget.flops=0.5", "baseline.training.epochs=0"], "^baseline.training: epochs must be at least 1"),
        (
            ["budget.flops=0.5", "recipe=iterative", "recipe.round_training.optimizer=adam"],
            "^recipe.round_training: there is no optimizer 'adam'. Did you mean 'adamw'",
        ),
        (["budget.flops=0.5", "method=sfp", "method.training.gamma=2"], "^method.training: gamma must be"),
        (["budget.flops=0.5", "recipe.calibration_images=0"], "calibration_images"),
        (["budget.flops=0.5", "data.batch_size=0"], "batch_size"),
        (["budget.flops=0.5", "seed=one"], "seed must be a whole number"),
        (["budget.flops=0.5", "trainer.precision=7"], "settings under trainer .* 7"),
        (["budget.flops=0.5", "+epochs=3"], "There is no key 'epochs'"),
    ],
)
def test_invalid_values_are_errors(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Setup.of(configure(words))


@pytest.mark.parametrize(
    "name", ["in_chans=1", "num_classes=10", "pretrained=true", "image_size=32", "name=vgg11"]
)
def test_settings_of_the_data_are_not_arguments_of_the_network(name: str) -> None:
    words = ["data=digits", "budget.flops=0.5", f"+model.arguments.{name}"]
    with pytest.raises(UserError, match=rf"model\.arguments\.{name.split('=')[0]}: .* leave it out"):
        Setup.of(configure(words))


LOW = ("budget.flops=0.5", "lowrank=svd", "budget.target.runtime=eager")


def test_a_target_that_is_not_there_is_an_error_before_the_run_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for words in (LOW, (*LOW, "lowrank.flops=null", "lowrank.latency=0.5"), (LOW[0], LOW[2])):
        with pytest.raises(UserError, match=r"budget\.target\.device=cuda: this machine has no such device"):
            Setup.of(configure([*words, "budget.target.device=cuda"])).require_target()


def test_stages_are_timed_on_the_target_if_a_setting_refers_to_one() -> None:
    plain = configure([LOW[0], "precision.epochs=2", "lowrank.flops=0.5"])

    def timed(group: str, **settings: object) -> bool:
        return Setup.of({**plain, group: {**plain[group], **settings}}).stages_on_target

    assert not timed("deploy", format="pt2")
    assert timed("deploy", format="onnx")
    assert timed("budget", flops=None, latency=0.5)
    assert timed("budget", target={**plain["budget"]["target"], "threads": 2})
    assert timed("precision", name="fp16") and timed("lowrank", decomposition="svd")


def test_settings_of_a_factorisation_that_is_not_made_change_no_key() -> None:
    """As in a sweep over lowrank=none,svd,tucker."""
    plain = configure([LOW[0], "lowrank.flops=0.5"])

    def key(**settings: object) -> str:
        return run_key({**plain, "lowrank": {**plain["lowrank"], **settings}})

    assert key(flops=0.6) == key() and Setup.of(plain).lowrank.title == ""
    assert key(decomposition="tucker", forms=["spatial"]) == key(decomposition="tucker")
    assert key(decomposition="svd", forms=["spatial"]) != key(decomposition="svd")


def test_the_target_of_a_run_is_that_of_its_ranks_only_for_a_latency() -> None:
    plain = Setup.of(configure(LOW))
    timed = Setup.of(configure([*LOW, "lowrank.flops=null", "lowrank.latency=0.5", "stage_batches=[8]"]))
    assert plain.lowrank.target is None and plain.stage_batches == (1, 64)
    assert timed.lowrank.target == timed.target and timed.stage_batches == (8,)
    with pytest.raises(UserError, match="batch sizes are whole numbers of at least 1"):
        Setup.of(configure([*LOW, "stage_batches=[0]"]))
