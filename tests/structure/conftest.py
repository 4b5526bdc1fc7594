"""Common parts of the tests of the structure engine: random plans, independent counters and an independent mask."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import FlopCounterMode

import prunelab
from prunelab import ChannelGraph, PruningPlan

TOLERANCE = 1e-9  # everything is compared in float64


@dataclass(frozen=True)
class Pruning:
    """One network, pruned at random; ``error`` is the largest relative difference masked - pruned (float64)."""

    original: nn.Module
    model: nn.Module
    graph: ChannelGraph
    plan: PruningPlan
    error: float

    @property
    def groups(self) -> dict[str, tuple[str, int]]:
        """Name -> (level, size) of the prunable groups."""
        return {group.name: (group.level, group.size) for group in self.graph.groups}

    @property
    def frozen(self) -> dict[str, str | None]:
        """Name -> reason, without its place, of the frozen groups other than the network's outputs."""
        frozen = {group.name: without_place(group.frozen) for group in self.graph.frozen}
        return {name: reason for name, reason in frozen.items() if reason != "output of the network"}

    @property
    def inexact(self) -> dict[str, str | None]:
        """Name -> reason, without its place, of the inexact groups."""
        return {group.name: without_place(group.inexact) for group in self.graph.groups if not group.exact}

    def slices(self, name: str) -> set[tuple[str, int, str, int]]:
        """(parameter, dimension, role, positions for each channel) of a group."""
        found = self.graph.group(name).slices
        return {(each.parameter, each.dim, each.role, each.index.shape[1]) for each in found}


def without_place(reason: str | None) -> str | None:
    """A reason without the module that it names, and without what would have to hold."""
    return None if reason is None else re.sub(r": [^:]* would (have to|need) .*| \(in [^)]*\)", "", reason)


class Network(nn.Module):
    """``Network(forward, name=module, ...)``: a network whose forward pass is ``forward(self, *inputs)``."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.function(self, *inputs, **named)


@pytest.fixture(scope="session")
def network() -> type[Network]:
    """Creates a network from a function and its layers."""
    return Network


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """One thread (small tensors) and the same weights in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Gives BatchNorm random statistics and affine parameters, so that a zeroed channel changes the output."""
    return _randomise


def _randomise(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def lively() -> Callable[[nn.Module, Tensor], nn.Module]:
    """``lively(model, images)``: random affine parameters, and the BatchNorm statistics of these images, so that the
    signal reaches the output of a deep untrained network and a wrong channel at its start can be seen at its end."""
    return _lively


def _lively(model: nn.Module, images: Tensor) -> nn.Module:
    _randomise(model)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


@pytest.fixture(scope="session")
def random_plan() -> Callable[..., PruningPlan]:
    """``random_plan(graph, seed, keep=(0.4, 0.9), drop=0.3)``: a share of every group, some of the blocks."""
    return _random_plan


def _random_plan(
    graph: ChannelGraph,
    seed: int = 0,
    keep: tuple[float, float] = (0.4, 0.9),
    drop: float = 0.3,
    only: Collection[str] | None = None,
) -> PruningPlan:
    rng = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        if only is None or group.name in only:
            width = max(1, round(group.size * rng.uniform(*keep)))
            kept[group.name] = rng.choice(group.size, width, replace=False).tolist()
    return graph.plan(kept, [block.name for block in graph.blocks if rng.random() < drop])


@pytest.fixture(scope="session")
def prune() -> Callable[..., Pruning]:
    """``prune(model, inputs, kept=None, dropped=(), seed=0)``: analyse, plan (at random), apply to a copy, check.

    Further options are those of ``analyze``.

    On the way it asserts what must hold for any network and any plan: the number of parameters and the FLOPs that
    the cost model predicts are those of the pruned module.
    """
    return _prune


def _prune(
    model: nn.Module,
    inputs: Any,
    kept: Mapping[str, Any] | None = None,
    dropped: Collection[str] = (),
    seed: int = 0,
    drop: float = 0.3,
    **options: bool,
) -> Pruning:
    model = _randomise(model)
    graph = prunelab.analyze(model, inputs, **options)
    plan = _random_plan(graph, seed, drop=drop) if kept is None else graph.plan(kept, dropped)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert graph.cost.params(plan) == sum(parameter.numel() for parameter in pruned.parameters())
    assert graph.cost.flops(plan) * _batch(inputs) == _counted_flops(pruned, inputs)
    return Pruning(model, pruned, graph, plan, prunelab.check(model, pruned, plan, inputs))


@pytest.fixture(scope="session")
def exact() -> Callable[..., Pruning]:
    """``exact(model, inputs)``: prunes at random three times, no blocks, and asserts that the pruned network computes
    the same as the full one with the columns of its consumers set to zero, by prunelab's ``check`` and by hand."""
    return _exact


