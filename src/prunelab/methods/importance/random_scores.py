"""Random scores: the baseline that every criterion has to beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.criterion import Criterion, Reads

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@dataclass(frozen=True)
class Random(Criterion):
    """s_j uniform in (0, 1], drawn for each group separately, from its name and the seed; the order has no effect.

    Args:
        reduction: has no effect.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> method = prunelab.ImportanceMethod(prunelab.Random(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, torch.zeros(1, 1, 4, 4)))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "nothing"
    dead_first: ClassVar[bool] = False

    def score(self, context: PruningContext) -> Scores:
        return Scores(
            channels={group.name: _draw(context.seed, group.name, group.size) for group in context.groups},
            blocks={block.name: float(_draw(context.seed, block.name, 1)[0]) for block in context.blocks},
        )


def _draw(seed: int, name: str, count: int) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return 1.0 - np.random.default_rng(int.from_bytes(digest[:16], "big")).random(count)
