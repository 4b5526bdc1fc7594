"""TAS: interpolation, mixtures, draws, depths and the loss of the cost by hand, the decision, and the right widths."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import TAS, Budget, PruningContext
from prunelab.methods.learning.sampler import Sampler
from prunelab.methods.search.tas import _Search, fractions_of
from prunelab.methods.search.transformable import WIDTHS, Pair, interpolated, stage_blocks

HALF = Budget(flops=0.5)
ALL = ("filter", "stage", "block")


def test_the_interpolation_by_hand() -> None:
    """Of three channels four: channel 1 of 4 is the mean of channels 0 and 1, channel 2 that of 1 and 2."""
    maps = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert interpolated(maps, 4).flatten().tolist() == [1.0, 1.5, 3.0, 4.0]
    assert interpolated(maps, 3) is maps
    assert interpolated(maps.view(1, 3), 6, dim=-1).tolist() == [[1.0, 1.0, 2.0, 2.0, 4.0, 4.0]]


@pytest.mark.parametrize(("own", "channels"), [(4, 9), (5, 16), (11, 12), (1, 3)])
def test_the_interpolation_is_adaptive_average_pooling(own: int, channels: int) -> None:
    maps = torch.randn(2, own, 3, 4)
    expected = functional.adaptive_avg_pool3d(maps, (channels, 3, 4))
    assert torch.allclose(interpolated(maps, channels), expected, atol=1e-6)


def test_the_widths_of_a_group_by_hand() -> None:
    """0.3 to 1.0 of 16 channels: 4.8, 6.4, 8, 9.6, 11.2, 12.8, 14.4, 16; of multiples of 8 the nearest, the wider."""
    assert fractions_of(np.arange(16, 0, -1)).tolist() == [5, 6, 8, 10, 11, 13, 14, 16]
    assert fractions_of(np.array([16, 8])).tolist() == [8, 8, 8, 8, 8, 16, 16, 16]


class Chain(nn.Module):
    """A convolution with normalisation, one without, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 10, 1, bias=False), nn.BatchNorm2d(10)
        self.second = nn.Conv2d(10, 10, 1)
        self.hidden, self.head = nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.relu(self.norm(self.first(images)))
        hidden = functional.relu(self.second(maps)).mean(dim=(2, 3))
        return self.head(functional.relu(self.hidden(hidden)))


def context_of(network: nn.Module, method: TAS | None = None, side: int = 3) -> PruningContext:
    torch.manual_seed(1)
    batches = [(torch.randn(8, 2, side, side), torch.randint(3, (8,)))]
    return (method or TAS(HALF)).context(network, batches[0][0][:1], validation=batches)


def mixture(out: Tensor, widths: tuple[int, int], share: float) -> Tensor:
    """By hand, from outputs (N, C, ...) of at least as many channels."""
    parts = [interpolated(out[:, :width], max(widths)) for width in widths]
    return share * parts[0] + (1 - share) * parts[1]


def test_a_pass_with_two_widths_per_group_by_hand() -> None:
    torch.manual_seed(0)
    network = Chain().train()
    context = context_of(network)
    search = _Search(context, 0.1, 0.0)
    assert list(search.net.choices) == ["first", "second", "hidden"]
    norms = network.norm.get_submodule(WIDTHS)
    with torch.no_grad():
        norms.scale.uniform_(0.5, 1.5)
        norms.shift.uniform_(-1.0, 1.0)
    shares = {"first": 0.3, "second": 0.6, "hidden": 0.9}
    chosen = {"first": (1, 3), "second": (7, 0), "hidden": (2, 4)}  # widths 4 and 6, 10 and 3, 5 and 7
    pairs = {name: Pair(chosen[name], torch.tensor([share, 1 - share])) for name, share in shares.items()}
    images = torch.randn(8, 2, 3, 3)
    with search.net.at(pairs, []), torch.no_grad():
        found = network(images)

    with torch.no_grad():
        maps = functional.conv2d(images, network.first.weight)
        maps = functional.batch_norm(maps, None, None, training=True)
        one, two = (
            maps[:, :width] * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
            for width, (scale, shift) in ((4, norms.of(1)), (6, norms.of(3)))
        )
        maps = functional.relu(0.3 * interpolated(one, 6) + 0.7 * two)
        maps = functional.conv2d(maps, network.second.weight[:, :6], network.second.bias)
        hidden = functional.relu(mixture(maps, (10, 3), 0.6)).mean(dim=(2, 3))
        hidden = functional.linear(hidden, network.hidden.weight[:7], network.hidden.bias[:7])
        hidden = functional.relu(mixture(hidden, (5, 7), 0.9))
        expected = functional.linear(hidden, network.head.weight[:, :7], network.head.bias)
    assert torch.allclose(found, expected, atol=1e-5)