def _exact(model: nn.Module, inputs: Any, **options: bool) -> Pruning:
    for seed in range(3):
        pruning = _prune(model, inputs, seed=seed, drop=0.0, **options)
        assert pruning.error < TOLERANCE
        expected = _masked_by_hand(pruning.original, pruning.graph, pruning.plan, inputs)
        for one, other in zip(expected, _outputs(pruning.model, inputs), strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)
    return pruning


@pytest.fixture(scope="session")
def inexact() -> Callable[..., Pruning]:
    """``inexact(model, inputs)``: prunes at random; the result must run, and must differ from the masked network."""
    return _inexact


def _inexact(model: nn.Module, inputs: Any) -> Pruning:
    pruning = _prune(model, inputs, drop=0.0)
    assert 1e-6 < pruning.error < float("inf")
    return pruning


@pytest.fixture(scope="session")
def counted_flops() -> Callable[[nn.Module, Any], int]:
    """FLOPs of one call by torch's own counter on the meta device, plus one addition per biased output."""
    return _counted_flops


def _counted_flops(model: nn.Module, inputs: Any) -> int:
    model = copy.deepcopy(model).to("meta")
    additions = 0

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal additions
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and module.bias is not None:
            additions += out.numel()
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_bias is not None:
            additions += args[0].numel() // args[0].shape[-1] * module.in_proj_bias.numel()
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) and module.bias:
            biases = sum(each.numel() for name, each in module.named_parameters() if name.startswith("bias"))
            additions += args[0].numel() // args[0].shape[-1] * biases

    for module in model.modules():
        module.register_forward_hook(count)
    args, kwargs = tree_map(lambda tensor: tensor.to("meta"), _arguments(inputs))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*args, **kwargs)
    return counter.get_total_flops() + additions


@pytest.fixture(scope="session")
def masked_by_hand() -> Callable[..., list[Tensor]]:
    """``masked_by_hand(model, graph, plan, inputs)``: outputs (float64) of a copy of the full network in which the
    weight columns that read a removed channel are zero; where no weight reads it (queries and keys), the rows and
    biases that produce it. No dropped blocks."""
    return _masked_by_hand


def _masked_by_hand(model: nn.Module, graph: ChannelGraph, plan: PruningPlan, inputs: Any) -> list[Tensor]:
    assert not plan.dropped_blocks
    model = copy.deepcopy(model).double()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for group in graph.groups:
            removed = sorted(set(range(group.size)) - set(plan.kept[group.name]))
            for found in group.having("consumer") or group.having("producer", "bias"):
                parameters[found.parameter].index_fill_(
                    found.dim, torch.tensor(found.index[removed]).flatten(), 0.0
                )
    return _outputs(model, inputs)


@pytest.fixture(scope="session")
def outputs() -> Callable[[nn.Module, Any], list[Tensor]]:
    """All tensors that a model returns, computed in float64."""
    return _outputs


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    args, kwargs = tree_map(lambda t: t.double() if t.is_floating_point() else t, _arguments(inputs))
    with torch.no_grad():
        out = copy.deepcopy(model).double()(*args, **kwargs)
    return [value for value in tree_flatten(out)[0] if isinstance(value, Tensor)]


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _batch(inputs: Any) -> int:
    return len(tree_flatten(inputs)[0][0])
