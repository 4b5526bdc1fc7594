"""AutoSlim: the sandwich loss, the greedy descent compared with a plain one, its state, and known widths."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import AutoSlim, Budget, ImportanceMethod, L1Norm, PruningContext
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.racing import Heat, Race
from prunelab.methods.search.slimming_descent import Descent
from prunelab.methods.search.supernet import Supernet
from prunelab.methods.untouched import untouched
from prunelab.models import build
from prunelab.structure import apply

HALF = Budget(flops=0.5)


def batches(
    count: int = 2, channels: int = 2, side: int = 5, classes: int = 3
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(16, channels, side, side, generator=generator),
            torch.randint(classes, (16,), generator=generator),
        )
        for _ in range(count)
    ]


def context_of(network: nn.Module, found: list[tuple[Tensor, Tensor]], **more: Any) -> PruningContext:
    method = ImportanceMethod(L1Norm(), more.pop("budget", HALF))
    return method.context(network, found[0][0][:1], found, validation=found, **more)


def errors(network: nn.Module, plan: Any, found: list[tuple[Tensor, Tensor]]) -> tuple[int, float]:
    """Errors of the physically pruned network, with statistics of all images."""
    pruned = apply(copy.deepcopy(network), plan)
    adapt_batch_norm(pruned, [torch.cat([images for images, _ in found])])
    wrong, loss = 0, 0.0
    with torch.no_grad():
        for images, targets in found:
            logits = pruned(images)
            wrong += int((logits.argmax(dim=1) != targets).sum())
            loss += float(functional.cross_entropy(logits.double(), targets, reduction="sum"))
    return wrong, loss


def plain_descent(context: PruningContext, supernet: Supernet, found: list[tuple[Tensor, Tensor]]) -> Any:
    """Steps of one channel; every candidate is pruned and run from its first layer."""
    row, cost = supernet.full.copy(), context.graph.cost
    while cost.flops(row[None])[0] > context.budget.keep * cost.flops():
        moves = []
        for name, allowed in supernet.space.choices.items():
            column = supernet.column(name)
            if row[column] > allowed[-1]:
                moved = row.copy()
                moved[column] -= 1
                moves.append(moved)
        row = min(moves, key=lambda moved: errors(context.model, supernet.plan(moved), found))
    return row


def test_the_decisions_are_those_of_a_plain_descent(residual: nn.Module) -> None:
    found = batches()
    context = context_of(residual, found)
    supernet = Supernet.by_importance(context)
    expected = plain_descent(context, supernet, found)
    assert len(set(expected.tolist())) > 1
    for fast in (True, False):
        assert Descent(context, supernet, steps=1000, reuse=fast, race=fast)().tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cifar_resnet20", {}),
        ("mobilenetv2_035", {}),
        ("densenet121", {"growth_rate": 8, "block_config": (3, 3)}),
    ],
)
def test_reused_outputs_change_no_error(name: str, arguments: dict[str, Any]) -> None:
    """Errors and losses of all candidates of a step, with and without reuse."""
    torch.manual_seed(0)
    network = build(name, num_classes=5, **arguments).eval()
    found = batches(1, channels=3, side=32, classes=5)
    context = context_of(network, found)
    supernet = Supernet.by_importance(context)
    row = supernet.random(np.random.default_rng(0))
    descent = Descent(context, supernet, steps=4)
    moves = descent._moves(
        row, {name: np.unique(allowed) for name, allowed in supernet.space.choices.items()}
    )
    tables = []
    with untouched(network, context.device, 0), torch.no_grad():
        prefixes = descent._prefixes(found[0][0])
        assert len(prefixes) > len(moves) / 2
        for reused in (prefixes, {}):
            heat = Heat(Race(supernet, found, reused, order=list(range(16))), row, moves)
            heat.finish(range(len(moves)))
            tables.append(heat.found)
    assert torch.equal(tables[0][..., 0], tables[1][..., 0])
    assert torch.allclose(tables[0][..., 1], tables[1][..., 1], rtol=1e-4)


def test_a_race_finds_the_first_of_the_best_on_fewer_images(residual: nn.Module) -> None:
    found = [(images, residual.eval()(images).argmax(dim=1)) for images, _ in batches(16)]
    context = context_of(residual, found)
    supernet = Supernet.by_importance(context)
    moves = Descent(context, supernet, 1000)._moves(supernet.full, supernet.space.choices)
    with untouched(residual, context.device, 0):
        every, race = Race(supernet, found, {}, race=False), Race(supernet, found, {})
        best = every.best(supernet.full, moves)
        assert race.best(supernet.full, {**moves, "equal": moves[best]}) == best
    assert every.evaluated == 1
    assert race.evaluated < 0.7


def test_the_network_is_left_as_it_was(residual: nn.Module) -> None:
    found = batches()
    context = context_of(residual.train(), found)
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    Descent(context, Supernet.by_importance(context), steps=4)()
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert all(module.training for module in residual.modules())


def test_a_killed_descent_continues_with_the_next_decision(
    residual: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batches()
    rows: list[list[int]] = []
    best = Descent._best

    class Killed(Exception):
        pass

    def watched(self: Descent, row: Any, *given: Any) -> Any:
        if len(rows) == 3 and len(dying) == 0:
            dying.append(True)
            raise Killed
        rows.append(row.tolist())
        return best(self, row, *given)

    dying = [True]
    monkeypatch.setattr(Descent, "_best", watched)

    def descent(folder: str) -> Descent:
        context = context_of(residual, found, folder=tmp_path / folder)
        return Descent(context, Supernet.by_importance(context), steps=8)

    expected = descent("whole")().tolist()
    whole, rows[:] = list(rows), []
    dying.clear()
    with pytest.raises(Killed):
        descent("killed")()
    assert descent("killed")().tolist() == expected
    assert rows == whole  # no decision is made twice


@pytest.mark.slow
def test_one_descent_gives_the_networks_of_several_budgets(
    residual: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, rows, best = batches(), [], Descent._best

    def watched(self: Descent, row: Any, *given: Any) -> Any:
        rows.append(row.tolist())
        return best(self, row, *given)

    def descent(keep: float, folder: Path | None) -> list[int]:
        context = context_of(residual, found, budget=Budget(flops=keep), folder=folder)
        return Descent(context, Supernet.by_importance(context), steps=8)().tolist()

    alone = {keep: descent(keep, None) for keep in (0.8, 0.3, 0.5)}
    assert len({tuple(row) for row in alone.values()}) == 3
    monkeypatch.setattr(Descent, "_best", watched)
    assert {keep: descent(keep, tmp_path) for keep in alone} == alone
    assert len({tuple(row) for row in rows}) == len(rows)


def test_the_last_group_keeps_what_the_budget_allows(residual: nn.Module) -> None:
    """With two widths per group a step would remove half of a group."""
    found = batches()
    context = context_of(residual, found, budget=Budget(flops=0.97))
    row = Descent(context, Supernet.by_importance(context), steps=2)()
    removed = Supernet.by_importance(context).full - row
    assert removed.sum() == 1


def test_the_loss_of_a_step_is_that_of_the_sandwich(residual: nn.Module) -> None:
    method = AutoSlim(HALF, samples=1, seed=4)
    context = method.context(residual.train(), batches()[0][0][:1])
    method.begin(context)
    method.prepare(context)
    supernet, (images, targets) = method._supernet, batches()[0]
    random = supernet.random(np.random.default_rng((4, 0)))
    expected = supernet.sandwich(
        residual, (images, targets), [supernet.narrowest, random], functional.cross_entropy
    )
    found = method.training_loss(context, (images, targets), residual)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    outputs = supernet.outputs(residual, images, supernet.narrowest)
    gap = functional.kl_div(
        outputs.log_softmax(1), residual(images).log_softmax(1), reduction="batchmean", log_target=True
    )
    assert method.watch(context)["narrowest"] == pytest.approx(float(gap.detach()), rel=1e-5)
    assert method.watch(context)["narrowest"] == 0.0  # of the next epoch


def test_a_method_that_has_not_learned_decides_nothing(residual: nn.Module) -> None:
    with pytest.raises(UserError, match="needs a learning fit"):
        AutoSlim(HALF).decide(context_of(residual, batches()))


def test_the_message_without_held_out_images_names_the_argument(residual: nn.Module) -> None:
    method = AutoSlim(HALF)
    context = method.context(residual, batches()[0][0][:1])
    method.begin(context)
    method.prepare(context)
    with pytest.raises(UserError, match=r"images held out of training.*validation="):
        method.decide(context)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"samples": -1}, "samples=-1"), ({"steps": 1}, "steps=1"), ({"levels": ["block"]}, "block")],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        AutoSlim(HALF, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superfluous_channels_are_removed_and_needed_ones_kept(
    known: Any, learned_widths: Any, seed: int
) -> None:
    widths = learned_widths(AutoSlim(Budget(flops=0.6), seed=seed), known(seed, lr=0.005), epochs=8)
    assert widths["0"] >= 7  # of 8
    assert widths["3"] <= 20  # of 32
