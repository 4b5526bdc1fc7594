"""One run of a network in which channels are followed from operator to operator.

Two interpreter modes observe the run. A ``TorchDispatchMode`` receives every ATen operator and computes the channel ids
of its results by the rules of ``prunelab.structure.tracing.rules``. A ``TorchFunctionMode`` numbers the Python-level
calls, so that a tensor of this run can be found in a later run (see ``prunelab.structure.tracing.calls``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from prunelab.errors import UserError
from prunelab.structure.tracing.calls import Call, Calls, following
from prunelab.structure.tracing.data_decisions import Decisions, depends_on_data
from prunelab.structure.tracing.evaluation import evaluation_mode
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Marked, Place, Step, Trace, Visit
from prunelab.structure.tracing.operators import arithmetic, name_of, operands, settings
from prunelab.structure.tracing.outputs import tensors_in
from prunelab.structure.tracing.rules import rule_for
from prunelab.structure.tracing.shapes import compute

Mode = Callable[[nn.Module], AbstractContextManager[None]]
"""``evaluation_mode`` or ``training_mode``."""


class Tracer(TorchDispatchMode):
    """Follows channel ids through the operators of one forward pass.

    ``tensors`` are (name, tensor) of each parameter and buffer, the objects that the run will use; ``values`` returns
    the real content of an integer buffer. ``carry``: for a view that splits a channel dimension, the position (counted
    from the right, 0 is the last) of the part that carries the channels. ``decisions`` may repeat decisions of an
    earlier run. ``group_wise`` are the modules that lose whole groups of channels. ``earlier``: the trace of a run in
    another mode, whose ids this run continues.
    """

    def __init__(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        values: Callable[[str], Tensor],
        carry: Mapping[Place, int] | None = None,
        kernels: Collection[str] = (),
        decisions: Decisions | None = None,
        group_wise: Collection[str] = (),
        earlier: Trace | None = None,
    ) -> None:
        super().__init__()
        self.decisions = decisions or Decisions()
        # A strong reference would be a cycle, which only the garbage collector frees.
        returned = WeakMethod(self._returned)
        self.calls = Calls(lambda call, out: _called(returned, call, out))
        self.ledger = Ledger(tensors, values, self.calls, carry, kernels, group_wise, earlier)

    @property
    def trace(self) -> Trace:
        """The record of the run."""
        return self.ledger.trace

    def marked(self, tensor: Tensor) -> Marked:
        """The mark of ``tensor``."""
        return self.ledger.marked(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No operator is compiled here: this saves a guard of the compiler around each."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        args, kwargs = self.before(func, args, kwargs)
        inputs = tuple(self.marked(value) for value in operands(*args, *kwargs.values()))
        name = name_of(func)
        constant = name == "lift_fresh"  # torch.tensor(2.0)
        activation = not constant and any(marked.activation for marked in inputs)
        if activation and depends_on_data(func, name, args):
            out = self.decisions(func, name, args, kwargs)
        else:
            out = compute(func, args, kwargs)
        outputs = operands(out)
        self.ledger.begin()
        made = rule_for(func)(self.ledger, name, args, kwargs, inputs, outputs)
        for tensor, marked in zip(outputs, made, strict=True):
            marked.op, marked.kind, marked.parents = name, self.ledger.kind, inputs
            marked.made_in = self.calls.current
            marked.activation = activation
            self.ledger.write(tensor, marked)
        self.trace.steps.append(
            Step(
                name,
                self.calls.current,
                inputs,
                tuple(made),
                tuple(self.ledger.claims),
                arithmetic(name, args),
                settings(name, args),
            )
        )
        return out

    def before(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Hook for the masked run: may replace the inputs of an operator."""
        return args, kwargs

    def _returned(self, call: Call, out: Any) -> None:
        marked = self.ledger.found(out) if isinstance(out, Tensor) else None
        if marked is not None and marked.call is None:
            marked.call = call


def _called(returned: WeakMethod[Any], call: Call, out: Any) -> None:
    method = returned()
    if method is not None:
        method(call, out)


def run(
    model: nn.Module,
    tracer: Tracer,
    forward: Callable[[], Any],
    mode: Mode = evaluation_mode,
    choose: Callable[[Any], Any] = lambda out: out,
) -> tuple[Trace, Any]:
    """Run ``forward`` once in ``mode`` under ``tracer`` -> the trace, the output. What ``choose`` takes from the output
    is frozen."""
    entered: list[tuple[Marked | None, int]] = []

    def enter(path: str, given: Any) -> None:
        tensors = [value for value in tree_flatten(given)[0] if isinstance(value, Tensor)]
        entered.append((tracer.marked(tensors[0]) if tensors else None, len(tracer.trace.steps)))

    def leave(path: str, out: Any) -> None:
        wrapped = type(out) is tuple and len(out) == 1
        result = out[0] if wrapped else out
        left = tracer.marked(result) if isinstance(result, Tensor) else None
        given, start = entered.pop()
        tracer.trace.visits.append(Visit(path, given, left, start, len(tracer.trace.steps), wrapped))

    with (
        mode(model),
        torch.no_grad(),
        following(model, tracer.calls, enter, leave),
        tracer,
        tracer.calls,
    ):
        out = forward()
        chosen = choose(out)
    trace = tracer.trace
    given_out = tensors_in(chosen)
    if not given_out:
        raise UserError(
            f"the network {type(model).__name__} returns no tensor, so its channels cannot be followed"
        )
    trace.ids.module = None
    for value in given_out:
        marked = tracer.marked(value)
        for ids in (*marked.dims, *marked.statistics):
            trace.ids.freeze(ids, "output of the network")
    return trace, out
