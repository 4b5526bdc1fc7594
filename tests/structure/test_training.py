"""Parts of a network that only run, or are only returned, in training mode."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab

IMAGES = torch.randn(3, 3, 8, 8)


class Supervised(nn.Module):
    """A trunk with two layers, and an auxiliary head on the first one.

    ``always``: evaluation mode runs the head too, and does not return its result. ``targets``: training mode needs
    them. ``places``: the head is flattened to this many numbers, written out.
    """

    def __init__(self, always: bool = False, targets: bool = False, places: int | None = None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 10, 3, 2, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.aux = nn.Conv2d(8, 6, 1)
        self.aux_out = nn.Linear(6 * 16, 4)
        self.out = nn.Linear(10, 4)
        self.always, self.targets, self.places = always, targets, places

    def head(self, x: Tensor) -> Tensor:
        x = F.relu(self.aux(x))
        return self.aux_out(x.flatten(1) if self.places is None else x.view(-1, self.places))

    def forward(self, x: Tensor, target: Tensor | None = None) -> Any:
        if self.training and self.targets and target is None:
            raise ValueError("target is missing")
        first = self.first(x)
        auxiliary = self.head(first) if self.training or self.always else None
        out = self.out(self.second(first).mean((2, 3)))
        return (out, auxiliary) if self.training else out


def kept_half(graph: prunelab.ChannelGraph) -> prunelab.PruningPlan:
    rng = np.random.default_rng(0)
    return graph.plan({g.name: rng.choice(g.size, g.size // 2, replace=False).tolist() for g in graph.groups})


def reasons(graph: prunelab.ChannelGraph) -> dict[str, str | None]:
    return {group.name: group.frozen for group in graph.frozen}


@pytest.mark.parametrize("always", [False, True])
def test_an_auxiliary_head_loses_the_channels_that_it_reads(
    always: bool, masked_by_hand: Callable[..., list[Tensor]], outputs: Callable[..., list[Tensor]]
) -> None:
    model = Supervised(always=always).eval()
    graph = prunelab.analyze(model, IMAGES[:1])
    plan = kept_half(graph)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9
    assert pruned.aux.in_channels == 4 and pruned.aux_out.out_features == 4
    expected = masked_by_hand(model.train(), graph, plan, IMAGES)
    found = outputs(pruned.train(), IMAGES)
    assert [tuple(each.shape) for each in found] == [(3, 4), (3, 4)]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    before = pruned.aux.weight.detach().clone()
    sum(F.cross_entropy(each, torch.tensor([0, 1, 2])) for each in pruned(IMAGES)).backward()  # type: ignore
    optimizer.step()
    assert not torch.equal(before, pruned.aux.weight)


def test_channels_of_only_training_mode_are_not_pruned() -> None:
    graph = prunelab.analyze(Supervised(), IMAGES)
    assert [group.name for group in graph.groups] == ["first.0", "second.0"]
    assert str(reasons(graph)["aux"]).startswith("only training mode produces these channels")
    assert reasons(graph)["aux_out"] == "output of the network"
    assert graph.unused_parameters == () and graph.training_failure is None


def test_a_width_that_is_written_out_in_an_auxiliary_head_is_found() -> None:
    graph = prunelab.analyze(Supervised(always=False, places=6 * 16), IMAGES)
    assert [group.name for group in graph.groups] == ["first.0", "second.0"]

    class WrittenOut(Supervised):
        def head(self, x: Tensor) -> Tensor:
            return self.aux_out(x.reshape(len(x), 8, -1)[:, :6].flatten(1))

    graph = prunelab.analyze(WrittenOut(), IMAGES)
    assert [group.name for group in graph.groups] == ["second.0"]


def test_unread_channels_are_kept_if_training_mode_cannot_run() -> None:
    model = Supervised(always=True, targets=True)
    graph = prunelab.analyze(model, IMAGES)
    assert graph.training_failure == "ValueError: target is missing"
    reason = str(reasons(graph)["aux_out"])
    assert reason.startswith("no layer reads these channels") and "target is missing" in reason
    given = prunelab.analyze(model, {"x": IMAGES, "target": torch.zeros(3)})
    assert given.training_failure is None and reasons(given)["aux_out"] == "output of the network"


def test_parameters_that_no_mode_reads_are_listed() -> None:
    graph = prunelab.analyze(Supervised(targets=True), IMAGES)
    assert graph.unused_parameters == ("aux.weight", "aux.bias", "aux_out.weight", "aux_out.bias")


class Noisy(Supervised):
    """Draws random numbers of every kind in training mode, counts its calls and updates statistics by itself."""

    def __init__(self, by_value: bool) -> None:
        super().__init__()
        self.by_value = by_value
        self.register_buffer("mean", torch.zeros(8))
        self.calls: list[int] = []

    def forward(self, x: Tensor, target: Tensor | None = None) -> Any:
        if self.by_value and float(x.detach().sum()) > 1e9:  # not possible on the meta device
            return x
        x = self.first(x)
        if self.training:
            self.calls.append(len(self.calls))
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
            keep = random.random() + np.random.rand() + float(torch.rand(())) >= 0  # noqa: NPY002
            x = F.dropout(x, 0.5, self.training) * torch.empty_like(x).bernoulli_(0.5) * float(keep)
        return self.out(self.second(x).mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("by_value", [False, True])
def test_an_analysis_leaves_no_trace_of_training(by_value: bool, training: bool) -> None:
    model = nn.Sequential(nn.Identity(), Noisy(by_value).train(training))
    model[1].second.eval()
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    drawn = _next_numbers()
    graph = prunelab.analyze(model, IMAGES)
    assert [group.name for group in graph.groups] == ["1.first.0", "1.second.0"]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert model[1].calls == []
    assert [module.training for module in model.modules()] == flags
    assert drawn == _next_numbers()


def _next_numbers() -> tuple[float, float, float]:
    """The next number of each generator, which is not advanced."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        drawn = random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002
    random.setstate(python)
    np.random.set_state(legacy)  # noqa: NPY002
    return drawn
