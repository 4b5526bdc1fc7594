"""NISP: Inf-FS as a sum over paths, propagation by hand and by loops, and a channel with the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import NISP, Budget, ImportanceMethod, PruningContext
from prunelab.methods.importance.nisp import inf_fs
from prunelab.methods.importance.propagation import final_response

MakeContext = Callable[..., PruningContext]


def scores_of(criterion: NISP, model: nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    method = ImportanceMethod(criterion, Budget(flops=0.5))
    return dict(criterion.score(method.context(model, images[:1], [images])).channels)


def plain_inf_fs(features: np.ndarray, alpha: float) -> np.ndarray:
    """Paths of 1, 2, 3, ... steps, one power of the matrix after the other."""
    n = features.shape[1]
    graph = np.zeros((n, n))
    least, most = features.std(axis=0).min(), features.std(axis=0).max()
    for i in range(n):
        for j in range(n):
            rho = scipy.stats.spearmanr(features[:, i], features[:, j]).statistic
            spread = (max(features[:, i].std(), features[:, j].std()) - least) / (most - least)
            graph[i, j] = alpha * spread + (1 - alpha) * (1 - abs(rho))
    step = 0.99 / np.abs(np.linalg.eigvals(graph)).max() * graph
    total, power = np.zeros((n, n)), np.eye(n)
    for _ in range(4000):
        power = power @ step
        total += power
    return total.sum(axis=1)


def test_inf_fs_sums_over_all_paths() -> None:
    features = np.random.default_rng(0).normal(size=(30, 6)) * np.arange(1, 7)
    features[:, 1] = features[:, 0] + 0.1 * features[:, 1]
    np.testing.assert_allclose(inf_fs(features, 0.5), plain_inf_fs(features, 0.5), rtol=1e-9)


def test_inf_fs_by_hand() -> None:
    """Opposite ranks (Spearman -1), twice the spread, and a constant, as in the authors' code."""
    features = np.array([[1, 8, 3], [2, 6, 3], [3, 4, 3], [4, 2, 3]], dtype=float)
    graph = np.array([[0.5, 1, 0.5], [1, 1, 1], [0.5, 1, 0]]) / 2  # of spread: 0.5, 1 and 0 of the largest
    graph += (
        np.array([[0, 0, 1], [0, 0, 1], [1, 1, 1]]) / 2
    )  # of independence: the constant's is 1 throughout
    ones = np.ones(3)
    inverse = np.linalg.inv(np.eye(3) - 0.99 / np.linalg.eigvalsh(graph).max() * graph)
    found = inf_fs(features, 0.5)
    np.testing.assert_allclose(found, inverse @ ones - ones, rtol=1e-9)
    assert found[0] < found[1] < found[2]  # the constant is important


def test_inf_fs_of_constant_features() -> None:
    features = np.random.default_rng(0).normal(size=(30, 4))
    features[:, 2] = 1.0
    assert np.isfinite(inf_fs(features, 0.5)).all()
    assert inf_fs(np.ones((5, 3)), 1.0).tolist() == [1, 1, 1]


def test_propagation_by_hand() -> None:
    """1x1 convolutions on one pixel: s1 = |W2|^T |W3|^T s, biases and norms aside."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True),
        nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip
    images = torch.randn(40, 2, 1, 1)
    scores = scores_of(NISP(), net, images)
    final = inf_fs(final_response(net.eval(), images).detach().double().numpy(), 0.5)
    weights = [net[i].weight.detach().double().abs().flatten(1).numpy() for i in (6, 3)]
    expected = {"6": final, "3": weights[0].T @ final, "0": weights[1].T @ weights[0].T @ final}
    for name, found in scores.items():
        np.testing.assert_allclose(found, expected[name] / expected[name].mean(), rtol=1e-6)


def test_positions_are_summed_and_pooling_shares() -> None:
    """A 3x3 convolution (padding 1) on 4x4, maximum pooling 2x2, and a linear layer over the four positions."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    images = torch.randn(30, 1, 4, 4)
    scores = scores_of(NISP(), net, images)
    pooled = final_response(net.eval(), images).detach().double()
    final = inf_fs(pooled.numpy(), 0.5).reshape(3, 2, 2)
    before_pool = np.repeat(np.repeat(final, 2, axis=1), 2, axis=2) / 4
    weight = net[2].weight.detach().double().abs().numpy()
    before_conv = np.zeros((2, 6, 6))
    for out, row, column in np.ndindex(3, 4, 4):
        before_conv[:, row : row + 3, column : column + 3] += weight[out] * before_pool[out, row, column]
    inner = before_conv[:, 1:5, 1:5].sum(axis=(1, 2))
    np.testing.assert_allclose(scores["0"], inner / inner.mean(), rtol=1e-6)
    outer = before_pool.sum(axis=(1, 2))
    np.testing.assert_allclose(scores["2"], outer / outer.mean(), rtol=1e-6)


