"""Factorised networks: the budget is met, layers that would grow stay, and everything else goes on working."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab import LowRank, UserError
from prunelab.evaluation import Comparison, LatencyModel, LatencyTable, Target
from prunelab.evaluation.latency_rounds import TOLERANCE
from prunelab.evaluation.layer_shapes import LayerShape
from prunelab.factorisation import decomposition
from prunelab.factorisation.rank_choice import chosen_by_latency
from prunelab.factorisation.target_layers import target_layers
from prunelab.records.latency import Spread
from prunelab.structure.low_rank import Factorisation
from prunelab.structure.plan_steps import PlanSteps
from prunelab.structure.surgery.substituting import substitute


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()


EXAMPLE = torch.zeros(1, 3, 12, 12)


def cost(network: nn.Module, resource: str) -> int:
    return int(prunelab.analyze(network, EXAMPLE).cost.function(resource)())


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize("resource", ["flops", "params"])
@pytest.mark.parametrize("name", ["svd", "tucker", "cp"])
def test_the_budget_is_met_with_plain_layers(name: Any, resource: str) -> None:
    network = small()
    full = cost(network, resource)
    prunelab.factorise(network, EXAMPLE, LowRank(name, **{resource: 0.6}))
    assert 0.45 * full < cost(network, resource) <= 0.6 * full
    kinds = {
        type(each) for each in network.modules() if next(each.parameters(recurse=False), None) is not None
    }
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}
    assert torch.isfinite(outputs(network, torch.randn(2, 3, 12, 12))).all()


def test_the_least_loss_within_the_budget_is_chosen() -> None:
    """A layer of rank 1 is factorised; one with equal singular values stays."""
    network = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.outer(torch.randn(8), torch.randn(8))[:, :, None, None])
        network[1].weight.copy_(torch.eye(8)[:, :, None, None])
    images = torch.randn(2, 8, 4, 4)
    before = outputs(network, images)
    prunelab.factorise(network, images[:1], LowRank("svd", flops=0.7))
    assert isinstance(network[0], nn.Sequential) and isinstance(network[1], nn.Conv2d)
    torch.testing.assert_close(outputs(network, images), before, rtol=0, atol=1e-5)


def test_responses_need_fewer_ranks_than_weights() -> None:
    """Inputs in two dimensions give responses in two dimensions, whatever the weights are."""
    basis = torch.randn(2, 12)

    def images(count: int) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", torch.randn(count, 2, 6, 6), basis)

    network = nn.Sequential(nn.Conv2d(12, 12, 1), nn.ReLU())
    settings = LowRank("svd", ranks={"0": 2}, reconstruct=False)
    by_weights = prunelab.factorise(copy.deepcopy(network), images(1), settings)
    by_responses = prunelab.factorise(copy.deepcopy(network), images(1), settings, [images(16)])
    held_out = images(8)
    expected = outputs(network, held_out)
    assert (outputs(by_weights, held_out) - expected).square().mean() > 0.1 * expected.var()
    torch.testing.assert_close(outputs(by_responses, held_out), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["svd", "tucker"])
def test_reconstruction_lowers_the_error_on_held_out_images(name: Any) -> None:
    network = small()
    images, held_out = torch.randn(128, 3, 12, 12), torch.randn(64, 3, 12, 12)
    expected = outputs(network, held_out)
    errors = []
    for reconstruct in (False, True):
        low = LowRank(name, flops=0.5, reconstruct=reconstruct)
        found = prunelab.factorise(copy.deepcopy(network), EXAMPLE, low, [images])
        errors.append(
            float((outputs(found, held_out) - expected).square().mean() / expected.var(dim=0).mean())
        )
    assert errors[1] < 0.7 * errors[0]


def test_a_layer_that_would_grow_is_left_alone_and_named(caplog: pytest.LogCaptureFixture) -> None:
    network = small()
    with caplog.at_level(logging.INFO, logger="prunelab"):
        prunelab.factorise(network, EXAMPLE, LowRank("svd", ranks={"2": 16, "5": 2}, forms=["channel"]))
    assert isinstance(network[2], nn.Conv2d) and isinstance(network[5], nn.Sequential)
    assert "2 is left alone: channel 16 would not make it smaller." in caplog.text


class Special(nn.Module):
    """Layers that cannot be factorised, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.twice
        self.read = nn.Linear(8, 8)
        self.plain = nn.Conv2d(8, 8, 3, padding=1)
        self.unused = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.twice(self.grouped(x)))
        return F.linear(self.plain(x).mean((2, 3)), self.read.weight)