class Block(nn.Module):
    """y = relu(x + f(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(maps + self.conv(maps))


class Stages(nn.Module):
    """A stem and one stage of several blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 1, bias=False)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(blocks)))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("blocks", "depths"),
    [(1, (0, 1)), (2, (0, 1, 2)), (3, (1, 2, 3)), (4, (0, 2, 4)), (5, (1, 3, 5))],
)
def test_the_depths_of_a_stage(blocks: int, depths: tuple[int, ...]) -> None:
    (stage,) = stage_blocks(context_of(Stages(blocks), TAS(HALF, levels=ALL)))
    assert stage.blocks == tuple(f"blocks.{number}" for number in range(blocks))
    assert stage.depths == depths


def test_a_pass_with_several_depths_by_hand() -> None:
    torch.manual_seed(0)
    network = Stages(2).train()
    search = _Search(context_of(network, TAS(HALF, levels=["block"])), 0.1, 0.0)
    shares, images = torch.tensor([0.2, 0.3, 0.5]), torch.randn(4, 2, 3, 3)
    with torch.no_grad():
        with search.net.at({}, [shares]):
            found = network(images)
        stem = network.stem(images)
        first = network.blocks[0](stem)
        outputs = [functional.relu(stem), first, network.blocks[1](first)]
        expected = network.head(sum(s * out.mean(dim=(2, 3)) for s, out in zip(shares, outputs, strict=True)))
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(
        network(images), network.head(outputs[2].mean(dim=(2, 3)))
    )  # an ordinary network again


def test_the_expected_cost_is_that_of_all_networks_weighted_by_their_probability() -> None:
    torch.manual_seed(0)
    network = Stages(2)
    method = TAS(HALF, levels=ALL)
    context = context_of(network, method)
    search = _Search(context, 0.1, 0.0)
    with torch.no_grad():
        search.sampler.logits.normal_(generator=torch.Generator().manual_seed(1))
    (name, widths), (stage,) = next(iter(search.net.choices.items())), search.net.stages
    chances, cost, brute = search.sampler.probabilities().double().numpy(), context.graph.cost, 0.0
    # The two blocks read and write one group, for which E[w]^2 stands in place of E[w^2] (see ExpectedCost).
    mean = float(chances[0, : len(widths)] @ widths)
    for depth, chance in zip(stage.depths, chances[1, :3], strict=True):
        alive = np.array([[place <= depth for place in (1, 2)]], dtype=float)
        brute += chance * float(cost.flops(np.array([[mean]]), alive)[0])
    assert name == context.graph.groups[0].name
    assert float(search.expected_cost().detach()) == pytest.approx(brute, rel=1e-6)
    (gradient,) = torch.autograd.grad(search.expected_cost(), search.sampler.logits)
    assert gradient[0, 7] > 0 > gradient[0, 0] and gradient[1, 2] > 0 > gradient[1, 0]


