"""Builds the table of layers and modules of a traced network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.cost_terms import BlockColumns, CostTerm, Described, Forms, parameter_terms
from prunelab.structure.layers import Layer, LayerTable, Located, ModuleCost, Owned, Rows
from prunelab.structure.surgery.apply import owner
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Marked, Step, Term, Trace, Visit

CONVOLUTIONS = ("convolution", "deform_conv2d")


@dataclass(frozen=True)
class _Operands:
    """The activation that a layer reads and the dimension that it contracts, the channel dimension of its result, and
    its weight (None: another activation)."""

    source: Marked
    read: int
    made: int
    weight: Marked | None


def layer_table(
    trace: Trace, components: Components, group_of: NDArray[np.int64], network: Described
) -> LayerTable:
    """The table of a traced network."""
    return _Builder(trace, Forms(components, group_of, network.sizes), network).table()


class _Builder:
    def __init__(self, trace: Trace, forms: Forms, network: Described) -> None:
        self.trace, self.forms, self.network = trace, forms, network
        self.homes = BlockColumns(network.blocks)
        # All terms first, so that the columns of ``alive`` are numbered as in the cost model.
        self.sizes = parameter_terms(trace, network, self.homes)
        self.visits: dict[str, list[Visit]] = {}
        for visit in trace.visits:
            self.visits.setdefault(visit.module, []).append(visit)
        self.running = {term.step: term.modules for term in trace.terms}

    def table(self) -> LayerTable:
        terms = self.trace.terms
        steps = sorted({term.step for term in terms if not term.bias})
        number_of = {step: number for number, step in enumerate(steps)}
        layers = [self._layer(number, step) for number, step in enumerate(steps)]
        reading = [self._parameters_read(self.trace.steps[step]) for step in steps]
        layer_of = [self._layer_of(term, number_of) for term in terms]
        for term, number in zip(terms, layer_of, strict=True):
            if number >= 0 and term.bias:
                reading[number] |= self._parameters_read(self.trace.steps[term.step])
        paths = self._paths()
        row_of = {path: number for number, path in enumerate(paths)}
        by_layer = self._rows(
            layers,
            layer_of,
            [(name, number) for number, names in enumerate(reading) for name in sorted(names)],
        )
        convolutions: dict[str, Layer] = {}
        for row in layers:
            if isinstance(row.facts, Layer) and row.facts.kernel:
                convolutions.setdefault(row.facts.module, row.facts)
        by_module = self._rows(
            [self._module(path, convolutions.get(path)) for path in paths],
            [row_of[term.modules[-1]] for term in terms],
            [(name, row_of[owner(name)]) for name in self.network.parameters],
        )
        return LayerTable(*self.forms.matrices(), self.network.images, by_layer, by_module)

    def _rows(
        self, located: Sequence[Located], row_of_term: Sequence[int], parameters: Sequence[tuple[str, int]]
    ) -> Rows:
        owned = []
        for bias in (False, True):
            chosen = [
                (term, row)
                for term, row in zip(self.trace.terms, row_of_term, strict=True)
                if term.bias == bias
            ]
            parts: list[CostTerm] = [
                (t.coefficient, t.factors, self.homes.running(t.modules)) for t, _ in chosen
            ]
            owned.append(self._owned(parts, [row for _, row in chosen]))
        weights = self._owned([self.sizes[name] for name, _ in parameters], [row for _, row in parameters])
        return Rows(tuple(located), weights, *owned)

    def _owned(self, terms: list[CostTerm], rows: list[int]) -> Owned:
        return Owned(self.forms.summed(terms), np.array(rows, dtype=np.int64))

    def _layer_of(self, term: Term, number_of: Mapping[int, int]) -> int:
        """The layer of a term; a bias that is added by a separate operator belongs to the contraction before it in the
        same Python-level call."""
        if term.step in number_of:
            return number_of[term.step]
        call = self.trace.steps[term.step].call
        before = [step for step in number_of if step < term.step and self.trace.steps[step].call == call]
        return number_of[max(before)] if before else -1

    def _paths(self) -> list[str]:
        """The modules with terms or parameters: in the order in which they first compute, then the others."""
        first: dict[str, int] = {}
        for number, step in enumerate(self.trace.steps):
            first.setdefault(step.module, number)
        for term in self.trace.terms:
            first.setdefault(term.modules[-1], term.step)
        paths = dict.fromkeys(term.modules[-1] for term in self.trace.terms)
        paths.update(dict.fromkeys(owner(name) for name in self.network.parameters))
        return sorted(paths, key=lambda path: first.get(path, len(self.trace.steps)))

    def _module(self, path: str, own: Layer | None) -> Located:
        """``own``: its first convolution."""
        visits = self.visits.get(path, [])
        entered, left = (visits[0].entered, visits[0].left) if visits else (None, None)
        facts = ModuleCost(
            module=path,
            kind=self.network.kinds.get(path, ""),
            runs=len(visits),
            input_shape=(),
            output_shape=(),
            kernel=own.kernel if own else (),
            stride=own.stride if own else (),
            groups=1,
            params=0,
            macs=0,
            flops=0,
        )
        groups = self._groups(path, own.groups if own else 1)
        return Located(
            facts, (self._shape(entered), self._shape(left)), (0, 0, groups), self.homes.around(path)
        )

    def _layer(self, position: int, number: int) -> Located:
        step = self.trace.steps[number]
        operands = _operands(step)
        out = step.outputs[0]
        weight = operands.weight
        convolution = step.op in CONVOLUTIONS
        stride, padding, dilation, transposed, groups = step.settings or ((), (), (), False, 1)
        if "attention" in step.op:
            groups_form = self.forms.width(operands.source.dims[1], operands.source.shape[1])
        else:
            groups_form = self._groups(step.module, groups)
        read = operands.source.dims[operands.read]
        facts = Layer(
            position=position,
            module=step.module,
            kind=self.network.kinds.get(step.module, ""),
            operator=_operator(step.op, weight),
            weight=next(iter(sorted(self._names(weight))), None) if weight is not None else None,
            kernel=tuple(weight.shape[2:]) if convolution and weight is not None else (),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            transposed=transposed,
            input_shape=(),
            output_shape=(),
            in_channels=0,
            out_channels=0,
            params=0,
            macs=0,
            flops=0,
            reads=tuple(self.network.names[group] for group in self.forms.names(read)),
            makes=tuple(self.network.names[group] for group in self.forms.names(out.dims[operands.made])),
        )
        widths = (
            self.forms.width(read, operands.source.shape[operands.read]),
            self.forms.width(out.dims[operands.made], out.shape[operands.made]),
            groups_form,
        )
        shapes = (self._shape(operands.source), self._shape(out))
        return Located(facts, shapes, widths, self.homes.running(self.running[number]))

    def _groups(self, module: str, groups: int) -> int:
        """The form of the number of groups of a convolution, which follows where its groups are removed."""
        counted = self.trace.numbers.get((module, "groups"))
        return self.forms.width(counted if counted is not None and counted.size == groups else None, groups)

    def _shape(self, marked: Marked | None) -> tuple[int, ...]:
        if marked is None:
            return ()
        return tuple(self.forms.width(ids, size) for ids, size in zip(marked.dims, marked.shape, strict=True))

    def _parameters_read(self, step: Step) -> set[str]:
        """The parameters among the inputs of an operator, directly or through values computed from them."""
        found: set[str] = set()
        for marked in step.inputs:
            if not marked.activation:
                found |= self._names(marked)
        return found

    def _names(self, marked: Marked) -> set[str]:
        names = {marked.tensor} if marked.tensor is not None else set()
        for ids in marked.dims:
            if ids is not None:
                names |= {origin.tensor for origin in self.trace.ids.origins_of(ids)}
        return {name for name in names if name in self.network.parameters}


def _operator(op: str, weight: Marked | None) -> str:
    if op in CONVOLUTIONS:
        return "convolution"
    if "attention" in op:
        return "attention"
    return "product" if weight is None else "linear"


def _operands(step: Step) -> _Operands:
    if step.op in CONVOLUTIONS:
        return _Operands(step.inputs[0], 1, 1, step.inputs[1])
    if "attention" in step.op:
        return _Operands(step.inputs[0], -1, -1, None)
    left, right = step.inputs[-2:]
    if left.activation or not right.activation:
        return _Operands(left, -1, -1, None if right.activation else right)
    return _Operands(right, -2, -2, left)
