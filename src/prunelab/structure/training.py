"""Parts of a network that only run in training mode: auxiliary heads, deep supervision, other outputs.

Such parts read channels that evaluation mode produces, so the same channels must be removed from them. Both modes are
traced with the same ids, and ids that one of them ties or freezes are tied or frozen in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.groups import Partition
from prunelab.structure.network import Network, error_line
from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Step, Trace
from prunelab.structure.tracing.training_code import may_differ

# The results have the shape and channels of an operand, so that no constant of the program can fail there.
_ELEMENTWISE = {"pointwise", "add", "mul"}
_IDENTITIES = {"native_dropout", "clone", "detach", "alias", "_to_copy", "contiguous"}


@dataclass(frozen=True)
class InTraining:
    """The run of a network in training mode: its trace (None if training mode runs the same program, or on a failure),
    or why it failed."""

    network: Network
    trace: Trace | None = None
    failure: str | None = None

    @property
    def met(self) -> set[str]:
        """The parameters and buffers that the run has read."""
        return set() if self.trace is None else self.trace.met()

    def to_prove(self, trace: Trace) -> list[tuple[Network, Trace]]:
        """The run, if it has operators on channels that are not in ``trace``, the run in evaluation mode."""
        if self.trace is None:
            return []
        known = {_key(step) for step in trace.steps}
        new = (step for step in self.trace.steps if _may_fail(step) and _key(step) not in known)
        return [(self.network, self.trace)] if any(new) else []


def in_training(network: Network, trace: Trace) -> InTraining:
    """Run ``network`` in training mode. ``trace``, its run in evaluation mode, adopts the ties of that run."""
    other = network.in_training()
    if not may_differ(network.model):
        return InTraining(other)
    try:
        training = other.trace_again(trace)
    except Exception as error:  # for example a detector, which needs target boxes in training mode
        return InTraining(other, failure=error_line(error))
    trace.adopt(training)
    return InTraining(other, training)


def out_of_use(
    trace: Trace, training: InTraining, components: Components, parts: Partition
) -> dict[int, str]:
    """The groups that are not pruned because evaluation mode does not produce their channels, or because no layer reads
    them: number -> reason.

    An output that the network computes but does not return in this mode is such a group; other code may use it.
    """
    met = trace.met()
    read = _read(trace, training, components)
    modes = (
        "in evaluation or training mode"
        if training.failure is None
        else f"in evaluation mode, and the network does not run in training mode ({training.failure})"
    )
    found = {}
    for number, group in enumerate(parts.groups):
        makers = group.producers
        if makers and not any(found.parameter in met for found in makers):
            found[number] = (
                "only training mode produces these channels, so that their removal saves nothing in evaluation mode: "
                f"evaluation mode would have to run the layer too (in {group.maker})"
            )
        elif not read[parts.members[number]].any() and not group.having("consumer"):
            found[number] = f"no layer reads these channels {modes}: {reasons.UNREAD} (in {group.maker})"
    return found


def _read(trace: Trace, training: InTraining, components: Components) -> NDArray[np.bool_]:
    """For each component whether a contraction or a gather reads it."""
    read = np.zeros(components.count, dtype=np.bool_)
    for run in (trace, training.trace):
        for each in run.reads if run is not None else ():
            ids = each.source.dims[each.dim]
            if ids is not None:
                read[components.label[ids]] = True
    for gather in trace.gathers:
        read[components.label[gather.source]] = True
    return read


def _may_fail(step: Step) -> bool:
    if step.op in _IDENTITIES or any(made.kind in _ELEMENTWISE for made in step.outputs):
        return False
    return any(marked.carries for marked in (*step.inputs, *step.outputs))


def _key(step: Step) -> tuple[object, ...]:
    return step.op, step.call, tuple(made.shape for made in step.outputs)
