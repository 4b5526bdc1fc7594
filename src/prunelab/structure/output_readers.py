"""The places of a network that read the output of a module directly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunelab.structure.network import arguments, on_device
from prunelab.structure.tracing.calls import Calls, following


def output_readers(model: nn.Module, example_input: Any, layers: Collection[str]) -> dict[str, list[str]]:
    """For each of the ``layers`` the modules that call a function with its unchanged output, in forward order.

    A functional call counts for the module whose forward method contains it ("" is the network itself). Functions that
    return no tensor, such as ``Tensor.size``, do not read the values and are left out. A module that returns its input
    unchanged, such as ``nn.Identity``, is not a reader; the functions that its result is given to are.

    Example:
        >>> from prunelab.structure.output_readers import output_readers
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
        >>> output_readers(network.eval(), torch.zeros(1, 3, 8, 8), ["0", "1"])
        {'0': ['1'], '1': ['2']}
    """
    device = next(model.parameters()).device
    args, kwargs = on_device(arguments(example_input), device)
    found: dict[str, list[str]] = {path: [] for path in layers}
    calls = _Reads(found)
    with following(model, calls, left=calls.left), calls:
        model(*args, **kwargs)
    return found


class _Reads(Calls):
    """Notes the running module for each call with an output of one of these layers."""

    def __init__(self, found: dict[str, list[str]]) -> None:
        super().__init__(lambda call, out: None)
        self._found = found
        self._outputs: dict[
            int, tuple[str, Tensor]
        ] = {}  # keeps each tensor alive, so that its id is not reused

    def left(self, path: str, out: Any) -> None:
        """A module has returned."""
        if path in self._found and isinstance(out, Tensor):
            self._outputs[id(out)] = path, out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = {
            self._outputs[id(each)][0] for each in tree_leaves((args, kwargs)) if id(each) in self._outputs
        }
        out = super().__torch_function__(func, types, args, kwargs)
        if any(isinstance(each, Tensor) for each in tree_leaves(out)):
            for path in read:
                self._found[path].append(self.modules[-1])
        return out
