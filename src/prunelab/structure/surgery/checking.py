"""``check``: does the pruned network compute what the masked full network computes?"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.structure.network import arguments
from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery.apply import named_tensors
from prunelab.structure.surgery.discontinuous import Record, Recording, Repeating
from prunelab.structure.surgery.masking import Watch, masked_run
from prunelab.structure.surgery.precision import copied, double_precision
from prunelab.structure.surgery.temporary import call_with
from prunelab.structure.tracing.calls import Calls, following
from prunelab.structure.tracing.evaluation import (
    evaluation_mode,
    outside_inference_mode,
    same_random_numbers,
    without_autocast,
)
from prunelab.structure.tracing.outputs import Outputs, selected, tensors_in
from prunelab.structure.wrappers import uncompiled


@outside_inference_mode()
@without_autocast()
def check(
    original: nn.Module,
    pruned: nn.Module,
    plan: PruningPlan,
    images: Any,
    outputs: Outputs | None = None,
) -> float:
    """The largest difference between the masked ``original`` and ``pruned``, relative to the largest value.

    The outputs and the inputs of discontinuous operators (a sort, a comparison, the suppression of boxes) are compared.
    At these operators the pruned run repeats the decisions of the masked one, so that two equal scores whose order
    changes by rounding are not a difference. Both runs draw the same random numbers.

    Args:
        original: the full network.
        pruned: a copy of it after ``apply(..., plan)``.
        plan: what was removed.
        images: one batch, or a tuple of positional or a dict of keyword arguments.
        outputs: the outputs that are compared, as for ``analyze``.

    Returns:
        1e-6 or less for exact groups; see ``ChannelGroup.exact`` for those that cannot be. Both networks run in
        evaluation mode and in float64, also where they name another type. Where float64 is not possible (a device or an
        operator without it), they run in their own precision, and 1e-4 (float32) or 1e-1 (16 bits) is to be expected.
        ``inf`` where shapes differ or an output is not finite.

    Example::

        pruned = prunelab.apply(copy.deepcopy(model), plan)
        assert prunelab.check(model, pruned, plan, images) < 1e-6

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> images = torch.randn(2, 3, 8, 8)
        >>> plan = prunelab.analyze(network, images).plan(kept={"0": [0, 2, 5]})
        >>> pruned = prunelab.apply(copy.deepcopy(network), plan)
        >>> prunelab.check(network, pruned, plan, images) < 1e-5
        True
    """
    try:
        return _difference_of_runs(original, pruned, plan, images, outputs, double=True)
    except Exception as in_double:
        try:
            return _difference_of_runs(original, pruned, plan, images, outputs, double=False)
        except Exception as error:
            raise in_double from error


def _difference_of_runs(
    original: nn.Module,
    pruned: nn.Module,
    plan: PruningPlan,
    images: Any,
    outputs: Outputs | None,
    double: bool,
) -> float:
    record = Record()

    def floating(returned: Any) -> list[Tensor]:
        chosen = returned if outputs is None else selected(returned, outputs)
        # Without a block, an output may be returned twice as the same tensor.
        return [value for value in tensors_in(chosen, repeated=True) if value.is_floating_point()]

    watch: Watch = lambda calls: Recording(calls, record)  # noqa: E731
    with same_random_numbers():
        masked = floating(masked_run(original, plan, images, double, watch, outputs))
    with same_random_numbers():
        returned, differences = _pruned_run(pruned, images, double, record)
    found = floating(returned)
    if [value.shape for value in masked] != [value.shape for value in found]:
        return float("inf")
    differences.extend(difference(*pair) for pair in zip(masked, found, strict=True))
    return max(differences, default=0.0)


def _pruned_run(pruned: nn.Module, images: Any, double: bool, record: Record) -> tuple[Any, list[float]]:
    """The output of ``pruned``, and the differences at discontinuous operators."""
    with uncompiled(pruned) as network:
        return _outputs(network, images, double, record)


def _outputs(pruned: nn.Module, images: Any, double: bool, record: Record) -> tuple[Any, list[float]]:
    args, kwargs = arguments(copied(images, double))
    tensors = copied(named_tensors(pruned), double)
    calls = Calls(lambda call, out: None)
    repeating = Repeating(calls, record, difference)
    with (
        evaluation_mode(pruned),
        torch.no_grad(),
        following(pruned, calls),
        calls,
        repeating,
        double_precision() if double else nullcontext(),
    ):
        out = call_with(pruned, tensors, args, kwargs)
    return out, repeating.differences


def difference(expected: Tensor, found: Tensor, least_scale: float = 0.0) -> float:
    """The largest difference between two tensors of one shape, relative to the largest finite value of ``expected``
    (at least ``least_scale``). Equal infinite values do not differ; NaN differs from everything."""
    unequal = expected != found
    if not bool(unequal.any()):
        return 0.0
    gap = (expected - found)[unequal].abs()
    if not bool(gap.isfinite().all()):
        return float("inf")
    finite = expected[expected.isfinite()].abs()
    scale = max(float(finite.max()) if finite.numel() else 0.0, least_scale) or 1.0
    return float(gap.max()) / scale
