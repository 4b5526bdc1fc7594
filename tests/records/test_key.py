"""The key of a run changes with every setting that can change its result, and with no other."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.records import baseline_key, run_key
from prunelab.records.classes import class_name, key_word, present_target
from prunelab.records.defaults import defaults_of
from prunelab.records.key import OF_THE_BASELINE

BUDGET = "budget.flops=0.5"
CONF = Path(__file__).parents[2] / "conf"
Config = dict[str, Any]

NEEDS: Mapping[str, tuple[str, ...]] = {
    "data=image_folder": ("data.root=absent",),
    "model=timm": ("model.name=resnet18",),
    "baseline=file": (f"baseline.path={__file__}",),
}
"""Settings that are required with some choices."""

NO_SETTINGS = ("_target_", "_convert_")
WITHOUT_EFFECT = {
    "method.module", "method.workers", "method.save_every", "data.num_workers", "data.in_memory", "data.cache",
    "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.threads", "trainer.images_on_device", "trainer.sync_batchnorm",
}  # fmt: skip
ACT_THROUGH_OTHERS = (
    "names", "study", "outputs", "sweep", "logger", "learning_epochs", "search_evaluations", "budget", "levels",
    "exclude", "exact", "cardinality", "deploy", "stage_batches",
)  # fmt: skip
"""Settings that act through those of the method, to which their values are copied, or not at all."""


def choices() -> list[str]:
    groups = ("method", "recipe", "lowrank", "trainer", "data", "model", "baseline")
    return [f"{group}={path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))]


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that is not a group, by its dotted name."""
    for name, each in value.items():
        inside = f"{place}.{name}" if place else name
        if isinstance(each, dict) and each:
            yield from leaves(each, inside)
        elif name not in NO_SETTINGS:
            yield inside, each


def changed(config: Config, name: str, value: Any) -> Config:
    new = deepcopy(config)
    *groups, last = name.split(".")
    node = new
    for group in groups:
        node = node[group]
    node[last] = value
    return new


def is_unused(config: Config, name: str) -> bool:
    """Whether a setting of lowrank or precision is one that the choice does not use."""
    if name.startswith("precision."):
        return config["precision"]["name"] == "fp32" and name != "precision.name"
    decomposition = config["lowrank"]["decomposition"]
    if name.startswith("lowrank.") and decomposition == "none":
        return name != "lowrank.decomposition"
    return name == "lowrank.forms" and decomposition != "svd"


