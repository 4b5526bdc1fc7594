"""Names, operands and constants of ATen operator calls."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from prunelab.structure.tracing.marks import Settings

# The constants of these may have been computed from a width (x * width ** -0.5).
_ARITHMETIC = {
    f"{name}{ending}" for name in ("add", "sub", "rsub", "mul", "div", "pow") for ending in ("", "_")
}


@cache
def name_of(func: Any) -> str:
    """The name of an operator, without its overload."""
    return str(func.overloadpacket.__name__)


def operands(*values: Any) -> list[Tensor]:
    """The tensors among an operator's arguments or results, which nest one level deep at most."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors.extend(each for each in value if isinstance(each, Tensor))
    return tensors


def settings(name: str, args: Any) -> Settings | None:
    """Stride, padding and dilation of a convolution, whether it is transposed, and its groups."""
    if name == "deform_conv2d":
        pairs = [(int(args[place]), int(args[place + 1])) for place in (5, 7, 9)]
        return pairs[0], pairs[1], pairs[2], False, int(args[11])
    if name != "convolution":
        return None
    stride, padding, dilation = (tuple(int(value) for value in args[place]) for place in (3, 4, 5))
    return stride, padding, dilation, bool(args[6]), int(args[8])


def arithmetic(name: str, args: Any) -> tuple[float, ...]:
    """The constants of elementwise arithmetic, and the value of ``torch.tensor(number)``."""
    if name == "lift_fresh":
        with torch._C.DisableTorchFunction():  # reading the value must not count as a call of the network
            known = args[0].numel() == 1 and not args[0].is_meta and args[0].isfinite().all()
            return (float(args[0]),) if known else ()
    return tuple(value for value in args if type(value) in (int, float)) if name in _ARITHMETIC else ()
