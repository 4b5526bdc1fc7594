"""NetworkAdjustment: drop rates, ratios and moves by hand, the first network, and the right widths of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import Budget, L1Norm, NetworkAdjustment, WidthSpace
from prunelab.methods.search.network_adjustment import adjusted
from prunelab.methods.search.utilisation import drop_rates, utilisation
from prunelab.structure import candidate
from prunelab.training import Training

HALF = Budget(flops=0.5)


def space_of(network: nn.Module, images: Tensor, method: Any = None, **more: Any) -> WidthSpace:
    context = (method or NetworkAdjustment(HALF)).context(network.eval(), images[:1], **more)
    return WidthSpace.of(context, L1Norm().score(context))


def ratios(space: WidthSpace, batches: Any, base: float, repeats: int, kept: Any = None) -> dict[str, float]:
    """Of the network of ``space`` after it was pruned to ``kept``."""
    plan = space.context.graph.plan(kept or {})
    network = candidate(space.context.model, plan).eval()
    return utilisation(space, network, plan, batches, base, repeats)


def test_the_drop_rates_by_hand() -> None:
    """MACs per position: 3 x 4 + 4 x 6 + 6 x 2 = 48. dF/dn is 3 + 6 = 9 and 4 + 2 = 6: n dF/dn = 36 and 36."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(6, 2, 1, bias=False)
    )
    space = space_of(network, torch.zeros(1, 3, 5, 5))
    for pair in drop_rates(space, np.array([4, 6]), 0.1).values():
        assert pair == pytest.approx((0.1, 1.0))
    # Widths 4 and 1: 4 x (3 + 1) = 16 and 1 x (4 + 2) = 6, mean 11.
    (first, whole), (second, part) = drop_rates(space, np.array([4, 1]), 0.3).values()
    assert (first, second) == pytest.approx((0.3 * 11 / 16, 0.5))  # 0.3 x 11 / 6 = 0.55 is limited
    assert (whole, part) == pytest.approx((1.0, 0.5 / 0.55))


class Sums(nn.Module):
    """outputs = a^T h + b^T k for h and k, linear functions of the image; ``b`` reads positions 2 j and 2 j + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.k = nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(2, 4, 1, bias=False)
        self.a, self.b = nn.Conv2d(3, 1, 1, bias=False), nn.Linear(8, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.a(self.h(images))[:, :, 0, :1].flatten(1) + self.b(self.k(images).flatten(1))


def test_a_ratio_by_hand() -> None:
    """The variance of a sum of terms t that are each dropped with rate p, or scaled by 1 / (1 - p), is
    p / (1 - p) sum(t^2)."""
    torch.manual_seed(0)
    network, images = Sums(), torch.randn(1, 2, 1, 2).expand(20_000, 2, 1, 2)
    space = space_of(network, images, loss=lambda outputs, targets: (outputs - targets).square().mean())
    with torch.no_grad():
        of_a = (network.a.weight[0, :, 0, 0] * network.h(images[:1])[0, :, 0, 0]).square().sum()
        terms = network.b.weight.view(4, 2) * network.k(images[:1])[0, :, 0]
        of_b = terms.sum(dim=1).square().sum()
    rates = drop_rates(space, np.array([3, 4]), 0.2)
    found = ratios(space, [(images, network(images).detach())], 0.2, 2)
    for name, squares in (("h", of_a), ("k", of_b)):
        rate, share = rates[name]
        assert found[name] == pytest.approx(rate / (1 - rate) * float(squares) / share, rel=0.05)


class Twice(nn.Module):
    """Two layers with opposite weights read one group, so that channels dropped for both have no effect."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Conv2d(2, 6, 1, bias=False)
        self.a, self.b = nn.Conv2d(6, 3, 1, bias=False), nn.Conv2d(6, 3, 1, bias=False)
        self.other = nn.Conv2d(2, 4, 1, bias=False)
        self.read = nn.Conv2d(4, 3, 1, bias=False)
        self.b.weight.data = -self.a.weight.data

    def forward(self, images: Tensor) -> Tensor:
        h = self.h(images)
        return (self.a(h) + self.b(h) + self.read(self.other(images))).mean(dim=(2, 3))


def test_all_layers_read_the_same_channels_dropped() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(8, 2, 3, 3), torch.randint(3, (8,)))]
    found = ratios(space_of(Twice(), batches[0][0]), batches, 0.4, 3)
    assert found["h"] == pytest.approx(0.0, abs=1e-6) and abs(found["other"]) > 1e-4