def another(value: Any) -> Any:
    """Another value of a setting of any type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "another"]
    if isinstance(value, dict):
        return {"another": 1}
    return "another" if value is None else f"{value}-another"


@pytest.mark.slow
@pytest.mark.parametrize("choice", choices())
def test_every_setting_of_every_choice_counts_once(choice: str) -> None:
    config = configure([BUDGET, choice, *NEEDS.get(choice, ())])
    key, of_baseline = run_key(config), baseline_key(config)
    for name, value in leaves(config):
        if name == "baseline.path":
            continue  # by its content, see below
        other = changed(config, name, another(value))
        published = name == "data.root" and choice != "data=image_folder"
        ignored = name.partition(".")[0] in ACT_THROUGH_OTHERS or name in WITHOUT_EFFECT or published
        ignored |= is_unused(config, name)
        ignored &= (choice, name) != (
            "trainer=ddp",
            "trainer.sync_batchnorm",
        )  # part of the key with several processes
        assert (run_key(other) == key) == ignored, name
        shared = ignored or name.partition(".")[0] not in OF_THE_BASELINE
        assert (baseline_key(other) == of_baseline) == shared, name


@pytest.mark.slow
@pytest.mark.parametrize("choice", choices())
def test_a_setting_at_the_default_of_its_class_is_as_good_as_none(choice: str) -> None:
    """An option can be added: the keys of older configurations do not change."""
    config = configure([BUDGET, choice, *NEEDS.get(choice, ())])
    key = run_key(config)

    def without_defaults(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        usual = defaults_of(value["_target_"]) if "_target_" in value else {}
        return {
            name: without_defaults(each)
            for name, each in value.items()
            if name not in usual
            or each != usual[name]
            or isinstance(each, bool) != isinstance(usual[name], bool)
        }

    shorter = without_defaults(config)
    assert run_key(shorter) == key
    assert len(dict(leaves(shorter))) < len(dict(leaves(config)))


@given(seed=st.integers(0, 2**32))
def test_the_order_of_keys_means_nothing(seed: int) -> None:
    shuffled = random.Random(seed)

    def mixed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        shuffled.shuffle(items)
        return {name: mixed(each) for name, each in items}

    assert run_key(mixed(DEFAULT)) == run_key(DEFAULT)


DEFAULT = configure([BUDGET])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("budget.flops=0.5", "budget.flops=0.50", "budget.flops=5e-1", "budget.flops=.5"),
        ("budget.flops=1", "budget.flops=1.0"),
        ("budget.min_keep=0", "budget.min_keep=0.0"),
        ("recipe.training.weight_decay=0", "recipe.training.weight_decay=0.0"),
        ("levels=[stage,filter]", "levels=[filter,stage]", "levels=[filter,stage,filter]"),
        ("levels=filter", "levels=[filter]"),
        ("exclude=[conv1,layer1]", "exclude=[layer1,conv1]", "exclude=[conv1,conv1,layer1]"),
        ("exclude=null", "exclude=[]"),
        ("trainer.precision=32", "trainer.precision=32-true"),
        ("trainer.precision=16", "trainer.precision=16-mixed"),
        ("trainer.precision=bf16", "trainer.precision=bf16-mixed"),
    ],
)
def test_equal_settings_have_one_key(words: tuple[str, ...]) -> None:
    assert len({run_key(configure([BUDGET, word])) for word in words}) == 1
    other = "budget.flops=0.4" if words[0].startswith("budget.flops") else "seed=3"
    assert run_key(configure([BUDGET, words[0], other])) != run_key(configure([BUDGET, words[0]]))


def test_true_is_not_one() -> None:
    one = changed(DEFAULT, "data.crop_padding", 1)
    assert run_key(changed(DEFAULT, "data.crop_padding", True)) != run_key(one)


def test_a_class_of_prunelab_may_move() -> None:
    moved = deepcopy(DEFAULT)
    moved["method"]["criterion"]["_target_"] = "prunelab.methods.importance.obs.OBS"
    moved["recipe"]["training"]["_target_"] = "prunelab.training.settings.Training"
    assert run_key(moved) == run_key(DEFAULT)


def test_a_class_may_be_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = deepcopy(DEFAULT)
    renamed["method"]["criterion"]["_target_"] = "prunelab.methods.FormerOBS"
    assert run_key(renamed) != run_key(DEFAULT)
    monkeypatch.setattr("prunelab.records.classes.RENAMED_CLASSES", {"FormerOBS": "OBS"})
    present_target.cache_clear()
    assert run_key(renamed) == run_key(DEFAULT)
    present_target.cache_clear()


def test_the_first_name_of_a_class_is_used_in_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_word("prunelab.methods.L1Norm") == "L1Norm"
    monkeypatch.setattr("prunelab.records.classes.RENAMED_CLASSES", {"First": "Second", "Second": "L1Norm"})
    assert {key_word(f"prunelab.{name}") for name in ("First", "Second", "L1Norm")} == {"First"}
    assert {class_name(f"prunelab.{name}") for name in ("First", "Second", "L1Norm")} == {"L1Norm"}


def test_classes_of_users_are_told_apart_by_their_module() -> None:
    keys = set()
    for target in ("mine.Mine", "yours.Mine", "prunelab.methods.L1Norm"):
        config = deepcopy(DEFAULT)
        config["method"]["criterion"]["_target_"] = target
        keys.add(run_key(config))
    assert len(keys) == 3


def test_an_option_of_a_user_class_at_its_default_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = deepcopy(DEFAULT)
    config["method"]["criterion"] = {"_target_": "mine_with_option.Mine"}
    module = Path("mine_with_option.py")
    module.write_text("class Mine:\n    def __init__(self): ...\n")
    before = run_key(config)
    module.write_text("class Mine:\n    def __init__(self, power=2): ...\n")
    config["method"]["criterion"]["power"] = 2
    assert run_key(config) == before
    config["method"]["criterion"]["power"] = 3
    assert run_key(config) != before


def test_a_trial_and_its_baseline_have_keys_of_their_own() -> None:
    real, trial = DEFAULT, configure([BUDGET, "debug=fast_dev_run"])
    assert run_key(trial) != run_key(real)
    assert baseline_key(trial) != baseline_key(real)


def test_a_baseline_is_shared_by_methods_budgets_and_recipes() -> None:
    reference = baseline_key(DEFAULT)
    for words in (["method=l2"], ["budget.flops=0.3"], ["recipe=iterative"], ["levels=[block]"]):
        assert baseline_key(configure([BUDGET, *words])) == reference


def test_a_baseline_file_is_known_by_its_content(tmp_path: Path) -> None:
    for name, content in {"a": b"weights", "b": b"weights", "c": b"other"}.items():
        (tmp_path / name).write_bytes(content)
    keys = [
        run_key(configure([BUDGET, "baseline=file", f"baseline.path={tmp_path / name}"])) for name in "abc"
    ]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(UserError, match=r"baseline file .*missing cannot be read.*baseline\.path"):
        run_key(configure([BUDGET, "baseline=file", f"baseline.path={tmp_path / 'missing'}"]))


def test_the_length_of_learning_is_part_of_the_key_only_for_learning_methods() -> None:
    short, shorter = "+learning_epochs=2", "+learning_epochs=1"
    assert run_key(configure([BUDGET, short])) == run_key(DEFAULT)
    learning = [BUDGET, "method=slimming"]
    assert run_key(configure([*learning, short])) != run_key(configure([*learning, shorter]))


def test_a_baseline_file_that_is_a_number_is_looked_for() -> None:
    with pytest.raises(UserError, match="baseline file 5 cannot be read"):
        run_key(configure([BUDGET, "baseline=file", "baseline.path=5"]))


@pytest.mark.slow
def test_the_number_of_processes_counts_where_each_has_batch_statistics_of_its_own() -> None:
    def key(*words: str) -> str:
        return run_key(configure([BUDGET, *words]))

    alone, own = key(), "trainer.sync_batchnorm=false"
    assert key("trainer.devices=2") == key("trainer.devices=8", "trainer.num_nodes=2") == alone
    assert key(own) == key(own, "trainer.devices=[3]") == alone
    two, several = key(own, "trainer.devices=2"), key(own, "trainer.devices=2", "trainer.num_nodes=2")
    assert len({alone, two, several, key(own, "trainer.devices=4")}) == 4
    assert two == key(own, "trainer.devices=[0,3]") == key(own, "trainer.devices='1,2'")


@pytest.mark.slow
def test_the_number_of_processes_counts_for_networks_that_may_mix_images_or_draw_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(
        "import timm\n\n@timm.models.register_model\ndef noisy(pretrained=False, **kwargs): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for words in (
        ("model=timm", "model.name=volo_d1_224"),
        ("model=timm", "model.module=nets", "model.name=noisy"),
    ):
        config = configure([BUDGET, *words])
        alone = run_key(config)
        keys = {run_key(configure([BUDGET, *words, f"trainer.devices={number}"])) for number in (1, 2, 4)}
        assert len(keys) == 3
        assert alone in keys


def test_the_target_of_a_latency_counts_and_its_tables_do_not() -> None:
    key = run_key(configure(["budget.latency=0.5"]))
    assert run_key(configure(["budget.latency=0.5", "budget.target.runtime=eager"])) != key
    assert run_key(configure(["budget.latency=0.5", "budget.target.tables=elsewhere"])) == key
    plain = run_key(configure([BUDGET]))
    assert run_key(configure([BUDGET, "budget.target.runtime=eager"])) == plain


def test_a_configuration_of_before_low_rank_has_the_same_key() -> None:
    config = configure(["method=l1", BUDGET])
    before = {name: value for name, value in config.items() if name != "lowrank"}
    assert run_key(before) == run_key(config) != run_key(configure(["method=l1", BUDGET, "lowrank=svd"]))
    assert baseline_key(configure(["method=l1", BUDGET, "lowrank=svd"])) == baseline_key(config)
