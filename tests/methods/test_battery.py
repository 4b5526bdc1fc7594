"""The laws that hold for every method of conf/method. A new YAML file is tested automatically."""

from __future__ import annotations

import inspect
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from tests.forks import Forks

from prunelab.cli.config import configure_parts, references
from prunelab.errors import UserError
from prunelab.methods import ImportanceMethod, LearningMethod, PruningMethod, SearchMethod
from prunelab.structure import analyze

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("battery.py")
METHODS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml"))


@pytest.fixture(scope="module")
def battery() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import battery

        yield battery
    finally:
        sys.path.remove(str(SCRIPT.parent))


every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_the_file_shows_the_defaults_of_the_class(battery: ModuleType, name: str) -> None:
    """Except for settings that refer to another one, such as seed, and those whose default is to be chosen.

    Of several files of one class (variants of a method) one shows the default of each setting.
    """
    differing = differences(battery, name)
    target = battery.settings(name)["_target_"]
    for other in METHODS:
        if differing and other != name and battery.settings(other)["_target_"] == target:
            differing &= differences(battery, other)
    assert not differing


def differences(battery: ModuleType, name: str) -> set[str]:
    """The settings of a file that are not at the default of their class."""
    copied = references([f"method={name}", "budget.flops=0.5"])
    return {
        place
        for place, value, default in compared(battery.settings(name), "method", copied)
        if json.dumps(value, default=str) != json.dumps(default, default=str)
    }


def compared(
    settings: Mapping[str, Any], place: str, copied: Mapping[str, str]
) -> Iterator[tuple[str, Any, Any]]:
    """(name, value in the file, default of the class) of each setting that is a choice of the file."""
    parameters = inspect.signature(get_object(settings["_target_"])).parameters
    for key, value in settings.items():
        name = f"{place}.{key}"
        if key in ("_target_", "_convert_", "training") or name in copied or key not in parameters:
            continue
        default = parameters[key].default
        if isinstance(value, Mapping) and "_target_" in value:
            yield from compared(value, name, copied)
        elif default not in (None, inspect.Parameter.empty) and not isinstance(value, list):
            yield name, value, default


@every_method
def test_settings_of_the_run_reach_the_method(name: str, battery: ModuleType) -> None:
    words = [
        "seed=3",
        "exclude=[conv1]",
        "exact=true",
        "cardinality=true",
        "budget.flops=0.4",
        "budget.min_keep=0.2",
    ]
    words += ["budget.divisor=4", "recipe.calibration_images=64", f"method={name}"]
    ((settings),) = configure_parts(("method",), words)
    settings.pop("module", None)
    method = battery.instantiate(settings, _convert_="all")
    assert isinstance(method, PruningMethod)
    assert (method.budget.flops, method.seed, method.exclude) == (0.4, 3, {"conv1"})
    assert (method.exact, method.cardinality) == (True, True)
    assert (method.allocation.min_keep, method.allocation.divisor) == (0.2, 4)
    if method.reads_images:
        assert method.images == 64


@every_method
def test_deciding_leaves_the_network_and_the_random_numbers_as_they_were(
    battery: ModuleType, name: str
) -> None:
    method, network = battery.made(name), battery.drawn(battery.Residual())
    battery.learn(method, network)
    network.train()
    network.blocks[0].norm1.eval()
    network.stem.weight.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    context = battery.context_of(method, network)
    plans = [method.decide(context), method.decide(context)]
    after = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    assert after == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002
    assert plans[0] == plans[1]
    assert [module.training for module in network.modules()] == flags
    assert not network.stem.weight.requires_grad and network.head.weight.requires_grad
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@every_method
def test_the_budget_is_met(battery: ModuleType, name: str) -> None:
    method, network = battery.made(name), battery.drawn(battery.Residual())
    plan = battery.decided(method, network)
    cost = battery.context_of(method, network).graph.cost
    assert 0.3 < cost.flops(plan) / cost.flops() <= 0.5


@every_method
def test_scores_are_finite_and_one_for_each_channel(battery: ModuleType, name: str) -> None:
    method, network = battery.made(name), battery.drawn(battery.Residual())
    battery.learn(method, network)
    context = battery.context_of(method, network)
    try:
        scores, plan = method.scored(context)
    except UserError as error:  # a method without scores
        assert "does not score" in str(error) and isinstance(method, LearningMethod)
        return
    assert plan == method.decide(context)
    for group in context.groups:
        found = np.asarray(scores.channels[group.name])
        assert found.shape == (group.size,) and np.isfinite(found).all()


