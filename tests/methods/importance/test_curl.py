"""CURL, compared with one masked pass per channel, and on a network with the class in one channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import CURL, Budget, ImportanceMethod, PruningContext
from prunelab.methods.importance.prefix import record_schedule
from prunelab.structure import masked_forward

MakeContext = Callable[..., PruningContext]


def plain_curl(model: nn.Module, graph: Any, images: Tensor, kept: Any, dropped: Any = ()) -> float:
    """KL(masked || original) with the masked network of the structure engine, which does not use hook points."""
    masked = masked_forward(model, graph.plan(kept, dropped), images).softmax(dim=1)
    original = masked_forward(model, graph.plan(), images).softmax(dim=1)
    return float((masked * (masked / original).log()).sum(dim=1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_scores_equal_one_masked_pass_per_channel(
    name: str, batches: Any, make_context: MakeContext, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    criterion = CURL(copies=7)
    context = make_context(criterion, model, levels=["filter", "stage", "block"])
    scores = criterion.score(context)
    images = torch.cat([images for images, _ in batches])
    for group in context.groups:
        expected = [
            plain_curl(model, context.graph, images, {group.name: sorted({*range(group.size)} - {channel})})
            for channel in range(group.size)
        ]
        np.testing.assert_allclose(scores.channels[group.name], expected, rtol=1e-3, atol=1e-7)
    for block in context.blocks:
        expected_block = plain_curl(model, context.graph, images, {}, [block.name])
        assert scores.blocks[block.name] == pytest.approx(expected_block, rel=1e-3)


def test_modules_done_before_the_tap_are_not_run_again(
    residual: nn.Module, batches: Any, make_context: MakeContext
) -> None:
    context = make_context(CURL(), residual)
    hook_points = {group.name: [found.hook_point for found in group.hook_points] for group in context.groups}
    schedule = record_schedule(
        residual, batches[0][0], [hook_point for found in hook_points.values() for hook_point in found]
    )
    prefix = schedule.before(hook_points["blocks.2.conv1"])
    assert {*prefix.read, *prefix.unread} == {
        "stem", "norm", "blocks.0", "blocks.1", "blocks.2.conv1", "blocks.2.norm1"
    }  # fmt: skip
    # The ReLU reads norm1 and the addition the block before; the stem's ReLU runs although its output is not read.
    assert prefix.read == ("blocks.1", "blocks.2.norm1", "norm")
    (stage,) = [found for name, found in hook_points.items() if not name.endswith("conv1")]
    assert schedule.before(stage).read == ("norm",)


def test_a_channel_that_carries_the_class(plain: nn.Module, make_context: MakeContext) -> None:
    plain.head.weight.data[:, 1:] = 0.0  # the classes depend only on channel 0 of conv2
    plain.conv2.weight.data[0, [0, 1, 3]] = 0.0  # which reads only channel 2 of conv1
    scores = CURL().score(make_context(CURL(), plain)).channels
    assert scores["conv1"][2] > 0 and scores["conv2"][0] > 0
    assert np.abs(scores["conv1"][[0, 1, 3]]).max() < 1e-12 and np.abs(scores["conv2"][1:]).max() < 1e-12


def test_dead_channels_cost_no_pass(plain: nn.Module, make_context: MakeContext) -> None:
    for norm in (plain.norm1, plain.norm2):
        norm.weight.data[:], norm.bias.data[:] = 0.0, -1.0
    context = make_context(CURL(), plain)
    passes: list[int] = []
    handle = plain.conv2.register_forward_hook(lambda module, inputs, outputs: passes.append(len(outputs)))
    scores = CURL().score(context).channels
    handle.remove()
    assert not scores["conv1"].any() and not scores["conv2"].any()
    assert passes == [2, 8, 8, 4]  # the first records the order, the others are the originals


class Functional(nn.Module):
    """Without submodules: nothing can be skipped, and the last tensor is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(4, 2, 3, 3, generator=generator))
        self.second = nn.Parameter(torch.randn(5, 4, generator=generator))
        self.third = nn.Parameter(torch.randn(3, 5, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.conv2d(images, self.first).relu_().amax(dim=(2, 3))
        return functional.linear(functional.linear(hidden, self.second).tanh_(), self.third)


def test_functional_networks_and_parts_of_batches(batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Functional()
    method = ImportanceMethod(CURL(), Budget(flops=0.5))
    context = method.context(model, batches[0][0][:1], batches)
    scores = CURL().score(context).channels
    images = torch.cat([images for images, _ in batches])
    for group in context.groups:
        expected = [
            plain_curl(model, context.graph, images, {group.name: sorted({*range(group.size)} - {channel})})
            for channel in range(group.size)
        ]
        np.testing.assert_allclose(scores[group.name], expected, rtol=1e-3, atol=1e-7)


def test_memory_is_bounded_by_parts_of_a_batch(
    residual: nn.Module, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(CURL(), residual)
    at_once = CURL().score(context).channels
    monkeypatch.setattr("prunelab.methods.importance.curl._CACHED_VALUES", 3000)  # three images
    in_parts = CURL().score(context).channels
    for name, scores in at_once.items():
        np.testing.assert_allclose(in_parts[name], scores, rtol=1e-4)


def test_the_proxy_set_is_smaller_than_the_calibration_set(
    plain: nn.Module, batches: Any, make_context: MakeContext
) -> None:
    few = CURL(proxy_images=8).score(make_context(CURL(), plain)).channels
    first = ImportanceMethod(CURL(), Budget(flops=0.5)).context(plain, batches[0][0][:1], batches[:1])
    np.testing.assert_allclose(few["conv1"], CURL().score(first).channels["conv1"], rtol=1e-6)


def test_no_trace_is_left(residual: nn.Module, make_context: MakeContext) -> None:
    residual.train()
    own = residual.stem.forward
    residual.stem.forward = own  # set on the instance, as by wrappers
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    CURL().score(make_context(CURL(), residual))
    assert residual.stem.__dict__.pop("forward") == own
    assert not any("forward" in module.__dict__ for module in residual.modules())
    assert all(module.training for module in residual.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in residual.modules())


def test_an_error_without_class_scores(plain: nn.Module, make_context: MakeContext) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(images)}

    with pytest.raises(
        UserError, match=r"class scores \(N, classes\) of a network, but this network returns dict"
    ):
        CURL().score(make_context(CURL(), Wrapped()))
    with pytest.raises(UserError, match="copies=0"):
        CURL(copies=0)
