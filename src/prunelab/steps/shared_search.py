"""Searches that runs share: one training and one search give the networks of several budgets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prunelab.distributed import held_by_rank_zero
from prunelab.distributed.messages import info
from prunelab.distributed.ranks import from_rank_zero
from prunelab.methods import LearningMethod
from prunelab.records.claim import Claim, claimed
from prunelab.steps.decision import RoundFolder
from prunelab.steps.setup import Setup

SEARCHES = "searches"
"""Folder of the searches that start from a baseline, inside that of the baseline."""


@contextmanager
def search_folder(setup: Setup, place: RoundFolder, rounds: int) -> Iterator[RoundFolder]:
    """The folder of the method's learning and search in a round: ``place``, or one that all budgets share.

    It is shared if the method declares that its work does not depend on the budget (``LearningMethod.any_budget``) and
    the recipe has one round. Then it is ``searches``/<key> in the folder of the baseline; the key is a digest of the
    settings of the method without its budget. One process at a time works in it, and continues where another one was
    interrupted; others wait. A latency budget has allowed widths of its own and is not shared.
    """
    method = setup.method
    if (
        not (isinstance(method, LearningMethod) and method.any_budget)
        or rounds > 1
        or setup.budget.resource == "latency"
    ):
        yield place
        return
    folder = setup.store.root / setup.baseline_key / SEARCHES / setup.search_key
    from_rank_zero(lambda: folder.mkdir(parents=True, exist_ok=True))
    what = f"the search {setup.search_key} of {setup.names['method']}"
    with held_by_rank_zero(lambda: claimed(folder, what), elsewhere=Claim(what)) as claim:
        info(f"The search is shared by runs with other budgets: {folder}")
        yield RoundFolder(folder / "1", claim.write)
