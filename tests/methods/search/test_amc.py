"""AMC: its state, walls, ranking and refit by hand, and an agent that learns a known task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import AMC, Budget, Candidate, Judge, PruningContext, WidthSpace
from prunelab.methods.search import AgentSettings, ddpg
from prunelab.methods.search.amc import Walls, group_facts
from prunelab.methods.search.ddpg import DDPG

HALF = Budget(flops=0.5)


def chain() -> nn.Module:
    """Two groups of 4 and 5 channels: 3*4*9 + 4*5*1 = 108 + 20 MACs per place, 4 x 4 and 4 x 4 places."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(4, 5, 1, bias=False), nn.ReLU(), nn.Conv2d(5, 2, 1, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip


def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 3, 8, 8, generator=generator), torch.randint(2, (16,), generator=generator))]


def context_of(method: AMC, network: nn.Module, **more: Any) -> PruningContext:
    return method.context(network, images()[0][0][:1], images(), validation=images(), **more)


@pytest.fixture
def walls() -> Walls:
    method = AMC(HALF, lower=0.25, min_keep=0.0)
    context = context_of(method, chain())
    return Walls(WidthSpace.of(context, method.ranking(context)), 0.25)


FULL = 108 + 20 + 10
"""MACs per place: 27 a + a b + 2 b with a = 4 and b = 5."""


def test_the_facts_of_groups_by_hand(walls: Walls) -> None:
    """Raw: index 0, 1; level 0, 0; channels 4, 5; inputs 3, 4; stride 2, 1; kernel 9, 1; weights 108 + 20, 20 + 10."""
    assert group_facts(walls.space).tolist() == [[0, 0, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0]]


def test_removed_and_removable_costs_by_hand(walls: Walls) -> None:
    """The smallest widths are 1 of 4 and 2 of 5 (a quarter, rounded up)."""
    assert walls.narrowest.tolist() == [1, 2]
    removed, rest = walls.costs(walls.narrowest, 0)
    assert removed == pytest.approx(1 - (27 + 2 + 4) / FULL)
    assert rest == pytest.approx(((27 + 5 + 10) - (27 + 2 + 4)) / FULL)
    removed, rest = walls.costs(np.array([2, 2]), 1)
    assert (removed, rest) == (pytest.approx(1 - (54 + 4 + 4) / FULL), 0)


@pytest.mark.parametrize(
    ("action", "width"),
    [
        (1.0, 2),  # 27 a + 2 a + 4 <= 69: at most 2 channels, for any later action
        (0.5, 2),
        (0.0, 2),  # 27 a + 5 a + 10 >= 69: at least 2, or the budget would not be used
    ],
)
def test_the_walls_of_the_first_group_by_hand(walls: Walls, action: float, width: int) -> None:
    row, taken = walls.limited(walls.narrowest, 0, action)
    assert row.tolist() == [width, 2] and taken == width / 4


def test_the_last_group_uses_the_rest_of_the_budget(walls: Walls) -> None:
    """54 + 2 b + 2 b <= 69: b = 3."""
    for action in (0.0, 0.7, 1.0):
        row, taken = walls.limited(np.array([2, 2]), 1, action)
        assert row.tolist() == [2, 3] and taken == 0.6


@pytest.mark.slow
def test_a_lower_bound_too_large_for_the_budget_is_ignored() -> None:
    method = AMC(Budget(flops=0.3), lower=0.9, min_keep=0.1)
    context = context_of(method, chain())
    plan = method.decide(context)
    assert context.graph.cost.flops(plan) <= 0.3 * context.graph.cost.flops()


def test_channels_read_with_larger_weights_are_kept() -> None:
    network = chain()
    method = AMC(HALF)
    scores = method.ranking(context_of(method, network)).channels
    assert scores["0"] == pytest.approx(network[2].weight.detach().abs().sum(dim=(0, 2, 3)).numpy())
    assert scores["2"] == pytest.approx(network[4].weight.detach().abs().sum(dim=(0, 2, 3)).numpy())


def test_every_step_is_stored_with_the_reward_and_the_action() -> None:
    method = AMC(HALF, warmup=10, lower=0.25, min_keep=0.0)
    context = context_of(method, chain())
    method.start(context, WidthSpace.of(context, method.ranking(context)))
    (asked,) = method.ask()
    method.tell(asked, 0.75)
    memory = method._agent.memory
    assert memory.shape == (2, 2 * 10 + 3)
    assert memory[:, -3].tolist() == pytest.approx([asked.widths[0] / 4, asked.widths[1] / 5])
    assert memory[:, -2].tolist() == [0.75, 0.75] and memory[:, -1].tolist() == [0, 1]
    assert torch.equal(memory[0, 10:20], memory[1, :10])
    assert memory[0, 9] == 1.0 and memory[1, 9] == pytest.approx(asked.widths[0] / 4)  # the last action


