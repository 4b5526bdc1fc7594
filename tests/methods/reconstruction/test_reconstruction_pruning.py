"""Every rule compensates for removed channels, in the network after surgery."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.methods import Budget, ChannelPruning, ReconstructionPruning, Subspace, ThiNet
from prunelab.methods.reconstruction import Rule
from prunelab.structure import PruningPlan, analyze, apply, check

CONF = Path(__file__).parents[3] / "conf"
RULES: list[Rule] = [ThiNet(), ThiNet("selection"), ChannelPruning(), Subspace()]

rules = pytest.mark.parametrize("rule", RULES, ids=["removal", "selection", "channel_pruning", "subspace"])

BATCHES = [
    (torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(seed)), torch.zeros(16))
    for seed in range(4)
]
IMAGES = torch.cat([images for images, _ in BATCHES])


def pruning(rule: Rule, keep: float = 0.5, **settings: Any) -> ReconstructionPruning:
    return ReconstructionPruning(rule, Budget(flops=keep), **{"positions": 100, **settings})


def decided(method: ReconstructionPruning, model: nn.Module) -> tuple[Any, PruningPlan]:
    context = method.context(model, IMAGES[:1], BATCHES)
    return context, method.decide(context)


@torch.no_grad()
def output_error(model: nn.Module, pruned: nn.Module) -> float:
    """Mean square of the change of the outputs, relative to their own."""
    expected = model.eval()(IMAGES)
    return float(((pruned.eval()(IMAGES) - expected) ** 2).mean() / (expected**2).mean())


@rules
def test_the_error_falls_against_plain_removal(rule: Rule, plain: nn.Module) -> None:
    method = pruning(rule, keep=0.25, levels=["filter"])
    full = copy.deepcopy(plain)
    context, plan = decided(method, plain)
    assert all(torch.equal(tensor, full.state_dict()[name]) for name, tensor in plain.state_dict().items())
    plan = context.graph.plan({"conv1": plan.kept["conv1"]})
    method.reconstruct(context, plan)

    outputs: list[Tensor] = []
    for model in (full, apply(copy.deepcopy(full), plan), apply(plain, plan)):
        model.conv2.register_forward_hook(lambda module, given, out: outputs.append(out))
        with torch.no_grad():
            model(IMAGES)
    expected, removed, adjusted = outputs
    assert ((adjusted - expected) ** 2).mean() < 0.999 * ((removed - expected) ** 2).mean()


@rules
def test_removed_outputs_are_not_adjusted(rule: Rule, plain: nn.Module) -> None:
    method, before = pruning(rule), plain.conv2.weight.detach().clone()
    context = method.context(plain, IMAGES[:1], BATCHES)
    method.reconstruct(context, context.graph.plan({"conv1": [0, 2], "conv2": [1, 3, 4, 5]}))
    changed = (plain.conv2.weight != before).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False, True, True, True]


def chain(activation: nn.Module) -> nn.Sequential:
    """Eight channels, read by a strided convolution, without normalisation."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        activation,
        nn.Conv2d(8, 5, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(45, 3),
    )
    return model.eval()


@torch.no_grad()
def combine(model: nn.Sequential, channel: int, *sources: int) -> None:
    """Make a channel's map the sum of others (through the ReLU: of one other)."""
    for tensor in (model[0].weight, model[0].bias):
        tensor[channel] = tensor[list(sources)].sum(dim=0)


def without_loss(rule: Rule, model: nn.Sequential, kept: list[int] | None = None) -> list[int]:
    """The six of the eight channels (or ``kept``) that the rule keeps; the outputs must not change."""
    full, method = copy.deepcopy(model), pruning(rule, ridge=1e-10)
    context = method.context(model, IMAGES[:1], BATCHES)
    if kept is None:
        reading = method._readings(context)["0"]
        kept = rule.choose(reading, np.sort(np.argsort(-rule.score(reading), kind="stable")[:6])).tolist()
    plan = context.graph.plan({"0": kept})
    method.reconstruct(context, plan)
    adjusted = copy.deepcopy(model)
    pruned = apply(model, plan)
    assert check(adjusted, pruned, plan, IMAGES) < 1e-6
    assert torch.allclose(pruned(IMAGES), full(IMAGES), atol=1e-5)
    return kept


@pytest.mark.parametrize("rule", [ThiNet("selection"), ChannelPruning(), Subspace()])
def test_one_of_duplicated_filters_is_removed_without_loss(rule: Rule) -> None:
    model = chain(nn.ReLU())
    combine(model, 3, 0)
    combine(model, 6, 4)
    with torch.no_grad():  # contributions are equal only if they are read with equal weights
        model[2].weight[:, 3] = 2 * model[2].weight[:, 0]
        model[2].weight[:, 6] = 0.5 * model[2].weight[:, 4]
    kept = without_loss(rule, model)
    assert len({0, 3} & set(kept)) == len({4, 6} & set(kept)) == 1


