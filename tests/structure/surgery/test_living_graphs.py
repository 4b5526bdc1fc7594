"""Train, prune, train in one script: autograd graphs that were recorded before ``apply`` may still be alive."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

import prunelab
from prunelab.errors import UserError
from prunelab.structure import candidate

IMAGES = torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8).sin()
KEPT = {"0": [1, 4], "3": [0, 3]}
Optimizer = torch.optim.Optimizer


def small() -> nn.Sequential:
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def normalised() -> nn.Sequential:
    model = small()
    weight_norm(model[0])
    weight_norm(model[3])
    return model


def step(model: nn.Module, optimizer: Optimizer) -> Tensor:
    """One training step -> the loss, with its graph."""
    optimizer.zero_grad()
    loss = model(IMAGES).logsumexp(1).mean()
    loss.backward()
    optimizer.step()
    return loss


def a_loss(model: nn.Module, optimizer: Optimizer) -> Any:
    return step(model, optimizer)


def a_sum_of_losses(model: nn.Module, optimizer: Optimizer) -> Any:
    return sum(step(model, optimizer) for _ in range(3))


def an_output(model: nn.Module, optimizer: Optimizer) -> Any:
    step(model, optimizer)
    return model(IMAGES)


def features_of_a_hook(model: nn.Module, optimizer: Optimizer) -> Any:
    features: list[Tensor] = []
    handle = model[3].register_forward_hook(lambda module, args, out: features.append(out))
    step(model, optimizer)
    handle.remove()
    return features


def a_gradient_with_a_graph(model: nn.Module, optimizer: Optimizer) -> Any:
    loss = step(model, optimizer)
    return loss, torch.autograd.grad(model(IMAGES).square().sum(), model[7].weight, create_graph=True)


@pytest.mark.parametrize(
    "keep", [a_loss, a_sum_of_losses, an_output, features_of_a_hook, a_gradient_with_a_graph]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
    ids=["sgd", "momentum", "adamw"],
)
@pytest.mark.parametrize("build", [small, normalised])
def test_training_continues_as_without_an_old_graph(
    keep: Callable[[nn.Module, Optimizer], Any],
    make: Callable[..., Optimizer],
    build: Callable[[], nn.Module],
) -> None:
    model = build()
    optimizer = make(model.parameters())
    kept = keep(model, optimizer)
    twins = copy.deepcopy((model, optimizer))  # a copy has no graph
    structure = prunelab.analyze(model, IMAGES)
    plan = structure.plan(dict(zip([group.name for group in structure.groups], KEPT.values(), strict=True)))
    for pruned, followed in ((model, optimizer), twins):
        prunelab.apply(pruned, plan, followed)
        for _ in range(3):
            step(pruned, followed)
    assert kept is not None
    for own, other in zip(model.parameters(), twins[0].parameters(), strict=True):
        assert torch.equal(own, other)
        assert own.grad is not None


def test_an_optimizer_without_state_need_not_be_passed() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = step(model, optimizer)
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan(KEPT))
    before = model[3].weight.clone()
    step(model, optimizer)
    assert loss.requires_grad
    assert not torch.equal(model[3].weight, before)


def test_a_second_round_with_all_graphs_alive() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = [step(model, optimizer)]
    for kept in ([0, 1, 2, 4], [1, 3], [0]):
        prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": kept}), optimizer)
        losses.append(step(model, optimizer))
    assert model[0].weight.shape == (1, 3, 3, 3)
    assert len({loss.item() for loss in losses}) == 4


def test_a_loss_that_is_an_attribute_of_a_lightning_module() -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = small()

        def training_step(self, batch: Any, number: int) -> Tensor:
            images, labels = batch
            self.features = self.network[:3](images)
            self.last = nn.functional.cross_entropy(self.network(images), labels)
            return self.last

        def configure_optimizers(self) -> Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    def fit() -> None:
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.fit(module, DataLoader(TensorDataset(IMAGES, torch.arange(4)), batch_size=4))

    module = Module()
    fit()
    plan = prunelab.analyze(module.network, IMAGES).plan(KEPT)
    prunelab.apply(module.network, plan)
    before = module.network[3].weight.clone()
    fit()
    assert module.network[3].weight.shape == before.shape == (2, 2, 3, 3)
    assert not torch.equal(module.network[3].weight, before)


def test_a_candidate_of_a_network_that_keeps_tensors_of_its_last_pass() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = small()
            self.seen: list[Any] = []

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.layers(x)
            self.seen.append({"out": self.last.sum()})
            return self.last

    model = Keeping()
    out = model(IMAGES)
    plan = prunelab.analyze(model, IMAGES).plan({"layers.0": [1, 4]})
    for share in (False, True):
        pruned = candidate(model, plan, share)
        assert torch.equal(pruned.last, out)
        assert pruned.last.grad_fn is None
        assert pruned.last is not model.last
        assert torch.equal(pruned.seen[0]["out"], out.sum())
        assert pruned(IMAGES).shape == (4, 5)
    assert len(model.seen) == 1
    assert model.last is out


def test_hooks_of_a_parameter_follow() -> None:
    model = small()
    shapes: list[tuple[int, ...]] = []
    model[3].weight.register_hook(lambda gradient: shapes.append(tuple(gradient.shape)))
    model[3].weight.register_post_accumulate_grad_hook(lambda p: shapes.append(tuple(p.grad.shape)))
    loss = model(IMAGES).sum()
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan(KEPT))
    model(IMAGES).sum().backward()
    assert shapes == [(2, 2, 3, 3)] * 2
    assert loss.requires_grad


def test_backward_through_an_old_graph_is_an_error_with_a_remedy() -> None:
    model = small()
    loss = model(IMAGES).sum()
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan(KEPT))
    with pytest.raises(UserError, match=r"before prunelab\.apply"):
        (loss + model(IMAGES).sum()).backward(retain_graph=True)
    with pytest.raises(UserError, match=r"before prunelab\.apply"):
        loss.backward()


@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.Adafactor(p, 0.1), lambda p: torch.optim.LBFGS(p, history_size=2)],
    ids=["adafactor", "lbfgs"],
)
def test_a_state_that_cannot_be_cut_changes_nothing(make: Callable[..., Optimizer]) -> None:
    model = small()
    optimizer = make(model.parameters())

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = model(IMAGES).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    before = copy.deepcopy(model.state_dict())
    plan = prunelab.analyze(model, IMAGES).plan(KEPT)
    with pytest.raises(UserError, match="optimizer"):
        prunelab.apply(model, plan, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    prunelab.apply(model, plan)
    make(model.parameters()).step(loss)


STATEFUL: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "Adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_the_next_step_of_an_optimizer_that_was_not_cut_is_an_error(name: str) -> None:
    model = small()
    optimizer = STATEFUL[name](model.parameters())
    step(model, optimizer)
    structure = prunelab.analyze(model, IMAGES)
    group = structure.groups[0]
    prunelab.apply(model, structure.plan(kept={group.name: [0, 2]}))
    for _ in range(2):  # also the second time
        with pytest.raises(UserError, match=rf"{name} took steps before prunelab\.apply.*optimizer\)"):
            step(model, optimizer)
    step(model, STATEFUL[name](model.parameters()))  # a new one


def test_an_old_optimizer_without_state_continues_after_pruning() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    structure = prunelab.analyze(model, IMAGES)
    prunelab.apply(model, structure.plan(kept={structure.groups[0].name: [0, 2]}))
    before = model[0].weight.detach().clone()
    step(model, optimizer)
    assert not torch.equal(before, model[0].weight)


def test_several_pruned_networks_are_trained_side_by_side() -> None:
    models = [small() for _ in range(3)]
    for model in models:
        structure = prunelab.analyze(model, IMAGES)
        prunelab.apply(model, structure.plan(kept={structure.groups[0].name: [0, 2]}))
    for (
        model
    ) in models:  # each first step ends the check of its own network while the other checks are in place
        step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
