"""ResRep: folding compactors, their gradients and masks by hand, and channels that are removed without a loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import prunelab
from prunelab.errors import UserError
from prunelab.methods import Budget, ResRep
from prunelab.methods.learning.compactors import Compactors
from prunelab.models import build
from prunelab.training import Training

pytestmark = pytest.mark.slow


class Chain(nn.Module):
    """Convolutions with every kind of group: with a bias, grouped, depthwise, without and with activation before the
    normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.biased, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.late, self.norm2 = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.grouped, self.norm3 = nn.Conv2d(6, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.made, self.norm4 = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
        self.depthwise, self.norm5 = nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.BatchNorm2d(5)
        self.plain = nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.biased(images)))
        hidden = self.norm2(torch.relu(self.late(hidden)))
        hidden = torch.relu(self.norm3(self.grouped(hidden)))
        hidden = torch.relu(self.norm4(self.made(hidden)))
        hidden = torch.relu(self.norm5(self.depthwise(hidden)))
        return self.head(torch.relu(self.plain(hidden)).mean(dim=(2, 3)))


class ReadTwice(nn.Module):
    """The outputs of a convolution are added to their normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images)
        return self.head(torch.relu(self.norm(hidden) + torch.tanh(hidden)).mean(dim=(2, 3)))


def drawn(network: nn.Module) -> nn.Module:
    """All values of the normalisations different; evaluation mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-1.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def resrep(**settings: Any) -> ResRep:
    return ResRep(Budget(flops=0.6), **settings)


@pytest.mark.parametrize(
    ("make", "full"),
    [
        (Chain, {"biased"}),
        (lambda: build("cifar_resnet20", num_classes=10, in_chans=3), None),
        (lambda: build("mobilenetv2_050", num_classes=10, in_chans=3), set()),
    ],
)
def test_a_folded_network_computes_the_same(make: Any, full: set[str] | None) -> None:
    network, images = drawn(make()), torch.randn(2, 3, 16, 16)
    names = set(network.state_dict())
    before = network(images).detach()
    method = resrep()
    given = method.context(network, images[:1])
    inside = {group.name for group in given.groups if group.level == "filter"}
    compactors = Compactors(given)
    torch.testing.assert_close(network(images), before)  # identities
    for rows in compactors.rows.values():
        rows.data.add_(0.3 * torch.randn_like(rows))
    mixed = network(images).detach()
    assert (mixed - before).abs().max() > 0.01 * before.abs().max()
    found = {name for name, rows in compactors.rows.items() if rows.dim() == 2}
    assert found == (inside if full is None else full)
    compactors.fold()
    assert set(network.state_dict()) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    torch.testing.assert_close(network(images), mixed, rtol=1e-4, atol=1e-4 * float(mixed.abs().max()))


def test_outputs_with_another_reader_are_not_mixed() -> None:
    network, images = drawn(ReadTwice()), torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="outputs of conv are read by the network in addition to norm"):
        compactors = Compactors(resrep().context(network, images[:1]))
    (factors,) = compactors.rows.values()
    assert factors.dim() == 1
    factors.data.uniform_(0.5, 2.0)
    scaled = network(images).detach()
    compactors.fold()
    torch.testing.assert_close(network(images), scaled)


def test_a_full_compactor_follows_the_normalisation(small: Any, context: Any) -> None:
    block, maps = drawn(small).blocks[0], torch.randn(2, 6, 4, 4)
    plain = block.norm1(block.conv1(maps))
    compactors = Compactors(context(resrep(levels=["filter"]), small))
    matrix = compactors.rows["blocks.0.conv1"]
    matrix.data = torch.randn(6, 6)
    torch.testing.assert_close(block.norm1(block.conv1(maps)), torch.einsum("ji,nihw->njhw", matrix, plain))


