"""Lookups in the steps of a trace: by module, by call, and by the groups whose channels a step handles."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from prunelab.structure.groups import Partition
from prunelab.structure.tracing.calls import Call
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Step, Trace


class StepIndex:
    """The steps of ``trace`` by module and by call, and the groups of ``parts`` at each of them."""

    def __init__(self, model: nn.Module, trace: Trace, components: Components, parts: Partition) -> None:
        self._model, self._components, self._parts = model, components, parts
        self._by_module: dict[str, list[Step]] = {}
        self._by_call: dict[Call, list[Step]] = {}
        self._numbers = {id(step): number for number, step in enumerate(trace.steps)}
        self._groups_by_ids: dict[int, frozenset[int]] = {}
        self._by_parameter: dict[str, set[int]] = {}
        for number, group in enumerate(parts.groups):
            for found in group.producers:
                self._by_parameter.setdefault(found.parameter, set()).add(number)
        for step in trace.steps:
            self._by_module.setdefault(step.module, []).append(step)
            self._by_call.setdefault(step.call, []).append(step)

    def number(self, step: Step) -> int:
        """The position of ``step`` in the trace."""
        return self._numbers[id(step)]

    def module(self, step: Step) -> nn.Module:
        """The module in which ``step`` runs."""
        return self._model.get_submodule(step.module)

    def in_call(self, step: Step) -> list[Step]:
        """The steps of the Python-level call around ``step``."""
        return self._by_call[step.call]

    def alike(self, step: Step) -> Iterator[Step]:
        """The same operator at the same place of other modules of the same class."""
        ordinal = self._by_module[step.module].index(step)
        kind = type(self.module(step))
        for module, steps in self._by_module.items():
            if module == step.module or type(self._model.get_submodule(module)) is not kind:
                continue
            if len(steps) > ordinal and steps[ordinal].op == step.op:
                yield steps[ordinal]

    def groups(self, ids: Ids) -> frozenset[int]:
        """The groups of ``ids``, an array of the trace."""
        found = self._groups_by_ids.get(id(ids))
        if found is None:
            found = frozenset(self._parts.group_of[self._components.label[ids]].tolist())
            self._groups_by_ids[id(ids)] = found
        return found

    def touched(self, step: Step) -> set[int]:
        """The groups with channels in the inputs or outputs of an operator."""
        arrays = [ids for marked in (*step.inputs, *step.outputs) for ids in marked.dims if ids is not None]
        return set().union(*(self.groups(ids) for ids in arrays))

    def handled(self, module: str) -> set[int]:
        """The groups with channels in the inputs or outputs of the operators of a module."""
        return set().union(*(self.touched(step) for step in self._by_module[module]))

    def _places(self, module: str) -> dict[tuple[int, int, int], frozenset[int]]:
        """(operator of the module, number of its input, dimension) -> the groups there."""
        return {
            (ordinal, which, dim): self.groups(ids)
            for ordinal, step in enumerate(self._by_module[module])
            for which, marked in enumerate(step.inputs)
            for dim, ids in enumerate(marked.dims)
            if ids is not None
        }

    def below(self, module: str) -> set[int]:
        """The groups with a parameter in ``module``."""
        inside = f"{module}." if module else ""
        return set().union(
            *(groups for name, groups in self._by_parameter.items() if name.startswith(inside))
        )

    def corresponding(self, step: Step, failing: set[int], first: Step) -> set[int]:
        """The groups that are for the module of ``step`` what the failing ones are for that of ``first``: at the same
        places of its operators, or with producers of the same names beside it."""
        return self._at_same_places(step, failing, first) | self._of_same_names(step, failing, first)

    def _of_same_names(self, step: Step, failing: set[int], first: Step) -> set[int]:
        old, new = first.module.split("."), step.module.split(".")
        while old and new and old[-1] == new[-1]:
            old, new = old[:-1], new[:-1]
        before, after = f"{'.'.join(old)}.", f"{'.'.join(new)}."
        names = (made.parameter for number in failing for made in self._parts.groups[number].producers)
        renamed = (after + name.removeprefix(before) for name in names if name.startswith(before))
        return set().union(*(self._by_parameter.get(name, set()) for name in renamed))

    def _at_same_places(self, step: Step, failing: set[int], first: Step) -> set[int]:
        """The groups in the module of ``step`` at the places of the failing ones in that of ``first``."""
        failed = {place for place, groups in self._places(first.module).items() if groups & failing}
        found = (groups for place, groups in self._places(step.module).items() if place in failed)
        return set().union(*found)
