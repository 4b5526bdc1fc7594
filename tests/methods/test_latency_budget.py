"""A latency budget: decided on a table, met by measurement, and an error if it cannot be met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunelab
from prunelab import Budget, Target, UserError
from prunelab.evaluation import Comparison, LatencyModel, LatencyTable
from prunelab.evaluation.latency_rounds import TOLERANCE, corrected
from prunelab.evaluation.layer_shapes import LayerShape
from prunelab.methods import ImportanceMethod, L1Norm, PruningContext
from prunelab.methods.latency_budget import decide
from prunelab.records.latency import LatencySummary, Spread

EAGER = Target(runtime="eager")


def work(shape: LayerShape) -> float:
    return float(np.prod(shape.kernel)) * shape.inputs * shape.outputs / shape.groups


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in zip((3, 64, 64, 128), (64, 64, 128, 8), strict=True):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers).eval()


@dataclass(frozen=True)
class Counted(L1Norm):
    """L1 norms that count their calls."""

    calls: list[int] = field(default_factory=list)

    def score(self, context: PruningContext) -> Any:
        self.calls.append(1)
        return super().score(context)


@dataclass(frozen=True)
class Machine(LatencyModel):
    """A target on which the measured latency is a function of the predicted one."""

    truth: Callable[[float], float] = float
    measured: list[float] = field(default_factory=list)

    def compare(self, network: nn.Module) -> Comparison:
        graph = self.attach(prunelab.analyze(network, torch.zeros(1, 3, 8, 8)))
        full = self.attach(prunelab.analyze(network_like_first(), torch.zeros(1, 3, 8, 8)))
        ratio = self.truth(graph.cost.function("latency")() / full.cost.function("latency")())
        self.measured.append(ratio)
        return Comparison(ratio, Spread(1, 1, 1, 1), Spread(ratio, ratio, ratio, ratio), 11)


network_like_first = network


def context(
    keep: float, truth: Callable[[float], float], **settings: Any
) -> tuple[ImportanceMethod, PruningContext, Machine]:
    machine = Machine(EAGER, LatencyTable(EAGER, measure=work), (3, 8, 8), 1.0, lambda: None, truth)
    method = ImportanceMethod(L1Norm(), Budget(latency=keep, target=EAGER), **settings)
    return method, method.context(network(), torch.zeros(1, 3, 8, 8), latency=machine), machine


def summary(keep: float, truth: Callable[[float], float], **settings: Any) -> LatencySummary:
    method, given, _ = context(keep, truth, **settings)
    found = decide(method, given)[1]
    assert found is not None
    return found


def test_a_table_that_is_right_needs_one_round() -> None:
    found = summary(0.5, lambda predicted: predicted)
    assert len(found.rounds) == 1
    assert 0.5 * (1 - TOLERANCE) <= found.measured <= 0.5
    assert found.predicted == found.measured


@pytest.mark.parametrize(
    "truth", [lambda p: 0.2 + 0.8 * p, lambda p: p**0.8, lambda p: p**1.3], ids=["offset", "high", "low"]
)
def test_a_table_that_is_wrong_is_corrected_by_measurement(truth: Callable[[float], float]) -> None:
    found = summary(0.5, truth)
    assert 2 <= len(found.rounds) <= 3
    assert 0.5 * (1 - TOLERANCE) <= found.measured <= 0.5 * (1 + TOLERANCE)
    assert found.rounds[0].aim == 0.5 != found.rounds[1].aim


def test_channels_are_scored_once_for_all_rounds() -> None:
    method, given, machine = context(0.5, lambda predicted: predicted**0.8)
    criterion = Counted()
    counted = ImportanceMethod(criterion, method.budget)
    plan, found = decide(counted, given)
    assert found is not None and len(found.rounds) == len(machine.measured) >= 2
    assert criterion.calls == [1]
    assert plan.digest() == decide(method, given)[0].digest()


def test_a_latency_that_is_not_reached_is_an_error_with_the_smallest_one() -> None:
    method, given, machine = context(0.5, lambda predicted: 0.7 + 0.3 * predicted)
    with pytest.raises(
        UserError, match=r"budget\.latency=0\.5 was not met: the smallest latency .* is 0\.7\d\d"
    ):
        decide(method, given)
    assert 1 < len(machine.measured) <= 3


def test_a_latency_below_the_smallest_prediction_is_an_error_before_any_measurement() -> None:
    method, given, machine = context(0.01, float, min_keep=0.5)
    with pytest.raises(UserError, match=r"budget\.latency=0\.01 cannot be reached: the smallest"):
        decide(method, given)
    assert machine.measured == []


def test_the_largest_measured_network_within_the_budget_is_kept() -> None:
    """The first network is measured too slow by chance, later ones far too fast."""
    answers = iter([0.6, 0.3, 0.4])
    found = summary(0.5, lambda _: next(answers))
    assert found.measured == 0.4


def test_a_second_network_that_is_slower_by_chance_is_followed_by_a_smaller_one() -> None:
    answers = iter([0.524, 0.54, 0.49])
    found = summary(0.5, lambda _: next(answers))
    assert found.measured == 0.49
    assert [each.aim for each in found.rounds] == sorted((each.aim for each in found.rounds), reverse=True)


def test_widths_are_multiples_that_suit_the_target() -> None:
    method, given, _ = context(0.5, lambda predicted: predicted)
    plan, _ = decide(method, given)
    assert {after % 8 for _, after in plan.widths.values()} == {0}
    assert method.allocation.divisor == 8
    whole = Target(precision="int8")
    assert ImportanceMethod(L1Norm(), Budget(latency=0.5, target=whole)).allocation.divisor == 16
    assert ImportanceMethod(L1Norm(), Budget(latency=0.5), divisor=4).allocation.divisor == 4
    assert ImportanceMethod(L1Norm(), Budget(flops=0.5)).allocation.divisor == 1


@pytest.mark.parametrize("rule", ["uniform", "global", "per_cost"])
def test_all_allocations_accept_a_latency(rule: str) -> None:
    found = summary(0.5, lambda predicted: 0.1 + 0.9 * predicted, allocation=rule)
    assert found.measured <= 0.5 * (1 + TOLERANCE)


def test_a_search_accepts_a_latency(tmp_path: Path) -> None:
    machine = Machine(EAGER, LatencyTable(EAGER, measure=work), (3, 8, 8), 1.0, lambda: None, float)
    method = prunelab.EagleEye(Budget(latency=0.5, target=EAGER), candidates=3, tolerance=0.05)
    images = [(torch.randn(4, 3, 8, 8), torch.randint(3, (4,)))]
    model = nn.Sequential(network(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    given = method.context(model, torch.zeros(1, 3, 8, 8), images, validation=images, latency=machine)
    plan = method.decide(given)
    assert float(given.graph.cost.function("latency")(plan)) <= 0.5 * given.graph.cost.function("latency")()


def test_other_budgets_are_not_measured() -> None:
    method = ImportanceMethod(L1Norm(), Budget(flops=0.5))
    given = method.context(network(), torch.zeros(1, 3, 8, 8))
    plan, found = decide(method, given)
    assert found is None
    assert plan.digest() == method.decide(given).digest()


def test_an_input_that_is_no_tensor_is_an_error() -> None:
    method = ImportanceMethod(L1Norm(), Budget(latency=0.5, target=EAGER))
    model = network()
    graph = prunelab.analyze(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="one input tensor"):
        LatencyModel.of(model, graph, {"x": torch.zeros(1)}, method.budget.goal)


@pytest.mark.parametrize("asked", [0.2, 0.5, 0.9])
def test_corrections_lie_on_lines_through_measurements(asked: float) -> None:
    points = [(predicted, 0.1 + 0.9 * predicted) for predicted in (0.3, 0.6)]
    for known in (points[:1], points):
        aim = corrected(known, asked)
        assert 0.1 + 0.9 * aim == pytest.approx(asked)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_real_latency_is_met_or_the_message_has_the_one_that_was_reached(
    runtime: str, tmp_path: Path
) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    target = Target(runtime=runtime, tables=str(tmp_path))  # type: ignore[arg-type]
    method = ImportanceMethod(L1Norm(), Budget(latency=0.5, target=target))
    model = network()
    given = method.context(model, torch.zeros(1, 3, 32, 32))
    try:
        found = decide(method, given)[1]
    except UserError as error:  # times on a loaded machine vary
        assert "was not met: the smallest latency that was measured" in str(error)
        return
    assert found is not None
    assert found.measured <= 0.5 * (1 + TOLERANCE)
    assert found.pruned.p50_ms < found.full.p50_ms <= found.full.p90_ms
    assert found.machine == target.machine()
    assert len(list(tmp_path.iterdir())) == 1
