"""A network to be traced: its tensors by name on the meta device, and its example input."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import TreeSpec, tree_map, tree_structure

import prunelab
from prunelab.errors import UserError
from prunelab.structure.surgery.apply import named_tensors
from prunelab.structure.surgery.temporary import call_with
from prunelab.structure.tracing.data_decisions import Decisions
from prunelab.structure.tracing.evaluation import (
    attributes_on_meta,
    evaluation_mode,
    has_tensor_attributes,
    training_mode,
)
from prunelab.structure.tracing.marks import Place, Trace
from prunelab.structure.tracing.outputs import Outputs, selected, tensors_in
from prunelab.structure.tracing.trace import Mode, Tracer, run
from prunelab.structure.wrappers import require_weights

_TORCH, _PRUNELAB = (f"{Path(file).parent}{os.sep}" for file in (torch.__file__, prunelab.__file__))
MANY_GROUPS = 8
"""Least number of groups of a group normalisation from which whole groups are removed (exact, and not too coarse)."""


class Network:
    """Runs ``model`` on ``example_input`` under a tracer: on the meta device if that is possible, else on its device.
    A program that needs values for its decisions only is run there once, and then on the meta device.

    ``exact``, ``cardinality`` and ``outputs``: see ``analyze``.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any,
        exact: bool = False,
        cardinality: bool = False,
        outputs: Outputs | None = None,
    ) -> None:
        self.model, self.exact = model, exact
        require_weights(model)
        self.tensors = named_tensors(model)
        self.args, self.kwargs = arguments(example_input)
        self.images = _images(example_input)
        self.grouped = convolutions(model) | group_norms(model)
        self.group_wise = group_wise_norms(model, 2 if exact else MANY_GROUPS)
        if cardinality:
            self.group_wise |= grouped_convolutions(model)
        self.kernels = kernels(model)
        self._fixed = projected_states(model)
        self.carry: dict[Place, int] = {}
        self._contracted: set[Place] = set()
        self.mode: Mode = evaluation_mode
        self._outputs = outputs
        self._form: tuple[type, TreeSpec] | None = None
        self.decided: list[tuple[str, Any]] = []
        self._shapes: list[torch.Size] = []
        self._use_meta()

    def _use_meta(self) -> None:
        self.meta = True
        self._attributes_too = False
        made: dict[int, Tensor] = {}
        for tensor in self.tensors.values():
            made.setdefault(id(tensor), torch.empty_like(tensor, device="meta", requires_grad=False))
        self.stand_ins = {name: made[id(tensor)] for name, tensor in self.tensors.items()}

    def _use_own_device(self) -> None:
        self.meta = False
        # A forward pass in training mode may write into buffers.
        made = {
            id(tensor): tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
            for tensor in self.tensors.values()
        }
        self.stand_ins = {name: made[id(tensor)] for name, tensor in self.tensors.items()}

    def trace(self) -> Trace:
        """Trace the full network.

        If a view that splits channels freezes all of them, it is traced with another part as the carrier. If nothing
        can be removed from a module group by group, it is traced without.
        """
        trace = self._run_on_meta() or self._run_on_own_device()
        while True:
            self._contracted |= trace.contracted
            stuck, joined = _stuck(trace, self.carry, self._contracted), self._joined(trace)
            if not stuck and not joined:
                return trace
            self.carry.update(stuck)
            self.group_wise -= joined
            trace = self._run()

    def in_training(self) -> Network:
        """The same network, whose runs are in training mode."""
        other = copy(self)
        other.mode, other.decided = training_mode, []
        return other

    def trace_again(self, earlier: Trace) -> Trace:
        """Trace the network in its mode, with the ids of ``earlier``, its trace in another mode."""
        if not self.meta:
            return self._run(earlier)
        return self._run_on_meta(earlier) or self._run_on_own_device(earlier)

    def _run_on_meta(self, earlier: Trace | None = None) -> Trace | None:
        """Trace the network on the meta device, first with tensors that are plain attributes of modules (anchors of an
        earlier call) where they are, then with these on the meta device; None if neither is possible."""
        self._use_meta()
        for self._attributes_too in (False, True):
            if self._attributes_too and not has_tensor_attributes(self.model):
                break
            try:
                return self._run(earlier)
            except UserError:
                raise
            except Exception:  # the program depends on values, or on a device
                continue
        return None

    def _run_on_own_device(self, earlier: Trace | None = None) -> Trace:
        """Trace the network where its weights are, because its program depends on values.

        If the program needs no other values than the decisions of this run (which boxes are kept), it is traced again
        on the meta device with the same decisions, and so are all further runs.
        """
        self._use_own_device()
        self.decided = []
        try:
            trace = self._run(earlier)
        except UserError:
            raise
        except Exception:
            if earlier is None:
                self._require_runnable()
            raise
        kept, result = (self.stand_ins, self.decided), self._result()
        repeated = self._run_on_meta(earlier)
        if repeated is not None and self._result() == result:
            return repeated
        self.meta = False
        self.stand_ins, self.decided = kept
        return trace

    def _result(self) -> object:
        """The operators that decided in the newest run, and the shapes of its outputs."""
        return [name for name, _ in self.decided], self._shapes

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """Context for a run of ``module``, the network or a part, in this mode."""
        with self.mode(module):
            if self.meta and self._attributes_too:
                attributes_on_meta(module)
            yield

    def _require_runnable(self) -> None:
        """Raises UserError if the network itself, without a tracer, cannot run on the example input."""
        args, kwargs = self.inputs()
        try:
            with self.mode(self.model), torch.no_grad():
                call_with(self.model, self.stand_ins, args, kwargs)
        except Exception as error:
            raise UserError(
                f"the network {type(self.model).__name__} cannot run on an input of shape "
                f"{_shapes(self.args, self.kwargs)}: {type(error).__name__}: {_first_line(error)}"
                f"{_where(error)}. Give an example input that the network accepts (image size, number of channels, all "
                "arguments of forward)."
            ) from error

    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example input, positional and by name, on the device of the runs."""
        device = (
            "meta" if self.meta else next((t.device for t in self.stand_ins.values()), torch.device("cpu"))
        )
        args, kwargs = on_device((self.args, self.kwargs), device)
        return args, kwargs

    def _run(self, earlier: Trace | None = None) -> Trace:
        tracer = Tracer(
            self.stand_ins.items(),
            lambda name: self.tensors[name],
            self.carry,
            self.kernels,
            Decisions(self.decided if self.meta else ()),
            group_wise=self.group_wise,
            earlier=earlier,
        )
        args, kwargs = self.inputs()
        trace, returned = run(
            self.model,
            tracer,
            lambda: call_with(self.model, self.stand_ins, args, kwargs),
            self.running,
            self._chosen,
        )
        self.decided = tracer.decisions.made
        self._shapes = [value.shape for value in tensors_in(returned)]
        for origin in trace.ids.origins:
            if origin.tensor in self._fixed:
                trace.ids.freeze(origin.ids, self._fixed[origin.tensor])
        return trace

    def _chosen(self, returned: Any) -> Any:
        """The chosen outputs; all of them if training mode returns other outputs than evaluation mode."""
        form = type(returned), tree_structure(returned)
        if self.mode is evaluation_mode:
            self._form = form
        if self._outputs is None or form != self._form:
            return returned
        return selected(returned, self._outputs)

    def _joined(self, trace: Trace) -> frozenset[str]:
        """The modules from which at most one whole group could be removed.

        Also normalisations that remain inexact and have fewer groups than channels per group.
        """
        losing = {key: ids for key, ids in trace.numbers.items() if key[0] in self.group_wise}
        if not losing:
            return frozenset()
        components = trace.ids.components()
        joined = set()
        for (path, _), ids in losing.items():
            module = self.model.get_submodule(path)
            free = set(components.label[ids].tolist()) - components.frozen.keys()
            if isinstance(module, nn.GroupNorm) and module.num_groups**2 < module.num_channels:
                free -= components.inexact.keys()
            if len(free) < 2:
                joined.add(path)
        return frozenset(joined)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Each parameter once, by its first name."""
        return {name: tuple(parameter.shape) for name, parameter in self.model.named_parameters()}

    def kinds(self) -> dict[str, str]:
        """The class of each module by its path; for a layer with a parametrisation its original class."""
        return {
            path: parametrize.type_before_parametrizations(module).__name__
            for path, module in self.model.named_modules()
        }

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """All names of each parameter, by its first name."""
        names: dict[int, list[str]] = {}
        for name, tensor in self.tensors.items():
            names.setdefault(id(tensor), []).append(name)
        return {found[0]: tuple(found) for found in names.values()}


