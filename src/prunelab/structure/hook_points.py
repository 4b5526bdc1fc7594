"""Hook points: tensors of a forward pass at which the activations of a group can be read.

A hook point is the tensor that the next layers read, after normalisation and activation function and before pooling,
flattening or concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.structure.tracing.calls import Call, Calls, WhileOutermost, following
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Marked, Trace
from prunelab.structure.wrappers import uncompiled


@dataclass(frozen=True)
class HookPoint:
    """The output of call number ``call`` in ``module``, with ``width`` channels along ``dim``."""

    module: str
    call: int
    dim: int
    width: int


@dataclass(frozen=True)
class GroupHookPoint:
    """The positions (channels, m) of a group's channels along ``hook_point.dim``."""

    hook_point: HookPoint
    positions: NDArray[np.int64] = field(repr=False)


def find_hook_points(
    trace: Trace, components: Components, members: list[NDArray[np.int64]]
) -> list[tuple[GroupHookPoint, ...]]:
    """For each group (given by its components), the hook points of its activations.

    From every contraction that reads a group, the trace is followed back, through pooling, views and concatenations, to
    the nearest elementwise result. A hook point that is computed from another one of the same group only by elementwise
    functions and products is omitted: values that are zero at the first are zero at the second.
    """
    group_of = np.full(components.count, -1, dtype=np.int64)
    for number, channels in enumerate(members):
        group_of[channels] = number
    found: list[dict[int, Marked]] = [{} for _ in members]
    for read in trace.reads:
        ids = read.source.dims[read.dim]
        if ids is None:
            continue
        wanted = {number for number in np.unique(group_of[components.label[ids]]).tolist() if number >= 0}
        for marked in _origins(read.source):
            for number in wanted & _carried(marked, components, group_of):
                found[number].setdefault(id(marked), marked)
    hook_points = []
    for number, candidates in enumerate(found):
        first = [marked for marked in candidates.values() if not _derived(marked, candidates)]
        columns = members[number].reshape(len(members[number]), -1).T  # those of a member each
        located = [_located(marked, components, channels) for marked in first for channels in columns]
        hook_points.append(tuple(hook_point for hook_point in located if hook_point is not None))
    return hook_points


def branch_hook_point(marked: Marked) -> HookPoint | None:
    """The hook point of a whole activation (the branch of a residual block)."""
    dims = [dim for dim, ids in enumerate(marked.dims) if ids is not None]
    if marked.call is None or not dims:
        return None
    return HookPoint(*marked.call, dims[0], marked.shape[dims[0]])


def _origins(marked: Marked) -> list[Marked]:
    """The nearest observable elementwise results, of which ``marked`` is a rearrangement."""
    stack, origins, seen = [(marked, marked)], [], set()
    while stack:
        current, observable = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current.call is not None:
            observable = current
        if current.kind == "transport" and current.parents:
            stack.extend((parent, observable) for parent in current.parents if parent.carries)
        elif observable.call is not None:
            origins.append(observable)
    return origins


def _carried(marked: Marked, components: Components, group_of: NDArray[np.int64]) -> set[int]:
    """The groups with channels in ``marked``."""
    return {
        number
        for ids in marked.dims
        if ids is not None
        for number in np.unique(group_of[components.label[ids]]).tolist()
        if number >= 0
    }


def _derived(marked: Marked, candidates: dict[int, Marked]) -> bool:
    """Whether ``marked`` is an elementwise function or product of another candidate."""
    stack = list(marked.parents) if marked.kind in ("pointwise", "mul") else []
    while stack:
        current = stack.pop()
        if id(current) in candidates:
            return True
        if current.kind in ("pointwise", "mul") and current.activation and current.op != "native_batch_norm":
            stack.extend(current.parents)
    return False


def _located(marked: Marked, components: Components, channels: NDArray[np.int64]) -> GroupHookPoint | None:
    """The positions of ``channels`` in ``marked``; None if the channels do not occur equally often."""
    for dim, ids in enumerate(marked.dims):
        if ids is None or marked.call is None:
            continue
        label = components.label[ids]
        rank = np.full(components.count, -1, dtype=np.int64)
        rank[channels] = np.arange(channels.size)
        owner = rank[label]
        places = np.flatnonzero(owner >= 0)
        if places.size == 0 or places.size % channels.size:
            continue
        order = places[np.argsort(owner[places], kind="stable")].reshape(channels.size, -1)
        if (owner[order] == np.arange(channels.size)[:, None]).all():
            return GroupHookPoint(HookPoint(*marked.call, dim, marked.shape[dim]), order)
    return None


@contextmanager
def observe(model: nn.Module, observers: Mapping[HookPoint, Callable[[Tensor, int], None]]) -> Iterator[None]:
    """Context in which every forward pass of ``model`` calls ``observers[hook_point](tensor, dim)`` for each hook
    point.

    The tensor is the one that the network uses next (part of the autograd graph if gradients are enabled), with its
    channels along ``dim``. It may come from a module or from functional code. ``model`` must be the analysed module.
    """
    with uncompiled(model) as network, _observed(network, observers):
        yield


@contextmanager
def _observed(
    model: nn.Module, observers: Mapping[HookPoint, Callable[[Tensor, int], None]]
) -> Iterator[None]:
    by_call: dict[Call, list[tuple[HookPoint, Callable[[Tensor, int], None]]]] = {}
    for hook_point, observer in observers.items():
        by_call.setdefault((hook_point.module, hook_point.call), []).append((hook_point, observer))

    def returned(call: Call, out: Any) -> None:
        for hook_point, observer in by_call.get(call, ()):
            if (
                not isinstance(out, Tensor)
                or out.dim() <= hook_point.dim
                or out.shape[hook_point.dim] != hook_point.width
            ):
                raise UserError(
                    f"call {hook_point.call} in {hook_point.module or 'the network'} does not return "
                    f"{hook_point.width} channels: the control flow differs from that of the analysed pass. Analyse "
                    "the network with an example input of the same kind."
                )
            observer(out, hook_point.dim)

    calls = Calls(returned)
    outermost = WhileOutermost(calls)

    def enter(path: str, given: Any) -> None:
        if not path:
            outermost.enter()

    def leave(path: str, out: Any) -> None:
        if not path:
            outermost.leave()

    with following(model, calls, enter, leave):
        yield


def channels_first(tensor: Tensor, dim: int) -> Tensor:
    """A view of ``tensor`` as (N, C, ...)."""
    return tensor if dim == 1 else tensor.movedim(dim, 1)
