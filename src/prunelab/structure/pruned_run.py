"""A run of the network as a plan would leave it, of which single modules can be run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunelab.structure.foretelling import Enough, Foretelling
from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery import named_modules
from prunelab.structure.trace import watched
from prunelab.structure.trial import as_pruned, call_with, pruned_tensors

if TYPE_CHECKING:
    from prunelab.structure.network import Network


@dataclass(frozen=True)
class _Entered:
    """What entered a module when it was called last, and how far the run was: significant steps, views that split
    channels, decisions."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int
    splits: int
    decided: int


class PrunedRun:
    """Runs ``network`` as ``plan`` would leave it, or one of its modules, showing a ``Foretelling`` every operator.

    The foretelling may end a run by ``Enough``.
    """

    def __init__(self, network: Network, plan: PruningPlan) -> None:
        self._network, self._plan = network, plan
        self._tensors = pruned_tensors(plan, network.stand_ins)
        self._tracer = network.tracer(self._tensors, again=True)
        self._entered: dict[str, _Entered] = {}

    def whole(self, foretelling: Foretelling) -> str | None:
        """Run the network -> the call that failed, if any."""
        trace, decisions = self._tracer.trace, self._tracer.decisions

        def entered(path: str, given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
            so_far = foretelling.place, len(trace.splits), len(decisions.made)
            self._entered[path] = _Entered(*given, *so_far)

        return self._run("", self._plan, foretelling, *self._network.inputs(), entered)

    def place(self, module: str) -> int | None:
        """The number of significant steps before the last call of ``module``; None if it was not called."""
        return self._entered[module].place if module in self._entered else None

    def again(self, module: str, plan: PruningPlan, foretelling: Foretelling) -> str | None:
        """Run ``module`` alone, with what entered it last -> the call that failed, if any.

        ``plan`` cuts what the plan of the run cuts; attributes and rewritten widths may be others.
        """
        entered = self._entered[module]
        splits = self._tracer.trace.splits
        for ordinal in range(entered.splits, len(splits)):
            del splits[ordinal]
        del self._tracer.decisions.made[entered.decided :]
        return self._run(module, plan, foretelling, entered.args, entered.kwargs)

    def _run(
        self,
        path: str,
        plan: PruningPlan,
        foretelling: Foretelling,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        entered: Callable[[str, Any], None] = lambda path, given: None,
    ) -> str | None:
        module, inside = self._network.model.get_submodule(path), f"{path}." if path else ""
        modules = {f"{inside}{name}".rstrip("."): each for name, each in named_modules(module).items()}
        own = {
            name.removeprefix(inside): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(inside)
        }
        self._tracer.seen = foretelling
        with (
            as_pruned(modules, plan, self._network.stand_ins, self._tensors),
            watched(module, self._tracer, entered, path=path),
        ):
            try:
                call_with(module, own, args, dict(kwargs))
            except Enough:
                return None
            except Exception:  # whatever a program raises when a width is not what it expects
                return self._tracer.calls.function
        return None
