"""Sums of two activations of one shape, with the droppable block of each or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunelab.structure.blocks import IdentityPath, viewed
from prunelab.structure.tracing.marks import Marked, Step, Trace, Visit


@dataclass(frozen=True)
class ResidualAddition:
    """A sum of two activations. ``module`` computes it ("" is the network itself); ``block`` is the block that can be
    dropped with its branch (None: there is none); ``reason`` says why there is none (None: there is one)."""

    module: str
    block: str | None
    reason: str | None


def residual_additions(
    trace: Trace, found: Sequence[tuple[Visit, IdentityPath]], failing: Mapping[str, str]
) -> tuple[ResidualAddition, ...]:
    """All such sums in the order of the forward pass. ``found`` are the blocks, ``failing`` the ones that cannot be
    dropped, with reasons."""
    owner = {id(addition): visit.module for visit, path in reversed(found) for addition in path.additions}
    search = _Search(trace)
    additions = []
    for step in trace.steps:
        if not _is_sum(step):
            continue
        block = owner.get(id(step.outputs[0]))
        if block is None:
            reason: str | None = search.reason(step)
        else:
            reason = failing.get(block)
        additions.append(ResidualAddition(step.module, None if reason is not None else block, reason))
    return tuple(additions)


def _is_sum(step: Step) -> bool:
    if len(step.outputs) != 1 or step.outputs[0].kind != "add" or len(step.inputs) != 2:
        return False
    shape = step.outputs[0].shape
    return len(shape) > 1 and all(marked.activation and marked.shape == shape for marked in step.inputs)


class _Search:
    """Finds the reason why there is no block around a sum."""

    def __init__(self, trace: Trace) -> None:
        self._made = {
            id(marked): number for number, step in enumerate(trace.steps) for marked in step.outputs
        }
        self._calls = Counter(visit.module for visit in trace.visits)
        self._visits = {visit.module: visit for visit in trace.visits}

    def reason(self, step: Step) -> str:
        """The reason why no block contains the sum ``step``."""
        first, second = (viewed(marked) for marked in step.inputs)
        module = step.module
        if not (self._depends(second, first) or self._depends(first, second)):
            return (
                "no identity shortcut: neither summand is computed from the other (a shortcut with layers, or two "
                "branches)"
            )
        if not module:
            return "the network itself adds: a module would have to return its input plus the branch"
        if self._calls[module] > 1:
            return f"{module} runs {self._calls[module]} times"
        visit = self._visits.get(module)
        if visit is None or visit.left is None:
            return f"{module} returns several values: it would have to return its input plus the branch"
        return (
            f"{module} does more than add a branch to its input: it would have to return its input plus the branch, in "
            "the shape of the input"
        )

    def _depends(self, marked: Marked, source: Marked) -> bool:
        """Whether ``marked`` is computed from ``source``."""
        since = self._made.get(id(source), -1)
        stack, seen = [marked], {id(marked)}
        while stack:
            current = stack.pop()
            if current is source:
                return True
            for parent in current.parents:
                if id(parent) not in seen and (parent is source or self._made.get(id(parent), -1) > since):
                    seen.add(id(parent))
                    stack.append(parent)
        return False
