"""Decisions of a network that depend on its data, such as which boxes are kept or which branch runs.

The trial run of a pruned network computes other numbers than the full network. It would keep other boxes, and nothing
after them could be compared. The trial therefore repeats the decisions of the full run. So do all further runs of the
full network, which are then possible on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from prunelab.structure.tracing.operators import operands

_TAGS = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
_UNTAGGED = {"nms", "is_nonzero"}


@dataclass
class Decisions:
    """Runs the operators with results (a size, a number, a branch) that depend on data, and records the results.

    With ``repeated``, the record of an earlier run, the n-th operator returns what it returned there, on the device of
    its operands. That device may be the meta device, on which the operator itself has no result.
    """

    repeated: Sequence[tuple[str, Any]] = ()
    made: list[tuple[str, Any]] = field(default_factory=list)

    def __call__(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
        """``func(*args, **kwargs)``, or its earlier result."""
        if name == "index":  # the result may carry channels: the mask is repeated, not the result
            chosen = [self._recorded(name, chooser) if _is_mask(chooser) else chooser for chooser in args[1]]
            return func(args[0], chosen, *args[2:], **kwargs)
        earlier = self._earlier(name)
        out = func(*args, **kwargs) if earlier is None else earlier
        self.made.append((name, _copied(out)))
        on_meta = any(value.is_meta for value in operands(*args, *kwargs.values()))
        return tree_map_only(Tensor, lambda value: value.to("meta"), out) if on_meta else out

    def _recorded(self, name: str, mask: Tensor) -> Tensor:
        earlier = self._earlier(name)
        if earlier is not None and earlier.shape == mask.shape:
            mask = earlier  # also on the meta device, whose ``index`` needs the content of a mask
        self.made.append((name, mask))
        return mask

    def _earlier(self, name: str) -> Any:
        """A copy of the result at this place of the earlier run, if that run has the same operator there."""
        place = len(self.made)
        if place < len(self.repeated) and self.repeated[place][0] == name:
            return _copied(self.repeated[place][1])
        return None


def depends_on_data(func: Any, name: str, args: Any) -> bool:
    """Whether the size of the result, or a Python value, depends on the content of the inputs."""
    if name == "index":
        return any(_is_mask(chooser) for chooser in args[1])
    return name in _UNTAGGED or _is_tagged(func)


@cache
def _is_tagged(func: Any) -> bool:
    return any(tag in func.tags for tag in _TAGS)


def _is_mask(chooser: Any) -> bool:
    return isinstance(chooser, Tensor) and chooser.dtype in (torch.bool, torch.uint8)


def _copied(out: Any) -> Any:
    """A new tensor each time: later operators may write into it."""
    if isinstance(out, Tensor):
        return out.clone()
    return type(out)(_copied(part) for part in out) if isinstance(out, tuple | list) else out
