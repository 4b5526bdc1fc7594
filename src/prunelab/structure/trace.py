"""One run of a network that follows its channels from operator to operator.

Two interpreter modes watch the run. A ``TorchDispatchMode`` sees every ATen operator and hands channel ids on
by the rules of ``prunelab.structure.rules``; a ``TorchFunctionMode`` numbers the Python-level calls, so that a
tensor of the run can be found again in a later run (see ``prunelab.structure.calls``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from weakref import WeakMethod, ref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from prunelab.errors import UserError
from prunelab.structure.calls import Call, Calls, following
from prunelab.structure.decisions import Decisions, depends_on_data
from prunelab.structure.ids import ChannelIds, Ids
from prunelab.structure.marks import Claim, Dims, Marked, Step, Term, Trace, Visit
from prunelab.structure.operators import arithmetic, name_of, operands
from prunelab.structure.outputs import tensors_in
from prunelab.structure.rules import rule_for
from prunelab.structure.shapes import compute
from prunelab.structure.traceless import evaluating


class _Marks:
    """What is known of tensors, which it does not keep alive.

    (``torch.utils.weak.WeakIdKeyDictionary`` does the same, in ten times the time.)
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[Tensor], Marked]] = {}

    def get(self, tensor: Tensor) -> Marked | None:
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:  # another tensor may have had this id
            return None
        return known[1]

    def __setitem__(self, tensor: Tensor, marked: Marked) -> None:
        self._known[id(tensor)] = ref(tensor), marked


class Tracer(TorchDispatchMode):
    """Follows channel ids through the operators of one forward pass.

    ``tensors`` maps each parameter and buffer (the objects that the run will use) to its name; ``values`` gives
    the real content of integer buffers. ``carry`` says, for the n-th view that splits a channel dimension, how
    many places from the right the part that carries the channels stands (0 is the last). ``decisions`` may repeat
    what an earlier run decided from its data. ``whole`` are the modules that lose whole groups of channels.
    """

    def __init__(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        values: Callable[[str], Tensor],
        carry: Mapping[int, int] | None = None,
        kernels: Collection[str] = (),
        decisions: Decisions | None = None,
        whole: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.trace = Trace()
        self.values = values
        self.carry = dict(carry or {})
        self.whole = frozenset(whole)
        self.decisions = decisions or Decisions()
        self.claims: list[Claim] = []
        # A strong reference would be a ring that only the collector takes apart.
        returned = WeakMethod(self._returned)
        self.calls = Calls(lambda call, out: _called(returned, call, out))
        self.kind = ""
        self._marked = _Marks()
        for name, tensor in tensors:
            if self._marked.get(tensor) is None:
                dims: Dims = [
                    self.trace.ids.born(name, dim, size)
                    if size > 1 and (dim < 2 or name not in kernels)
                    else None
                    for dim, size in enumerate(tensor.shape)
                ]
                self._marked[tensor] = Marked(tuple(tensor.shape), dims, kind="weight", tensor=name)

    # What rules use -------------------------------------------------------------------------------------

    @property
    def ids(self) -> ChannelIds:
        """The ids of the run so far."""
        return self.trace.ids

    def marked(self, tensor: Tensor) -> Marked:
        """What is known of ``tensor``; a tensor from outside the run carries nothing."""
        found = self._marked.get(tensor)
        if found is None:
            with torch._C.DisableTorchFunction():  # looking at its shape is no call of the network
                found = Marked(tuple(tensor.shape), [None] * tensor.dim(), activation=True, kind="source")
            self._marked[tensor] = found
        return found

    def tie(self, first: Ids | None, second: Ids | None, reason: str) -> Ids | None:
        """Tie two dimensions; one that carries no channels freezes the other. Returns the ids that go on."""
        if first is None or second is None:
            self.ids.freeze(first if second is None else second, reason)
            return first if second is None else second
        self.ids.tie(first, second)
        return first

    def count(self, coefficient: float, factors: tuple[Ids, ...], bias: bool = False) -> None:
        """Note a share of the network's FLOPs."""
        self.trace.terms.append(Term(coefficient, factors, tuple(self.calls.modules), bias))

    def apart(self, attribute: str, channels: Ids, groups: int) -> bool:
        """Whether the running module loses whole groups of ``channels``; if so, makes each of the groups one channel.

        ``attribute`` counts the groups and follows.
        """
        module = self.calls.modules[-1]
        if module not in self.whole:
            return False
        rows = channels.reshape(groups, -1)
        self.ids.tie_rows(rows.T)
        self.claim(groups, rows[:, 0])
        earlier = self.trace.numbers.setdefault((module, attribute), rows[:, 0])
        self.ids.tie(earlier, rows[:, 0])  # a module that runs twice has one number of groups
        return True

    def claim(self, value: int, counted: Ids) -> None:
        """Note that the constant ``value`` stands for the number of ``counted`` channels."""
        self.claims.append(Claim(int(value), counted))

    # The interpreter ------------------------------------------------------------------------------------

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled: spares a guard of the compiler around every operator."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        args, kwargs = self.before(func, args, kwargs)
        inputs = tuple(self.marked(value) for value in operands(*args, *kwargs.values()))
        name = name_of(func)
        written_out = name == "lift_fresh"  # torch.tensor(2.0)
        activation = not written_out and any(marked.activation for marked in inputs)
        if activation and depends_on_data(func, name, args):
            out = self.decisions(func, name, args, kwargs)
        else:
            out = compute(func, args, kwargs)
        outputs = operands(out)
        self.claims, self.kind = [], "other"
        made = rule_for(func)(self, name, args, kwargs, inputs, outputs)
        for tensor, marked in zip(outputs, made, strict=True):
            marked.op, marked.kind, marked.parents = name, self.kind, inputs
            marked.made_in = self.calls.current
            marked.activation = activation
            self._marked[tensor] = marked
        numbers = arithmetic(name, args)
        step = Step(name, self.calls.current, inputs, tuple(made), tuple(self.claims), numbers)
        self.trace.steps.append(step)
        return out

    def before(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Hook of the masked run: may replace an operator's inputs."""
        return args, kwargs

    def _returned(self, call: Call, out: Any) -> None:
        marked = self._marked.get(out) if isinstance(out, Tensor) else None
        if marked is not None and marked.call is None:
            marked.call = call


def _called(returned: WeakMethod[Any], call: Call, out: Any) -> None:
    tell = returned()
    if tell is not None:
        tell(call, out)


def run(model: nn.Module, tracer: Tracer, forward: Callable[[], Any]) -> tuple[Trace, Any]:
    """Run ``forward`` once in evaluation mode under ``tracer`` -> what it showed (the output is frozen), its output."""
    entered: list[Marked | None] = []

    def enter(path: str, given: Any) -> None:
        tensors = [value for value in tree_flatten(given)[0] if isinstance(value, Tensor)]
        entered.append(tracer.marked(tensors[0]) if tensors else None)

    def leave(path: str, out: Any) -> None:
        left = tracer.marked(out) if isinstance(out, Tensor) else None
        tracer.trace.visits.append(Visit(path, entered.pop(), left))

    with (
        evaluating(model),
        torch.no_grad(),
        following(model, tracer.calls, enter, leave),
        tracer,
        tracer.calls,
    ):
        out = forward()
    trace = tracer.trace
    given_out = tensors_in(out)
    if not given_out:
        raise UserError(
            f"the network {type(model).__name__} returns no tensor, so nothing can be known of it"
        )
    for value in given_out:
        marked = tracer.marked(value)
        for ids in (*marked.dims, *marked.statistics):
            trace.ids.freeze(ids, "output of the network")
    return trace, out
