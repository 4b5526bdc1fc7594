"""What may let an operator that expects a constant width follow the channels that are left.

An integer that its module remembers is set to the new width, a width in the source of the module is left to PyTorch
(``rewriting``), or both: ``reshape(B, N, self.num_heads, C // self.num_heads)``. Whether it helps, a trial shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from prunelab.structure.proving.prediction import is_view
from prunelab.structure.surgery.attributes import integers
from prunelab.structure.surgery.rewriting import Width, written_widths
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.marks import Step


@dataclass(frozen=True)
class Link:
    """An integer attribute of a module that must equal the number of kept ``ids``."""

    module: str
    attribute: str
    ids: Ids = field(repr=False)


@dataclass(frozen=True)
class Unwritten:
    """A width in the source of a module that PyTorch must compute once anything is removed: where it comes from (the
    module's input, its heads) is not known."""

    module: str
    width: Width


Remedy = Link | Unwritten


class Option(NamedTuple):
    """What can be tried at an operator, and at the same one of other modules of the same class."""

    follow: tuple[tuple[str, int], ...]  # (attribute, index into the widths at the operator), together
    width: Width | None  # of the source of the module


def key(remedy: Remedy) -> tuple[object, ...]:
    """Equal for equal remedies."""
    if isinstance(remedy, Unwritten):
        return remedy.module, remedy.width
    return remedy.module, remedy.attribute, remedy.ids.tobytes()


def options(
    module: nn.Module, step: Step, widths: list[Ids], known: Collection[tuple[str, str]]
) -> list[Option]:
    """What can be tried at ``step`` of ``module``, whose operator handles ``widths``; attributes (module, name) in
    ``known`` follow already. Attributes come first: what a module says of itself then stays true."""
    own = {name: value for name, value in _integers(module).items() if _at(step, name) not in known}
    single = {
        (name, ids.tobytes()): ((name, place),)
        for name, value in own.items()
        for place, ids in reversed(list(enumerate(widths)))
        if ids.size == value
    }
    follows = [*_divided(step, own, widths), *single.values()]
    channels, others = _written(module, step)
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
        found.append(Link(*_at(step, name), widths[place]))
    if option.width is not None:
        if option.width not in written_widths(module):
            return []
        found.append(Unwritten(step.module, option.width))
    return found


def _divided(step: Step, own: Mapping[str, int], widths: list[Ids]) -> list[tuple[tuple[str, int], ...]]:
    """For each of the parts into which ``step`` divides channels an attribute that equals its width: the entries of
    one tuple or list, or whichever attributes do."""
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


def _written(module: nn.Module, step: Step) -> tuple[list[Width], list[Width]]:
    """The widths that the source of ``module`` writes out in calls that may be the view ``step``: those in place of its
    channels, and the others (``C // heads``, where the heads are the channels)."""
    if not is_view(step):
        return [], []
    out = step.outputs[0]
    found = [width for width in written_widths(module) if width.of == len(out.shape)]
    channels = [width for width in found if out.dims[width.argument] is not None]
    return channels, [width for width in found if width not in channels]


def _integers(module: nn.Module) -> dict[str, int]:
    """What a module remembers, and its children ("child.name"), whose other methods it may call. PyTorch's own layers
    follow their weights by themselves."""
    found = integers(module)
    for child, inner in module.named_children():
        if not type(inner).__module__.startswith("torch.nn"):
            found.update((f"{child}.{name}", value) for name, value in integers(inner).items())
    return found


def _at(step: Step, name: str) -> tuple[str, str]:
    """(module, attribute) of a name in ``_integers``."""
    child, _, attribute = name.rpartition(".")
    return ".".join(part for part in (step.module, child) if part), attribute
