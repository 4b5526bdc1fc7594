"""Everything the benchmark does with one network, and the same 30 % with torch-pruning."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from family_member import TRUSTED, call, chosen, floating, lively, remove, round_trip
from listed.entry import Entry
from torch import Tensor, nn

import prunelab

RATIO = 0.3
_CONTRACTIONS = ("ConvolutionBackward", "AddmmBackward", "MmBackward", "BmmBackward")


def trial(entry: Entry) -> Iterator[dict[str, Any]]:
    """The parts of a network's row, each when it is known; ``step`` names what is done next."""
    yield {"step": "build"}
    torch.manual_seed(0)
    inputs = entry.inputs(entry.size)
    model = entry.build().eval()
    lively(model, lambda: call(model, inputs))
    yield {"parameters": _parameters(model), "step": "analyse and remove 30 %"}
    found, pruned, structure = remove(model, inputs, inputs, exact=False)
    yield found | {"blocked": _blocked(structure), "step": "forward"}
    with torch.no_grad():
        yield {"forward": _fits(call(model, inputs), call(pruned, inputs))}
    yield {"step": "save and load"}
    yield {"save_and_load": round_trip(pruned, inputs, copy.deepcopy(model)), "step": "training step"}
    yield {"training_step": _or_full(_trains, entry, pruned, model), "step": "other input size"}
    if entry.other is not None:
        yield {"other_size": _or_full(_runs_on_other_size, entry, pruned, model)}
    yield {"step": "blocks dropped"}
    if structure.blocks:
        yield {"error_blocks_dropped": _without_blocks(model, structure, inputs)}
    yield {"step": None}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _blocked(structure: prunelab.ChannelGraph) -> dict[str, int]:
    """Why residual additions are no blocks that can be dropped."""
    return dict(Counter(found.reason for found in structure.additions if found.reason is not None))


def _fits(full: Any, pruned: Any) -> str:
    """Whether the outputs of both have the same shapes and finite values.

    The number of detected boxes depends on the values, so that only the shape of one box has to be the same.
    """
    expected, found = floating(full), floating(pruned)
    if [value.shape[1:] for value in expected] != [value.shape[1:] for value in found]:
        return "other shapes"
    if not all(bool(value.isfinite().all()) for value in found):
        finite = all(bool(value.isfinite().all()) for value in expected)
        return "not finite" if finite else "not finite, as the full network"
    return "ok"


def _or_full(work: Any, entry: Entry, pruned: nn.Module, full: nn.Module) -> str:
    """ "ok", or what failed for the pruned network, and whether the full network fails too."""
    try:
        work(entry, copy.deepcopy(pruned))
    except Exception as error:  # what fails, and how, is a result of the benchmark
        reason = described(error)
        try:
            work(entry, copy.deepcopy(full))
        except Exception as also:
            return f"the full network fails: {described(also)}"
        return reason
    return "ok"


def _trains(entry: Entry, model: nn.Module) -> None:
    """A step of SGD on the sum of the outputs' means, or of the losses that the network computes itself."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    outputs = floating(call(model, entry.training_inputs(entry.inputs(entry.size))))
    loss = sum(value.abs().mean() for value in outputs if value.requires_grad)
    if not isinstance(loss, Tensor):
        raise ValueError("no output has a gradient")
    loss.backward()
    optimizer.step()


def _runs_on_other_size(entry: Entry, model: nn.Module) -> None:
    with torch.no_grad():
        call(model.eval(), entry.inputs(entry.other or entry.size))


def _without_blocks(model: nn.Module, structure: prunelab.ChannelGraph, inputs: Any) -> float:
    """All blocks dropped and 30 % of each exact group removed: the difference to the masked network."""
    exact = {group.name for group in structure.groups if group.exact}
    kept = {name: channels for name, channels in chosen(structure).items() if name in exact}
    plan = structure.plan(kept, [block.name for block in structure.blocks])
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    return prunelab.check(model, pruned, plan, inputs)


def described(error: BaseException) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def verdict(row: dict[str, Any]) -> str:
    """ "right", or what is wrong with the pruned network."""
    if "error" in row and isinstance(row["error"], str):
        return f"{row['step']}: {row['error']}"
    wrong = [
        f"{key}: {row[key]}"
        for key in ("forward", "training_step", "other_size")
        if key in row and row[key] != "ok" and "full network" not in row[key]
    ]
    if not row["save_and_load"]:
        wrong.append("save and load: other outputs")
    wrong += [
        f"{key}: {row[key]:.0e}"
        for key in ("error_exact_groups", "error_blocks_dropped")
        if not row.get(key, 0.0) < TRUSTED
    ]
    return "; ".join(wrong) or "right"


def with_torch_pruning(entry: Entry) -> Iterator[dict[str, Any]]:
    """The same with torch-pruning: 30 % of every group, L2 norm. The layers that make the outputs are excluded."""
    import torch_pruning

    yield {"step": "build"}
    torch.manual_seed(0)
    inputs = entry.inputs(entry.size)
    model = entry.build().eval()
    before, full = _parameters(model), call(model, inputs)
    yield {"step": "prune"}
    example = inputs if isinstance(inputs, Tensor | dict) else list(inputs)
    torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=_last_layers(model, floating(full)),
        output_transform=lambda returned: [value for value in floating(returned) if value.requires_grad],
    ).step()
    yield {"params_kept": _parameters(model) / before, "step": "forward"}
    with torch.no_grad():
        yield {"forward": _fits(full, call(model, inputs)), "step": None}


def _last_layers(model: nn.Module, outputs: list[Tensor]) -> list[nn.Module]:
    """The modules whose weights make the outputs: the nearest contraction on each path backwards."""
    pending = [value.grad_fn for value in outputs if value.grad_fn is not None]
    seen, weights = set(pending), set()
    while pending:
        node = pending.pop()
        parents = {parent for parent, _ in node.next_functions if parent is not None}
        if node.name().startswith(_CONTRACTIONS):
            weights |= {id(found) for found in _leaves(parents)}
        else:
            pending.extend(parents - seen)
            seen |= parents
    return [
        module
        for module in model.modules()
        if any(id(parameter) in weights for parameter in module.parameters(recurse=False))
    ]


def _leaves(nodes: set[Any]) -> list[Tensor]:
    """The parameters that are operands, also transposed ones."""
    found = []
    for node in nodes:
        below = [node, *(parent for parent, _ in node.next_functions if parent is not None)]
        found += [each.variable for each in below[: 2 if node.name() in ("TBackward0", "TransposeBackward0") else 1]
                  if hasattr(each, "variable")]  # fmt: skip
    return found
