"""Plans are plain data: they are written as JSON and read back, damaged files raise errors, and plans compose."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunelab
from prunelab import ChannelGraph, PruningPlan
from prunelab.errors import UserError
from prunelab.models import build

IMAGES = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("cifar_resnet20", 10)


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> ChannelGraph:
    return prunelab.analyze(model, IMAGES)


@pytest.fixture(scope="module")
def plan(graph: ChannelGraph) -> PruningPlan:
    kept = {"layer1": [0, 3, 5], "layer2.0.conv1": [1], "layer3": range(0, 64, 2)}
    return graph.plan(kept, ["layer2.1", "layer1.2"])


def test_a_plan_lists_the_kept_channels(graph: ChannelGraph, plan: PruningPlan) -> None:
    assert plan.kept["layer1"] == (0, 3, 5)
    assert plan.widths["layer1"] == (16, 3)
    assert plan.widths["layer3"] == (64, 32)
    assert plan.widths["layer3.0.conv1"] == (64, 64)
    assert set(plan.kept) == set(plan.widths) == {group.name for group in graph.groups}
    assert plan.dropped_blocks == ("layer1.2", "layer2.1")
    assert dict(plan.replaced) == {"layer1.2": "identity", "layer2.1": "identity"}


def test_the_order_of_kept_groups_has_no_effect_on_a_plan(graph: ChannelGraph, plan: PruningPlan) -> None:
    kept = {"layer3": range(62, -1, -2), "layer2.0.conv1": torch.tensor([1]), "layer1": (5, 0, 3)}
    assert graph.plan(kept, {"layer1.2", "layer2.1"}) == plan


def test_json_and_back(plan: PruningPlan) -> None:
    again = PruningPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.digest() == plan.digest()


def test_every_random_plan_survives_json(
    graph: ChannelGraph, random_plan: Callable[..., PruningPlan]
) -> None:
    plans = [random_plan(graph, seed) for seed in range(20)]
    assert [PruningPlan.from_json(plan.to_json()) for plan in plans] == plans
    assert len({plan.digest() for plan in plans}) == 20


def test_the_digest_is_that_of_canonical_json() -> None:
    """A constant: it must not change in this version of the format."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3))
    graph = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
    text = (
        '{"attributes":{},"cuts":[["0.weight",0,4,0],["2.weight",1,4,0]],"dropped_blocks":[],"kept":{"0":0},'
        '"lists":[[0,2]],"makers":{"0":["0.weight"]},"replaced":{},"values":{},"version":1,"widths":{"0":[4,2]}}'
    )
    plan = graph.plan({"0": [0, 2]})
    assert plan.to_json() == text
    assert plan.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert graph.plan({"0": [0, 3]}).digest() != plan.digest()


