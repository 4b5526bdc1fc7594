"""Collective helpers: results, failures and decisions that are the same on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from prunelab.errors import UserError

Result = TypeVar("Result")


class RankFailure(UserError):
    """Work failed on at least one rank. Raised on every rank."""


def world() -> tuple[int, int]:
    """(rank of this process, number of processes); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: Any) -> list[Any]:
    """The values of all ranks in the order of ranks, on every rank (all-gather). Values must be picklable."""
    _, size = world()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(tensor: Tensor) -> None:
    """Replace ``tensor``, in place, by its sum over all ranks."""
    if world()[1] > 1:
        dist.all_reduce(tensor)


def on_all_ranks(work: Callable[[], Result]) -> Result:
    """Call ``work`` on every rank; if it raises on one rank, raise on all, so that no rank waits for another one.

    ``work`` must not contain collective operations (see ``fail_on_all_ranks``), except nested calls of this function:
    the innermost call reports a failure, the outer ones pass it on.

    Raises:
        RankFailure: ``work`` failed on some rank. With one process the original exception is raised instead.
    """
    if world()[1] == 1:
        return work()
    error: Exception | None = None
    try:
        result = work()
    except RankFailure:
        raise
    except Exception as caught:
        error = caught
    failures = gather(None if error is None else described(error))
    if any(failures):
        raise RankFailure(_summary(failures)) from error
    return result


def from_rank_zero(work: Callable[[], Result]) -> Result:
    """Call ``work`` on rank zero only; every rank returns its picklable result, or raises RankFailure."""
    result = on_all_ranks(lambda: work() if world()[0] == 0 else None)
    return gather(result)[0]


def require_same(value: Any, message: str) -> None:
    """Check on every rank that all ranks hold the same value.

    Raises:
        UserError: ``message``, and the ranks whose value differs from that of rank zero.
    """
    first, *others = gather(value)
    different = [rank for rank, other in enumerate(others, start=1) if other != first]
    if different:
        raise UserError(f"{message} (Different from rank 0: rank {', '.join(map(str, different))}.)")


def described(error: Exception) -> str:
    """The text of an error as the other ranks show it."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _summary(failures: list[str | None]) -> str:
    """One message for the failures of all ranks: a failure that all ranks share is not prefixed with ranks."""
    ranks: dict[str, list[int]] = {}
    for rank, failure in enumerate(failures):
        if failure is not None:
            ranks.setdefault(failure, []).append(rank)
    if len(ranks) == 1 and None not in failures:
        return next(iter(ranks))
    return "; ".join(f"rank {', '.join(map(str, found))}: {failure}" for failure, found in ranks.items())
