"""Applying a plan: removed parts are gone, kept parts are unchanged, and mistakes change nothing."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab import PruningPlan
from prunelab.errors import UserError
from prunelab.models import build

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()


def small() -> nn.Sequential:
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def test_kept_weights_are_bit_identical() -> None:
    model = small()
    before = copy.deepcopy(model)
    plan = prunelab.analyze(model, IMAGES).plan({"0": [1, 4], "3": [0, 3]})
    assert prunelab.apply(model, plan) is model
    assert torch.equal(model[0].weight, before[0].weight[[1, 4]])
    assert torch.equal(model[0].bias, before[0].bias[[1, 4]])
    assert torch.equal(model[1].running_var, before[1].running_var[[1, 4]])
    assert torch.equal(model[3].weight, before[3].weight[[0, 3]][:, [1, 4]])
    assert torch.equal(model[7].weight, before[7].weight[:, [0, 1, 2, 3, 12, 13, 14, 15]])
    assert torch.equal(model[7].bias, before[7].bias)
    assert model[1].num_batches_tracked == before[1].num_batches_tracked


def test_attributes_of_layers_are_the_new_widths() -> None:
    model = small()
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [1, 4], "3": [0, 2, 3]}))
    assert (model[0].in_channels, model[0].out_channels) == (3, 2)
    assert (model[3].in_channels, model[3].out_channels) == (2, 3)
    assert model[1].num_features == 2
    assert (model[7].in_features, model[7].out_features) == (12, 5)


@pytest.mark.parametrize(
    "name", ["cifar_resnet20", "cifar_mobilenetv2", "regnety_002", "test_efficientnet", "test_nfnet"]
)
def test_every_layer_could_have_been_built_as_it_is(
    random_plan: Callable[..., PruningPlan], name: str
) -> None:
    """A layer of the same class built from the attributes alone has tensors of the same shapes."""
    model = build(name, 10)
    prunelab.apply(model, random_plan(prunelab.analyze(model, IMAGES), seed=3))
    checked = 0
    for module in model.modules():
        rebuilt = fresh(module)
        if rebuilt is not None:
            own = module.state_dict()
            assert all(own[key].shape == tensor.shape for key, tensor in rebuilt.state_dict().items())
            checked += 1
    assert checked > 10


def fresh(module: nn.Module) -> nn.Module | None:
    """A layer of PyTorch with the widths in the attributes of ``module``."""
    if isinstance(module, nn.Conv2d):
        widths = (module.in_channels, module.out_channels)
        bias = module.bias is not None
        return nn.Conv2d(*widths, module.kernel_size, groups=module.groups, bias=bias)
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features, module.out_features, module.bias is not None)
    return nn.BatchNorm2d(module.num_features) if isinstance(module, nn.BatchNorm2d) else None


def test_pruned_networks_train_copy_pickle_and_save(random_plan: Callable[..., PruningPlan]) -> None:
    model = build("cifar_resnet20", 10)
    prunelab.apply(model, random_plan(prunelab.analyze(model, IMAGES), seed=0))
    for net in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        net.train()
        net(IMAGES).logsumexp(1).sum().backward()
        assert all(parameter.grad.shape == parameter.shape for parameter in net.parameters())
        assert all(parameter.is_contiguous() for parameter in net.parameters())


def test_parameters_stay_the_same_objects_with_their_flags() -> None:
    model = small()
    model[0].weight.requires_grad_(False)
    parameters = dict(model.named_parameters())
    model(IMAGES).sum().backward()
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [1, 4]}))
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad
    assert model[3].weight.grad is None  # a gradient of the old shape would be wrong


def test_removed_weights_are_not_kept_in_memory() -> None:
    model = small()
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [1, 4], "3": [0]}))
    for tensor in model.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_channels_last_is_preserved(random_plan: Callable[..., PruningPlan]) -> None:
    plain = build("cifar_resnet20", 10, shortcut="B").eval()
    model = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    plan = random_plan(prunelab.analyze(plain, IMAGES), seed=0)
    prunelab.apply(model, plan)
    prunelab.apply(plain, plan)
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert all(
        torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True)
    )


def test_tied_layers_follow_without_a_slice_of_their_own() -> None:
    """The second convolution shares its weight and has no bias: its own attributes must change as well."""
    first, second = (nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(2))
    second.weight = first.weight
    model = nn.Sequential(nn.Conv2d(3, 6, 3), first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(6, 2, 3))
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [0, 2, 4]}))
    assert second.weight is first.weight
    assert (second.in_channels, second.out_channels) == (first.in_channels, first.out_channels) == (3, 3)
    assert model(IMAGES).shape == (2, 2, 28, 28)


class Block(nn.Module):
    """y = relu(f(x) + x)."""

    def __init__(self, inner: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.second = inner, nn.Conv2d(inner.out_channels, inner.in_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


@pytest.mark.parametrize("dropped", [["1"], ["2"], ["1", "2"], []])
def test_a_layer_shared_with_a_dropped_block_is_cut_for_the_kept_one(
    prune: Callable[..., Any], dropped: list[str]
) -> None:
    shared = nn.Conv2d(8, 6, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(shared), Block(shared), nn.Conv2d(8, 2, 3))
    assert prune(model, IMAGES, kept={"1.first": [0, 2, 3], "0": range(5)}, dropped=dropped).error < 1e-9


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(IMAGES).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True), ["momentum_buffer"]),
        (lambda p: torch.optim.AdamW(p, 1e-3), ["exp_avg", "exp_avg_sq"]),
        (lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True), ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
        (lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9), ["square_avg", "momentum_buffer"]),
    ],
    ids=["sgd", "adamw", "amsgrad", "rmsprop"],
)
def test_the_optimizers_state_follows(make: Callable[..., torch.optim.Optimizer], keys: list[str]) -> None:
    model = small()
    optimizer = make(model.parameters())
    steps(model, optimizer, 2)
    before = {
        name: {key: optimizer.state[parameter][key].clone() for key in keys}
        for name, parameter in model.named_parameters()
    }
    plan = prunelab.analyze(model, IMAGES).plan({"0": [1, 4], "3": [0, 3]})
    prunelab.apply(model, plan, optimizer)
    after = {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}
    for key in keys:
        assert torch.equal(after["0.weight"][key], before["0.weight"][key][[1, 4]])
        assert torch.equal(after["3.weight"][key], before["3.weight"][key][[0, 3]][:, [1, 4]])
        assert torch.equal(after["1.bias"][key], before["1.bias"][key][[1, 4]])
        assert torch.equal(after["7.bias"][key], before["7.bias"][key])
    steps(model, optimizer, 2)


def test_training_on_is_the_same_with_a_followed_optimizer_as_with_a_masked_one() -> None:
    """Without weight decay the kept weights of a masked network change exactly like those of the pruned network."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 900, 5)).double()
    full, images = copy.deepcopy(model), IMAGES.double()
    plan = prunelab.analyze(model, images).plan({"0": [1, 4]})
    gone = torch.tensor([[channel not in (1, 4)] * 900 for channel in range(6)]).flatten()

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, masked: bool) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            net(images).square().sum().backward()
            if masked:
                net[3].weight.grad[:, gone] = 0
            optimizer.step()

    optimizers = [torch.optim.Adam(net.parameters(), 1e-3) for net in (model, full)]
    for net, optimizer in zip((model, full), optimizers, strict=True):
        train(net, optimizer, masked=False)
    prunelab.apply(model, plan, optimizers[0])
    full[3].weight.data[:, gone] = 0
    for key in ("exp_avg", "exp_avg_sq"):
        optimizers[1].state[full[3].weight][key][:, gone] = 0
    train(model, optimizers[0], masked=False)
    train(full, optimizers[1], masked=True)
    torch.testing.assert_close(model[0].weight, full[0].weight[[1, 4]], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[3].weight, full[3].weight[:, ~gone], rtol=1e-12, atol=1e-12)


