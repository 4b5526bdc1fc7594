"""The plan file of a callback: a restarted program reads its plan instead of deciding again."""

from __future__ import annotations

from pathlib import Path

from prunelab.errors import UserError
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.step_search import allowed_cost, cost_function, full_cost
from prunelab.records.atomic import write_atomically
from prunelab.structure import ChannelGraph, PruningPlan


def read_plan(path: Path) -> PruningPlan | None:
    """The plan in a file, or None if there is no such file.

    Raises:
        UserError: the file cannot be read or contains no plan.
    """
    try:
        return PruningPlan.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"Plan file {path} cannot be used: {error}. Delete it to decide again.") from error


def write_plan(plan: PruningPlan, path: Path) -> None:
    """Write a plan atomically.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, plan.to_json())
    except OSError as error:
        raise UserError(f"Plan file {path} cannot be written: {error}.") from error


def require_fit(plan: PruningPlan, path: Path, graph: ChannelGraph, budget: Budget) -> None:
    """Check that a stored plan was made for this network and that it meets the budget.

    Raises:
        UserError: it does not; the remedy is to delete the file.
    """
    if {name: before for name, (before, _) in plan.widths.items()} != {g.name: g.size for g in graph.groups}:
        raise UserError(f"Plan file {path} was made for another network. Delete it to decide again.")
    cost = float(cost_function(graph, budget.resource)(plan))
    if cost > allowed_cost(graph, budget):
        kept = cost / full_cost(graph, budget.resource)
        raise UserError(
            f"Plan file {path} keeps {kept:.4g} of the {budget.resource}, more than {budget}. "
            "Delete it to decide again."
        )
