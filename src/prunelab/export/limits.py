"""Limits for a network that is built from a file of unknown origin.

The builder arguments in ``plan.json`` can describe a network of any size. It is therefore compared with the plan and
with the header of the weights file (kilobytes) on the meta device, which allocates nothing, before it is built.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from prunelab.errors import UserError
from prunelab.export.header import Header
from prunelab.models.origin import Origin
from prunelab.structure import PruningPlan
from prunelab.structure.plan_steps import Plan, steps_of
from prunelab.structure.surgery.substituting import apply_steps

SHRINKAGE = 16
"""How many times larger than in the weights file a dimension, or all tensors together, may be in the full network."""

LEAST_ARGUMENT = 4096
LEAST_ELEMENTS = 2**28
"""Always allowed: integer arguments up to this one, and this number of elements in all tensors (1 GiB)."""

LEAST_TENSORS = 10_000
TENSORS_PER_TENSOR = 4
TENSORS_PER_BLOCK = 1_000
"""Tensors of the full network: for each tensor in the weights file, and for each dropped block."""

MODULES_PER_TENSOR = 10


@dataclass(frozen=True)
class Limits:
    """The largest full network that a plan and the header of its weights can belong to."""

    argument: int
    tensors: int
    elements: int

    @classmethod
    def of(cls, header: Header, plan: Plan) -> Limits:
        """The limits for a network whose pruned weights have this ``header``."""
        sizes = [size for entry in header.values() if entry.elements for size in entry.shape]
        dropped = sum(len(step.replaced) for step in steps_of(plan) if isinstance(step, PruningPlan))
        tensors = TENSORS_PER_TENSOR * len(header) + TENSORS_PER_BLOCK * dropped
        elements = sum(entry.elements for entry in header.values())
        return cls(
            argument=max(LEAST_ARGUMENT, SHRINKAGE * max(sizes, default=0)),
            tensors=max(LEAST_TENSORS, tensors),
            elements=max(LEAST_ELEMENTS, SHRINKAGE * elements),
        )

    @contextmanager
    def enforced(self, name: str) -> Iterator[None]:
        """Raise UserError as soon as the network ``name``, which is built inside, exceeds the limits."""
        thread = threading.get_ident()
        counted = {"tensors": 0, "elements": 0, "modules": 0}
        most = {
            "tensors": self.tensors,
            "elements": self.elements,
            "modules": MODULES_PER_TENSOR * self.tensors,
        }

        def count(**found: int) -> None:
            for unit, number in found.items():
                counted[unit] += number
                if counted[unit] > most[unit] and threading.get_ident() == thread:
                    raise UserError(
                        f"The arguments of {name} in plan.json describe a network with more than {most[unit]} {unit}, "
                        "which is too large for the plan and the weights file. If the files are yours, build the full "
                        "network yourself: prunelab.load(folder, model=...)."
                    )

        def on_tensor(_: nn.Module, __: str, tensor: Tensor | None) -> None:
            if tensor is not None:
                count(tensors=1, elements=tensor.numel())

        def on_module(_: nn.Module, __: str, ___: nn.Module | None) -> None:
            count(modules=1)

        handles = [
            torch_module.register_module_parameter_registration_hook(on_tensor),
            torch_module.register_module_buffer_registration_hook(on_tensor),
            torch_module.register_module_module_registration_hook(on_module),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def build_checked(origin: Origin, plan: Plan, header: Header) -> nn.Module:
    """The full network of ``origin``, after its pruned shapes were found to be those in ``header``.

    Raises:
        UserError: an argument or the network is too large for the plan and the weights, or they do not fit it.
    """
    limits = Limits.of(header, plan)
    for name, value in _numbers(origin.arguments):
        if abs(value) > limits.argument:
            raise UserError(
                f"{name}={value} among the arguments of {origin.name} in plan.json is too large for the plan and the "
                f"weights file: at most {limits.argument}. If the files are yours, build the full network yourself: "
                "prunelab.load(folder, model=...)."
            )
    with limits.enforced(origin.name):
        try:
            with torch.device("meta"):
                shell = origin.build()
        except NotImplementedError:  # the constructor reads values of tensors; the limits were applied
            shell = None
    if shell is not None:
        apply_steps(shell, steps_of(plan))
        header.require_fit(shell)
    with limits.enforced(origin.name):
        return origin.build()


def _numbers(values: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """All integers in nested arguments, and the lengths of all lists, with their names."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _numbers(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, Iterable) and not isinstance(values, str):
        entries = list(values)
        yield f"len({prefix})", len(entries)
        for index, value in enumerate(entries):
            yield from _numbers(value, f"{prefix}[{index}]")
    elif isinstance(values, int):
        yield prefix, values
