"""A run of the network as a plan would leave it, of which single modules can be run again.

It follows no channels: what each operator has to do is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from prunelab.structure.plan import PruningPlan
from prunelab.structure.proving.prediction import Done, Enough, Prediction
from prunelab.structure.surgery.apply import named_modules
from prunelab.structure.surgery.temporary import as_pruned, call_with, pruned_tensors
from prunelab.structure.tracing.data_decisions import Decisions, depends_on_data
from prunelab.structure.tracing.operators import arithmetic, name_of, operands
from prunelab.structure.tracing.rules.common import argument
from prunelab.structure.tracing.shapes import compute
from prunelab.structure.tracing.side_effects import evaluating

if TYPE_CHECKING:
    from prunelab.structure.network import Network


@dataclass(frozen=True)
class _Entered:
    """What entered a module when it was called last, and how far the run was: significant steps, decisions."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int
    decided: int


class PrunedRun:
    """Runs ``network`` as ``plan`` would leave it, or one of its modules, showing a ``Prediction`` every operator.

    The prediction may end a run by ``Enough``.
    """

    def __init__(self, network: Network, plan: PruningPlan) -> None:
        self._network, self._plan = network, plan
        self._tensors = pruned_tensors(plan, network.stand_ins)
        self._decisions = Decisions(network.decided)
        self._entered: dict[str, _Entered] = {}

    def whole(self, prediction: Prediction) -> str | None:
        """Run the network -> the call that failed, if any."""

        def entered(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._entered[path] = _Entered(args, kwargs, prediction.place, len(self._decisions.made))

        with _entering(self._network.model, entered):
            return self._run("", self._plan, prediction, *self._network.inputs())

    def place(self, module: str) -> int | None:
        """The number of significant steps before the last call of ``module``; None if it was not called."""
        return self._entered[module].place if module in self._entered else None

    def again(self, module: str, plan: PruningPlan, prediction: Prediction) -> str | None:
        """Run ``module`` alone, with what entered it last -> the call that failed, if any.

        ``plan`` cuts what the plan of the run cuts; attributes and rewritten widths may be others.
        """
        entered = self._entered[module]
        del self._decisions.made[entered.decided :]
        return self._run(module, plan, prediction, entered.args, entered.kwargs)

    def _run(
        self,
        path: str,
        plan: PruningPlan,
        prediction: Prediction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> str | None:
        module, inside = self._network.model.get_submodule(path), f"{path}." if path else ""
        modules = {f"{inside}{name}".rstrip("."): each for name, each in named_modules(module).items()}
        own = {
            name.removeprefix(inside): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(inside)
        }
        calls = _LastCall()
        with (
            as_pruned(modules, plan, self._network.stand_ins, self._tensors),
            evaluating(module),
            torch.no_grad(),
            _Comparing(prediction, self._decisions),
            calls,
        ):
            try:
                call_with(module, own, args, dict(kwargs))
            except Enough:
                return None
            except Exception:  # whatever a program raises when a width is not what it expects
                return calls.function
        return None


@contextmanager
def _entering(model: nn.Module, entered: Callable[..., None]) -> Iterator[None]:
    """Call ``entered(path, module, args, kwargs)`` when a module is called."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            handle = module.register_forward_pre_hook(partial(entered, path), with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _LastCall(TorchFunctionMode):
    """Remembers the name of the newest Python-level call."""

    function = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.function = getattr(func, "__name__", str(func))
        return func(*args, **(kwargs or {}))


class _Comparing(TorchDispatchMode):
    """Computes each operator (decisions as the full run took them) and shows the prediction what it did."""

    def __init__(self, prediction: Prediction, decisions: Decisions) -> None:
        super().__init__()
        self._foretelling, self._decisions = prediction, decisions

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled: spares a guard of the compiler around every operator."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        before = self._foretelling.next(name)
        if before is not None and before.on_activations and depends_on_data(func, name, args):
            out = self._decisions(func, name, args, kwargs)
        else:
            out = compute(func, args, kwargs)
        outputs = operands(out)
        claims = _claimed(name, args, kwargs, outputs) if before is not None and before.claims else ()
        shapes = tuple(tuple(tensor.shape) for tensor in outputs)
        self._foretelling(Done(name, shapes, arithmetic(name, args), claims))
        return out


def _claimed(name: str, args: Any, kwargs: Any, outputs: list[Tensor]) -> tuple[int, ...]:
    """The constants of an operator that stand for numbers of channels where the full run claims so (``Claim``)."""
    if name == "slice":
        source, dim = args[0], int(argument(args, kwargs, 1, "dim", 0))
        size = source.shape[dim]
        start, end, _ = slice(*(argument(args, kwargs, place, "", None) for place in (2, 3, 4))).indices(size)
        return (*([start] if start > 0 else []), *([end] if end < size else []))
    if name == "convolution":
        return (int(args[8]),)
    if name == "native_group_norm":
        return (int(args[6]),)
    dim = int(argument(args, kwargs, 2, "dim", 0))  # a split
    return tuple(out.shape[dim] for out in outputs) if len(outputs) > 1 else ()