def test_the_expected_cost_of_independent_widths() -> None:
    search = _Search(context := context_of(Chain()), 0.1, 0.0)
    with torch.no_grad():
        search.sampler.logits.normal_(generator=torch.Generator().manual_seed(1))
    chances = search.sampler.probabilities().double().numpy()
    columns = [search.net.supernet.column(name) for name in search.net.choices]
    rows, weights = [], []
    for picked in product(range(8), repeat=3):
        row = search.net.supernet.full.copy()
        row[columns] = [
            search.net.choices[name][p] for name, p in zip(search.net.choices, picked, strict=True)
        ]
        rows.append(row)
        weights.append(np.prod([chances[group, p] for group, p in enumerate(picked)]))
    brute = context.graph.cost.flops(np.array(rows)) @ np.array(weights)
    assert float(search.expected_cost().detach()) == pytest.approx(brute, rel=1e-5)


def begun(network: nn.Module, **settings: Any) -> TAS:
    method = TAS(settings.pop("budget", HALF), **settings)
    context = context_of(network.train(), method)
    method.begin(context)
    method.prepare(context)
    return method


@pytest.mark.parametrize(("choice", "sign"), [(7, 1.0), (3, 0.0), (0, -1.0)])
def test_the_loss_of_the_cost_by_hand(choice: int, sign: float) -> None:
    """Full widths cost too much: log E. The narrowest ones cost less than 37 %: -log E. Between: 0."""
    method = begun(Chain(), budget=Budget(flops=0.42))
    search = method._search
    with torch.no_grad():
        search.sampler.logits.zero_()[:, choice] = 0.5
    total = search.space.scale
    if choice == 3:  # widths 6 of 10
        assert 0.37 * total < search.cost_of_best() <= 0.42 * total
    expected = float(search.expected_cost().detach())
    assert float(method._cost_loss().detach()) == pytest.approx(sign * math.log(expected))


def test_two_different_widths_are_drawn_and_the_same_ones_for_the_same_number() -> None:
    search = _Search(context_of(Chain()), 0.1, 0.0)
    with torch.no_grad():
        search.sampler.logits[0] = torch.tensor([0.0] * 6 + [3.0, 3.0])
    counts = np.zeros(8)
    for number in range(300):
        pairs, _ = search.draw(0.1, number)
        for pair in pairs.values():
            assert len(set(pair.choices)) == 2
            assert float(pair.shares.sum().detach()) == pytest.approx(1.0)
        counts[pairs["first"].choices[0]] += 1
    assert counts[6:].sum() > 0.75 * 300  # e^3 against 6 of e^0
    one, two = (search.draw(1.0, 5)[0] for _ in range(2))
    assert all(one[n].choices == two[n].choices and torch.equal(one[n].shares, two[n].shares) for n in one)
    chances = search.sampler.draw(1.0, 5).detach()
    (first, second), shares = one["second"].choices, one["second"].shares.detach()
    assert float(shares[0]) == pytest.approx(
        float(chances[1, first] / (chances[1, first] + chances[1, second]))
    )


def test_choices_that_a_row_does_not_have_are_never_probable() -> None:
    sampler = Sampler(2, 4, 0.1, 0.1, 0, own=[4, 2])
    assert sampler.probabilities()[1].tolist() == [0.5, 0.5, 0.0, 0.0]
    drawn = sampler.draw(0.1, 3)
    assert drawn[1, 2:].tolist() == [0.0, 0.0] and float(drawn[1].sum().detach()) == pytest.approx(1.0)
    sampler.descend((sampler.draw(1.0, 4) * torch.arange(4.0)).sum())
    assert sampler.logits.isfinite().all() and sampler.best()[1] < 2


def test_the_logits_learn_on_held_out_images_and_weights_stay() -> None:
    network = Chain()
    method = begun(network, logit_lr=0.1)
    method.steps = 10
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    logits = method._search.sampler.logits.detach().clone()
    method.after_step(method.learning, {})
    assert (method._search.sampler.logits != logits).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    found = method.watch(method.learning)
    assert found["temperature"] == 5.0 and math.isfinite(found["held_out_loss"])


def test_the_temperature_falls_by_a_cosine() -> None:
    method = TAS(HALF)
    method.steps = 100
    for step, expected in ((0, 5.0), (50, 2.55), (100, 0.1)):
        method.step = step
        assert method.temperature == pytest.approx(expected)


