"""Ranks that decide together: what one rank learns, all learn, so that none is left waiting for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from prunelab.errors import UserError

Result = TypeVar("Result")


class RankFailure(UserError):
    """A rank could not go on, and all know."""


def world() -> tuple[int, int]:
    """(rank of this process, number of processes); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: Any) -> list[Any]:
    """The (picklable) values of all ranks, in the order of ranks, on every rank."""
    _, size = world()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def on_all_ranks(work: Callable[[], Result]) -> Result:
    """Do the same work on every rank; if it fails on one, fail on all of them instead of waiting for ever.

    Calls may nest: a failure is announced once, by the innermost call that sees it.

    Raises:
        RankFailure: the work failed on some rank (only with more than one process; else the error itself).
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
    """Do the work on rank 0 alone; every rank gets its (picklable) result, or fails if it failed."""
    result = on_all_ranks(lambda: work() if world()[0] == 0 else None)
    return gather(result)[0]


def require_same(value: Any, message: str) -> None:
    """Fail on every rank if the ranks hold different values.

    Raises:
        UserError: with ``message`` and which ranks differ from rank 0.
    """
    first, *others = gather(value)
    different = [rank for rank, other in enumerate(others, start=1) if other != first]
    if different:
        raise UserError(f"{message} (Different from rank 0: rank {', '.join(map(str, different))}.)")


def described(error: Exception) -> str:
    """What to tell the other ranks about an error."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _summary(failures: list[str | None]) -> str:
    ranks: dict[str, list[int]] = {}
    for rank, failure in enumerate(failures):
        if failure is not None:
            ranks.setdefault(failure, []).append(rank)
    if len(ranks) == 1 and None not in failures:
        return next(iter(ranks))
    return "; ".join(f"rank {', '.join(map(str, found))}: {failure}" for failure, found in ranks.items())
