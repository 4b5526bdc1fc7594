"""``analyze``: finds the structure of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prunelab.errors import UserError
from prunelab.structure.additions import ResidualAddition, residual_additions
from prunelab.structure.blocks import IdentityPath, describe, find_blocks
from prunelab.structure.cost import cost_model
from prunelab.structure.cost_terms import Described
from prunelab.structure.equal_counts import Pair, joined, separated
from prunelab.structure.gathers import find_gathers
from prunelab.structure.graph import ChannelGraph
from prunelab.structure.groups import Partition, partition
from prunelab.structure.hook_points import find_hook_points
from prunelab.structure.network import Network
from prunelab.structure.proving.dropped_blocks import BlockTrials
from prunelab.structure.proving.proof import prove
from prunelab.structure.proving.remedies import Remedy
from prunelab.structure.proving.removal import Removal, removal
from prunelab.structure.proving.trials import Trials
from prunelab.structure.resolving import Resolver
from prunelab.structure.tracing.collector import without_collector
from prunelab.structure.tracing.evaluation import outside_inference_mode
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Trace, Visit
from prunelab.structure.tracing.outputs import Outputs, check_outputs
from prunelab.structure.training import InTraining, in_training, out_of_use
from prunelab.structure.wrappers import uncompiled


@outside_inference_mode()
def analyze(
    model: nn.Module,
    example_input: Any,
    *,
    exact: bool = False,
    cardinality: bool = False,
    outputs: Outputs | None = None,
) -> ChannelGraph:
    """Find everything that can be removed from ``model``.

    The network is run a few times on the meta device (on its own device if it cannot run there), in evaluation and in
    training mode, because auxiliary heads that run only in training mode also read channels. It is not changed
    (parameters, buffers, modes, random number generators). A network in ``torch.compile`` is analysed as it was
    written.

    Args:
        model: any network.
        example_input: the input of one forward call: a tensor (N, C, H, W), a tuple of positional or a dict of keyword
            arguments.
        exact: keep channels that pass a normalisation or softmax over channels (groups that are not
            ``ChannelGroup.exact``), so that every pruned network equals the masked one.
        cardinality: remove whole groups of a grouped convolution (and decrease ``groups``, its cardinality) instead of
            the same positions of every group. Where other layers tie all its groups, positions are removed as usual.
        outputs: which outputs of the network are used; the channels of all others may be removed where other layers
            read them. A name (of an entry or attribute), an index, several of them, or a function of what the network
            returns, such as ``lambda result: result.logits``. By default all. Where training mode returns something
            of another form, all of that is used.

    Raises UserError if the network cannot run on the input, is in a wrapper such as DataParallel, ``exact`` or
    ``cardinality`` is not a boolean, or the network has no such output.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> structure = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
        >>> [(group.name, group.size, group.level) for group in structure.groups]
        [('0', 8, 'filter')]
    """
    for name, value in (("exact", exact), ("cardinality", cardinality)):
        if not isinstance(value, bool):
            raise UserError(f"{name}={value} is neither true nor false.")
    check_outputs(outputs)
    with without_collector(), uncompiled(model) as plain:
        return _analyzed(Network(plain, example_input, exact, cardinality, outputs), exact)


def _analyzed(network: Network, exact: bool) -> ChannelGraph:
    trace = network.trace()
    training = in_training(network, trace)
    remedies: tuple[Remedy, ...] = ()
    pairs: tuple[Pair, ...] = ()
    equal: tuple[Pair, ...] | None = None
    while equal is None or equal:
        components, parts, pairs = _candidates(trace, training, (*pairs, *(equal or ())), exact)
        parts, remedies, equal = _proved(network, trace, training, components, parts, remedies)
    visits = find_blocks(trace)
    runs = [(network, trace), *([(training.network, training.trace)] if training.trace is not None else [])]
    trials = BlockTrials(runs, _trial_removal(network, trace, components, parts), remedies)
    failing = trials.failing(visits)
    offered = [(visit, path) for visit, path in visits if visit.module not in failing]
    additions = residual_additions(trace, visits, failing)
    found = _Found(network, trace, training, components, remedies, offered, additions)
    graph = _graph(found, parts)
    if not any(group.members for group in graph.groups):
        return graph
    return replace(graph, _separate=_graph(found, separated(parts)))


@dataclass(frozen=True)
class _Found:
    """What an analysis has found besides groups: remedies, blocks that can be dropped, additions."""

    network: Network
    trace: Trace
    training: InTraining
    components: Components
    remedies: tuple[Remedy, ...]
    offered: list[tuple[Visit, IdentityPath]]
    additions: tuple[ResidualAddition, ...]


def _graph(found: _Found, parts: Partition) -> ChannelGraph:
    """The structure with the groups of ``parts``."""
    network, trace, components = found.network, found.trace, found.components
    prunable = [number for number, group in enumerate(parts.groups) if group.frozen is None]
    members = [parts.members[number] for number in prunable]
    hook_points = find_hook_points(trace, components, members)
    gathers = find_gathers(trace, components, members)
    groups = tuple(
        replace(parts.groups[n], hook_points=hook_points[i], gathers=gathers[i])
        for i, n in enumerate(prunable)
    )
    group_of = np.full(components.count, -1, dtype=np.int64)
    for number, channels in enumerate(members):
        group_of[channels] = number
    names = [group.name for group in groups]
    tensors_of = [{part.parameter for part in group.slices} for group in groups]
    blocks = describe(trace, components, found.offered, group_of, names, tensors_of)
    cost = cost_model(
        trace,
        components,
        group_of,
        Described(
            names,
            [group.size for group in groups],
            [(block.name, block.parent) for block in blocks],
            network.parameter_shapes(),
            network.aliases(),
            network.kinds(),
            network.images,
        ),
    )
    frozen = tuple(group for group in parts.groups if group.frozen is not None)
    resolve = Resolver(
        trace, components, groups, tuple(members), blocks, found.remedies, network.aliases(), network.grouped
    )
    met = trace.met() | found.training.met
    unused = tuple(name for name in network.parameter_shapes() if name not in met)
    failure = found.training.failure
    return ChannelGraph(groups, frozen, blocks, cost, resolve, unused, found.additions, failure)


def _candidates(
    trace: Trace, training: InTraining, pairs: tuple[Pair, ...], exact: bool
) -> tuple[Components, Partition, tuple[Pair, ...]]:
    """The channels, their groups and the ``pairs`` that join groups; the channels of other pairs are tied.

    Unused groups are frozen, and with ``exact`` also those that are not exact.
    """
    while True:
        components = trace.ids.components()
        parts, unfit = joined(partition(trace, components), components, pairs)
        if not unfit:
            break
        for first, second in unfit:
            trace.ids.tie(first, second)
        pairs = tuple(pair for pair in pairs if not any(pair is other for other in unfit))
    if exact:
        not_exact = {
            number: f"not exact: {group.inexact}"
            for number, group in enumerate(parts.groups)
            if not group.exact
        }
        parts = parts.freezing(not_exact)
    return components, parts.freezing(out_of_use(trace, training, components, parts)), pairs


def _proved(
    network: Network,
    trace: Trace,
    training: InTraining,
    components: Components,
    parts: Partition,
    remedies: tuple[Remedy, ...],
) -> tuple[Partition, tuple[Remedy, ...], tuple[Pair, ...]]:
    """Freeze the groups that fail in a trial, and find the attributes and hard-coded widths to adapt for the others.

    Ends early, with pairs of channels, if these have to be tied first."""
    runs = [(network, trace), *training.to_prove(trace)]
    pending = list(runs)
    while pending:
        mode, traced = run = pending.pop(0)
        resolver = _resolver(network, trace, components, parts)
        found = prove(mode, traced, components, parts, resolver.for_trials, remedies)
        if found.equal:
            for _, each in runs:  # the next proof starts from groups that are not marked yet
                each.scaled.clear()
            return parts, found.remedies, found.equal
        parts = parts.freezing(found.broken).marking_inexact(found.inexact)
        if len(found.remedies) > len(remedies):  # a remedy for one mode may fail in the other
            remedies, pending = found.remedies, [other for other in runs if other is not run]
    return parts, remedies, ()


def _trial_removal(network: Network, trace: Trace, components: Components, parts: Partition) -> Removal:
    """A trial that removes a part of every group that is not frozen."""
    chosen = [(number, group) for number, group in enumerate(parts.groups) if group.frozen is None]
    trials = Trials(trace, chosen)
    removed = {number: trials.removed(0, number, group.size) for number, group in chosen}
    return removal(components, parts, _resolver(network, trace, components, parts).for_trials, removed)


def _resolver(network: Network, trace: Trace, components: Components, parts: Partition) -> Resolver:
    """The resolver of all groups that are not frozen."""
    chosen = [number for number, group in enumerate(parts.groups) if group.frozen is None]
    groups = tuple(parts.groups[number] for number in chosen)
    members = tuple(parts.members[number] for number in chosen)
    return Resolver(trace, components, groups, members, (), (), network.aliases(), network.grouped)
