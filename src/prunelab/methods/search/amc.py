"""AMC: a reinforcement-learning agent chooses the widths of the groups one by one; candidates are refitted.

He, Lin, Liu, Wang, Li, Han: AMC: AutoML for Model Compression and Acceleration on Mobile Devices, ECCV 2018,
arXiv:1802.03494. Compared with the official code (github.com/mit-han-lab/amc).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.reconstruction.readers import find_readers, read_by
from prunelab.methods.search.ddpg import DDPG, AgentSettings
from prunelab.methods.search.judge import Judge
from prunelab.methods.search.method import SearchMethod
from prunelab.methods.search.refit import Refit, weights_of
from prunelab.methods.search.widths import Candidate, Widths, WidthSpace
from prunelab.methods.search.write_back import write_back
from prunelab.methods.untouched import untouched
from prunelab.structure import PruningPlan, candidate

FACTS = 7
"""Number of constant entries of a state: index, level, channels, inputs, stride, kernel, weights."""


class AMC(SearchMethod):
    """One episode decides all groups, in forward order; its reward is the held-out accuracy of the candidate.

    The *state* of group t is (t, level, n, c, stride, kernel, weights, removed, rest, a_(t-1)): its channels n, the
    inputs c, stride and kernel of the first layer that produces them, and the number of weights that produce or read
    them, each scaled to [0, 1] over all groups; then two fractions of the full network's cost: the removed one, with
    undecided groups at their smallest width, and the one that later groups can save; then the last action.

    The *action* a in [lower, 1] is the fraction of the channels that is kept: those of largest sum |w| over the weights
    that read them. It is rounded to an allowed width, then limited by two walls: the upper one so that the budget can
    be met if all later groups take their smallest width, the lower one so that the candidate is not below the budget if
    all later groups keep all channels.

    The layers that read removed channels are refitted by least squares; nothing is trained, and BatchNorm statistics
    are unchanged. Every step of an episode has the same *reward*, the top-1 accuracy. The agent (DDPG) learns after
    ``warmup`` episodes with random actions: one update per step. The result is the best candidate of all episodes.

    Differences from the official code. Its wall limits the action before rounding, so that a network can exceed the
    budget; here it limits the rounded width. The lower wall is an addition. Its replay memory holds the action before
    limits and rounding; here it holds the action that was judged. Its "rest" is computed from numbers of weights in the
    first state and from the costs of later layers in the others; here always from the cost that later groups can save.
    It refits only 1 x 1 convolutions; here all convolutions (not grouped) and linear layers are refitted, from moments
    of the full network that are measured once. It ranks channels that share a stream (MobileNetV2) by their first
    layer; here by the sum over all layers that read them. Accuracy is top-1 (top-5 there). It runs all episodes, most
    of which repeat one policy; here the search ends after ``patience`` episodes with equal widths, and equal widths are
    judged once.

    Args:
        budget: how much to keep.
        episodes: largest number of episodes.
        warmup: episodes with random actions.
        lower: smallest fraction of channels that is kept (in addition to min_keep).
        patience: the search ends after as many episodes in a row with equal widths, after the warm-up.
        positions: random positions of each calibration image at which layers are refitted.
        ridge: penalty on the change of weights, relative to the mean energy of an input.
        agent: hyper-parameters of the agent; None: those of the paper.
        workers: see ``SearchMethod``.
        settings: those of ``SearchMethod``.

    Raises:
        UserError: a setting out of range.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.AMC(prunelab.Budget(params=0.5), episodes=4, warmup=2)
        >>> context = method.context(network, images[:1], [(images, targets)], validation=[(images, targets)])
        >>> plan = method.decide(context)
        >>> len(plan.kept["0"])
        3
    """

    origin: ClassVar[Origin] = Origin(
        "He et al., AMC, ECCV 2018",
        "https://arxiv.org/abs/1802.03494",
        code="mit-han-lab/amc",
        ours="residual networks, CIFAR",
    )

    def __init__(
        self,
        budget: Budget,
        episodes: int = 800,
        warmup: int = 100,
        lower: float = 0.2,
        patience: int = 50,
        positions: int = 10,
        ridge: float = 1e-6,
        agent: AgentSettings | None = None,
        workers: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(budget, workers, **settings)
        for name, number in (("episodes", episodes), ("patience", patience), ("positions", positions)):
            if number < 1:
                raise UserError(f"{name}={number}: at least 1 is needed.")
        if warmup < 0 or not 0 <= lower < 1:
            raise UserError(f"warmup={warmup}, lower={lower}: use 0 or more episodes, a fraction in [0, 1).")
        if ridge <= 0:
            raise UserError(f"ridge={ridge}: use a small number above 0.")
        if workers > 1:
            raise UserError(f"workers={workers}: an episode has one candidate, so use workers=1.")
        self.episodes, self.warmup, self.lower, self.patience = episodes, warmup, lower, patience
        self.positions, self.ridge = positions, ridge
        self.agent_settings = agent or AgentSettings()

    @property
    def about(self) -> About:
        cost = f"up to {self.episodes} refitted candidates run over held-out images"
        return replace(super().about, reads="activations, held-out accuracy", cost=cost)

    @property
    def reconstructs(self) -> bool:
        return True

    def ranking(self, context: PruningContext) -> Scores:
        """Sum of |w| over the weights of all layers that read a channel."""
        readers = find_readers(context.model, context.graph)
        weights = {name: np.abs(weights_of(context.model, reader)) for name, reader in readers.items()}
        scores = {}
        for group in context.groups:
            parts = [weights[part.parameter].sum(axis=(0, 2))[part.index] for part in read_by(group, readers)]
            if parts:
                scores[group.name] = np.sum([part.sum(axis=1) for part in parts], axis=0)
        unread = [group.name for group in context.groups if group.name not in scores]
        warn_not_pruned(context, unread, "are not read by an ordinary convolution or linear layer")
        return Scores(scores)

    def judge(self, context: PruningContext) -> Judge:
        return Judge(context, adapt=False, prepare=Refit(context, self.positions, self.ridge))

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:
        """Restore the weights with which the winner was judged, in the layers that read kept channels."""
        refit = Refit(context, self.positions, self.ridge)
        with untouched(context.model, context.device, context.seed):
            network = candidate(context.model, plan)
            refit(network, plan)
        write_back(context.model, plan, network)

    # The episodes.

    @property
    def planned(self) -> int | None:
        return self.episodes

    def start(self, context: PruningContext, space: WidthSpace) -> None:
        self._space, self._walls = space, Walls(space, self.lower)
        self._facts = group_facts(space)
        self._agent = DDPG(FACTS + 3, space.dimensions, self.agent_settings, self.seed)
        self._done = self._equal = 0
        self._last: Candidate | None = None
        self._states, self._actions = np.zeros((0, FACTS + 3)), np.zeros(0)

    def ask(self) -> Sequence[Candidate]:
        if self._done == self.episodes or self._equal == self.patience:
            return []
        states, actions = [], []
        row = self._walls.narrowest.copy()
        action = 1.0
        for step in range(self._space.dimensions):
            state = np.concatenate([self._facts[step], self._walls.costs(row, step), [action]])
            row, action = self._walls.limited(row, step, self._proposed(state))
            states.append(state)
            actions.append(action)
        self._states, self._actions = np.stack(states), np.array(actions)
        return [Candidate(tuple(row.tolist()))]

    def _proposed(self, state: NDArray[np.float64]) -> float:
        settings = self.agent_settings
        if self._done < self.warmup:
            return self._agent.random_action(self.lower)
        sigma = settings.noise * settings.decay ** (self._done - self.warmup)
        return self._agent.action(state, sigma if sigma > 1e-6 else 0.0, self.lower)

    def tell(self, candidate: Candidate, score: float) -> None:
        self._agent.store(self._states, self._actions, score)
        if self._done >= self.warmup:
            for _ in range(self._space.dimensions):
                self._agent.update()
            self._equal = self._equal + 1 if candidate == self._last else 1
            self._last = candidate
        self._done += 1

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self._agent.state_dict(),
            "done": self._done,
            "equal": self._equal,
            "last": None if self._last is None else list(self._last.widths),
            "states": self._states.tolist(),
            "actions": self._actions.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._agent.load_state_dict(state["agent"])
        self._done, self._equal = state["done"], state["equal"]
        self._last = None if state["last"] is None else Candidate(tuple(state["last"]))
        self._states = np.array(state["states"]).reshape(-1, FACTS + 3)
        self._actions = np.array(state["actions"])


class Walls:
    """The widths of a group with which the budget can be met, given the groups decided before and the best choice for
    those after.

    Args:
        space: the groups and their allowed widths.
        lower: smallest fraction of its channels that a group keeps, if the budget allows it.
    """

    def __init__(self, space: WidthSpace, lower: float) -> None:
        self.space = space
        groups = space.context.graph.groups
        place = {group.name: column for column, group in enumerate(groups)}
        self.columns = [place[name] for name in space.choices]
        self.full: Widths = np.array([group.size for group in groups], dtype=np.int64)
        self.allowed = [allowed[allowed >= lower * allowed[0]] for allowed in space.choices.values()]
        self.narrowest = self._narrowest()
        if space.costs(self.narrowest[None])[0] > space.target:  # ``lower`` is too large for this budget
            self.allowed = list(space.choices.values())
            self.narrowest = self._narrowest()

    def _narrowest(self) -> Widths:
        row = self.full.copy()
        row[self.columns] = [allowed[-1] for allowed in self.allowed]
        return row

    def costs(self, row: Widths, step: int) -> NDArray[np.float64]:
        """(removed, rest) before step ``step``, fractions of the full network's cost.

        removed: the cost removed by ``row`` (groups of the graph,), in which undecided groups have their smallest
            width.
        rest: the cost that later groups can still save, from full to smallest width.
        """
        later = self.columns[step + 1 :]
        whole = row.copy()
        whole[later] = self.full[later]
        own, with_later = self.space.costs(np.stack([row, whole]))
        return np.array([1 - own / self.space.scale, (with_later - own) / self.space.scale])

    def limited(self, row: Widths, step: int, action: float) -> tuple[Widths, float]:
        """``row`` with the width of this step nearest to the fraction ``action`` within the walls, and its fraction."""
        allowed, column = self.allowed[step], self.columns[step]
        rows = np.tile(row, (len(allowed), 1))
        rows[:, column] = allowed
        whole = rows.copy()
        later = self.columns[step + 1 :]
        whole[:, later] = self.full[later]
        fits = np.flatnonzero(self.space.costs(rows) <= self.space.target)  # widest first
        fills = np.flatnonzero(self.space.costs(whole) >= self.space.target)
        widest = int(fits[0])
        narrowest = int(fills[-1]) if len(fills) else 0
        nearest = int(np.abs(allowed - action * allowed[0]).argmin())
        chosen = max(widest, min(nearest, narrowest))
        return rows[chosen], float(allowed[chosen] / allowed[0])


def group_facts(space: WidthSpace) -> NDArray[np.float64]:
    """(groups, 7): index, level, channels, inputs, stride, kernel and weights of each group, scaled to [0, 1]."""
    graph = space.context.graph
    sizes = {name: parameter.shape for name, parameter in space.context.model.named_parameters()}
    facts = []
    for index, name in enumerate(space.choices):
        group, layers = graph.group(name), graph.layers(name)
        first = layers[0]
        owned = {
            part.parameter for part in group.slices if part.role in ("producer", "consumer", "depthwise")
        }
        weights = sum(int(np.prod(sizes[parameter])) for parameter in owned if parameter in sizes)
        kernel, stride = int(np.prod(first.kernel or (1,))), max(first.stride or (1,))
        level = float(group.level == "stage")
        facts.append([index, level, group.size, first.in_channels, stride, kernel, weights])
    found = np.array(facts, dtype=np.float64).reshape(-1, FACTS)
    low, high = found.min(axis=0), found.max(axis=0)
    return (found - low) / np.where(high > low, high - low, 1.0)
