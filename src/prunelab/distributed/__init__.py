"""The processes of one run: torch.distributed helpers, process start, and failure handling."""

from prunelab.distributed.failures import fail_on_all_ranks
from prunelab.distributed.processes import held_by_rank_zero, is_rank_zero, start_processes, takes_part
from prunelab.distributed.ranks import from_rank_zero, gather, on_all_ranks, require_same, world

__all__ = [
    "fail_on_all_ranks",
    "from_rank_zero",
    "gather",
    "held_by_rank_zero",
    "is_rank_zero",
    "on_all_ranks",
    "require_same",
    "start_processes",
    "takes_part",
    "world",
]
