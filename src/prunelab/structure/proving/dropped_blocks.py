"""Trials of residual blocks: without a block, the network must run all other operators as before.

A network may depend on a module in other ways than by its output: it may read an attribute of the module, or have a
hook that collects its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunelab.structure.blocks import IdentityPath, views
from prunelab.structure.network import Network, error_line
from prunelab.structure.proving.prediction import Prediction, significant
from prunelab.structure.proving.pruned_run import PrunedRun
from prunelab.structure.proving.remedies import Remedy
from prunelab.structure.proving.removal import Removal
from prunelab.structure.tracing.marks import Trace, Visit


@dataclass(frozen=True)
class BlockTrials:
    """The trials of blocks. Channels are removed too (``removal``), as in the plans of a user.

    ``runs``: the network in each mode that is proved, and its trace there.
    """

    runs: Sequence[tuple[Network, Trace]]
    removal: Removal
    remedies: tuple[Remedy, ...]

    def failing(self, found: Sequence[tuple[Visit, IdentityPath]]) -> dict[str, str]:
        """The blocks that cannot be dropped, with reasons.

        All blocks of one nesting depth are dropped together; only if that fails, parts of them.
        """
        reasons: dict[str, str] = {}
        trace = self.runs[0][1]
        last_read = _last_reads(trace)
        depths: dict[int, list[Visit]] = {}
        for visit, _ in found:
            around = sum(visit.module.startswith(f"{other.module}.") for other, _ in found)
            if _changed_in_place(trace, visit, last_read):
                reasons[visit.module] = "its output is changed in place while its input is still in use"
            else:
                depths.setdefault(around, []).append(visit)
        for visits in depths.values():
            passed: list[Visit] = []
            self._divide(visits, passed, reasons)
        return reasons

    def _divide(self, visits: Sequence[Visit], passed: list[Visit], reasons: dict[str, str]) -> None:
        """Add visits that can be dropped together with ``passed`` to ``passed``, and the others to ``reasons``."""
        reason = self._trial([*passed, *visits])
        if reason is None:
            passed.extend(visits)
        elif len(visits) == 1:
            reasons[visits[0].module] = reason
        else:
            half = len(visits) // 2
            self._divide(visits[:half], passed, reasons)
            self._divide(visits[half:], passed, reasons)

    def _trial(self, visits: Sequence[Visit]) -> str | None:
        """The reason why the network fails without these blocks; None if it does not."""
        dropped = {visit.module: visit.wrapped for visit in visits}
        for network, trace in self.runs:
            inside = {
                number
                for visit in trace.visits
                if visit.module in dropped
                for number in range(visit.start, visit.end)
            }
            expected = [(number, step) for number, step in significant(trace) if number not in inside]
            prediction = Prediction(expected, self.removal.ids)
            run = PrunedRun(network, self.removal.plan(self.remedies), dropped)
            failure = prediction.ended(run.run_network(prediction)).failure(trace.scaled)
            if run.error is not None:
                return f"the network fails without it: {error_line(run.error)}"
            if failure is not None:
                step = trace.steps[failure.step]
                place = f"in {step.module}" if step.module else "in the forward pass of the network"
                return f"without it the network runs other operators from {step.op} {place} on"
        return None


def _last_reads(trace: Trace) -> dict[int, int]:
    """The ``id`` of each mark -> the number of the last step that reads it."""
    return {id(marked): number for number, step in enumerate(trace.steps) for marked in step.inputs}


def _changed_in_place(trace: Trace, visit: Visit, last_read: dict[int, int]) -> bool:
    """Whether an operator after the block writes into its output, which would be its input, before the last read of the
    input."""
    if visit.entered is None or visit.left is None:
        return False
    return any(
        step.op.endswith("_") and step.inputs and any(each is visit.left for each in views(step.inputs[0]))
        for step in trace.steps[visit.end : last_read.get(id(visit.entered), 0)]
    )
