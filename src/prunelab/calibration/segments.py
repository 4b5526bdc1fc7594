"""Running a network segment by segment, without repeating earlier segments.

A segment ends when a module finishes. The outputs of finished modules that later code reads are stored for every batch,
so that a segment can be run any number of times with different weights, at the cost of that segment only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.methods.importance.prefix import Prefix, Schedule, forwards, record_schedule
from prunelab.structure.layer_calls import Watch, parameter_names


@dataclass(frozen=True)
class Segment:
    """Layers (names of weights, in forward order) that run before the module ``stop`` finishes (None: the network)."""

    layers: tuple[str, ...]
    stop: str | None


def find_segments(
    networks: Sequence[nn.Module], images: Tensor, layers: Collection[str], most: int
) -> list[Segment]:
    """Segments of the first network, each with about ``most`` of these layers, such that all networks can stop there.

    A segment is a module; one with more layers is divided into its submodules if it has some that ran once.
    """
    schedules = [record_schedule(network, images, ()) for network in networks]
    stops = set.intersection(*(set(schedule.done) for schedule in schedules))
    times, done = _course(networks[0], images, layers)
    chosen = _units(networks[0], "", {path: done[path] for path in stops if path in done}, times, most)
    segments, taken = [], set[str]()
    for stop in sorted(chosen, key=lambda path: done[path][1]):
        own = tuple(name for name in layers if name not in taken and times[name] < done[stop][1])
        if own:
            segments.append(Segment(own, stop))
            taken.update(own)
    rest = tuple(name for name in layers if name not in taken)
    return [*segments, Segment(rest, None)] if rest else segments


def _course(
    model: nn.Module, images: Tensor, layers: Collection[str]
) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """The time of each layer's call, and of each module's start and end."""
    clock = 0
    times: dict[str, int] = {}
    began: dict[str, int] = {}
    done: dict[str, tuple[int, int]] = {}

    def tick() -> int:
        nonlocal clock
        clock += 1
        return clock

    def entered(name: str, use: Any) -> None:
        times.setdefault(name, tick())

    def begin(path: str) -> Callable[..., None]:
        return lambda module, given: began.__setitem__(path, tick())

    def end(path: str) -> Callable[..., None]:
        return lambda module, given, out: done.__setitem__(path, (began[path], tick()))

    with ExitStack() as hooks, torch.no_grad(), Watch(parameter_names(model), entered):
        for path, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(begin(path)).remove)
            hooks.callback(module.register_forward_hook(end(path)).remove)
        model(images)
    return {name: times[name] for name in layers}, done


def _units(
    model: nn.Module, path: str, done: Mapping[str, tuple[int, int]], times: Mapping[str, int], most: int
) -> list[str]:
    """Modules below ``path`` (or itself) to stop after."""

    def inside(name: str) -> int:
        begin, end = done[name]
        return sum(begin < time < end for time in times.values())

    found: list[str] = []
    for name, _ in model.get_submodule(path).named_children():
        child = f"{path}.{name}" if path else name
        if child in done and inside(child) <= most:
            found.append(child)
        else:
            below = _units(model, child, done, times, most)
            found.extend(below if below or child not in done else [child])
    return found


class Stopped(Exception):
    """Ends a pass after its last segment."""


class Course:
    """A network that has processed a set of batches up to the end of some segment.

    model: the network, in evaluation mode, on the device of the batches.
    batches: inputs of the network.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor], example: Tensor) -> None:
        self.model, self._batches = model, batches
        self._schedule: Schedule = record_schedule(model, example, ())
        self._prefix = Prefix((), {})
        self._kept: list[dict[str, Tensor]] = [{} for _ in batches]

    def run(self, stop: str | None) -> Iterator[int]:
        """Run the segment that ends with ``stop`` on one batch after the other; yields the number of each batch
        before."""
        for number in range(len(self._batches)):
            yield number
            self._pass(number, stop, {})

    def output(self, number: int) -> Any:
        """The output of the network for a batch (None if the pass is stopped before), with gradients if enabled."""
        return self._pass(number, None, {}, gradients=torch.is_grad_enabled())

    def advance(self, stop: str | None) -> None:
        """Run the segment on all batches; later passes start after it."""
        if stop is None:
            for _ in self.run(None):
                pass
            return
        prefix = self._schedule.through(stop)
        new = set(prefix.read) - set(self._kept[0] if self._kept else ())
        for number in range(len(self._batches)):
            found: dict[str, Tensor] = {}
            self._pass(number, stop, found, new)
            kept = {**self._kept[number], **found}
            self._kept[number] = {path: kept[path] for path in prefix.read}
        self._prefix = prefix

    def _pass(
        self,
        number: int,
        stop: str | None,
        found: dict[str, Tensor],
        wanted: Collection[str] = (),
        gradients: bool = False,
    ) -> Any:
        images = self._batches[number]
        wrappers: dict[str, Callable[[Any], Any]] = {}
        for path in self._prefix.read:
            wrappers[path] = _returns(self._kept[number][path])
        for path, output in self._prefix.unread.items():
            wrappers[path] = _returns(output.expand(len(images), *output.shape[1:]))
        for path in {*wanted, *([] if stop is None else [stop])}:
            wrappers[path] = _keeps(path, found if path in wanted else None, path == stop)
        with torch.set_grad_enabled(gradients), forwards(self.model, wrappers), suppress(Stopped):
            return self.model(images)
        return None


def _returns(output: Tensor) -> Callable[[Any], Any]:
    return lambda forward: lambda *args, **kwargs: output.clone() if output.is_contiguous() else output


def _keeps(path: str, found: dict[str, Tensor] | None, stops: bool) -> Callable[[Any], Any]:
    def wrap(forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            if found is not None:
                found[path] = out if stops else out.clone()  # later operations may change it in place
            if stops:
                raise Stopped
            return out

        return run

    return wrap
