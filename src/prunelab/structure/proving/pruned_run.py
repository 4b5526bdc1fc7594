"""A run of the pruned network, of which single modules can be run again.

Channels are not followed in it: its results are compared with predictions.
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
from prunelab.structure.proving.prediction import Done, EndOfRun, Prediction
from prunelab.structure.surgery.apply import drop_block, named_modules
from prunelab.structure.surgery.temporary import as_pruned, call_with, pruned_tensors
from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.data_decisions import Decisions, depends_on_data
from prunelab.structure.tracing.marks import Step
from prunelab.structure.tracing.operators import arithmetic, name_of, operands
from prunelab.structure.tracing.rules.common import argument
from prunelab.structure.tracing.shapes import compute

if TYPE_CHECKING:
    from prunelab.structure.network import Network


@dataclass(frozen=True)
class _Entered:
    """The inputs of the last call of a module, and the numbers of significant steps and of decisions before it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int
    decided: int


class PrunedRun:
    """Runs ``network`` pruned by ``plan``, or one of its modules, and passes each operator to a ``Prediction``.

    The prediction may end a run by raising ``EndOfRun``. ``dropped``: blocks that are replaced by the identity, which
    runs no operator (path -> whether the block returns a tuple). ``error`` is what the network raised.
    """

    def __init__(
        self, network: Network, plan: PruningPlan, dropped: Mapping[str, bool] | None = None
    ) -> None:
        self._network, self._plan, self._dropped = network, plan, dropped or {}
        self.error: Exception | None = None
        self._tensors = pruned_tensors(plan, network.stand_ins)
        self._decisions = Decisions(network.decided)
        self._entered: dict[str, _Entered] = {}

    def run_network(self, prediction: Prediction) -> str | None:
        """Run the network -> the reason why it failed, if it did."""

        def entered(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._entered[path] = _Entered(args, kwargs, prediction.place, len(self._decisions.made))

        model = self._network.model
        with _without(model, self._dropped), _entering(model, entered):
            return self._run("", self._plan, prediction, *self._network.inputs())

    def place(self, module: str) -> int | None:
        """The number of significant steps before the last call of ``module``; None if it was not called."""
        return self._entered[module].place if module in self._entered else None

    def run_module(self, module: str, plan: PruningPlan, prediction: Prediction) -> str | None:
        """Run ``module`` alone on the inputs of its last call -> the reason why it failed, if it did.

        ``plan`` makes the same cuts as the plan of the run; its attributes and rewritten widths may differ.
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
        named = {f"{inside}{name}".rstrip("."): each for name, each in named_modules(module).items()}
        modules = {name: each for name, each in named.items() if name not in self._dropped}
        own = {
            name.removeprefix(inside): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(inside)
        }
        calls = _LastCall()
        with (
            as_pruned(modules, plan, self._network.stand_ins, self._tensors),
            self._network.running(module),
            torch.no_grad(),
            _Comparing(prediction, self._decisions),
            calls,
        ):
            try:
                call_with(module, own, args, dict(kwargs))
            except EndOfRun:
                return None
            except Exception as error:  # a program may raise any error for an unexpected width
                self.error = error
                return f"{calls.function} {reasons.CONSTANT}" if calls.inside else reasons.raises(error)
        return None


@contextmanager
def _without(model: nn.Module, blocks: Mapping[str, bool]) -> Iterator[None]:
    """Replace ``blocks`` by the identity."""
    with ExitStack() as stack:
        for path, wrapped in blocks.items():
            parent, _, name = path.rpartition(".")
            leaves = "(identity,)" if wrapped else "identity"
            stack.callback(drop_block(model.get_submodule(parent), name, leaves))
        yield


@contextmanager
def _entering(model: nn.Module, entered: Callable[..., None]) -> Iterator[None]:
    """Call ``entered(path, module, args, kwargs)`` at each call of a module."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            handle = module.register_forward_pre_hook(partial(entered, path), with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _LastCall(TorchFunctionMode):
    """Stores the name of the newest Python-level call, and whether it has not returned (it raised an error)."""

    function, inside = "", False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.function, self.inside = getattr(func, "__name__", str(func)), True
        out = func(*args, **(kwargs or {}))
        self.inside = False
        return out


class _Comparing(TorchDispatchMode):
    """Computes each operator (with the decisions of the full run) and passes its result to the prediction."""

    def __init__(self, prediction: Prediction, decisions: Decisions) -> None:
        super().__init__()
        self._prediction, self._decisions = prediction, decisions

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No operator is compiled here: this saves a guard of the compiler around each."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        before = self._prediction.next(name)
        if before is not None and before.on_activations and depends_on_data(func, name, args):
            out = self._decisions(func, name, args, kwargs)
        else:
            out = compute(func, args, kwargs)
        outputs = operands(out)
        claims = _claimed(before, args, kwargs, outputs) if before is not None and before.claims else ()
        shapes = tuple(tuple(tensor.shape) for tensor in outputs)
        self._prediction(Done(name, shapes, arithmetic(name, args), claims))
        return out


def _claimed(before: Step, args: Any, kwargs: Any, outputs: list[Tensor]) -> tuple[int, ...]:
    """The constants of an operator that count channels. ``before`` is the operator of the full run, with ``Claim``s."""
    name = before.op
    if name == "constant_pad_nd":
        padding, dims = list(args[1]), before.inputs[0].dims
        places = [place for place in range(0, len(padding), 2) if dims[-1 - place // 2] is not None]
        return tuple(padding[each] for place in places for each in (place, place + 1))
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