def convolutions(model: nn.Module) -> frozenset[str]:
    """The paths of convolution modules."""
    return frozenset(
        path for path, module in model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)
    )


def grouped_convolutions(model: nn.Module) -> frozenset[str]:
    """The paths of convolutions of several groups of several channels."""
    return frozenset(
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups < module.in_channels
    )


def group_norms(model: nn.Module) -> frozenset[str]:
    """The paths of group normalisations."""
    return frozenset(path for path, module in model.named_modules() if isinstance(module, nn.GroupNorm))


def group_wise_norms(model: nn.Module, least: int) -> frozenset[str]:
    """The paths of group normalisations of at least ``least`` groups, from which whole groups are removed."""
    return frozenset(
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.GroupNorm) and module.num_groups >= least
    )


def kernels(model: nn.Module) -> set[str]:
    """The weights of convolutions, also those with a parametrisation (weight normalisation)."""
    inside = tuple(f"{path}." if path else "" for path in convolutions(model))
    return {name for name in named_tensors(model) if name.startswith(inside)}


def projected_states(model: nn.Module) -> dict[str, str]:
    """The weights of recurrent layers that stay whole, each with the reason."""
    return {
        f"{path}.{name}".lstrip(
            "."
        ): f"{path}.proj_size must stay below hidden_size: PyTorch compares their values"
        for path, module in model.named_modules()
        if isinstance(module, nn.RNNBase) and module.proj_size
        for name, _ in module.named_parameters()
        if name.startswith(("weight_hh", "weight_hr"))
    }


