"""``SlicedNetwork``: one set of weights that runs at any widths, with gradients to the shared weights.

A *supernet*: within ``at(widths)`` every module computes with the part of its tensors that belongs to the first
``widths[g]`` channels of each group. The parts are differentiable views (or selections) of the full tensors: the number
of operations decreases with the widths, and gradients reach the full parameters. No module is replaced and no weight is
copied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from prunelab.errors import UserError, nearest
from prunelab.structure.attention import restore, slim
from prunelab.structure.surgery.apply import drop_block, layer_widths, named_modules, rewrite_methods
from prunelab.structure.surgery.attributes import set_integer
from prunelab.structure.surgery.prefixes import Part, Prefix, Prefixes

if TYPE_CHECKING:
    from prunelab.structure.graph import ChannelGraph

_CACHED = 16


class SlicedNetwork:
    """``model`` at any widths of its groups and without any of its blocks.

    Equal to ``candidate(model, plan)`` for the plan of the same widths, forward and gradients::

        network = SlicedNetwork(model, analyze(model, images[:1]))
        with network.at({"layer1": 8}):  # groups that are not named keep all channels
            loss = cross_entropy(model(images), targets)
        loss.backward()  # into the parameters of the full model; those of removed channels get zeros

    Args:
        model: the network that ``graph`` describes. It is not changed outside of ``at``.
        graph: its structure.
        order: for each group its channels in the order in which they are kept, for example by decreasing importance;
            groups that are not named keep their first channels.

    A forward pass in training mode within ``at`` updates the kept part of the full network's running statistics.

    Raises:
        UserError: an unknown group, or an order that is not a permutation of the group's channels.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, order: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.model, self.graph = model, graph
        self._prefixes = Prefixes(model, graph, order or {})
        self._modules = named_modules(model)
        self._slots = _slots(self._modules)
        self._blocks = {block.name: block.leaves for block in graph.blocks}
        self._seen: OrderedDict[tuple[tuple[int, ...], torch.device], Prefix] = OrderedDict()
        self._open = False

    def widths(self, chosen: Mapping[str, int]) -> tuple[int, ...]:
        """The widths of all groups, in the order of ``graph.groups``; groups that are not named keep all channels.

        Raises:
            UserError: an unknown group, or a width below 1 or above the size of the group.
        """
        for name in chosen:
            self.graph.group(name)
        return self._valid([chosen.get(group.name, group.size) for group in self.graph.groups])

    @contextmanager
    def at(
        self,
        widths: Mapping[str, int] | Sequence[int],
        dropped: Collection[str] = (),
        tensors: Mapping[str, Tensor] | None = None,
        parts: Mapping[str, Tensor] | None = None,
    ) -> Iterator[nn.Module]:
        """Context in which ``model`` runs at these widths and without these blocks.

        Args:
            widths: by group, or one for each group in the order of ``graph.groups``.
            dropped: names of residual blocks.
            tensors: tensors of full size that replace parameters or buffers, such as generated weights.
            parts: the same for tensors that already have the reduced size.

        Raises:
            UserError: unknown names or widths out of range.
            RuntimeError: the network is sliced already.
        """
        if self._open:
            raise RuntimeError("this network is sliced already: leave the other context first")
        chosen = self.widths(widths) if isinstance(widths, Mapping) else self._valid(widths)
        prefix = self._prefix(chosen)
        self._open = True
        with ExitStack() as undo:
            undo.callback(setattr, self, "_open", False)
            for module in self._modules.values():
                if slim(module):
                    undo.callback(restore, module)
            self._drop(dropped, undo)
            self._put(prefix, tensors or {}, parts or {}, undo)
            self._count(prefix, undo)
            yield self.model

    def _valid(self, widths: Sequence[int]) -> tuple[int, ...]:
        groups = self.graph.groups
        if len(widths) != len(groups):
            raise UserError(f"{len(widths)} widths were given for {len(groups)} groups")
        chosen = tuple(int(width) for width in widths)
        for group, width in zip(groups, chosen, strict=True):
            if not 1 <= width <= group.size:
                raise UserError(f"group {group.name}: width {width} is not between 1 and {group.size}")
        return chosen

    def _prefix(self, widths: tuple[int, ...]) -> Prefix:
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        key = (widths, device)
        if key in self._seen:
            self._seen.move_to_end(key)
        else:
            self._seen[key] = self._prefixes.at(widths, device)
            if len(self._seen) > _CACHED:
                self._seen.popitem(last=False)
        return self._seen[key]

    def _drop(self, dropped: Collection[str], undo: ExitStack) -> None:
        for name in dropped:
            if name not in self._blocks:
                raise UserError(
                    f"this network has no residual block {name!r} to drop. {nearest(name, list(self._blocks))}"
                )
            parent, _, child = name.rpartition(".")
            undo.callback(drop_block(self._modules[parent], child, self._blocks[name]))

    def _put(
        self, prefix: Prefix, tensors: Mapping[str, Tensor], parts: Mapping[str, Tensor], undo: ExitStack
    ) -> None:
        """Replace the tensors of the modules by their parts."""
        for name in (*tensors, *parts):
            if name not in self._slots:
                raise UserError(f"this network has no parameter or buffer {name!r}")
        found: dict[str, Tensor] = dict(parts)
        for name, cuts in prefix.cuts.items():
            if name not in found:
                home, table, key = self._slots[name][0]
                own = table[key]
                full = tensors.get(name, own)
                found[name] = part = cut(full, cuts)
                if full is own and home.training and table is home._buffers:
                    _write_back(own, part, cuts, undo)
        for name, full in tensors.items():
            found.setdefault(name, full)
        found.update(prefix.values)
        for name, part in found.items():
            for _, table, key in self._slots[name]:
                undo.callback(table.__setitem__, key, table[key])
                table[key] = part

    def _count(self, prefix: Prefix, undo: ExitStack) -> None:
        """Set the widths that are attributes of modules, and rewrite methods whose source contains a width."""
        for path in prefix.rewritten:
            undo.callback(setattr, self._modules[path], "__class__", type(self._modules[path]))
        rewrite_methods(self._modules, prefix.rewritten)
        for path in prefix.homes:
            module = self._modules[path]
            groups = prefix.attributes.get(path, {}).get("groups")
            for name, value in layer_widths(module, groups):
                _set(module, name, value, undo)
        for path, attributes in prefix.attributes.items():
            for name, value in attributes.items():
                _set(self._modules[path], name, value, undo)


