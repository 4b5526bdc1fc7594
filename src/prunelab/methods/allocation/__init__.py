"""From scores and a budget to a plan: candidate widths, cost steps, feasibility."""

from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation
from prunelab.methods.allocation.from_scores import allocate
from prunelab.methods.allocation.scores import Scores

__all__ = ["Allocation", "Budget", "Scores", "allocate"]