def test_candidates_are_refitted_by_least_squares() -> None:
    """A removed channel that is a copy of a kept one is replaced without a loss; the recovery starts from these
    weights."""
    network = chain()
    network[0].weight.data[1] = network[0].weight.data[0]
    method = AMC(HALF, positions=16, ridge=1e-9)
    context = context_of(method, network)
    plan = context.graph.plan({"0": [0, 2, 3]})
    expected = network(images()[0][0])
    seen = {}
    judge = method.judge(context)

    def watched(pruned: nn.Module, plan: Any) -> None:
        refit(pruned, plan)
        seen["outputs"] = pruned(images()[0][0])

    refit = judge.prepare
    Judge(context, adapt=False, prepare=watched)([plan])
    assert torch.allclose(seen["outputs"], expected, atol=1e-4)
    method.reconstruct(context, plan)
    weights = network[2].weight.detach().clone()
    weights[:, 1] = 0
    network[2].weight.data = weights
    assert torch.allclose(network(images()[0][0]), expected, atol=1e-4)


def test_the_search_ends_when_the_policy_repeats() -> None:
    method = AMC(HALF, episodes=500, warmup=3, patience=4, agent=AgentSettings(noise=1e-9, batch_size=4))
    context = context_of(method, chain())
    method.decide(context)
    assert method._done < 60


@pytest.mark.slow
def test_the_agent_learns_the_rewarded_action() -> None:
    """One step; the reward is largest at an action of 0.3."""
    agent = DDPG(2, 1, AgentSettings(actor_lr=1e-3, discount=0.0, memory=400), seed=0)
    state = np.array([[0.5, 1.0]])
    for _ in range(200):
        action = agent.random_action(0.0)
        agent.store(state, np.array([action]), 1 - (action - 0.3) ** 2)
    for _ in range(400):
        agent.update()
    assert agent.action(state[0], 0.0, 0.0) == pytest.approx(0.3, abs=0.1)


def test_the_target_of_the_critic_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """r - b + discount Q'(s', mu'(s')) before the last step, r - b at it; b is the moving mean of batches."""
    settings = AgentSettings(hidden=4, batch_size=1, discount=0.5)
    agent = DDPG(1, 2, settings, seed=0)
    agent.store(np.array([[0.1], [0.7]]), np.array([0.2, 0.9]), 0.8)
    agent.mean_reward = 0.4
    seen: list[float] = []
    original = torch.nn.functional.mse_loss
    beyond = float(
        agent.target_critic(torch.tensor([[0.7]]), agent.target_actor(torch.tensor([[0.7]]))).detach()
    )
    monkeypatch.setattr(
        ddpg.functional,
        "mse_loss",
        lambda found, wanted: seen.append(float(wanted)) or original(found, wanted),
    )
    rows = np.random.default_rng(0)
    rows.bit_generator.state = agent.generator.bit_generator.state
    row = int(rows.choice(2, 1)[0])
    agent.update()
    assert agent.mean_reward == pytest.approx(0.5 * 0.4 + 0.5 * 0.8)
    assert seen == [pytest.approx(0.8 - 0.6 + (0.5 * beyond if row == 0 else 0.0))]


@pytest.mark.parametrize("low", [0.0, 0.2])
def test_noise_stays_within_its_limits(low: float) -> None:
    agent = DDPG(1, 1, AgentSettings(hidden=4), seed=0)
    drawn = [agent.action(np.array([0.3]), 0.5, low) for _ in range(200)]
    assert min(drawn) >= low and max(drawn) <= 1 and np.std(drawn) > 0.1
    assert agent.action(np.array([0.3]), 0.0, low) == agent.action(np.array([0.3]), 0.0, low)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 0}, "episodes=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"lower": 1.0}, r"lower=1\.0"),
        ({"patience": 0}, "patience=0"),
        ({"ridge": 0.0}, r"ridge=0\.0"),
        ({"workers": 2}, "workers=2"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        AMC(HALF, **settings)


def test_blocks_are_errors() -> None:
    with pytest.raises(UserError, match="AMC is not defined for level block"):
        AMC(HALF, levels=["block"])


def test_candidates_cost_almost_the_budget() -> None:
    method = AMC(HALF, episodes=5, warmup=2, agent=AgentSettings(batch_size=2))
    context = context_of(method, chain())
    space = WidthSpace.of(context, method.ranking(context))
    method.start(context, space)
    while asked := method.ask():
        assert isinstance(asked[0], Candidate) and 0.4 < space.cost(asked[0]) / space.scale <= 0.5
        method.tell(asked[0], 0.5)