def test_layers_that_cannot_be_factorised_are_left_alone_and_named(caplog: pytest.LogCaptureFixture) -> None:
    network = Special()
    example = torch.zeros(1, 8, 6, 6)
    with caplog.at_level(logging.INFO, logger="prunelab"):
        prunelab.factorise(network, example, LowRank("svd", ranks="vbmf", exclude=["unused"]))
    factorised = [name for name, module in network.named_children() if isinstance(module, nn.Sequential)]
    assert factorised == ["plain"]
    assert "grouped is left alone: it has 8 groups." in caplog.text
    assert "twice is left alone: it shares its weight." in caplog.text


class Reads(nn.Module):
    """Its code reads the number of outputs of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3)).reshape(-1, self.second.out_channels)


def test_a_layer_whose_attributes_are_read_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    network = Reads()
    with caplog.at_level(logging.INFO, logger="prunelab"):
        prunelab.factorise(network, EXAMPLE, LowRank("svd", ranks={"first": 1, "second": 1}))
    assert isinstance(network.first, nn.Sequential) and isinstance(network.second, nn.Conv2d)
    assert "second is left alone: the code of the network reads its attributes." in caplog.text


def halved(network: nn.Module) -> nn.Module:
    graph = prunelab.analyze(network, EXAMPLE)
    kept = {group.name: range(0, group.size, 2) for group in graph.groups}
    plan = graph.plan(kept)
    before = copy.deepcopy(network)
    prunelab.apply(network, plan)
    assert prunelab.check(before, network, plan, torch.randn(2, 3, 12, 12)) < 1e-5
    return network


@pytest.mark.parametrize("name", ["svd", "tucker", "cp"])
def test_pruned_factorised_and_pruned_again(tmp_path: Path, name: Any) -> None:
    network = halved(small())
    pruned = cost(network, "flops")
    prunelab.factorise(network, EXAMPLE, LowRank(name, flops=0.8))
    assert any(
        "." in group.name for group in prunelab.analyze(network, EXAMPLE).groups
    )  # ranks are groups too
    low = cost(network, "flops")
    halved(network)
    assert cost(network, "flops") < low < pruned
    assert isinstance(network.prunelab_plan, PlanSteps) and len(network.prunelab_plan.steps) == 3
    again = prunelab.load(prunelab.save(network, tmp_path), model=small())
    images = torch.randn(2, 3, 12, 12)
    assert torch.equal(outputs(again, images), outputs(network, images))
    assert again.prunelab_plan == network.prunelab_plan


def test_the_network_is_trained_as_any_other_one() -> None:
    network = prunelab.factorise(small(), EXAMPLE, LowRank("svd", flops=0.6)).train()
    network(torch.randn(4, 3, 12, 12)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decomposition": "sdv", "flops": 0.5}, "Did you mean 'svd'"),
        ({"decomposition": "svd"}, "Exactly one of"),
        ({"decomposition": "svd", "flops": 0.5, "params": 0.5}, "lowrank.flops and lowrank.params"),
        ({"decomposition": "svd", "flops": 1.5}, "not a fraction"),
        ({"decomposition": "svd", "latency": 1.5}, r"lowrank\.latency=1\.5 is not a fraction"),
        ({"decomposition": "svd", "latency": 0.5, "flops": 0.5}, "lowrank.flops and lowrank.latency"),
        ({"decomposition": "svd", "flops": 0.5, "target": Target()}, r"no effect without lowrank\.latency"),
        ({"decomposition": "svd", "ranks": 3}, "write vbmf, or a rank for each layer"),
        ({"decomposition": "svd", "flops": 0.5, "forms": ["spatail"]}, "Did you mean 'spatial'"),
        ({"decomposition": "svd", "flops": 0.5, "forms": []}, "at least one"),
        ({"decomposition": "svd", "flops": 0.5, "exclude": "fc"}, "write a list"),
        ({"decomposition": "svd", "flops": 0.5, "divisor": 0}, "lowrank.divisor"),
        ({"decomposition": "svd", "flops": 0.001}, "cannot be reached: with rank 1 in every layer"),
        ({"decomposition": "svd", "ranks": {"nine": 3}}, "no layer 'nine'"),
        ({"decomposition": "svd", "ranks": {"2": 0}}, "from 1 to"),
        ({"decomposition": "svd", "ranks": {"2": [1, 2]}}, "takes 1 rank"),
        ({"decomposition": "tucker", "ranks": {"2": [13, 2]}}, "from 1 to 12 and 16"),
        ({"decomposition": "svd", "flops": 0.5, "exclude": ["nine"]}, "no layer 'nine'"),
    ],
)
def test_errors_of_settings(settings: dict[str, Any], message: str) -> None:
    network = small()
    with pytest.raises(UserError, match=message):
        prunelab.factorise(network, EXAMPLE, LowRank(**settings))
    assert not hasattr(network, "prunelab_plan")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decomposition.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'prunelab\[lowrank\]'"):
        prunelab.factorise(small(), EXAMPLE, LowRank("svd", flops=0.5))


def test_ranks_are_multiples_of_the_divisor() -> None:
    for name in ("svd", "tucker"):
        network = prunelab.factorise(small(), EXAMPLE, LowRank(name, flops=0.75, divisor=4, exclude=["0"]))
        sequences = [each for each in network if isinstance(each, nn.Sequential)]
        assert sequences
        assert all(part.weight.shape[0] % 4 == 0 for each in sequences for part in each[:-1])


def work(shape: LayerShape) -> float:
    """Milliseconds of a layer: proportional to its operations, and something for the call."""
    places = math.prod(-(-size // step) for size, step in zip(shape.size, shape.stride or (1,), strict=True))
    return 1.0 + places * math.prod(shape.kernel) * shape.inputs * shape.outputs / shape.groups / 1e4


@dataclass(frozen=True)
class Machine(LatencyModel):
    """A target on which a network takes ``offset`` of the full time more than the table predicts."""

    offset: float = 0.0
    seen: list[nn.Module] = field(default_factory=list)

    def compare(self, network: nn.Module) -> Comparison:
        self.seen.append(network)
        ratio = self.predicted(network) / self.predicted(wide()) + self.offset
        return Comparison(ratio, Spread(1, 1, 1, 1), Spread(ratio, ratio, ratio, ratio), 11)

    def predicted(self, network: nn.Module) -> float:
        return float(self.attach(prunelab.analyze(network, EXAMPLE)).cost.function("latency")())


def wide() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 40, 3, padding="same"), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 32), nn.Linear(32, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("name", "offset", "rounds"), [("svd", 0.0, 1), ("tucker", 0.0, 1), ("svd", 0.1, 2)])
def test_ranks_meet_a_latency_as_it_is_measured(name: Any, offset: float, rounds: int) -> None:
    target = Target(runtime="eager")
    machine = Machine(target, LatencyTable(target, measure=work), (3, 12, 12), 3.0, lambda: None, offset)
    network = wide()
    layers = target_layers(network, EXAMPLE, ())
    settings = LowRank(name, latency=0.6, target=target)
    choice = chosen_by_latency(network, EXAMPLE, layers, settings, dict, machine)
    found = choice.latency
    assert found is not None and found.target == target.settings()
    assert found.asked == 0.6 and 0.4 < found.measured <= 0.6 * (1 + TOLERANCE)
    assert found.measured == pytest.approx(found.predicted + offset)
    assert rounds <= len(found.rounds) <= 3 and found.rounds[0].aim == 0.6
    assert {rank % 8 for factors in choice.layers.values() for rank in factors.ranks} == {0}
    made = substitute(wide(), Factorisation(choice.layers))
    # The table has an entry for every layer of the sequences: the analysis of the built network finds the same ones.
    assert machine.predicted(made) / machine.predicted(wide()) == pytest.approx(found.predicted)


def test_a_latency_that_ranks_cannot_reach_names_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(runtime="eager")
    machine = Machine(target, LatencyTable(target, measure=work), (3, 12, 12), 1.0, lambda: None)
    monkeypatch.setattr(LatencyModel, "of", lambda *given: machine)
    network = wide()
    with pytest.raises(
        UserError, match=r"lowrank\.latency=0\.05 cannot be reached: with rank 8 .* 0\.\d+ is left"
    ):
        prunelab.factorise(network, EXAMPLE, LowRank("svd", latency=0.05, target=target))
    assert machine.seen == [] and not hasattr(network, "prunelab_plan")
    slow = replace(machine, offset=0.7)
    monkeypatch.setattr(LatencyModel, "of", lambda *given: slow)
    with pytest.raises(
        UserError, match=r"lowrank\.latency=0\.6 was not met: the smallest latency .* network before"
    ):
        prunelab.factorise(network, EXAMPLE, LowRank("svd", latency=0.6, target=target))
    monkeypatch.setattr(LatencyModel, "of", lambda *given: machine)
    prunelab.factorise(network, EXAMPLE, LowRank("svd", latency=0.6, target=target))
    assert machine.predicted(network) <= 0.6 * machine.predicted(wide())