class Joined(nn.Module):
    """A layer that reads two groups, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(2, 4, 1, bias=False)
        self.read = nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(torch.cat([self.first(images), self.second(images)], dim=1)).mean(dim=(2, 3))


@pytest.mark.parametrize("dead", ["first", "second"])
def test_the_ratio_of_a_group_without_effect_is_zero_also_after_pruning(dead: str) -> None:
    torch.manual_seed(0)
    network, batches = Joined(), [(torch.randn(8, 2, 3, 3), torch.randint(3, (8,)))]
    getattr(network, dead).weight.data[[1, 3]] = 0.0
    space = space_of(network, batches[0][0])
    found = ratios(space, batches, 0.4, 3, {"first": [1, 3], "second": [1, 3]})
    (other,) = {"first", "second"} - {dead}
    assert found[dead] == 0.0 and abs(found[other]) > 1e-3


def test_ratios_change_neither_the_network_nor_the_random_numbers(residual: nn.Module, batches: Any) -> None:
    space = space_of(residual, batches[0][0])
    torch.manual_seed(7)
    first, expected = ratios(space, batches, 0.1, 2), torch.rand(1)
    torch.manual_seed(7)
    assert torch.rand(1) == expected and ratios(space, batches, 0.1, 2) == first


def test_the_moves_by_hand() -> None:
    """By the order of the ratios: groups 1 and 4 become wider, 3 and 0 narrower; group 2 has no ratio."""
    widths, first = np.array([10, 20, 30, 2, 40]), np.array([10, 20, 30, 20, 40])
    found = np.array([0.2, 0.9, np.nan, 0.1, 0.5])
    new = adjusted(widths, first, found, np.array([0.15, 0.1]))
    assert new.tolist() == [
        9,
        23,
        30,
        1,
        44,
    ]  # 10 - 0.1 x 10, 20 + 0.15 x 20, 2 - 0.15 x 20 < 1, 40 + 0.1 x 40
    assert adjusted(widths, first, found, np.array([])).tolist() == widths.tolist()


@pytest.fixture
def begun(residual: nn.Module, batches: Any) -> Any:
    """settings -> a method whose search has begun on ``residual``."""

    def make(**settings: Any) -> NetworkAdjustment:
        method = NetworkAdjustment(HALF, **settings)
        method.start(
            space := space_of(residual, batches[0][0], method).context,
            WidthSpace.of(space, L1Norm().score(space)),
        )
        return method

    return make


def test_the_first_network_is_uniform_and_each_is_as_wide_as_the_budget_allows(begun: Any) -> None:
    method = begun(step=0.5, groups=1.0)
    (first,) = method.ask()
    assert len(set(first.widths)) == 1
    method._ratios[first.widths] = [4.0, 2.0, 3.0, 1.0]
    method.tell(first, 0.5)
    (second,) = method.ask()
    wide, *_, narrow = np.array(second.widths)[method._columns]
    assert wide > narrow
    for each in (first, second):
        assert method._space.cost(each) <= method._space.target
    wider = np.minimum(np.array(second.widths) + 1, 6)
    assert method._space.costs(wider[None])[0] > method._space.target


def test_fewer_groups_are_adjusted_in_later_iterations(begun: Any) -> None:
    """Of four groups two at most become wider; with 2 - 1.0 i one in the second iteration, none in the third."""
    method = begun(groups=2.0, groups_decay=1.0, step=0.3)
    rows = []
    for _ in range(3):
        (each,) = method.ask()
        rows.append(each.widths)
        method._ratios[each.widths] = [4.0, 3.0, 2.0, 1.0]
        method.tell(each, 0.5)
    assert len(set(rows)) == 3
    assert method.ask()[0].widths == rows[-1]


def test_of_equal_networks_the_last_one_is_chosen(begun: Any) -> None:
    (first,) = begun().ask()
    later, worse = type(first)((1, 1, 1, 1)), type(first)((2, 2, 2, 2))
    assert begun().chosen({first: 0.5, later: 0.5, worse: 0.4}) == later


def test_a_single_group_is_scaled_to_the_budget(batches: Any) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(36, 3, bias=False))
    method = NetworkAdjustment(HALF)
    plan = method.decide(method.context(network, batches[0][0][:1], batches, validation=batches))
    assert plan.widths == {"0": (4, 2)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iterations": 0}, "iterations=0"),
        ({"repeats": 0}, "repeats=0"),
        ({"groups": 0.0}, r"groups=0\.0"),
        ({"step": 1.0}, r"step=1\.0"),
        ({"drop_rate": 0.0}, r"drop_rate=0\.0"),
        ({"workers": 2}, "workers=2"),
        ({"levels": ["block"]}, "block"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        NetworkAdjustment(HALF, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superfluous_channels_are_removed_and_needed_ones_kept(known: Any, seed: int) -> None:
    """Trained from scratch. The uniform network has 6 of the 8 needed channels, and 25 of 32; see ``Known``."""
    module = known(seed)

    def train(network: nn.Module, epochs: int, training: Training | None, name: str) -> None:
        assert training is not None
        optimizer = torch.optim.SGD(network.parameters(), training.lr, momentum=0.9)
        for _ in range(epochs):
            for images, classes in module.train_dataloader():
                optimizer.zero_grad()
                functional.cross_entropy(network(images), classes).backward()
                optimizer.step()

    method = NetworkAdjustment(Budget(flops=0.65), training=Training(epochs=10), iterations=6, seed=seed)
    context = method.context(
        module.net.eval(), torch.zeros(1, 8, 4, 4), validation=module.val_dataloader(), train_candidate=train
    )
    plan = method.decide(context)
    assert context.graph.cost.flops(plan) <= 0.65 * context.graph.cost.flops()
    assert plan.widths["0"][1] >= 7 and plan.widths["3"][1] <= 22