def _stuck(trace: Trace, carry: Mapping[Place, int], contracted: Set[Place]) -> dict[Place, int]:
    """For each view that splits channels and freezes all of them, or whose result needs them at another part: the next
    part to carry them (from the right).

    After all parts, those in ``contracted`` return to the first one, where queries and keys are then tied.
    """
    if not trace.splits:
        return {}
    tried = {place: carry.get(place, 0) for place in trace.splits}
    left = {
        place: tried[place] + 1
        for place, (_, places) in trace.splits.items()
        if tried[place] + 1 < places + (place in contracted)
    }
    wanted = {place: part for place, part in left.items() if place in trace.to_other_part}
    if wanted:  # the others may be frozen because of these
        return wanted
    components = trace.ids.components()
    return {
        place: part
        for place, part in left.items()
        if set(components.label[trace.splits[place][0]].tolist()) <= components.frozen.keys()
    }


def arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one forward call."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple):
        return example_input, {}
    return (example_input,), {}


def on_device(values: Any, device: torch.device | str) -> Any:
    """``values`` with all nested tensors on ``device``."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)


def _images(example_input: Any) -> int:
    """The batch size: the length of the first input, or of a list of images (C, H, W)."""
    args, kwargs = arguments(example_input)
    for value in (*args, *kwargs.values()):
        if isinstance(value, list | tuple) and value and all(_is_image(each) for each in value):
            return len(value)
    tensors = tensors_in((args, kwargs))
    if not tensors:
        raise UserError(
            "the example input contains no tensor; give a batch such as torch.zeros(1, 3, 32, 32)"
        )
    if tensors[0].dim() < 2 or 0 in tensors[0].shape:
        raise UserError(
            f"the example input has shape {tuple(tensors[0].shape)}; give a batch of at least one image, such as "
            "torch.zeros(1, 3, 32, 32)"
        )
    return int(tensors[0].shape[0])


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point() and value.numel() > 0


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return ", ".join("x".join(map(str, value.shape)) for value in tensors_in((args, kwargs)))


def _where(error: Exception) -> str:
    """The line of the network's code that raised an error, if it is not in PyTorch or prunelab."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_TORCH, _PRUNELAB, "<"))
    ]
    return f" (in {frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def error_line(error: Exception) -> str:
    """The class of an error and the first line of its message, for a reason."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".rstrip(": ")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
