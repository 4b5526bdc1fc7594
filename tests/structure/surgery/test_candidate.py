"""A candidate equals the network that ``apply`` makes of a deep copy, and does not change the full one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.models import build
from prunelab.structure import PruningPlan, analyze, apply
from prunelab.structure.surgery.candidate import candidate

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _half(model: nn.Module, dropped: tuple[str, ...] = ()) -> PruningPlan:
    graph = analyze(model, IMAGES[:1])
    return graph.plan({group.name: np.arange(0, group.size, 2) for group in graph.groups}, dropped)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("name", "settings", "dropped"),
    [
        ("cifar_resnet20", {"shortcut": "A"}, ("layer1.1",)),  # index buffers, a dropped block
        ("cifar_mobilenetv2", {}, ()),  # depthwise convolutions
        ("cifar_vgg16_bn", {}, ()),
    ],
)
def test_it_is_the_network_that_apply_makes(
    name: str,
    settings: dict[str, str],
    dropped: tuple[str, ...],
    share: bool,
    lively: Callable[..., nn.Module],
) -> None:
    model = lively(build(name, num_classes=10, **settings), IMAGES)
    plan = _half(model, dropped)
    made, expected = candidate(model, plan, share), apply(copy.deepcopy(model), plan)
    assert str(made) == str(expected)
    assert list(made.state_dict()) == list(expected.state_dict())
    assert torch.equal(made.eval()(IMAGES), expected.eval()(IMAGES))


def test_nothing_is_shared_with_the_full_network(lively: Callable[..., nn.Module]) -> None:
    model = lively(build("cifar_resnet20", num_classes=10), IMAGES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = candidate(model, _half(model)).train()
    pruned(IMAGES)  # running statistics change
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    pruned.register_forward_hook(lambda *given: None)
    pruned.layer1[0].conv1.kernel_size = (1, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training and not model._forward_hooks and model.layer1[0].conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("share", [False, True])
def test_shared_modules_and_weights_remain_shared(share: bool) -> None:
    twice = nn.Linear(6, 6)
    tied = nn.Linear(6, 6)
    tied.weight = twice.weight
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), twice, nn.ReLU(), twice, nn.ReLU(), tied, nn.Linear(6, 3)
    )
    images = torch.randn(2, 4)
    graph = analyze(model, images)
    plan = graph.plan({group.name: range(3) for group in graph.groups})
    pruned = candidate(model, plan, share)
    assert pruned[2] is pruned[4] and pruned[6].weight is pruned[2].weight
    assert torch.equal(pruned(images), apply(copy.deepcopy(model), plan)(images))


def test_uncut_and_contiguous_tensors_are_views_of_the_full_network() -> None:
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
    ]
    model = nn.Sequential(*layers)
    pruned = candidate(model, analyze(model, IMAGES).plan({"0": [2, 3, 4], "3": [0, 2]}), share=True)
    assert pruned[0].weight.data_ptr() == model[0].weight[2].data_ptr()
    assert pruned[1].bias.data_ptr() == model[1].bias[2].data_ptr()
    assert pruned[5].bias.data_ptr() == model[5].bias.data_ptr()  # whole
    memory = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    copies = [pruned[3].weight, pruned[3].bias, pruned[5].weight, *pruned.buffers()]  # scattered, or a buffer
    assert not any(tensor.untyped_storage().data_ptr() in memory for tensor in copies)
    assert all(parameter.is_contiguous() for parameter in pruned.parameters())


def test_the_full_network_is_unchanged_when_statistics_of_a_sharing_candidate_are_measured(
    lively: Callable[..., nn.Module],
) -> None:
    model = lively(build("cifar_resnet20", num_classes=10), IMAGES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = candidate(model, _half(model), share=True)
    old = pruned.layer1[0].bn1.running_mean.clone()
    adapt_batch_norm(pruned, [IMAGES])
    assert not torch.equal(old, pruned.layer1[0].bn1.running_mean)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_sharing_candidate_cannot_be_trained(lively: Callable[..., nn.Module]) -> None:
    model = lively(build("cifar_resnet20", num_classes=10), IMAGES)
    before = copy.deepcopy(model.state_dict())
    pruned = candidate(model, _half(model), share=True)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1, weight_decay=0.1)
    with pytest.raises(RuntimeError, match="does not require grad"):
        pruned(IMAGES).sum().backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Written(TorchDispatchMode):
    """Counts the bytes of floating-point memory that operators write anew."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {each.untyped_storage().data_ptr() for each in tree_leaves(args) if isinstance(each, Tensor)}
        for each in tree_leaves(out):
            if each.is_floating_point() and each.untyped_storage().data_ptr() not in given:
                self.bytes += each.nbytes
        return out


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor.is_floating_point())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_kept_weight_is_copied_once(layout: torch.memory_format) -> None:
    model = build("cifar_mobilenetv2", num_classes=10)
    plan = _half(model)
    model = model.to(memory_format=layout)
    cut = {each.tensor for each in plan.cuts}
    with Written() as anew:
        made = candidate(model, plan)
    assert anew.bytes == _bytes(made.state_dict().values())
    with Written() as shared:
        candidate(model, plan, share=True)
    assert shared.bytes == _bytes(
        [*made.buffers(), *(parameter for name, parameter in made.named_parameters() if name in cut)]
    )
    with Written() as applied:
        apply(model, plan)
    assert applied.bytes == _bytes(tensor for name, tensor in model.state_dict().items() if name in cut)


def test_a_plan_for_another_network_is_an_error() -> None:
    plan = _half(build("cifar_vgg16_bn", num_classes=10))
    with pytest.raises(UserError, match="made for another network"):
        candidate(build("cifar_resnet20", num_classes=10), plan)
