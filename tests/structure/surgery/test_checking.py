"""``check`` on networks that name a precision, return nothing, sort equal scores, or need their whole batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunelab
from prunelab import PruningPlan
from prunelab.errors import UserError

IMAGES = torch.linspace(-1, 1, 8 * 3 * 8 * 8).reshape(8, 3, 8, 8).sin()


def errors(model: nn.Module, images: Any = IMAGES) -> tuple[float, float]:
    """The results of ``check`` for a right pruned network, and for one with a wrong kept weight."""
    model = model.eval()
    graph = prunelab.analyze(model, images)
    assert graph.groups
    plan = graph.plan({group.name: range(1, group.size, 2) for group in graph.groups})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    right = prunelab.check(model, pruned, plan, images)
    with torch.no_grad():
        dict(pruned.named_parameters())[graph.groups[0].producers[0].parameter][0] += 0.5
    return right, prunelab.check(model, pruned, plan, images)


class Body(nn.Module):
    """Two convolutions, with ``between`` and ``after`` on their results."""

    def __init__(
        self, between: Callable[[Tensor], Tensor], after: Callable[[Tensor], Any] = lambda x: x
    ) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.between, self.after = between, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.second(self.between(torch.relu(self.first(x)))))


def embedded(x: Tensor) -> Tensor:
    """A sinusoidal embedding of the positions, in float32 as most programs write it."""
    steps = torch.arange(x.shape[-1], dtype=torch.float32, device=x.device)
    return x + torch.sin(steps * math.pi).to(torch.float32)


def normalised_in_float32(x: Tensor) -> Tensor:
    given = x.dtype
    return F.layer_norm(x.float(), x.shape[-1:]).to(given)


SMOOTHING = torch.eye(6) + 0.1  # neither a parameter nor a buffer


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.type(torch.FloatTensor),
        lambda x: x.type_as(torch.zeros(1, dtype=torch.float32)),
        lambda x: x.softmax(-1, dtype=torch.float32),
        lambda x: (
            x * torch.linspace(0, 1, 6, dtype=torch.float32) + torch.rand(6, dtype=torch.float32).mul(0)
        ),
        lambda x: x.half().float(),
        lambda x: (x.bfloat16() + 1).to(torch.float32),
        lambda x: x.sum(-1, keepdim=True, dtype=torch.float32) + x,
        lambda x: x @ SMOOTHING,
        lambda x: x.mul_(torch.ones(6, dtype=torch.float32)),
        embedded,
        normalised_in_float32,
    ],
    ids=range(13),
)
def test_a_precision_written_into_the_forward_pass(function: Callable[[Tensor], Tensor]) -> None:
    right, wrong = errors(Body(function))
    assert right < 1e-12
    assert wrong > 1e-3


def test_a_precision_at_the_output_is_compared_in_float64() -> None:
    right, wrong = errors(Body(lambda x: x, lambda x: {"logits": x.half(), "scores": x.float().softmax(1)}))
    assert right < 1e-12
    assert wrong > 1e-3


class OnlyFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("this kernel is for float32")
        return x


def test_a_network_that_cannot_run_in_float64_is_compared_in_its_own_precision() -> None:
    right, wrong = errors(Body(OnlyFloat32()))
    assert right < 1e-5
    assert wrong > 1e-3


def test_a_network_that_runs_in_no_precision_raises_its_own_error() -> None:
    model = Body(nn.Identity()).eval()
    graph = prunelab.analyze(model, IMAGES)
    plan = graph.plan({"first": [1, 2]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    pruned.between = nn.Linear(7, 7)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        prunelab.check(model, pruned, plan, IMAGES)


def test_outputs_without_entries_do_not_differ() -> None:
    """A detector that finds nothing."""
    model = Body(nn.Identity(), lambda x: {"boxes": x.flatten(2)[:, :, :0], "scores": x[x > 1e9], "all": x})
    right, wrong = errors(model)
    assert right < 1e-12
    assert 1e-3 < wrong < float("inf")


def test_infinite_outputs_that_agree_do_not_differ() -> None:
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), float("-inf"))
    right, wrong = errors(Body(nn.Identity(), lambda x: x + mask))
    assert right < 1e-12
    assert wrong > 1e-3


def test_a_plan_of_another_network_is_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    plan = prunelab.analyze(network, IMAGES).plan({"0": [0, 2, 5]})
    pruned = prunelab.apply(copy.deepcopy(network), plan)
    with pytest.raises(UserError, match=r"made for another network: it cuts '0\."):
        prunelab.check(nn.Sequential(network), pruned, plan, IMAGES)


def test_nan_is_a_difference() -> None:
    right, _ = errors(Body(nn.Identity(), lambda x: (x - x) / (x - x)))
    assert right == float("inf")


class Merged(nn.Module):
    """A convolution whose weight and bias are merged from three in evaluation mode and stored, as SPAN does."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.spread = nn.Conv2d(2 * channels, 2 * filters, 3)
        self.reduce = nn.Conv2d(2 * filters, filters, 1)
        self.merged = nn.Conv2d(channels, filters, 3)

    def forward(self, x: Tensor) -> Tensor:
        w1, w2, w3 = (each.weight.data.clone() for each in (self.expand, self.spread, self.reduce))
        b1, b2, b3 = (each.bias.data.clone() for each in (self.expand, self.spread, self.reduce))
        kernel = F.conv2d(w1.flip(2, 3).permute(1, 0, 2, 3), w2, padding=2).flip(2, 3).permute(1, 0, 2, 3)
        bias = (w2 * b1.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b2
        self.merged.weight.data = F.conv2d(kernel.permute(1, 0, 2, 3), w3).permute(1, 0, 2, 3)
        self.merged.bias.data = (w3 * bias.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b3
        return self.merged(x)


def test_a_merged_bias_is_masked_too() -> None:
    model = nn.Sequential(Merged(3, 8), nn.ReLU(), Merged(8, 6), nn.ReLU(), Merged(6, 2)).eval()
    model(IMAGES)
    graph = prunelab.analyze(model, IMAGES)
    inner = [group.name for group in graph.groups if group.name.endswith("spread")]
    assert len(inner) == 3
    plan = graph.plan({name: range(0, graph.group(name).size, 2) for name in inner})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-12
    with torch.no_grad():
        pruned[2].spread.bias[1] += 0.5
    assert prunelab.check(model, pruned, plan, IMAGES) > 1e-3


class BiasFromWeights(nn.Module):
    """The biases of the last two convolutions depend on the weights, as in merged layers."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.one(x))
        bias = self.two.bias + self.two.weight.sum((1, 2, 3))
        y = torch.relu(F.conv2d(y, self.two.weight, bias))
        weight = self.three.weight
        return F.conv2d(y, weight, self.three.bias + self.reduce(weight * bias.reshape(1, -1, 1, 1)))


@pytest.mark.parametrize(
    ("reduce", "exact"), [(lambda w: w.sum((1, 2, 3)), True), (lambda w: w.mean((1, 2, 3)), False)]
)
def test_a_bias_that_is_a_sum_over_weights_is_exact(reduce: Callable[[Tensor], Tensor], exact: bool) -> None:
    torch.manual_seed(0)
    model = BiasFromWeights(reduce).eval()
    graph = prunelab.analyze(model, IMAGES)
    assert {group.name: group.exact for group in graph.groups} == {"one": exact, "two": exact}
    plan = graph.plan({"one": range(5), "two": range(3)})
    difference = prunelab.check(model, prunelab.apply(copy.deepcopy(model), plan), plan, IMAGES)
    assert (difference < 1e-12) == exact


class Ranked(nn.Module):
    """Scores of which each comes twice, up to rounding: the sums run over the same channels in another order."""

    def __init__(self, choose: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 64, 3), nn.Conv2d(3, 64, 3)
        self.score, self.again = nn.Linear(64, 1), nn.Linear(64, 1)
        self.choose = choose
        order = torch.randperm(64)
        with torch.no_grad():
            self.other.weight.copy_(self.one.weight[order])
            self.other.bias.copy_(self.one.bias[order])
            self.again.weight.copy_(self.score.weight[:, order])
            self.again.bias.copy_(self.score.bias)
        self.order = order.tolist()

    def forward(self, x: Tensor) -> Any:
        first, second = (torch.relu(conv(x)).flatten(2).transpose(1, 2) for conv in (self.one, self.other))
        scores = torch.stack([self.score(first), self.again(second)], -1).flatten(1)
        return self.choose(scores, torch.arange(scores.shape[1], dtype=torch.float32).sin())

    def plan(self, graph: prunelab.ChannelGraph) -> PruningPlan:
        kept = set(range(0, 64, 3))
        return graph.plan({"one": sorted(kept), "other": [n for n, c in enumerate(self.order) if c in kept]})


@pytest.mark.parametrize(
    "choose",
    [
        lambda scores, boxes: boxes[scores.topk(5).indices],
        lambda scores, boxes: boxes[scores.argsort(descending=True)[:, :5]],
        lambda scores, boxes: [*scores.sort()[:1], boxes[scores.sort(stable=True).indices]],
        lambda scores, boxes: [boxes[scores.argmax(1)], scores.max(1).values],
        lambda scores, boxes: boxes[scores.view(8, -1, 2).max(2, keepdim=True).indices],
        lambda scores, boxes: boxes[scores.view(8, -1, 2).max(2).indices] + scores.view(8, -1, 2).amax(2),
        lambda scores, boxes: (scores[:, ::2] > scores[:, 1::2]).to(scores.dtype),
        lambda scores, boxes: boxes[(scores[:, ::2] - scores[:, 1::2]).sign().long()],
        lambda scores, boxes: torch.where(scores[:, ::2] >= scores[:, 1::2], boxes[::2], boxes[1::2]),
        lambda scores, boxes: (scores[:, ::2] - scores[:, 1::2]).floor(),
        lambda scores, boxes: [boxes[row.kthvalue(3).indices] for row in scores],
        lambda scores, boxes: scores + (1.0 if float(scores[0, 0] - scores[0, 1]) > 0 else -1.0),
    ],
    ids=range(12),
)
def test_equal_scores_in_another_order_are_no_difference(choose: Callable[[Tensor, Tensor], Any]) -> None:
    model = Ranked(choose).eval()
    images = torch.randn(8, 3, 10, 10)
    graph = prunelab.analyze(model, images)
    plan = model.plan(graph)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, images) < 1e-9
    with torch.no_grad():
        pruned.score.weight[0, 0] += 0.5
    assert prunelab.check(model, pruned, plan, images) > 1e-3


class Segments(nn.Module):
    """A temporal shift: the batch holds clips of ``frames`` images."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        clips = x.view(-1, self.frames, *x.shape[1:])
        shifted = torch.cat([clips[:, 1:], clips[:, -1:]], 1).flatten(0, 1)
        features = torch.relu(self.second(shifted)).mean((2, 3))
        return self.head(features.view(-1, self.frames, features.shape[1]).mean(1))


class Pairs(Segments):
    """Contrastive pairs: the similarity of every two adjacent images."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))
        left, right = out.view(-1, 2, 2).unbind(1)
        return (left * right).sum(1)


@pytest.mark.parametrize(
    "make", [lambda: Segments(4), lambda: Segments(8), lambda: Pairs(2)], ids=["4", "8", "pairs"]
)
def test_a_network_that_needs_its_whole_batch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)  # with some weights no image activates the channels that are exchanged
    right, wrong = errors(make())
    assert right < 1e-12
    assert wrong > 1e-3


def test_an_exported_program_with_a_fixed_batch() -> None:
    exported = torch.export.export(Body(nn.Identity()).eval(), (IMAGES,)).module()
    graph = prunelab.analyze(exported, IMAGES)
    plan = graph.plan({group.name: range(group.size // 2) for group in graph.groups})
    pruned = prunelab.apply(copy.deepcopy(exported), plan)
    assert prunelab.check(exported, pruned, plan, IMAGES) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_written_in_a_pass_are_restored(dtype: torch.dtype) -> None:
    class Counting(Body):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            self.seen += 1
            x *= 2
            return super().forward(x)

    model = Counting().to(dtype).eval()
    images = IMAGES.to(dtype)
    before = images.clone()
    plan = prunelab.analyze(model, images).plan({"first": [0, 1]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, images) < 1e-12
    assert model.seen == pruned.seen == 0
    assert torch.equal(images, before)


@pytest.mark.parametrize("context", [torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)])
def test_modes_around_the_calls_change_nothing(context: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    full = copy.deepcopy(network)
    with context:
        plan = prunelab.analyze(network, IMAGES).plan({"0": [0, 2, 5]})
        pruned = prunelab.apply(network, plan)
        assert prunelab.check(full, pruned, plan, IMAGES) < 1e-12
    pruned(IMAGES).sum().backward()
    assert pruned[0].weight.grad.shape == (3, 3, 3, 3)