def test_the_network_stores_its_plan() -> None:
    model = small()
    first = prunelab.analyze(model, IMAGES).plan({"0": [1, 4, 5]})
    prunelab.apply(model, first)
    assert model.prunelab_plan == first
    second = prunelab.analyze(model, IMAGES).plan({"0": [2]})
    prunelab.apply(model, second)
    assert model.prunelab_plan.kept["0"] == (5,)
    assert copy.deepcopy(model).prunelab_plan == first.compose(second)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything that surgery could change."""
    return {
        "tensors": {name: (tensor.data_ptr(), tensor.shape) for name, tensor in model.state_dict().items()},
        "modules": [(name, id(module), repr(module)) for name, module in model.named_modules()],
        "plan": getattr(model, "prunelab_plan", None),
    }


def edited(plan: PruningPlan, **changes: Any) -> PruningPlan:
    raw = json.loads(plan.to_json())
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) else [*raw[key], *value]
    return PruningPlan.from_json(json.dumps(raw))


def test_a_plan_of_another_network_changes_nothing() -> None:
    plans = {
        name: prunelab.analyze(model, IMAGES)
        for name, model in {"small": small(), "resnet": build("cifar_resnet20", 10)}.items()
    }
    wider = nn.Sequential(
        *list(small())[:3], nn.Conv2d(6, 5, 3), *list(small())[4:6], nn.Flatten(), nn.Linear(20, 5)
    )
    resnet = plans["resnet"]
    for model, plan in (
        (build("cifar_resnet20", 10), plans["small"].plan({"0": [1]})),
        (small(), resnet.plan({"layer1": [1]})),
        (small(), resnet.plan({}, ["layer1.1"])),
        (wider, plans["small"].plan({"0": [1, 2], "3": [0]})),
        (
            build("cifar_resnet20", 10, shortcut="B"),
            resnet.plan({"layer1": [1], "layer2": [3]}, ["layer1.1"]),
        ),
    ):
        before = fingerprint(model)
        with pytest.raises(UserError, match="another network"):
            prunelab.apply(model, plan)
        assert fingerprint(model) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"values": {"layer2.0.shortcut.source": [0, 1, 2]}},
        {"values": {"layer2.0.shortcut.source": [99] * 32}},
        {"values": {"layer2.0.conv1.weight": [0, 1]}},
        {"values": {"nowhere": [0]}},
        {"attributes": {"layer2.0.conv1": {"nothing_of_the_kind": 3}}},
        {"attributes": {"layer2.0.conv1": {"training": 3}}},
        {"attributes": {"layer2.0.conv1": {"forward": 3}}},
        {"attributes": {"nowhere": {"groups": 3}}},
        {"dropped_blocks": ["nowhere"], "replaced": {"nowhere": "identity"}},
        {"dropped_blocks": [""], "replaced": {"": "identity"}},
    ],
    ids=str,
)
def test_a_plan_edited_by_hand_changes_nothing(changes: dict[str, Any]) -> None:
    model = build("cifar_resnet20", 10)
    plan = prunelab.analyze(model, IMAGES).plan({"layer1.0.conv1": [0, 1]})
    before = fingerprint(model)
    with pytest.raises(UserError, match="plan"):
        prunelab.apply(model, edited(plan, **changes))
    assert fingerprint(model) == before


def test_applying_a_plan_twice_is_an_error() -> None:
    model = small()
    plan = prunelab.analyze(model, IMAGES).plan({"0": [1, 4]})
    prunelab.apply(model, plan)
    before = fingerprint(model)
    with pytest.raises(UserError, match="expects 6 entries"):
        prunelab.apply(model, plan)
    assert fingerprint(model) == before


def test_a_network_without_weights_can_be_pruned() -> None:
    with torch.device("meta"):
        model = small()
        prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [1, 4]}))
    assert model[0].weight.shape == (2, 3, 3, 3)
    assert model[0].weight.is_meta