def test_gradients_and_masks_by_hand(small: Any, context: Any) -> None:
    """One step after another, with rates of 0.1 and momentum 0.5."""
    method = resrep(levels=["filter"], strength=0.2, momentum=0.5, start=1, interval=1, granularity=1)
    given = context(method, small)
    method.prepare(given)
    first, second = (small.blocks[number].norm1.compactor for number in (0, 1))
    first.data[3] = torch.tensor([0.0, 0.6, 0.0, 0.8, 0.0, 0.0])
    first.data[2] *= 0.5  # the shortest row

    def step(number: int) -> None:
        method.step = number
        for parameter in small.parameters():
            parameter.grad = torch.ones_like(parameter)
        method.before_step(given)
        assert first.grad is None and second.grad is None and small.head.weight.grad is not None
        method.after_step(given, dict.fromkeys(small.parameters(), 0.1))

    step(0)
    expected = torch.tensor([0.0, 0.6, 0.0, 0.8, 0.0, 0.0])
    expected = expected - 0.1 * (1 + 0.2 * expected)
    torch.testing.assert_close(first.data[3], expected)
    before = first.data.clone(), second.data.clone()
    step(2)  # one row is masked: its gradient is reset, and it loses 0.1 x 0.2 / (1 - 0.5) of its length
    lengths = before[0].norm(dim=1)
    torch.testing.assert_close(first.data[2], before[0][2] * (1 - 0.04 / lengths[2]))
    velocity = 0.5 * (1 + 0.2 * torch.tensor([0.0, 0.6, 0.0, 0.8, 0.0, 0.0]))
    velocity = velocity + 1 + 0.2 * before[0][3] / lengths[3]
    torch.testing.assert_close(first.data[3], before[0][3] - 0.1 * velocity)
    assert method.watch(given)["masked"] == pytest.approx(1 / 12)
    for number in range(3, 40):
        step(number)
    assert method.watch(given)["masked"] == pytest.approx(6 / 12)  # 0.6 of the FLOPs
    assert method.watch(given)["zero"] >= 1 / 12
    method.finish(given)
    kept = method.decide(given).kept
    assert 2 not in kept["blocks.0.conv1"]


def test_masked_channels_are_removed_without_any_change(learn: Any, small: Any, context: Any) -> None:
    method = resrep(strength=1e-3)
    logged = learn(method, small, training=Training(epochs=3, lr=0.05))
    small.eval()
    assert logged["learning/masked"] == logged["learning/zero"] > 0.2
    plan = method.decide(context(method, small))
    pruned = prunelab.apply(copy.deepcopy(small), plan)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(pruned(images), small(images), rtol=1e-4, atol=1e-5)
    cost = context(method, small).graph.cost
    assert 0.4 < cost.flops(plan) / cost.flops() <= 0.6


def test_two_channels_hold_both_classes(signals: Any) -> None:
    """Rows mix channels, so that any two rows can hold what channels 2 and 7 held."""
    network, kept = signals(ResRep(Budget(params=0.3), strength=1e-3))
    example = torch.zeros(1, 4, 2, 2)
    pruned = prunelab.apply(network.eval(), prunelab.analyze(network, example).plan({"0": kept}))
    images = 0.5 * torch.randn(200, 4, 1, 1).expand(200, 4, 2, 2) * torch.tensor([0, 0, 1, 0]).view(4, 1, 1)
    classes = torch.arange(200) % 2
    images[torch.arange(200), classes] += 1.0
    assert len(kept) == 2 and (pruned(images).argmax(dim=1) == classes).float().mean() > 0.99


def test_the_penalty_takes_no_part_in_other_layers(small: Any, context: Any) -> None:
    images = torch.randn(4, 1, 8, 8)
    functional.cross_entropy(small(images), torch.arange(4)).backward()
    expected = small.blocks[0].conv1.weight.grad.clone()
    small.zero_grad()
    method = resrep(strength=10.0)
    given = context(method, small)
    method.prepare(given)
    functional.cross_entropy(small(images), torch.arange(4)).backward()
    method.before_step(given)
    torch.testing.assert_close(small.blocks[0].conv1.weight.grad, expected)


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"momentum": 1.0}, {"interval": 0}])
def test_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        resrep(**settings)


def test_a_network_without_a_place_for_compactors_is_an_error() -> None:
    network = build("cifar_resnet20", num_classes=10, in_chans=3)
    method = resrep(levels=["stage"], exclude=["layer3"])  # zero-padded shortcuts read the other stages
    given = method.context(network, torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="no group"):
        method.prepare(given)