def cut(tensor: Tensor, parts: Sequence[Part]) -> Tensor:
    """The kept part of ``tensor``: a view if the kept entries are contiguous, else a copy of the selected entries."""
    for part in parts:
        if part.positions is None:
            tensor = tensor.narrow(part.dim, 0, part.length)
        else:
            tensor = tensor.index_select(part.dim, part.positions)
    return tensor


def _write_back(own: Tensor, part: Tensor, cuts: Sequence[Part], undo: ExitStack) -> None:
    """Copy values that a forward pass writes into a selection (running statistics) back to the full tensor.

    Through ``data``: autograd does not track this change, as it does not track the update of running statistics.
    """
    index = cuts[0].positions
    if index is not None and own.is_floating_point():
        undo.callback(lambda: own.data.index_copy_(cuts[0].dim, index, part))


def _set(module: nn.Module, name: str, value: Any, undo: ExitStack) -> None:
    attribute = name.partition("[")[0]
    before = getattr(module, attribute)
    if before != value or attribute != name:
        undo.callback(setattr, module, attribute, before)
        set_integer(module, name, value)


class _Slot(NamedTuple):
    """A place where a module holds a tensor: an entry of its table of parameters or of buffers."""

    home: nn.Module
    table: dict[str, Any]
    key: str


def _slots(modules: Mapping[str, nn.Module]) -> dict[str, list[_Slot]]:
    """For each name of a tensor all places where modules hold that tensor."""
    places: dict[int, dict[tuple[int, str], _Slot]] = {}
    names: dict[str, int] = {}
    for path, module in modules.items():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    names[f"{path}.{key}" if path else key] = id(tensor)
                    slot = _Slot(module, cast(dict[str, Any], table), key)
                    places.setdefault(id(tensor), {})[id(table), key] = slot
    return {name: list(places[number].values()) for name, number in names.items()}