def test_a_shortcut_adds_to_the_importance(
    residual: nn.Module, batches: Any, make_context: MakeContext
) -> None:
    """The stem is read by a branch and by the shortcut: s = s' + |conv1|^T |conv2|^T s', three times over."""
    for block in residual.blocks:
        for convolution in (block.conv1, block.conv2):
            convolution.weight.data[..., 0, :] = convolution.weight.data[..., 2, :] = 0
            convolution.weight.data[..., 0] = convolution.weight.data[..., 2] = 0  # equal to 1x1
    context = make_context(NISP(), residual)
    scores = NISP().score(context).channels
    final = inf_fs(
        final_response(residual, torch.cat([x for x, _ in batches])).detach().double().numpy(), 0.5
    )
    places = [final]
    for block in reversed(residual.blocks):
        first, second = (
            convolution.weight.detach().double().abs().sum(dim=(2, 3)).numpy()
            for convolution in (block.conv1, block.conv2)
        )
        middle = second.T @ places[-1]
        np.testing.assert_allclose(
            scores[f"blocks.{3 - len(places)}.conv1"], middle / middle.mean(), rtol=1e-6
        )
        places.append(places[-1] + first.T @ middle)
    (stage,) = [name for name in scores if not name.endswith("conv1")]
    expected = np.mean([place / place.mean() for place in places], axis=0)
    np.testing.assert_allclose(scores[stage], expected, rtol=1e-6)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor([-2.0]))
        self.shift = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.shift - functional.relu(self.conv(images)) * self.scale
        pooled = hidden.mean((2, 3), keepdim=True)
        hidden *= self.gate(pooled).sigmoid()
        return self.head(functional.adaptive_max_pool2d(hidden, 1).flatten(1))


def test_gates_have_the_importance_of_the_gated_channels() -> None:
    torch.manual_seed(0)
    net, images = Gated().eval(), torch.randn(20, 2, 3, 3)
    scores = scores_of(NISP(), net, images)["conv"]
    final = inf_fs(final_response(net, images).detach().double().numpy(), 0.5)
    through_gate = net.gate.weight.detach().double().abs().flatten(1).numpy().T @ final
    expected = final + through_gate
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)


def test_batch_norm_scale(plain: nn.Module, make_context: MakeContext) -> None:
    plain.norm2.weight.data[0] = 0.0  # channel 0 of conv2 is scaled to zero
    plain.conv2.weight.data[1:] = 0.0  # and the only one that reads conv1
    assert NISP().score(make_context(NISP(), plain)).channels["conv1"].min() > 0
    scaled = NISP(batch_norm_scale=True)
    assert scaled.score(make_context(scaled, plain)).channels["conv1"].max() == 0


def test_an_unread_channel_scores_zero_and_one_with_the_class_highest(
    plain: nn.Module, make_context: MakeContext
) -> None:
    plain.conv2.weight.data[:, 3] = 0.0
    plain.conv2.weight.data[:, 1] = 50.0
    scores = NISP().score(make_context(NISP(), plain)).channels["conv1"]
    assert scores[3] == 0 and scores.argmax() == 1 and scores.mean() == pytest.approx(1)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images).mean((2, 3))
        return self.head(hidden / hidden.norm(dim=1, keepdim=True))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.states, self.head = nn.Conv2d(2, 4, 1), nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.states(self.conv(images).flatten(2).permute(2, 0, 1))[0][-1])


def test_an_operator_that_is_not_linear_is_an_error(residual: nn.Module, make_context: MakeContext) -> None:
    with pytest.raises(UserError, match="cannot propagate importance through Normed"):
        scores_of(NISP(), Normed(), torch.randn(10, 2, 3, 3))
    with pytest.raises(UserError, match=r"through Recurrent: .* It raises ValueError"):
        scores_of(NISP(), Recurrent(), torch.randn(10, 2, 3, 3))
    with pytest.raises(UserError, match="NISP is not defined for level block: take block out of levels"):
        ImportanceMethod(NISP(), Budget(flops=0.5), levels=["stage", "block"])
    with pytest.raises(UserError, match="alpha=2"):
        NISP(alpha=2)


def test_one_pass_over_the_images_and_no_trace(
    residual: nn.Module, batches: Any, make_context: MakeContext
) -> None:
    residual.train()
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    context = make_context(NISP(), residual)
    passes: list[int] = []
    handle = residual.register_forward_hook(lambda module, inputs, outputs: passes.append(len(outputs)))
    NISP().score(context)
    handle.remove()
    assert passes == [8, 8, 4, 3]  # and the linear network once
    assert all(module.training for module in residual.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in residual.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in residual.modules())