def test_contributions_that_cancel_go_together_without_any_loss() -> None:
    model = chain(nn.ReLU())
    combine(model, 3, 0)
    with torch.no_grad():
        model[2].weight[:, 0] *= 0.1
        model[2].weight[:, 3] = -model[2].weight[:, 0]
    assert without_loss(ThiNet("removal"), model) == [1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("rule", [ChannelPruning(), Subspace()])
def test_a_linearly_dependent_map_is_removed_without_loss(rule: Rule) -> None:
    model = chain(nn.Identity())
    combine(model, 3, 0, 1)
    combine(model, 6, 4, 5)
    assert output_error(model, apply(copy.deepcopy(model), _plan_without(model))) > 1e-3
    without_loss(rule, model, kept=[0, 1, 2, 4, 5, 7])


@pytest.mark.parametrize("behind", ["bias", "norm", "nothing"])
def test_a_map_that_equals_another_except_for_a_constant_is_removed_without_loss(behind: str) -> None:
    """Map 3 is twice map 0, plus 1: the constant is added to the bias of the reader or to the normalisation after
    it."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5) if behind == "norm" else nn.Identity()
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(4, 5, 1, bias=behind == "bias"),
        norm,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 3),
    ).eval()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 2 * model[0].weight[0], 2 * model[0].bias[0] + 1
    for rule, exact in ((ChannelPruning(), behind != "nothing"), (ThiNet(), False)):
        full, adjusted, method = model, copy.deepcopy(model), pruning(rule, ridge=1e-10)
        context = method.context(adjusted, IMAGES[:1], BATCHES)
        plan = context.graph.plan({"0": [0, 1, 2]})
        method.reconstruct(context, plan)
        assert (output_error(full, apply(adjusted, plan)) < 1e-9) is exact


def test_subspace_finds_the_dependent_maps_by_itself() -> None:
    model = chain(nn.Identity())
    combine(model, 3, 0, 1)
    combine(model, 6, 4, 5)
    kept = set(without_loss(Subspace(), model))
    assert len({0, 1, 3} & kept) == len({4, 5, 6} & kept) == 2


def _plan_without(model: nn.Module) -> PruningPlan:
    return analyze(model, IMAGES[:1]).plan({"0": [0, 1, 2, 4, 5, 7]})


@rules
def test_a_stage_is_judged_by_all_that_read_it(rule: Rule, residual: nn.Module) -> None:
    method = pruning(rule, keep=0.6)
    full = copy.deepcopy(residual)
    context, plan = decided(method, residual)
    stage = next(group for group in context.graph.groups if group.level == "stage")
    assert len(plan.kept[stage.name]) < stage.size
    assert context.graph.cost.flops(plan) <= 0.6 * context.graph.cost.flops()
    method.reconstruct(context, plan)
    plainly, adjusted = apply(copy.deepcopy(full), plan), apply(residual, plan)
    assert not torch.equal(adjusted.head.weight, plainly.head.weight)


def test_a_resumed_run_adjusts_alike(plain: nn.Module) -> None:
    first, second = copy.deepcopy(plain), copy.deepcopy(plain)
    method = pruning(ThiNet())
    context, plan = decided(method, first)
    method.reconstruct(context, plan)
    later = pruning(ThiNet())
    later.reconstruct(later.context(second, IMAGES[:1], BATCHES), plan)  # never decided anything
    assert torch.equal(first.conv2.weight, second.conv2.weight)
    assert torch.equal(first.head.weight, second.head.weight)


def test_groups_without_an_ordinary_reader_are_not_pruned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    method = pruning(ChannelPruning(), keep=0.8)
    with pytest.warns(
        UserWarning, match="1 groups .* are not pruned, as they are not read by an ordinary .*: 0"
    ):
        _, plan = decided(method, model.eval())
    assert len(plan.kept["0"]) == 8 and len(plan.kept["2"]) < 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["block"]}, "Subspace is not defined for level block: take block out of levels"),
        ({"positions": 0}, "positions=0"),
        ({"ridge": 0.0}, "ridge=0.0: use a small number above 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pruning(Subspace(), **settings)


@pytest.mark.parametrize("name", ["thinet", "channel_pruning", "subspace"])
def test_a_choice_makes_its_method_and_shows_the_defaults(name: str) -> None:
    config = configure(
        [f"method={name}", "budget.flops=0.4", "budget.min_keep=0.2", "levels=[filter]", "seed=3"]
    )
    settings = {key: value for key, value in config["method"].items() if key != "module"}
    method = hydra.utils.instantiate(settings)
    assert isinstance(method, ReconstructionPruning)
    assert type(method.rule)() == method.rule
    assert (method.budget.flops, method.levels, method.seed) == (0.4, ("filter",), 3)
    assert (method.allocation.min_keep, method.allocation.normalisation) == (0.2, "none")
    written = yaml.safe_load((CONF / "reconstruction.yaml").read_text())
    fresh = ReconstructionPruning(method.rule, Budget(flops=0.4))
    assert (float(written["ridge"]), written["positions"]) == (fresh.ridge, fresh.positions)
