"""Cached module outputs: the part of a network before a hook point is computed only once.

In a pass that changes activations at some hook points, the modules that finish before the first of them compute the
same as before. ``Schedule`` records in one ordinary pass the order of modules and hook points and the readers of each
output; ``Schedule.before`` returns the modules that can be skipped. This works with any network; in one without
submodules nothing is skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from prunelab.structure import HookPoint, observe

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Prefix:
    """The outermost modules that finish before a hook point.

    read: modules whose outputs are read later in the pass.
    unread: outputs (1, ...) of the other modules for one image, of which only the shape is used.
    """

    read: tuple[str, ...]
    unread: Mapping[str, Tensor]

    @contextmanager
    def skipped(self, model: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[Callable[[Tensor], None]]:
        """Context in which the modules return cached outputs without being run.

        ``outputs`` are those of ``read`` for some images. The function that the context yields selects the images of
        the next pass by their indices (P,).
        """
        current: dict[str, Tensor] = {}

        def choose(images: Tensor) -> None:
            for path in self.read:
                current[path] = outputs[path].index_select(0, images)
            for path, output in self.unread.items():
                current[path] = output.expand(len(images), *output.shape[1:])

        def replayed(path: str) -> Callable[[Forward], Forward]:
            return lambda forward: lambda *args, **kwargs: current[path]

        with forwards(model, {path: replayed(path) for path in (*self.read, *self.unread)}):
            yield choose


@dataclass(frozen=True)
class Schedule:
    """The order of events in one pass.

    started: module -> its start, for the same modules as ``done``.
    done: module -> its end, for modules that ran once and returned one tensor with a row per image.
    outputs: module -> its output (1, ...) for one image.
    hook_points: hook point -> its time.
    reads: (modules whose output a call read, modules that were running) for every call that read one.
    """

    started: Mapping[str, int]
    done: Mapping[str, int]
    outputs: Mapping[str, Tensor]
    hook_points: Mapping[HookPoint, int]
    reads: frozenset[tuple[frozenset[str], frozenset[str]]]

    def before(self, hook_points: Collection[HookPoint]) -> Prefix:
        """The modules that finish before the first of these hook points."""
        return self.until(min(self.hook_points[hook_point] for hook_point in hook_points))

    def through(self, module: str) -> Prefix:
        """The modules that have finished when this module (one of ``done``) finishes."""
        return self.until(self.done[module] + 1)

    def until(self, end: int) -> Prefix:
        """The modules that finish before a point in time, such as one of ``started``."""
        done = {path for path, time in self.done.items() if time < end}
        outermost = {path for path in done if not done & set(_ancestors(path))}
        read = {
            path for paths, running in self.reads if not running & outermost for path in paths & outermost
        }
        return Prefix(tuple(sorted(read)), {path: self.outputs[path] for path in sorted(outermost - read)})


def record_schedule(model: nn.Module, images: Tensor, hook_points: Collection[HookPoint]) -> Schedule:
    """The schedule of a network, from one pass with the first image."""
    recorder = _Recorder()
    paths = [path for path, _ in model.named_modules() if path]
    observers = {hook_point: recorder.tapped(hook_point) for hook_point in hook_points}
    with (
        forwards(model, {path: recorder.watched(path) for path in paths}),
        recorder,
        observe(model, observers),
    ):
        model(images[:1].repeat(2, *[1] * (images.dim() - 1)))  # two rows identify the image dimension
    return recorder.schedule()


@contextmanager
def record_outputs(model: nn.Module, paths: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Context in which every pass of the network stores copies of these modules' outputs in the dict."""
    outputs: dict[str, Tensor] = {}

    def kept(path: str) -> Callable[[Forward], Forward]:
        def wrap(forward: Forward) -> Forward:
            def run(*args: Any, **kwargs: Any) -> Any:
                out = forward(*args, **kwargs)
                outputs[path] = out.clone()  # later operations may change it in place
                return out

            return run

        return wrap

    with forwards(model, {path: kept(path) for path in paths}):
        yield outputs


class _Recorder(TorchFunctionMode):
    """Records when modules and hook points are reached, and which calls read the output of which module."""

    def __init__(self) -> None:
        super().__init__()
        self._time = 0
        self._running: list[str] = []
        self._runs: Counter[str] = Counter()
        self._started: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._outputs: dict[str, Tensor] = {}
        self._made_by: dict[int, set[str]] = {}
        self._alive: list[Tensor] = []  # keeps tensors alive, so that no id is reused
        self._taps: dict[HookPoint, int] = {}
        self._reads: set[tuple[frozenset[str], frozenset[str]]] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made_by = [self._made_by.get(id(value), set()) for value in tree_leaves((args, kwargs or {}))]
        paths = frozenset().union(*made_by)
        if paths:
            self._reads.add((paths, frozenset(self._running)))
        return func(*args, **(kwargs or {}))

    def tapped(self, hook_point: HookPoint) -> Callable[[Tensor, int], None]:
        def note(tensor: Tensor, dim: int) -> None:
            self._time += 1
            self._taps.setdefault(hook_point, self._time)

        return note

    def watched(self, path: str) -> Callable[[Forward], Forward]:
        def wrap(forward: Forward) -> Forward:
            def run(*args: Any, **kwargs: Any) -> Any:
                self._running.append(path)
                self._time += 1
                self._started[path] = self._time
                out = forward(*args, **kwargs)
                self._running.pop()
                self._leave(path, out, tree_leaves((args, kwargs)))
                return out

            return run

        return wrap

    def _leave(self, path: str, out: Any, given: list[Any]) -> None:
        self._time += 1
        self._runs[path] += 1
        passed_on = any(out is value for value in given)  # nothing is saved by skipping it
        if isinstance(out, Tensor) and out.dim() > 0 and len(out) == 2 and not passed_on:
            self._done[path] = self._time
            with torch._C.DisableTorchFunction():
                self._outputs[path] = out[:1].clone()
            self._made_by.setdefault(id(out), set()).add(path)
            self._alive.append(out)

    def schedule(self) -> Schedule:
        once = {path: time for path, time in self._done.items() if self._runs[path] == 1}
        started = {path: self._started[path] for path in once}
        return Schedule(started, once, self._outputs, self._taps, frozenset(self._reads))


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


@contextmanager
def forwards(model: nn.Module, wrappers: Mapping[str, Callable[[Forward], Forward]]) -> Iterator[None]:
    """Context in which the ``forward`` of these modules is replaced by its wrapper."""
    with ExitStack() as stack:
        for path, wrap in wrappers.items():
            module = model.get_submodule(path)
            own = module.__dict__.get("forward")  # set on the instance by other code
            stack.callback(_restore, module, own)
            module.__dict__["forward"] = wrap(module.forward)
        yield


def _restore(module: nn.Module, own: Forward | None) -> None:
    if own is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = own
