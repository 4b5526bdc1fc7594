"""Residual blocks: modules that compute y = f(x) + x, found in the trace, not by class name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.hook_points import HookPoint, branch_hook_point
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Marked, Trace, Visit

# Idempotent functions: relu(relu(x)) = relu(x).
_IDEMPOTENT = {"relu": "relu", "relu_": "relu", "hardtanh": "relu6", "hardtanh_": "relu6"}
# Identity mappings except for the shape: the order of the elements is unchanged.
SAME = frozenset(
    ("clone", "detach", "alias", "_to_copy", "contiguous", "native_dropout", "view", "_unsafe_view", "reshape",
     "_reshape_alias", "unsqueeze", "squeeze")
)  # fmt: skip


@dataclass(frozen=True)
class ResidualBlock:
    """A module with an identity shortcut, y = f(x) + x; dropping it leaves y = x.

    ``name`` is the path of the module. ``branch`` is the hook point of f(x) (None: it has none). ``exits`` are the
    weights that produce f(x). ``groups`` are the groups completely inside; ``stage`` is the group of y. ``leaves`` is
    the function that replaces the module: "identity", or the activation function that follows the addition if x has
    not passed it yet ("(identity,)" if the module returns a tuple of one tensor). ``parent`` is the block around this
    one.
    """

    name: str
    branch: HookPoint | None
    exits: tuple[str, ...]
    groups: tuple[str, ...]
    stage: str | None
    leaves: str
    parent: str | None = None


@dataclass(frozen=True)
class IdentityPath:
    """The identity path through a module: its additions, their branches, and the function after the last one."""

    additions: tuple[Marked, ...]
    branches: tuple[Marked, ...]
    leaves: str


def find_blocks(trace: Trace) -> list[tuple[Visit, IdentityPath]]:
    """Modules whose output is their input plus branches, innermost first.

    A module that only contains other blocks (a stage) has no addition of its own and is not a block.
    """
    visits: dict[str, list[Visit]] = {}
    for visit in trace.visits:
        visits.setdefault(visit.module, []).append(visit)
    owned: set[int] = set()
    found = []
    for module in sorted(visits, key=lambda path: -path.count(".") if path else 1):
        if not module or len(visits[module]) != 1:
            continue
        visit = visits[module][0]
        if visit.entered is None or visit.left is None or visit.entered.shape != visit.left.shape:
            continue
        path = _identity_path(visit.left, visit.entered)
        if path is None or all(id(addition) in owned for addition in path.additions):
            continue
        owned.update(id(addition) for addition in path.additions)
        found.append((visit, path))
    order = {visit.module: number for number, visit in enumerate(trace.visits)}
    return sorted(found, key=lambda block: order[block[0].module])


def _identity_path(left: Marked, entered: Marked) -> IdentityPath | None:
    """Follow ``left`` back to ``entered`` through additions, copies, views and one idempotent function at the end."""
    function = None
    current = left
    while current.op in SAME or (function is None and current.op in _IDEMPOTENT):
        if current is entered:
            return None
        function = _IDEMPOTENT.get(current.op, function)
        current = current.parents[0]
    additions: list[Marked] = []
    branches: list[Marked] = []
    if not _back(current, entered, additions, branches, 0) or not additions:
        return None
    passed = _IDEMPOTENT.get(viewed(entered).op)
    leaves = "identity" if function is None or passed == function else function
    return IdentityPath(tuple(additions), tuple(branches), leaves)


def _back(
    current: Marked, entered: Marked, additions: list[Marked], branches: list[Marked], depth: int
) -> bool:
    if current is entered:
        return True
    if depth > 64 or not current.parents:
        return False
    if current.op in SAME:
        return _back(current.parents[0], entered, additions, branches, depth + 1)
    if current.kind != "add" or len(current.parents) != 2:
        return False
    for shortcut, branch in (current.parents, current.parents[::-1]):
        mark = len(additions)
        additions.append(current)
        branches.append(branch)
        if shortcut.shape == current.shape and _back(shortcut, entered, additions, branches, depth + 1):
            return True
        del additions[mark:], branches[mark:]
    return False


def views(marked: Marked) -> Iterator[Marked]:
    """``marked``, the tensor of which it is a copy or a view, and so on."""
    yield marked
    while marked.op in SAME and marked.parents:
        marked = marked.parents[0]
        yield marked


def viewed(marked: Marked) -> Marked:
    """The original tensor of which ``marked`` is a copy or a view, possibly through several."""
    *_, last = views(marked)
    return last


def describe(
    trace: Trace,
    components: Components,
    found: list[tuple[Visit, IdentityPath]],
    group_of: NDArray[np.int64],
    names: list[str],
    tensors_of: list[set[str]],
) -> tuple[ResidualBlock, ...]:
    """Give each block its hook point, its exits and its groups (``tensors_of[g]``: the tensors of group g)."""
    blocks = []
    modules = [visit.module for visit, _ in found]
    for visit, path in found:
        inside = visit.module + "."
        parents = [module for module in modules if inside.startswith(module + ".") and module != visit.module]
        branch = path.branches[0]
        blocks.append(
            ResidualBlock(
                name=visit.module,
                branch=branch_hook_point(branch),
                exits=_exits(trace, branch, inside),
                groups=tuple(
                    name
                    for name, tensors in zip(names, tensors_of, strict=True)
                    if all(tensor.startswith(inside) for tensor in tensors)
                ),
                stage=_stage(components, path.additions[0], group_of, names),
                leaves=f"({path.leaves},)" if visit.wrapped else path.leaves,
                parent=max(parents, key=len, default=None),
            )
        )
    return tuple(blocks)


def _exits(trace: Trace, branch: Marked, inside: str) -> tuple[str, ...]:
    """The producer weights whose rows are the branch's channels."""
    ids = next((ids for ids in branch.dims if ids is not None), None)
    if ids is None:
        return ()
    return tuple(
        origin.tensor
        for origin in trace.ids.origins
        if trace.roles.get((origin.tensor, origin.dim)) == "producer"
        and origin.tensor.startswith(inside)
        and _overlap(origin.ids, ids)
    )


def _overlap(first: Ids, second: Ids) -> bool:
    return bool(first[0] <= second.max() and second.min() <= first[-1])


def _stage(
    components: Components, addition: Marked, group_of: NDArray[np.int64], names: list[str]
) -> str | None:
    ids = next((ids for ids in addition.dims if ids is not None), None)
    if ids is None:
        return None
    group = int(group_of[components.label[ids[0]]])
    return names[group] if group >= 0 else None
