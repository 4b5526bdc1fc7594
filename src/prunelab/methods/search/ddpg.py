"""DDPG: an actor proposes a number in [0, 1] for each state, a critic learns its value.

Lillicrap et al.: Continuous control with deep reinforcement learning, ICLR 2016, arXiv:1509.02971, in the form of AMC
(He et al., ECCV 2018). This is our own code, because the agents of reinforcement-learning libraries run the environment
themselves with a reward per step, whereas an episode here has one reward for all its steps; they have no moving
baseline of the reward; and their replay memory and optimizers cannot be restored bit by bit from plain tensors.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import truncnorm
from torch import Tensor, nn
from torch.nn import functional

from prunelab.methods.untouched import kept_randomness

States = NDArray[np.float64]


@dataclass(frozen=True)
class AgentSettings:
    """Hyper-parameters of the agent; the defaults are those of AMC.

    hidden: units of both hidden layers of actor and critic.
    actor_lr, critic_lr: learning rates of Adam.
    batch_size: transitions per update.
    memory: transitions that are kept, in episodes.
    tau: share of the new weights in each update of the target networks.
    discount: of the value of the next state.
    noise, decay: standard deviation of the exploration noise in the first episode after the warm-up, and its factor
        per episode.
    baseline: weight of the old value in the moving mean of rewards.
    """

    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    batch_size: int = 64
    memory: int = 100
    tau: float = 0.01
    discount: float = 1.0
    noise: float = 0.5
    decay: float = 0.95
    baseline: float = 0.5


class Actor(nn.Module):
    """States (B, S) to actions (B, 1) in [0, 1]."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, states: Tensor) -> Tensor:
        actions: Tensor = self.layers(states).sigmoid()
        return actions


class Critic(nn.Module):
    """States (B, S) and actions (B, 1) to values (B, 1)."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.of_state, self.of_action = nn.Linear(size, hidden), nn.Linear(1, hidden)
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        values: Tensor = self.layers(self.of_state(states) + self.of_action(actions))
        return values


class DDPG:
    """The agent. It runs on the CPU, since its networks are small.

    Args:
        size: number of entries of a state.
        steps: number of steps of an episode.
        settings: hyper-parameters.
        seed: of initial weights, noise and replay.
    """

    def __init__(self, size: int, steps: int, settings: AgentSettings, seed: int) -> None:
        self.settings = settings
        self.generator = np.random.default_rng(seed)
        with kept_randomness():
            torch.manual_seed(seed)
            self.actor, self.critic = Actor(size, settings.hidden), Critic(size, settings.hidden)
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), settings.actor_lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), settings.critic_lr)
        self.capacity = settings.memory * steps
        self.memory = torch.zeros(
            0, 2 * size + 3
        )  # state, next state, action, reward, whether it is the last step
        self.size = size
        self.mean_reward: float | None = None

    def action(self, state: States, sigma: float, low: float) -> float:
        """The action for ``state`` (size,) with truncated normal noise, in [low, 1]; sigma 0: without noise."""
        with torch.no_grad():
            mean = float(self.actor(torch.from_numpy(state).float()[None]))
        if sigma <= 0:
            return min(1.0, max(low, mean))
        chance = self.generator.random()
        found = truncnorm.ppf(chance, (low - mean) / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
        return float(np.clip(found, low, 1.0))

    def random_action(self, low: float) -> float:
        """A uniform action in [low, 1]."""
        return float(self.generator.uniform(low, 1.0))

    def store(self, states: States, actions: NDArray[np.float64], reward: float) -> None:
        """Store an episode: ``states`` (steps, size) and ``actions`` (steps,); every step has the final reward."""
        before = torch.from_numpy(states).float()
        after = torch.cat([before[1:], torch.zeros(1, self.size)])
        last = torch.zeros(len(before), 1)
        last[-1] = 1.0
        rows = [
            before,
            after,
            torch.from_numpy(actions).float()[:, None],
            torch.full_like(last, reward),
            last,
        ]
        self.memory = torch.cat([self.memory, torch.cat(rows, dim=1)])[-self.capacity :]

    def update(self) -> None:
        """One update of critic and actor, and of their targets.

        The target of the critic is ``r - b + discount Q'(s', mu'(s'))`` with Q' = 0 after the last step; b is the
        moving mean of the rewards of the batches. The actor follows the gradient of ``Q(s, mu(s))``.
        """
        rows = self.generator.choice(len(self.memory), self.settings.batch_size)
        states, following, actions, rewards, last = self.memory[torch.from_numpy(rows)].split(
            [self.size, self.size, 1, 1, 1], dim=1
        )
        mean, share = float(rewards.mean()), self.settings.baseline
        self.mean_reward = mean if self.mean_reward is None else share * self.mean_reward + (1 - share) * mean
        with torch.no_grad():
            beyond = self.target_critic(following, self.target_actor(following)) * (1 - last)
            wanted = rewards - self.mean_reward + self.settings.discount * beyond
        with torch.enable_grad():
            self._step(self.critic_optimizer, functional.mse_loss(self.critic(states, actions), wanted))
            self._step(self.actor_optimizer, -self.critic(states, self.actor(states)).mean())
        for target, network in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
            for old, new in zip(target.parameters(), network.parameters(), strict=True):
                old.data.lerp_(new.data, self.settings.tau)

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()},
            "memory": self.memory,
            "mean_reward": self.mean_reward,
            "generator": self.generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.memory, self.mean_reward = state["memory"], state["mean_reward"]
        self.generator.bit_generator.state = state["generator"]

    def _parts(self) -> dict[str, Any]:
        return {
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }
