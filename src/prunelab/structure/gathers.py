"""Gathers: reads of channels without weights, by their numbers in a buffer (``ZeroPadShortcut``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunelab.structure.tracing.calls import WhileOutermost
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Trace


@dataclass(frozen=True)
class GroupGather:
    """``index_select`` by ``buffer`` reads a group, with channels at ``positions`` (channels, m) of its input."""

    buffer: str
    positions: NDArray[np.int64] = field(repr=False)


def find_gathers(
    trace: Trace, components: Components, members: list[NDArray[np.int64]]
) -> list[tuple[GroupGather, ...]]:
    """For each group (given by its components), the gathers that read it."""
    found = []
    for channels in members:
        rank = np.full(components.count, -1, dtype=np.int64)
        rank[channels.T] = np.arange(len(channels))
        gathers = []
        for gather in trace.gathers:
            owner = rank[components.label[gather.source]]
            places = np.flatnonzero(owner >= 0)
            order = places[np.argsort(owner[places], kind="stable")]
            if places.size:
                gathers.append(GroupGather(gather.buffer, order.reshape(len(channels), -1)))
        found.append(tuple(gathers))
    return found


@contextmanager
def change_gathered(model: nn.Module, change: Callable[[str, Tensor, int], Tensor]) -> Iterator[None]:
    """Context in which ``index_select`` by an integer buffer of ``model`` reads ``change(buffer's name, input, dim)``
    instead of its input, in forward passes of ``model``."""
    outermost = WhileOutermost(_Changing(model, change))
    handles = (
        model.register_forward_pre_hook(lambda *_: outermost.enter()),
        model.register_forward_hook(lambda *_: outermost.leave(), always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Changing(TorchFunctionMode):
    def __init__(self, model: nn.Module, change: Callable[[str, Tensor, int], Tensor]) -> None:
        super().__init__()
        self._model = model
        self._change = change
        self._names = [
            name for name, buffer in model.named_buffers() if buffer.dtype == torch.int64 and buffer.dim()
        ]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.index_select, Tensor.index_select):
            given = dict(zip(("input", "dim", "index"), args, strict=False)) | kwargs
            source = given.pop("input", given.pop("self", None))
            name = next((n for n in self._names if self._model.get_buffer(n) is given["index"]), None)
            if name is not None and source is not None:
                source = self._change(name, source, int(given["dim"]))
            return func(source, given["dim"], given["index"])
        return func(*args, **kwargs)