def test_after_learning_the_network_has_the_norms_of_the_most_probable_width() -> None:
    network = Chain()
    names = set(dict(network.named_parameters()))
    method = begun(network)
    norms = network.norm.get_submodule(WIDTHS)
    with torch.no_grad():
        method._search.sampler.logits.zero_()[:, 4] = 1.0  # seven channels
        norms.scale.copy_(torch.arange(len(norms.scale)))
    assert not network.norm.weight.requires_grad
    (four, _), (widest, _) = norms.of(4), norms.of(7)
    method.end()
    assert set(dict(network.named_parameters())) == names
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.norm.weight.tolist() == [*four.tolist(), *widest.tolist()[7:]]


def test_the_decision_scales_the_most_probable_widths_to_the_budget() -> None:
    network = Chain()
    for choice in (1, 6):
        method = begun(network)
        with torch.no_grad():
            method._search.sampler.logits.zero_()[:, choice] = 1.0
            method._search.sampler.logits[0, 7] = 2.0  # the first group is wider
        method.end()
        context = context_of(network, method)
        plan = method.decide(context)
        cost = context.graph.cost.flops(plan) / context.graph.cost.flops()
        assert 0.35 < cost <= 0.5
        assert plan.widths["first"][1] > plan.widths["second"][1] == plan.widths["hidden"][1]
        assert all(kept == tuple(range(len(kept))) for kept in plan.kept.values())


def test_depths_are_reduced_where_that_is_least_improbable() -> None:
    """Without a choice of widths. Full depth is most probable, but costs too much; of the depths 0, 2 and 4 the middle
    one meets the budget."""
    method = begun(Stages(4), budget=Budget(flops=0.7), levels=["block"])
    with torch.no_grad():
        method._search.sampler.logits.copy_(torch.tensor([[0.0, 1.0, 2.0]]))
    method.end()
    plan = method.decide(context_of(Stages(4), method))
    assert plan.dropped_blocks == ("blocks.2", "blocks.3")


def test_a_budget_that_needs_all_blocks_of_a_stage_is_an_error() -> None:
    method = begun(Stages(3), budget=Budget(flops=0.3), levels=["block"])
    method.end()
    with pytest.raises(UserError, match=r"TAS cannot meet .*keeps blocks of each stage"):
        method.decide(context_of(Stages(3), method))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": -1.0}, r"strength=-1\.0"),
        ({"tolerance": -0.1}, r"tolerance=-0\.1"),
        ({"logit_lr": 0.0}, r"logit_lr=0\.0"),
        ({"last_temperature": 6.0}, r"last_temperature=6\.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TAS(HALF, **settings)


class Branches(nn.Module):
    """Eight channels that are all needed, and beside them 32 that nothing needs; for the images of ``Known``."""

    def __init__(self) -> None:
        super().__init__()
        self.needed, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.dead, self.other = nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.head = nn.Linear(40, 16)
        with torch.no_grad():
            self.needed.weight.copy_(torch.eye(8).view(8, 8, 1, 1))
            self.norm.bias.fill_(2.0)  # the linear part of the ReLU
            self.head.weight.zero_()
            self.head.weight[:, :8] = 2 * torch.cat([torch.eye(8), -torch.eye(8)])

    def forward(self, images: Tensor) -> Tensor:
        branches = self.norm(self.needed(images)), self.other(self.dead(images))
        pooled = [functional.relu(maps).mean(dim=(2, 3)) for maps in branches]
        return self.head(torch.cat(pooled, dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superfluous_channels_go_and_needed_ones_stay(known: Any, learned_widths: Any, seed: int) -> None:
    module = known(seed, lr=0.002)
    module.net = Branches()
    method = TAS(HALF, from_scratch=False, logit_lr=0.1, seed=seed)
    widths = learned_widths(method, module, epochs=20)
    assert widths["needed"] == 8  # of 8
    assert widths["dead"] <= 12  # of 32