def test_a_plan_that_keeps_everything_changes_nothing(model: nn.Module, graph: ChannelGraph) -> None:
    plan = graph.plan()
    assert (plan.cuts, plan.values, plan.attributes, plan.replaced) == ((), {}, {}, {})
    same = prunelab.apply(copy.deepcopy(model), plan)
    for (name, tensor), (other, expected) in zip(
        same.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(tensor, expected)


def damaged(plan: PruningPlan, change: Callable[[dict[str, Any]], Any]) -> str:
    raw = json.loads(plan.to_json())
    change(raw)
    return json.dumps(raw)


def first_list(raw: dict[str, Any]) -> list[int]:
    return next(indices for indices in raw["lists"] if 3 <= len(indices) < 16)


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version": lambda raw: raw.update(version=2),
    "no version": lambda raw: raw.pop("version"),
    "an unknown entry": lambda raw: raw.update(code="import os"),
    "no cuts": lambda raw: raw.pop("cuts"),
    "no kept": lambda raw: raw.pop("kept"),
    "no lists": lambda raw: raw.pop("lists"),
    "no widths": lambda raw: raw.pop("widths"),
    "no dropped blocks": lambda raw: raw.pop("dropped_blocks"),
    "no values": lambda raw: raw.pop("values"),
    "no attributes": lambda raw: raw.pop("attributes"),
    "no replacements": lambda raw: raw.pop("replaced"),
    "a repeated index": lambda raw: first_list(raw).__setitem__(1, first_list(raw)[0]),
    "indices out of order": lambda raw: first_list(raw).reverse(),
    "a negative index": lambda raw: first_list(raw).__setitem__(0, -1),
    "an index out of range": lambda raw: first_list(raw).__setitem__(-1, 64),
    "an enormous index": lambda raw: first_list(raw).__setitem__(-1, 10**30),
    "a fraction": lambda raw: first_list(raw).__setitem__(0, 0.5),
    "a word for an index": lambda raw: first_list(raw).__setitem__(0, "0"),
    "a truth value for an index": lambda raw: first_list(raw).__setitem__(0, False),
    "an empty list": lambda raw: first_list(raw).clear(),
    "a list too short": lambda raw: first_list(raw).pop(),
    "lists that are no list": lambda raw: raw.update(lists={"0": [1]}),
    "a reference past the lists": lambda raw: raw["kept"].update(layer1=99),
    "a negative reference": lambda raw: raw["kept"].update(layer1=-1),
    "kept without widths": lambda raw: raw["widths"].pop("layer1"),
    "widths without kept": lambda raw: raw["kept"].pop("layer1"),
    "widths that disagree": lambda raw: raw["widths"].update(layer1=[16, 4]),
    "widths in one number": lambda raw: raw["widths"].update(layer1=16),
    "three widths": lambda raw: raw["widths"].update(layer1=[16, 3, 3]),
    "a cut of nothing": lambda raw: raw["cuts"].append([]),
    "a cut of a tensor without a name": lambda raw: raw["cuts"].append([3, 0, 16, 0]),
    "a cut at a dimension below zero": lambda raw: raw["cuts"][0].__setitem__(1, -1),
    "a cut beyond its size": lambda raw: raw["cuts"][0].__setitem__(2, 1),
    "the same cut twice": lambda raw: raw["cuts"].append(list(raw["cuts"][0])),
    "cuts that are no list": lambda raw: raw.update(cuts="conv1.weight"),
    "blocks in one word": lambda raw: raw.update(dropped_blocks="layer1.2"),
    "a block that is no name": lambda raw: raw.update(dropped_blocks=[1]),
    "a block that nothing replaces": lambda raw: raw["dropped_blocks"].append("layer3.1"),
    "a replacement that is no dropped block": lambda raw: raw["replaced"].update({"layer3.1": "identity"}),
    "an unknown replacement": lambda raw: raw["replaced"].update({"layer2.1": "os.system"}),
    "values that are no counts": lambda raw: raw["values"].update({"layer2.0.shortcut.source": [-1]}),
    "values that are no list": lambda raw: raw["values"].update({"layer2.0.shortcut.source": "01"}),
    "attributes that are no counts": lambda raw: raw["attributes"].update({"layer1": {"groups": "2"}}),
    "attributes that are no mapping": lambda raw: raw["attributes"].update({"layer1": 3}),
    "a list for a plan": lambda raw: raw.clear(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_an_error(plan: PruningPlan, damage: str) -> None:
    with pytest.raises(UserError, match="plan"):
        PruningPlan.from_json(damaged(plan, DAMAGES[damage]))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"plan"', "\x00", "{}", "[" * 100_000, "nan"])
def test_an_invalid_plan_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="plan"):
        PruningPlan.from_json(text)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_plan_is_an_error(plan: PruningPlan, share: float) -> None:
    text = plan.to_json()
    with pytest.raises(UserError, match="broken JSON"):
        PruningPlan.from_json(text[: int(share * len(text))])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_junk_anywhere_in_a_plan_is_an_error_or_a_sound_plan(plan: PruningPlan, data: st.DataObject) -> None:
    """Never an exception of another kind; what is accepted survives its own JSON."""
    raw = json.loads(plan.to_json())
    place: Any = raw
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    place[key] = data.draw(JUNK)
    try:
        found = PruningPlan.from_json(json.dumps(raw))
    except UserError:
        return
    assert PruningPlan.from_json(found.to_json()) == found


def assert_same(first: nn.Module, second: nn.Module) -> None:
    """The same tensors under the same names, and the same layers."""
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert repr(first) == repr(second)


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet20",
        "cifar_mobilenetv2",
        "test_efficientnet",
        pytest.param("regnety_002", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_two_plans_in_turn_are_their_composition(
    random_plan: Callable[..., PruningPlan], name: str, seed: int
) -> None:
    model = build(name, 10)
    graph = prunelab.analyze(model, IMAGES)
    first = random_plan(graph, seed, keep=(0.5, 0.9), drop=0.3)
    twice = prunelab.apply(copy.deepcopy(model), first)
    again = prunelab.analyze(twice, IMAGES)
    second = random_plan(again, seed + 100, keep=(0.3, 0.9), drop=0.3)
    prunelab.apply(twice, second)
    together = first.compose(second)
    assert_same(prunelab.apply(copy.deepcopy(model), together), twice)
    assert twice.prunelab_plan == together
    assert PruningPlan.from_json(together.to_json()) == together
    assert graph.cost.params(together) == sum(parameter.numel() for parameter in twice.parameters())
    assert graph.cost.flops(together) == again.cost.flops(second)
    expected = graph.plan(together.kept, together.dropped_blocks)  # its channels agree with its cuts
    assert_same(prunelab.apply(copy.deepcopy(model), expected), twice)


def test_composition_is_associative(model: nn.Module, random_plan: Callable[..., PruningPlan]) -> None:
    net, plans = copy.deepcopy(model), []
    for seed in range(3):
        plans.append(random_plan(prunelab.analyze(net, IMAGES), seed, keep=(0.6, 0.9), drop=0.2))
        prunelab.apply(net, plans[-1])
    first, second, third = plans
    together = first.compose(second).compose(third)
    assert_same(prunelab.apply(copy.deepcopy(model), together), net)
    assert_same(prunelab.apply(copy.deepcopy(model), first.compose(second.compose(third))), net)
    assert net.prunelab_plan == together


def test_groups_keep_their_names_through_rounds(model: nn.Module, graph: ChannelGraph) -> None:
    """A stage without its blocks has another name in the second analysis; composition maps it to the first name."""
    first = graph.plan({"layer1": range(10)}, ["layer1.1", "layer1.2"])
    pruned = prunelab.apply(copy.deepcopy(model), first)
    later = prunelab.analyze(pruned, IMAGES)
    (stage,) = (group for group in later.groups if group.size == 10)
    together = first.compose(later.plan({stage.name: [0, 9]}))
    assert together.widths["layer1"] == (16, 2)
    assert together.kept["layer1"] == (0, 9)
    assert set(together.widths) == set(first.widths)


def test_a_group_of_one_channel_is_out_of_reach_of_the_next_round(
    model: nn.Module, graph: ChannelGraph
) -> None:
    first = graph.plan({"layer1.0.conv1": [7], "layer2": range(8)})
    pruned = prunelab.apply(copy.deepcopy(model), first)
    second = prunelab.analyze(pruned, IMAGES).plan({"layer2": [1, 2]})
    together = first.compose(second)
    assert together.kept["layer1.0.conv1"] == (7,)
    assert together.kept["layer2"] == (1, 2)
    assert_same(prunelab.apply(copy.deepcopy(model), together), prunelab.apply(copy.deepcopy(pruned), second))


def two_rounds(
    model: nn.Module, first: dict[str, Any], second: dict[str, Any]
) -> tuple[ChannelGraph, PruningPlan, nn.Module]:
    """The structure of ``model``, the composition of both rounds' plans, and what two rounds leave of it."""
    graph = prunelab.analyze(model, IMAGES)
    earlier = graph.plan(first)
    twice = prunelab.apply(copy.deepcopy(model), earlier)
    later = prunelab.analyze(twice, IMAGES).plan(second)
    prunelab.apply(twice, later)
    together = PruningPlan.from_json(earlier.compose(later).to_json())
    assert_same(prunelab.apply(copy.deepcopy(model), together), twice)
    return graph, together, twice


class Tied(nn.Module):
    """Adds a plain convolution to the concatenation of a grouped one, which follows a plain one, and the images."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 7, 1)
        self.first, self.grouped = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1, groups=2)
        self.last = nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tied = self.plain(x) + torch.cat([self.grouped(self.first(x)), x], dim=1)
        return self.last(tied.mean(dim=(2, 3)))


def test_a_divided_group_with_the_same_name_is_counted_in_filters() -> None:
    """The producer that the first round counts by has as many filters as the group, and the second does not cut it."""
    model = Tied().eval()
    (group,) = prunelab.analyze(model, IMAGES).groups
    graph, together, _ = two_rounds(model, {group.name: [1]}, {group.name: [1]})
    assert together.widths == {group.name: (4, 1)} and together.kept == {group.name: (3,)}
    with pytest.raises(UserError, match="counts 4 channels"):
        graph.cost.params(together)


def test_a_divided_group_is_counted_in_filters() -> None:
    """Four groups of two channels. One channel of each is kept (a depthwise layer); then two of these are removed."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2))
    graph, together, pruned = two_rounds(model, {"0": [1], "2": [0]}, {"0": [0, 3]})
    assert {group.name: group.size for group in graph.groups} == {"0": 2, "2": 2}
    assert pruned[2].groups == 2
    assert dict(together.widths) == {"0": (8, 2), "2": (8, 2)}  # of the filters
    assert (together.kept["0"], together.kept["2"]) == ((1, 7), (0, 6))
    with pytest.raises(UserError, match="counts 8 channels in group 0, which has 2 in this network"):
        graph.cost.params(together)


def test_a_divided_group_that_is_not_pruned_again_is_unchanged() -> None:
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 5, 3)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    graph, together, pruned = two_rounds(model, {"0": [2], "2": [0]}, {"4": [1, 2]})
    assert dict(together.widths) == {"0": (3, 1), "2": (4, 1), "4": (5, 2)}
    assert graph.cost.params(together) == sum(parameter.numel() for parameter in pruned.parameters())


def test_whole_groups_left_of_a_normalisation_go_by_places_in_the_next_round() -> None:
    """Nine groups of two; six are too few to lose whole ones, so one position of each is removed."""
    layers = [nn.Conv2d(3, 18, 3), nn.GroupNorm(9, 18), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(18, 2))
    _, together, pruned = two_rounds(model, {"0": range(1, 7)}, {"0": [1]})
    assert dict(together.widths) == {"0": (18, 6)}
    assert together.kept["0"] == (3, 5, 7, 9, 11, 13)
    assert (pruned[1].num_groups, pruned[1].num_channels) == (6, 6)


def test_the_cost_of_a_plan_of_another_network_is_an_error(graph: ChannelGraph) -> None:
    other = prunelab.analyze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), IMAGES)
    with pytest.raises(UserError, match="which this network lacks"):
        other.cost.flops(graph.plan())


@pytest.mark.parametrize(
    "fields",
    [
        {"kept": {"a": (0,)}, "widths": {"a": 1}},
        {"kept": {"a": 0}, "widths": {"a": (2, 1)}},
        {"kept": {"a": [0]}, "widths": {"a": (2, 1)}},
        {"kept": {"a": (0,)}, "widths": {}},
        {"kept": {}, "widths": {}, "dropped_blocks": "layer1"},
        {"kept": {}, "widths": {}, "cuts": (("conv.weight", 0),)},
    ],
)
def test_a_plan_made_by_hand_with_other_types_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"structure.plan\(kept="):
        PruningPlan(**fields)
