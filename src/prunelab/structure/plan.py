"""PruningPlan: the channels and blocks that are removed from a network, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunelab.errors import UserError
from prunelab.strict_json import loads_strictly
from prunelab.structure.surgery.rewriting import Width

VERSION = 1
FUNCTIONS = ("identity", "relu", "relu6")
LEAVES = (*FUNCTIONS, *(f"({function},)" for function in FUNCTIONS))
"""The functions that replace a dropped block; in parentheses those of a block that returns a tuple of one tensor."""
Indices = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """The entries at ``indices`` (ascending) are kept of the ``size`` entries in dimension ``dim`` of ``tensor``."""

    tensor: str
    dim: int
    size: int
    indices: Indices = field(repr=False)


@dataclass(frozen=True)
class PruningPlan:
    """Which channels of each group are kept and which blocks are dropped.

    The fields from ``cuts`` on are the same decision resolved to tensors, so a plan can be applied, or a checkpoint
    loaded, without another analysis. ``ChannelGraph.plan``, methods and ``from_json`` make plans; a plan that is made
    by hand is only checked for the types of its fields (UserError).

    Attributes:
        kept: group -> indices of the kept channels, for every prunable group.
        widths: group -> (number of channels before, after).
        dropped_blocks: names of the residual blocks that are removed.
        makers: group -> names of the weights that produce its channels.
        cuts: kept indices of dimensions of parameters and buffers.
        values: new values of index buffers.
        attributes: module -> name -> number, of attributes that the forward pass reads; entries of tuples and lists are
            named "name[1]".
        replaced: modules of dropped blocks -> one of ``LEAVES``.
        rewritten: widths in the source code of a module that are replaced, see ``rewriting``.
        members: indices of the kept channels of the members of a group, except the first, which has those of the group.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> plan = prunelab.analyze(network, torch.zeros(1, 3, 8, 8)).plan(kept={"0": [0, 2, 5]})
        >>> plan.widths
        {'0': (8, 3)}
        >>> prunelab.PruningPlan.from_json(plan.to_json()) == plan
        True
    """

    kept: Mapping[str, Indices]
    widths: Mapping[str, tuple[int, int]]
    dropped_blocks: tuple[str, ...] = ()
    makers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cuts: tuple[Cut, ...] = ()
    values: Mapping[str, Indices] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    rewritten: Mapping[str, tuple[Width, ...]] = field(default_factory=dict)
    members: Mapping[str, Indices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_types(self)
        object.__setattr__(self, "cuts", tuple(sorted(self.cuts, key=lambda cut: (cut.tensor, cut.dim))))

    def cuts_by_tensor(self) -> dict[str, list[Cut]]:
        """The cuts of each tensor."""
        found: dict[str, list[Cut]] = {}
        for cut in self.cuts:
            found.setdefault(cut.tensor, []).append(cut)
        return found

    def to_json(self) -> str:
        """Canonical JSON, in which equal index lists are written once."""
        return json.dumps(self._to_dict(), sort_keys=True, separators=(",", ":"))

    def _to_dict(self) -> dict[str, Any]:
        lists: dict[Indices, int] = {}

        def number(indices: Indices) -> int:
            return lists.setdefault(indices, len(lists))

        plan: dict[str, Any] = {
            "version": VERSION,
            "kept": {name: number(self.kept[name]) for name in sorted(self.kept)},
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "dropped_blocks": list(self.dropped_blocks),
            "makers": {name: list(weights) for name, weights in self.makers.items()},
            "cuts": [[cut.tensor, cut.dim, cut.size, number(cut.indices)] for cut in self.cuts],
            "values": {name: list(values) for name, values in self.values.items()},
            "attributes": {name: dict(found) for name, found in self.attributes.items()},
            "replaced": dict(self.replaced),
        }
        if self.rewritten:
            plan["rewritten"] = {n: [list(width) for width in widths] for n, widths in self.rewritten.items()}
        if self.members:
            plan["members"] = {name: number(self.members[name]) for name in sorted(self.members)}
        plan["lists"] = [list(indices) for indices in lists]
        return plan

    @staticmethod
    def from_json(text: str) -> PruningPlan:
        """Read a plan. Raises UserError for anything but a valid plan of this version."""
        try:
            raw = loads_strictly(text)
        except ValueError as error:
            raise UserError(f"not a pruning plan: broken JSON ({error})") from error
        version = raw.get("version") if isinstance(raw, dict) else None
        if version != VERSION:
            raise UserError(f"not a pruning plan of version {VERSION}: its version is {version!r}")
        try:
            return _plan(raw)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"not a valid pruning plan: {error}") from error

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal plans have equal digests on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def compose(self, later: PruningPlan) -> PruningPlan:
        """One plan with the effect of this plan followed by ``later``, which was made for the pruned network.

        A group of this plan may be divided in the pruned network (a grouped convolution with one channel left in each
        group can lose them one by one). If ``later`` removes a part of it, its width is counted in filters of its
        producer, because the channels of the full group cannot express the removal. ``CostModel`` raises UserError for
        such a plan; its cuts are right.
        """
        cuts = self._cuts_with(later)
        kept, widths, makers = dict(self.kept), dict(self.widths), dict(self.makers)
        followed: set[str] = set()
        for theirs, indices in later.kept.items():
            name, before = self._own_name(theirs, later), later.widths[theirs][0]
            weights = later.makers.get(theirs, ())
            if len(self.kept.get(name, ())) == before:
                kept[name] = tuple(self.kept[name][index] for index in indices)
                widths[name] = (self.widths[name][0], len(indices))
                followed.add(name)
            elif not any(set(weights) & set(own) for own in self.makers.values()):
                kept[theirs], widths[theirs], makers[theirs] = indices, (before, len(indices)), weights
        for name, (tensor, dim) in self._came_apart(later, followed).items():
            filters = cuts[tensor, dim]
            kept[name], widths[name] = filters.indices, (filters.size, len(filters.indices))
        inside = tuple(f"{name}." for name in later.dropped_blocks)
        values = {name: found for name, found in self.values.items() if not name.startswith(inside)}
        attributes = {name: dict(found) for name, found in self.attributes.items()}
        for module, found in later.attributes.items():
            attributes.setdefault(module, {}).update(found)
        return PruningPlan(
            kept=kept,
            widths=widths,
            dropped_blocks=tuple(dict.fromkeys((*self.dropped_blocks, *later.dropped_blocks))),
            makers=makers,
            cuts=tuple(cuts.values()),
            values={**values, **later.values},
            attributes={n: a for n, a in attributes.items() if not f"{n}.".startswith(inside)},
            replaced={**self.replaced, **later.replaced},
            rewritten={
                n: tuple(sorted({*self.rewritten.get(n, ()), *later.rewritten.get(n, ())}))
                for n in sorted({*self.rewritten, *later.rewritten})
                if not f"{n}.".startswith(inside)
            },
            members=self._members_with(later),
        )

    def _members_with(self, later: PruningPlan) -> dict[str, Indices]:
        """The kept channels of the members of both plans."""
        members = {**later.members, **self.members}
        for name, indices in later.members.items():
            own = self.members.get(name)
            if own is not None and indices[-1] < len(own):
                members[name] = tuple(own[index] for index in indices)
        return members

    def _came_apart(self, later: PruningPlan, followed: Collection[str]) -> dict[str, tuple[str, int]]:
        """The groups of which ``later`` removes a part -> the weight and dimension whose size is their width."""
        again = {(cut.tensor, cut.dim) for cut in later.cuts}
        known = {weight for name in followed for weight in self.makers.get(name, ())}
        apart = {}
        for name in self.kept.keys() - followed:
            weights = set(self.makers.get(name, ())) - known
            theirs = [each for each, others in later.makers.items() if weights & set(others)]
            places = [self._filters(name, weights), *(later._filters(each, weights) for each in theirs)]
            # Only producers of its parts.
            places += [later._filters(each, later.makers[each]) for each in theirs]
            place = next((place for place in places if place in again), None)
            if place is not None:
                apart[name] = place
        return apart

    def _filters(self, group: str, weights: Collection[str]) -> tuple[str, int] | None:
        """A weight and dimension with filters that are removed in proportion to the channels of a group."""
        before, after = self.widths[group]
        losing = [cut for cut in self.cuts if cut.tensor in weights]
        return next(
            ((cut.tensor, cut.dim) for cut in losing if cut.size * after == len(cut.indices) * before), None
        )

    def _cuts_with(self, later: PruningPlan) -> dict[tuple[str, int], Cut]:
        """The cuts of both plans, by tensor and dimension, except for tensors in blocks that ``later`` drops."""
        inside = tuple(f"{name}." for name in later.dropped_blocks)
        cuts = {(cut.tensor, cut.dim): cut for cut in self.cuts if not cut.tensor.startswith(inside)}
        for cut in later.cuts:
            first = cuts.get((cut.tensor, cut.dim))
            if first is not None:
                indices = tuple(first.indices[index] for index in cut.indices)
                cut = Cut(cut.tensor, cut.dim, first.size, indices)
            cuts[cut.tensor, cut.dim] = cut
        return cuts

    def _own_name(self, theirs: str, later: PruningPlan) -> str:
        """The name in this plan of a group of the pruned network, where a stage may have another name."""
        weights, size = set(later.makers.get(theirs, ())), later.widths[theirs][0]
        same = [
            name for name, own in self.makers.items() if weights & set(own) and len(self.kept[name]) == size
        ]
        return theirs if theirs in same or not same else same[0]


_ENTRIES = frozenset(
    ("version", "kept", "widths", "dropped_blocks", "makers", "cuts", "values", "attributes", "replaced",
     "rewritten", "members", "lists")
)  # fmt: skip


def _check_types(plan: PruningPlan) -> None:
    kept, widths = plan.kept, plan.widths
    is_right = (
        isinstance(kept, Mapping)
        and isinstance(widths, Mapping)
        and kept.keys() == widths.keys()
        and all(isinstance(indices, tuple) for indices in kept.values())
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in widths.values())
        and not isinstance(plan.dropped_blocks, str)
        and all(isinstance(cut, Cut) for cut in plan.cuts)
    )
    if not is_right:
        raise UserError(
            "PruningPlan: kept maps each group to a tuple of indices, widths maps the same groups to (channels before, "
            "after), dropped_blocks is a tuple of names, and cuts a tuple of Cut. structure.plan(kept={...}, "
            "dropped_blocks=[...]) computes all fields."
        )


def _plan(raw: dict[str, Any]) -> PruningPlan:
    """Build a plan from parsed JSON; raises ValueError and similar errors if it is not valid."""
    if unknown := set(raw) - _ENTRIES:
        raise ValueError(f"unknown entries {sorted(unknown)}")
    lists = [_indices(indices, f"list {number}") for number, indices in enumerate(raw["lists"])]
    widths = {str(n): (_count(b, n), _count(a, n)) for n, (b, a) in raw["widths"].items()}
    dropped = _names(raw["dropped_blocks"], "dropped_blocks")
    _check_replaced(dropped, raw["replaced"])
    return PruningPlan(
        kept=_kept(raw["kept"], widths, lists),
        widths=widths,
        dropped_blocks=dropped,
        makers={str(name): _names(weights, f"makers of {name}") for name, weights in raw["makers"].items()},
        cuts=_cuts(raw["cuts"], lists),
        values={str(n): tuple(_count(v, n) for v in values) for n, values in raw["values"].items()},
        attributes={
            str(m): {str(n): _count(v, n) for n, v in found.items()} for m, found in raw["attributes"].items()
        },
        replaced={str(module): str(leaves) for module, leaves in raw["replaced"].items()},
        rewritten={
            str(module): tuple(_width(module, *parts) for parts in widths)
            for module, widths in raw.get("rewritten", {}).items()
        },
        members={str(n): lists[_count(number, n)] for n, number in raw.get("members", {}).items()},
    )


def _kept(
    raw: Mapping[str, Any], widths: Mapping[str, tuple[int, int]], lists: list[Indices]
) -> dict[str, Indices]:
    kept = {str(name): lists[_count(number, name)] for name, number in raw.items()}
    if kept.keys() != widths.keys():
        raise ValueError(f"kept and widths name different groups: {sorted(kept.keys() ^ widths.keys())[:3]}")
    for name, indices in kept.items():
        before, after = widths[name]
        if len(indices) != after or indices[-1] >= before:
            raise ValueError(
                f"group {name} keeps {len(indices)} of {before} channels, but its widths are {widths[name]}"
            )
    return kept


def _cuts(raw: Any, lists: list[Indices]) -> tuple[Cut, ...]:
    cuts = []
    for tensor, dim, size, number in raw:
        indices = lists[_count(number, f"cut of {tensor}")]
        if indices[-1] >= _count(size, f"size of {tensor}"):
            raise ValueError(
                f"{tensor} dimension {dim} has {size} entries, but entry {indices[-1]} is to be kept"
            )
        cuts.append(Cut(_name(tensor), _count(dim, f"dimension of {tensor}"), size, indices))
    if len({(cut.tensor, cut.dim) for cut in cuts}) != len(cuts):
        raise ValueError("a dimension of a tensor is cut twice")
    return tuple(cuts)


def _width(module: str, method: Any, call: Any, argument: Any, of: Any, text: Any) -> Width:
    place = _count(call, module), _count(argument, module), _count(of, module)
    return Width(_name(method), *place, _name(text))


def _check_replaced(dropped: tuple[str, ...], replaced: Mapping[str, str]) -> None:
    """Check that exactly the dropped blocks are replaced, alone or with a block around them, by a known function."""
    if unknown := sorted(set(replaced) - set(dropped)):
        raise ValueError(f"{unknown[0]!r} is replaced but not among the dropped blocks")
    for name in dropped:
        if not any(f"{name}.".startswith(f"{other}.") for other in replaced):
            raise ValueError(f"nothing replaces the dropped block {name!r}")
    for module, leaves in replaced.items():
        if leaves not in LEAVES:
            raise ValueError(
                f"dropped block {module} leaves {leaves!r}; it must be one of {', '.join(LEAVES)}"
            )


def _names(values: Any, what: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError(f"{what}: {values!r} is not a list of names")
    return tuple(_name(value) for value in values)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a name")
    return value


def _count(value: Any, what: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{what}: {value!r} is not a count")
    return value


def _indices(values: Any, what: str) -> Indices:
    """A list of kept indices: integers, ascending, each once, at least one."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"{what} of kept indices is empty")
    indices = tuple(_count(value, what) for value in values)
    if any(np.diff(indices) <= 0):
        raise ValueError(f"{what} of kept indices is not ascending or repeats an index")
    return indices
