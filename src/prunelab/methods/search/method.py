"""SearchMethod: a pruning method that judges candidate networks and keeps the best one. Every search is a subclass."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from prunelab.distributed.messages import info
from prunelab.errors import UserError
from prunelab.methods.about import About, require_covered
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.importance.members import score_members
from prunelab.methods.method import PruningMethod
from prunelab.methods.search.judge import Judge
from prunelab.methods.search.progress import Progress
from prunelab.methods.search.state import SearchState
from prunelab.methods.search.widths import Candidate, WidthSpace
from prunelab.structure import PruningPlan


class SearchMethod(PruningMethod):
    """Proposes candidates with ``ask``, receives their scores with ``tell``, and keeps the best one.

    ``decide`` runs the loop: it judges what ``ask`` proposes, skips candidates that were judged before (equal widths
    and blocks), distributes candidates over ranks and workers, and writes the state into ``context.folder`` after
    every ``save_every`` evaluations. A killed search continues with the next candidate and ends like an
    uninterrupted one, bit by bit, provided that ``state_dict`` contains everything that ``ask`` and ``tell`` change.

    A subclass implements ``start``, ``ask``, ``tell``, ``state_dict`` and ``load_state_dict``::

        class FirstHalves(SearchMethod):
            def start(self, context, space):
                self.left = [space.uniform(0.5)]

            def ask(self):
                return [self.left.pop()] if self.left else []

            def tell(self, candidate, score): ...

    Args:
        budget: how much to keep.
        workers: threads that judge candidates at the same time.
        save_every: evaluations between two writes of the state.
        evaluations: the search ends after this many different candidates; None: when ``ask`` returns none.
        settings: those of ``PruningMethod``.

    Raises:
        UserError: a setting out of range; a level for which the method is not defined.

    Example:
        >>> method = prunelab.EagleEye(prunelab.Budget(flops=0.5), candidates=4, workers=2)
        >>> isinstance(method, prunelab.SearchMethod), method.workers
        (True, 2)
    """

    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def __init__(
        self,
        budget: Budget,
        workers: int = 1,
        save_every: int = 10,
        evaluations: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        for name, number in (("workers", workers), ("save_every", save_every), ("evaluations", evaluations)):
            if number is not None and number < 1:
                raise UserError(f"{name}={number}: at least 1 is needed.")
        require_covered(type(self).__name__, self.levels, self.covers)
        self.workers = workers
        self.save_every = save_every
        self.evaluations = evaluations

    @property
    def about(self) -> About:
        return About(
            self.origin, "held-out accuracy", self.covers, "many sub-networks run over held-out images"
        )

    @property
    def reads_validation(self) -> bool:
        return True

    # What a subclass implements.

    @abstractmethod
    def start(self, context: PruningContext, space: WidthSpace) -> None:
        """Reset all state at the start of a search. Called before ``load_state_dict`` if the search is resumed."""

    @abstractmethod
    def ask(self) -> Sequence[Candidate]:
        """The next candidates, which can be judged in any order; an empty sequence ends the search."""

    @abstractmethod
    def tell(self, candidate: Candidate, score: float) -> None:
        """Receive the score of a candidate, higher is better. Called in the order of ``ask``."""

    def state_dict(self) -> dict[str, Any]:
        """The state that ``ask`` and ``tell`` change: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    @property
    def planned(self) -> int | None:
        """The number of candidates that the schedule of the search judges at most; None: unknown."""
        return None

    def ranking(self, context: PruningContext) -> Scores:
        """The order in which channels of a group are removed; by default l1 norms of the filters."""
        return score_members(L1Norm(), context)

    def judge(self, context: PruningContext) -> Judge:
        """The function that scores candidates; by default held-out accuracy after adaptive batch normalisation."""
        return Judge(context, self.workers)

    def chosen(self, history: dict[Candidate, float]) -> Candidate:
        """The result; by default the candidate with the highest score, the first of equal ones."""
        return max(history, key=lambda each: history[each])

    # The loop.

    def decide(self, context: PruningContext) -> PruningPlan:
        return self.scored(context)[1]

    def scored(self, context: PruningContext) -> tuple[Scores, PruningPlan]:
        require_within_reach(context)
        scores = self.ranking(context)
        space = WidthSpace.of(context, scores)
        history = self._search(context, space, scores)
        if not history:
            raise UserError(f"{self.title} found no candidate within {context.budget} for {context.name}.")
        best = self.chosen(history)
        info(
            f"{self.title}: best of {len(history)} candidates, score {history[best]:.4g} on held-out images."
        )
        return scores, space.plan(best.widths, scores, best.dropped)

    def _search(self, context: PruningContext, space: WidthSpace, scores: Scores) -> dict[Candidate, float]:
        """All candidates with their scores, in the order of evaluation."""
        judge, state = self.judge(context), SearchState(context.folder, context.write)
        self.start(context, space)
        planned = min((each for each in (self.planned, self.evaluations) if each is not None), default=None)
        progress = Progress(self.title, space, planned, context.report)
        if (saved := state.load()) is not None:
            self.load_state_dict(saved)
            progress.resumed(state.history)
        most = math.inf if self.evaluations is None else self.evaluations
        while len(state.history) < most and (pending := state.pending or list(self.ask())):
            state.pending = pending
            unknown = [each for each in dict.fromkeys(pending) if each not in state.history]
            if len(unknown) > most - len(state.history):
                unknown = unknown[: int(most) - len(state.history)]
            for first in range(0, len(unknown), self.save_every):
                part = unknown[first : first + self.save_every]
                found = judge([space.plan(each.widths, scores, each.dropped) for each in part])
                state.history |= dict(zip(part, map(float, found), strict=True))
                progress.evaluated(state.history)
                if first + self.save_every < len(unknown):
                    state.save(self.state_dict())
            if any(each not in state.history for each in pending):  # ``most`` is reached
                state.save(self.state_dict())
                break
            for each in pending:
                self.tell(each, state.history[each])
            state.pending = []
            state.save(self.state_dict())
        return state.history