@every_method
def test_a_method_that_must_learn_first_is_an_error_without(battery: ModuleType, name: str) -> None:
    method, network = battery.made(name), battery.drawn(battery.Residual())
    context = battery.context_of(method, network)
    if battery.decides_untrained(name):
        assert context.graph.cost.flops(method.decide(context)) <= 0.5 * context.graph.cost.flops()
    else:
        with pytest.raises(UserError, match=rf"{method.title}.*needs a learning fit"):
            method.decide(context)


@every_method
def test_dead_channels_go_first(battery: ModuleType, name: str) -> None:
    """For methods whose scores are a loss of any kind; a search and a training of one epoch may find other widths."""
    method = battery.made(name, budget=("params", 0.76), levels=["filter"])
    judges = not isinstance(method, SearchMethod | LearningMethod)
    if not judges or (isinstance(method, ImportanceMethod) and not method.criterion.dead_first):
        return
    network, dead = battery.drawn(battery.Residual()), [1, 4]
    for block in network.blocks:
        for part in (block.conv1.weight, block.norm1.weight, block.norm1.bias):
            part.data[dead] = 0.0
        block.conv2.weight.data[:, dead] = 0.0
    plan = method.decide(battery.context_of(method, network))
    for number in (0, 1):
        kept = plan.kept[f"blocks.{number}.conv1"]
        assert not set(dead) & set(kept) or len(kept) == 8


@every_method
def test_excluded_groups_lose_nothing(battery: ModuleType, name: str) -> None:
    graph = analyze(battery.Residual(), battery.EXAMPLE)
    stage = next(group.name for group in graph.groups if group.level == "stage")
    method = battery.made(name, budget=("params", 0.8), exclude=["blocks.0.conv1", stage])
    if "stage" in method.levels:
        network = battery.drawn(battery.Residual())
        plan = battery.decided(method, network)
        assert plan.widths[stage] == plan.widths["blocks.0.conv1"] == (8, 8)
        assert plan.widths["blocks.1.conv1"][1] < 8


@every_method
def test_the_order_of_the_positions_of_a_channel_means_nothing(battery: ModuleType, name: str) -> None:
    found = []
    for network in battery.two_halves():
        method = battery.made(name)
        if isinstance(method, LearningMethod):
            return  # weights that were trained in another order of sums differ
        scores, plan = method.scored(battery.context_of(method, network))
        found.append((scores.channels["conv1"], plan))
    (first, plan), (second, other) = found
    assert np.allclose(first, second, rtol=1e-4, atol=1e-7)
    assert (plan.kept, plan.widths) == (other.kept, other.widths)


@every_method
def test_nan_in_the_weights_is_an_error_that_names_the_tensor(battery: ModuleType, name: str) -> None:
    method, network = battery.made(name), battery.drawn(battery.Residual())
    network.blocks[1].conv2.weight.data[1, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=rf"{method.title}.*blocks\.1\.conv2\.weight .*NaN"):
        battery.context_of(method, network)


@every_method
def test_nan_in_the_images_is_an_error_that_names_the_batch(battery: ModuleType, name: str) -> None:
    method, network = battery.made(name), battery.drawn(battery.Residual())
    if not method.reads_images:
        return
    if not battery.decides_untrained(name):
        battery.learn(method, network)
    broken = battery.images()
    broken[1][0][2, 0, 3, 3] = torch.nan
    with pytest.raises(UserError, match=r"batch 1 .*NaN"):
        method.decide(method.context(network, battery.EXAMPLE, broken, validation=battery.images(2, 3)))


@pytest.mark.ddp
def test_two_ranks_decide_as_one(battery: ModuleType, tmp_path: Path, forks: Forks) -> None:
    """Methods that learn: ``learning/test_two_ranks_learn``."""
    alone = battery.answers()
    ranks = [
        forks.start(tmp_path, str(rank), str(tmp_path / "store"), str(tmp_path), program=SCRIPT)
        for rank in (0, 1)
    ]
    for each in ranks:
        assert forks.wait(each) == 0, each.said()
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == alone


@every_method
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_of_exact_copies_of_a_channel_is_kept(battery: ModuleType, name: str, seed: int) -> None:
    """Their scores may differ by rounding, which depends on the machine."""
    if name == "random" or not battery.decides_untrained(name):
        return  # scores that are drawn, or learned from random weights of each channel, are not equal for copies
    pairs = np.sort(np.random.default_rng(seed).permutation(8).reshape(4, 2), axis=1)
    network = battery.with_copies(battery.drawn(battery.Residual()), *pairs.T.tolist())
    network.head.weight.data.mul_(0.05)  # copies double the maps; a saturated softmax has no gradient
    method = battery.made(name, **({"order": "l1"} if name == "abcpruner" else {}))
    plan = method.decide(battery.context_of(method, network))
    for group, kept in plan.kept.items():
        for first, copy in pairs.tolist():
            assert first in kept or copy not in kept, (group, kept, pairs)
