"""Fisher information and its compensated form, on networks whose values can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import OBS, Budget, Fisher, ImportanceMethod, L1Norm, PruningContext
from prunelab.methods.importance.obs import scores_along
from prunelab.methods.importance.sensitivity import random_direction


def context(
    model: nn.Module, images: Tensor, levels: tuple[str, ...] = ("filter", "stage")
) -> PruningContext:
    method = ImportanceMethod(Fisher(), Budget(flops=0.5), levels=levels, images=len(images))
    return method.context(model, images[:1], [(batch, None) for batch in images.split(16)])


def images(count: int = 64, size: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    ).eval()


def exact_fisher(model: nn.Sequential, x: Tensor) -> np.ndarray:
    """mean over images of 1/2 (w_j x_j)^T (diag p - p p^T) (w_j x_j) for the inputs x_j of the last layer."""
    with torch.no_grad():
        features = model[:4](x)
        p = functional.softmax(model(x), dim=1)
        moved = features[:, :, None] * model[4].weight.T[None]  # (N, channels, classes)
        squares = (p[:, None] * moved.square()).sum(dim=2) - (p[:, None] * moved).sum(dim=2).square()
    return squares.mean(dim=0).numpy() / 2


def test_random_directions_have_the_hessian_of_the_cross_entropy_as_second_moment() -> None:
    outputs = torch.tensor([[0.5, -1.0, 2.0]]).expand(200_000, -1)
    v = random_direction(outputs, torch.Generator().manual_seed(0)).double()
    p = outputs[0].double().softmax(dim=0)
    assert torch.allclose(v.T @ v / len(v), torch.diag(p) - p[:, None] * p, atol=3e-3)


def test_the_score_is_half_the_mean_squared_change_of_the_loss() -> None:
    model, x = small(), images()
    scores = Fisher(draws=400).score(context(model, x)).channels["0"]
    assert np.allclose(scores, exact_fisher(model, x), rtol=0.05)


def test_no_labels_are_needed_and_the_network_is_left_as_it_was() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for criterion in (Fisher(), OBS()):
        criterion.score(context(model, images()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


class Stage(nn.Module):
    """A stem and two residual blocks; the sum is read by both blocks and by the classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.Sequential(Branch(), Branch())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.conv2(functional.relu(self.conv1(x)))


def test_a_channel_of_a_stage_is_scaled_where_it_is_read() -> None:
    """s_j is the derivative of the loss with respect to a factor on channel j as read by all readers."""
    model, x = Stage().eval(), images(8)
    stage = next(group for group in context(model, x).groups if group.level == "stage")
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(4, dtype=torch.float64)
    factors = torch.ones(len(x), 4, requires_grad=True)

    def scaled(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape = (len(x), 4, *[1] * (given[0].dim() - 2))
        return (given[0] * factors.reshape(shape),)

    readers = [model.blocks[0].conv1, model.blocks[1].conv1, model.head]
    hooks = [reader.register_forward_pre_hook(scaled) for reader in readers]
    outputs = model(x)
    for _ in range(4):
        direction = random_direction(outputs.detach(), generator)
        (gradient,) = torch.autograd.grad((outputs * direction).sum(), factors, retain_graph=True)
        total += gradient.double().square().sum(dim=0)
    for hook in hooks:
        hook.remove()
    scores = Fisher(draws=4).score(context(model, x)).channels[stage.name]
    assert np.allclose(scores, (total / (2 * 4 * len(x))).numpy(), rtol=1e-4)


def test_blocks_are_scored_by_what_their_branch_adds() -> None:
    model, x = Stage().eval(), images(16)
    with torch.no_grad():
        model.blocks[1].conv2.weight *= 1e-3
        model.blocks[1].conv2.bias *= 1e-3
    scores = Fisher().score(context(model, x, ("filter", "block"))).blocks
    assert 0 < scores["blocks.1"] < 1e-4 * scores["blocks.0"]


def test_a_twin_costs_nothing_if_the_other_one_makes_up_for_it() -> None:
    model, x = small(), images(256)
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = model[0].weight[1], model[0].bias[1]
    plain = Fisher().score(context(model, x)).channels["0"]
    scores = OBS(dampings=(1e-6,)).score(context(model, x)).channels["0"]
    first = int(np.argmin(scores))
    assert first in (1, 3)
    assert scores[first] < 1e-3 * plain[first]
    others = [channel for channel in range(5) if channel not in (1, 3)]
    assert scores[others].min() > 100 * scores[first]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_readers_of_every_kind_are_scored(groups: int, kernel: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(),
        nn.Conv2d(8, 6, kernel, groups=groups), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4),
    ).eval()  # fmt: skip
    x = images(32, 6)
    model(x)
    for criterion in (Fisher(), OBS()):
        scores = criterion.score(context(model, x)).channels
        assert scores.keys() == {group.name for group in context(model, x).groups}
        assert all((values >= 0).all() and values.max() > 0 for values in scores.values())


def test_passes_over_parts_of_the_network_give_the_same_scores() -> None:
    model, x = Stage().eval(), images(16)
    at_once, in_parts = (
        OBS(memory=memory).score(context(model, x)).channels for memory in (1 << 30, 8 * 2 * 36**2 + 2000)
    )
    assert at_once.keys() == in_parts.keys()
    assert all(np.allclose(at_once[name], in_parts[name]) for name in at_once)


def test_scores_rise_along_the_order_of_removal() -> None:
    scores = scores_along(np.array([2, 0, 3, 1]), np.array([1.0, 3.0, 2.0, 5.0]))
    assert np.argsort(scores).tolist() == [2, 0, 3, 1]
    assert scores[[2, 0, 3, 1]] == pytest.approx([1.0, 2.5, 2.5, 5.0])


def test_groups_that_other_layers_read_are_not_pruned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 5, 2), nn.Conv2d(5, 6, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    with pytest.warns(UserWarning, match=r"not read by convolutions and linear layers alone.*0"):
        scores = Fisher().score(context(model, images(8)))
    assert "0" not in scores.channels and len(scores.channels) == 2


def test_class_scores_are_needed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(UserError, match="class scores"):
        Fisher().score(context(model, images(4)))
    with pytest.raises(UserError, match="dampings"):
        OBS(dampings=())
    with pytest.raises(UserError, match="at_once=0"):
        OBS(at_once=0)
    with pytest.raises(UserError, match="draws=0"):
        Fisher(draws=0)


def test_scores_that_are_losses_are_compared_per_cost_unless_another_rule_is_given() -> None:
    half = Budget(flops=0.5)
    assert ImportanceMethod(OBS(), half).allocation.rule == "per_cost"
    assert ImportanceMethod(Fisher(), half, allocation="uniform").allocation.rule == "uniform"
    assert ImportanceMethod(L1Norm(), half).allocation.rule == "global"
