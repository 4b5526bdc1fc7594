"""Remedies for an operator that expects a constant width.

An integer attribute of its module is set to the new width, a hard-coded width in the source of the module is computed
by PyTorch (``rewriting``), or both: ``reshape(B, N, self.num_heads, C // self.num_heads)``. A trial shows which helps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from prunelab.structure.proving.prediction import is_view
from prunelab.structure.surgery.attributes import integers
from prunelab.structure.surgery.rewriting import Width, hard_coded_widths
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.marks import Step


@dataclass(frozen=True)
class LinkedAttribute:
    """An integer attribute of a module that must equal the number of kept ``ids``."""

    module: str
    attribute: str
    ids: Ids = field(repr=False)


@dataclass(frozen=True)
class ComputedWidth:
    """A width in the source of a module that PyTorch computes in a pruned network. The origin of the width (the input
    of the module, its heads) is not known."""

    module: str
    width: Width


Remedy = LinkedAttribute | ComputedWidth


class Option(NamedTuple):
    """Remedies to try at an operator, and at the same operator of other modules of the same class."""

    follow: tuple[tuple[str, int], ...]  # (attribute, index into the widths at the operator), all together
    width: Width | None  # a hard-coded width in the source of the module


def key(remedy: Remedy) -> tuple[object, ...]:
    """A key that is equal for equal remedies."""
    if isinstance(remedy, ComputedWidth):
        return remedy.module, remedy.width
    return remedy.module, remedy.attribute, remedy.ids.tobytes()


def options(
    module: nn.Module, step: Step, widths: list[Ids], known: Collection[tuple[str, str]]
) -> list[Option]:
    """The options at ``step`` of ``module``, an operator with these ``widths``. Attributes (module, name) in ``known``
    are already adapted. Attributes are tried first, so that their values stay correct."""
    own = {name: value for name, value in _integers(module).items() if _at(step, name) not in known}
    single = {
        (name, ids.tobytes()): tuple((each, place) for each in _entries_alike(own, name))
        for name, value in own.items()
        for place, ids in reversed(list(enumerate(widths)))
        if ids.size == value
    }
    follows = list(dict.fromkeys([*_divided(step, own, widths), *single.values()]))
    channels, others = _hard_coded(module, step)
    return [
        *(Option(follow, None) for follow in follows),
        *(Option(follow, width) for follow in follows for width in others),
        *(Option((), width) for width in (*channels, *others)),
    ]


def remedies(module: nn.Module, step: Step, widths: list[Ids], option: Option) -> list[Remedy]:
    """``option`` at ``step`` of ``module``; [] if it does not apply there."""
    own = _integers(module)
    found: list[Remedy] = []
    for name, place in option.follow:
        if place >= len(widths) or own.get(name) != widths[place].size:
            return []
        found.append(LinkedAttribute(*_at(step, name), widths[place]))
    if option.width is not None:
        if option.width not in hard_coded_widths(module):
            return []
        found.append(ComputedWidth(step.module, option.width))
    return found


def _entries_alike(own: Mapping[str, int], name: str) -> list[str]:
    """``name`` and, if it is an entry with a key, all entries of the module with this key and value (a copy of a
    dict)."""
    key = name.partition("[")[2]
    if not key or key.rstrip("]").isdigit():
        return [name]
    return [each for each, value in own.items() if each.partition("[")[2] == key and value == own[name]]


def _divided(step: Step, own: Mapping[str, int], widths: list[Ids]) -> list[tuple[tuple[str, int], ...]]:
    """For each part into which ``step`` divides channels, an attribute that equals its width: the entries of one tuple
    or list, or any attributes."""
    if len(step.outputs) < 2:
        return []
    parts = [next((ids for ids in out.dims if ids is not None), None) for out in step.outputs]
    lists = sorted(name.rpartition("[")[0] for name in own if name.endswith(f"[{len(parts) - 1}]"))
    equal = [next((n for n, v in own.items() if ids is not None and v == ids.size), "") for ids in parts]
    found = []
    for names in (*([f"{each}[{part}]" for part in range(len(parts))] for each in lists), equal):
        follow = tuple(
            (name, place)
            for name, part in zip(names, parts, strict=True)
            for place, ids in enumerate(widths)
            if ids is part and own.get(name) == ids.size
        )
        if len(follow) > 1:
            found.append(follow)
    return found


def _hard_coded(module: nn.Module, step: Step) -> tuple[list[Width], list[Width]]:
    """The hard-coded widths of ``module`` in calls that may be the view ``step``: those at the position of its
    channels, and the others (``C // heads``, where the heads are the channels)."""
    if not is_view(step):
        return [], []
    out = step.outputs[0]
    found = [width for width in hard_coded_widths(module) if width.of == len(out.shape)]
    channels = [width for width in found if out.dims[width.argument] is not None]
    return channels, [width for width in found if width not in channels]


def _integers(module: nn.Module) -> dict[str, int]:
    """The integers of a module, and of its children ("child.name"), because it may call their methods. Attributes of
    PyTorch's layers are excluded: ``apply`` derives them from their weights."""
    found = integers(module)
    for child, inner in module.named_children():
        if not type(inner).__module__.startswith("torch.nn"):
            found.update((f"{child}.{name}", value) for name, value in integers(inner).items())
    return found


def _at(step: Step, name: str) -> tuple[str, str]:
    """(module, attribute) of a name in ``_integers``."""
    child, _, attribute = name.rpartition(".")
    return ".".join(part for part in (step.module, child) if part), attribute
