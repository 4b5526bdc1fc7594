"""A plan may set integer attributes only to the values that its cuts imply."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.structure import PruningPlan, analyze, apply


class Attention(nn.Module):
    """Views its channels as heads; has a stride that equals no width."""

    def __init__(self) -> None:
        super().__init__()
        self.stride, self.width = 2, 12
        self.queries = nn.Linear(6, 12)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.queries(x).relu().view(x.shape[0], -1, self.width)[:, :: self.stride]).mean(1)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GroupNorm(8, 8),
        nn.Conv2d(8, 16, 1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def plan_of(model: nn.Module, example: Tensor) -> PruningPlan:
    graph = analyze(model, example)
    return graph.plan({group.name: list(range(group.size // 2)) for group in graph.groups})


def changed(plan: PruningPlan, module: str, **attributes: int) -> PruningPlan:
    return replace(
        plan, attributes={**plan.attributes, module: {**plan.attributes.get(module, {}), **attributes}}
    )


def test_the_plan_of_the_structure_is_applied() -> None:
    model, example = network(), torch.randn(1, 3, 9, 9)
    plan = plan_of(model, example)
    assert plan.attributes["2"] == {"groups": 4}
    assert apply(model, plan)(example).shape == (1, 3)


@pytest.mark.parametrize(
    ("module", "attributes"),
    [
        ("0", {"stride[0]": 1}),
        ("0", {"kernel_size[0]": 1}),
        ("0", {"out_channels": 4}),
        ("2", {"groups": 2}),
        ("2", {"groups": 8}),
        ("4", {"groups": 1}),
        ("4", {"groups": 2}),
        ("3", {"num_groups": 1}),
        ("3", {"num_groups": 2}),
        ("6", {"start_dim": 1}),
        ("7", {"in_features": 1}),
    ],
)
def test_other_values_are_errors(module: str, attributes: dict[str, int]) -> None:
    model, example = network(), torch.randn(1, 3, 9, 9)
    plan = changed(plan_of(model, example), module, **attributes)
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with pytest.raises(
        UserError, match=f"it sets '{next(iter(attributes)).replace('[', '.').replace(']', '.')}' of"
    ):
        apply(model, plan)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == before


def test_attributes_that_a_module_reads_follow_its_widths_only() -> None:
    model, example = Attention(), torch.randn(2, 4, 6)
    plan = plan_of(model, example)
    assert plan.attributes[""] == {"width": 6}
    for attributes in ({"stride": 1}, {"width": 5}, {"width": 3}):
        with pytest.raises(UserError, match=f"it sets '{next(iter(attributes))}'"):
            apply(Attention(), changed(plan, "", **attributes))
    assert apply(model, plan)(example).shape == (2, 3)


def test_heads_of_several_groups_follow_the_sets_that_are_removed() -> None:
    model = Attention()
    model.num_heads = 4
    plan = plan_of(model, torch.randn(2, 4, 6))  # keeps 6 of 12 channels: two of four heads
    for heads in (1, 3):
        with pytest.raises(UserError, match="it sets 'num_heads'"):
            apply(Attention(), changed(plan, "", num_heads=heads))
    assert apply(model, changed(plan, "", num_heads=2)).num_heads == 2


class Halves(nn.Conv2d):
    """Applies the first ``high`` filters to its input, and the others to the doubled input."""

    def __init__(self) -> None:
        super().__init__(3, 8, 1)
        self.high = 5

    def forward(self, x: Tensor) -> Tensor:
        parts = self.weight[: self.high], self.weight[self.high :]
        return torch.cat([nn.functional.conv2d(x, parts[0]), nn.functional.conv2d(2 * x, parts[1])], 1)


def test_own_attributes_of_a_subclass_of_a_convolution_follow_too() -> None:
    model, example = nn.Sequential(Halves(), nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 9, 9)
    plan = analyze(model, example).plan({"0": [0, 2, 3], "0#2": [2]})
    assert plan.attributes["0"] == {"high": 3}
    with pytest.raises(UserError, match="it sets 'high' of"):
        apply(model, changed(plan, "0", high=4))
    assert apply(model, plan)(example).shape == (1, 4, 9, 9)
